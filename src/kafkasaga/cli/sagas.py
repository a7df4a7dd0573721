"""``kafkasaga saga``."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kafkasaga.cli.options import By, DatabaseUrl, Prefix, Schema, Target, Why, load_service, load_settings
from kafkasaga.ports import LogEntry, SagaSummary
from kafkasaga.runtime.operator import Operator
from kafkasaga.saga.events import Event
from kafkasaga.saga.inputs import Operated, RefuseStuck, RetryStuck, SkipStuck
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.stores import Outbox

SagaId = Annotated[UUID, typer.Argument(help="The saga's id, as 'list' shows it.")]
StuckStep = Annotated[str, typer.Argument(help="The stuck step, as 'show' names it.")]

app = typer.Typer(help="Saga instances and their logs.", no_args_is_help=True)
out = Console()

COLOURS = {
    SagaStatus.RUNNING: "cyan",
    SagaStatus.COMPENSATING: "yellow",
    SagaStatus.STUCK: "bold red",
    SagaStatus.COMPLETED: "green",
    SagaStatus.CANCELLED: "magenta",
}
WIDEST = 1000
"""Columns of a list's line, at most."""
QUIET = {"step", "command_id", "data", "body", "saga", "version", "key"}
"""Fields of an event that its line leaves out: shown elsewhere, or long."""


def _status(given: str | None) -> str | None:
    if given is not None and given not in set(SagaStatus):
        raise typer.BadParameter(f"{given!r} is none of {', '.join(SagaStatus)}")
    return given


@app.command("list")
def list_sagas(
    name: Annotated[str | None, typer.Option(help="Only sagas of this name.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar=f"[{'|'.join(SagaStatus)}]", callback=_status, help="Only sagas in this status."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only the saga with this correlation key.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """List sagas, the newest first."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        found = operator.sagas(name=name, status=None if status is None else SagaStatus(status), key=key, limit=limit)
    table = Table("id", "saga", "version", "key", "status", "events", "started", "last change", box=None)
    for saga in found:
        table.add_row(*_cells(saga))
    if not found:
        out.print("No saga matches.")
        return
    # One line a saga, whole, even where the terminal is narrower: ids are there to be copied, lines to be searched.
    Console(width=WIDEST).print(table)


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The saga's id, as 'list' shows it, or its correlation key.")],
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """Show one saga: where it stands, and everything that happened to it."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        history = operator.saga(_one(operator, id))
    if history is None:
        out.print(f"There is no saga {id}.")
        raise typer.Exit(1)
    saga = history.summary
    title = f"{escape(saga.saga)} version {saga.version}, key {escape(saga.key)}"
    out.print(f"{title}: [{COLOURS[saga.status]}]{saga.status}[/]", highlight=False, soft_wrap=True)
    if saga.pruned_at is None:
        out.print(f"data: {history.instance.data}", markup=False, highlight=False, soft_wrap=True)
    else:
        out.print(f"Its state and its log were deleted on {saga.pruned_at:%Y-%m-%d} (KAFKASAGA_SAGA_DAYS).")
    table = Table("#", "time", "event", "step", "", box=None)
    for entry in history.log:
        table.add_row(*map(escape, _line(entry)))
    # A terminal wraps within the column; what reads a pipe wants one line an event.
    (out if out.is_terminal else Console(width=WIDEST)).print(table)


def _one(operator: Operator, given: str) -> UUID:
    """The saga of this id, or the only one of this key."""
    try:
        return UUID(given)
    except ValueError:
        found = operator.sagas(key=given, limit=2)
    if len(found) == 1:
        return found[0].saga_id
    if found:
        said = f"Several sagas have the key {given}; show one by its id: kafkasaga saga list --key {given}"
    else:
        said = f"There is no saga with the id or the key {given}."
    out.print(said, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@app.command()
def verify(
    id: Annotated[UUID | None, typer.Argument(help="Only this saga; by default all.")] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """Fold every saga's log and compare it with its stored state. Exit status 1 if one differs."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        results = operator.verify_all() if id is None else iter([(id, operator.verify(id))])
        count, wrong = 0, 0
        for saga_id, problem in results:
            count += 1
            if problem is not None:
                wrong += 1
                out.print(f"{saga_id}: {problem}", style="red", markup=False, soft_wrap=True)
    out.print(f"{count} sagas verified, {wrong} wrong.")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def retry(target: Target, id: SagaId, step: StuckStep, why: Why, by: By, database_url: DatabaseUrl = None) -> None:
    """Try a stuck step again."""
    _settle(target, id, RetryStuck(step, by, why), database_url)


@app.command()
def skip(target: Target, id: SagaId, step: StuckStep, why: Why, by: By, database_url: DatabaseUrl = None) -> None:
    """Take a stuck step for settled: done, if it was going forward; undone, if it was being undone."""
    _settle(target, id, SkipStuck(step, by, why), database_url)


@app.command()
def refuse(target: Target, id: SagaId, step: StuckStep, why: Why, by: By, database_url: DatabaseUrl = None) -> None:
    """Declare that a stuck pivot did not happen and never will: the saga turns back."""
    _settle(target, id, RefuseStuck(step, by, why), database_url)


def _settle(target: str, id: UUID, input: Operated, database_url: str | None) -> None:
    service = load_service(target)
    with Operator.open(load_settings(database_url), service.outbox) as operator:
        operator.settle(service, id, input)
    out.print(f"Recorded in the log of saga {id}; its service goes on from there.", highlight=False, soft_wrap=True)


def _cells(saga: SagaSummary) -> list[str]:
    key = saga.key if saga.incarnation == 0 else f"{saga.key} (incarnation {saga.incarnation})"
    times = [f"{at:%Y-%m-%d %H:%M:%S}" for at in (saga.started_at, saga.updated_at)]
    status = f"[{COLOURS[saga.status]}]{saga.status}[/]"
    return [str(saga.saga_id), escape(saga.saga), str(saga.version), escape(key), status, str(saga.seq), *times]


def _line(entry: LogEntry) -> list[str]:
    step = str(getattr(entry.event, "step", ""))
    return [str(entry.seq), f"{entry.at:%H:%M:%S.%f}"[:-3], entry.event.kind, step, _details(entry.event)]


def _details(event: Event) -> str:
    shown = {f.name: getattr(event, f.name) for f in fields(event) if f.name not in QUIET}
    # What is nothing, or the first of its kind, is not worth a word.
    return ", ".join(f"{name} {_word(value)}" for name, value in shown.items() if value not in (None, "", (), 0))


def _word(value: object) -> str:
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case tuple():
            return " ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return str(value)
