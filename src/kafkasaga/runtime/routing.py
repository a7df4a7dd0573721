"""Who gets a message: the handlers and sagas of a service, by topic and type."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from kafkasaga.errors import DefinitionError, UndecodableMessage
from kafkasaga.messages import (
    Attributes,
    Codec,
    Message,
    Operation,
    Record,
    Registry,
    SagaContext,
    contract_of,
    fault_of_headers,
    key_of,
    read_attributes,
)
from kafkasaga.ports import LONGEST_LANE, BarrierKey, InboxKey, ParkedKey
from kafkasaga.runtime.handlers import Handler
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.instance import saga_id
from kafkasaga.values import kept, value


@value(frozen=True, slots=True)
class HandlerRoute:
    """To a handler."""

    handler: Handler
    guarded: bool
    """True for the one handler of its message that answers sagas: the barrier stands before it."""

    @property
    def consumer(self) -> str:
        return self.handler.consumer


@value(frozen=True, slots=True)
class SagaRoute:
    """To the instances of a saga, or to a new one."""

    saga: str
    starts: bool
    is_event: bool = False
    """A ``WaitFor`` awaits it: it is for whoever awaits it, and may come before they do. A reply is for one saga."""

    @property
    def consumer(self) -> str:
        return saga_consumer(self.saga)

    def context(self, attributes: Attributes) -> SagaContext | None:
        """The saga attributes of a message, unless they are about another saga: then it is but an event to this one."""
        context = attributes.saga
        return None if context is not None and context.saga not in ("", self.saga) else context


Route = HandlerRoute | SagaRoute


@value(frozen=True)
class Task:
    """One record for one consumer: the unit that succeeds, fails, or is parked. What follows from it is kept."""

    consumer: str
    record: Record
    attributes: Attributes
    route: Route | None
    message: Message | None
    problem: str | None = None
    """Why it cannot be handled at all."""

    @kept
    def inbox_key(self) -> InboxKey:
        return InboxKey(self.consumer, self.attributes.source, self.attributes.id)

    @kept
    def lane(self) -> ParkedKey | None:
        """Its lane of order; a record without a key has none."""
        key = self.record.key
        return None if key is None else ParkedKey(self.consumer, self.record.topic, key[:LONGEST_LANE])

    @property
    def key(self) -> str:
        """Its correlation key: its key field, or (without a body) its record key."""
        return key_of(self.message) if self.message is not None else (self.record.key or b"").decode("utf-8", "replace")

    @kept
    def saga(self) -> UUID | None:
        """The saga that it is for, as far as it says so itself: by its headers, or by what it starts."""
        route = self.route
        if not isinstance(route, SagaRoute):
            return None
        context = route.context(self.attributes)
        if context is not None:
            return context.saga_id
        return saga_id(route.saga, self.key) if route.starts else None

    @property
    def is_sought(self) -> bool:
        """Whether its saga has to be looked for, by its key. A reply that another saga awaits is for none."""
        route = self.route
        if not isinstance(route, SagaRoute) or self.saga is not None:
            return False
        return self.attributes.saga is None or route.is_event

    @kept
    def command_of(self) -> SagaContext | None:
        """The saga that asks for something by it, if the barrier stands before it; None for any other message."""
        route, context = self.route, self.attributes.saga
        if context is None or not isinstance(route, HandlerRoute) or not route.guarded:
            return None
        is_answer = context.command_id is not None or context.mark is not None
        return None if is_answer else context

    @kept
    def asks(self) -> BarrierKey | None:
        """What a saga asks for by it, behind the barrier."""
        context = self.command_of
        if context is None:
            return None
        return BarrierKey(context.saga_id, context.step, context.generation, context.operation)

    @kept
    def claims(self) -> Sequence[BarrierKey]:
        """The barrier's rows that it needs: a compensation its action's too."""
        key = self.asks
        if key is None:
            return ()
        return (key,) if key.operation is Operation.ACTION else (key.action, key)


def named_sagas(tasks: Iterable[Task]) -> Collection[UUID]:
    """The sagas of these tasks, if all name theirs; else none.

    Those that have to be looked for are known later, and all are to be locked together, in one order (A39).
    """
    sound = [task for task in tasks if task.problem is None]
    if any(task.is_sought for task in sound):
        return ()
    return {task.saga for task in sound if task.saga is not None}


def saga_consumer(saga: str) -> str:
    """The dedup identity of a saga."""
    return f"saga:{saga}"


class Router:
    """The routes of a service.

    Raises:
        DefinitionError: if two handlers want one message as the same consumer.
    """

    def __init__(
        self, service: str, handlers: Iterable[Handler], definitions: Iterable[Definition], codec: Codec
    ) -> None:
        self.service, self.codec = service, codec
        self.registry = Registry()
        self._routes: dict[type[Message], dict[str, Route]] = {}
        for handler in handlers:
            self._add_handler(handler)
        for definition in definitions:
            for type in definition.replies:
                is_event = contract_of(type).type in definition.awaited_events
                self._add(type, SagaRoute(definition.name, starts=False, is_event=is_event))
            if definition.starts_on is not None:
                self._add(definition.starts_on, SagaRoute(definition.name, starts=True))

    @property
    def topics(self) -> frozenset[str]:
        return self.registry.topics

    def route(self, record: Record) -> list[Task]:
        """The tasks of a record, decoded once. Never raises: what cannot be handled says so in ``problem``."""
        attributes = read_attributes(record)
        type = self.registry.find(record.topic, attributes.type)
        if type is None:
            named = reprlib.repr(attributes.type)
            unknown = f"service {self.service!r} knows no type {named} on topic {record.topic!r}"
            unknown = fault_of_headers(record) or unknown
            return [Task(f"{self.service}:unknown", record, attributes, None, None, unknown)]
        message, problem = self._decoded(type, record, attributes)
        return [
            Task(route.consumer, record, attributes, route, message, problem) for route in self._routes[type].values()
        ]

    def _decoded(
        self, type: type[Message], record: Record, attributes: Attributes
    ) -> tuple[Message | None, str | None]:
        """What a record says, or why it cannot be handled."""
        if problem := fault_of_headers(record):
            return None, problem
        if attributes.saga is not None and attributes.saga.mark is not None and not record.value:
            return None, None
        try:
            return self.codec.decode(type, record.value or b""), None
        except UndecodableMessage as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - from a validator or a codec of the user's
            return None, f"not a {type.__name__}: {reprlib.repr(error)}"

    def route_for(self, record: Record, consumer: str) -> Task:
        """The one task of a record for ``consumer``: what a parked message is run by."""
        for task in self.route(record):
            if task.consumer == consumer:
                return task
        attributes = read_attributes(record)
        named = reprlib.repr(attributes.type)
        problem = f"service {self.service!r} has no consumer {consumer!r} for {named} any more"
        return Task(consumer, record, attributes, None, None, problem)

    def _add_handler(self, handler: Handler) -> None:
        routes = self._routes.get(handler.message, {})
        others = [route for route in routes.values() if isinstance(route, HandlerRoute)]
        for other in others:
            if other.consumer == handler.consumer:
                raise DefinitionError(
                    f"two handlers for {handler.message.__name__} in consumer {handler.consumer!r}: "
                    f"{other.handler.name} and {handler.name}; if both shall run, name the second: "
                    f"@service.handler(consumer='{self.service}.{handler.name.rpartition('.')[2]}')"
                )
        self._add(handler.message, HandlerRoute(handler, guarded=not others))

    def _add(self, type: type[Message], route: Route) -> None:
        self.registry.add(type)
        routes = self._routes.setdefault(type, {})
        known = routes.get(route.consumer)
        if isinstance(known, SagaRoute) and isinstance(route, SagaRoute):
            route = SagaRoute(route.saga, known.starts or route.starts, known.is_event or route.is_event)
        routes[route.consumer] = route


def definitions_by_version(definitions: Iterable[Definition]) -> Mapping[tuple[str, int], Definition]:
    """Definitions by name and version.

    Raises:
        DefinitionError: if two have the same.
    """
    found: dict[tuple[str, int], Definition] = {}
    for definition in definitions:
        if found.setdefault((definition.name, definition.version), definition) is not definition:
            raise DefinitionError(
                f"two sagas are called {definition.name!r} version {definition.version}; "
                "give one another version= or name="
            )
    return found
