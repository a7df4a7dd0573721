"""Messages that end the process, a world in which everything fails, and too many parked messages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import MetaData
from structlog.testing import capture_logs

from kafkasaga import Outbox, Service, exponential
from kafkasaga.errors import DatabaseUnavailable, HandlersFailing, KafkasagaError, SerializationConflict
from kafkasaga.messages import contract_of
from kafkasaga.ports import TopicPartition
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.execution import Execution, TaskFailed
from kafkasaga.runtime.parking import DEATHS
from kafkasaga.runtime.routing import Task
from kafkasaga.runtime.streak import LIMIT
from kafkasaga.runtime.watchdog import EXIT_STATUS, Watchdog
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Node, Reserve, VirtualClock, send

PLACE = TopicPartition(contract_of(Reserve).topic, 0)


class ProcessEnds(BaseException):
    """Ends the process: nothing after it is executed."""


class Plant:
    """A service whose processes die at the messages that a test names."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock) -> None:
        self.broker, self.clock = broker, clock
        self.deadly: set[str] = set()
        self.failing = False
        self.away: set[str] = set()
        """Messages at whose next attempt the database is away, once."""
        self.processes = 1
        self.handled: list[str] = []
        self.tried: defaultdict[str, int] = defaultdict(int)
        service = Service("svc", outbox=Outbox(MetaData()), parking=exponential(attempts=9, first=timedelta(hours=1)))

        @service.handler
        def handle(command: Reserve) -> None:
            self.tried[command.id] += 1
            if command.id in self.deadly:
                raise ProcessEnds
            if command.id in self.away:
                self.away.remove(command.id)
                raise DatabaseUnavailable("gone")
            if self.failing:
                raise ConnectionError("the bank is away")
            self.handled.append(command.id)

        self.node = Node(service, broker, clock)

    def send(self, *ids: str) -> None:
        for id in ids:
            send(self.broker, Reserve(id=id))

    def process(self, **options: int) -> ConsumerLoop:
        """Another process of the service; the one before is dead, and the group has noticed."""
        self.processes += 1
        assert self.processes < 20, "the process dies for ever"
        self.broker.leave("svc", self.node.loop._consumer)  # type: ignore[arg-type]
        self.node.loop = self.node.new_loop(**options)
        return self.node.loop

    def runs(self) -> bool:
        """Read until nothing is left; False if the process died."""
        try:
            self.node.consume()
        except ProcessEnds:
            return False
        return True

    def parked(self) -> list[tuple[str, int, str]]:
        return [((m.record.key or b"").decode(), m.deaths, m.status.value) for m in self.node.parked()]


@pytest.fixture
def plant(broker: MemoryBroker, clock: VirtualClock) -> Plant:
    return Plant(broker, clock)


def test_a21_a_message_that_ends_the_process_is_set_aside_and_its_neighbours_go_on(plant: Plant) -> None:
    plant.deadly = {"c"}
    plant.send(*"abcde")
    deaths = 0
    while not plant.runs():
        deaths += 1
        plant.process()
    assert deaths == 1 + DEATHS, "the first death was in a batch, and could have been anybody's"
    assert plant.handled[-2:] == ["d", "e"], "what the first, rolled back, batch had done is done again"
    assert set(plant.handled) == set("abde")
    assert plant.parked() == [("c", DEATHS, "dead")]
    assert "the process ended while this message was handled" in plant.node.parked()[0].error


def test_a21_two_deadly_messages_are_both_found(plant: Plant) -> None:
    plant.deadly = {"a", "c"}
    plant.send(*"abcd")
    for _ in range(1 + 2 * DEATHS):
        assert not plant.runs()
        plant.process()
    assert plant.runs()
    assert list(dict.fromkeys(plant.handled)) == ["b", "d"]
    assert plant.parked() == [("a", DEATHS, "dead"), ("c", DEATHS, "dead")]


def test_i04_what_follows_a_deadly_message_of_its_key_waits_behind_it(plant: Plant) -> None:
    plant.deadly = {"a"}
    plant.send("a", "b", "a")
    while not plant.runs():
        plant.process()
    assert plant.parked() == [("a", DEATHS, "dead"), ("a", 0, "waiting")]


