"""A batch is one transaction; what happens to it when one of its messages fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, insert, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from kafkasaga import Outbox, Saga, Service, Step, exponential
from kafkasaga.ports import ParkedStatus, TopicPartition
from kafkasaga.runtime import batch
from kafkasaga.saga.instance import saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    Begun,
    Ledger,
    Node,
    Reserve,
    Reserved,
    State,
    VirtualClock,
    attributes,
    context,
    orchestrator,
    send,
)

Fault = Callable[[Session], None]


class Shop:
    """A service whose handler writes a row, and fails for the ids that a test names."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock) -> None:
        self.broker, self.ledger = broker, Ledger()
        self.faults: dict[str, Fault] = {}
        self.tried: list[str] = []
        service = Service(
            "svc", outbox=self.ledger.outbox, parking=exponential(attempts=3, first=timedelta(seconds=10))
        )

        @service.handler
        def reserve(command: Reserve, session: Session) -> Reserved:
            self.tried.append(command.id)
            session.execute(insert(self.ledger.entries).values(id=command.id))
            if command.id in self.faults:
                self.faults[command.id](session)
            return Reserved(id=command.id)

        self.node = Node(service, broker, clock)

    def send(self, *ids: str) -> None:
        for id in ids:
            send(self.broker, Reserve(id=id))

    def handled(self) -> list[str]:
        return self.ledger.ids(self.node)

    def commits(self, ids: str) -> list[str]:
        """Have these messages consumed; what was tried, and where transactions were committed."""
        self.tried = self.node.transactions()
        self.send(*ids)
        self.node.consume()
        return [each for each in self.tried if each != "rollback"]

    def parked(self) -> list[str]:
        return [(parked.record.key or b"").decode() for parked in self.node.parked()]

    def refused_at_flush(self, session: Session) -> None:
        session.add(_row(self.ledger, once="taken"))
        session.add(_row(self.ledger, once="taken"))

    def refused_at_commit(self, session: Session) -> None:
        session.execute(insert(self.ledger.entries).values(id="orphan", parent=999))


def raises(_: Session) -> None:
    raise ValueError("no such article")


def swallows(session: Session) -> None:
    """Ends the batch's transaction behind everybody's back."""
    session.connection().get_transaction().rollback()  # type: ignore[union-attr]


def _row(ledger: Ledger, **values: object) -> object:
    from sqlalchemy.orm import registry

    known = ledger.entries.info.get("class")
    if known is None:
        known = ledger.entries.info["class"] = type("Entry", (), {})
        registry(metadata=ledger.metadata).map_imperatively(known, ledger.entries)
    row = known()
    row.id = "flushed"
    for name, value in values.items():
        setattr(row, name, value)
    return row


@pytest.fixture
def shop(broker: MemoryBroker, clock: VirtualClock) -> Shop:
    return Shop(broker, clock)


def test_i01_a_batch_is_one_transaction(shop: Shop) -> None:
    shop.send("a", "b", "c")
    transactions = shop.node.transactions()
    shop.node.consume()
    assert shop.handled() == ["a", "b", "c"]
    assert transactions.count("commit") == 1
    assert shop.node.count("outbox") == shop.node.count("inbox") == 3


@pytest.mark.parametrize("failing", range(5))
def test_i13_a_message_that_raises_is_parked_and_the_others_are_handled(shop: Shop, failing: int) -> None:
    ids = ["a", "b", "c", "d", "e"]
    shop.faults[ids[failing]] = raises
    shop.send(*ids)
    shop.node.consume()
    assert shop.handled() == [id for id in ids if id != ids[failing]]
    assert shop.parked() == [ids[failing]]
    assert shop.node.count("outbox") == 4
    assert shop.node.count("inbox") == 5
    assert shop.broker.offset("svc", TopicPartition("reserve", 0)) == 5


def test_what_came_before_the_failure_commits_as_one_batch_and_so_does_the_rest(shop: Shop) -> None:
    shop.faults["d"] = raises
    shop.send("a", "b", "c", "d", "e", "f", "g")
    transactions = shop.node.transactions()
    shop.node.consume()
    assert shop.tried == [*"abcd", *"abc", *["d"] * batch.ATTEMPTS_IN_PROCESS, *"efg"]
    assert [kind for kind in transactions if kind == "commit"] == ["commit"] * 3  # before, parked, rest


@pytest.mark.parametrize("fault", ["refused_at_flush", "refused_at_commit", "swallows"])
@pytest.mark.parametrize("failing", ["a", "d", "h"])
def test_i13_what_the_database_refuses_at_the_end_is_found_and_parked(shop: Shop, fault: str, failing: str) -> None:
    shop.faults[failing] = swallows if fault == "swallows" else getattr(shop, fault)
    shop.send(*"abcdefgh")
    shop.node.consume()
    assert shop.handled() == [id for id in "abcdefgh" if id != failing]
    assert shop.parked() == [failing]


