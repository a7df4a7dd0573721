"""``python -m tests.mutations``: take out each protecting line, and see that its test fails."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.catalogue import Mutation, about
from tests.mutations.trial import PASSED, Copy, Verdict


def main() -> int:
    """Returns 0 if each was caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="A9, I4, or an id as it is printed")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time, each in a copy of the tree")
    parser.add_argument("--list", action="store_true", help="do not try them")
    options = parser.parse_args()
    mutations = about(tuple(options.only))
    if not mutations:
        parser.error(f"nothing is about {', '.join(options.only)}")
    if options.list:
        for mutation in mutations:
            print(f"{mutation.id:<45} {', '.join(mutation.of):<12} {mutation.line}\n{'':<59}{mutation.test}")
        return 0
    with tempfile.TemporaryDirectory(prefix="kafkasaga-mutations-") as folder:
        return _run(mutations, [Copy(Path(folder) / str(n)) for n in range(options.jobs)])


def _run(mutations: Sequence[Mutation], copies: Sequence[Copy]) -> int:
    tests = list(dict.fromkeys(mutation.test for mutation in mutations))
    code, said = copies[0].test(tests)
    if code != PASSED:
        print(f"{said}\nThese tests are to pass before anything is taken out.")
        return 1
    print(f"{len(tests)} tests pass; taking out {len(mutations)} lines, one at a time\n", flush=True)
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def try_out(mutation: Mutation) -> tuple[Verdict, str]:
        copy = free.get()
        try:
            return copy.try_out(mutation)
        finally:
            free.put(copy)

    bad = 0
    with ThreadPoolExecutor(len(copies)) as pool:
        for mutation, (verdict, output) in zip(mutations, pool.map(try_out, mutations), strict=True):
            bad += verdict is not Verdict.CAUGHT
            print(f"{verdict:<9} {mutation.id:<45} {', '.join(mutation.of):<12} {mutation.test}", flush=True)
            if verdict is Verdict.BROKEN:
                print(output)
    print(f"\n{len(mutations) - bad} of {len(mutations)} caught")
    return 1 if bad else 0


sys.exit(main())
