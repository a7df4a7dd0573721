"""Running tasks inside a transaction: handlers and sagas, in the order of the tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NoReturn

from kafkasaga.errors import EnvironmentUnavailable, SerializationConflict
from kafkasaga.messages import Envelope
from kafkasaga.ports import UnitOfWork
from kafkasaga.runtime.orchestrator import Definitions, SagaTurn, Unmatched
from kafkasaga.runtime.outgoing import Sender
from kafkasaga.runtime.participant import HandlerTurn
from kafkasaga.runtime.progress import Happened, tell
from kafkasaga.runtime.routing import HandlerRoute, SagaRoute, Task
from kafkasaga.runtime.runs import Run, runs
from kafkasaga.runtime.watchdog import Watchdog
from kafkasaga.stores import Published, meant_for_us


class TaskFailed(Exception):
    """A task raised. Nothing of its transaction is kept."""

    def __init__(self, task: Task, cause: Exception) -> None:
        super().__init__(str(cause))
        self.task, self.cause = task, cause


class Execution:
    """What a service does with its messages, once a transaction is open."""

    def __init__(self, sender: Sender, definitions: Definitions, watchdog: Watchdog | None = None) -> None:
        self._sender, self._definitions = sender, definitions
        self._began = watchdog.began if watchdog is not None else _unwatched
        self._ended = watchdog.ended if watchdog is not None else lambda: None
        self._happened: Happened = ()
        self._runs_locally = any(definition.runs_locally for definition in definitions.values())

    def hands_over(self, tasks: Iterable[Task]) -> bool:
        """Whether functions of the user's may ask for the session: handlers, or the local steps of any saga."""
        return self._runs_locally or any(isinstance(task.route, HandlerRoute) for task in tasks)

    def run(
        self, uow: UnitOfWork, tasks: Sequence[Task], overtaking: Collection[int] = ()
    ) -> list[tuple[Task, Unmatched]]:
        """Run the tasks; returns those that belong to no saga, which have changed nothing.

        ``overtaking`` are those, by their ids in memory, that come before parked messages of their lane.

        Raises:
            TaskFailed: if one raised; the transaction is to be rolled back. What a batch handler raises for several
                messages goes through as it is.
            SerializationConflict: if one met another transaction.
            DatabaseUnavailable: if one lost the database.
        """
        unmatched: list[tuple[Task, Unmatched]] = []
        published, outgoing = Published(self._sender.place), list[Envelope]()
        of_handlers = [task for task in tasks if isinstance(task.route, HandlerRoute)]
        of_sagas = [task for task in tasks if isinstance(task.route, SagaRoute)]
        handlers = HandlerTurn(uow, self._sender, of_handlers, published, overtaking)
        sagas = SagaTurn(uow, self._sender, self._definitions, of_sagas, published)
        try:
            for run in runs(tasks) if of_handlers else ((task,) for task in tasks):
                task = run[0]
                self._began(task)
                try:
                    if isinstance(task.route, HandlerRoute):
                        outgoing += handlers.handle(run)
                        sagas.time_passed()
                    else:
                        handlers.let_go()
                        outgoing += sagas.handle(task)
                except Unmatched as error:
                    unmatched.append((task, error))
                except (EnvironmentUnavailable, SerializationConflict):
                    raise
                except Exception as error:  # noqa: BLE001 - it is raised
                    _raise_as_ours(run, error)
        finally:
            self._ended()
            handlers.let_go()
        uow.flush()
        handlers.settle()
        sagas.save()
        self._happened = sagas.happened
        if outgoing:
            uow.add_outbox(published.kept(outgoing))
        return _not_taken(unmatched, of_sagas) if unmatched else []

    def committed(self) -> None:
        """The transaction of the last run is committed: log what happened in it."""
        tell(self._happened)
        self._happened = ()


def _not_taken(unmatched: list[tuple[Task, Unmatched]], of_sagas: Sequence[Task]) -> list[tuple[Task, Unmatched]]:
    """Without the replies that another saga took."""
    refused = {id(task) for task, _ in unmatched}
    taken = {id(task.record) for task in of_sagas if id(task) not in refused}
    return [(task, error) for task, error in unmatched if id(task.record) not in taken or not is_offered(task)]


def is_offered(task: Task) -> bool:
    """Whether it is a reply without headers, offered to every saga that knows its type: one of them is enough.

    An event is for each saga that awaits it, and one that has not begun may yet. What names its saga is for that one.
    """
    return isinstance(task.route, SagaRoute) and not task.route.is_event and task.attributes.saga is None


def _raise_as_ours(run: Run, error: Exception) -> NoReturn:
    """What was raised by a task, or by a run of which nobody knows whose it is."""
    ours = meant_for_us(error)  # the handler's own statement met another transaction, or no database
    if ours is not None:
        raise ours from error
    if len(run) > 1:
        raise error
    raise TaskFailed(run[0], error) from error


def _unwatched(_: Task) -> None:
    """Nobody looks how long it takes."""