def test_a_passing_failure_is_not_parked(shop: Shop) -> None:
    def once(session: Session) -> None:
        del shop.faults["b"]
        raise ConnectionError

    shop.faults["b"] = once
    shop.send("a", "b", "c")
    shop.node.consume()
    assert shop.handled() == ["a", "b", "c"]
    assert shop.parked() == []


def test_where_many_fail_they_are_not_waited_for(shop: Shop, clock: VirtualClock) -> None:
    ids = [str(n) for n in range(200)]
    shop.faults |= dict.fromkeys(ids[::2], raises)
    shop.send(*ids)
    began = clock.monotonic()
    shop.node.consume()
    assert clock.monotonic() - began < 2 * batch.SECONDS_IN_PROCESS
    assert len(shop.parked()) == 100


@pytest.mark.parametrize("seconds", [0.0, 1.0, 60.0])
def test_a_batch_that_met_another_in_a_deadlock_is_repeated_whole(
    shop: Shop, clock: VirtualClock, seconds: float
) -> None:
    shop.faults["c"] = _conflict(times=1, after=lambda: clock.sleep(seconds))
    assert shop.commits("abcd") == [*"abc", *"abcd", "commit"]


def test_if_it_meets_one_alone_too_it_is_halved(shop: Shop, clock: VirtualClock) -> None:
    shop.faults["c"] = _conflict(times=2, after=lambda: clock.sleep(1.0))
    assert shop.commits("abcd") == [*"abc", *"abc", *"ab", "commit", *"cd", "commit"]


def test_a_batch_that_waited_for_a_lock_in_vain_is_halved(shop: Shop) -> None:
    shop.faults["c"] = _conflict(times=1, error=_LockTimeout)
    assert shop.commits("abcd") == [*"abc", *"ab", "commit", *"cd", "commit"]


def test_a_message_alone_that_meets_others_is_tried_again(shop: Shop) -> None:
    shop.faults["a"] = _conflict(times=2)
    shop.send("a")
    shop.node.consume()
    assert shop.tried == ["a", "a", "a"]
    assert shop.handled() == ["a"]


@pytest.mark.parametrize(("seconds", "tries"), [(0.0, batch.CONFLICTS_IN_A_ROW), (2.0, 3), (10.0, 1)])
def test_a_message_alone_meets_others_for_five_seconds_or_eight_times_and_once_more_by_itself(
    shop: Shop, clock: VirtualClock, seconds: float, tries: int
) -> None:
    shop.faults["a"] = _conflict(times=1000, after=lambda: clock.sleep(seconds), error=_LockTimeout)
    shop.send("a")
    shop.node.consume()
    assert shop.tried == ["a"] * 2 * tries
    assert shop.parked() == ["a"]


def test_a_message_that_met_another_waits_before_it_is_tried_again(shop: Shop, clock: VirtualClock) -> None:
    shop.faults["a"] = _conflict(times=1, error=_LockTimeout)
    shop.send("a")
    began = clock.monotonic()
    shop.node.consume()
    assert shop.handled() == ["a"]
    assert clock.monotonic() - began >= 0.005


def test_an_error_behind_a_conflict_does_not_speak_of_it(shop: Shop) -> None:
    conflict = _conflict(times=1)

    def fault(session: Session) -> None:
        conflict(session)
        raise ValueError("out of stock")

    shop.faults["a"] = fault
    shop.send("a")
    shop.node.consume()
    (parked,) = shop.node.parked()
    assert "out of stock" in parked.error
    assert "_Deadlock" not in parked.error


