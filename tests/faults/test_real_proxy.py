"""The network of the fault tier: what it does to a connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.real.proxy import Network, Proxy

SECONDS = 20.0


def answer(server: socket.socket) -> None:
    """Give everything back, on every connection, until the server is closed."""

    def echo(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(100):
                connection.sendall(data)

    with suppress(OSError):
        while True:
            threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Network() as network, socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        proxy = network.proxy()
        proxy.upstream = server.getsockname()[1]
        yield proxy
        server.shutdown(socket.SHUT_RDWR)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=SECONDS)


def test_it_forwards(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        for connection, text in ((one, b"one"), (two, b"two")):
            connection.sendall(text)
            assert connection.recv(100) == text


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_restored(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"before")
        connection.recv(100)
        proxy.cut()
        with suppress(ConnectionError):
            assert connection.recv(100) == b""
    with connect(proxy) as refused, suppress(ConnectionError):
        assert refused.recv(100) == b""
    assert proxy.refused >= 2
    proxy.restore()
    with connect(proxy) as connection:
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"


def test_in_a_silence_nothing_comes_and_afterwards_all_of_it_does(proxy: Proxy) -> None:
    with connect(proxy) as old:
        old.sendall(b"before")
        old.recv(100)
        proxy.silence()
        old.sendall(b"late")
        with connect(proxy) as new:
            new.sendall(b"new")
            old.settimeout(0.3)
            with pytest.raises(TimeoutError):
                old.recv(100)
            assert proxy.held >= 1
            proxy.restore()
            old.settimeout(SECONDS)
            assert old.recv(100) == b"late"
            assert new.recv(100) == b"new"
