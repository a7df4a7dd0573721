"""Restate: a server that keeps the journal and calls the handlers, which are an HTTP service."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness.fetched import npm_package, virtual_environment
from benchmarks.harness.figures import WrongResult
from benchmarks.harness.machine import Machine
from benchmarks.harness.processes import Worker, running
from benchmarks.harness.waiting import wait_until
from benchmarks.peers.shop import Customers, Peer, Started, module
from tests.support.process import UnavailableError, free_port

SERVER, SDK = "1.7.12", "1.3.0"
IN_FLIGHT = 200
PARTITIONS = 2
HANDLERS = 2
"""Processes that run the handlers: one for each core of a small machine."""
STREAMS = 100_000
READY_WITHIN = 60.0


def _environment() -> Path:
    wanted = (f"restate-sdk=={SDK}", "granian[uvloop]>=2.7,<3", "psycopg[binary,pool]>=3.2", "aiohttp>=3.12")
    return virtual_environment("restate", *wanted)


def _server() -> Path:
    """The program itself; the package's own launcher would only wait beside it."""
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), platform.machine())
    modules = npm_package("restate-server", f"@restatedev/restate-server@{SERVER}")
    program = modules / "@restatedev" / f"restate-server-{system}-{machine}" / "bin" / "restate-server"
    if not program.exists():
        raise UnavailableError(f"there is no Restate server for {system} on {machine}")
    return program


def _prepare() -> None:
    _server()
    _environment()


def _configuration(folder: str, fabric: int, ingress: int, admin: int) -> dict[str, str]:
    return {
        "RESTATE_BASE_DIR": folder,
        "RESTATE_NODE_NAME": "bench",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_BIND_PORT": str(fabric),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_DEFAULT_NUM_PARTITIONS": str(PARTITIONS),
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def _start(machine: Machine, dsn: str) -> Generator[Started]:
    python, program = _environment(), _server()
    fabric, ingress, admin, shop = (free_port() for _ in range(4))
    with TemporaryDirectory(prefix="kafkasaga-bench-restate-") as folder:
        configuration = _configuration(folder, fabric, ingress, admin)
        server = Worker("restate-server", [str(program), "--no-logo"], configuration, machine.folder)
        handlers = Worker("restate-shop", _handlers(python, shop), {"SHOP_DSN": dsn, "PYTHONPATH": ""}, machine.folder)
        with running(handlers, server):
            _register(server, handlers, admin, shop)
            address = f"http://127.0.0.1:{ingress}"
            customers = Customers(
                "restate-customers",
                lambda pipe: module(python, "restate_customers", str(pipe), address),
                machine,
                PYTHONPATH="",
            )
            yield Started(customers, {"restate": [server.pid], "handlers": [handlers.pid]})


def _handlers(python: Path, port: int) -> list[str]:
    options = ["--interface", "asginl", "--http", "2", "--loop", "uvloop", "--workers", str(HANDLERS), "--no-ws"]
    options += ["--http2-max-concurrent-streams", str(STREAMS)]
    program = str(python.with_name("granian"))
    return [program, *options, "--host", "127.0.0.1", "--port", str(port), "benchmarks.peers.restate_app:app"]


def _register(server: Worker, handlers: Worker, admin: int, shop: int) -> None:
    """Tell the server where the handlers are; it asks them what they offer."""
    body = json.dumps({"uri": f"http://127.0.0.1:{shop}", "use_http_11": False})

    def registered() -> bool:
        connection = HTTPConnection("127.0.0.1", admin, timeout=30)
        try:
            connection.request("POST", "/deployments", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
        except (OSError, HTTPException):
            return False  # it is starting
        finally:
            connection.close()
        if 400 <= answer.status < 500 and "service discovery" not in said.lower() and "connect" not in said.lower():
            raise WrongResult(f"Restate did not take the shop: {answer.status} {said}")
        return answer.status < 300

    wait_until("the registration of the shop", registered, [server, handlers], every=0.2, within=READY_WITHIN)


RESTATE = Peer(f"Restate {SERVER}", IN_FLIGHT, _prepare, _start)
