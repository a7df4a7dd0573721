"""The static check of a saga's definition. Each problem names the step, the remedy and a rule code.

It runs at import, so a broken definition never meets a message. Rules by group: KS0xx names, KS1xx the body of the
class, KS2xx a step's replies, compensation and deadline, KS3xx which steps may follow or accompany which.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import combinations
from typing import Any, cast, get_args

from kafkasaga.messages import Message, SagaState
from kafkasaga.saga import lint_functions
from kafkasaga.saga.flow import (
    AnyLeaf,
    Ends,
    FanOut,
    Flow,
    Kind,
    LocalStep,
    Parallel,
    Sequential,
    Step,
    WaitFor,
)
from kafkasaga.saga.functions import parts_of
from kafkasaga.saga.plan import steps_of

_AT_DEADLINE = ("compensate", "continue")
_TWO = 2


def problems(
    body: Mapping[str, Any],
    steps: Mapping[str, AnyLeaf],
    state: type[SagaState] | None,
    starts_on: type[Message] | None,
) -> Iterator[str]:
    """Everything that is wrong with the body of a saga class."""
    yield from _words(body, steps)
    yield from _state(state, starts_on)
    for name, step in steps.items():
        yield from _step(name, step)
    if not isinstance(body.get("flow"), Flow):
        example = " >> ".join(steps) or "first >> second"
        yield f"it has no flow; write, for example, flow = {example} [KS101]"
        return
    flow = cast("Flow[Any]", body["flow"])
    names = {id(step): name for name, step in steps.items()}
    yield from _flow(flow, steps)
    ends = cast("Ends[Any]", body["ends"] if isinstance(body.get("ends"), Ends) else Ends[Any]())
    yield from lint_functions.problems(steps, flow, ends)
    yield from _one_after_another(flow, names)
    yield from _side_by_side(flow, names)


def near(word: str, words: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    found = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


# ---- the body of the class ----------------------------------------------------------------------------------------


def _words(body: Mapping[str, Any], steps: Mapping[str, AnyLeaf]) -> Iterator[str]:
    for word in sorted(body.keys() - steps.keys() - {"flow", "ends"}):
        yield f"{word!r} is neither a step nor 'flow' nor 'ends'{near(word, ('flow', 'ends'))} [KS102]"
    if not isinstance(body.get("ends", Ends[Any]()), Ends):
        yield "'ends' is not Ends; write ends = Ends[YourState](completed=…, cancelled=…) [KS108]"
    for (one, first), (two, second) in combinations(steps.items(), 2):
        if first is second:
            yield f"{one!r} and {two!r} are the same step; declare a second one [KS109]"


def _state(state: type[SagaState] | None, starts_on: type[Message] | None) -> Iterator[str]:
    if state is None:
        yield "it does not say what it remembers; write class …(Saga[YourState], …) with a SagaState [KS103]"
        return
    if starts_on is None or hasattr(state, "begin"):
        return
    for name, info in state.model_fields.items():
        if info.is_required() and name not in starts_on.model_fields:
            hint = near(name, starts_on.model_fields)
            yield (
                f"{state.__name__}.{name} is required, but {starts_on.__name__} has no such field{hint}; "
                f"give it a default, or write {state.__name__}.begin(cls, event) [KS104]"
            )


def _flow(flow: Flow[Any], steps: Mapping[str, AnyLeaf]) -> Iterator[str]:
    used = [id(step) for step in steps_of(flow)]
    for name, step in steps.items():
        if used.count(id(step)) == 0:
            yield f"step {name!r} is declared but not in the flow; add it, or delete it [KS105]"
        if used.count(id(step)) > 1:
            yield f"step {name!r} is in the flow twice; declare a second step [KS106]"
    if set(used) - {id(step) for step in steps.values()}:
        yield "the flow holds a step that has no name here; assign it in the class body first (pay = pay) [KS107]"
    for part in parts_of(flow):
        if isinstance(part, Parallel) and len(part.parts) < _TWO:
            yield f"parallel() of {len(part.parts)}: give it at least two parts [KS110]"


# ---- one step -----------------------------------------------------------------------------------------------------


def _step(name: str, step: AnyLeaf) -> Iterator[str]:
    if not isinstance(step, LocalStep) and step.deadline <= timedelta():
        yield f"step {name!r}: deadline={step.deadline}; give it a positive one [KS201]"
    if not isinstance(step, LocalStep):
        yield from (f"step {name!r} has a reply that never comes, {problem} [KS213]" for problem in step.problems)
    if not isinstance(step, LocalStep) and not step.succeeds_on and not step.problems:
        yield f"step {name!r} has nothing to wait for, so it would never end; name its success reply or event [KS202]"
    match step:
        case Step():
            yield from _undoing(name, step)
            yield from _replies(name, step)
        case LocalStep():
            yield from _undoing(name, step)
        case WaitFor():
            if step.at_deadline not in _AT_DEADLINE:
                yield _unknown(name, "at_deadline", step.at_deadline, _AT_DEADLINE)
            yield from _twice(name, step.succeeds_on.keys() & step.fails_on.keys(), "success and failure")


def _undoing(name: str, step: Step[Any] | LocalStep[Any]) -> Iterator[str]:
    if step.kind not in get_args(Kind):
        yield _unknown(name, "kind", step.kind, get_args(Kind))
    elif step.kind == "compensatable" and step.compensation is None:
        yield (
            f"step {name!r} cannot be undone: give it compensation=, or say why it needs none: kind='read-only' "
            "(changes nothing), 'pivot' (it may be refused, and the saga turns back; once done, there is no way back) "
            "or 'retriable' (cannot fail for good) [KS203]"
        )
    elif step.kind != "compensatable" and step.compensation is not None:
        yield f"step {name!r} is {step.kind}, so its compensation would never run; leave one of the two out [KS204]"


def _replies(name: str, step: Step[Any]) -> Iterator[str]:
    if step.compensation is not None and not step.compensated_on:
        yield f"step {name!r}: nothing confirms its compensation; give it compensated_on= [KS205]"
    if step.compensation is None and step.compensated_on:
        yield f"step {name!r} has compensated_on= but no compensation= [KS206]"
    yield from _twice(name, step.succeeds_on.keys() & step.fails_on.keys(), "success and failure")
    undone = step.compensated_on.keys()
    yield from _twice(
        name, undone & (step.succeeds_on.keys() | step.fails_on.keys()), "an outcome and its compensation"
    )


def _twice(name: str, types: Iterable[str], meanings: str) -> Iterator[str]:
    for type_name in sorted(types):
        yield f"step {name!r}: {type_name!r} means both {meanings}; declare a reply for each [KS207]"


def _unknown(name: str, word: str, given: str, known: Iterable[str]) -> str:
    return f"step {name!r}: unknown {word}={given!r}; known are {', '.join(known)}{near(given, known)} [KS208]"


# ---- several steps ------------------------------------------------------------------------------------------------


def _one_after_another(flow: Flow[Any], names: Mapping[int, str]) -> Iterator[str]:
    """Before the pivot everything can be undone, after it nothing can fail."""
    for first, second in _successions(flow):
        one, two = names.get(id(first), "?"), names.get(id(second), "?")
        if first.kind == "pivot" and _can_refuse(second):
            yield (
                f"step {two!r} comes after the pivot {one!r} but can fail, and the pivot cannot be undone; make it "
                "kind='retriable', or move it before the pivot [KS301]"
            )
        if first.kind == "retriable" and _can_refuse(second):
            yield f"step {one!r} is retriable (never undone), but {two!r} comes after it and can fail [KS302]"


def _side_by_side(flow: Flow[Any], names: Mapping[int, str]) -> Iterator[str]:
    """A pivot stands alone; what cannot be undone does not run beside what can fail; an event has one taker."""
    found: dict[str, None] = {}
    for first, second in _companions(flow):
        for step, other in ((first, second), (second, first)):
            one, two = names.get(id(step), "?"), names.get(id(other), "?")
            if step.kind == "pivot":
                found[f"pivot {one!r} runs beside {two!r}; a pivot stands alone in the sequence [KS303]"] = None
            if step.kind == "retriable" and _can_refuse(other):
                found[f"step {one!r} is retriable (never undone) but runs beside {two!r}, which can fail [KS304]"] = (
                    None
                )
            if isinstance(step, WaitFor):
                whom = " and ".join(map(repr, sorted({one, two})))
                for shared in sorted(_takes(step) & _takes(other)):
                    found[f"step {whom}: several may wait for {shared!r} at once; an event has one taker [KS305]"] = (
                        None
                    )
    yield from found


def _can_refuse(step: AnyLeaf) -> bool:
    """Whether the step can turn the saga back. Running out of attempts gets it stuck where there is no way back."""
    match step:
        case Step():
            return step.kind == "pivot" or (step.kind != "retriable" and bool(step.fails_on))
        case WaitFor():
            return bool(step.fails_on) or step.at_deadline == "compensate"
        case LocalStep():
            return False


def _takes(step: AnyLeaf) -> set[str]:
    return set() if isinstance(step, LocalStep) else {*step.succeeds_on, *step.fails_on}


def _successions(flow: Flow[Any]) -> Iterator[tuple[AnyLeaf, AnyLeaf]]:
    """Every two steps of which the second begins after the first has ended."""
    for part in parts_of(flow):
        if isinstance(part, Sequential):
            for one, two in combinations(part.parts, 2):
                yield from ((first, second) for first in steps_of(one) for second in steps_of(two))


def _companions(flow: Flow[Any]) -> Iterator[tuple[AnyLeaf, AnyLeaf]]:
    """Every two steps that may be under way at once; under a fan-out, each with every one, itself included."""
    for part in parts_of(flow):
        if isinstance(part, Parallel):
            for one, two in combinations(part.parts, 2):
                yield from ((first, second) for first in steps_of(one) for second in steps_of(two))
        elif isinstance(part, FanOut):
            yield from ((first, second) for first in steps_of(part.body) for second in steps_of(part.body))
