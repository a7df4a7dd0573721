"""What librdkafka's mock cluster can do beyond what ``EmbeddedKafka`` needs (``rdkafka_mock.h``)."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from kafkasaga.testing import EmbeddedKafka
from kafkasaga.testing.embedded import _TunedCluster


class Api(IntEnum):
    """Kinds of requests, by Kafka's numbers."""

    PRODUCE = 0


class Mock:
    """The cluster of an embedded broker."""

    def __init__(self, embedded: EmbeddedKafka) -> None:
        cluster = embedded._cluster
        assert isinstance(cluster, _TunedCluster), "the installed client does not let these functions be called"
        self._lib, self._mock = cluster._lib, cluster._mock

    def hold_next_answer(self, api: Api, milliseconds: int) -> None:
        """Answer the next request of this kind only after a time; what follows on its connection waits with it."""
        broker, times, no_error = ctypes.c_int32(1), ctypes.c_size_t(1), ctypes.c_int(0)
        self._lib.rd_kafka_mock_broker_push_request_error_rtts(
            self._mock, broker, ctypes.c_int16(api), times, no_error, ctypes.c_int(milliseconds)
        )
