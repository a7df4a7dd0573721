"""``kafkasaga demo``: the order system, run and checked on one machine."""

from .run import DemoOptions, run

__all__ = ["DemoOptions", "run"]
