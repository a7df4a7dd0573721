"""The reference says what the code says."""

import inspect
import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from kafkasaga import Settings
from kafkasaga.messages import Envelope, Mark, Operation, SagaContext
from kafkasaga.messages.envelope import write_headers
from kafkasaga.runtime.runner import ROLES
from kafkasaga.saga import definition, lint, lint_functions
from tests.docs.pages import PAGES, ROOT, name_of
from tests.docs.reference import COMMAND, GENERATED, generated, rules, sections

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("page", [page for page in PAGES if sections(page)], ids=name_of)
def test_a_generated_section_is_what_the_code_says(page: Path) -> None:
    assert page.read_text("utf-8") == generated(page), f"{name_of(page)} is not up to date; run: {COMMAND}"


def test_everything_that_can_be_generated_is_on_some_page() -> None:
    assert {name for page in PAGES for name in sections(page)} == set(GENERATED)


def test_every_setting_is_listed_with_a_word_about_it() -> None:
    text = (REFERENCE / "settings.md").read_text("utf-8")
    for name in Settings.model_fields:
        row = re.search(rf"^\| `KAFKASAGA_{name.upper()}` \|.*\| (.+) \|$", text, re.MULTILINE)
        assert row is not None, f"{name} is missing"
        assert len(row[1]) > 10, f"{name} has no description: give the field a docstring"


def test_every_lint_rule_is_listed() -> None:
    named = set(re.findall(r"KS\d{3}", "".join(map(inspect.getsource, (lint, lint_functions, definition)))))
    listed = set(re.findall(r"^\| (KS\d{3}) \|", (REFERENCE / "lint-rules.md").read_text("utf-8"), re.MULTILINE))
    assert listed == named == set(rules())


def test_every_header_is_listed() -> None:
    id = UUID(int=1)
    saga = SagaContext("saga", id, "step", 0, Operation.ACTION, command_id=id, failures=("no",), mark=Mark.EMPTY)
    envelope = Envelope(
        "topic", "key", id, "source", "type", datetime(2026, 1, 1, tzinfo=UTC), b"", saga=saga, traceparent="t"
    )
    text = (REFERENCE / "headers.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z_-]+)` \|", text, re.MULTILINE)) == set(write_headers(envelope))
    assert all(f"`{mark.value}`" in text for mark in Mark)


def test_every_role_is_explained() -> None:
    text = (ROOT / "docs" / "how-to" / "deploy.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| \w+ \w+", text, re.MULTILINE)) >= set(ROLES)


def test_the_words_of_the_glossary_are_told_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (REFERENCE / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(words) == len(set(words)) > 20
