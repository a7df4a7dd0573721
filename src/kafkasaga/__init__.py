"""Sagas over Apache Kafka: declared as data, carried by an outbox, taken once, and recovered by any replica.

Everything that a service needs is here; ``kafkasaga.testing`` has what its tests need.
"""

from kafkasaga.errors import ConfigurationError, DefinitionError, KafkasagaError
from kafkasaga.messages import Message, SagaState
from kafkasaga.runtime import Service
from kafkasaga.saga.definition import Cancellation, Ends, Saga
from kafkasaga.saga.flow import Each, LocalStep, Step, WaitFor, parallel, reply
from kafkasaga.saga.policy import Retry, exponential
from kafkasaga.settings import Settings
from kafkasaga.stores import Outbox, Received, idempotent

__all__ = [
    "Cancellation",
    "ConfigurationError",
    "DefinitionError",
    "Each",
    "Ends",
    "KafkasagaError",
    "LocalStep",
    "Message",
    "Outbox",
    "Received",
    "Retry",
    "Saga",
    "SagaState",
    "Service",
    "Settings",
    "Step",
    "WaitFor",
    "exponential",
    "idempotent",
    "parallel",
    "reply",
]
