"""What processes used, from /proc: CPU seconds of whole trees, and peak memory."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1024  # /proc counts in kB


@dataclass(frozen=True, slots=True)
class Usage:
    """What a stretch of time cost."""

    seconds: float
    cpu: Mapping[str, float]
    """CPU seconds by group of processes."""

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


class Meter:
    """Begins to count when it is made. Children that have ended count through the parent that waited for them."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = groups
        self._cpu = self._read()
        self._at = time.monotonic()

    def stop(self) -> Usage:
        seconds = time.monotonic() - self._at
        now = self._read()
        return Usage(seconds, {name: now[name] - self._cpu[name] for name in now})

    def _read(self) -> dict[str, float]:
        used, children = _processes()
        return {name: sum(_tree(pid, used, children) for pid in pids) for name, pids in self._groups.items()}


def peak_memory(pid: int) -> float:
    """The most memory that a process ever had in use, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / MEGABYTE
    return 0.0


def _tree(pid: int, used: Mapping[int, float], children: Mapping[int, Sequence[int]]) -> float:
    return used.get(pid, 0.0) + sum(_tree(child, used, children) for child in children.get(pid, ()))


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    used: dict[int, float] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                used[int(entry.name)] = sum(map(int, fields[11:15])) / TICKS  # its own, and its children's that ended
                children[int(fields[1])].append(int(entry.name))
    return used, children
