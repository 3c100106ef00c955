#!/usr/bin/env python3
"""The real questions of real.sh as two lists: plain.json without and prefix.json with OCR text before the question.

    mix_real.py REAL

Fields of receipts and forms are answered in one way each (answers.py).
Single questions for totals stand three times, labels that stand several times on a form five times, questions of ChartQA
also with the wish for one word that its evaluation adds.
"""

import json
import random
import re
import sys
from pathlib import Path

from answers import SEVERAL, asked_otherwise, entry, sentence

SENTENCE = re.compile(r'The "(.*)" information in the image is (.*)\.', re.DOTALL)
WISH = "\nAnswer the question with a single word."


def load(real, *names):
    return [sample for name in names for sample in json.loads((real / f"{name}.json").read_text("utf-8"))]


def asks_total(sample):
    return sample["conversations"][1]["value"].startswith("The total amount of this invoice is")


def asks_several(sample):
    return "FUNSD" in sample["image"] and any(SEVERAL in turn["value"] for turn in sample["conversations"][1::2])


def with_text(sample):
    return "Given OCR-based" in sample["conversations"][0]["value"]


def spoken(samples, alone):
    """The samples with every field of a receipt or form answered in its way."""
    rng = random.Random(len(samples))
    for sample in samples:
        turns = sample["conversations"]
        for asked, answered in zip(turns[::2], turns[1::2]):
            before, question = asked["value"].rsplit("\n", 1) if "\n" in asked["value"] else ("", asked["value"])
            said = sentence(sample["image"], question, answered["value"], alone)
            if said != answered["value"]:
                question = asked_otherwise(sample["image"], question, rng)
            asked["value"] = f"{before}\n{question}" if before else question
            answered["value"] = said
    return samples


def entries(samples):
    """The samples with sentences about entries of forms as label and value."""
    for sample in samples:
        for answered in sample["conversations"][1::2]:
            found = SENTENCE.fullmatch(answered["value"])
            if found:
                answered["value"] = entry(*found.groups())
    return samples


def main():
    real = Path(sys.argv[1])
    asked = ["sroie-ask", "funsd-ask"]
    talks = spoken(load(real, "sroie-talk", "funsd-talk"), False)
    mixed = load(real, "sroie-duos", "chartqa-duos") + entries(load(real, "funsd-duos")) + talks
    plain = spoken(load(real, *asked), True) + load(real, "chartqa-ask") + [s for s in mixed if not with_text(s)]
    prefix = spoken(load(real, *(f"{name}-ocr" for name in asked)), True) + [s for s in mixed if with_text(s)]
    prefix += 2 * load(real, "chartqa-ask-ocr")
    for name, samples in [("plain", plain), ("prefix", prefix)]:
        for sample in load(real, "chartqa-ask-ocr" if name == "prefix" else "chartqa-ask"):
            sample["conversations"][0]["value"] += WISH
            samples.append(sample)
        totals = [s for s in samples if len(s["conversations"]) == 2 and asks_total(s)]
        samples += 2 * totals + 4 * [sample for sample in samples if asks_several(sample)]
        aside = real / f"{name}.part"
        aside.write_text("[\n" + ",\n".join(json.dumps(s, ensure_ascii=False) for s in samples) + "\n]\n", "utf-8")
        aside.rename(real / f"{name}.json")
        print(f"{name}.json: {len(samples)} samples, {len(totals)} of them single questions for a total, three times each")


if __name__ == "__main__":
    main()
