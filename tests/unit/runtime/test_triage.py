"""What waits behind parked messages, and what does not: compensations with nothing to undo, commands sent again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData
from structlog.testing import capture_logs

from kafkasaga import Message, Outbox, Service, exponential
from kafkasaga.messages import Mark, Operation, contract_of
from kafkasaga.ports import BarrierEntry, BarrierKey, Outcome, ParkedStatus
from kafkasaga.stores.unit_of_work import SqlUnitOfWork
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Node, VirtualClock, attributes, context, saga_headers, send

ACTION, COMPENSATION = Operation.ACTION, Operation.COMPENSATION


class Command(Message, key="id"):
    id: str
    n: int = 0


class Charge(Command, topic="card", type="card.charge"): ...


class Refund(Command, topic="card", type="card.refund"): ...


class Other(Command, topic="card", type="card.other"): ...


class Charged(Command, topic="charged"): ...


class Refunded(Command, topic="refunded"): ...


class Bank:
    """A participant whose actions and compensations share a topic, and so a lane; it fails as a test says."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock, archive: list[int] | None = None) -> None:
        self.broker, self.clock, self.saga = broker, clock, uuid4()
        self.fails: defaultdict[type[Message], int] = defaultdict(int)
        self.ran: list[str] = []
        service = Service("bank", outbox=Outbox(MetaData()), parking=exponential(attempts=3, first=timedelta(hours=1)))

        @service.handler
        def charge(command: Charge) -> Charged:
            self.run(command)
            return Charged(id=command.id)

        @service.handler
        def refund(command: Refund) -> Refunded:
            self.run(command)
            return Refunded(id=command.id)

        @service.handler
        def other(command: Other) -> None:
            self.run(command)

        if archive is not None:

            @service.handler(consumer="audit")
            def audit(command: Charge) -> None:
                if self.fails[Charge]:
                    raise ConnectionError("the archive is away")
                archive.append(command.n)

        self.node = Node(service, broker, clock)

    def run(self, command: Command) -> None:
        if self.fails[type(command)]:
            self.fails[type(command)] -= 1
            raise ConnectionError("the bank is away")
        self.ran.append(f"{type(command).__name__} {command.n}")

    def send(self, *commands: Command, operation: Operation = ACTION) -> None:
        """Commands of one key; those of the saga's step carry its headers."""
        for command in commands:
            of_saga = not isinstance(command, Other)
            kind = COMPENSATION if isinstance(command, Refund) else operation
            send(self.broker, command, saga=context(self.saga, kind, step="pay") if of_saga else None)

    def reads(self, *commands: Command) -> None:
        self.send(*commands)
        self.node.consume()

    def parks(self, *commands: Command) -> None:
        """The first fails until it is parked."""
        self.fails[type(commands[0])] = 4
        self.reads(*commands)
        assert [body.split(b":")[0] for body in self.values()], "it was not parked"
        self.fails.clear()

    def values(self) -> list[bytes]:
        return [message.record.value or b"" for message in self.node.parked()]

    def marks(self, topic: str) -> list[Mark | None]:
        self.node.publish()
        return [a.saga.mark if a.saga else None for a in attributes(self.broker, topic)]

    def retry(self) -> None:
        self.clock.sleep(100_000)
        while self.node.batches.retry_parked():
            pass


@pytest.fixture
def bank(broker: MemoryBroker, clock: VirtualClock) -> Bank:
    return Bank(broker, clock)


def body(command: Command) -> bytes:
    return command.model_dump_json().encode()


# ---- compensations


def test_i09_a_compensation_does_not_wait_behind_its_own_parked_action(bank: Bank) -> None:
    bank.parks(Charge(id="1"))
    with capture_logs() as logs:
        bank.reads(Refund(id="1"))
    assert bank.node.parked() == []
    assert bank.marks("refunded") == [Mark.EMPTY]
    assert "parked message removed: its step was undone first" in [entry["event"] for entry in logs]
    bank.retry()
    assert bank.ran == []


def test_i10_a_dead_action_that_is_undone_lets_its_key_go_on(bank: Bank) -> None:
    bank.fails[Charge] = 100
    bank.reads(Charge(id="1"))
    bank.retry()
    bank.retry()
    assert [message.status for message in bank.node.parked()] == [ParkedStatus.DEAD]
    bank.reads(Other(id="1", n=1))
    bank.reads(Refund(id="1"), Other(id="1", n=2))
    assert bank.marks("refunded") == [Mark.EMPTY]
    bank.retry()
    assert bank.ran == ["Other 1", "Other 2"]
    assert bank.node.parked() == []


def test_i04_it_overtakes_others_of_its_key_too_since_its_handler_does_not_run(bank: Bank) -> None:
    bank.parks(Other(id="1"), Charge(id="1"))
    bank.reads(Refund(id="1"))
    assert bank.marks("refunded") == [Mark.EMPTY]
    assert bank.values() == [body(Other(id="1"))]
    assert bank.ran == []


def test_a02_the_action_is_superseded_also_if_it_comes_later_or_is_sent_again(bank: Bank) -> None:
    bank.parks(Charge(id="1"))
    bank.reads(Refund(id="1"))
    bank.reads(Charge(id="1", n=2))
    assert bank.ran == []
    assert bank.marks("charged") == [Mark.SUPERSEDED]


def test_i04_a_compensation_with_something_to_undo_waits_its_turn(bank: Bank) -> None:
    bank.reads(Charge(id="1"))
    bank.parks(Other(id="1"))
    bank.reads(Refund(id="1"))
    assert bank.ran == ["Charge 0"]
    bank.retry()
    assert bank.ran == ["Charge 0", "Other 0", "Refund 0"]
    assert bank.marks("refunded") == [None]


