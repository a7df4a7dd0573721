"""Who gets a record."""

from __future__ import annotations

from uuid import UUID, uuid4

from kafkasaga import Ends, Message, Saga, SagaState, Step
from kafkasaga.messages import UNREADABLE, JsonCodec, Record
from kafkasaga.runtime.handlers import Handler, inspect_handler
from kafkasaga.runtime.routing import HandlerRoute, Router, SagaRoute, Task, named_sagas
from kafkasaga.saga.instance import saga_id


class Base(Message, key="id"):
    id: str


class Begun(Base, topic="begun"): ...


class Ask(Base, topic="ask"): ...


class Yes(Base, topic="yes"): ...


class State(SagaState):
    id: str


class Asking(Saga[State], name="asking", version=1, starts_on=Begun):
    ask = Step[State](command=lambda s: Ask(id=s.id), succeeds_on=Yes, kind="read-only")
    flow = ask
    ends = Ends[State]()


class AskingToo(Saga[State], name="asking-too", version=1):
    ask = Step[State](command=lambda s: Ask(id=s.id), succeeds_on=Yes, kind="read-only")
    flow = ask
    ends = Ends[State]()


class OneOfMany(Base, topic="shared", type="shared.one"): ...


def handle_one_of_many(event: OneOfMany) -> None: ...
def handle_yes(event: Yes) -> None: ...
def handle_yes_too(event: Yes) -> None: ...


def record(topic: str, value: bytes = b'{"id":"1"}', **headers: str) -> Record:
    return Record(topic, 0, 7, b"1", value, {name: text.encode() for name, text in headers.items()})


def router(*handlers: Handler) -> Router:
    return Router("svc", handlers, [Asking.definition], JsonCodec())


def test_one_record_can_have_several_consumers() -> None:
    both = router(inspect_handler(handle_yes, "svc"), inspect_handler(handle_yes_too, "svc.too"))
    assert [task.consumer for task in both.route(record("yes"))] == ["svc", "svc.too", "saga:asking"]


def test_the_first_handler_of_a_message_is_the_guarded_one() -> None:
    both = router(inspect_handler(handle_yes, "svc"), inspect_handler(handle_yes_too, "svc.too"))
    routes = [task.route for task in both.route(record("yes"))]
    assert [route.guarded for route in routes if isinstance(route, HandlerRoute)] == [True, False]


def test_a_message_that_starts_a_saga_says_so() -> None:
    (task,) = router().route(record("begun"))
    assert task.route == SagaRoute("asking", starts=True)


def test_an_unknown_type_is_a_task_with_a_problem_of_its_own_consumer() -> None:
    (task,) = router().route(record("yes", ce_type="something.else"))
    assert task.consumer == "svc:unknown"
    assert task.problem is not None
    assert "'something.else'" in task.problem


def test_i10_headers_that_cannot_be_read_are_the_problem_that_is_told() -> None:
    broken = {UNREADABLE: b"a name is not UTF-8"}
    of_both = router(inspect_handler(handle_one_of_many, "svc"))
    for topic, consumer in (("yes", "saga:asking"), ("shared", "svc:unknown")):
        (task,) = of_both.route(Record(topic, 0, 7, b"1", b"", broken))
        assert (task.consumer, task.problem) == (consumer, "its headers cannot be read: a name is not UTF-8")


def test_a_body_that_cannot_be_decoded_is_a_problem_for_each_consumer() -> None:
    tasks = router(inspect_handler(handle_yes, "svc")).route(record("yes", b"{"))
    assert [task.consumer for task in tasks] == ["svc", "saga:asking"]
    assert all(task.problem is not None and "not a Yes" in task.problem for task in tasks)


def test_unknown_fields_are_accepted() -> None:
    (task,) = router().route(record("yes", b'{"id":"1","added":"later"}'))
    assert task.message == Yes(id="1")


def test_a_barriers_answer_needs_no_body() -> None:
    headers = {"ce_sagaid": str(uuid4()), "ce_sagastep": "ask", "ce_sagageneration": "0"}
    headers |= {"ce_sagaoperation": "compensation", "ce_sagamark": "empty"}
    (task,) = router().route(record("yes", b"", **headers))
    assert task.problem is None
    assert task.message is None


def test_a_record_without_a_key_has_no_lane() -> None:
    (task,) = router().route(Record("yes", 0, 0, None, b'{"id":"1"}', {}))
    assert task.lane is None


def test_a_parked_record_whose_consumer_is_gone_has_a_problem() -> None:
    task = router().route_for(record("yes"), "svc.gone")
    assert task.problem is not None
    assert "no consumer 'svc.gone'" in task.problem


def reply(saga: UUID, value: bytes = b'{"id":"1"}') -> Record:
    """To a saga that its headers name."""
    step = {"ce_sagastep": "ask", "ce_sagageneration": "0", "ce_sagaoperation": "action"}
    return record("yes", value, ce_saganame="asking", ce_sagaid=str(saga), **step)


def tasks(*records: Record) -> list[Task]:
    return [task for record in records for task in router().route(record)]


def test_the_sagas_that_messages_name_by_their_headers_or_begin() -> None:
    id = uuid4()
    begun = saga_id("asking", "1")
    assert named_sagas(tasks(reply(id), record("begun"))) == {id, begun}
    assert named_sagas([]) == set()


def test_a39_sagas_are_named_all_or_none_so_that_all_are_locked_in_one_order() -> None:
    assert not named_sagas(tasks(record("begun"), record("yes"), reply(uuid4())))


def test_what_cannot_be_handled_names_no_saga_and_hinders_none() -> None:
    id = uuid4()
    spoilt = reply(uuid4(), b"spoilt")
    assert named_sagas(tasks(spoilt, reply(id), record("unknown"))) == {id}


def test_a_reply_that_another_saga_awaits_too_hinders_none() -> None:
    id = uuid4()
    both = Router("svc", [], [Asking.definition, AskingToo.definition], JsonCodec())
    assert named_sagas(both.route(reply(id))) == {id}