def test_i13_a_message_that_can_begin_no_saga_is_parked_and_the_others_begin_theirs(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    node = orchestrator(broker, clock)
    for id in ("1", "", "2"):
        send(broker, Begun(id=id))
    node.consume()
    assert node.count("saga") == 2
    assert len(node.parked()) == 1


def test_i13_to_set_a_message_aside_nobody_looks_for_its_saga(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    send(broker, Begun(id=""))
    (record,) = broker.records("begun")
    node.batches.set_aside(record, RuntimeError("it ended its process"))
    assert len(node.parked()) == 1


def test_i13_a_message_for_a_saga_that_cannot_be_read_is_parked_and_the_others_go_on(
    broker: MemoryBroker, clock: VirtualClock
) -> None:
    node = orchestrator(broker, clock)
    ids = {key: saga_id("buy", key) for key in "123"}
    for key in ids:
        send(broker, Begun(id=key))
    node.consume()
    with node.store.engine.begin() as connection:
        saga = node.store.tables.saga
        connection.execute(update(saga).where(saga.c.saga_id == ids["2"]).values(snapshot="spoilt"))
    for key, id in ids.items():
        send(broker, Reserved(id=key), saga=context(id))
    node.consume()
    node.publish()
    assert len(broker.records("pay")) == 2
    assert [(parked.record.key or b"").decode() for parked in node.parked()] == ["2"]


class _Deadlock(Exception):
    sqlstate = "40P01"


class _LockTimeout(Exception):
    sqlstate = "55P03"


def _conflict(
    times: int, after: Callable[[], None] = lambda: None, error: type[_Deadlock | _LockTimeout] = _Deadlock
) -> Fault:
    left = iter(range(times))

    def meet(_: Session) -> None:
        if next(left, None) is not None:
            after()
            raise OperationalError("select", {}, error())

    return meet


def test_a_conflict_without_end_is_parked_alone(shop: Shop) -> None:
    def conflict(session: Session) -> None:
        raise OperationalError("select", {}, _Deadlock())

    shop.faults["b"] = conflict
    shop.send("a", "b", "c")
    shop.node.consume()
    assert shop.handled() == ["a", "c"]
    assert shop.parked() == ["b"]


def test_a04_the_same_message_twice_takes_effect_once(shop: Shop) -> None:
    same = uuid4()
    send(shop.broker, Reserve(id="a"), id=same)
    send(shop.broker, Reserve(id="a"), id=same)
    shop.node.consume()
    send(shop.broker, Reserve(id="a"), id=same)
    shop.node.consume()
    assert shop.handled() == ["a"]
    assert shop.node.count("outbox") == 1


def test_i03_equal_ids_of_two_sources_are_two_messages(shop: Shop) -> None:
    same = uuid4()
    send(shop.broker, Reserve(id="a"), id=same, source="one")
    send(shop.broker, Reserve(id="a"), id=same, source="two")
    shop.node.consume()
    assert shop.handled() == ["a", "a"]


def test_a_batch_that_is_run_again_sends_the_same_ids(broker: MemoryBroker, clock: VirtualClock) -> None:
    for _ in range(2):
        shop = Shop(broker, clock)  # with a database that knows nothing, and a group that has read nothing
        if not broker.records("reserve"):
            shop.send("a", "b")
        broker.commit("svc", {TopicPartition("reserve", 0): 0})
        shop.node.consume()
        shop.node.publish()
        shop.node.loop._consumer.close()
    ids = [a.id for a in attributes(broker, "reserved")]
    assert ids[:2] == ids[2:]


# ---- parking


def test_i04_later_messages_of_a_parked_key_wait_behind_it(shop: Shop) -> None:
    shop.faults["a"] = raises
    shop.send("a", "b", "a")
    shop.node.consume()
    shop.send("a", "b")
    shop.node.consume()
    assert shop.handled() == ["b", "b"]
    assert shop.parked() == ["a", "a", "a"]
    assert [parked.attempts for parked in shop.node.parked()] == [1, 0, 0]


def test_a_parked_message_keeps_its_bytes_headers_and_error(shop: Shop) -> None:
    shop.faults["a"] = raises
    shop.send("a")
    shop.node.consume()
    (parked,) = shop.node.parked()
    (record,) = shop.broker.records("reserve")
    assert parked.record == record
    first, _, rest = parked.error.partition("\n")
    assert re.fullmatch(r"ValueError: no such article \(handler .*\.reserve\)", first)
    assert "Traceback" in rest


def test_parked_messages_are_handled_in_order_when_the_cause_is_gone(shop: Shop, clock: VirtualClock) -> None:
    shop.faults["a"] = raises
    shop.send("a", "a", "b", "a")
    shop.node.consume()
    assert not shop.node.batches.retry_parked(), "it is not due yet"
    shop.tried.clear()
    shop.faults.clear()
    clock.sleep(11)
    while shop.node.batches.retry_parked():
        pass
    assert shop.parked() == []
    assert shop.tried == ["a", "a", "a"]
    assert shop.node.count("outbox") == 4
    shop.send("a")
    shop.node.consume()
    assert shop.tried == ["a"] * 4


def test_i10_a_message_without_attempts_left_is_dead_and_holds_its_key(shop: Shop, clock: VirtualClock) -> None:
    shop.faults["a"] = raises
    shop.send("a", "a")
    shop.node.consume()
    for _ in range(5):
        clock.sleep(100)
        shop.node.batches.retry_parked()
    first, second = shop.node.parked()
    assert (first.status, first.attempts) == (ParkedStatus.DEAD, 3)
    assert (second.status, second.attempts) == (ParkedStatus.WAITING, 0)


@pytest.mark.parametrize("fault", ["refused_at_flush", "refused_at_commit"])
def test_a_parked_message_that_the_database_refuses_again_stays_parked(
    shop: Shop, clock: VirtualClock, fault: str
) -> None:
    shop.faults["a"] = getattr(shop, fault)
    shop.send("a")
    shop.node.consume()
    clock.sleep(11)
    assert shop.node.batches.retry_parked()
    (parked,) = shop.node.parked()
    assert parked.attempts == 2
    assert shop.handled() == []


def test_i10_what_cannot_be_read_is_kept_and_blocks_only_its_key(shop: Shop) -> None:
    shop.broker.append("reserve", b"a", b"\xff not json", {"ce_id": b"1", "x": b"\xfe\x00"})
    shop.send("a", "b")
    shop.node.consume()
    assert shop.handled() == ["b"]
    undecodable, behind = shop.node.parked()
    assert (undecodable.status, undecodable.record.value) == (ParkedStatus.DEAD, b"\xff not json")
    assert undecodable.record.headers == {"ce_id": b"1", "x": b"\xfe\x00"}
    assert "not a Reserve" in undecodable.error
    assert behind.status is ParkedStatus.WAITING


def test_an_unknown_type_is_kept_and_blocks_nothing(shop: Shop) -> None:
    shop.broker.append("reserve", b"a", b"{}", {"ce_type": b"something.else"})
    shop.send("a")
    shop.node.consume()
    assert shop.handled() == ["a"]
    (unknown,) = shop.node.parked()
    assert unknown.consumer == "svc:unknown"
    assert unknown.status is ParkedStatus.DEAD


def test_a38_one_of_two_consumers_of_a_message_fails_alone(broker: MemoryBroker, clock: VirtualClock) -> None:
    ledger = Ledger()
    service = Service("svc", outbox=ledger.outbox)

    @service.handler
    def good(command: Reserve, session: Session) -> None:
        session.execute(insert(ledger.entries).values(id=command.id))

    @service.handler(consumer="svc.bad")
    def bad(command: Reserve) -> None:
        raise ValueError

    node = Node(service, broker, clock)
    send(broker, Reserve(id="a"))
    node.consume()
    assert ledger.ids(node) == ["a"]
    assert [parked.consumer for parked in node.parked()] == ["svc.bad"]


def test_a_handler_that_swallows_a_database_error_does_not_take_others_with_it(shop: Shop) -> None:
    def swallowed(session: Session) -> None:
        try:
            session.execute(text("INSERT INTO entries (n) VALUES (1)"))
        except IntegrityError:
            session.connection().get_transaction().rollback()  # type: ignore[union-attr]

    shop.faults["a"] = swallowed
    shop.send("a", "b", "c")
    shop.node.consume()
    assert shop.handled() == ["b", "c"]
    assert shop.parked() == ["a"]


def test_a_handler_may_not_end_the_batchs_transaction(shop: Shop) -> None:
    shop.faults["b"] = lambda session: session.commit()
    shop.send("a", "b", "c")
    shop.node.consume()
    assert shop.handled() == ["a", "c"]
    (parked,) = shop.node.parked()
    assert "kafkasaga commits after the last handler of the batch" in parked.error


def test_a_saga_starts_once_whatever_the_id_of_its_message(broker: MemoryBroker, clock: VirtualClock) -> None:
    node = orchestrator(broker, clock)
    for _ in range(3):
        send(broker, Begun(id="1"))
    node.consume()
    node.publish()
    assert node.count("saga") == 1
    assert len(broker.records("reserve")) == 1


def test_of_an_error_with_many_lines_the_log_and_the_list_show_the_first_and_where(shop: Shop) -> None:
    def complains(_: Session) -> None:
        raise ValueError("no such article\n\nlook into the catalogue\n")

    shop.faults["bad"] = complains
    shop.send("bad")
    with capture_logs() as logs:
        shop.node.consume()
    shown = next(line["error"] for line in logs if line["event"] == "message parked")
    assert re.fullmatch(r"ValueError: no such article \(handler .*\.reserve\)", shown)
    assert shop.node.parked()[0].error.startswith(shown + "\n")


def test_an_error_of_a_saga_names_step_and_operation(broker: MemoryBroker, clock: VirtualClock) -> None:
    class Broken(Saga[State], name="broken", version=1, starts_on=Begun):
        seat = Step[State](command=lambda s: Reserve(id=s.nothing), succeeds_on=Reserved, kind="read-only")  # type: ignore[attr-defined]
        flow = seat

    node = Node(Service("orchestrator", sagas=[Broken], outbox=Outbox(MetaData())), broker, clock)
    send(broker, Begun(id="one"))
    node.consume()
    first = node.parked()[0].error.partition("\n")[0]
    assert first == "AttributeError: 'State' object has no attribute 'nothing' (saga 'broken', step 'seat', command=)"
