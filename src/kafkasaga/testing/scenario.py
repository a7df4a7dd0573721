"""Test a saga without broker, database or clock: given, expect, when.

>>> saga = scenario(PlaceOrder).given(Created(order="o-1"))
>>> _ = saga.expect(Reserve(order="o-1")).when(Reserved(order="o-1", hold="h-1"))
>>> _ = saga.expect(Pay(order="o-1")).when(Declined(order="o-1", reason="no funds"))
>>> _ = saga.expect(Refund(order="o-1")).after(timedelta(minutes=1))
>>> print(saga.story)
the saga so far:
  +0s   started                      key=o-1  message=created
  +0s   command-sent        reserve  attempt=1  message=reserve
  +0s   step-succeeded      reserve  message=reserved
  +0s   command-sent        pay      attempt=1  message=pay
  +0s   step-failed         pay      message=declined  reason=no funds
  +0s   compensation-began  pay      reason=no funds  message=declined
  +0s   compensation-sent   pay      attempt=1  message=refund
  +60s  retry-scheduled     pay      at=+61s  reason=compensation of step 'pay' not confirmed within 0:01:00
now it is compensating; the clock concerns pay (undo-waiting until +61s)

It runs the machine that production runs. Every message, event and snapshot takes the way through JSON, so that what
would not survive the wire or the database fails here. Replies carry no headers, like those of a participant in another
language, and are found by the saga's key; where several steps wait for the same reply, ``to=`` says which is meant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NoReturn, Self, TypeVar, cast

from kafkasaga.errors import KafkasagaError
from kafkasaga.messages import JsonCodec, Message, Operation, SagaContext, SagaState, contract_of, key_of
from kafkasaga.saga.definition import Definition, Saga
from kafkasaga.saga.events import from_body, step_of, to_body
from kafkasaga.saga.inputs import Arrived, Input, RetryStuck, SkipStuck, Start, Woken, start_of
from kafkasaga.saga.instance import Instance, SagaStatus, from_snapshot, to_snapshot
from kafkasaga.saga.machine import RunLocal, Send, decide, run_local
from kafkasaga.saga.match import AWAITS_REPLY, candidates
from kafkasaga.testing.story import Story

St = TypeVar("St", bound=SagaState)

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""When every scenario begins; the story counts from here."""
_BUSY = 100_000
"""Turns of the clock in one ``after`` from which on a saga is taken to run in circles."""
_CODEC = JsonCodec()


def scenario(saga: type[Saga[St]]) -> Scenario[St]:
    """A scenario of ``saga``, in which nothing has happened yet."""
    return Scenario(saga)


