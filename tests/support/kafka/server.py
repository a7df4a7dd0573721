"""A throw-away Apache Kafka: one process that is broker and KRaft controller."""

import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.kafka.jars import jars, missing
from tests.support.process import ServerProcess, TemporaryDirectory, free_port
from tests.support.server import Server
from tests.support.tls import ServerCertificate, private_file

READY_WITHIN = 90.0  # seconds; about 4 on an idle machine
METADATA_SECONDS = 2.0
TOPIC_SECONDS = 30.0

SINGLE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",  # 50 take seconds to create
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.num.partitions": "5",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes 128 MB of the heap
    # A killed broker is let in again when its predecessor's session is over; the default is 9 seconds.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


SCRAM = "SCRAM-SHA-512"
LOGIN_MODULES = "org.apache.kafka.common.security"


class KafkaServer(Server):
    """An Apache Kafka of its own, on free loopback ports. Topics must be created before use.

    With a `certificate` it also listens at `secure_servers`, where clients need TLS and a name and password of `users`
    (mechanism PLAIN or SCRAM-SHA-512).
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        heap: str = "512m",
        jvm_options: tuple[str, ...] = (),
        certificate: ServerCertificate | None = None,
        users: Mapping[str, str] | None = None,
        ready_within: float = READY_WITHIN,
    ) -> None:
        super().__init__(ready_within=ready_within)
        self.port = free_port()
        self._secure_port = free_port()
        self._certificate, self._users = certificate, dict(users or {})
        self._controller_port = free_port()
        self._settings = dict(settings or {})
        self._jvm_options = (f"-Xmx{heap}", "-XX:+UseSerialGC", *jvm_options)

    @staticmethod
    def missing() -> str | None:
        """What this machine lacks to run Kafka; None when nothing."""
        return missing()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def secure_servers(self) -> str:
        """Where it speaks SASL over TLS."""
        return f"127.0.0.1:{self._secure_port}"

    def create_topics(self, names: Iterable[str], *, partitions: int = 4) -> None:
        """Create topics and wait until they can be used; it is an error when one exists."""
        admin = self._admin()
        created = admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=1) for name in names],
            operation_timeout=TOPIC_SECONDS,
        )
        for future in created.values():
            future.result(TOPIC_SECONDS)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def _ready(self) -> bool:
        """Whether it answers a metadata request with itself as a broker, and leads what it held before."""
        try:
            metadata = self._admin().list_topics(timeout=METADATA_SECONDS)
        except KafkaException:
            return False
        partitions = [partition for topic in metadata.topics.values() for partition in topic.partitions.values()]
        return bool(metadata.brokers) and all(partition.leader >= 0 for partition in partitions)

    def _create(self) -> ServerProcess:
        classpath = f"{jars()}/*"
        self._directory = TemporaryDirectory("kafkasaga-kafka-")
        properties = self._directory.path / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        process = ServerProcess(
            "Apache Kafka",
            ["java", *self._jvm_options, "-cp", classpath, "kafka.Kafka", str(properties)],
            self._directory.path / "server.log",
        )
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", classpath, "kafka.tools.StorageTool"]
        with process.log.open("wb") as output:
            formatted = subprocess.run(
                [*tool, "format", f"--cluster-id={cluster_id}", "-c", str(properties), *self._scram_users()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if formatted.returncode != 0:
            raise process.error("could not format its storage")
        return process

    def _properties(self) -> dict[str, str]:
        controller = f"127.0.0.1:{self._controller_port}"
        return {
            **SINGLE_NODE,
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(self._data),
            **self._secure_listener(),
            **self._settings,
        }

    def _scram_users(self) -> list[str]:
        return [part for name, word in self._users.items() for part in ("-S", f"{SCRAM}=[name={name},password={word}]")]

    def _secure_listener(self) -> dict[str, str]:
        """A second listener, with TLS and passwords; the broker itself and the tests' tools use the first one."""
        if self._certificate is None:
            return {}
        plain = f"PLAINTEXT://{self.bootstrap_servers}"
        secure = f"SECURE://{self.secure_servers}"
        passwords = " ".join(f'user_{name}="{word}"' for name, word in self._users.items())
        keystore = private_file(self._data.parent / "keystore.pem", self._certificate.key + self._certificate.chain)
        return {
            "listeners": f"{plain},{secure},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"{plain},{secure}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": f"PLAIN,{SCRAM}",
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(keystore),
            "listener.name.secure.plain.sasl.jaas.config": (
                f"{LOGIN_MODULES}.plain.PlainLoginModule required {passwords};"
            ),
            f"listener.name.secure.{SCRAM.lower()}.sasl.jaas.config": (
                f"{LOGIN_MODULES}.scram.ScramLoginModule required;"
            ),
        }

    @property
    def _data(self) -> Path:
        if self._directory is None:
            raise AssertionError("the directory is made first")
        return self._directory.path / "data"
