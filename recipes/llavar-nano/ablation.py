#!/usr/bin/env python3
"""The parts of ablate.sh that are no training: test pages, grafts, rows and tables. Standard library alone.

    ablation.py pages OUT --read SET ... --ask SET ...   one word set of held-out synthetic sets: reading and questions
    ablation.py join OUT FILE ...                        several LLaVA JSON files as one
    ablation.py graft BASE MODEL                         gives MODEL the language model of BASE
    ablation.py row ROW ROWS --batch N --eval DIR --runs DIR ...   notes a finished row
    ablation.py table ROWS                               Markdown: means, and spreads over seeds
"""

import argparse
import json
import os
import shutil
import statistics
import struct
from pathlib import Path

LANGUAGE = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
PER_PAGE = 2


def pages(args):
    """A folder that `llavar eval run --task words` takes, its pictures in a folder named by their set."""
    rows = []
    for folder in args.read + args.ask:
        at = args.out / folder.name
        at.mkdir(parents=True, exist_ok=True)
        for picture in (folder / "images").iterdir():
            target = at / picture.name
            if not target.exists():
                os.link(picture, target)
    for folder in args.read:
        for sample in json.loads((folder / "transcriptions.json").read_text("utf-8")):
            turns = [turn["value"] for turn in sample["conversations"]]
            question = turns[0].removeprefix("<image>\n")
            rows.append((folder.name, sample["image"], question, turns[1]))
    for folder in args.ask:
        asked = {}
        for line in (folder / "facts.jsonl").read_text("utf-8").splitlines():
            fact = json.loads(line)
            asked[fact["image"]] = asked.get(fact["image"], 0) + 1
            if asked[fact["image"]] <= PER_PAGE:
                rows.append((folder.name, fact["image"], fact["question"], fact["gold"]))
    with (args.out / "test.jsonl").open("w", encoding="utf-8") as file:
        for name, image, question, answer in rows:
            image = f"{name}/{Path(image).name}"
            file.write(json.dumps({"image": image, "question": question, "answers": [answer]}) + "\n")


def join(args):
    samples = [sample for path in args.files for sample in json.loads(path.read_text("utf-8"))]
    args.out.write_text(json.dumps(samples), "utf-8")


def read_header(path):
    """The header of a safetensors file and where its data begin."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size)), 8 + size


def graft(args):
    """Weights of the towers and the projector stay MODEL's; tensors are copied as they are stored."""
    path = args.model / "model.safetensors"
    parts, header, offset = [], {"__metadata__": {"format": "pt"}}, 0
    for source, ours in ((args.base / "model.safetensors", True), (path, False)):
        names, start = read_header(source)
        for name, said in names.items():
            if name == "__metadata__" or name.startswith(LANGUAGE) != ours:
                continue
            first, last = said["data_offsets"]
            parts.append((source, start + first, last - first))
            header[name] = said | {"data_offsets": [offset, offset + last - first]}
            offset += last - first
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for source, at, size in parts:
            with source.open("rb") as file:
                file.seek(at)
                out.write(file.read(size))
    part.rename(path)


def row(args):
    """Steps, seconds and pictures of its runs; the answers go beside it."""
    steps, seconds, waited = 0, 0.0, []
    for run in args.runs:
        for line in (run / "train.jsonl").read_text("utf-8").splitlines():
            said = json.loads(line)
            steps += 1
            seconds += said["seconds"]
            waited.append(said["data_wait_percent"])
    answers = args.rows / f"{args.row}.samples.jsonl"
    with answers.open("wb") as out:
        for path in sorted(args.eval.glob("*/samples.jsonl")):
            with path.open("rb") as file:
                shutil.copyfileobj(file, out)
    said = {
        "row": args.row,
        "steps": steps,
        "seconds": round(seconds, 1),
        "pictures": steps * args.batch,
        "data_wait_percent": round(statistics.fmean(waited), 1),
    }
    part = args.rows / f"{args.row}.part"
    part.write_text(json.dumps(said), "utf-8")
    part.rename(args.rows / f"{args.row}.json")


