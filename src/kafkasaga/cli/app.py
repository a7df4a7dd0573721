"""The root of the command line: what every command shares, and how an error ends it."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from rich.console import Console

from kafkasaga.cli.database import app as database
from kafkasaga.cli.demo import demo
from kafkasaga.cli.parked import app as parked
from kafkasaga.cli.run import relay, run
from kafkasaga.cli.sagas import app as sagas
from kafkasaga.cli.status import status
from kafkasaga.cli.topics import app as topics
from kafkasaga.errors import BrokerRefused, ConfigurationError, DatabaseRefused, DefinitionError, KafkasagaError

_WRONGLY_CONFIGURED = (ConfigurationError, DefinitionError, BrokerRefused, DatabaseRefused)

app = typer.Typer(
    help="Sagas over Apache Kafka. Settings come from KAFKASAGA_… variables; options override them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run)
app.command("relay")(relay)
app.command("demo")(demo)
app.add_typer(database, name="db")
app.add_typer(topics, name="topics")
app.add_typer(sagas, name="saga")
app.add_typer(parked, name="parked")
app.command("status")(status)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kafkasaga {installed_version('kafkasaga')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Sagas over Apache Kafka."""


def main() -> None:
    """Run the command line. Exit status 2: something is configured or defined wrongly; 1: it failed."""
    try:
        app()
    except KafkasagaError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, _WRONGLY_CONFIGURED) else 1)
