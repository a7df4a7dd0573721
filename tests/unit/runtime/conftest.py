"""One broker and one clock for each test."""

import pytest

from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import VirtualClock


@pytest.fixture
def broker() -> MemoryBroker:
    """One partition: what a test sends is read in that order."""
    return MemoryBroker(partitions=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
