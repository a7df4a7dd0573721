"""What tests of services and sagas need; shipped, and used by the library's own tests."""

from kafkasaga.testing.embedded import EmbeddedKafka, RecordsDropped
from kafkasaga.testing.scenario import Scenario, scenario

__all__ = ["EmbeddedKafka", "RecordsDropped", "Scenario", "scenario"]
