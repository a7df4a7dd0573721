"""A store in memory, behind the same port as the one on SQL: transactions that overlap, in any order a test wants.

It behaves as PostgreSQL does under READ COMMITTED: claims of one key wait for each other and then see what the other
one left, a deadlock and a lock held too long end in a ``SerializationConflict``, positions in the outbox are given at
the insert and become visible at the commit. The contract suite of the SQL stores runs against it too.

It has no SQL, so a handler that uses its session needs the other store.
"""

from kafkasaga.testing.memory.locks import Threads, Waiting
from kafkasaga.testing.memory.relay_queue import MemoryRelayQueue
from kafkasaga.testing.memory.store import MemoryStore
from kafkasaga.testing.memory.unit_of_work import MemoryUnitOfWork

__all__ = ["MemoryRelayQueue", "MemoryStore", "MemoryUnitOfWork", "Threads", "Waiting"]
