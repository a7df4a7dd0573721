"""The list of protecting lines cannot rot: what it takes out is there, once, and so are the tests that must see it."""

import ast
from collections import Counter

import pytest

from tests.mutations.catalogue import NAMES, ROOT, Mutation, about, catalogue
from tests.mutations.trial import occurs_once


@pytest.mark.parametrize("mutation", catalogue(), ids=lambda mutation: mutation.id)
def test_what_is_taken_out_is_there_once(mutation: Mutation) -> None:
    for edit in mutation.edits:
        assert occurs_once(edit), f"{edit.file} has changed: find the line anew, in tests/mutations/*.toml\n{edit.old}"
        assert edit.new != edit.old


@pytest.mark.parametrize("mutation", catalogue(), ids=lambda mutation: mutation.id)
def test_the_test_that_must_see_it_is_there(mutation: Mutation) -> None:
    tree = ast.parse((ROOT / mutation.test_file).read_text("utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert mutation.test_name in names, f"{mutation.test_file} has no {mutation.test_name!r} any more"


@pytest.mark.parametrize("mutation", catalogue(), ids=lambda mutation: mutation.id)
def test_what_is_left_is_python(mutation: Mutation) -> None:
    texts = {edit.file: (ROOT / edit.file).read_text("utf-8") for edit in mutation.edits}
    for edit in mutation.edits:
        texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
    for file, text in texts.items():
        compile(text, file, "exec")


def test_each_anomaly_and_each_invariant_has_a_line() -> None:
    assert [name for name in NAMES if not about((name,))] == []


def test_no_two_have_one_name() -> None:
    assert [id for id, count in Counter(mutation.id for mutation in catalogue()).items() if count > 1] == []
