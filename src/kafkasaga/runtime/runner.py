"""The composition root: the one place where stores, Kafka and the loops are put together, started, and stopped.

A process has up to four loops, each in a thread of its own: the consumer, the relay, the timekeeper, the pruner. They
share nothing but the database, so each can also run in a process of its own. If one of them dies of an error that
nobody foresaw, the process ends with that error: restarting it is the platform's business, and nothing is lost by it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Final, Literal, Protocol

import structlog

from kafkasaga.clock import SystemClock
from kafkasaga.errors import (
    BrokerRefused,
    ConfigurationError,
    DatabaseRefused,
    EnvironmentUnavailable,
    TopicsError,
)
from kafkasaga.kafka import KafkaConsumer, KafkaProducer, Topics
from kafkasaga.messages import contract_of
from kafkasaga.ports import TopicPartition
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.interpreter import relieve
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.pruner import Pruner
from kafkasaga.runtime.relay import Relay
from kafkasaga.runtime.retention import check_retention, retention_of
from kafkasaga.runtime.timekeeper import Timekeeper
from kafkasaga.runtime.watchdog import Watchdog
from kafkasaga.settings import PREFIX, Settings
from kafkasaga.stores import SqlStore, create_store

if TYPE_CHECKING:
    from kafkasaga.runtime.service import Service

log = structlog.get_logger("kafkasaga.service")

Role = Literal["consumer", "relay", "timekeeper", "pruner"]
ROLES: tuple[Role, ...] = ("consumer", "relay", "timekeeper", "pruner")


BROKER_SECONDS: Final = 1.0
"""At the start, for the broker to answer one question: so long may a signal have to wait."""
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 5.0
"""Seconds between attempts to reach what is away at the start: doubled each time."""
FIRST_SILENCE: Final = 2.0
LONGEST_SILENCE: Final = 30.0
"""Seconds between two lines that say so: doubled each time."""


def end_process() -> None:
    """Ask the whole process to end, as its platform would."""
    os.kill(os.getpid(), signal.SIGTERM)


class _Loop(Protocol):
    def run(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(slots=True)
class _Running:
    role: Role
    loop: _Loop
    thread: threading.Thread


class Runner:
    """A service at work in this process. ``on_failure`` is called (in the loop's thread) when a loop has died."""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        roles: Sequence[Role] = ROLES,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._service, self._settings, self._on_failure = service, settings, on_failure
        self._keep = retention_of(settings)
        self._roles: list[Role] = [role for role in ROLES if role in roles]
        self._running: list[_Running] = []
        self._store: SqlStore | None = None
        self._started = False
        self._watchdog = Watchdog(settings.handler_timeout, SystemClock())
        # A signal handler may interrupt whoever holds the lock of an Event; a SimpleQueue it may always use.
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Start, wait for SIGTERM or SIGINT (or a failure), stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            if self.start():
                relieve()
                self._ended.get()
        finally:
            self.stop()

    def start(self) -> bool:
        """Check settings, tables and topics, then start the loops; False if it was told to stop before.

        Where the database or the broker is away, it waits for it (and says so once); not where one refuses us.

        Raises:
            ConfigurationError: if something is not as it must be.
            DefinitionError: if a saga's functions use names that nobody defines.
        """
        service, settings = self._service, self._settings
        for definition in service.definitions.values():
            definition.check_names()
        _check_complete(settings)
        topics = Topics(settings, timeout=BROKER_SECONDS)
        if "pruner" in self._roles:
            check_retention(self._keep, service.definitions.values(), service.parking)
        self._store = store = create_store(settings.database_url.get_secret_value(), service.outbox.tables)
        checks = (
            ("database", store.check_schema),
            ("database", self._check_versions),
            ("broker", lambda: self._check_topics(topics)),
        )
        if not all(self._patiently(what, check) for what, check in checks):
            return False
        loops: list[tuple[Role, _Loop]] = [(role, loop) for role in self._roles for loop in self._build(role, store)]
        for role, loop in loops:
            thread = threading.Thread(target=self._guard, args=(role, loop), name=f"{service.name}-{role}", daemon=True)
            self._running.append(_Running(role, loop, thread))
        self._watchdog.start()
        for running in self._running:
            running.thread.start()
        self._started = True
        log.info("service started", service=service.name, roles=list(dict.fromkeys(role for role, _ in loops)))
        return True

    def stop(self) -> None:
        """Finish what has begun, then end; the relay last, so that it publishes what the others left.

        Raises:
            BaseException: the failure of a loop, if that is why the service ended.
        """
        self._end([running for running in self._running if running.role != "relay"])
        self._end([running for running in self._running if running.role == "relay"])
        self._running.clear()
        self._watchdog.stop()
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._started:
            self._started = False
            log.info("service stopped", service=self._service.name)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _end(self, loops: Sequence[_Running]) -> None:
        """Tell loops to end, all at once, and wait for them."""
        for running in loops:
            running.loop.stop()
        deadline = time.monotonic() + self._settings.shutdown_timeout
        for running in loops:
            if running.thread.is_alive():
                running.thread.join(max(0.0, deadline - time.monotonic()))
            if running.thread.is_alive():
                log.error(
                    "loop did not end in time; what it had begun is repeated after the next start", role=running.role
                )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._ended.put(None)

    def _guard(self, role: Role, loop: _Loop) -> None:
        try:
            loop.run()
        except BaseException as error:
            log.exception("loop failed; the service ends", role=role)
            self._failure = error
            self._ended.put(None)
            self._on_failure()

    def _patiently(self, what: str, check: Callable[[], None]) -> bool:
        """Run a check of the start; wait while what it asks is away. False if it was told to stop meanwhile."""
        clock, wait, silence = SystemClock(), FIRST_WAIT, FIRST_SILENCE
        say_at = clock.monotonic()
        while True:
            try:
                check()
            except (BrokerRefused, DatabaseRefused) as error:
                raise ConfigurationError(str(error)) from None
            except EnvironmentUnavailable as error:
                if clock.monotonic() >= say_at:
                    log.warning("waiting for what is away: trying again, Ctrl-C stops", what=what, error=str(error))
                    say_at = clock.monotonic() + silence
                    silence = min(silence * 2, LONGEST_SILENCE)
                with suppress(Empty):
                    self._ended.get(timeout=wait)
                    return False
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                return True

    def _check_versions(self) -> None:
        assert self._store is not None
        if self._roles == ["relay"]:
            return  # it decides nothing, and publishes for whoever wrote
        live = self._store.live_versions()
        missing = {key: count for key, count in live.items() if key not in self._service.definitions}
        if missing:
            named = ", ".join(
                f"{name!r} version {version} ({count})" for (name, version), count in sorted(missing.items())
            )
            raise ConfigurationError(
                f"service {self._service.name!r} has sagas under way that it no longer defines: {named}; "
                "add their classes to Service(sagas=[…]) until they have ended"
            )

    def _check_topics(self, topics: Topics) -> None:
        service = self._service
        missing = topics.missing(service.reads | service.writes)
        if missing:
            raise TopicsError(
                f"service {service.name!r} needs topics that do not exist: {', '.join(missing)}; make them with "
                f"kafkasaga topics create {_target(service)}{self._servers_option()}"
            )

    def _servers_option(self) -> str:
        """What the command needs that the environment does not say."""
        servers = self._settings.bootstrap_servers
        known = os.environ.get(f"{PREFIX}BOOTSTRAP_SERVERS") == servers
        return "" if known else f" --bootstrap-servers {servers}"

    def _build(self, role: Role, store: SqlStore) -> list[_Loop]:
        """The loops of a role: several relays, each with its share of the keys; none where there is nothing to do."""
        service, settings = self._service, self._settings
        sender = Sender(service.name, service.codec, SystemClock(), service.outbox.place)
        batches = BatchRunner(
            service.name, store, service.router(), service.definitions, sender, service.parking, self._watchdog
        )
        match role:
            case "consumer" if service.reads:
                consumer = KafkaConsumer(settings, service.name)
                return [
                    ConsumerLoop(
                        service.name,
                        consumer,
                        store,
                        batches,
                        service.reads,
                        batch_size=settings.batch_size,
                        max_parked=settings.max_parked,
                    )
                ]
            case "relay":
                return [
                    Relay(
                        queue,
                        lambda: KafkaProducer(settings, client_id=f"{service.name}-relay"),
                        sender.clock,
                        poll_interval=settings.relay_poll_interval,
                    )
                    for queue in store.relay_queues(settings.relays)
                ]
            case "pruner" if self._keep:
                return [Pruner(store, self._keep, sender.clock)]
            case "timekeeper":
                topics = Topics(settings)
                replies = sorted(contract_of(t).topic for d in service.definitions.values() for t in d.replies)

                def unread_ends() -> dict[TopicPartition, int]:
                    starts = topics.starts(replies)
                    return {place: end for place, end in topics.ends(replies).items() if end > starts.get(place, 0)}

                return [Timekeeper(service.name, store, unread_ends, service.definitions, sender, batches)]
            case _:
                return []


def _check_complete(settings: Settings) -> None:
    missing: list[str] = []
    if not settings.database_url.get_secret_value():
        missing.append("no database: set KAFKASAGA_DATABASE_URL, e.g. postgresql+psycopg://user@host/orders")
    if not settings.bootstrap_servers:
        missing.append("no broker: set KAFKASAGA_BOOTSTRAP_SERVERS, e.g. localhost:9092")
    if missing:
        raise ConfigurationError("\n".join(missing))


def _target(service: Service) -> str:
    """``module:name`` of a service, if some module has it under a name."""
    for module_name, module in list(sys.modules.items()):
        if module_name != "__main__":
            for name, value in list(vars(module).items()):
                if value is service:
                    return f"{module_name}:{name}"
    return "<module:service>"
