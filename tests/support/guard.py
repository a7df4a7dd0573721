"""Kill what a test run leaves behind when it dies without cleaning up.

Runs as a process of its own and reads its orders from a pipe: `watch PID`, `forget PID`, `owns DIRECTORY`,
`disowns DIRECTORY`. The pipe ends when the process that holds its other end is gone, however it died. (Linux's
parent-death signal would not do: it fires when the *thread* that started the child ends.)
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress


def children_of(pid: int) -> list[int]:
    """Direct children, where /proc tells them; elsewhere none."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:  # noqa: PTH123 (starts quickly)
            return [int(child) for child in children.read().split()]
    except OSError:
        return []


def kill_with_children(pid: int) -> None:
    """Kill a server and its workers; the parent is frozen first, so that it cannot start more of them."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for target in [*children_of(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)


def main(orders: Iterable[str]) -> None:
    pids: set[int] = set()
    directories: set[str] = set()
    for order in orders:
        verb, _, argument = order.rstrip("\n").partition(" ")
        match verb:
            case "watch":
                pids.add(int(argument))
            case "forget":
                pids.discard(int(argument))
            case "owns":
                directories.add(argument)
            case "disowns":
                directories.discard(argument)
            case _:
                raise ValueError(order)
    for pid in pids:
        kill_with_children(pid)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.stdin)
