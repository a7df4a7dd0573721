"""What a handler's type hints say, and what is refused at registration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

from kafkasaga import DefinitionError, Message, Outbox, Saga, SagaState, Service, Step

if TYPE_CHECKING:
    from decimal import Decimal as Money


class Base(Message, key="id"):
    id: str


class Ask(Base, topic="ask"): ...


class Yes(Base, topic="yes"): ...


class No(Base, topic="no"): ...


class Payments:
    def pay(self, command: Ask, session: Session) -> Yes:
        return Yes(id=command.id)


@pytest.fixture
def service() -> Service:
    return Service("payment")


def test_the_function_itself_is_returned(service: Service) -> None:
    def handle(command: Ask) -> Yes:
        return Yes(id=command.id)

    assert service.handler(handle) is handle
    assert service.handler(consumer="payment.second")(handle) is handle


def test_topics_come_from_the_hints(service: Service) -> None:
    @service.handler
    def handle(command: Ask, session: Session) -> Yes | No | None: ...

    assert service.reads == {"ask"}
    assert service.writes == {"yes", "no"}


def test_a_bound_method_brings_its_dependencies(service: Service) -> None:
    service.handler(Payments().pay)
    assert service.writes == {"yes"}


def test_an_unbound_method_is_refused_with_the_remedy(service: Service) -> None:
    with pytest.raises(DefinitionError, match=r"register the bound one, service\.handler\(instance\.pay\)"):
        service.handler(Payments.pay)


def test_a_handler_without_a_message_type_is_refused(service: Service) -> None:
    def handle(command, session: Session) -> Yes:  # type: ignore[no-untyped-def]
        return Yes(id="1")

    with pytest.raises(DefinitionError, match="its first parameter needs a Message type"):
        service.handler(handle)


def test_a_handler_without_a_return_type_is_refused(service: Service) -> None:
    def handle(command: Ask):  # type: ignore[no-untyped-def]
        return None

    with pytest.raises(DefinitionError, match="say what it returns"):
        service.handler(handle)


def test_a_handler_of_an_abstract_message_is_refused(service: Service) -> None:
    def handle(command: Base) -> None: ...

    with pytest.raises(DefinitionError, match=r"Base is an abstract base \(no topic=\)"):
        service.handler(handle)


def test_a_type_that_exists_only_for_the_type_checker_is_named(service: Service) -> None:
    def handle(command: Ask, amount: Money | None = None) -> None: ...

    with pytest.raises(DefinitionError, match="'Money' is not importable at run time"):
        service.handler(handle)


def test_a_parameter_that_nobody_fills_is_refused(service: Service) -> None:
    def handle(command: Ask, gateway: object) -> None: ...

    with pytest.raises(DefinitionError, match="parameter 'gateway' is neither the message nor a Session"):
        service.handler(handle)


def test_an_async_handler_is_refused(service: Service) -> None:
    async def handle(command: Ask) -> None: ...

    with pytest.raises(DefinitionError, match="write def instead of async def"):
        service.handler(handle)  # type: ignore[type-var]


def test_two_handlers_of_one_message_are_refused_unless_the_second_is_named(service: Service) -> None:
    @service.handler
    def first(command: Ask) -> None: ...

    def second(command: Ask) -> None: ...

    with pytest.raises(DefinitionError, match=r"two handlers for Ask .*consumer='payment\.second'"):
        service.handler(second)
    service.handler(consumer="payment.second")(second)


def test_a_service_name_that_kafka_would_mangle_is_refused() -> None:
    with pytest.raises(DefinitionError, match="service name 'Pay ment'"):
        Service("Pay ment")


def test_an_outbox_publishes_as_the_service_that_it_is_given_to() -> None:
    assert Service("shop", outbox=Outbox()).outbox.source == "shop"
    assert Service("shop", outbox=Outbox(source="legacy")).outbox.source == "legacy"


def answering(annotation: Any, answer: Any, *, many: bool = False) -> Any:
    """What a handler with this return annotation may return."""
    service = Service("answers")

    def handle(command: Any) -> Any:
        return answer

    handle.__annotations__ = {"command": list[Ask] if many else Ask, "return": annotation}
    (service.batch_handler if many else service.handler)(handle)
    message = Ask(id="a")
    return service._handlers[0].call([message], lambda: None)


@pytest.mark.parametrize(
    ("annotation", "many", "answer"),
    [
        (Yes, False, None),
        (Yes | No, False, None),
        (tuple[Yes, Yes], False, None),
        (list[Yes | No], True, [None]),
    ],
)
def test_a_forgotten_return_is_an_error(annotation: Any, many: bool, answer: Any) -> None:
    with pytest.raises(TypeError, match=r"handle returned None, .* does not name \(Yes.*forgotten"):
        answering(annotation, answer, many=many)


@pytest.mark.parametrize(
    ("annotation", "many", "answer"),
    [
        (None, False, None),
        (Yes | None, False, None),
        (list[Yes], False, []),
        (None, True, None),
        (list[None], True, [None]),
        (list[Yes | None], True, [None]),
    ],
)
def test_a_handler_that_says_so_may_answer_nothing(annotation: Any, many: bool, answer: Any) -> None:
    assert answering(annotation, answer, many=many) == [()]


class Noted(SagaState):
    id: str


class Asking(Saga[Noted], name="asking", version=1, starts_on=Ask):
    ask = Step[Noted](command=lambda s: Ask(id=s.id), succeeds_on=Yes, kind="read-only")
    flow = ask


@pytest.mark.parametrize(
    ("sagas", "said"),
    [
        (Asking, r"sagas=Asking is not a list; write sagas=\[Asking\]"),
        ([Asking, Asking], "Asking is in sagas= twice"),
        ([Ask], "Ask in sagas= is not a Saga class"),
        (["asking"], "'asking' in sagas= is not a Saga class"),
    ],
)
def test_sagas_that_are_none_are_refused(sagas: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Service("asks", sagas=sagas)
