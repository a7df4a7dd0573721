"""Stores REMEMBER: outbox, inbox, barrier, saga log, timers and parked messages, in the user's own database.

The only package that knows SQLAlchemy. ``schema`` says what there is, ``bulk`` how many rows become one statement,
``unit_of_work`` and ``store`` implement ``ports``; ``outbox`` and ``idempotent`` are what users call in their own code.
"""

from kafkasaga.stores.acts import Act, Action
from kafkasaga.stores.failures import meant_for_us
from kafkasaga.stores.idempotent import Idempotent, Received, idempotent
from kafkasaga.stores.outbox import CONTEXT, Outbox, PublishContext, Published
from kafkasaga.stores.queries import Blocked, Counts, Queries
from kafkasaga.stores.schema import Tables, include_object
from kafkasaga.stores.sessions import Session, is_async_session_type, is_session_type
from kafkasaga.stores.store import SqlStore, create_store, enlist

__all__ = [
    "CONTEXT",
    "Act",
    "Action",
    "Blocked",
    "Counts",
    "Idempotent",
    "Outbox",
    "PublishContext",
    "Published",
    "Queries",
    "Received",
    "Session",
    "SqlStore",
    "Tables",
    "create_store",
    "enlist",
    "idempotent",
    "include_object",
    "is_async_session_type",
    "is_session_type",
    "meant_for_us",
]
