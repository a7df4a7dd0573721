"""Bars: one panel a workload, one bar a contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(workloads: list[dict[str, Any]], file: Path) -> None:
    """Write the picture; its format follows from the file's name."""
    figure, axes = plt.subplots(
        len(workloads), 1, figsize=(9, 0.6 + 2.2 * len(workloads)), squeeze=False, layout="constrained"
    )
    for axis, workload in zip(axes[:, 0], workloads, strict=True):
        _panel(axis, workload)
    figure.savefig(file)
    plt.close(figure)


def _panel(axis: Any, workload: dict[str, Any]) -> None:
    headline = workload["headline"]
    shown = [c for c in workload["contenders"] if c["median"] and headline in c["median"]["values"]]
    names = [c["name"] for c in shown]
    values = [c["median"]["values"][headline] for c in shown]
    lows = [min(r["values"][headline] for r in c["rounds"]) for c in shown]
    highs = [max(r["values"][headline] for r in c["rounds"]) for c in shown]
    errors = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for high, value in zip(highs, values, strict=True)],
    ]
    colours = ["#3266ad" if name.startswith("kafkasaga") else "#b0b7c3" for name in names]
    bars = axis.barh(names, values, xerr=errors, color=colours, error_kw={"lw": 0.8, "ecolor": "#555"})
    axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(f"{workload['title']} ({headline})", loc="left", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.margins(x=0.15)