class Scenario(Generic[St]):
    """One saga instance in virtual time. Each method returns the scenario, so that calls can be chained."""

    def __init__(self, saga: type[Saga[St]]) -> None:
        self._definition: Definition = saga.definition
        self._definition.check_names()
        self._instance: Instance | None = None
        self._now = EPOCH
        self._session: Any = _NoSession()
        self._sent: list[Message] = []
        self._last: Arrived | Start | None = None
        self._story = Story(EPOCH)

    # -- what happens

    def with_session(self, session: Any) -> Self:
        """Run local steps with this session."""
        self._session = session
        return self

    def given(self, start: Message | St, *, key: str | None = None) -> Self:
        """Start the saga: from the message that it starts on, or from a state, as ``Service.start`` does."""
        __tracebackhide__ = True
        if isinstance(start, SagaState):
            self._last = Start(key=key or self._key_in(start), state=start)
        else:
            self._last = self._start_by(self._through_json(start))
        return self._run(self._last)

    def when(self, message: Message, *, to: str | None = None) -> Self:
        """A reply or an event arrives. ``to`` is the path of the step that it answers, if the message does not tell."""
        __tracebackhide__ = True
        instance, message = self._begun, self._through_json(message)
        type = contract_of(message).type
        if to is None:
            self._check_key(message)
            several = [answer.step for answer in candidates(self._definition, instance, type)]
            if len(several) > 1:
                self._fail(f"{type!r} may answer {', '.join(several)}; say which: .when(…, to={several[0]!r})")
        self._last = Arrived(type, message, None if to is None else self._context(to))
        return self._run(self._last)

    def again(self) -> Self:
        """The last message is delivered once more."""
        __tracebackhide__ = True
        if self._last is None:
            self._fail("nothing was delivered yet that could be delivered again")
        return self._run(self._last)

    def after(self, time: timedelta) -> Self:
        """Time passes: deadlines fire, and what is to be tried again later is."""
        __tracebackhide__ = True
        until = self._now + time
        turns = 0
        while (due := self._begun.wake_at) is not None and due <= until:
            self._now = max(due, self._now)
            self._run(Woken())
            turns += 1
            if turns == _BUSY:
                self._fail(f"the saga is still busy after {_BUSY} turns of the clock")
        self._now = until
        return self

    def retry(self, step: str, *, by: str = "operator", why: str = "scenario") -> Self:
        """An operator has a stuck step tried again."""
        return self._run(RetryStuck(step, by, why))

    def skip(self, step: str, *, by: str = "operator", why: str = "scenario") -> Self:
        """An operator declares a stuck step settled."""
        return self._run(SkipStuck(step, by, why))

    # -- what is expected

    def expect(self, *messages: Message) -> Self:
        """The saga has sent exactly these since the last ``expect``, in whatever order."""
        __tracebackhide__ = True
        expected, sent = [self._through_json(message) for message in messages], self._sent
        self._sent = []
        missing, surplus = _without(expected, sent), _without(sent, expected)
        if missing or surplus:
            lines = [
                "expected:",
                *_listed(expected, missing, "not sent"),
                "sent:",
                *_listed(sent, surplus, "not expected"),
            ]
            self._fail("the saga sent something else than expected\n\n" + "\n".join(lines))
        return self

    def expect_nothing(self) -> Self:
        """The saga has sent nothing since the last ``expect``."""
        __tracebackhide__ = True
        return self.expect()

    def expect_completed(self) -> Self:
        """The saga has come to its end."""
        __tracebackhide__ = True
        return self._expect_status(SagaStatus.COMPLETED)

    def expect_cancelled(self, *, reason: str | None = None) -> Self:
        """The saga is undone, for this reason."""
        __tracebackhide__ = True
        self._expect_status(SagaStatus.CANCELLED)
        turned = self._begun.turned
        if reason is not None and turned is not None and turned.reason != reason:
            self._fail(f"expected it to be cancelled for {reason!r}, but it was for {turned.reason!r}")
        return self

    def expect_stuck(self, step: str) -> Self:
        """This step needs a person."""
        __tracebackhide__ = True
        state = self._begun.steps.get(step)
        if state is None or not state.status.stuck:
            stands = "has not begun" if state is None else f"is {state.status}"
            self._fail(f"expected step {step!r} to be stuck, but it {stands}")
        return self

    # -- what there is to see

    @property
    def state(self) -> St:
        """The saga's state as it is now; a copy."""
        return cast("St", self._definition.state.model_validate_json(self._begun.data))

    @property
    def status(self) -> SagaStatus:
        """Where the saga stands."""
        return self._begun.status

    @property
    def story(self) -> str:
        """What happened so far, one line for each entry of the saga log."""
        return self._story.text(self._instance)

    # -- how

    @property
    def _begun(self) -> Instance:
        __tracebackhide__ = True
        if self._instance is None:
            self._fail("the saga has not begun: start it with .given(…)")
        return self._instance

    def _run(self, first: Input) -> Self:
        __tracebackhide__ = True
        inputs: list[Input] = [first]
        while inputs:
            decision = decide(self._definition, self._instance, inputs.pop(0), self._now)
            for event in decision.events:
                self._story.add(self._now, from_body(event.kind, step_of(event), to_body(event)))
            self._instance = from_snapshot(to_snapshot(decision.instance))
            for effect in decision.effects:
                match effect:
                    case Send(message=message):
                        self._sent.append(self._through_json(message))
                    case RunLocal():
                        inputs.append(run_local(self._definition, self._instance, effect, self._session))
        return self

    def _through_json(self, message: Message) -> Message:
        __tracebackhide__ = True
        try:
            decoded = _CODEC.decode(type(message), _CODEC.encode(message))
        except (KafkasagaError, ValueError) as error:
            self._fail(f"{message!r} cannot travel as JSON: {error}")
        if decoded != message:
            self._fail(f"{message!r} does not survive JSON: it arrives as {decoded!r}")
        return decoded

    def _start_by(self, message: Message) -> Start:
        __tracebackhide__ = True
        try:
            return start_of(self._definition, message)
        except (KafkasagaError, ValueError) as error:
            self._fail(str(error))

    def _key_in(self, state: SagaState) -> str:
        """The correlation key that the state holds; nothing if that cannot be told."""
        __tracebackhide__ = True
        starts_on = self._definition.starts_on
        field = None if starts_on is None else contract_of(starts_on).key
        if field is None or field not in type(state).model_fields:
            return ""
        value = getattr(state, field)
        if value is None or value == "":
            self._fail(f"the state has {field}={value!r}, which is the saga's key; give it the id of its entity")
        return str(value)

    def _check_key(self, message: Message) -> None:
        __tracebackhide__ = True
        key = self._begun.key
        if key and key_of(message) != key:
            self._fail(
                f"{message!r} is for another saga: its key is {key_of(message)!r}, this saga's is {key!r}. A reply "
                "without headers is found by its key; for one that names its step in headers, as the replies of "
                "kafkasaga's handlers do, say which step: .when(…, to=…)"
            )

    def _context(self, path: str) -> SagaContext:
        __tracebackhide__ = True
        state = self._begun.steps.get(path)
        if state is None:
            self._fail(f"step {path!r} has not begun; those that have are {', '.join(self._begun.steps)}")
        undoing = state.status in AWAITS_REPLY[Operation.COMPENSATION]
        operation = Operation.COMPENSATION if undoing else Operation.ACTION
        name = self._definition.name
        return SagaContext(name, self._begun.id, path, state.generation, operation, state.command_id)

    def _expect_status(self, status: SagaStatus) -> Self:
        __tracebackhide__ = True
        if self._begun.status is not status:
            self._fail(f"expected the saga to be {status}, but it is {self._begun.status}")
        return self

    def _fail(self, what: str) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(f"{self._definition.name}: {what}\n\n{self.story}")


class _NoSession:
    """Stands for the session that nobody gave."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"a local step uses its session (.{name}); give it one: scenario(…).with_session(session)")


def _without(some: list[Message], others: list[Message]) -> list[Message]:
    """``some`` less one of each of ``others``."""
    rest, left = list(others), list[Message]()
    for message in some:
        if message in rest:
            rest.remove(message)
        else:
            left.append(message)
    return left


def _listed(messages: list[Message], marked: list[Message], mark: str) -> list[str]:
    marks = list(marked)
    lines: list[str] = []
    for message in messages:
        if is_marked := message in marks:
            marks.remove(message)
        lines.append(f"  {'!' if is_marked else ' '} {message!r}{f'   ({mark})' if is_marked else ''}")
    return lines or ["    nothing"]
