"""A program that can be told to die: ``python -m tests.faults.real.mortal <module> <arguments>`` runs ``<module>``.

It dies at a named point of the library, before or after a certain function is called. Which one, it reads from the file
that ``MORTAL_ORDERS`` names, whenever that appears; what happened, it appends to ``MORTAL_LOG``, with the system's
monotonic clock, which all processes share, and the CPU seconds that it has needed so far. At SIGUSR1 it writes to
standard error where its threads are.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kafkasaga.cli.loading import loading

LOOK_SECONDS = 0.1

FUNCTIONS = {
    "commit": ("kafkasaga.stores.unit_of_work", "SqlUnitOfWork.commit"),
    "produce": ("kafkasaga.kafka.producer", "KafkaProducer.stream"),
    "offset store": ("kafkasaga.kafka.consumer", "KafkaConsumer.store"),
    "relay delete": ("kafkasaga.stores.relay_queue", "SqlRelayQueue.delete"),
    "taking over": ("kafkasaga.stores.store", "SqlStore.take_over"),
    "order taken": ("kafkasaga.examples.order_system.front", "place_or_find"),
}
POINTS = tuple(f"{when} {name}" for name in FUNCTIONS for when in ("before", "after"))
WEB = "front"
"""Its point exists in the web application only."""


class Mortality:
    """What this process is to die of."""

    def __init__(self, orders: Path, log: Path) -> None:
        self._orders, self._file = orders, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._point, self._left = "", 0
        self._seen: set[str] = set()

    def note(self, what: str) -> None:
        """One line, unbuffered: it must be there when this process is not."""
        line = f"{time.monotonic():.6f} {os.getpid()} {time.process_time():.3f} {what}\n"
        os.write(self._file, line.encode())

    def note_once(self, what: str) -> None:
        if what not in self._seen:
            self._seen.add(what)
            self.note(what)

    def reached(self, point: str) -> None:
        if point != self._point:
            return
        self._left -= 1
        if self._left == 0:
            self.note(f"died {point}")
            os.kill(os.getpid(), signal.SIGKILL)

    def obey(self) -> None:
        """Read orders whenever there are some; in a thread of its own."""
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                order = json.loads(self._orders.read_text())
                self._orders.unlink()
            except (FileNotFoundError, ValueError):
                continue
            self._left = order["calls"]
            self._point = order["point"]


def plant(mortality: Mortality, name: str) -> None:
    """Have a function tell when it is called and when it has returned."""
    module, path = FUNCTIONS[name]
    owner: Any = importlib.import_module(module)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, attribute)

    @functools.wraps(original)
    def mortal(*args: Any, **kwargs: Any) -> Any:
        mortality.reached(f"before {name}")
        result = original(*args, **kwargs)
        mortality.reached(f"after {name}")
        return result

    setattr(owner, attribute, mortal)


def tell_milestones(mortality: Mortality) -> None:
    """Note who owns partitions, and the way from the start to the first progress that was committed."""
    from kafkasaga.stores.offsets import Offsets
    from kafkasaga.stores.unit_of_work import SqlUnitOfWork

    take_over, advance, commit = Offsets.take_over, Offsets.advance, SqlUnitOfWork.commit
    advanced = threading.local()

    def noted_take_over(self: Any, connection: Any, group: str, owner: Any, partitions: Any) -> Any:
        mortality.note_once(f"owner {owner}")
        result = take_over(self, connection, group, owner, partitions)
        mortality.note_once("assigned")
        return result

    def noted_advance(self: Any, *args: Any) -> None:
        advance(self, *args)
        advanced.now = True

    def noted_commit(*args: Any) -> None:
        commit(*args)
        if getattr(advanced, "now", False):
            mortality.note_once("progress")
        advanced.now = False

    Offsets.take_over = noted_take_over  # type: ignore[method-assign]
    Offsets.advance = noted_advance  # type: ignore[method-assign,assignment]
    SqlUnitOfWork.commit = noted_commit  # type: ignore[method-assign,assignment]


def main() -> None:
    mortality = Mortality(Path(os.environ.pop("MORTAL_ORDERS")), Path(os.environ.pop("MORTAL_LOG")))
    mortality.note("started")
    faulthandler.register(signal.SIGUSR1)
    _, module, *_ = sys.argv
    with loading() if module == "kafkasaga" else nullcontext():  # as the command line does
        importlib.import_module("kafkasaga.runtime.runner")
    mortality.note("imported")
    tell_milestones(mortality)
    for name in FUNCTIONS:
        if name != "order taken" or any(WEB in argument for argument in sys.argv):
            plant(mortality, name)
    threading.Thread(target=mortality.obey, name="mortality", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
