"""What the runtime asks of the stores and of Kafka: protocols and the plain values that cross them.

``stores`` and ``kafka`` implement these and know nothing of each other; the runtime knows nothing else of either. Every
method is bulk: a batch of messages is one transaction of a handful of statements, however large it is.

Errors that cross this border are ours: ``DatabaseUnavailable`` and ``SerializationConflict`` from the stores,
``BrokerUnavailable`` from Kafka. An error of the user's own SQL passes through as it is.
"""

from kafkasaga.ports.kafka import Assigned, Consumer, Failures, Producer, Revoked, SendDone, SendError
from kafkasaga.ports.relay_queue import SKIP_NOTHING, Page, RelayQueue, Skip, nothing
from kafkasaga.ports.store import Store, UnitOfWork
from kafkasaga.ports.values import (
    LONGEST_LANE,
    UNMATCHED,
    BarrierEntry,
    BarrierKey,
    InboxKey,
    LogEntry,
    OutboxRow,
    Outcome,
    Parked,
    ParkedKey,
    ParkedStatus,
    Progress,
    Prunable,
    SagaChange,
    SagaSummary,
    TopicPartition,
    Turn,
    id_of,
    payload_bytes,
    position_of,
    read_headers,
    topic_of,
)

__all__ = [
    "LONGEST_LANE",
    "SKIP_NOTHING",
    "UNMATCHED",
    "Assigned",
    "BarrierEntry",
    "BarrierKey",
    "Consumer",
    "Failures",
    "InboxKey",
    "LogEntry",
    "OutboxRow",
    "Outcome",
    "Page",
    "Parked",
    "ParkedKey",
    "ParkedStatus",
    "Producer",
    "Progress",
    "Prunable",
    "RelayQueue",
    "Revoked",
    "SagaChange",
    "SagaSummary",
    "SendDone",
    "SendError",
    "Skip",
    "Store",
    "TopicPartition",
    "Turn",
    "UnitOfWork",
    "id_of",
    "nothing",
    "payload_bytes",
    "position_of",
    "read_headers",
    "topic_of",
]
