"""Options and arguments that several commands share."""

from __future__ import annotations

import getpass
import importlib
import sys
from typing import Annotated

import typer

from kafkasaga.cli.loading import loading
from kafkasaga.errors import ConfigurationError
from kafkasaga.runtime import Service
from kafkasaga.settings import Settings
from kafkasaga.stores import Outbox

Target = Annotated[
    str, typer.Argument(metavar="MODULE:SERVICE", help="Where the Service is, e.g. shop.inventory:inventory")
]
OptionalTarget = Annotated[
    str | None, typer.Argument(metavar="[MODULE:SERVICE]", help="A Service, to take the schema and prefix from.")
]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQLAlchemy URL; overrides KAFKASAGA_DATABASE_URL.")]
BootstrapServers = Annotated[str | None, typer.Option(help="host:port,…; overrides KAFKASAGA_BOOTSTRAP_SERVERS.")]
Why = Annotated[str, typer.Option(help="Why; it is recorded.")]
By = Annotated[
    str,
    typer.Option(
        help="Who decides this; it is recorded.",
        default_factory=getpass.getuser,
        show_default="the user of the operating system",
    ),
]
Schema = Annotated[str | None, typer.Option(help="The database schema of the library's tables.")]
Prefix = Annotated[str, typer.Option(help="The prefix of the library's tables.")]


def load_settings(database_url: str | None = None, bootstrap_servers: str | None = None) -> Settings:
    """The settings, with what was given on the command line."""
    given = {"database_url": database_url, "bootstrap_servers": bootstrap_servers}
    return Settings.load(**{name: value for name, value in given.items() if value is not None})


def load_service(target: str) -> Service:
    """Import ``module:name``, looking in the current folder first, as ``python -m`` does.

    Raises:
        ConfigurationError: naming what is not there.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{target!r} does not name a service; write module:name, e.g. shop.inventory:inventory"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        with loading():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {error.name!r} (for {target!r}); run this in the folder that holds it, or install it"
        ) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, Service):
        services = [name for name, value in vars(module).items() if isinstance(value, Service)]
        what = "is not a Service" if found is not None else "does not exist"
        hint = f"; {module_name} has: {', '.join(services)}" if services else f"; {module_name} has no Service"
        raise ConfigurationError(f"{target!r} {what}{hint}")
    return found


def load_outbox(target: str | None, schema: str | None, prefix: str) -> Outbox:
    """Where the library's tables are: as a service says, or as the options do."""
    return Outbox(schema=schema, prefix=prefix) if target is None else load_service(target).outbox
