"""The network between a service and a server: loopback TCP connections that can be cut, silenced and restored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.support.process import free_port

CHUNK = 65_536
ANSWER_SECONDS = 60.0


class Network:
    """The thread in which all proxies live."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(ANSWER_SECONDS)

    def proxy(self) -> Proxy:
        """A new port to connect to; where it leads is said later."""
        proxy = Proxy(self.do)
        self.do(proxy.listen())
        self._proxies.append(proxy)
        return proxy

    async def _end(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """One port, and the server behind it.

    - *cut*: connections end with a reset, new ones are refused, as when a firewall rejects.
    - *silent*: nothing goes through and nobody is told, not even of a connection that the other side has closed; what
      was on its way arrives late, after ``restore``, as TCP would send it again.
    """

    def __init__(self, do: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.port = free_port()
        self.upstream = 0
        self.refused = 0
        """Connections that met a cut, old and new ones: proof that the fault was reached."""
        self.held = 0
        """Pieces of data that wait for the end of a silence."""
        self._do = do
        self._cut = False
        self._flow: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._flow = asyncio.Event()
        self._flow.set()
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    def close(self) -> None:
        """Listen no more; in the network's thread."""
        if self._server is not None:
            self._server.close()

    def cut(self) -> None:
        self._do(self._set(cut=True, silent=False))

    def silence(self) -> None:
        self._do(self._set(cut=False, silent=True))

    def restore(self) -> None:
        self._do(self._set(cut=False, silent=False))

    async def _set(self, *, cut: bool, silent: bool) -> None:
        assert self._flow is not None
        self._cut = cut
        if silent:
            self._flow.clear()
        else:
            self._flow.set()
        if cut:
            self.refused += len(self._writers) // 2
            for writer in tuple(self._writers):
                writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._flow is not None
        await self._flow.wait()
        if self._cut:
            self.refused += 1
            writer.transport.abort()
            return
        there, out = await asyncio.open_connection("127.0.0.1", self.upstream)
        self._writers |= {writer, out}
        try:
            await asyncio.gather(self._pump(reader, out), self._pump(there, writer))
        finally:
            self._writers -= {writer, out}
            writer.transport.abort()
            out.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        assert self._flow is not None
        while True:
            data = b""
            with suppress(ConnectionError):
                data = await source.read(CHUNK)
            self.held += 1
            await self._flow.wait()
            self.held -= 1
            if not data:
                if sink.can_write_eof() and not sink.is_closing():
                    sink.write_eof()
                return
            sink.write(data)
            await sink.drain()
