"""Peers are built on demand, once, and what this machine lacks for them is named."""

import os
from pathlib import Path

import pytest

from benchmarks.harness.fetched import cache_directory, go_program, java_program, npm_package
from tests.support.process import UnavailableError

GO = """\
#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo built > "$2"
echo >> "$GO_RUNS"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; a cache of its own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GO_RUNS", str(tmp_path / "runs"))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "main.go").write_text("package main\n")
    return folder


def put_go(tools: Path, script: str = GO) -> None:
    (tools / "go").write_text(script.replace("#!/bin/sh", f"#!/bin/sh\nPATH={os.defpath}"))
    (tools / "go").chmod(0o755)


def test_a_missing_tool_is_named_with_the_remedy(tools: Path, source: Path) -> None:
    with pytest.raises(UnavailableError, match=r"go is missing, which builds peer: install Go"):
        go_program("peer", source)
    with pytest.raises(UnavailableError, match=r"mvn is missing, which fetches peer: install Maven"):
        java_program("peer", source)
    with pytest.raises(UnavailableError, match=r"npm is missing, which fetches package@1: install Node.js"):
        npm_package("peer", "package@1")


def test_a_program_is_built_once_and_again_when_its_source_has_changed(
    tools: Path, source: Path, tmp_path: Path
) -> None:
    put_go(tools)
    program = go_program("peer", source)
    assert program.read_text() == "built\n"
    assert program.parent == cache_directory("peer")
    (tools / "go").rename(tools / "elsewhere")
    assert go_program("peer", source) == program  # without Go
    (tools / "elsewhere").rename(tools / "go")
    (source / "main.go").write_text("package main // changed\n")
    go_program("peer", source)
    assert (tmp_path / "runs").read_text().count("\n") == 2


def test_a_build_that_fails_says_why_and_is_tried_again(tools: Path, source: Path) -> None:
    put_go(tools, "#!/bin/sh\necho no such module >&2\nexit 1\n")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="peer cannot be fetched: no such module"):
            go_program("peer", source)
