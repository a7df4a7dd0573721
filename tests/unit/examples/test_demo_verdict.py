"""What the demo says of a run that took too long: not good, and which orders did not end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from kafkasaga.examples.order_system.demo.check import Check
from kafkasaga.examples.order_system.demo.databases import Database, databases
from kafkasaga.examples.order_system.demo.run import TookTooLong, missing, verdict
from kafkasaga.examples.order_system.order import Order, Status

IN_TIME = "every order placed, and ended in time"


def test_a_run_that_took_too_long_is_not_good() -> None:
    assert verdict(TookTooLong("late"), placed=5, planned=5) == {IN_TIME: False}


def test_orders_that_were_never_placed_make_a_run_not_good() -> None:
    assert verdict(None, placed=4, planned=5) == {IN_TIME: False}
    assert verdict(None, placed=5, planned=5) == {IN_TIME: True}


def test_each_order_that_did_not_end_is_named_with_how_far_it_came() -> None:
    first, second = UUID(int=1), UUID(int=2)
    assert list(missing({first: "validating", second: "created"}, placed=2, planned=3)) == [
        "1 of 3 orders were not placed",
        f"order {second} did not end: created",
        f"order {first} did not end: validating",
    ]


@pytest.fixture
def order_system(tmp_path: Path) -> Iterator[dict[str, Database]]:
    with databases(None, tmp_path) as ready:
        yield ready


def placed(system: Mapping[str, Database], status: Status) -> UUID:
    id = uuid4()
    with Session(system["order"].store.engine) as session, session.begin():
        session.add(Order(id=id, request="{}", status=status))
    return id


def test_orders_under_way_are_read_in_the_order_services_database(order_system: dict[str, Database]) -> None:
    ended, created, lost = placed(order_system, Status.COMPLETED), placed(order_system, Status.CREATED), uuid4()
    found = Check(order_system).under_way([ended, created, lost])
    assert found == {created: "created", lost: "unknown to the Order service"}
