"""``kafkasaga status``."""

from __future__ import annotations

import typer
from rich.console import Console

from kafkasaga.cli.options import DatabaseUrl, Prefix, Schema, load_settings
from kafkasaga.runtime.operator import Operator
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.stores import Outbox


def status(database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = "") -> None:
    """Say how much of everything there is. Exit status 1 if something needs a person."""
    with Operator.open(load_settings(database_url), Outbox(schema=schema, prefix=prefix)) as operator:
        counts = operator.counts()
    stuck = counts.sagas.get(SagaStatus.STUCK, 0)
    since = "" if counts.oldest_unsent is None else f", the oldest since {counts.oldest_unsent:%Y-%m-%d %H:%M:%S}"
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"unsent messages: {counts.outbox}{since}")
    out.print(f"parked messages: {counts.parked}")
    for saga_status, count in sorted(counts.sagas.items()):
        out.print(f"sagas {saga_status}: {count}")
    urgent = {"blocked messages": counts.blocked, "dead messages": counts.dead, "stuck sagas": stuck}
    for what, count in urgent.items():
        out.print(f"{what}: {count}", style="bold red" if count else None)
    raise typer.Exit(1 if any(urgent.values()) else 0)
