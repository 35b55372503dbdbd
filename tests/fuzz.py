"""``make fuzz``: as many mutated inputs as one likes, by ``tests/test_fuzz.py``.

``python -m tests.fuzz --cases 5000 --seed 7`` prints what failed, smallest first, and what a case
took.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="how many, over all kinds of input")
    parser.add_argument("--seed", type=int, default=0, help="of Hypothesis; the same cases again")
    parser.add_argument(
        "--kind",
        default="",
        help="the share of this kind of input alone, such as networks",
    )
    given = parser.parse_args()
    os.environ["PROXYNAS_FUZZ_CASES"] = str(given.cases)
    started = time.process_time()
    path = Path(__file__).with_name("test_fuzz.py")
    chosen = ["-k", f"test_any and {given.kind}"] if given.kind else []
    arguments = [str(path), "-q", f"--hypothesis-seed={given.seed}", *chosen]
    failures = pytest.main([*arguments, "-p", "no:cacheprovider"])
    from .test_fuzz import KINDS  # not before: it reads the number of cases

    chosen_kinds = [name for name in KINDS if given.kind in name]
    cases = max(1, given.cases // len(KINDS)) * len(chosen_kinds)
    seconds = (time.process_time() - started) / max(1, cases)
    print(
        f"{cases} cases with seed {given.seed}: "
        f"{'0 failures' if failures == 0 else 'FAILED, see above'}; "
        f"{seconds:.2f} core seconds a case"
    )
    return int(failures)


if __name__ == "__main__":
    sys.exit(main())
