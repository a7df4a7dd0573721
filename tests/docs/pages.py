"""The documentation as data: its pages, their code blocks, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "adr" not in page.parts)],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
"""Everything that is written for readers; decision records are linked to, and their own links are checked too."""
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))

_FENCE = re.compile(r"^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
_NOT_EXECUTED = re.compile(r"^<!-- not executed(: .+)? -->$")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<words>.+)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """The line of its first line of text, from 1."""
    language: str
    title: str | None
    """The file that it is the text of."""
    text: str
    executed: bool
    """False behind ``<!-- not executed -->``."""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Link:
    """A link of a page."""

    page: Path
    line: int
    text: str
    target: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.target}"

    @property
    def path(self) -> Path:
        """The file that a relative link leads to."""
        name = self.target.partition("#")[0]
        return (self.page.parent / name).resolve() if name else self.page

    @property
    def anchor(self) -> str:
        return self.target.partition("#")[2]

    @property
    def leads_outside(self) -> bool:
        return "://" in self.target or self.target.startswith("mailto:")


def name_of(page: Path) -> str:
    """A page, as a test's parameter is called."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block, in order."""
    lines = page.read_text("utf-8").splitlines()
    executed, number = True, 0
    while number < len(lines):
        line = lines[number]
        if opening := _FENCE.match(line):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            text = "\n".join(lines[number + 1 : end]) + "\n"
            yield Block(page, number + 2, opening["language"], opening["title"], text, executed)
            executed, number = True, end
        elif line.strip():
            executed = not _NOT_EXECUTED.match(line.strip())
        number += 1


def links(page: Path) -> Iterator[Link]:
    """Every link outside of code."""
    for number, line in prose(page):
        for found in _LINK.finditer(line):
            yield Link(page, number, found["text"], found["target"])


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = (_HEADING.match(line) for _, line in prose(page))
    return {_anchor(found["words"]) for found in headings if found}


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of fenced blocks."""
    inside = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def _anchor(words: str) -> str:
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
