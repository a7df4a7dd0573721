"""The static check of a saga's definition. Each problem names the step, the remedy and a rule code.

It runs at import, so a broken definition never meets a message. Rules by group: KS0xx names, KS1xx the body of the
class, KS2xx replies and compensations, KS3xx the order of pivot and retriable steps.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from kafkasaga.messages import Message, SagaState
from kafkasaga.saga.flow import (
    AnyLeaf,
    Conditional,
    FanOut,
    Flow,
    LocalStep,
    Parallel,
    Sequential,
    Step,
    WaitFor,
)
from kafkasaga.saga.plan import steps_of


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
    flow = body.get("flow")
    if not isinstance(flow, Flow):
        example = " >> ".join(steps) or "first >> second"
        yield f"it has no flow; write, for example, flow = {example} [KS101]"
        return
    yield from _flow(flow, steps)
    yield from _order(flow, {id(step): name for name, step in steps.items()})


def near(word: str, words: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    found = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _words(body: Mapping[str, Any], steps: Mapping[str, AnyLeaf]) -> Iterator[str]:
    for word in sorted(body.keys() - steps.keys() - {"flow", "ends"}):
        yield f"{word!r} is neither a step nor 'flow' nor 'ends'{near(word, ('flow', 'ends'))} [KS102]"


def _state(state: type[SagaState] | None, starts_on: type[Message] | None) -> Iterator[str]:
    if state is None:
        yield "it does not say what it remembers; write class …(Saga[YourState], …) with a SagaState [KS103]"
        return
    if starts_on is None or hasattr(state, "begin"):
        return
    for name, info in state.model_fields.items():
        if info.is_required() and name not in starts_on.model_fields:
            yield (
                f"{state.__name__}.{name} is required, but {starts_on.__name__} has no such field"
                f"{near(name, starts_on.model_fields)}; give it a default, or write {state.__name__}.begin(cls, event) [KS104]"
            )


def _step(name: str, step: AnyLeaf) -> Iterator[str]:
    if not isinstance(step, LocalStep) and step.deadline <= timedelta():
        yield f"step {name!r}: deadline={step.deadline}; give it a positive one [KS201]"
    if isinstance(step, WaitFor):
        if not step.succeeds_on:
            yield f"step {name!r} waits for nothing; name an event [KS202]"
        return
    if step.kind == "compensatable" and step.compensation is None:
        yield (
            f"step {name!r} cannot be undone: give it compensation=, or say why it needs none: kind='read-only' (changes "
            "nothing), 'pivot' (no way back from here) or 'retriable' (cannot fail for good) [KS203]"
        )
    if step.kind != "compensatable" and step.compensation is not None:
        yield f"step {name!r} is {step.kind}, so its compensation would never run; leave one of the two out [KS204]"
    if isinstance(step, LocalStep):
        return
    if not step.succeeds_on:
        yield f"step {name!r} has no success reply, so it would never end; give it succeeds_on= [KS202]"
    if step.compensation is not None and not step.compensated_on:
        yield f"step {name!r}: nothing confirms its compensation; give it compensated_on= [KS205]"
    if step.compensation is None and step.compensated_on:
        yield f"step {name!r} has compensated_on= but no compensation= [KS206]"
    for type_name in sorted(step.succeeds_on.keys() & step.fails_on.keys()):
        yield f"step {name!r}: {type_name!r} means both success and failure [KS207]"


def _flow(flow: Flow[Any], steps: Mapping[str, AnyLeaf]) -> Iterator[str]:
    used = [id(step) for step in steps_of(flow)]
    for name, step in steps.items():
        if used.count(id(step)) == 0:
            yield f"step {name!r} is declared but not in the flow; add it, or delete it [KS105]"
        if used.count(id(step)) > 1:
            yield f"step {name!r} is in the flow twice; declare a second step [KS106]"
    if set(used) - {id(step) for step in steps.values()}:
        yield "the flow holds a step that has no name here; assign it in the class body first (pay = pay) [KS107]"


def _order(flow: Flow[Any], names: Mapping[int, str]) -> Iterator[str]:
    """Pivot and retriable: before the pivot everything can be undone, after it nothing can fail."""
    for first, second in _pairs(flow):
        one, two = names.get(id(first), "?"), names.get(id(second), "?")
        if first.kind == "pivot" and _can_refuse(second):
            yield (
                f"step {two!r} comes after the pivot {one!r} but can fail, and the pivot cannot be undone; make it "
                "kind='retriable', or move it before the pivot [KS301]"
            )
        if first.kind == "retriable" and _can_refuse(second):
            yield f"step {one!r} is retriable (never undone) but {two!r}, which can fail, comes after it; swap them [KS302]"
    for group in _groups(flow):
        pivots = [step for step in group if step.kind == "pivot"]
        if pivots and len(group) > 1:
            yield f"pivot {names.get(id(pivots[0]), '?')!r} runs beside other steps; a pivot stands alone in the sequence [KS303]"
        retriable = [step for step in group if step.kind == "retriable"]
        if retriable and any(map(_can_refuse, group)):
            name = names.get(id(retriable[0]), "?")
            yield f"step {name!r} is retriable (never undone) but runs beside a step that can fail; put it after [KS304]"


def _can_refuse(step: AnyLeaf) -> bool:
    match step:
        case Step():
            return step.kind == "pivot" or (step.kind != "retriable" and bool(step.fails_on))
        case WaitFor():
            return bool(step.fails_on) or step.at_deadline == "compensate"
        case LocalStep():
            return False


def _pairs(flow: Flow[Any]) -> Iterator[tuple[AnyLeaf, AnyLeaf]]:
    """Every two steps of which the second begins after the first has ended."""
    match flow:
        case Sequential(parts=parts):
            for position, part in enumerate(parts):
                yield from _pairs(part)
                for later in parts[position + 1 :]:
                    for first in steps_of(part):
                        for second in steps_of(later):
                            yield first, second
        case Parallel(parts=parts):
            for part in parts:
                yield from _pairs(part)
        case Conditional(then=then, otherwise=otherwise):
            yield from _pairs(then)
            if otherwise is not None:
                yield from _pairs(otherwise)
        case FanOut(body=body):
            yield from _pairs(body)
        case _:
            return


def _groups(flow: Flow[Any]) -> Iterator[list[AnyLeaf]]:
    """The steps of every parallel group and fan-out (an element runs beside itself, so it counts twice)."""
    match flow:
        case Parallel(parts=parts):
            yield [step for part in parts for step in steps_of(part)]
        case FanOut(body=body):
            yield [*steps_of(body), *steps_of(body)]
        case Sequential(parts=parts):
            for part in parts:
                yield from _groups(part)
        case Conditional(then=then, otherwise=otherwise):
            yield from _groups(then)
            if otherwise is not None:
                yield from _groups(otherwise)
        case _:
            return
