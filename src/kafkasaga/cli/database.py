"""``kafkasaga db``."""

from __future__ import annotations

import typer

from kafkasaga.cli.options import DatabaseUrl, OptionalTarget, Prefix, Schema, load_outbox, load_service, load_settings
from kafkasaga.errors import ConfigurationError
from kafkasaga.runtime.operator import Operator
from kafkasaga.runtime.retention import check_retention, retention_of
from kafkasaga.runtime.service import PARKING
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade as upgrade_schema

app = typer.Typer(help="The library's tables.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """The library's tables."""


@app.command()
def upgrade(
    target: OptionalTarget = None, database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = ""
) -> None:
    """Create the library's tables, or bring them up to this version."""
    url = load_settings(database_url).database_url.get_secret_value()
    if not url:
        raise ConfigurationError("no database: set KAFKASAGA_DATABASE_URL, or give --database-url")
    store = create_store(url, load_outbox(target, schema, prefix).tables)
    if store.in_memory:
        raise ConfigurationError(
            "this database lives in memory and ends with the command: name a file, sqlite:///file.db"
        )
    try:
        upgrade_schema(store.engine, store.tables)
    finally:
        store.close()
    typer.echo("The tables are up to date.")


@app.command()
def prune(
    target: OptionalTarget = None, database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = ""
) -> None:
    """Forget what is older than the KAFKASAGA_…_DAYS settings say, as a running service does by itself.

    With a service, the settings are checked against its sagas first.
    """
    settings = load_settings(database_url)
    keep = retention_of(settings)
    if not keep:
        raise ConfigurationError("nothing is to be forgotten: set KAFKASAGA_INBOX_DAYS, or others that end in _DAYS")
    service = None if target is None else load_service(target)
    definitions = () if service is None else service.definitions.values()
    check_retention(keep, definitions, PARKING if service is None else service.parking)
    with Operator.open(settings, load_outbox(target, schema, prefix)) as operator:
        counts = operator.prune(keep)
    for what, count in counts.items():
        typer.echo(f"{what}: {count} forgotten")
