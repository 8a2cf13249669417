"""Kill everything at random moments while jobs run, and compare with unbroken runs: `make soak`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="decides victims, pauses and the order")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clead-soak-") as folder:
        wrong = soak(Path(folder), kills=options.kills, seed=options.seed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
