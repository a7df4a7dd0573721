"""Schedules of everything that can go wrong, over sagas of several shapes. See also ``tests/faults``."""

import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from examples.order_system import inventory, payment
from examples.order_system.contracts import Line, OrderCreated
from examples.order_system.orchestrator import PlaceOrder
from kafkasaga import Saga, Settings
from kafkasaga.ports import Prunable
from kafkasaga.stores import Session
from kafkasaga.testing import Fault, LawBroken, simulate
from kafkasaga.testing.simulator.compensation import one_after_the_other
from tests.property.nested import PlanFestival, PlanVisit
from tests.property.simulated import BookTrip, RentCars, ShipOrder
from tests.property.unusual import AwaitSignature, SettleClaim

SEED = int(os.environ.get("KAFKASAGA_SIMULATION_SEED", "1"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("saga", "runs"), [(PlaceOrder, 200), (BookTrip, 150), (ShipOrder, 150), (RentCars, 150)])
def test_a40_no_schedule_breaks_a_law_and_every_fault_is_reached(saga: type[Saga], runs: int) -> None:  # type: ignore[type-arg]
    result = simulate(saga, runs=runs, seed=SEED)
    assert result.runs == runs
    assert {fault for fault, _ in result.reached} == set(Fault)
    assert result.sagas["completed"]
    assert result.sagas["cancelled"]
    # A saga with local steps lies in SQLite, by whose clock no time passes.
    keys = {Prunable.SAGA_KEYS} if saga is not ShipOrder else set()
    assert result.forgotten.keys() >= {Prunable.INBOX, Prunable.BARRIER, Prunable.SAGAS} | keys


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("saga", "seed"), [(PlanVisit, 50), (PlanFestival, 0)])
def test_no_schedule_breaks_a_law_where_branches_are_sequences_and_sagas_share_lanes(
    saga: type[Saga],  # type: ignore[type-arg]
    seed: int,
) -> None:
    """Branches of a parallel group are undone in no order among each other, nor two sagas of one transaction."""
    result = simulate(saga, runs=40, seed=seed)
    assert result.sagas["completed"]
    assert result.sagas["cancelled"]


@pytest.mark.timeout(300)
def test_no_schedule_breaks_a_law_where_events_come_early_and_tries_end() -> None:
    result = simulate(SettleClaim, runs=60, seed=0)
    assert result.sagas["completed"]
    assert result.sagas["cancelled"]


@pytest.mark.timeout(300)
def test_a40_a_saga_is_asked_only_for_faults_that_can_strike_it() -> None:
    result = simulate(AwaitSignature, runs=150, seed=0)
    never = {Fault.HANDLER_ERROR, Fault.OVERLAP, Fault.REFUSAL, Fault.SILENCE}
    assert {fault for fault, _ in result.reached} == set(Fault) - never
    assert result.sagas.keys() == {"completed", "cancelled"}


def test_i08_only_what_the_flow_has_one_after_the_other_is_undone_in_reverse() -> None:
    visit, festival = PlanVisit.definition.plan, PlanFestival.definition.plan
    pairs = {(a, b) for a in ("room", "doctor", "scan", "insurer") for b in ("room", "doctor", "scan", "insurer")}
    assert {pair for pair in pairs if one_after_the_other(visit, *pair)} == {
        ("doctor", "scan"),
        ("room", "insurer"),
        ("doctor", "insurer"),
        ("scan", "insurer"),
    }
    assert one_after_the_other(festival, "hire[0]", "visa[0]")
    assert not one_after_the_other(festival, "hire[0]", "visa[1]")
    assert not one_after_the_other(festival, "visa[0]", "hire[0]")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("saga", "days", "laws"),
    [
        (PlaceOrder, {"inbox_days": 23 / 24}, ("I3 once",)),
        (BookTrip, {"inbox_days": 1 / 24}, ("I3 once",)),
        (PlaceOrder, {"barrier_days": 1 / 86_400}, ("I8 compensation", "I9 barrier")),
        (BookTrip, {"barrier_days": 1 / 86_400}, ("I8 compensation", "I9 barrier")),
    ],
)
def test_a31_what_is_forgotten_before_it_comes_for_the_last_time_is_found(
    saga: type[Saga],  # type: ignore[type-arg]
    days: dict[str, float],
    laws: tuple[str, ...],
) -> None:
    """What a service would start with is kept by every other simulation here, and breaks no law."""
    with pytest.raises(LawBroken) as broken:
        simulate(saga, runs=2000, seed=SEED, settings=Settings.load(**days))
    assert str(broken.value).startswith(laws), str(broken.value)
    assert "settings=…" in str(broken.value)


@pytest.mark.timeout(300)
def test_crashes_are_reached_on_both_sides_of_commit_produce_and_offset_store() -> None:
    result = simulate(PlaceOrder, runs=200, seed=SEED, faults=[Fault.CRASH])
    places = {kind for fault, kind in result.reached if fault is Fault.CRASH}
    assert places >= {
        "before commit",
        "after commit",
        "before produce",
        "after outbox read",
        "before outbox delete",
        "after outbox delete",
        "before offset store",
        "after offset store",
    }


# ---- the user's own services ----

STOCK = {"tea": 5, "pot": 1}


def stocked(session: Session) -> None:
    inventory.Base.metadata.create_all(session.connection())
    for sku, available in STOCK.items():
        session.add(inventory.Stock(sku=sku, price=Decimal(2), available=available))


def with_card(session: Session) -> None:
    payment.Base.metadata.create_all(session.connection())
    session.add(payment.Card(customer_id="ann", limit=Decimal(30)))


def nothing_vanishes(session: Session) -> None:
    for stock in session.scalars(select(inventory.Stock)):
        assert stock.available + stock.reserved + stock.sold == STOCK[stock.sku]
        held = select(inventory.Reservation).where(
            inventory.Reservation.sku == stock.sku, inventory.Reservation.status == inventory.Held.RESERVED
        )
        assert sum(reservation.quantity for reservation in session.scalars(held)) == stock.reserved


def orders() -> Iterator[OrderCreated]:
    for n, (sku, quantity, total) in enumerate([("tea", 2, 4), ("pot", 1, 20), ("pot", 1, 20), ("tea", 1, 50)], 1):
        lines = (Line(sku=sku, quantity=quantity),)
        yield OrderCreated(order_id=UUID(int=n), customer_id="ann", total=Decimal(total), lines=lines)


@pytest.mark.timeout(300)
def test_the_users_own_services_run_with_their_real_sessions() -> None:
    result = simulate(
        PlaceOrder,
        runs=40,
        seed=SEED,
        services=[inventory.inventory, payment.payment],
        prepare={"inventory": stocked, "payment": with_card},
        check={"inventory": nothing_vanishes},
        starts=list(orders()),
    )
    assert result.sagas["completed"]
    assert result.sagas["cancelled"]


# ---- one integer decides everything ----

_PROGRAM = """
from kafkasaga.testing.simulator.simulate import traced
from tests.property.simulated import BookTrip
for seed in range(30):
    print(seed, *traced(BookTrip, seed), sep=chr(10))
"""


@pytest.mark.timeout(120)
def test_a_seed_is_the_same_run_in_every_process() -> None:
    root = Path(__file__).parents[2]
    told = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            check=True,
            capture_output=True,
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(told[0]) > 10_000
