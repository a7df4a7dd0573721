"""Servers that the tests start for themselves.

`PostgresServer` and `KafkaServer` are context managers around processes that this process started: they listen on free
loopback ports, keep their data in a temporary directory, can be killed, frozen and restarted on the same port and data,
and are gone when this process is, also when it is killed. `python -m tests.support` starts both for use by hand.
"""

from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer
from tests.support.process import ServerError, UnavailableError

__all__ = ["KafkaServer", "PostgresServer", "ServerError", "UnavailableError"]
