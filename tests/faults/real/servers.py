"""Kafka and PostgreSQL, each reached by every replica over a way of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tests.support import KafkaServer, PostgresServer
from tests.support.process import free_port

KAFKA = {
    "num.network.threads": "1",  # for each listener
    "num.io.threads": "4",
    "group.min.session.timeout.ms": "1000",  # by default six seconds: every takeover in a run would wait as long
    "log.retention.hours": "48",  # the checker reads everything, also after a night
}


class ProxiedKafka(KafkaServer):
    """A Kafka with a listener for each proxy: whoever comes in by it is told that the proxy's port is the broker's."""

    def __init__(self, proxies: Collection[int], ready_within: float) -> None:
        super().__init__(settings=KAFKA, ready_within=ready_within)
        self.behind = {port: free_port() for port in proxies}
        """Where the proxy at a port has to forward to."""
        own = {"PLAINTEXT": self.port}
        inner = own | {f"PROXIED{port}": behind for port, behind in self.behind.items()}
        outer = own | {f"PROXIED{port}": port for port in self.behind}
        self._settings |= {
            "listeners": _listeners(inner | {"CONTROLLER": self._controller_port}),
            "advertised.listeners": _listeners(outer),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in [*inner, "CONTROLLER"]),
            "inter.broker.listener.name": "PLAINTEXT",
        }


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def through(url: str, port: int) -> str:
    """A database URL, by way of another port."""
    head, _, database = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{port}/{database}"


__all__ = ["PostgresServer", "ProxiedKafka", "through"]
