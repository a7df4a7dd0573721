from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import AwareDatetime, ValidationError

from kafkasaga.errors import DefinitionError, KafkasagaError
from kafkasaga.messages import Contract, Message, SagaState, contract_of, key_of


class OrderMessage(Message, key="order_id"):
    order_id: UUID


class Created(OrderMessage, topic="order.created"):
    total: int = 0


class Renamed(OrderMessage, topic="order.created", type="order.renamed.v2"): ...


class Keyed(OrderMessage, topic="lines", key="sku"):
    sku: str


class Topical(Message, topic="t", key="topic"):
    topic: str
    type: str = "field"
    key: str = "k"


ORDER = UUID(int=1)


def test_a_message_is_declared_once() -> None:
    assert contract_of(Created) == Contract("order.created", "order_id", "order.created")
    assert contract_of(Renamed(order_id=ORDER)).type == "order.renamed.v2"


def test_the_key_is_inherited_and_can_be_changed() -> None:
    assert key_of(Created(order_id=ORDER)) == str(ORDER)
    assert key_of(Keyed(order_id=ORDER, sku="A")) == "A"


def test_a_topic_is_not_inherited() -> None:
    class Child(Created): ...

    assert Child.__contract__ is None


def test_a_field_may_be_called_as_an_option_is() -> None:
    assert key_of(Topical(topic="x")) == "x"
    assert contract_of(Topical).topic == "t"


def test_a_message_is_immutable_and_compares_by_value() -> None:
    message = Created(order_id=ORDER)
    with pytest.raises(ValidationError, match="frozen"):
        message.total = 1  # type: ignore[misc]
    assert message == Created(order_id=ORDER, total=0)


def test_a_message_refuses_unknown_fields_when_it_is_built() -> None:
    with pytest.raises(ValidationError, match="totl"):
        Created(order_id=ORDER, totl=1)  # type: ignore[call-arg]


def test_an_abstract_base_cannot_be_sent() -> None:
    with pytest.raises(DefinitionError, match=r'class OrderMessage\(..., topic="…"\)'):
        contract_of(OrderMessage)


def unknown_option() -> None:
    class Wrong(OrderMessage, topik="x"): ...


def another_unknown_option() -> None:
    class Wrong(OrderMessage, partitions=3): ...


def without_key() -> None:
    class Wrong(Message, topic="x"):
        a: int


def key_that_is_no_field() -> None:
    class Wrong(Message, topic="x", key="b"):
        a: int


def type_without_topic() -> None:
    class Wrong(OrderMessage, type="x"): ...


def naive_time() -> None:
    class Wrong(OrderMessage, topic="x"):
        at: datetime | None


def key_that_may_be_none() -> None:
    class Wrong(Message, topic="x", key="a"):
        a: int | None = None


def topic_that_kafka_refuses() -> None:
    class Wrong(OrderMessage, topic="my topic!"): ...


def topic_that_is_a_dot() -> None:
    class Wrong(OrderMessage, topic=".."): ...


class Unknown: ...


def field_of_an_unknown_type() -> None:
    class Wrong(OrderMessage, topic="x"):
        a: list[Unknown]


def state_of_an_unknown_type() -> None:
    class Wrong(SagaState):
        a: Unknown


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (unknown_option, "unknown option topik=; did you mean topic="),
        (another_unknown_option, "unknown option partitions=; a Message takes"),
        (without_key, r"it has no key= \(fields: a\)"),
        (key_that_is_no_field, "key='b' is not a field"),
        (type_without_topic, "without topic="),
        (key_that_may_be_none, "key 'a' may be None.*annotate it without None"),
        (topic_that_kafka_refuses, "Kafka refuses the topic 'my topic!'; use letters"),
        (topic_that_is_a_dot, "Kafka refuses the topic '..'"),
        (
            field_of_an_unknown_type,
            "Wrong: a field is of type .*Unknown.>, which cannot travel as JSON; use a",
        ),
        (state_of_an_unknown_type, "Wrong: a field is of type .*Unknown.*, which cannot travel as JSON"),
        (naive_time, "field 'at' is a datetime that may lack its time zone.* use pydantic.AwareDatetime"),
    ],
)
def test_wrong_declarations_are_refused_at_import(declare: Callable[[], Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        declare()


def test_times_have_a_zone() -> None:
    class At(OrderMessage, topic="at"):
        at: AwareDatetime

    with pytest.raises(ValidationError, match="timezone"):
        At(order_id=ORDER, at=datetime(2030, 1, 1))  # noqa: DTZ001
    assert At(order_id=ORDER, at=datetime(2030, 1, 1, tzinfo=UTC)).at.tzinfo is not None


class Named(Message, topic="named", key="name"):
    name: str


def test_a_message_with_an_empty_key_has_no_record_key() -> None:
    with pytest.raises(KafkasagaError, match="a Named has name='', which is its key; give it the id of its entity"):
        key_of(Named(name=""))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"topic": "x"}, "a dict is not a Message; give an object"),
        (Unknown, r"Unknown is not a Message; declare it: class Unknown\(Message"),
    ],
)
def test_what_is_no_message_has_no_contract(given: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        contract_of(given)
