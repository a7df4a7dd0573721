"""Random sagas, random schedules, random messages: everything that the property tests draw."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from hypothesis import strategies as st

from kafkasaga.messages import Envelope, Mark, Message, Operation, SagaContext, SagaState
from kafkasaga.saga.definition import Definition, Saga
from kafkasaga.saga.flow import Each, Ends, Flow, LocalStep, Step, WaitFor, parallel, reply
from kafkasaga.saga.policy import exponential

STEPS = 7
"""At most so many steps a saga."""
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Keyed(Message, key="key"):
    key: str = "k"


class Begun(Keyed, topic="begun"):
    flags: tuple[bool, ...]
    sizes: tuple[int, ...]


class Done(Keyed, topic="saga.done"): ...


class Undone(Keyed, topic="saga.undone"):
    reason: str


def _family(word: str) -> list[type[Keyed]]:
    def make(n: int) -> type[Keyed]:
        return cast("type[Keyed]", types.new_class(f"{word.title()}{n}", (Keyed,), {"topic": f"{word}.{n}"}))

    return [make(n) for n in range(STEPS)]


COMMAND, SUCCESS, FAILURE, UNDO, UNDO_DONE = map(_family, ("do", "did", "refused", "undo", "undid"))


class Memory(SagaState):
    key: str
    flags: tuple[bool, ...]
    sizes: tuple[int, ...]
    heard: tuple[str, ...] = ()


def _memory(view: Any) -> Memory:
    while isinstance(view, Each):
        view = view.saga
    return cast("Memory", view)


def _hear(n: int) -> Callable[[Any, Any], None]:
    def hear(view: Any, message: Message) -> None:
        memory = _memory(view)
        memory.heard = (*memory.heard, f"did {n}")

    return hear


def _run(n: int, word: str) -> Callable[[Any, Any], None]:
    def run(view: Any, session: Any) -> None:
        memory = _memory(view)
        memory.heard = (*memory.heard, f"{word} {n}")

    return run


@dataclass
class _Builder:
    """Draws one saga. Steps have types of their own, so that a reply tells which step it answers."""

    draw: st.DrawFn
    steps: dict[str, Any]

    def flow(self, *, settled: bool, depth: int = 0, fanned: bool = False) -> Flow[Any]:
        """A random flow; ``settled`` behind the pivot, where nothing may fail."""
        left = STEPS - 1 - len(self.steps)
        shapes = ["leaf"] if depth > 2 or left < 2 else ["leaf", *["series", "group"] * 2, "choice", "fan"]
        match self.draw(st.sampled_from(shapes)):
            case "series":
                return self._inner(settled, depth, fanned) >> self._inner(settled, depth, fanned)
            case "group":
                return parallel(self._inner(settled, depth, fanned), self._inner(settled, depth, fanned))
            case "choice":
                n = self.draw(st.integers(0, 2))
                then = self._inner(settled, depth, fanned)
                more = self.draw(st.booleans()) and len(self.steps) < STEPS - 1
                otherwise = self._inner(settled, depth, fanned) if more else None
                return then.when(lambda s: _memory(s).flags[n], otherwise=otherwise)
            case "fan":
                n = self.draw(st.integers(0, 2))
                body: Flow[Any] = self.flow(settled=settled, depth=depth + 1, fanned=True)
                return body.for_each(lambda s: range(_memory(s).sizes[n]))
            case _:
                return self.leaf(settled=settled, fanned=fanned)

    def _inner(self, settled: bool, depth: int, fanned: bool) -> Flow[Any]:
        return self.flow(settled=settled, depth=depth + 1, fanned=fanned)

    def leaf(self, *, settled: bool, fanned: bool) -> Flow[Any]:
        before = ["undoable", "undoable", "unrefusable", "read-only", "local", *([] if fanned else ["wait"])]
        after = ["retriable", "retriable", "unrefusable", "local", *([] if fanned else ["patient wait"])]
        n = len(self.steps)
        return self._named(n, self.draw(st.sampled_from(after if settled else before)))

    def pivot(self) -> Flow[Any]:
        return self._named(len(self.steps), "pivot")

    def _named(self, n: int, sort: str) -> Flow[Any]:
        step: Flow[Any] = self._step(n, sort)
        self.steps[f"s{n}"] = step
        return step

    def _step(self, n: int, sort: str) -> Any:
        deadline = timedelta(seconds=self.draw(st.integers(1, 60)))
        refuses = sort in ("undoable", "pivot") or (sort in ("read-only", "retriable") and self.draw(st.booleans()))
        fails_on = (FAILURE[n],) if refuses else ()
        event = reply(SUCCESS[n], _hear(n))
        match sort:
            case "wait":
                rejected = (FAILURE[n],) if self.draw(st.booleans()) else ()
                return WaitFor[Any](event, fails_on=rejected, deadline=deadline)
            case "patient wait":
                return WaitFor[Any](event, deadline=deadline, at_deadline="continue")
            case "local":
                return LocalStep[Any](_run(n, "did"), compensation=_run(n, "undid"))
            case "undoable" | "unrefusable":
                undo: dict[str, Any] = {"compensation": lambda s: UNDO[n](), "compensated_on": UNDO_DONE[n]}
            case _:
                undo = {"kind": sort}
        attempts = st.integers(1, 3).map(lambda a: exponential(attempts=a, first=timedelta(seconds=2)))
        return Step[Any](
            command=lambda s: COMMAND[n](),
            succeeds_on=event,
            fails_on=fails_on,
            deadline=deadline,
            retry=self.draw(attempts),
            compensation_retry=self.draw(attempts),
            **undo,
        )


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """A saga of up to seven steps: a flow, perhaps a pivot, perhaps a flow behind it."""
    builder = _Builder(draw, {})
    flow = builder.flow(settled=False)
    if draw(st.booleans()) and len(builder.steps) < STEPS:
        flow = flow >> builder.pivot()
    if draw(st.booleans()) and len(builder.steps) < STEPS:
        flow = flow >> builder.flow(settled=True, depth=1)
    ends = Ends[Any](completed=lambda s: Done(), cancelled=lambda s, why: Undone(reason=why.reason))
    body = {**builder.steps, "flow": flow, "ends": ends}
    options = {"name": "random", "version": 1, "starts_on": Begun}
    saga = types.new_class("Random", (Saga[Memory],), options, lambda namespace: namespace.update(body))
    return cast("type[Saga[Memory]]", saga).definition


beginnings = st.builds(Begun, flags=st.tuples(*[st.booleans()] * 3), sizes=st.tuples(*[st.integers(0, 3)] * 3))
"""What sagas start on: the answers to their conditions and the sizes of their fan-outs."""

_choices = st.integers(0, 10_000)
schedules = st.lists(_choices, max_size=60) | st.lists(_choices, min_size=25, max_size=60)
"""Which of the moves that are possible comes next, again and again (see ``world.World.move``)."""

# ---- messages -----------------------------------------------------------------------------------------------------

names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"'), min_size=1, max_size=40)
contexts = st.builds(
    SagaContext,
    saga=names,
    saga_id=st.uuids(),
    step=names,
    generation=st.integers(0, 999_999_999),
    operation=st.sampled_from(Operation),
    command_id=st.none() | st.uuids(),
    failures=st.lists(names, max_size=3).map(tuple),
    mark=st.none() | st.sampled_from(Mark),
)
traceparents = st.builds(lambda trace, span: f"00-{trace.hex}-{span.hex[:16]}-01", trace=st.uuids(), span=st.uuids())
envelopes = st.builds(
    Envelope,
    topic=names,
    key=names,
    id=st.uuids(),
    source=names,
    type=names,
    time=st.datetimes(timezones=st.just(UTC)),
    payload=st.none() | st.binary(),
    content_type=names,
    saga=st.none() | contexts,
    traceparent=st.none() | traceparents,
)
_OUR_HEADERS = [f"ce_{name}" for name in ("id", "source", "type", "specversion", "sagaid", "sagastep", "saganame")] + [
    f"ce_saga{name}" for name in ("generation", "operation", "commandid", "failures", "mark")
]
_ALMOST = st.sampled_from(
    [b"", b'"', b'""', b'"\\ud800"', b"\xff", b"\0", b"-1", b"1", "٣".encode(), b"action", b'"action"', b"9" * 5000]
) | st.uuids().map(lambda identity: str(identity).encode())
headers = st.dictionaries(
    st.sampled_from([*_OUR_HEADERS, "traceparent", "content-type", "CE_ID"]) | st.text(max_size=10),
    _ALMOST | st.binary(max_size=50),
    max_size=14,
)
"""Headers as anything may have written them; many look almost like ours."""
OTHER_SAGA = UUID(int=7)
