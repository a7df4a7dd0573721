"""What librdkafka's mock cluster can do beyond what ``EmbeddedKafka`` needs (``rdkafka_mock.h``)."""

from __future__ import annotations

import ctypes
from collections import Counter
from enum import IntEnum

from kafkasaga.testing import EmbeddedKafka
from kafkasaga.testing.embedded import _TunedCluster


class Api(IntEnum):
    """Kinds of requests, by Kafka's numbers."""

    PRODUCE = 0
    OFFSET_COMMIT = 8


class Mock:
    """The cluster of an embedded broker."""

    def __init__(self, embedded: EmbeddedKafka) -> None:
        cluster = embedded._cluster
        assert isinstance(cluster, _TunedCluster), "the installed client does not let these functions be called"
        self._lib, self._mock = cluster._lib, cluster._mock
        self._lib.rd_kafka_mock_get_requests.restype = ctypes.POINTER(ctypes.c_void_p)
        self._lib.rd_kafka_mock_request_api_key.argtypes = [ctypes.c_void_p]
        self._lib.rd_kafka_mock_request_api_key.restype = ctypes.c_int16
        self._lib.rd_kafka_mock_request_destroy_array.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def hold_next_answer(self, api: Api, milliseconds: int) -> None:
        """Answer the next request of this kind only after a time; what follows on its connection waits with it."""
        broker, times, no_error = ctypes.c_int32(1), ctypes.c_size_t(1), ctypes.c_int(0)
        self._lib.rd_kafka_mock_broker_push_request_error_rtts(
            self._mock, broker, ctypes.c_int16(api), times, no_error, ctypes.c_int(milliseconds)
        )

    def count_requests(self) -> None:
        """From now on."""
        self._lib.rd_kafka_mock_start_request_tracking(self._mock)

    def counted(self) -> Counter[int]:
        """How many requests of each kind came since then."""
        count = ctypes.c_size_t()
        found = self._lib.rd_kafka_mock_get_requests(self._mock, ctypes.byref(count))
        requests = Counter(self._lib.rd_kafka_mock_request_api_key(found[n]) for n in range(count.value))
        self._lib.rd_kafka_mock_request_destroy_array(found, count)
        return requests
