"""What of a batch runs now and what is parked: decided in the order of the records (invariant I4).

A message of a lane in which something is parked is parked behind it, with two exceptions:

- A compensation whose action was never carried out here has nothing to undo. The barrier answers it without its
  handler, and from then on the action will not run, whether it is parked or still to come. So nothing is reordered if
  it goes first; and it must, since the action that it would wait for may be dead.
- A command that was sent again takes the place of its predecessor, which asks the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierKey, InboxKey, Parked, ParkedKey, ParkedStatus, UnitOfWork
from kafkasaga.runtime.parking import Parking
from kafkasaga.runtime.routing import Task

log = structlog.get_logger("kafkasaga.consumer")


@dataclass(slots=True)
class Sorted:
    """The tasks of a batch that have not been handled yet."""

    ready: list[Task] = field(default_factory=list[Task])
    overtaking: set[int] = field(default_factory=set[int])
    """Those of ``ready``, by their ids in memory, that come before parked messages of their lane."""
    parked: list[Parked] = field(default_factory=list[Parked])
    behind: set[InboxKey] = field(default_factory=set[InboxKey])
    """Those of ``parked`` that would run, were nothing before them."""


class Triage:
    """Sorts the tasks of one transaction."""

    def __init__(self, uow: UnitOfWork, parking: Parking, now: datetime, errors: Mapping[int, Exception]) -> None:
        self._uow, self._parking, self._now, self._errors = uow, parking, now, errors
        self._lanes: set[ParkedKey] = set()
        self._carried_out: Collection[BarrierKey] = ()

    def sort(self, tasks: Sequence[Task]) -> Sorted:
        """Claim the tasks in the inbox; sort those that are new, and park what is to be parked."""
        new = self._new(tasks)
        self._lanes = self._uow.parked_lanes(lane for task in tasks if (lane := task.lane) is not None)
        self._carried_out = self._actions_carried_out(new)
        found = Sorted()
        for task in new:
            self._place(task, found)
        self._park(found)
        return found

    def _new(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """The tasks whose messages have not been handled, each of them once."""
        keys = [task.inbox_key for task in tasks]
        fresh = self._uow.claim_inbox(set(keys))
        if len(fresh) == len(keys):  # nearly always: none was handled, and there is none twice
            return tasks
        new: list[Task] = []
        for task, key in zip(tasks, keys, strict=True):
            if key in fresh:
                fresh.discard(key)  # a duplicate within the batch is a duplicate
                new.append(task)
        return new

    def _place(self, task: Task, found: Sorted) -> None:
        error, behind = self._errors.get(id(task)), bool(self._lanes) and task.lane in self._lanes
        if behind and error is None and self._overtakes(task, found):
            found.ready.append(task)
            found.overtaking.add(id(task))
            return
        keep = self._parking.instead(task, error, behind=behind, now=self._now)
        if keep is None:
            found.ready.append(task)
            return
        found.parked.append(keep)
        if behind and task.problem is None:
            found.behind.add(task.inbox_key)
        if task.lane is not None and keep.status is not ParkedStatus.DEAD_LETTER:
            self._lanes.add(task.lane)

    # -- compensations

    def _actions_carried_out(self, tasks: Sequence[Task]) -> Collection[BarrierKey]:
        """Of the compensations that something is parked before: which of their actions were carried out."""
        bad = {task.lane for task in tasks if task.problem is not None or id(task) in self._errors}
        if not self._lanes and not bad:
            return ()
        waiting = [task.asks for task in tasks if task.lane in self._lanes or task.lane in bad]
        actions = {key.action for key in waiting if key is not None and key.operation is Operation.COMPENSATION}
        return self._uow.carried_out(actions) if actions else ()

    def _overtakes(self, task: Task, found: Sorted) -> bool:
        key = task.asks
        if key is None or key.operation is not Operation.COMPENSATION or task.problem is not None:
            return False
        # An action that is about to run in this very batch is as good as carried out.
        return key.action not in self._carried_out and all(other.asks != key.action for other in found.ready)

    # -- commands that were sent again

    def _park(self, found: Sorted) -> None:
        parked = _latest(found.parked, found.behind)
        again = [one for one in parked if one.asks is not None and _inbox_key(one) in found.behind]
        replaced = self._uow.replace_parked(again) if again else set[InboxKey]()
        found.parked = [one for one in parked if _inbox_key(one) not in replaced]
        if found.parked:
            self._uow.park(found.parked)
        for key in sorted(replaced):
            log.info("a parked command was sent again and replaced", message_id=str(key.message_id))


def _latest(parked: Sequence[Parked], behind: Collection[InboxKey]) -> list[Parked]:
    """Where a command is parked twice in one transaction, the later one takes the place of the first."""
    places: dict[object, int] = {}
    found: list[Parked] = []
    for one in parked:
        place = (one.consumer, one.record.topic, one.record.key, one.asks)
        if one.asks is None or one.status is ParkedStatus.DEAD_LETTER:
            found.append(one)
        elif place in places and _inbox_key(one) in behind:
            at = places[place]
            found[at] = replace(found[at], record=one.record, message_id=one.message_id, source=one.source)
            log.info("a parked command was sent again and replaced", message_id=str(one.message_id))
        else:
            places[place] = len(found)
            found.append(one)
    return found


def _inbox_key(parked: Parked) -> InboxKey:
    return InboxKey(parked.consumer, parked.source, parked.message_id)
