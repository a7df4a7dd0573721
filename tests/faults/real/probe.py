"""Whether a server is there: one question in its own protocol, over a connection of our own."""

from __future__ import annotations

import socket
import struct
from enum import Enum
from typing import Final

SECONDS: Final = 1.0
"""For the answer to a question that costs nothing."""
QUESTIONS: Final = {
    "Kafka": struct.pack("!ihhih", 10, 18, 0, 1, -1),  # ApiVersions, version 0, without a client's name
    "PostgreSQL": struct.pack("!ii", 8, 80_877_103),  # SSLRequest
}


class Answer(Enum):
    """What came of a question."""

    GIVEN = "given"
    REFUSED = "refused"
    """Nobody listens."""
    NONE = "none"
    """The connection was made, by the system, and nobody says anything."""


def answer(port: int, question: bytes) -> Answer:
    """Ask the server at a loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            connection.sendall(question)
            return Answer.GIVEN if connection.recv(1) else Answer.REFUSED
    except TimeoutError:
        return Answer.NONE
    except OSError:
        return Answer.REFUSED
