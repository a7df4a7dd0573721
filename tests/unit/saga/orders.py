"""The sagas that the tests of the core use: the order saga, and one with every other construct."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kafkasaga.messages import Message, Operation, SagaContext, SagaState, contract_of
from kafkasaga.saga.definition import Definition, Saga
from kafkasaga.saga.events import Ignored
from kafkasaga.saga.flow import Each, Ends, LocalStep, Step, WaitFor, parallel, reply
from kafkasaga.saga.inputs import Arrived, Input, start_of
from kafkasaga.saga.instance import Instance
from kafkasaga.saga.machine import Decision, decide
from kafkasaga.saga.policy import exponential

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Order(Message, key="order"):
    order: str = "o-1"


class Created(Order, topic="created"):
    lines: tuple[str, ...] = ()
    total: int = 10


class Completed(Order, topic="completed"): ...


class Cancelled(Order, topic="cancelled"):
    reason: str
    refused_by: str | None = None


class Reserve(Order, topic="reserve"): ...


class Reserved(Order, topic="reserved"):
    hold: str = "h-1"


class Unavailable(Order, topic="unavailable"):
    reason: str = "none left"


class Release(Order, topic="release"):
    hold: str | None


class Released(Order, topic="released"): ...


class Pay(Order, topic="pay"): ...


class Paid(Order, topic="paid"): ...


class Declined(Order, topic="declined"):
    reason: str = "declined"


class Refund(Order, topic="refund"): ...


class Refunded(Order, topic="refunded"): ...


class Ship(Order, topic="ship"):
    line: str


class Shipped(Order, topic="shipped"):
    tracking: str


class Unshippable(Order, topic="unshippable"): ...


class Approved(Order, topic="approved"):
    by: str = "ann"


class Rejected(Order, topic="rejected"):
    reason: str = "too dear"


class State(SagaState):
    order: str
    lines: tuple[str, ...] = ()
    total: int = 10
    hold: str | None = None
    approver: str | None = None
    booked: bool = False
    tracking: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)

    def reserved(self, reply: Reserved) -> None:
        self.hold = reply.hold

    def approved(self, event: Approved) -> None:
        self.approver = event.by


def reserving(**changed: Any) -> Step[State]:
    arguments: dict[str, Any] = {
        "command": lambda s: Reserve(order=s.order),
        "succeeds_on": reply(Reserved, State.reserved),
        "fails_on": Unavailable,
        "compensation": lambda s: Release(order=s.order, hold=s.hold),
        "compensated_on": Released,
        "deadline": timedelta(seconds=30),
        "compensation_retry": exponential(attempts=2),
    }
    return Step[State](**arguments | changed)


def paying(**changed: Any) -> Step[State]:
    arguments: dict[str, Any] = {
        "command": lambda s: Pay(order=s.order),
        "succeeds_on": Paid,
        "fails_on": Declined,
        "compensation": lambda s: Refund(order=s.order),
        "compensated_on": Refunded,
    }
    return Step[State](**arguments | changed)


def pivot(**changed: Any) -> Step[State]:
    without = {"compensation": None, "compensated_on": (), "kind": "pivot", "retry": exponential(attempts=2)}
    return paying(**without | changed)


def approving(**changed: Any) -> WaitFor[State]:
    arguments: dict[str, Any] = {
        "event": reply(Approved, State.approved),
        "fails_on": Rejected,
        "deadline": timedelta(days=2),
    }
    return WaitFor[State](**arguments | changed)


ENDS = Ends[State](
    completed=lambda s: Completed(order=s.order),
    cancelled=lambda s, why: Cancelled(
        order=s.order, reason=why.reason, refused_by=None if why.reply is None else type(why.reply).__name__
    ),
)


class PlaceOrder(Saga[State], name="place-order", version=1, starts_on=Created):
    reserve = reserving()
    pay = paying()
    flow = reserve >> pay
    ends = ENDS


class WithPivot(Saga[State], name="with-pivot", version=1, starts_on=Created):
    reserve = reserving()
    pay = pivot()
    flow = reserve >> pay
    ends = ENDS


class SideBySide(Saga[State], name="side-by-side", version=1, starts_on=Created):
    reserve = reserving()
    pay = paying()
    flow = parallel(reserve, pay)
    ends = ENDS


class WithApproval(Saga[State], name="with-approval", version=1, starts_on=Created):
    reserve = reserving()
    approve = approving()
    flow = reserve >> approve.when(lambda s: s.total > 5)
    ends = ENDS


def _shipped(s: Each[State, str], reply: Shipped) -> None:
    s.saga.tracking = {**s.saga.tracking, s.item: reply.tracking}


def shipping(**changed: Any) -> Step[Each[State, str]]:
    arguments: dict[str, Any] = {
        "command": lambda s: Ship(order=s.saga.order, line=s.item),
        "succeeds_on": reply(Shipped, _shipped),
        "fails_on": Unshippable,
        "kind": "retriable",
        "retry": exponential(attempts=2),
    }
    return Step[Each[State, str]](**arguments | changed)


class ShipLines(Saga[State], name="ship-lines", version=1, starts_on=Created):
    ship = shipping()
    flow = ship.for_each(lambda s: s.lines)
    ends = ENDS


def _book(s: State, session: list[str]) -> None:
    session.append("book")
    s.booked = True


def _unbook(s: State, session: list[str]) -> None:
    session.append("unbook")
    s.booked = False


class WithBooking(Saga[State], name="with-booking", version=1, starts_on=Created):
    book = LocalStep[State](_book, compensation=_unbook)
    pay = paying()
    flow = book >> pay
    ends = ENDS


class Run:
    """A saga driven input by input, for tests that need to choose headers and times."""

    def __init__(self, saga: type[Saga[State]], message: Message | None = None) -> None:
        self.definition: Definition = saga.definition
        self.now = NOW
        self.last: Decision = decide(self.definition, None, start_of(self.definition, message or Created()), NOW)

    @property
    def instance(self) -> Instance:
        return self.last.instance

    def take(self, input: Input, *, after: timedelta = timedelta()) -> Decision:
        self.now += after
        self.last = decide(self.definition, self.instance, input, self.now)
        return self.last

    def reply(self, message: Message, step: str, **changed: Any) -> Decision:
        """A reply with headers, as a participant of kafkasaga sends it."""
        values: dict[str, Any] = {
            "saga": self.instance.saga,
            "saga_id": self.instance.id,
            "step": step,
            "generation": 0,
            "operation": Operation.ACTION,
        }
        return self.take(Arrived(contract_of(message).type, message, SagaContext(**values | changed)))

    def undone(self, message: Message, step: str, **changed: Any) -> Decision:
        return self.reply(message, step, operation=Operation.COMPENSATION, **changed)

    def ignored(self) -> str:
        """Why the last input was ignored; fails if it was not."""
        (event,) = self.last.events
        assert isinstance(event, Ignored), event
        assert not self.last.effects
        return event.reason

    def sent(self) -> list[Message]:
        return [effect.message for effect in self.last.effects if hasattr(effect, "message")]
