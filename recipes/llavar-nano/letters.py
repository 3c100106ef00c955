#!/usr/bin/env python3
"""Lines of random strings, for pages that can only be read and not be guessed.

    letters.py OUT.txt [-n LINES] [--seed N]

Given to `llavar data synth --set corpus=OUT.txt` in place of the corpus. Signs that are one stroke in some face (I, l,
1, O, 0) are left out of strings without an order; figures and words keep theirs.
"""

import argparse
import random
from pathlib import Path

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ" + "abcdefghijkmnopqrstuvwxyz"
FIGURES = "0123456789"
MARKS = ".,:;-/()&%$#'\"!?+*="


def string(rng):
    size = rng.choice([1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8])
    kind = rng.random()
    if kind < 0.3:
        text = "".join(rng.choice(LETTERS) for _ in range(size))
    elif kind < 0.5:
        text = "".join(rng.choice(LETTERS).upper() for _ in range(size))
    elif kind < 0.7:
        text = "".join(rng.choice(LETTERS).lower() for _ in range(size))
    elif kind < 0.9:
        text = "".join(rng.choice(FIGURES) for _ in range(size))
    else:
        text = "".join(rng.choice(LETTERS + FIGURES[2:]) for _ in range(size))
    if rng.random() < 0.2:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(MARKS) + text[at:]
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=120_000, help="lines")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    lines = (" ".join(string(rng) for _ in range(rng.randint(1, 12))) for _ in range(args.n))
    args.out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
