"""``kafkasaga run`` and ``kafkasaga relay``."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from kafkasaga.cli.options import BootstrapServers, DatabaseUrl, Prefix, Schema, Target, load_service, load_settings
from kafkasaga.errors import ConfigurationError
from kafkasaga.runtime import Service
from kafkasaga.runtime.logs import configure_logging
from kafkasaga.runtime.runner import ROLES, Role
from kafkasaga.stores import Outbox


def run(
    target: Target,
    role: Annotated[
        list[str] | None,
        typer.Option(help="Only this loop (repeatable): consumer, relay, timekeeper, pruner. Default: all."),
    ] = None,
    database_url: DatabaseUrl = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Run a service until SIGTERM or Ctrl-C; then finish what has begun."""
    settings = load_settings(database_url, bootstrap_servers)
    configure_logging(settings.log_format, settings.log_level)
    service = load_service(target)
    _freeze()
    service.run(settings, roles=_roles(role))


def relay(
    database_url: DatabaseUrl = None,
    bootstrap_servers: BootstrapServers = None,
    schema: Schema = None,
    prefix: Prefix = "",
) -> None:
    """Run only the relay of a database: for applications that publish to the outbox and run no service."""
    settings = load_settings(database_url, bootstrap_servers)
    configure_logging(settings.log_format, settings.log_level)
    service = Service("relay", outbox=Outbox(schema=schema, prefix=prefix))
    _freeze()
    service.run(settings, roles=["relay"])


def _freeze() -> None:
    """Have the garbage collector leave alone what was imported: it stays, and a look through it takes 30 ms."""
    gc.collect()
    gc.freeze()


def _roles(given: list[str] | None) -> list[Role]:
    if not given:
        return list(ROLES)
    if unknown := sorted(set(given) - set(ROLES)):
        raise ConfigurationError(f"--role {', '.join(unknown)}: there is only {', '.join(ROLES)}")
    return [role for role in ROLES if role in given]
