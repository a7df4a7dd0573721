"""``python -m kafkasaga.testing.simulator module:Saga --runs 200 --seed 1``."""

from __future__ import annotations

import argparse
import importlib
import sys

from kafkasaga.testing.simulator import LawBroken, simulate


def main() -> int:
    """Simulate one saga; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kafkasaga.testing.simulator", description=__doc__)
    parser.add_argument("saga", help="module:Class, for example shop.sagas:PlaceOrder")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after so much real time")
    given = parser.parse_args()
    module, _, name = given.saga.partition(":")
    try:
        result = simulate(
            getattr(importlib.import_module(module), name), runs=given.runs, seed=given.seed, seconds=given.seconds
        )
    except LawBroken as broken:
        sys.stderr.write(f"{broken}\n")
        return 1
    sys.stdout.write(f"{result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
