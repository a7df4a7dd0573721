"""Both type checkers find exactly the mistakes that are marked in ``sagas.py``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = [HERE / "sagas.py"]


def marked(file: Path) -> set[int]:
    return {n for n, line in enumerate(file.read_text().splitlines(), 1) if "# E" in line and "``" not in line}


def run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mypy_finds_the_marked_mistakes_and_no_others(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="types are checked where mypy is installed (nox -s types)")
    output = run("mypy", "--strict", "--show-absolute-path", "--config-file=", *_without_suppressions(file, tmp_path))
    assert {int(n) for n in re.findall(rf"{file.stem}\.py:(\d+): error", output)} == marked(file), output


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pyright_finds_the_marked_mistakes_and_no_others(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="types are checked where pyright is installed (nox -s types)")
    (copy,) = _without_suppressions(file, tmp_path)
    config = {"include": [copy], "typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src"), str(ROOT)]}
    off = ("reportUnusedExpression", "reportUnusedCallResult", "reportUnusedClass")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config | dict.fromkeys(off, "none")))
    report = run("pyright", "--pythonpath", sys.executable, "--project", str(tmp_path), "--outputjson")
    found = [d for d in json.loads(report)["generalDiagnostics"] if d["severity"] == "error"]
    assert {d["range"]["start"]["line"] + 1 for d in found} == marked(file), report


def _without_suppressions(file: Path, folder: Path) -> list[str]:
    """A copy in which nothing is suppressed: the suppressions are there for the run over the whole project."""
    copy = folder / file.name
    copy.write_text(re.sub(r"  # type: ignore\[[a-z, -]+\]", "", file.read_text()))
    return [str(copy)]
