"""What an operator may ask of a service's database, and do to it. The command line is its client."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kafkasaga.clock import SystemClock
from kafkasaga.errors import ConfigurationError, CorruptLog, KafkasagaError
from kafkasaga.ports import LogEntry, Parked, Prunable, SagaSummary
from kafkasaga.runtime import progress
from kafkasaga.runtime.orchestrator import SagaTurn
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.pruner import Pruner
from kafkasaga.runtime.service import Service
from kafkasaga.saga.inputs import Operated
from kafkasaga.saga.instance import Instance, SagaStatus
from kafkasaga.saga.transitions import fold
from kafkasaga.settings import Settings
from kafkasaga.stores import Act, Action, Counts, Outbox, SqlStore, create_store


@dataclass(frozen=True, slots=True)
class SagaHistory:
    """A saga, as it stands and how it came there."""

    summary: SagaSummary
    instance: Instance
    log: tuple[LogEntry, ...]


class Operator:
    """A service's database, as its operator sees it."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._queries = store.queries()

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, outbox: Outbox | None = None) -> Generator[Operator]:
        """On a database of its own connection.

        Raises:
            ConfigurationError: without a database URL.
            SchemaError: if the library's tables are not there or not of this version.
        """
        url = settings.database_url.get_secret_value()
        if not url:
            raise ConfigurationError("no database: set KAFKASAGA_DATABASE_URL, or give --database-url")
        store = create_store(url, (outbox or Outbox()).tables)
        try:
            store.check_schema()
            yield cls(store)
        finally:
            store.close()

    def counts(self) -> Counts:
        """How much of everything there is."""
        return self._queries.counts()

    def sagas(
        self,
        *,
        name: str | None = None,
        status: SagaStatus | None = None,
        key: str | None = None,
        limit: int = 50,
    ) -> list[SagaSummary]:
        """Sagas, the newest first."""
        return self._queries.sagas(name=name, status=status, key=key, limit=limit)

    def saga(self, id: UUID) -> SagaHistory | None:
        """One saga with its log; None if there is none of that id.

        Raises:
            CorruptLog: if its log cannot be read.
        """
        summary, instance = self._queries.saga(id), self._queries.instance(id)
        if summary is None or instance is None:
            return None
        return SagaHistory(summary, instance, tuple(self._queries.log(id)))

    def parked(self, limit: int = 50) -> list[Parked]:
        """Parked messages, the oldest first."""
        return self._queries.parked(limit)

    def parked_message(self, id: int) -> Parked | None:
        """One parked message; None if there is none of that id."""
        return self._queries.parked_message(id)

    def act(self, id: int, action: Action, *, by: str, why: str, value: bytes | None = None) -> Parked | None:
        """Do something to a parked message; what it was before, None if there is none of that id.

        What is done is recorded in ``operator_log``, with all that the message was before.
        """
        return self._store.parked_acts().carry_out(id, Act(action, by, why, datetime.now(UTC), value))

    def prune(self, keep: Mapping[Prunable, timedelta]) -> dict[Prunable, int]:
        """Forget what is older than ``keep`` says; how many of each."""
        return Pruner(self._store, keep, SystemClock()).prune()

    def settle(self, service: Service, id: UUID, input: Operated) -> None:
        """Decide what becomes of a stuck step. It is an entry of the saga's log.

        Raises:
            Unmatched: if there is no such saga.
            KafkasagaError: if the step is not stuck.
        """
        sender = Sender(service.name, service.codec, SystemClock(), service.outbox.place)
        with self._store.begin() as uow:
            turn = SagaTurn(uow, sender, service.definitions)
            before = turn.instances([id]).get(id)
            if before is not None and before.status is not SagaStatus.STUCK:
                raise KafkasagaError(f"saga {id} is {before.status}, not stuck: there is nothing to decide")
            try:
                envelopes = turn.act(id, input)
            except (ValueError, KeyError) as error:
                raise KafkasagaError(f"saga {id}, step {input.step!r}: {error}") from error
            turn.finish(envelopes)
        progress.tell(turn.happened)

    def verify(self, id: UUID) -> str | None:
        """What is wrong with a saga's log: None if its fold is the stored state (invariant I7).

        Of a saga whose log was deleted because of its age, what is left must be without gaps.
        """
        while True:
            history = None
            try:
                history = self.saga(id)
                problem = "there is no such saga" if history is None else _problem(history)
            except CorruptLog as error:
                problem = str(error)
            # State and log are read one after the other: a saga that went on meanwhile is looked at again.
            if problem is None or not self._went_on(id, history):
                return problem

    def _went_on(self, id: UUID, history: SagaHistory | None) -> bool:
        summary = None if history is None else self._queries.saga(id)
        return summary is not None and history is not None and summary.seq != history.summary.seq

    def verify_all(self) -> Iterator[tuple[UUID, str | None]]:
        """``verify`` for every saga, in the order of their ids."""
        for id in self._queries.saga_ids():
            yield id, self.verify(id)


def _problem(history: SagaHistory) -> str | None:
    first = 1 if history.summary.pruned_at is None else history.instance.seq - len(history.log) + 1
    if [entry.seq for entry in history.log] != list(range(first, history.instance.seq + 1)):
        return "its log has gaps, or more entries than its stored state knows"
    if history.summary.pruned_at is None and fold(entry.event for entry in history.log) != history.instance:
        return "its log does not fold to its stored state"
    stored, summary = history.instance, history.summary
    if (summary.seq, summary.status) != (stored.seq, stored.status):
        return "its columns do not say what its stored state says"
    return None
