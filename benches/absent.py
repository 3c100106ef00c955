#!/usr/bin/env python3
"""How often a model says that something is not on a picture: where it is not, and where it is.

    benches/absent.py MODEL DATA OUT [OCR] [--receipts N]

On the test forms of FUNSD: five entries of other test forms for each, whose label is not on this one, and all entries
that have a value. On N (171) test receipts of SROIE: the four fields, and what is not on them by their words or is
(phone number, tip, table number, cashier). A label is not on a form if no text of the form contains it, is contained in
it or is like it (ratio of difflib 0.6 or more). The questions are the same for every model. DATA has the sets as
published, OCR folders funsd_test and sroie_test of `llavar ocr run --out` (as benches/nano_eval.sh makes them); without
OCR all is asked once, without text. OUT keeps the answers: the same command goes on where it was stopped. LLAVAR names
the program.
"""

import argparse
import json
import os
import random
import re
import subprocess
from difflib import SequenceMatcher
from pathlib import Path

ABSENT = "not on the picture"
FIELDS = [
    "what is the name of the company that issued this invoice?", "when was this invoice issued?",
    "where was this invoice issued?", "what is the total amount of this invoice?",
]
# Questions for receipts, and what the words of one are searched for before it is asked.
LACKING = {
    "What is the phone number?": r"\b(tel\w*|phone|ph|hp|h/p|mobile|contact|call|hotline|fax)\b|\b[+(]?0\d[\d)]?[ -]\d{5,}|\b6?0\d{1,2}[ -]?\d{3,4}[ -]?\d{4}\b",
    "What is the tip?": r"\b(tips?|gratuity|serv\w*|svc)\b",
    "What is the table number?": r"\b(tables?|tbl|meja|seat|bar)\b",
    "What is the name of the cashier?": r"\b(cash?ier|served|server|operator|staff|user|clerk|sales ?(man|person)|waiter|attended|by)\b",
}
# The same, and what only one that has it says.
HAVING = {
    "What is the phone number?": r"\btel\w*[ .:]*(no[ .:]*)?[+(]?\d[\d )-]{6,}",
    "What is the table number?": r"\btable[ .:#]*(no[ .:#]*)?[a-z]{0,2}\d",
    "What is the name of the cashier?": r"\bcashier[ .:#]+[a-z]{3,}",
}


def plain(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def here(label, texts):
    """Whether a label or something that could be taken for it stands among the texts of a form."""
    label = plain(label)
    for text in texts:
        if f" {label} " in f" {text} " or len(text) > 2 and f" {text} " in f" {label} " or SequenceMatcher(None, label, text).ratio() >= 0.6:
            return True
    return label.replace(" ", "") in "".join(texts).replace(" ", "")


def forms(data, rng):
    """(picture, question, whether it is there) for the test forms."""
    pages = {}
    for path in sorted((data / "FUNSD/testing_data/annotations").glob("*.json")):
        entries = {entry["id"]: entry for entry in json.loads(path.read_text("utf-8"))["form"]}
        labels = {}
        for entry in entries.values():
            values = [entries[to]["text"] for start, to in entry["linking"] if start == entry["id"] and to in entries]
            if entry["label"] == "question" and " ".join(values).strip() and len(plain(entry["text"])) > 1:
                labels[entry["text"].strip()] = True
        pages[f"{path.stem}.png"] = list(labels), [plain(entry["text"]) for entry in entries.values() if plain(entry["text"])]
    for picture, (labels, texts) in pages.items():
        others = [label for other, (found, _) in pages.items() if other != picture for label in found]
        rng.shuffle(others)
        lacking = [label for label in {plain(label): label for label in others}.values() if not here(label, texts)][:5]
        for there, asked in [(False, lacking), (True, labels)]:
            yield from ((picture, f'what is "{label}" information in the image?', there) for label in asked)


def receipts(data, rng, number, kind):
    """The same for test receipts: their four fields, or what some of them have."""
    boxes = sorted((data / "SROIE2019/test/box").glob("*.txt"))
    for path in sorted(rng.sample(boxes, min(number, len(boxes)))):
        text = "\n".join(line.split(",", 8)[-1] for line in path.read_text("utf-8", "replace").splitlines()).lower()
        picture = f"{path.stem}.jpg"
        if kind == "fields":
            yield from ((picture, question, True) for question in FIELDS)
        else:
            yield from ((picture, question, False) for question, words in LACKING.items() if not re.search(words, text))
            yield from ((picture, question, True) for question, words in HAVING.items() if re.search(words, text))


def asked(questions, model, pictures, out, ocr):
    """For every question whether the answer says that it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"question_id": str(at), "image": picture, "text": question, "gt": str(there)} for at, (picture, question, there) in enumerate(questions)]
    (out / "vqa_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [os.environ.get("LLAVAR", "target/release/llavar"), "eval", "run", "--task", "hybrid_instruct", "--data", out / "vqa_test.jsonl"]
    command += ["--image-folder", pictures, "--model", model, "--out", out, "--max-new-tokens", "64", "--metric", "token_f1"]
    command += ["--ocr", "on", "--ocr-engine", f"sidecar:{ocr}"] if ocr else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = [path for path in out.glob("*/samples.jsonl") if path.parent.name.endswith("-ocr") == bool(ocr)]
    said = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        said[str(row["question_id"])] = ABSENT in row["text"].lower()
    return [said[row["question_id"]] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("ocr", type=Path, nargs="?")
    parser.add_argument("--receipts", type=int, default=171)
    args = parser.parse_args()
    sets = [
        ("FUNSD", "FUNSD/testing_data/images", "funsd_test", list(forms(args.data, random.Random(1)))),
    ]
    for name, kind in [("SROIE, the four fields", "fields"), ("SROIE, phone, tip, table, cashier", "others")]:
        questions = list(receipts(args.data, random.Random(1), args.receipts, kind))
        sets.append((name, "SROIE2019/test/img", "sroie_test", questions))
    table = ["| test part | OCR text | not on the picture: said so | on the picture: said that it is not |", "|---|---|---|---|"]
    for name, pictures, text, questions in sets:
        for ocr in [None] + [args.ocr / text] * bool(args.ocr):
            said = asked(questions, args.model, args.data / pictures, args.out / plain(name).replace(" ", "_"), ocr)
            cells = []
            for there in (False, True):
                of = [absent for absent, (_, _, really) in zip(said, questions) if really == there]
                cells.append(f"{sum(of)} of {len(of)} ({100 * sum(of) / max(1, len(of)):.1f} %)")
            table.append(f"| {name} | {'on' if ocr else 'off'} | {cells[0]} | {cells[1]} |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
