"""An attacker on this machine: it swaps folders and files of a destination for links to the outside, as fast as it can.

    python -m tests.hostile.swapper ONE=OTHER...

until its standard input ends; then it prints how many swaps it has made.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import sys
import time

_EXCHANGE = 2  # RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD


def main() -> None:
    """Swap each pair, for a moment, over and over."""
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    pairs = [tuple(map(os.fsencode, pair.split("="))) for pair in sys.argv[1:]]
    rng = random.Random(7)
    swaps = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for one, other in pairs:
            if rename(_HERE, one, _HERE, other, _EXCHANGE) != 0:
                continue  # it is not there just now
            time.sleep(rng.random() / 2000)
            # Whatever has taken the name meanwhile: what we took is put back, or both wait for the next time.
            rename(_HERE, one, _HERE, other, _EXCHANGE)
            swaps += 1
            time.sleep(rng.random() / 500)
    print(swaps)


if __name__ == "__main__":
    main()