def test_partitions_that_were_given_up_are_read_in_batches(plant: Plant) -> None:
    plant.send("a")
    plant.runs()
    plant.node.loop.stop()
    plant.node.loop.run()  # it ends at once, in good order
    plant.process()
    plant.send(*"bcd")
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 1


def test_care_ends_after_as_many_messages_as_a_batch_may_have(plant: Plant) -> None:
    plant.send("a")
    plant.runs()
    plant.process(batch_size=3)
    plant.send(*"bcdefgh")
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 2 + 2, "the first three are noted and handled; then batches of three and one"


def test_a_process_that_somebody_killed_costs_its_successor_one_note_and_no_speed(plant: Plant) -> None:
    plant.send(*"ab")
    plant.runs()
    plant.process()
    plant.send(*"cdefgh")
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 2, "where the batch ends; the batch"


def test_a21_only_the_batch_in_which_a_process_died_is_handled_one_by_one(plant: Plant) -> None:
    plant.send("a")
    plant.runs()
    plant.process(batch_size=3)
    plant.deadly = {"c"}
    plant.send(*"bcdefg")
    assert not plant.runs()
    plant.process(batch_size=3)
    plant.deadly.clear()
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 3 * 2 + 1, "b, c and d are each noted and handled; then a batch"


def test_a21_a_batch_that_was_noted_and_handled_is_suspected_no_more(plant: Plant) -> None:
    plant.send("a")
    plant.runs()
    plant.process()
    plant.send(*"bc")
    plant.runs()
    plant.process()
    plant.send(*"de")
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 2


def test_a21_a_deadly_message_far_from_offset_0_is_found_by_a_group_that_is_new(plant: Plant) -> None:
    """Offsets begin anywhere, and have gaps: their distance is no number of messages."""
    plant.process(batch_size=3)
    plant.send(*"0123456789")
    plant.broker.commit("svc", {PLACE: 10})
    plant.deadly = {"b"}
    plant.send(*"abc")
    while not plant.runs():
        plant.process(batch_size=3)
    assert plant.parked() == [("b", DEATHS, "dead")]
    assert set(plant.handled) == {"a", "c"}


def test_what_was_noted_of_a_topic_that_was_made_anew_suspects_nobody(plant: Plant) -> None:
    plant.send(*"abcd")
    plant.runs()
    with plant.node.store.begin() as uow:
        uow.note_batch("svc", {PLACE: 5_000})
    plant.broker.make_anew(PLACE.topic)
    plant.process(batch_size=4)
    plant.send(*"efg")
    transactions = plant.node.transactions()
    plant.runs()
    assert plant.handled == [*"abcdefg"]
    assert transactions.count("commit") == 3, "the new beginning; where the batch ends; the batch"


def test_a21_attempts_at_a_topic_that_was_made_anew_are_recorded(plant: Plant) -> None:
    """Also those at messages that come before the last attempt at the old one."""
    plant.send("a", "b")
    plant.process()
    plant.deadly = {"b"}
    for _ in range(2):
        assert not plant.runs()
        plant.process()
    plant.deadly.clear()
    assert plant.runs(), "a and b, one by one"
    plant.broker.make_anew(PLACE.topic)
    plant.deadly = {"c"}
    plant.send("c")
    assert not plant.runs()
    found = plant.node.store.take_over("svc", uuid4(), [PLACE])[PLACE]
    assert (found.next, found.suspect_end) == (0, 1)


def test_care_of_a_topic_that_was_made_anew_ends_as_ever(plant: Plant) -> None:
    plant.send(*"abcd")
    plant.runs()
    plant.process(batch_size=3)
    plant.send("e")
    plant.runs()
    plant.broker.make_anew(PLACE.topic)
    plant.send(*"fg")
    plant.runs()
    plant.send("h")
    transactions = plant.node.transactions()
    plant.runs()
    assert transactions.count("commit") == 1, "e, f and g were the three that are noted"


