"""``kafkasaga demo``: the bundled order system."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from kafkasaga.cli.options import BootstrapServers
from kafkasaga.errors import ConfigurationError


def demo(
    orders: Annotated[int, typer.Option(min=1, help="How many orders to place.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides every order, and every kill of --chaos.")] = 1,
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill every service with SIGKILL, several times.")] = False,
    bootstrap_servers: BootstrapServers = None,
    database_url: Annotated[
        str | None, typer.Option(help="postgresql+psycopg://…: one database for each service. Default: SQLite files.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the facts there, too.")] = None,
) -> None:
    """Run the order system: five services, an embedded broker, and an account of what happened."""
    missing = [name for name in ("fastapi", "uvicorn", "httpx") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f'the order system needs {", ".join(missing)}: pip install "kafkasaga[orders]"')
    from kafkasaga.examples.order_system.demo import DemoOptions, run

    options = DemoOptions(
        orders=orders,
        seed=seed,
        chaos=chaos,
        bootstrap_servers=bootstrap_servers,
        database_url=database_url,
        json_file=json,
    )
    raise typer.Exit(run(options))
