"""Which tasks of a batch are run together, as laws."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from hypothesis import event, given
from hypothesis import strategies as st

from kafkasaga import Message, Service
from kafkasaga.messages import Operation, Record
from kafkasaga.runtime.routing import HandlerRoute, Router, Task
from kafkasaga.runtime.runs import runs
from tests.unit.runtime.kit import Paid, Pay, Release, Released, Reserve, Reserved, context, saga_headers


class Note(Message, topic="reserve", type="note", key="id"):
    """Shares a topic with ``Reserve``, and so its lanes."""

    id: str


service = Service("svc")


@service.batch_handler
def reserve(commands: list[Reserve]) -> list[Reserved]:
    return []


@service.batch_handler
def release(commands: list[Release]) -> list[Released]:
    return []


@service.handler
def pay(command: Pay) -> Paid:
    return Paid(id=command.id)


@service.handler
def note(event: Note) -> None: ...


@dataclass(frozen=True)
class Sent:
    """A message as a test draws it."""

    type: str
    key: str | None
    saga: int | None
    operation: Operation


SENT = st.builds(
    Sent,
    st.sampled_from(["reserve", "note", "unreserve", "pay"]),
    st.sampled_from([None, "a", "b", "c"]),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from(list(Operation)),
)


def tasks(sent: list[Sent]) -> list[Task]:
    router: Router = service.router()
    return [task for offset, one in enumerate(sent) for task in router.route(_record(offset, one))]


def _record(offset: int, sent: Sent) -> Record:
    headers = {"ce_id": str(UUID(int=offset)), "ce_type": sent.type, "ce_source": "t"}
    if sent.saga is not None:
        headers |= saga_headers(context(UUID(int=sent.saga), sent.operation))
    key = None if sent.key is None else sent.key.encode()
    encoded = {name: text.encode() for name, text in headers.items()}
    topic = "reserve" if sent.type == "note" else sent.type
    return Record(topic, 0, offset, key, b'{"id": "x"}', encoded)


def _takes_many(task: Task) -> bool:
    return isinstance(task.route, HandlerRoute) and task.route.handler.takes_many


@given(st.lists(SENT, max_size=30).map(tasks))
def test_every_task_is_in_one_run_and_runs_are_of_one_handler(given: list[Task]) -> None:
    found = runs(given)
    event(f"runs joined: {len(given) > len(found)}")
    assert sorted(id(task) for run in found for task in run) == sorted(map(id, given))
    for run in found:
        assert len({id(task.route) for task in run}) == 1
        assert len(run) == 1 or _takes_many(run[0])


@given(st.lists(SENT, max_size=30).map(tasks))
def test_i04_tasks_of_one_lane_stay_in_their_order(given: list[Task]) -> None:
    ordered = [task for run in runs(given) for task in run]
    for lane in {task.lane for task in given} - {None}:
        assert [id(t) for t in ordered if t.lane == lane] == [id(t) for t in given if t.lane == lane]


@given(st.lists(SENT, max_size=30).map(tasks))
def test_i09_tasks_that_share_a_barrier_row_are_in_different_runs_in_their_order(given: list[Task]) -> None:
    found = runs(given)
    for key in {key for task in given for key in task.claims}:
        sharing = [[id(task) for task in run if key in task.claims] for run in found]
        assert all(len(run) <= 1 for run in sharing)
        assert [one for run in sharing for one in run] == [id(t) for t in given if key in t.claims]


def test_all_that_may_be_are_run_together() -> None:
    given = tasks([Sent("reserve", key, n, Operation.ACTION) for n, key in enumerate("abacab")])
    assert runs(given) == [given]
