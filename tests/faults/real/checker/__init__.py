"""The independent checker: its own SQL, its own consumer, no line of the library. It compares what was asked for with
what is there.

``evidence`` is everything that it knows, ``gather`` reads it, the laws are functions of it.
"""

from tests.faults.real.checker.evidence import READS, Evidence, Order, Record, Request, Saga
from tests.faults.real.checker.gather import gather, topic_ends
from tests.faults.real.checker.verdict import Verdict, judge

__all__ = ["READS", "Evidence", "Order", "Record", "Request", "Saga", "Verdict", "gather", "judge", "topic_ends"]
