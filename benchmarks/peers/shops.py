"""Who else runs the order saga."""

from benchmarks.peers.dbos import DBOS
from benchmarks.peers.restate import RESTATE

PEERS = (DBOS, RESTATE)
