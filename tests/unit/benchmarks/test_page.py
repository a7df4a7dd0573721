"""A document's tables are renewed by what was measured, and by nothing else."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.page import command, renew

PAGE = """\
before
<!-- figures: saga: place-order -->
old
<!-- end -->
between
<!-- costs: saga: place-order -->
<!-- end -->
<!-- figures: relay -->
kept
<!-- end -->
after
"""
HEAD = {"command": "nox -s bench", "cores": 2, "python": "3.11", "date": "2026-11-22", "rounds": 3}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    return file


def contender(name: str, rate: float, **more: Any) -> dict[str, Any]:
    figures = {"values": {"sagas/s": rate, "p50 ms": 9.87}, "cpu": {"app": 250.0, "postgresql": 50.0}}
    return {"name": name, "median": figures, "rounds": [figures, figures], "failures": [], "missing": None} | more


def saga(*contenders: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "saga: place-order, 200 in flight",
        "headline": "sagas/s",
        "baseline": "ceiling",
        "contenders": contenders,
    }


def test_tables_hold_what_was_measured(page: Path) -> None:
    renew(page, HEAD, [saga(contender("ours", 1200.0), contender("ceiling", 2400.0))])
    lines = page.read_text().splitlines()
    assert "| ours | 0.50 | 1,200 | 9.9 | 1,200 1,200 |" in lines
    assert "| ours | 250 | 50.0 | 300 |" in lines
    assert "old" not in lines
    assert {"before", "between", "after"} <= set(lines)


def test_what_was_not_measured_keeps_its_tables(page: Path) -> None:
    renew(page, HEAD, [])
    assert page.read_text() == PAGE


def test_a_page_can_be_renewed_again(page: Path) -> None:
    for rate in (1.0, 2.0):
        renew(page, HEAD, [saga(contender("ours", rate))])
    once = page.read_text()
    assert once.count("| ours |  | 2.0 |") == 1
    assert "| 1.0 |" not in once
    assert once.endswith("kept\n<!-- end -->\nafter\n")


def test_what_is_missing_or_wrong_is_named(page: Path) -> None:
    absent = contender("theirs", 1.0, median=None, rounds=[], missing="npm is missing")
    renew(page, HEAD, [saga(contender("ours", 1.0, failures=["lost"]), absent)])
    text = page.read_text()
    assert "Not measured: theirs: npm is missing" in text
    assert "Wrong in 1 of 3 rounds: ours" in text


def test_command_leaves_out_where_files_went() -> None:
    given = ["--only", "saga", "--json", "figures.json", "--peers", "--page=docs/page.md"]
    assert command(given) == "nox -s bench -- --only saga --peers"
