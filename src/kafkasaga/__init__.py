"""Sagas over Apache Kafka: declared as data, carried by an outbox, taken once, and recovered by any replica.

Everything that a service needs is here; ``kafkasaga.testing`` has what its tests need, and ``scenario`` is here too.
"""

from typing import TYPE_CHECKING, Any

from kafkasaga.errors import ConfigurationError, DefinitionError, KafkasagaError
from kafkasaga.messages import Message, SagaState
from kafkasaga.runtime import Service
from kafkasaga.runtime.logs import configure_logging
from kafkasaga.runtime.operator import Operator
from kafkasaga.saga.definition import Cancellation, Ends, Saga
from kafkasaga.saga.flow import Each, LocalStep, Step, WaitFor, parallel, reply
from kafkasaga.saga.policy import Retry, exponential
from kafkasaga.settings import Settings
from kafkasaga.stores import Outbox, Received, idempotent

if TYPE_CHECKING:
    from kafkasaga.testing import scenario

__all__ = [
    "Cancellation",
    "ConfigurationError",
    "DefinitionError",
    "Each",
    "Ends",
    "KafkasagaError",
    "LocalStep",
    "Message",
    "Operator",
    "Outbox",
    "Received",
    "Retry",
    "Saga",
    "SagaState",
    "Service",
    "Settings",
    "Step",
    "WaitFor",
    "configure_logging",
    "exponential",
    "idempotent",
    "parallel",
    "reply",
    "scenario",
]


if not TYPE_CHECKING:  # a checker would take any name for public then

    def __getattr__(name: str) -> Any:
        # A service never asks for it, so it does not load the embedded broker and the simulator either.
        if name == "scenario":
            from kafkasaga.testing import scenario

            return scenario
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