def distance(a, b):
    line = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, line[0] = line[0], i
        for j, y in enumerate(b, 1):
            last, line[j] = line[j], min(line[j] + 1, line[j - 1] + 1, last + (x != y))
    return line[-1]


def plain(text):
    return "".join(text.lower().split())


def scores(path):
    """Character errors of every reading set and the share of right answers of every other, in percent."""
    errors, right = {}, {}
    for line in path.read_text("utf-8").splitlines():
        said = json.loads(line)
        gold, answer = said["gt"], said["text"]
        name = said["image"].split("/")[-2] if said["task"].startswith("words") else said["task"]
        if name.startswith("test_") and name != "test_asked":
            gold, answer = " ".join(gold[0].split()), " ".join(answer.split())
            wrong, all_of = errors.get(name, (0, 0))
            errors[name] = (wrong + min(distance(answer, gold), len(gold)), all_of + len(gold))
        else:
            # Containment, as the protocol has it.
            good, of = right.get(name, (0, 0))
            right[name] = (good + any(plain(g) in plain(answer) for g in gold), of + 1)
    return {name: 100 * a / max(1, b) for name, (a, b) in (errors | right).items()}


def spread(values):
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def table(args):
    """Rows that differ in their seed alone are one line: mean ± standard deviation over seeds."""
    groups = {}
    for path in sorted(args.rows.glob("*.json")):
        said = json.loads(path.read_text("utf-8"))
        name = said["row"]
        stem, _, seed = name.rpartition("-")
        name = stem if seed.isdigit() else name
        said["scores"] = scores(args.rows / f"{said['row']}.samples.jsonl")
        groups.setdefault(name, []).append(said)
    blocks = (
        ("towers", ("both", "fast", "slow", "both-without-cells")),
        ("self-explain turns", ("explain-with", "explain-without")),
        ("real training duos", ("select-picked", "select-random")),
    )
    reading = {"test_words": "words", "test_large": "44 to 140 px", "test_middle": "20 to 44 px", "test_small": "11 to 20 px"}
    for title, names in blocks:
        found = [name for name in names if name in groups]
        if not found:
            continue
        columns = sorted({c for name in found for said in groups[name] for c in said["scores"]})
        order = [*reading, "test_asked"]
        columns.sort(key=lambda c: order.index(c) if c in order else len(order))
        heads = [
            f"character errors, {reading[c]}, %" if c in reading else "questions right, %" if c == "test_asked" else f"{c}, right, %"
            for c in columns
        ]
        print(f"| {title} | seeds | seconds | pictures | {' | '.join(heads)} |")
        print("|---" * (4 + len(heads)) + "|")
        for name in found:
            rows = groups[name]
            cells = [spread([said["scores"][c] for said in rows]) for c in columns]
            mean = lambda key: statistics.fmean(said[key] for said in rows)
            print(f"| {name} | {len(rows)} | {mean('seconds'):.0f} | {mean('pictures'):,.0f} | {' | '.join(cells)} |")
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(run, *names):
        sub = commands.add_parser(run.__name__)
        sub.set_defaults(run=run)
        for name in names:
            sub.add_argument(name, type=Path)
        return sub

    sub = command(pages, "out")
    sub.add_argument("--read", nargs="+", type=Path, default=[])
    sub.add_argument("--ask", nargs="+", type=Path, default=[])
    command(join, "out").add_argument("files", nargs="+", type=Path)
    command(graft, "base", "model")
    sub = commands.add_parser("row")
    sub.set_defaults(run=row)
    sub.add_argument("row")
    sub.add_argument("rows", type=Path)
    sub.add_argument("--batch", type=int, required=True)
    sub.add_argument("--eval", type=Path, required=True)
    sub.add_argument("--runs", nargs="+", type=Path, required=True)
    command(table, "rows")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
