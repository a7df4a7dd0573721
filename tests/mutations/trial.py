"""Taking a line out of a copy of the tree, and running a test there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.mutations.catalogue import ROOT, Edit, Mutation

COPIED: Final = ("src", "tests", "examples", "benchmarks", "docs", "pyproject.toml", "README.md")
PASSED, FAILED = 0, 1
"""What pytest returns; anything else says that the test was not run."""


class Verdict(StrEnum):
    """What became of a mutation."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    STALE = "STALE: its text is not there once"
    BROKEN = "BROKEN: the test did not run"


class Copy:
    """A copy of the tree. Mutations are made there, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def test(self, tests: Sequence[str]) -> tuple[int, str]:
        """Run tests; pytest's exit code, and what it said. A tier that the machine lacks is a failure."""
        paths = os.pathsep.join([str(self._folder / "src"), str(self._folder)])
        # No bytecode: two texts of one length, written within a second, would be taken for the same.
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "KAFKASAGA_REQUIRE": "all"}
        options = ["-q", "-x", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return run.returncode, run.stdout + run.stderr

    def try_out(self, mutation: Mutation) -> tuple[Verdict, str]:
        """Run a mutation's test without its line."""
        if not all(occurs_once(edit, self._folder) for edit in mutation.edits):
            return Verdict.STALE, ""
        with self._without(mutation.edits):
            code, said = self.test([mutation.test])
        verdict = {PASSED: Verdict.SURVIVED, FAILED: Verdict.CAUGHT}.get(code, Verdict.BROKEN)
        return verdict, said

    @contextmanager
    def _without(self, edits: Sequence[Edit]) -> Generator[None]:
        before: dict[Path, str] = {}
        try:
            for edit in edits:
                file = self._folder / edit.file
                text = file.read_text("utf-8")
                before.setdefault(file, text)
                file.write_text(text.replace(edit.old, edit.new), "utf-8")
            yield
        finally:
            for file, text in before.items():
                file.write_text(text, "utf-8")


def occurs_once(edit: Edit, root: Path = ROOT) -> bool:
    """Whether the text that is to be changed is there, and meant without doubt."""
    return (root / edit.file).read_text("utf-8").count(edit.old) == 1
