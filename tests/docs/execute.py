"""Running a page as a reader would: from top to bottom, in one empty folder.

- A block with a ``title`` is a file: it is written, not run.
- ``python`` without one is run; the blocks of a page share their names, and test functions among them are called.
- ``bash`` is run in the folder; what it exports holds for the blocks after it.
- ``text`` or ``mermaid`` right behind a block that was run is what that block prints. A line ``…`` stands for any
  lines, ``…`` within a line for any text; numbers of spaces, ids and times may differ.
- ``<!-- not executed -->`` above a block leaves it out, and everything that it would print.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tests.docs.pages import ROOT, Block, blocks

SHOWN = ("text", "mermaid")
_COMMAND_SECONDS = 60


class Reader:
    """Somebody who follows one page in one folder."""

    def __init__(self, page: Path, folder: Path, tools: Path) -> None:
        self._page, self._folder, self._tools = page, folder, tools
        self._names = ModuleType(f"page_{page.stem.replace('-', '_')}")
        self._exports = tools / "exports"

    def follow(self) -> int:
        """Do what the page says; returns how many blocks were run or written."""
        sys.modules[self._names.__name__] = self._names
        printed: str | None = None
        count = 0
        try:
            for block in blocks(self._page):
                if block.language in SHOWN and printed is not None and block.executed:
                    compare(block, printed)
                printed = None
                if block.executed and (block.title or block.language in ("python", "bash")):
                    printed = self._do(block)
                    count += 1
        finally:
            del sys.modules[self._names.__name__]
        return count

    def _do(self, block: Block) -> str | None:
        if block.title is not None:
            file = self._folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, "utf-8")
            return None
        return self._command(block) if block.language == "bash" else self._code(block)

    def _code(self, block: Block) -> str:
        before = set(vars(self._names))
        # The line numbers of a traceback are those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, vars(self._names))  # noqa: S102 (that is the point)
            for name in [name for name in vars(self._names) if name not in before and name.startswith("test_")]:
                function = getattr(self._names, name)
                if not inspect.signature(function).parameters:
                    function()
        return out.getvalue()

    def _command(self, block: Block) -> str:
        script = f"[ ! -f '{self._exports}' ] || . '{self._exports}'\nset -euo pipefail\n{block.text}\n"
        done = subprocess.run(
            ["bash", "-c", f"{script}export -p > '{self._exports}'"],
            cwd=self._folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.where}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKASAGA_", "PYTEST_"))}
        path = os.pathsep.join([str(self._tools), str(Path(sys.executable).parent), kept.get("PATH", "")])
        return {**kept, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", "COLUMNS": "120"}


def make_tools(folder: Path) -> Path:
    """A folder for PATH, whose ``kafkasaga`` is the one under test, installed or not."""
    folder.mkdir()
    command = folder / "kafkasaga"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kafkasaga "$@"\n', "utf-8")
    command.chmod(0o755)
    return folder


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Forget, at the end, what was imported from ``folder``."""
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def compare(shown: Block, printed: str) -> None:
    """Fail unless ``printed`` is what the block shows."""
    pattern = "".join(_line_pattern(line) for line in _settled(shown.text))
    lines = _settled(printed)
    if not re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)):
        raise AssertionError(
            f"{shown.where} does not show what is printed\n\nshown:\n{shown.text}\nprinted:\n{printed}"
        )


_DIFFERS = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?"), "<time>"),
    (re.compile(r"\b\d+\.\d\ds\b"), "<seconds>"),
    (re.compile(r"[ \t]+"), " "),
)


def _settled(text: str) -> list[str]:
    """The lines of a text without what differs from run to run, and without empty lines at its ends."""
    for differs, instead in _DIFFERS:
        text = differs.sub(instead, text)
    return [line.strip() for line in text.strip().splitlines()]


def _line_pattern(line: str) -> str:
    if line == "…":
        return r"(?:.*\n)*?"
    return ".*?".join(re.escape(part) for part in line.split("…")) + r"\n"
