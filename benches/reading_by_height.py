#!/usr/bin/env python3
"""Character error rate of reading against the height of the text, in pixels of the model's input.

    python3 benches/reading_by_height.py MODEL FONTS CORPUS OUT [--heights 6,8,10,...] [--lines 40] [--side 768]

Draws single lines of CORPUS, black on white, at a place of chance on pages of the model's input size, one height of a
capital letter after another, asks `llavar eval run --task words` to read them, greedily, and prints errors (edit
distance / characters of the line, case counts) with the share of lines read without one. Fonts, lines and places are
the same for every height and model of one seed. FONTS and CORPUS: recipes/llavar-nano/fetch.py; words of the corpus
that a model was trained on are no test of vocabulary, so the second half of the lines are made of random letters and
digits. LLAVAR names the program. Needs Pillow.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess

from PIL import Image, ImageDraw, ImageFont

HEIGHTS = "5,6,7,8,10,12,16,24,32,48"


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def font_of(path, height):
    """The face at the size at which a capital H is as high as wanted."""
    size = height / 0.7
    for _ in range(4):
        font = ImageFont.truetype(str(path), size)
        _, top, _, bottom = font.getbbox("H")
        size *= height / max(1, bottom - top)
    return ImageFont.truetype(str(path), size)


def draw(args, folder, height):
    """Pages with one line each, and the label file."""
    rng = random.Random(args.seed)
    fonts = sorted(p for p in args.fonts.iterdir() if p.suffix in (".ttf", ".otf"))
    texts = [line for line in args.corpus.read_text("utf-8").splitlines() if line.isascii()]
    (folder / "images").mkdir(parents=True)
    rows = []
    for at in range(args.lines):
        font = font_of(rng.choice(fonts), height)
        line = rng.choice(texts)
        if at % 2:
            line = " ".join("".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZabcdefghkmnpqrstuvwxyz0123456789", k=rng.randint(3, 8))) for _ in range(3))
        # As much as is at most 22 characters and fits.
        words, place = line.split(" "), (rng.random(), rng.random())
        line = words[0][:22]
        for word in words[1:]:
            if len(line) + 1 + len(word) > 22:
                break
            line += " " + word
        while font.getlength(line) > args.side - 20 and len(line) > 1:
            line = line[:-1].rstrip()
        page = Image.new("L", (args.side, args.side), 255)
        left, top, right, bottom = font.getbbox(line)
        x = 10 + place[0] * max(0, args.side - 20 - (right - left)) - left
        y = 10 + place[1] * max(0, args.side - 20 - (bottom - top)) - top
        ImageDraw.Draw(page).text((x, y), line, font=font, fill=0)
        page.save(folder / f"images/{at}.png")
        rows.append({"image": f"images/{at}.png", "question": "Read all the text in the image.", "answers": [line]})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "fonts", "corpus", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--heights", default=HEIGHTS)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--side", type=int, default=768, help="px of the model's input, so that nothing is resized")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    llavar = os.environ.get("LLAVAR", "target/release/llavar")
    print("| capital letter, px | character errors, % | of words of the corpus | of random characters | lines without error, % |")
    print("|---|---|---|---|---|")
    for height in args.heights.split(","):
        data, run = args.out / f"pages-{height}", args.out / f"run-{height}"
        if not data.exists():
            draw(args, data, float(height))
        done = subprocess.run(
            [llavar, "eval", "run", "--task", "words", "--data", str(data), "--model", str(args.model), "--out", str(run), "--max-new-tokens", "40"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"error: llavar eval run failed\n{done.stderr[-1000:]}")
        errors, characters, right, lines = [0, 0], [0, 0], 0, 0
        for path in run.glob("*/samples.jsonl"):
            for row in map(json.loads, path.read_text("utf-8").splitlines()):
                gold, answer = row["gt"][0], " ".join(row["text"].split())
                kind = int(row["image"].split("/")[-1].split(".")[0]) % 2
                wrong = min(distance(answer, gold), len(gold))
                errors[kind] += wrong
                characters[kind] += len(gold)
                right += wrong == 0
                lines += 1
        rate = lambda e, c: f"{100 * e / max(1, c):.1f}"
        print(f"| {height} | {rate(sum(errors), sum(characters))} | {rate(errors[0], characters[0])} | {rate(errors[1], characters[1])} | {100 * right / max(1, lines):.0f} |", flush=True)


if __name__ == "__main__":
    main()
