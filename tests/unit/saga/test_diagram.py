from __future__ import annotations

from datetime import timedelta

from kafkasaga.saga.definition import Saga
from kafkasaga.saga.diagram import diagram, stages, step_diagram
from kafkasaga.saga.flow import LocalStep, parallel
from kafkasaga.saga.inputs import Woken
from kafkasaga.saga.transitions import STEP_TRANSITIONS
from tests.unit.saga.orders import (
    Created,
    Declined,
    PlaceOrder,
    Refunded,
    Released,
    Reserved,
    Run,
    ShipLines,
    Shipped,
    State,
    WithPivot,
    approving,
    paying,
    pivot,
    reserving,
    shipping,
)


class Everything(Saga[State], name="everything", version=1, starts_on=Created):
    reserve = reserving()
    approve = approving()
    book = LocalStep[State](lambda s, session: None, kind="read-only")
    check = paying()
    pay = pivot()
    ship = shipping()
    flow = reserve >> parallel(approve.when(lambda s: True), book, check) >> pay >> ship.for_each(lambda s: s.lines)


EVERYTHING = """\
flowchart TD
    start(["created"])
    step_reserve["reserve<br/>reserve<br/>undo: release"]
    choice_2{"approve?"}
    step_approve[/"approve<br/>waits for approved"/]
    step_book[["book"]]
    step_check["check<br/>pay<br/>undo: refund"]
    step_pay{{"pay (pivot)<br/>pay"}}
    subgraph each_7["for each, in parallel"]
    step_ship["ship (retriable)<br/>ship"]
    end
    completed(["completed"])
    cancelled(["cancelled, when all is undone"])
    start --> step_reserve
    step_reserve --> choice_2
    choice_2 -- yes --> step_approve
    step_reserve --> step_book
    step_reserve --> step_check
    step_approve --> step_pay
    choice_2 -- no --> step_pay
    step_book --> step_pay
    step_check --> step_pay
    step_pay --> step_ship
    step_ship --> completed
    step_reserve -. "unavailable" .-> cancelled
    step_approve -. "rejected, deadline" .-> cancelled
    step_check -. "declined" .-> cancelled
    step_pay -. "declined" .-> cancelled
"""


def test_a_flow_is_drawn_with_every_construct() -> None:
    assert diagram(Everything) == EVERYTHING
    assert diagram(Everything.definition) == EVERYTHING


def test_the_life_of_a_step_is_the_transition_table() -> None:
    lines = step_diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + len(STEP_TRANSITIONS)
    assert "    [*] --> pending: command-sent" in lines
    assert "    undo_stuck --> undo_waiting: step-retried" in lines


def test_stages_follow_an_instance() -> None:
    run = Run(PlaceOrder)
    assert stages(run.definition, run.instance) == {"reserve": "running", "pay": "remaining"}
    run.reply(Reserved(), "reserve")
    assert stages(run.definition, run.instance) == {"reserve": "done", "pay": "running"}
    run.reply(Declined(), "pay")
    assert stages(run.definition, run.instance) == {"reserve": "done", "pay": "compensating"}
    run.undone(Refunded(), "pay")
    run.undone(Released(), "reserve")
    assert stages(run.definition, run.instance) == {"reserve": "undone", "pay": "undone"}


def test_a_stuck_step_is_seen_before_all_else() -> None:
    run = Run(WithPivot)
    run.reply(Reserved(), "reserve")
    for seconds in (60, 1, 60):
        run.take(Woken(), after=timedelta(seconds=seconds))
    assert stages(run.definition, run.instance)["pay"] == "stuck"


def test_a_fan_out_runs_until_its_last_element_is_done() -> None:
    run = Run(ShipLines, Created(lines=("a", "b")))
    run.reply(Shipped(tracking="t"), "ship[0]")
    assert stages(run.definition, run.instance) == {"ship": "running"}


def test_the_steps_of_an_instance_are_coloured() -> None:
    run = Run(PlaceOrder)
    text = diagram(PlaceOrder, run.instance)
    assert text.endswith(
        "    classDef running fill:#bfdbfe\n    classDef remaining fill:#ffffff\n"
        "    class step_reserve running\n    class step_pay remaining\n"
    )
