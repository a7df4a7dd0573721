"""``kafkasaga parked``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kafkasaga.cli.options import By, DatabaseUrl, Prefix, Schema, Why, load_settings
from kafkasaga.ports import Parked
from kafkasaga.runtime.operator import Operator
from kafkasaga.stores import Action, Outbox

app = typer.Typer(help="Messages that could not be handled.", no_args_is_help=True)
out = Console()

WIDEST = 1000
"""Columns of a list's line, at most."""

Id = Annotated[int, typer.Argument(help="The message's number, as 'list' shows it.")]


@app.command("list")
def list_parked(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the oldest first.")] = 50,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """List parked messages, the oldest first."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        found = operator.parked(limit)
    if not found:
        out.print("Nothing is parked.")
        return
    table = Table("id", "consumer", "topic", "key", "status", "attempts", "next", "error", box=None)
    for message in found:
        table.add_row(*map(escape, _cells(message)))
    Console(width=WIDEST).print(table)


@app.command()
def show(id: Id, database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = "") -> None:
    """Show one parked message: where it came from, its headers, its body and its error."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        message = operator.parked_message(id)
    if message is None:
        raise _unknown(id)
    record = message.record
    place = f"{record.topic}/{record.partition} at {record.offset}"
    lines = [
        f"parked message {id}: {message.status.value}, {message.attempts} attempts, since {message.parked_at}",
        f"consumer {message.consumer}, {place}, key {_readable(record.key)}",
        *(f"{name}: {_readable(value)}" for name, value in record.headers.items()),
        "",
        _readable(record.value),
        "",
        message.error,
    ]
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


@app.command()
def edit(
    id: Id,
    why: Why,
    by: By,
    body: Annotated[Path, typer.Option(help="A file with the new body.", exists=True, dir_okay=False)],
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """Give a message another body, and try it again. What it was is kept in operator_log."""
    _act(id, "edit", by, why, database_url, Outbox(schema=schema, prefix=prefix), body.read_bytes())


def _decision(action: Action, help: str) -> None:
    def decide(
        id: Id, why: Why, by: By, database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = ""
    ) -> None:
        _act(id, action, by, why, database_url, Outbox(schema=schema, prefix=prefix))

    app.command(action, help=help)(decide)


_decision("retry", "Try a message again, with all its attempts; at once, if nothing of its key is before it.")
_decision("skip", "Let the messages behind it go on without it; it stays as a dead letter.")
_decision("discard", "Remove a message; what it was is kept in operator_log.")


def _act(
    id: int, action: Action, by: str, why: str, database_url: str | None, outbox: Outbox, value: bytes | None = None
) -> None:
    with Operator.open(load_settings(database_url), outbox) as operator:
        before = operator.act(id, action, by=by, why=why, value=value)
    if before is None:
        raise _unknown(id)
    out.print(f"Parked message {id}: {action}, recorded for {by}.", markup=False, highlight=False, soft_wrap=True)


def _unknown(id: int) -> typer.Exit:
    out.print(f"There is no parked message {id}.")
    return typer.Exit(1)


def _cells(message: Parked) -> list[str]:
    due = "" if message.next_at is None else f"{message.next_at:%Y-%m-%d %H:%M:%S}"
    record, error = message.record, message.error.partition("\n")[0]
    key, status = _readable(record.key), message.status.value
    return [str(message.id), message.consumer, record.topic, key, status, str(message.attempts), due, error]


def _readable(value: bytes | None) -> str:
    if value is None:
        return ""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return repr(value)
