"""A throw-away PostgreSQL server."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support.process import ServerProcess, TemporaryDirectory, UnavailableError, free_port
from tests.support.server import Server
from tests.support.tls import ServerCertificate, private_file

SUPERUSER = "postgres"
UNPRIVILEGED_USER = "postgres"  # PostgreSQL refuses to run as root: then it runs as this user of the system
READY_WITHIN = 60.0  # seconds; recovery after a kill is part of it
INSTALLED = "/usr/lib/postgresql"  # Debian keeps the server's programs off PATH


class PostgresServer(Server):
    """A PostgreSQL cluster of its own, on a free loopback port, without passwords for its superuser.

    With a `certificate` it speaks TLS, and all others than the superuser need it and a password (`create_user`).
    `fsync` is off unless a test or a benchmark measures or proves something with it: killing the processes loses
    nothing that was committed, only a power cut would.
    """

    def __init__(
        self,
        *,
        fsync: bool = False,
        settings: Mapping[str, str] | None = None,
        certificate: ServerCertificate | None = None,
        ready_within: float = READY_WITHIN,
    ) -> None:
        super().__init__(ready_within=ready_within)
        self.port = free_port()
        self._certificate = certificate
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            **({"ssl": "on"} if certificate is not None else {}),
            **(settings or {}),
        }
        self._names = count(1)

    @staticmethod
    def missing() -> str | None:
        """What this machine lacks to run PostgreSQL; None when nothing."""
        try:
            _programs()
            _user()
        except UnavailableError as error:
            return str(error)
        return None

    def create_database(self, name: str | None = None) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = name or f"test_{next(self._names)}"
        # Not template1, the default: an autovacuum worker in it makes this wait, and after five seconds fail.
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database behind a URL, disconnecting everybody from it."""
        name = url.rpartition("/")[2]
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def create_user(self, name: str, password: str) -> None:
        """Create a user who needs a password, and may make tables in every database."""
        role = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
        self._execute(role.format(sql.Identifier(name), sql.Literal(password)))

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database, whether it exists or not."""
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement)

    @property
    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname=postgres connect_timeout=5"

    def _ready(self) -> bool:
        try:
            with psycopg.connect(self._dsn):
                return True
        except psycopg.OperationalError:
            return False

    def _create(self) -> ServerProcess:
        programs, user = _programs(), _user()
        self._directory = TemporaryDirectory("kafkasaga-postgres-", owner=user)
        data = self._directory.path / "data"
        log = self._directory.path / "server.log"
        log.touch()
        process = ServerProcess(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(data), "-p", str(self.port), *self._options()],
            log,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave
            user=user,
            environment={"LC_ALL": "C"},
        )
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        with log.open("ab") as output:
            finished = subprocess.run(
                [*initdb, "--no-locale"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory.path,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                check=False,
            )
        if finished.returncode != 0:
            raise process.error("could not create its cluster")
        if self._certificate is not None:
            self._require_tls(data, self._certificate, user)
        return process

    def _require_tls(self, data: Path, certificate: ServerCertificate, user: str | None) -> None:
        """Certificate, key, and who may come in how; where PostgreSQL looks for them by default."""

        def give(path: Path) -> None:
            if user is not None:
                shutil.chown(path, user, user)

        private_file(data / "server.crt", certificate.chain, give)
        private_file(data / "server.key", certificate.key, give)
        trusted = f"host all {SUPERUSER} 127.0.0.1/32 trust\n"
        (data / "pg_hba.conf").write_text(f"{trusted}hostssl all all 127.0.0.1/32 scram-sha-256\n")

    def _options(self) -> list[str]:
        return [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]


def _programs() -> Path:
    """The directory with `initdb` and `postgres`: on PATH, or where Debian puts the newest version."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path(INSTALLED).glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    for directory in candidates:
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise UnavailableError(f"no PostgreSQL server: neither PATH nor {INSTALLED}/*/bin has initdb")


def _user() -> str | None:
    """The user to switch to; None when this process may run PostgreSQL itself."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise UnavailableError(f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED_USER!r}") from None
    return UNPRIVILEGED_USER
