"""How far the services have come, as their databases say: the time that a recovery takes is measured by this."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import psycopg

LOOK_SECONDS = 0.03
CONNECT_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Place:
    """One partition: where it is to be read on, and under which name its reader is known."""

    next: int
    owner: str | None


Places: TypeAlias = Mapping[tuple[str, int], Place]


class Progress:
    """Looks at ``consumer_offset`` of every service, directly."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = {name: url.replace("postgresql+psycopg://", "postgresql://") for name, url in urls.items()}
        self._connections: dict[str, psycopg.Connection] = {}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def of(self, service: str) -> Places:
        """Raises psycopg.OperationalError while the database is away."""
        rows = self.rows(service, 'SELECT topic, "partition", COALESCE("next", 0), owner FROM consumer_offset')
        return {(topic, number): Place(next, owner and str(owner)) for topic, number, next, owner in rows}

    def rows(self, service: str, query: str) -> list[tuple]:  # type: ignore[type-arg]
        try:
            return self._connected(service).execute(query).fetchall()
        except psycopg.OperationalError:
            if service in self._connections:
                self._connections.pop(service).close()
            raise

    def total(self, service: str) -> int:
        return sum(place.next for place in self.of(service).values())

    def wait(self, condition: Callable[[], bool], within: float) -> float | None:
        """The moment at which it came true; None if it did not. A database that is away says no."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                if condition():
                    return time.monotonic()
            time.sleep(LOOK_SECONDS)
        return None

    def new_owner_works(self, service: str, before: Places) -> bool:
        """Whether somebody who owned nothing before has committed progress since."""
        known = {place.owner for place in before.values()}
        return any(
            place.owner not in known and place.owner is not None and place.next > before.get(at, Place(0, None)).next
            for at, place in self.of(service).items()
        )

    def _connected(self, service: str) -> psycopg.Connection:
        if service not in self._connections:
            self._connections[service] = psycopg.connect(
                self._urls[service], autocommit=True, connect_timeout=CONNECT_SECONDS
            )
        return self._connections[service]
