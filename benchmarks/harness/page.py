"""Tables in a document that a run renews: what stands there was measured, and says by which command and when.

``<!-- figures: saga: place-order -->`` … ``<!-- end -->`` holds the tables of all workloads whose titles begin so, and
``<!-- costs: saga: place-order -->`` … ``<!-- end -->`` what each unit of work cost each group of processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLACES = re.compile(r"(<!-- (?P<what>figures|costs): (?P<title>[^>]+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
OWN_FILES = ("--json", "--plot", "--page", "--keep-logs")
"""Options that say nothing about what was measured."""


def renew(page: Path, head: dict[str, Any], workloads: Sequence[dict[str, Any]]) -> None:
    """Renew the tables of these workloads; the others stay as they are."""

    def tables(place: re.Match[str]) -> str:
        found = [workload for workload in workloads if workload["title"].startswith(place["title"])]
        if not found:
            return place[0]
        table = _figures if place["what"] == "figures" else _costs
        parts = [_source(head), *(table(workload, head["rounds"]) for workload in found)]
        return f"{place[1]}\n" + "\n\n".join(parts) + f"\n\n{place['end']}"

    page.write_text(PLACES.sub(tables, page.read_text()))


def command(arguments: Sequence[str]) -> str:
    """How a reader repeats the run."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    shown = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in OWN_FILES and before not in OWN_FILES
    ]
    return " ".join(["nox -s bench --", *shown])


def _source(head: dict[str, Any]) -> str:
    rounds = f"medians of {head['rounds']} rounds" if head["rounds"] > 1 else "one round"
    return f"`{head['command']}`: {head['cores']} cores, Python {head['python']}, {head['date']}, {rounds}."


def _figures(workload: dict[str, Any], rounds: int) -> str:
    measured = _measured(workload)
    names = _names(measured, "values")
    baseline = next((c for c in measured if c["name"] == workload["baseline"]), None)
    best: float | None = None if baseline is None else baseline["median"]["values"][workload["headline"]]
    title = ["", f"× {workload['baseline']}", *names, "rounds"]
    lines = [_line(contender, names, workload["headline"], best) for contender in measured]
    missing = [f"Not measured: {c['name']}: {c['missing']}" for c in workload["contenders"] if c.get("missing")]
    wrong = [
        f"Wrong in {len(c['failures'])} of {rounds} rounds: {c['name']}"
        for c in workload["contenders"]
        if c["failures"]
    ]
    return "\n\n".join([f"**{workload['title']}**", _rows(title, lines), *missing, *wrong])


def _costs(workload: dict[str, Any], _: int) -> str:
    measured = _measured(workload)
    groups = _names(measured, "cpu")
    title = ["CPU µs each", *groups, "together"]
    lines = [
        [c["name"], *(_cell(c["median"]["cpu"], group) for group in groups), _number(sum(c["median"]["cpu"].values()))]
        for c in measured
    ]
    return "\n\n".join([f"**{workload['title']}**", _rows(title, lines)])


def _measured(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return [contender for contender in workload["contenders"] if contender["median"]]


def _names(measured: Sequence[dict[str, Any]], what: str) -> list[str]:
    return list(dict.fromkeys(name for contender in measured for name in contender["median"][what]))


def _rows(title: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [title, ["---", *["---:"] * (len(title) - 1)], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def _line(contender: dict[str, Any], names: Sequence[str], headline: str, best: float | None) -> list[str]:
    values = contender["median"]["values"]
    ratio = f"{values[headline] / best:.2f}" if best else ""
    spread = " ".join(_number(figures["values"][headline]) for figures in contender["rounds"])
    return [contender["name"], ratio, *(_cell(values, name) for name in names), spread]


def _cell(values: dict[str, float], name: str) -> str:
    return _number(values[name]) if name in values else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
