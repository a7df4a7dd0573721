"""``python -m …leash <module> <arguments>``: runs a module for as long as whoever started it lives.

The starter holds the other end of standard input. When it ends, in whatever way, the kernel closes that end; so this
works where no signal tells a process that its parent was killed.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 15.0
"""To finish what has begun."""
STANDARD_INPUT = 0


def main() -> None:
    sys.argv = sys.argv[1:]
    threading.Thread(target=_end_with_the_starter, name="leash", daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_the_starter() -> None:
    while os.read(STANDARD_INPUT, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
