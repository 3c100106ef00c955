#!/usr/bin/env python3
"""How many answers are right by the probability that the model itself gives them.

    python3 benches/answers_by_probability.py RUN/TASK [RUN/TASK ...]

RUN is the folder of a greedy `llavar eval run`, TASK one of its folders. Prints for each the share of answers at or
above a probability and how many of them are right by the task's first metric, and the area under the curve (1: every
right answer is more probable than every wrong one, 0.5: no connection).
"""

import json
import math
import pathlib
import sys

AT_LEAST = (0.95, 0.9, 0.8, 0.5, 0.2)


def answers(folder):
    for line in (pathlib.Path(folder) / "scored.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        metric = "multimodal_ocr_vqa" if "multimodal_ocr_vqa" in row["scores"] else next(iter(row["scores"]))
        yield math.exp(row["metadata"]["score"]), row["scores"][metric] >= 1


def area(rows):
    right = [p for p, ok in rows if ok]
    wrong = [p for p, ok in rows if not ok]
    return sum((a > b) + (a == b) / 2 for a in right for b in wrong) / max(1, len(right) * len(wrong))


def part(rows, total):
    return f"{100 * len(rows) / total:.0f} %: {100 * sum(ok for _, ok in rows) / len(rows):.0f} right" if rows else "none"


def main():
    print("| task | answers | area | " + " | ".join(f"at least {p}" for p in AT_LEAST) + f" | below {AT_LEAST[-1]} |")
    print("|---|" + "---|" * (len(AT_LEAST) + 3))
    for folder in sys.argv[1:]:
        rows = list(answers(folder))
        cells = [part([row for row in rows if row[0] >= p], len(rows)) for p in AT_LEAST]
        cells.append(part([row for row in rows if row[0] < AT_LEAST[-1]], len(rows)))
        print(f"| {pathlib.Path(folder).name} | {len(rows)} | {area(rows):.2f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
