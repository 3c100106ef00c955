#!/usr/bin/env python3
"""The real questions of real.sh as two lists: plain.json without and prefix.json with OCR text before the question.

    mix_real.py REAL

A total is answered by its figure without RM or $ before it: what is asked for first decides what is looked for.
Single questions for totals stand three times, questions of ChartQA also with the wish for one word that its
evaluation adds.
"""

import json
import re
import sys
from pathlib import Path

WISH = "\nAnswer the question with a single word."


def load(real, *names):
    return [sample for name in names for sample in json.loads((real / f"{name}.json").read_text("utf-8"))]


def with_text(sample):
    return "Given OCR-based" in sample["conversations"][0]["value"]


def rounds(sample):
    turns = sample["conversations"]
    return zip(turns[::2], turns[1::2])


def asks_total(sample, asked):
    return "SROIE" in sample["image"] and "total" in asked["value"].split("\n")[-1].lower()


def main():
    real = Path(sys.argv[1])
    mixed = load(real, "sroie-duos", "funsd-duos", "chartqa-duos", "sroie-talk", "funsd-talk")
    plain = load(real, "sroie-ask", "funsd-ask", "chartqa-ask") + [s for s in mixed if not with_text(s)]
    prefix = load(real, "sroie-ask-ocr", "funsd-ask-ocr", "chartqa-ask-ocr", "chartqa-ask-ocr") + [s for s in mixed if with_text(s)]
    for name, samples in [("plain", plain), ("prefix", prefix)]:
        for sample in load(real, "chartqa-ask-ocr" if name == "prefix" else "chartqa-ask"):
            sample["conversations"][0]["value"] += WISH
            samples += [sample] * 3
        for sample in samples:
            for asked, answered in rounds(sample):
                if asks_total(sample, asked):
                    answered["value"] = re.sub(r"^(RM|\$)\s*(?=[0-9])", "", answered["value"])
        totals = [s for s in samples if len(s["conversations"]) == 2 and asks_total(s, s["conversations"][0])]
        samples += 2 * totals
        aside = real / f"{name}.part"
        aside.write_text("[\n" + ",\n".join(json.dumps(s, ensure_ascii=False) for s in samples) + "\n]\n", "utf-8")
        aside.rename(real / f"{name}.json")
        print(f"{name}.json: {len(samples)} samples, {len(totals)} of them single questions for a total, three times each")


if __name__ == "__main__":
    main()
