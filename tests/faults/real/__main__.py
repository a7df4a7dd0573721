"""``python -m tests.faults.real``: what ``nox -s faults`` runs."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console

from tests.faults.real.options import parse
from tests.faults.real.report import show, status, write_json
from tests.faults.real.run import Run


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console(highlight=False)
    began = time.monotonic()
    run = Run(options, lambda text: console.print(f"{time.monotonic() - began:6.0f} s  {text}", soft_wrap=True))
    with tempfile.TemporaryDirectory(prefix="kafkasaga-faults-") as temporary:
        folder = options.keep_logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run.do(folder)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (what is known by then is told all the same)
            traceback.print_exc()
            run.account.failures.append(f"the run ended before its time: {error!r}")
    show(run, console)
    if options.json is not None:
        write_json(run, options.json)
    return status(run)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
