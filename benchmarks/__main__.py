"""``python -m benchmarks``: every workload, each contender in turns, medians and ratios."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.machine import machine
from benchmarks.harness.options import parse
from benchmarks.harness.report import Report
from benchmarks.harness.turns import take_turns
from benchmarks.workloads import NAMES, workloads


def main(arguments: list[str]) -> int:
    options = parse(arguments, NAMES)
    report = Report(options)
    with tempfile.TemporaryDirectory(prefix="kafkasaga-bench-") as temporary:
        folder = options.keep_logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with machine(folder, decoding=options.peers) as servers:
            for workload in workloads(options):
                report.add(workload, take_turns(workload, servers, options, report.progress))
    return report.finish()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
