#!/usr/bin/env python3
"""Labels that stand more than once on a form are asked once and answered with every value, from the top.

    several.py DATA REAL

The published questions ask for each of them in the same words and expect another value each time, which no answer
meets and no model can learn. Changes funsd-ask.json, funsd-ask-ocr.json, funsd-talk.json and funsd-duos.json below REAL
in place; a second time it changes nothing. DATA has the set as published.
"""

import json
import re
import sys
from pathlib import Path

from answers import ASKED_ALONE, FORM, SEVERAL
from copy_pages import write


def values(path):
    """All values of every label of a form, from the top, those that are equal once."""
    form = json.loads(path.read_text("utf-8"))["form"]
    entries = {entry["id"]: entry for entry in form}
    found = {}
    for entry in form:
        linked = [entries[value] for label, value in entry["linking"] if label == entry["id"] and value in entries]
        text = " ".join(value["text"] for value in linked).strip()
        if text and entry["text"].strip():
            left, top = entry["box"][:2]
            found.setdefault(entry["text"].strip(), []).append((round(top / 12), left, text))
    return {label: list(dict.fromkeys(text for *_, text in sorted(rows))) for label, rows in found.items()}


def label(question):
    for pattern in FORM + ASKED_ALONE:
        match = re.fullmatch(pattern, question.strip(), re.DOTALL)
        if match:
            return match[1].strip()
    return None


def changed(sample, several):
    """The sample with one answer for each label that stands several times, or None if nothing is left of it."""
    turns, out = sample["conversations"], []
    asked = [label(turn["value"].rsplit("\n", 1)[-1]) for turn in turns[::2]]
    hits = [name is not None and any(name in (text, text.rstrip(" :")) for text in several) for name in asked]
    if not any(hits):
        return sample
    if len(hits) > 1:
        # Of conversations the rounds go; what explains a round goes with it.
        if "/duos/" in sample["id"] or hits[0]:
            return None
        for hit, question, answer in zip(hits, turns[::2], turns[1::2]):
            out += [] if hit else [question, answer]
        return {**sample, "conversations": out}
    name = next(text for text in several if asked[0] in (text, text.rstrip(" :")))
    return {**sample, "conversations": [turns[0], {"from": "gpt", "value": SEVERAL.join(several[name])}]}


def main():
    data, real = map(Path, sys.argv[1:])
    forms = {}
    for name in ["ask", "ask-ocr", "talk", "duos"]:
        path = real / f"funsd-{name}.json"
        samples, out, seen = json.loads(path.read_text("utf-8")), [], set()
        for sample in samples:
            image = Path(sample["image"])
            if image not in forms:
                labels = values(data / image.parts[0] / "training_data/annotations" / f"{image.stem}.json")
                counted = {text: found for text, found in labels.items() if len(found) > 1}
                forms[image] = counted
            new = changed(sample, forms[image])
            key = new and json.dumps([new["image"], new["conversations"]])
            if key and key not in seen:
                seen.add(key)
                out.append(new)
        write(path, out)
        print(f"{path}: {len(out)} of {len(samples)} samples")


if __name__ == "__main__":
    main()
