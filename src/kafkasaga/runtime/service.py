"""``Service``: what a team writes. It collects handlers and sagas; ``run`` puts them to work.

A service is a value until it runs: registering handlers opens nothing, so importing a module is enough to check it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, overload
from uuid import UUID

from kafkasaga.clock import SystemClock
from kafkasaga.errors import DefinitionError, KafkasagaError
from kafkasaga.messages import Codec, JsonCodec, Message, SagaState, contract_of
from kafkasaga.runtime.handlers import Handler, WhenDead, inspect_handler
from kafkasaga.runtime.logs import configure_logging
from kafkasaga.runtime.orchestrator import SagaTurn
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.routing import Router, definitions_by_version
from kafkasaga.runtime.runner import ROLES, Role, Runner, end_process
from kafkasaga.saga.definition import Definition, Saga
from kafkasaga.saga.policy import Retry, exponential
from kafkasaga.settings import Settings
from kafkasaga.stores import Outbox, Session, enlist

F = TypeVar("F", bound=Callable[..., Message | Sequence[Message] | None])
C = TypeVar("C", bound=Callable[..., Any])
B = TypeVar("B", bound=Callable[..., Sequence[Message | Sequence[Message] | None] | None])
St = TypeVar("St", bound=SagaState)

PARKING = exponential(attempts=20, first=timedelta(seconds=1), longest=timedelta(minutes=5))
"""How often, and how far apart, a parked message is tried before it is dead: about an hour in all."""


class Service:
    """A participant, an orchestrator, or both: handlers and sagas over one database.

    ::

        inventory = Service("inventory")

        @inventory.handler
        def reserve(command: ReserveInventory, session: Session) -> InventoryReserved | InventoryFailed: ...

    Start it with ``kafkasaga run module:inventory``, or ``inventory.run()``, or, inside a web application, with
    ``inventory.running()``.

    Args:
        name: its consumer group, its ``ce_source`` and its default dedup identity. Do not change it lightly: to Kafka
            and to the inbox another name is another service.
        sagas: the sagas that it orchestrates, every version that still has instances.
        outbox: where its tables are, if not under their plain names in the default schema.
        codec: how message bodies are written and read.
        parking: how often, and how far apart, a parked message is tried again.

    Raises:
        DefinitionError: for a bad name, sagas that are none, or two of one name and version.
    """

    def __init__(
        self,
        name: str,
        *,
        sagas: Sequence[type[Saga[Any]]] = (),
        outbox: Outbox | None = None,
        codec: Codec | None = None,
        parking: Retry = PARKING,
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name):
            raise DefinitionError(
                f"service name {name!r}: use lower-case letters, digits, '.', '_' and '-', at most 100"
            )
        self.name, self.parking = name, parking
        self.codec: Codec = codec or JsonCodec()
        self.outbox = outbox or Outbox()
        self.outbox.source = self.outbox.source or name
        if self.outbox.codec is None:
            self.outbox.codec = self.codec
        elif codec is not None and self.outbox.codec is not codec:
            raise DefinitionError(f"service {name!r} and its outbox have different codecs; give it to one of them")
        self.sagas = _checked(name, sagas)
        self._handlers: list[Handler] = []
        self.definitions: Mapping[tuple[str, int], Definition] = definitions_by_version(
            saga.definition for saga in self.sagas
        )
        self._sender = Sender(name, self.codec, SystemClock(), self.outbox.place)

    @overload
    def handler(self, function: F, /) -> F: ...
    @overload
    def handler(self, /, *, consumer: str | None = None, when_dead: WhenDead = "block") -> Callable[[F], F]: ...
    def handler(
        self, function: F | None = None, /, *, consumer: str | None = None, when_dead: WhenDead = "block"
    ) -> F | Callable[[F], F]:
        """Handle the message that the first parameter's type names; what is returned is the reply.

        The function itself is returned unchanged: call it in tests. ``consumer`` names the dedup identity of a second
        handler of one message. ``when_dead`` says what becomes of the later messages of a key when one of them has no
        attempt left: they wait for a person (``"block"``), or go on without it (``"go-on"``).

        Raises:
            DefinitionError: if the type hints do not say what it handles, or the message has a handler already.
        """
        add = partial(self._add, consumer=consumer or self.name, when_dead=when_dead)
        return add if function is None else add(function)

    @overload
    def batch_handler(self, function: B, /) -> B: ...
    @overload
    def batch_handler(self, /, *, consumer: str | None = None, when_dead: WhenDead = "block") -> Callable[[B], B]: ...
    def batch_handler(
        self, function: B | None = None, /, *, consumer: str | None = None, when_dead: WhenDead = "block"
    ) -> B | Callable[[B], B]:
        """Handle many messages of one type at once, for bulk SQL; otherwise like ``handler``.

        The first parameter is a list of them, in the order of their keys' messages; what is returned is a list with
        one answer for each, in the same order (``None``, or several messages, as one answer)::

            @inventory.batch_handler
            def reserve(commands: list[ReserveInventory], session: Session) -> list[InventoryReserved | SoldOut]: ...

        How many there are is how many have arrived together: one when there is little to do. Messages that came
        before, and commands that the barrier answers, are left out. If it raises, it is called again with fewer, until
        the one that fails is alone. It cannot publish through the outbox: what else is to be sent is returned.

        Raises:
            DefinitionError: if the type hints do not say what it handles, or the message has a handler already.
        """
        add = partial(self._add, consumer=consumer or self.name, when_dead=when_dead, takes_many=True)
        return add if function is None else add(function)

    def start(
        self,
        session: Session,
        saga: type[Saga[St]],
        state: St,
        *,
        key: str | None = None,
        incarnation: int = 0,
    ) -> UUID:
        """Start a saga in your own transaction; it begins when that commits.

        Args:
            session: your session. With an ``AsyncSession``: ``await session.run_sync(lambda s: service.start(s, …))``.
            saga: one of the service's sagas; its newest version here.
            state: what it begins with.
            key: its correlation key; by default the state's field that is the key of ``starts_on``.
            incarnation: count it up to use a key again after the saga that had it has ended.

        Returns:
            The saga's id. Starting a saga that has been started already does nothing but a log entry.

        Raises:
            DefinitionError: if the saga is not one of this service, or its key cannot be told from the state.
        """
        definition = saga.definition
        if (definition.name, definition.version) not in self.definitions:
            raise DefinitionError(
                f"saga {definition.name!r} is not one of service {self.name!r}: Service(…, sagas=[…])"
            )
        newest = max(version for name, version in self.definitions if name == definition.name)
        if definition.version != newest:
            raise DefinitionError(
                f"saga {definition.name!r} version {definition.version} is kept for instances under way; "
                f"start version {newest}"
            )
        uow = enlist(session, self.outbox.tables)
        turn = SagaTurn(uow, self._sender, self.definitions)
        key = _key(definition, state) if key is None else key
        saga_id, envelopes = turn.start(definition, key, state, incarnation)
        turn.finish(envelopes)
        return saga_id

    def router(self) -> Router:
        """Where its messages go."""
        return Router(self.name, self._handlers, self.definitions.values(), self.codec)

    @property
    def reads(self) -> frozenset[str]:
        """The topics that it consumes."""
        return self.router().topics

    @property
    def writes(self) -> frozenset[str]:
        """The topics that its handlers' annotations and its sagas' functions name."""
        types = [type for handler in self._handlers for type in handler.replies]
        types += [type for definition in self.definitions.values() for type in definition.sends]
        return frozenset(contract_of(type).topic for type in types)

    def run(self, settings: Settings | None = None, *, roles: Sequence[Role] = ROLES) -> None:
        """Run until SIGTERM or SIGINT, then finish what has begun and return.

        Logging is set up as the settings say, unless the program has done so.

        Raises:
            ConfigurationError: if settings, tables or topics are not as they must be; the text names the remedy.
        """
        settings = settings or Settings.load()
        if not logging.getLogger().handlers:
            configure_logging(settings.log_format, settings.log_level)
        Runner(self, settings, roles).run()

    @contextmanager
    def running(
        self,
        settings: Settings | None = None,
        *,
        roles: Sequence[Role] = ROLES,
        on_failure: Callable[[], None] = end_process,
    ) -> Generator[Runner]:
        """Run beside something else, such as a web application, for as long as the block lasts.

        If one of the service's loops dies of an error that nobody foresaw, ``on_failure`` is called: by default the
        process gets a SIGTERM, so that it does not live on with half of it dead. Leaving the block raises the error.
        """
        runner = Runner(self, settings or Settings.load(), roles, on_failure)
        try:
            runner.start()
            yield runner
        finally:
            runner.stop()

    def _add(self, function: C, consumer: str, when_dead: WhenDead, *, takes_many: bool = False) -> C:
        handler = inspect_handler(function, consumer, when_dead, takes_many=takes_many)
        # A router refuses what does not fit together; better now than at the start.
        Router(self.name, [*self._handlers, handler], (), self.codec)
        self._handlers.append(handler)
        return function


def _key(definition: Definition, state: SagaState) -> str:
    field = None if definition.starts_on is None else contract_of(definition.starts_on).key
    if field is None or field not in type(state).model_fields:
        raise DefinitionError(
            f"saga {definition.name!r}: its correlation key cannot be told from {type(state).__name__}; "
            "give service.start(…, key=…)"
        )
    value = getattr(state, field)
    if value is None or value == "":
        raise KafkasagaError(
            f"saga {definition.name!r}: {type(state).__name__} has {field}={value!r}, which is its correlation key; "
            "give it the id of its entity: all sagas without one would be one"
        )
    return str(value)


def _checked(service: str, sagas: object) -> tuple[type[Saga[Any]], ...]:
    """What was given as ``sagas=``: a list of saga classes, each once."""
    if not isinstance(sagas, Iterable) or isinstance(sagas, type | str):
        shown = _shown(sagas)
        raise DefinitionError(f"service {service!r}: sagas={shown} is not a list; write sagas=[{shown}]")
    given: tuple[Any, ...] = tuple(sagas)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if strange := [_shown(saga) for saga in given if not (isinstance(saga, type) and issubclass(saga, Saga))]:
        raise DefinitionError(f"service {service!r}: {', '.join(strange)} in sagas= is not a Saga class")
    if twice := [_shown(saga) for n, saga in enumerate(given) if saga in given[:n]]:
        raise DefinitionError(f"service {service!r}: {', '.join(twice)} is in sagas= twice; name each once")
    return given


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
