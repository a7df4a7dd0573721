"""Services RUN: loops of a few lines that carry out what the core has decided, each batch in one transaction."""

from kafkasaga.runtime.service import Service

__all__ = ["Service"]
