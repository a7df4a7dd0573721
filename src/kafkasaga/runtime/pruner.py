"""The pruner: forgets what is old, a little at a time. Several at once share the work."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import structlog

from kafkasaga.clock import Clock
from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.ports import Prunable, Store

log = structlog.get_logger("kafkasaga.pruner")

AT_ONCE: Final = 1000
"""Rows of one transaction, about: it holds their locks for some milliseconds. A saga's rows go all at once."""
BETWEEN: Final = 0.1
"""Seconds between two pieces: whoever works goes first."""
INTERVAL: Final = 300.0
"""Seconds between two looks for what has become old."""


class Pruner:
    """Forgets what is older than ``keep`` says."""

    def __init__(self, store: Store, keep: Mapping[Prunable, timedelta], clock: Clock) -> None:
        self._store, self._keep, self._clock = store, keep, clock
        self._stopping = threading.Event()

    def run(self) -> None:
        """Prune until ``stop``."""
        while not self._stopping.is_set():
            try:
                self.prune()
            except (EnvironmentUnavailable, SerializationConflict) as error:
                log.info("pruning waits", error=str(error))
            self._clock.wait(self._stopping, INTERVAL)

    def stop(self) -> None:
        """Let ``run`` end (from any thread)."""
        self._stopping.set()

    def prune(self) -> dict[Prunable, int]:
        """Forget everything that is old by now; how many of each."""
        counts = {what: self._forget(what, keep) for what, keep in self._keep.items()}
        if any(counts.values()):
            log.info("forgot what was old", **{what.name.lower(): count for what, count in counts.items() if count})
        return counts

    def _forget(self, what: Prunable, keep: timedelta) -> int:
        count, last = 0, AT_ONCE
        while last >= AT_ONCE and not self._stopping.is_set():
            last = self._store.prune(what, keep, AT_ONCE)
            count += last
            if last >= AT_ONCE:
                self._clock.wait(self._stopping, BETWEEN)
        return count
