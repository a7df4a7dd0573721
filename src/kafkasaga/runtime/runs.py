"""Which tasks of a batch are run together: batch handlers take many messages at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from kafkasaga.runtime.handlers import Handler
from kafkasaga.runtime.routing import HandlerRoute, Task

Run = Sequence[Task]
"""Tasks that are run together: one, or several of one batch handler."""


def runs(tasks: Iterable[Task]) -> list[Run]:
    """The tasks as runs, to be executed in this order.

    A task joins an earlier run of its batch handler unless that would bring it before a task that has to come first:
    one of its lane (invariant I4), or one that asks the same of the same saga's step (I9). Tasks of one lane may be in
    one run, since the handler gets them in their order; two that share a barrier row may not, since the first decides
    what becomes of the second.
    """
    tasks = list(tasks)
    handlers = {_of_many(task) for task in tasks}
    if handlers <= {None}:
        return [[task] for task in tasks]
    if len(handlers) == 1 and _ask_different_things(tasks):
        return [tasks]
    found: list[list[Task]] = []
    joinable: dict[Handler, int] = {}
    last: dict[Hashable, int] = {}
    for task in tasks:
        places = list(_places(task))
        handler = _of_many(task)
        run = None if handler is None else joinable.get(handler)
        if run is None or run < max((last.get(place, -1) + apart for place, apart in places), default=0):
            run = len(found)
            found.append([])
            if handler is not None:
                joinable[handler] = run
        found[run].append(task)
        last.update((place, run) for place, _ in places)
    return list(found)


def _ask_different_things(tasks: Sequence[Task]) -> bool:
    asked = [key for task in tasks for key in task.claims]
    return len(asked) == len(set(asked))


def _of_many(task: Task) -> Handler | None:
    handler = task.route.handler if isinstance(task.route, HandlerRoute) else None
    return handler if handler is not None and handler.takes_many else None


def _places(task: Task) -> Iterator[tuple[Hashable, int]]:
    """What orders it among others, and how many runs it must be behind the last that shares it."""
    if task.lane is not None:
        yield task.lane, 0
    for key in task.claims:
        yield key, 1
