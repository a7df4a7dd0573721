"""What tests of services and sagas need; shipped, and used by the library's own tests."""

from kafkasaga.testing.embedded import EmbeddedKafka, RecordsDropped
from kafkasaga.testing.scenario import Scenario, scenario
from kafkasaga.testing.simulator import Fault, LawBroken, simulate

__all__ = ["EmbeddedKafka", "Fault", "LawBroken", "RecordsDropped", "Scenario", "scenario", "simulate"]
