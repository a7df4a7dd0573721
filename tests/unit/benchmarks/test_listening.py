"""The server that somebody else started is found by its address, where that is one of this machine."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.listening import FORWARDERS, answers, server_process, split

LISTENER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def here() -> Iterator[int]:
    """A port at which this process listens, by a file whose number is higher than that of what it opens next."""
    with Path(os.devnull).open() as lower:
        server = socket.create_server(("127.0.0.1", 0))
    assert lower.closed
    with server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "parts"),
    [("localhost:7233", ("localhost", 7233)), ("[::1]:1", ("::1", 1)), ("temporal.example.org:65535", None)],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int] | None) -> None:
    assert split(address) == (parts or ("temporal.example.org", 65535))


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":7233", "localhost:http", "h:0", "h:65536", "h:-1"])
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=f"{address}: not HOST:PORT"):
        split(address)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc here")
class TestServerProcess:
    def test_the_process_that_listens_is_found(self, here: int) -> None:
        assert server_process("127.0.0.1", here) == os.getpid()
        assert server_process("localhost", here) == os.getpid()

    def test_nobody_is_found_where_nobody_listens(self, here: int) -> None:
        with socket.create_connection(("127.0.0.1", here)) as connected:
            port = connected.getsockname()[1]
            assert server_process("127.0.0.1", port) is None

    def test_a_machine_elsewhere_is_not_looked_for_here(self, here: int) -> None:
        assert server_process("192.0.2.1", here) is None  # an address that is for documents only

    @pytest.mark.parametrize("name", [FORWARDERS[0], "temporal"])
    def test_who_only_forwards_is_not_the_server(self, tmp_path: Path, name: str) -> None:
        program = tmp_path / name
        shutil.copy(Path(sys.executable).resolve(), program)
        environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
        with subprocess.Popen(
            [program, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as listener:
            assert listener.stdin is not None
            assert listener.stdout is not None
            found = server_process("127.0.0.1", int(listener.stdout.readline()))
            listener.stdin.close()
        assert found == (None if name in FORWARDERS else listener.pid)


def test_whether_anybody_answers(here: int) -> None:
    assert answers("127.0.0.1", here)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not answers("127.0.0.1", port)
