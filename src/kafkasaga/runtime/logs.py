"""Logging for processes that kafkasaga starts itself. A library does not configure logging; its commands do.

And what log lines carry meanwhile, for whoever binds it once for each message.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any, Literal

import structlog


def configure_logging(format: Literal["console", "json"], level: str) -> None:
    """Write structlog's and the standard library's records to standard error, in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    tail: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if format == "json":
        tail.insert(0, structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel("WARNING")


def carried(name: str) -> ContextVar[Any]:
    """What log lines carry as ``name``: to be set, and reset, by hand.

    ``structlog.contextvars.bound_contextvars`` looks through everything that is bound, each time.
    """
    (token,) = structlog.contextvars.bind_contextvars(**{name: ""}).values()
    token.var.reset(token)
    return token.var