def test_a21_messages_that_are_given_again_after_an_outage_count_once(plant: Plant) -> None:
    plant.send("0")
    plant.runs()
    plant.process(batch_size=4)
    plant.deadly = {"e"}
    plant.send(*"bcde")
    assert not plant.runs()
    plant.process(batch_size=4)
    plant.away = {"d"}
    assert not plant.runs()
    found = plant.node.store.take_over("svc", uuid4(), [PLACE])[PLACE]
    assert (found.next, found.suspect_end) == (4, 5), "e is tried alone"


def test_a21_a_message_that_was_set_aside_is_not_tried_when_it_is_given_again(plant: Plant) -> None:
    plant.deadly = {"b"}
    plant.send(*"abc")
    for _ in range(DEATHS + 1):
        assert not plant.runs()
        plant.process()
    plant.away = {"c"}
    assert plant.runs()
    assert plant.parked() == [("b", DEATHS, "dead")]
    assert plant.handled[-1] == "c"


# ---- everything fails (A22)


def test_a22_where_everything_fails_the_world_is_not_parked(plant: Plant) -> None:
    plant.failing = True
    plant.send(*[f"{n}" for n in range(100)])
    records = plant.node.loop._consumer.poll(100, 0)
    with pytest.raises(HandlersFailing, match="the bank is away"):
        plant.node.batches.process(records)
    assert len(plant.parked()) == LIMIT
    with pytest.raises(HandlersFailing):
        plant.node.batches.process(records)
    assert len(plant.parked()) == LIMIT + 1, "one message is a probe"
    assert plant.tried[f"{LIMIT}"] == 2, "and it is not tried again and again"
    plant.failing = False
    plant.node.batches.process(records)
    assert len(plant.handled) == 100 - LIMIT - 1


def test_a22_it_is_said_once_when_it_begins_and_once_when_it_ends(plant: Plant) -> None:
    plant.failing = True
    plant.send(*[f"{n}" for n in range(20)])
    records = plant.node.loop._consumer.poll(100, 0)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(HandlersFailing):
                plant.node.batches.process(records)
        plant.failing = False
        plant.node.batches.process(records)
    said = [entry["event"] for entry in logs if not entry["event"].startswith("message parked")]
    assert said == [
        "every message fails; consuming slows down and tries one at a time",
        "messages are handled again",
    ]


def test_a_success_between_failures_is_no_systemic_failure(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.send(*[f"{n}" for n in range(3 * LIMIT)])
    records = plant.node.loop._consumer.poll(100, 0)
    for n, record in enumerate(records):
        plant.failing = n % LIMIT != 0
        plant.node.batches.process([record])
    assert len(plant.handled) == 3


def test_a22_the_loop_waits_and_goes_on_when_it_is_over(plant: Plant, clock: VirtualClock) -> None:
    plant.failing = True
    plant.send(*[f"{n}" for n in range(40)])
    sleep = clock.sleep

    def until_the_bank_is_back(seconds: float) -> None:
        sleep(seconds)
        plant.failing = plant.tried[f"{LIMIT + 3}"] == 0

    clock.sleep = until_the_bank_is_back  # type: ignore[method-assign]
    plant.failing = True
    consumer = plant.node.loop._consumer
    poll = consumer.poll

    def recovering(limit: int, timeout: float, gather: float = 0.0) -> list[object]:
        until_the_bank_is_back(timeout)
        return poll(limit, timeout, gather)  # type: ignore[return-value]

    first = poll(100, 0)
    consumer.poll = recovering  # type: ignore[assignment,method-assign]
    plant.node.loop._commit(first)
    assert len(plant.handled) + len(plant.parked()) == 40
    assert LIMIT <= len(plant.parked()) <= LIMIT + 4


# ---- too much is parked (I14)


def test_i14_a_partition_with_too_much_parked_is_read_no_further_until_there_is_less(
    plant: Plant, clock: VirtualClock
) -> None:
    loop = plant.node.loop
    loop._backpressure._limit = 5
    plant.deadly = set()
    plant.node.batches._streak.failed = lambda error: None  # type: ignore[method-assign]
    plant.failing = True
    plant.send(*[f"{n}" for n in range(6)])
    plant.runs()
    assert len(plant.parked()) == 6
    plant.failing = False
    plant.send("later")
    plant.runs()
    assert plant.handled == [], "the partition is paused"
    clock.sleep(3601)
    plant.node.batches.retry_parked()
    loop.step(0)
    plant.runs()
    assert "later" in plant.handled


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), SerializationConflict("locked")])
def test_i14_a_look_that_the_database_does_not_answer_is_made_again(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, error: KafkasagaError
) -> None:
    plant.runs()
    plant.node.loop._backpressure._limit = 5
    plant.failing = True
    plant.send(*[f"{n}" for n in range(6)])
    errors: list[KafkasagaError] = [error] * 3
    counts = plant.node.store.parked_counts

    def unanswered(places: Any) -> dict[TopicPartition, int]:
        if errors:
            raise errors.pop()
        return counts(places)

    monkeypatch.setattr(plant.node.store, "parked_counts", unanswered)
    plant.runs()
    for _ in range(3):
        plant.node.loop.step(0)
    plant.failing = False
    plant.send("later")
    plant.runs()
    assert errors == []
    assert plant.handled == [], "the partition is paused"


