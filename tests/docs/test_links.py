"""Every relative link leads somewhere, and every test that a page names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, RECORDS, ROOT, Link, anchors, links, name_of

TEST_NAME = re.compile(r"`?(test_\w+)`?")


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def problem(link: Link) -> str | None:
    """What is wrong with a link."""
    if link.leads_outside:
        return None
    if not link.path.exists():
        return f"{link.where} leads nowhere"
    if link.anchor and link.path.suffix == ".md" and link.anchor not in anchors(link.path):
        return f"{link.where}: no heading of that page has this anchor"
    if "tests" in link.path.parts and link.path.suffix == ".py":
        named = TEST_NAME.fullmatch(link.text)
        if named is None:
            return f"{link.where}: a link to a test names the test"
        if named[1] not in functions_in(link.path):
            return f"{link.where} has no test {named[1]!r} any more; link the test that took its place"
    return None


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [text for link in links(page) if (text := problem(link))] == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached = {link.path for link in links(index) if not link.leads_outside}
    documents = {page for page in PAGES if "docs" in page.relative_to(ROOT).parts} - {index}
    assert documents - reached == set()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a page", "nowhere.md"),
        ("a heading", "pages.py#nothing"),
        ("`test_that_never_was`", "test_links.py"),
        ("a test", "test_links.py"),
    ],
)
def test_a_wrong_link_is_found(text: str, target: str) -> None:
    page = Path(__file__) if "#" not in target else ROOT / "README.md"
    target = target if "#" not in target else "#nothing"
    assert problem(Link(page, 1, text, target)) is not None


@pytest.mark.parametrize(("page", "letter", "count"), [("guarantees", "I", 15), ("anomalies", "A", 40)])
def test_none_is_left_out(page: str, letter: str, count: int) -> None:
    text = (ROOT / "docs" / "explanation" / f"{page}.md").read_text("utf-8")
    rows = re.findall(rf"^\| (?:\*\*)?({letter}\d+)\b", text, re.MULTILINE)
    assert rows == [f"{letter}{number}" for number in range(1, count + 1)]
