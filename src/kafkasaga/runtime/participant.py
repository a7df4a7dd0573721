"""Running handlers, behind the barrier (invariant I9).

The barrier has a row for each thing that a saga can ask of this service: (saga, step, generation, operation). It is
read before the handler runs and inserted at the end of the handler's transaction. Of two transactions that insert one
row, the second is refused by the row's key and run again: then it reads what the first one left. A compensation with
nothing to undo inserts its action's row too. What is read decides:

==================  ==============================  =================================================
a message asks for  and the barrier holds           so
==================  ==============================  =================================================
action              nothing                         the handler runs
action              the action, done                its first reply again (repeated)
action              the action, superseded          nothing; it came after its compensation (hanging)
compensation        neither                         nothing to undo (empty); the action is superseded
compensation        the action, which had failed    nothing to undo (empty)
compensation        the action, which had succeeded the handler runs
compensation        the compensation                its first reply again (repeated, or empty)
==================  ==============================  =================================================

Answers of other services' barriers are meant for the saga that asked. A handler that listens to such a reply as an
event does not get them: either nothing happened, or the first reply has told it.

The barrier is dtm's idea (sub-transaction barrier); Seata calls it a fence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import count
from typing import Any
from uuid import UUID

import structlog

from kafkasaga.errors import SerializationConflict
from kafkasaga.messages import Envelope, Mark, Message, Operation, contract_of, id_text
from kafkasaga.ports import BarrierEntry, BarrierKey, Outcome, UnitOfWork
from kafkasaga.runtime.handlers import Handler
from kafkasaga.runtime.outgoing import Sender, derived_id, reply_context
from kafkasaga.runtime.routing import HandlerRoute, Task
from kafkasaga.runtime.runs import Run
from kafkasaga.stores import CONTEXT, PublishContext, Published

log = structlog.get_logger("kafkasaga.consumer")


class HandlerTurn:
    """The handlers of one batch, in one transaction."""

    def __init__(
        self,
        uow: UnitOfWork,
        sender: Sender,
        tasks: Iterable[Task],
        published: Published | None = None,
        overtaking: Collection[int] = (),
    ) -> None:
        self._uow, self._sender, self._published = uow, sender, published or Published(sender.place)
        self._now = sender.clock.now()
        self._overtaking = overtaking
        """Tasks, by their ids in memory, that run before parked messages of their lane: their handlers must not."""
        keys = self._asked = {key for task in tasks for key in task.claims}
        self._known: dict[BarrierKey, BarrierEntry] = uow.read_barrier(keys) if keys else {}
        self._settled: dict[BarrierKey, BarrierEntry] = {}
        self._in_log: set[str] = set()

    def handle(self, run: Run) -> list[Envelope]:
        """What the service answers to the messages of a run. Raises whatever the handler raises.

        Until ``let_go``, every line of the log says which messages it is about.
        """
        if len(run) == 1:
            answer = self._without_handler(run[0])
            return self._call(run)[0] if answer is None else answer
        answers = {id(task): self._without_handler(task) for task in run}
        due = [task for task in run if answers[id(task)] is None]
        if due:
            for task, called in zip(due, self._call(due), strict=True):
                answers[id(task)] = called
        return [envelope for task in run for envelope in answers[id(task)] or ()]

    def _without_handler(self, task: Task) -> list[Envelope] | None:
        """The answer to a message for which no handler has to run; None if one has to."""
        if (saga := task.attributes.saga) is not None and saga.mark is not None:
            log.debug("a barrier's answer is no event", mark=saga.mark.value, message_id=str(task.attributes.id))
            return []
        context, key = task.command_of, task.asks
        if context is None or key is None:
            return None
        known = self._entry(key)
        if known is not None:
            return self._answer_again(task, known)
        if key.operation is Operation.COMPENSATION and self._nothing_to_undo(key, context.failures):
            return self._answer_empty(task, _handler(task), key)
        if id(task) in self._overtaking:
            raise SerializationConflict(f"step {context.step!r} was carried out just now: its undoing waits its turn")
        return None

    def settle(self) -> None:
        """Write what became of what was asked for."""
        for key in self._asked - self._known.keys() - self._settled.keys():
            # A compensation that was repeated after its action's row was forgotten: the action will never run.
            assert key.operation is Operation.ACTION, key
            self._settle(key, BarrierEntry(Outcome.SUPERSEDED))
        if self._settled:
            self._uow.settle_barrier(self._settled)
        self._close_superseded()

    def _close_superseded(self) -> None:
        """An action that is parked and will never run any more must not hold its lane."""
        never = {key for key, entry in self._settled.items() if entry.outcome is Outcome.SUPERSEDED}
        for lane, key in self._uow.drop_parked(never) if never else ():
            log.warning(
                "parked message removed: its step was undone first",
                topic=lane.topic, consumer=lane.consumer, saga_id=str(key.saga_id), step=key.step,
            )  # fmt: skip

    def _call(self, tasks: Run) -> list[list[Envelope]]:
        """Call the handler once for these tasks: what it published and what it returned, for each.

        The first message that it returns to a command is the reply; others are events of their own.
        """
        handler, messages = _handler(tasks[0]), [task.message for task in tasks if task.message is not None]
        ids = [_Ids(task) for task in tasks]
        self._have_log_say(_log_fields(tasks))
        if handler.session_parameter is None:
            answers = handler.call(messages)
        else:
            session = self._uow.session
            session.info[CONTEXT] = self._publishing(tasks[0], _refuse_to_publish if handler.takes_many else ids[0])
            try:
                answers = handler.call(messages, session)
            finally:
                del session.info[CONTEXT]
        published = self._published.take()
        return [
            published + self._answers(task, messages, next_id)
            for task, messages, next_id in zip(tasks, answers, ids, strict=True)
        ]

    def _have_log_say(self, fields: dict[str, Any]) -> None:
        """Bound anew for each message, and unbound once: binding for the time of a call takes three times as long."""
        if gone := self._in_log - fields.keys():
            structlog.contextvars.unbind_contextvars(*gone)
        structlog.contextvars.bind_contextvars(**fields)
        self._in_log = set(fields)

    def let_go(self) -> None:
        """The log speaks of something else from now on."""
        if self._in_log:
            structlog.contextvars.unbind_contextvars(*self._in_log)
            self._in_log.clear()

    def _publishing(self, task: Task, next_id: Callable[[], UUID]) -> PublishContext:
        return PublishContext(self._sender.source, next_id, task.attributes.traceparent, self._now, self._published)

    def _answers(self, task: Task, messages: Sequence[Message], next_id: Callable[[], UUID]) -> list[Envelope]:
        context, key, cause = task.command_of, task.asks, task.attributes
        answers: list[Envelope] = []
        for position, message in enumerate(messages):
            saga = reply_context(context, cause.id) if position == 0 and context is not None else None
            trace = cause.traceparent
            answers.append(self._sender.envelope(message, next_id(), self._now, saga=saga, traceparent=trace))
        if key is not None:
            if not answers:
                _say_that_it_is_silent(_handler(task))
            self._settle(key, _done(answers[0]) if answers else BarrierEntry(Outcome.DONE))
        return answers

    def _entry(self, key: BarrierKey) -> BarrierEntry | None:
        return self._settled.get(key) or (self._known.get(key) if self._known else None)

    def _settle(self, key: BarrierKey, entry: BarrierEntry) -> None:
        self._settled[key] = entry

    def _nothing_to_undo(self, compensation: BarrierKey, failures: Collection[str]) -> bool:
        action = self._entry(compensation.action)
        if action is None:
            self._settle(compensation.action, BarrierEntry(Outcome.SUPERSEDED))
            return True
        return action.outcome is not Outcome.DONE or action.reply_type in failures

    def _answer_empty(self, task: Task, handler: Handler, key: BarrierKey) -> list[Envelope]:
        reply = _reply_type(handler)
        entry = BarrierEntry(Outcome.EMPTY) if reply is None else BarrierEntry(Outcome.EMPTY, *_place(reply))
        self._settle(key, entry)
        return self._answer(task, entry, Mark.EMPTY)

    def _answer_again(self, task: Task, entry: BarrierEntry) -> list[Envelope]:
        match entry.outcome:
            case Outcome.DONE:
                return self._answer(task, entry, Mark.REPEATED)
            case Outcome.EMPTY:
                return self._answer(task, entry, Mark.EMPTY)
            case Outcome.SUPERSEDED:
                reply = _reply_type(_handler(task))
                place = BarrierEntry(entry.outcome) if reply is None else BarrierEntry(entry.outcome, *_place(reply))
                return self._answer(task, place, Mark.SUPERSEDED)

    def _answer(self, task: Task, entry: BarrierEntry, mark: Mark) -> list[Envelope]:
        """An answer that no handler gave; nothing, where the handler answers nothing."""
        context, cause = task.attributes.saga, task.attributes
        assert context is not None
        if entry.reply_topic is None or entry.reply_type is None:
            return []
        log.info("answered by the barrier", mark=mark.value, **_log_fields([task]))
        key = entry.reply_key if entry.reply_key is not None else (task.record.key or b"").decode("utf-8", "replace")
        identity = derived_id(cause, task.consumer, 0)
        saga = reply_context(context, cause.id, mark)
        body = entry.reply_body
        return [self._sender.answer(entry.reply_topic, entry.reply_type, key, body, identity, saga, cause.traceparent)]


@cache
def _say_that_it_is_silent(handler: Handler) -> None:
    """Once for each handler."""
    log.warning(
        "a handler has answered nothing to a saga's command: unless something else replies, the saga waits until its "
        "deadline; return the reply",
        handler=handler.name,
        command=contract_of(handler.message).type,
    )


def _done(reply: Envelope) -> BarrierEntry:
    return BarrierEntry(Outcome.DONE, reply.topic, reply.type, reply.payload, reply.key)


def _reply_type(handler: Handler) -> type[Message] | None:
    return handler.replies[0] if handler.replies else None


def _place(reply: type[Message]) -> tuple[str, str]:
    contract = contract_of(reply)
    return contract.topic, contract.type


class _Ids:
    """The ids of what a task sends, one after the other."""

    def __init__(self, task: Task) -> None:
        self._task, self._numbers = task, count()

    def __call__(self) -> UUID:
        return derived_id(self._task.attributes, self._task.consumer, next(self._numbers))


def _refuse_to_publish() -> UUID:
    raise TypeError(
        "a batch handler cannot publish through the outbox, since nothing tells which of its messages led to it: "
        "return it beside the reply, as (reply, event)"
    )


def _handler(task: Task) -> Handler:
    assert isinstance(task.route, HandlerRoute)
    return task.route.handler


def _log_fields(tasks: Run) -> dict[str, Any]:
    if len(tasks) > 1:
        return {"message_type": tasks[0].attributes.type, "messages": len(tasks)}
    attributes = tasks[0].attributes
    fields = {"message_id": id_text(attributes.id), "message_type": attributes.type}
    if (saga := attributes.saga) is not None:
        fields |= {"saga_id": id_text(saga.saga_id), "step": saga.step}
    return fields