def test_i04_also_if_its_action_is_sent_again_and_that_is_parked(bank: Bank) -> None:
    """The action was carried out, its reply was lost; what is parked is but the question once more."""
    bank.reads(Charge(id="1"))
    bank.parks(Other(id="1"), Charge(id="1", n=2))
    bank.reads(Refund(id="1"))
    bank.retry()
    assert bank.ran == ["Charge 0", "Other 0", "Refund 0"]


def test_i04_also_if_its_action_runs_in_the_same_batch(broker: MemoryBroker, clock: VirtualClock) -> None:
    """The action came by another lane, which is free."""
    bank = Bank(broker, clock)
    bank.parks(Other(id="1"))
    broker.append("card", b"another", body(Charge(id="1")), _headers(bank.saga))
    with capture_logs() as logs:
        bank.reads(Refund(id="1"))
    assert bank.ran == ["Charge 0"]
    assert bank.values() == [body(Other(id="1")), body(Refund(id="1"))]
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_i04_what_comes_in_the_batch_of_the_compensation_keeps_its_order(bank: Bank) -> None:
    bank.fails[Other] = 4
    bank.reads(Other(id="1", n=1), Charge(id="1"), Other(id="1", n=2), Refund(id="1"), Other(id="1", n=3))
    assert bank.values() == [body(Other(id="1", n=n)) for n in (1, 2, 3)]
    assert bank.marks("refunded") == [Mark.EMPTY]
    bank.fails.clear()
    bank.retry()
    assert bank.ran == ["Other 1", "Other 2", "Other 3"]


def test_a_second_handler_of_the_command_is_not_the_sagas_business(broker: MemoryBroker, clock: VirtualClock) -> None:
    seen: list[int] = []
    bank = Bank(broker, clock, seen)
    bank.fails[Charge] = 100
    bank.reads(Charge(id="1"))
    assert len(bank.node.parked()) == 2
    bank.fails.clear()
    bank.reads(Refund(id="1"))
    assert [message.consumer for message in bank.node.parked()] == ["audit"]
    bank.retry()
    assert seen == [0]
    assert bank.ran == []


def test_a03_an_action_that_was_carried_out_meanwhile_makes_its_compensation_wait(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica handles the parked action between our two looks at the barrier."""
    bank.parks(Charge(id="1"), Other(id="1"))
    conflicts: list[BarrierKey] = []
    read = SqlUnitOfWork.read_barrier

    def late(uow: SqlUnitOfWork, keys: Collection[BarrierKey]) -> dict[BarrierKey, BarrierEntry]:
        """What the second look finds; from the next transaction on the first one finds it too."""
        known = read(uow, keys)
        found = {key: BarrierEntry(Outcome.DONE) for key in keys if key.operation is ACTION}
        conflicts.extend(found)
        return known | found

    def meanwhile(uow: SqlUnitOfWork, actions: Collection[BarrierKey]) -> set[BarrierKey]:
        return set(actions) if conflicts else set()

    monkeypatch.setattr(SqlUnitOfWork, "read_barrier", late)
    monkeypatch.setattr(SqlUnitOfWork, "carried_out", meanwhile)
    bank.reads(Refund(id="1"))
    assert len(conflicts) == 1
    assert bank.ran == [], "not before what its key has parked"
    assert bank.values()[-1] == body(Refund(id="1"))


# ---- commands that are sent again


def test_a_command_sent_again_does_not_line_up_behind_its_parked_predecessor(bank: Bank) -> None:
    bank.parks(Charge(id="1"), Other(id="1"))
    before = bank.node.parked()[0]
    bank.reads(Charge(id="1", n=2))
    bank.reads(Charge(id="1", n=3))
    assert bank.values() == [body(Charge(id="1", n=3)), body(Other(id="1"))]
    now = bank.node.parked()[0]
    assert (now.attempts, now.deaths, now.next_at, now.error) == (1, 0, before.next_at, before.error)
    bank.retry()
    assert bank.ran == ["Charge 3", "Other 0"]
    assert bank.marks("charged") == [None]


def test_a_resend_is_no_new_chance_for_what_fails_each_time(bank: Bank) -> None:
    bank.fails[Charge] = 100
    bank.reads(Charge(id="1"))
    for n in range(1, 3):
        bank.reads(Charge(id="1", n=n))
        bank.retry()
    (dead,) = bank.node.parked()
    assert (dead.status, dead.attempts) == (ParkedStatus.DEAD, 3)


def test_within_one_batch_the_latest_takes_the_place_of_the_first(bank: Bank) -> None:
    bank.parks(Other(id="1", n=1), Charge(id="1", n=1), Other(id="1", n=2), Charge(id="1", n=2))
    assert bank.values() == [body(Other(id="1", n=1)), body(Charge(id="1", n=2)), body(Other(id="1", n=2))]


def test_a_compensation_sent_again_replaces_its_predecessor_too(bank: Bank) -> None:
    bank.reads(Charge(id="1"))
    bank.parks(Refund(id="1", n=1))
    bank.reads(Refund(id="1", n=2))
    assert bank.values() == [body(Refund(id="1", n=2))]
    bank.retry()
    assert bank.ran == ["Charge 0", "Refund 2"]


def _headers(saga: UUID) -> dict[str, bytes]:
    headers = {"ce_id": str(uuid4()), "ce_source": "t", "ce_type": contract_of(Charge).type}
    headers |= saga_headers(context(saga, step="pay"))
    return {name: text.encode() for name, text in headers.items()}
