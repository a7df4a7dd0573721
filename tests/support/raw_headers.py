"""Records whose headers no Python client can write: librdkafka itself takes any bytes for a name, as C and Go do."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka

END, TOPIC, VALUE, KEY, FLAGS, HEADERS = 0, 1, 4, 5, 7, 10
"""What an argument of ``rd_kafka_producev`` is."""
COPY = 2
PRODUCER = 0
FLUSH_MILLISECONDS = 30_000

Headers = Sequence[tuple[bytes, bytes]]


def library() -> Path | None:
    """The librdkafka that came with the client; None where it was built against the system's."""
    package = Path(confluent_kafka.__file__).parent
    folders = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    return next((file for folder in folders for file in sorted(folder.glob("librdkafka*"))), None)


def produce_raw(bootstrap_servers: str, topic: str, records: Sequence[tuple[bytes, bytes, Headers]]) -> None:
    """Append records of key, value and headers, in this order and to one partition, and wait until they are there."""
    path = library()
    assert path is not None
    kafka = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(kafka, name).restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    for setting, value in ((b"bootstrap.servers", bootstrap_servers.encode()), (b"enable.idempotence", b"true")):
        assert kafka.rd_kafka_conf_set(conf, setting, value, error, _size(error)) == 0, error.value
    client = ctypes.c_void_p(kafka.rd_kafka_new(PRODUCER, conf, error, _size(error)))
    assert client.value, error.value
    for key, value, headers in records:
        _produce(kafka, client, topic, key, value, headers)
    assert kafka.rd_kafka_flush(client, FLUSH_MILLISECONDS) == 0
    kafka.rd_kafka_destroy(client)


def _produce(kafka: Any, client: Any, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
    listed = ctypes.c_void_p(kafka.rd_kafka_headers_new(ctypes.c_size_t(len(headers))))
    for name, text in headers:
        added = kafka.rd_kafka_header_add(listed, name, ctypes.c_ssize_t(len(name)), text, ctypes.c_ssize_t(len(text)))
        assert added == 0
    tag = ctypes.c_int
    assert not kafka.rd_kafka_producev(
        client,
        *(tag(TOPIC), topic.encode(), tag(KEY), key, _size(key), tag(VALUE), value, _size(value)),
        *(tag(FLAGS), tag(COPY), tag(HEADERS), listed, tag(END)),
    )


def _size(of: Any) -> ctypes.c_size_t:
    return ctypes.c_size_t(len(of))
