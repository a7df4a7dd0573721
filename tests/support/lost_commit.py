"""A way to PostgreSQL on which the answer to a COMMIT gets lost: the transaction is committed, and nobody is told."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

BUFFER = 65_536


class LostCommit:
    """Listens on a loopback port and passes everything on, but for the answers to as many COMMITs as it is told.

    It waits for the server's answer, so the transaction is committed by then; the client's connection ends instead.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._lock = threading.Lock()
        self.of = b""
        """Part of a statement of the transactions that are meant."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.to_lose = 0
        """How many answers are still to be lost."""
        self.lost = 0
        """How many were: proof that the fault was reached."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
            losing = threading.Event()
            answers = threading.Thread(target=self._pass_answers, args=(server, client, losing), daemon=True)
            answers.start()
            with suppress(OSError):
                meant = False
                while data := client.recv(BUFFER):
                    meant |= bool(self.of) and self.of in data
                    if b"COMMIT" in data:
                        if meant and self._is_one_to_lose():
                            losing.set()
                        meant = False
                    server.sendall(data)

    def _is_one_to_lose(self) -> bool:
        with self._lock:
            self.to_lose -= 1
            return self.to_lose >= 0

    def _pass_answers(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(BUFFER):
                if losing.is_set() and b"COMMIT" in data:
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