# ---- the watchdog


def test_a_handler_that_hangs_is_named_with_its_stack(plant: Plant, clock: VirtualClock) -> None:
    plant.send("a")
    record = plant.broker.records(PLACE.topic)[0]
    (task,) = plant.node.service.router().route(record)
    watchdog = Watchdog(10, clock)
    entered, leave = threading.Event(), threading.Event()

    def hang(task: Task) -> None:
        watchdog.began(task)
        entered.set()
        leave.wait()
        watchdog.ended()

    thread = threading.Thread(target=hang, args=(task,))
    thread.start()
    entered.wait()
    clock.sleep(10)
    assert not watchdog.look()
    clock.sleep(1)
    with capture_logs() as logs:
        assert watchdog.look()
    (entry,) = logs
    assert entry["handler"].endswith("handle")
    assert entry["topic"] == PLACE.topic
    assert "in hang" in entry["stack"]
    leave.set()
    thread.join()
    assert not watchdog.look()


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_watched_once_a_batch_has_run_or_failed(plant: Plant, clock: VirtualClock, *, failing: bool) -> None:
    plant.send("a", "b")
    plant.failing = failing
    node, watchdog = plant.node, Watchdog(10, clock)
    tasks = [task for record in plant.broker.records(PLACE.topic) for task in node.service.router().route(record)]
    with node.store.begin() as uow, nullcontext() if not failing else pytest.raises(TaskFailed):
        Execution(node.sender, {}, watchdog).run(uow, tasks)
    clock.sleep(3600)
    assert not watchdog.look()


HANGING = """
import os
import subprocess
import sys
import threading
from kafkasaga import Message, Service
from kafkasaga.clock import SystemClock
from kafkasaga.messages import JsonCodec, Record
from kafkasaga.runtime.watchdog import EXIT_STATUS, Watchdog

class Work(Message, topic="work", key="id"):
    id: str

service = Service("worker")

@service.handler
def hang(command: Work) -> None: ...

(task,) = service.router().route(Record("work", 0, 7, b"1", b'{"id": "1"}', {}))
watchdog = Watchdog(0.05, SystemClock())
watchdog.start()
watchdog.began(task)
if __import__("sys").argv[1] == "ends":
    watchdog.ended()
    watchdog.stop()
else:
    threading.Event().wait(60)
"""


@pytest.mark.parametrize(("what", "status"), [("hangs", EXIT_STATUS), ("ends", 0)])
def test_a21_a_handler_that_hangs_ends_its_process(what: str, status: int) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", HANGING, what]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status, ended.stderr
    said = ended.stdout + ended.stderr
    assert ("a handler hangs; the process ends" in said) == (what == "hangs")
    assert ("offset=7" in said) == (what == "hangs"), "by its place it can be found"
