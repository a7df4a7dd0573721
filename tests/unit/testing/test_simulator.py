"""The simulator's own parts: what it makes up, how it shrinks, and that it fails when it tried nothing."""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from kafkasaga import Message, Saga, SagaState, Step
from kafkasaga.errors import DefinitionError
from kafkasaga.testing import Fault, LawBroken, simulate
from kafkasaga.testing.simulator import fibers
from kafkasaga.testing.simulator.chance import Chance
from kafkasaga.testing.simulator.samples import sample
from kafkasaga.testing.simulator.shrink import shortest
from kafkasaga.testing.simulator.simulate import traced


class Colour(StrEnum):
    RED = "red"


class Line(BaseModel):
    sku: str = Field(min_length=12)
    count: int = Field(ge=5, lt=9)


class Everything(BaseModel):
    id: UUID
    name: str
    price: Decimal = Field(gt=10)
    at: AwareDatetime
    colour: Colour
    kind: Literal["a", "b"]
    lines: tuple[Line, ...] = Field(min_length=1)
    named: dict[str, int]
    maybe: int | None
    either: int | str
    default: str = "kept"


def never(value: str) -> str:
    raise ValueError("nothing is good enough")


class Picky(BaseModel):
    word: Annotated[str, AfterValidator(never)]


class TestSamples:
    def test_every_field_gets_a_valid_value(self) -> None:
        made = sample(Everything, 1)
        assert made == sample(Everything, 1)
        assert made.id != sample(Everything, 2).id
        assert (made.colour, made.kind, made.maybe, made.default) == (Colour.RED, "a", None, "kept")
        assert len(made.lines) == 2

    def test_what_is_known_is_taken_over(self) -> None:
        assert sample(Everything, 1, {"name": "given", "other": 1}).name == "given"

    def test_a_type_that_refuses_everything_is_named_with_the_remedy(self) -> None:
        with pytest.raises(DefinitionError, match=r"cannot make up a Picky: word: .*starts="):
            sample(Picky, 1)


class TestShrinking:
    @pytest.mark.parametrize("culprits", [set(), {"3"}, {"0", "19"}, {"4", "5", "11"}])
    def test_only_what_is_needed_is_left(self, culprits: set[str]) -> None:
        names = [str(n) for n in range(20)]
        short, tried = shortest(names, lambda only: culprits <= set(only))
        assert set(short) == culprits
        assert tried < 100

    def test_a_schedule_that_shows_nothing_by_itself_is_left_as_it_is(self) -> None:
        assert shortest(["a", "b"], lambda only: False)[0] == ["a", "b"]


class TestChance:
    def test_whether_a_fault_strikes_follows_from_its_place_and_not_from_those_before(self) -> None:
        first, second = (Chance(7, [Fault.CRASH, Fault.DELAY]) for _ in range(2))
        assert first.fraction("somewhere") == second.fraction("somewhere")
        for n in range(50):
            first.strikes(Fault.DELAY, f"other {n}")
        assert first.fraction("here") == second.fraction("here")

    def test_a_schedule_is_repeated_exactly(self) -> None:
        chance = Chance(7, list(Fault), only=["crash: here #1"])
        assert chance.strikes(Fault.CRASH, "here #1")
        assert not any(chance.strikes(fault, f"there #{n}") for n in range(50) for fault in Fault)
        assert chance.taken == ["crash: here #1"]

    @pytest.mark.parametrize("seed", range(len(Fault)))
    def test_in_as_many_runs_as_there_are_faults_each_has_its_turn(self, seed: int) -> None:
        chance = Chance(seed, list(Fault))
        its_own = sorted(Fault)[seed % len(Fault)]
        assert any(chance.strikes(its_own, f"place {n}") for n in range(20_000))


class Asked(Message, key="id", topic="asked"):
    id: str


class Do(Message, key="id", topic="do"):
    id: str


class Done(Message, key="id", topic="done"):
    id: str


class Asking(SagaState):
    id: str


class Small(Saga[Asking], name="small", version=1, starts_on=Asked):
    do = Step[Asking](command=lambda s: Do(id=s.id), succeeds_on=Done, kind="retriable")
    flow = do


class FromState(Saga[Asking], name="from-state", version=1):
    do = Step[Asking](command=lambda s: Do(id=s.id), succeeds_on=Done, kind="retriable")
    flow = do


class TestSimulate:
    def test_a_small_saga_completes(self) -> None:
        result = simulate(Small, runs=20, seed=3)
        assert result.runs == 20
        assert result.sagas["completed"] > 0
        assert "a minute" in str(result)

    def test_a_saga_that_no_message_starts_is_started_from_its_state(self) -> None:
        assert simulate(FromState, runs=20, seed=3).sagas["completed"] > 0

    def test_a40_a_named_fault_that_cannot_be_reached_fails(self) -> None:
        with pytest.raises(AssertionError, match=r"1 runs never reached: .*silence"):
            simulate(Small, runs=1, faults=[Fault.SILENCE, Fault.UNKNOWN_COMMIT, Fault.REBALANCE])

    def test_without_faults_nothing_goes_wrong(self) -> None:
        result = simulate(Small, runs=5, faults=[])
        assert not result.reached
        assert set(result.sagas) == {"completed"}

    def test_prepare_for_a_service_that_is_not_given_is_an_error(self) -> None:
        with pytest.raises(DefinitionError, match="not in services="):
            simulate(Small, runs=1, prepare={"hotel": lambda session: None})

    def test_a_step_whose_command_cannot_be_told_is_named_with_the_remedy(self) -> None:
        made = [Do]

        class Opaque(Saga[Asking], name="opaque", version=1, starts_on=Asked):
            do = Step[Asking](command=lambda s: made[0](id=s.id), succeeds_on=Done, kind="retriable")
            flow = do

        with pytest.raises(DefinitionError, match=r"step 'do': .* annotate its function"):
            simulate(Opaque, runs=1)

    def test_a_broken_check_is_shown_with_a_schedule_and_a_diagram(self) -> None:
        from kafkasaga import Service

        service = Service("doer")

        @service.handler
        def do(command: Do) -> Done:
            return Done(id=command.id)

        def nothing_is_right(session: object) -> None:
            raise AssertionError("as expected")

        with pytest.raises(LawBroken) as broken:
            simulate(Small, runs=5, services=[service], check={"doer": nothing_is_right})
        text = str(broken.value)
        assert text.startswith("your check of 'doer': as expected")
        assert "nothing goes wrong at all" in text
        assert "sequenceDiagram" in text


def test_threads_do_what_greenlets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> Sequence[Sequence[str]]:
        return [traced(Small, seed) for seed in range(5)]

    by_greenlets = told()
    monkeypatch.setattr(fibers, "_GREENLETS", None)
    assert told() == by_greenlets
