from __future__ import annotations

import pytest

from kafkasaga.errors import DefinitionError
from kafkasaga.messages import Message, Registry


class Base(Message, key="id"):
    id: str


class One(Base, topic="t", type="one"): ...


class Two(Base, topic="t", type="two"): ...


def test_a_type_is_found_by_topic_and_name() -> None:
    registry = Registry([One, Two, One])
    assert registry.find("t", "two") is Two
    assert registry.find("other", "two") is None
    assert registry.topics == {"t"}
    assert list(registry) == [One, Two]


def test_two_classes_cannot_share_a_name_on_a_topic() -> None:
    class Again(Base, topic="t", type="one"): ...

    with pytest.raises(DefinitionError, match=r"One and .*Again are both declared as type 'one' on topic 't'"):
        Registry([One, Again])


def test_an_abstract_base_cannot_be_read() -> None:
    with pytest.raises(DefinitionError, match="has no topic"):
        Registry([Base])
