"""Two replicas at one parked message: the slower one finds that the other one had it, and lets go."""

from __future__ import annotations

from sqlalchemy.orm import Session

from kafkasaga import Service
from kafkasaga.ports import Parked
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.routing import Task
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Ledger, Node, Reserve, Reserved, VirtualClock, send


def test_a13_a_replica_that_slept_between_its_two_transactions_does_not_repeat_what_another_did(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    ledger, broken, slept = Ledger(), True, False
    service = Service("shelf", outbox=ledger.outbox)

    @service.handler
    def reserve(command: Reserve, session: Session) -> Reserved:
        if broken:
            raise RuntimeError("broken")
        session.execute(ledger.entries.insert().values(id=command.id))
        return Reserved(id=command.id)

    node = Node(service, broker, clock)
    other = BatchRunner(service.name, node.store, service.router(), {}, node.sender, service.parking)
    send(broker, Reserve(id="o"))
    node.consume()
    broken = False
    clock.sleep(600)
    retries = node.batches._retries
    attempt = retries._attempt

    def after_a_sleep(parked: Parked, task: Task) -> None:
        nonlocal slept
        clock.sleep(600)  # its wait is over: by the table, anybody may try the message
        slept = other.retry_parked()
        attempt(parked, task)

    retries._attempt = after_a_sleep  # type: ignore[method-assign]
    node.batches.retry_parked()
    assert slept, "another replica had it meanwhile"
    assert ledger.ids(node) == ["o"]
    assert node.count("outbox") == 1
    assert node.parked() == []


def test_a13_an_attempt_that_is_not_the_last_one_on_record_is_not_made(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    """Each attempt is counted before it is made, so that one which ends the process was counted."""
    tried: list[str] = []
    ledger = Ledger()
    service = Service("shelf", outbox=ledger.outbox)

    @service.handler
    def reserve(command: Reserve) -> Reserved:
        tried.append(command.id)
        raise RuntimeError("broken")

    node = Node(service, broker, clock)
    other = BatchRunner(service.name, node.store, service.router(), {}, node.sender, service.parking)
    postponed: list[tuple[Parked, Task]] = []
    attempt = node.batches._retries._attempt

    def after_another_has_counted(parked: Parked, task: Task) -> None:
        clock.sleep(600)
        other._retries._attempt = lambda *both: postponed.append(both)  # type: ignore[method-assign]
        assert other.retry_parked()
        attempt(parked, task)

    send(broker, Reserve(id="o"))
    node.consume()
    tried.clear()
    node.batches._retries._attempt = after_another_has_counted  # type: ignore[method-assign]
    clock.sleep(600)
    node.batches.retry_parked()
    assert tried == []
    assert len(postponed) == 1, "the fault was reached"
    attempt(*postponed[0])
    assert len(tried) == 1
