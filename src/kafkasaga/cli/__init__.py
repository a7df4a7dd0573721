"""The ``kafkasaga`` command."""

from kafkasaga.cli.app import main

__all__ = ["main"]
