"""``simulate``: a saga, driven through thousands of schedules in which everything goes wrong that can.

Real definitions, the real machine, the real loops, barrier and relay run over a broker and databases in memory, in
virtual time. Everything follows from one integer. After each run the invariants I1 to I10 are checked against what was
really committed; the first violation is shrunk to the fewest faults that still show it, and drawn.
"""

from kafkasaga.testing.simulator.chance import Fault
from kafkasaga.testing.simulator.history import Violation
from kafkasaga.testing.simulator.simulate import LawBroken, Result, simulate

__all__ = ["Fault", "LawBroken", "Result", "Violation", "simulate"]
