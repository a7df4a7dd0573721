"""What is taken out, and which test must see it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parent.parent
NAMES: Final = tuple(f"{letter}{number}" for letter, most in (("A", 40), ("I", 15)) for number in range(1, most + 1))
"""The anomalies and the invariants."""


@dataclass(frozen=True)
class Edit:
    """A piece of a file, and what is there instead when the line is out."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A line that protects something."""

    id: str
    of: tuple[str, ...]
    """The anomalies and invariants that it is about."""
    line: str
    """What it does, in words."""
    edits: tuple[Edit, ...]
    test: str
    """The test that fails without it, as pytest names it."""

    @property
    def test_file(self) -> str:
        return self.test.partition("::")[0]

    @property
    def test_name(self) -> str:
        return re.sub(r"\[.*", "", self.test.rpartition("::")[2])


@cache
def catalogue() -> tuple[Mutation, ...]:
    """All of them, by file and place."""
    tables = (
        (file.stem, table) for file in sorted(FOLDER.glob("*.toml")) for table in tomllib.loads(_text(file))["line"]
    )
    return tuple(_mutation(stem, table) for stem, table in tables)


def about(names: tuple[str, ...]) -> tuple[Mutation, ...]:
    """Those of these anomalies, invariants or ids; all, if none are named."""
    wanted = {name.upper() for name in names}
    return tuple(m for m in catalogue() if not wanted or wanted & {m.id.upper(), *m.of})


def _mutation(stem: str, table: dict[str, Any]) -> Mutation:
    edits = table.get("edits") or [table]
    return Mutation(
        id=f"{stem}/{table['id']}",
        of=tuple(table["of"]),
        line=table["line"],
        edits=tuple(
            Edit(edit.get("file") or table["file"], edit["old"].strip("\n"), edit["new"].strip("\n")) for edit in edits
        ),
        test=table["test"],
    )


def _text(file: Path) -> str:
    return file.read_text("utf-8")
