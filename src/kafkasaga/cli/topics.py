"""``kafkasaga topics``."""

from __future__ import annotations

from typing import Annotated

import typer

from kafkasaga.cli.options import BootstrapServers, Target, load_service, load_settings
from kafkasaga.kafka import create_topics, missing_topics

app = typer.Typer(help="The topics of a service.", no_args_is_help=True)


@app.command()
def create(
    target: Target,
    bootstrap_servers: BootstrapServers = None,
    partitions: Annotated[int | None, typer.Option(help="Of each new topic. Raise it before you need it.")] = None,
    replication: Annotated[int | None, typer.Option(help="Replicas of each new topic.")] = None,
) -> None:
    """Create the topics that a service reads and writes, where they are missing."""
    service, settings = load_service(target), load_settings(None, bootstrap_servers)
    wanted = sorted(service.reads | service.writes)
    missing = missing_topics(settings, wanted)
    create_topics(
        settings,
        missing,
        partitions=partitions or settings.topic_partitions,
        replication=replication or settings.topic_replication,
    )
    for topic in wanted:
        typer.echo(f"{topic}: {'created' if topic in missing else 'exists'}")
