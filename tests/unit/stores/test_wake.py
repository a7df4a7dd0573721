"""The notifier: it must never hold anybody up."""

import socket
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from kafkasaga.stores import wake
from kafkasaga.stores.engine import create_library_engine


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A database whose machine takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def engine(silent: socket.socket) -> Iterator[Engine]:
    port = silent.getsockname()[1]
    engine = create_library_engine(f"postgresql+psycopg://postgres@127.0.0.1:{port}/shop")
    yield engine
    engine.dispose()


def test_closing_does_not_wait_for_a_database_that_does_not_answer(silent: socket.socket, engine: Engine) -> None:
    notifier = wake.notifier(engine)
    notifier.notify("kafkasaga_channel")
    connection, _ = silent.accept()
    with connection:
        (thread,) = (one for one in threading.enumerate() if one.name == "kafkasaga-notify")
        wake.close(engine)
        assert thread.is_alive()
    thread.join()
