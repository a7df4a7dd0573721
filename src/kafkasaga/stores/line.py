"""A connection on which a NOTIFY is sent without waiting for its answer."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection

from kafkasaga.stores.trips import fetch_many

log = logging.getLogger("kafkasaga.relay")


class Line:
    """For one thread at a time; nothing else may be executed on its connection meanwhile."""

    def __init__(self, connection: Connection) -> None:
        # Of a connection that has left its pool, SQLAlchemy knows the driver's by this name only.
        self._driver = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
        self._server = self._driver.pgconn
        self._is_answered = True
        self._process = os.getpid()
        """A fork of it has a connection of its own."""

    def send(self, channel: str) -> bool:
        """Send it now, which never waits; False if the last one is not answered yet, or nothing can be sent."""
        if os.getpid() != self._process:
            return False
        try:
            if not self._is_answered and not self._hear():
                return False
            self._server.send_query(f"NOTIFY {channel}".encode())
        except psycopg.Error:
            return False
        self._is_answered = False
        return True

    def settle(self) -> bool:
        """Wait for the answer that is still to come; False if the connection is lost."""
        if os.getpid() != self._process:
            return False
        try:
            if not self._is_answered:
                for answer in self._driver.wait(fetch_many(self._server)):
                    _look_at(answer)
                self._is_answered = True
        except psycopg.Error:
            return False
        return True

    def _hear(self) -> bool:
        self._server.consume_input()
        while not self._is_answered and not self._server.is_busy():
            answer = self._server.get_result()
            self._is_answered = answer is None
            if answer is not None:
                _look_at(answer)
        return self._is_answered


def _look_at(answer: PGresult) -> None:
    if answer.status == ExecStatus.FATAL_ERROR:
        said = answer.get_error_message().partition("\n")[0]
        log.warning("the relay was not woken, and will look by itself: %s", said)
