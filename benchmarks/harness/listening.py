"""Who listens at an address, from /proc: the server that somebody else started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"
"""The state of a socket, as /proc writes it."""
FORWARDERS = ("docker-proxy", "rootlessport", "slirp4netns", "pasta", "ssh", "kubectl")
"""Programs that listen in place of a server elsewhere, and do none of its work."""


def split(address: str) -> tuple[str, int]:
    """``HOST:PORT``; ValueError if it is not that."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"{address}: not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def answers(host: str, port: int) -> bool:
    """Whether anybody accepts connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def server_process(host: str, port: int) -> int | None:
    """The process that serves there, if it is one of this machine that can be seen."""
    if not _is_here(host):
        return None
    sockets = set(_sockets(port))
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if not sockets.isdisjoint(_open_files(process)):
                return None if (process / "comm").read_text().strip() in FORWARDERS else int(process.name)
    return None


def _is_here(host: str) -> bool:
    """Whether the name stands for this machine: one can listen only at an address of one's own."""
    with suppress(OSError):
        for family, kind, protocol, _, where in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as trial:
                trial.bind(where)
            return True
    return False


def _open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            yield str(link.readlink())


def _sockets(port: int) -> Iterator[str]:
    """Those that listen at the port, as the links of their processes name them."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"
