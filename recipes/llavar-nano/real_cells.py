#!/usr/bin/env python3
"""The letters of real pages on a grid: transcriptions of SROIE and FUNSD with the key `cells`.

    real_cells.py DATA REAL OUT.json [--grid 32] [--crops N] [--seed N]

DATA has the sets as published, REAL what real.sh made of them. Where a letter stands is known for no real page, but
lines and words have boxes, in which letters are taken to be of equal width: nearly true on receipts and typed forms. The
grid lies over the pictures as `llavar data fit` places them.

With --crops, N parts of each page are written beside OUT.json and stand in it instead of the pages: some lines in a
row, a little turned, lighter or blurred; questions for the entries of forms that are whole in a part stand in
OUT-asked.json. A few hundred pages are soon known by heart, their parts less so.
Needs Pillow.
"""

import argparse
import concurrent.futures
import json
import random
import re
from pathlib import Path

from PIL import Image, ImageFilter

from answers import FORM, SEVERAL, asked_otherwise, entry
from copy_pages import write
from shrink import placed


def sroie(path):
    """Left, top, right, bottom and text of each line, and its number."""
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines()):
        parts = line.split(",", 8)
        if len(parts) == 9:
            x, y = [int(v) for v in parts[0:8:2]], [int(v) for v in parts[1:8:2]]
            yield min(x), min(y), max(x), max(y), parts[8], number


def funsd(path):
    """Left, top, right, bottom and text of each word, and the number of its entry."""
    for entry in json.loads(path.read_text("utf-8"))["form"]:
        for word in entry["words"]:
            yield *word["box"], word["text"], entry["id"]


def pairs(path, known):
    """Labels of a form and their values, for the labels whose value is known: numbers of the entries, label, value."""
    form = json.loads(path.read_text("utf-8"))["form"]
    text = {entry["id"]: entry["text"].strip() for entry in form}
    numbers, said = {}, {}
    for entry in form:
        values = [value for label, value in entry["linking"] if label == entry["id"]]
        if values:
            label = text[entry["id"]]
            numbers.setdefault(label, set()).update([entry["id"], *values])
            said.setdefault(label, set()).add(" ".join(text.get(value, "") for value in values))
    for label, values in said.items():
        # One answer with every value of a label that stands several times (several.py).
        if known.get(label) in values if len(values) == 1 else set(known.get(label, "").split(SEVERAL)) == values:
            yield numbers[label], label, known[label]


def known(real):
    """The values that questions about forms have, by picture and label."""
    out = {}
    for sample in json.loads((real / "funsd-ask.json").read_text("utf-8")):
        found = re.fullmatch(FORM[0], sample["conversations"][0]["value"].split("\n")[-1])
        if found:
            out.setdefault(sample["image"], {})[found[1]] = sample["conversations"][1]["value"]
    return out


def stored(boxes, part, size):
    """Boxes on the stored picture of `size`, which is the `part` of the page that they are given on."""
    across, down = size[0] / part[2], size[1] / part[3]
    for x0, y0, x1, y1, text, entry in boxes:
        if text.strip():
            corners = (x0 - part[0]) * across, (y0 - part[1]) * down, (x1 - part[0]) * across, (y1 - part[1]) * down
            yield *corners, text.strip(), entry


def cells(boxes, place, side):
    """The letters of a picture with these boxes in the square where `place` puts it."""
    step = place["size"] / side

    def mapped(value, axis):
        source, target = place["source"], place["target"]
        return ((value - source[axis]) * target[axis + 2] / source[axis + 2] + target[axis]) / step

    grid = [" "] * (side * side)
    for x0, y0, x1, y1, text, _ in boxes:
        left, right, top, bottom = mapped(x0, 0), mapped(x1, 0), mapped(y0, 1), mapped(y1, 1)
        if right <= left:
            continue
        advance = (right - left) / len(text)
        for row in range(max(0, round(top)), min(side, round(bottom))):
            for column in range(max(0, round(left)), min(side, round(right))):
                index = int((column + 0.5 - left) / advance)
                if 0 <= index < len(text):
                    grid[row * side + column] = text[index]
    return "".join(grid)


def rows(boxes):
    """Boxes in rows from the top, each from the left."""
    out = []
    for box in sorted(boxes, key=lambda box: box[1] + box[3]):
        middle = (box[1] + box[3]) / 2
        if out and out[-1][0][1] < middle < out[-1][0][3]:
            out[-1].append(box)
        else:
            out.append([box])
    return [sorted(row) for row in out]


def part(image, boxes, rng):
    """Some lines of a picture, a little turned, and their boxes; None where no gap between rows was found."""
    lines = rows(boxes)
    for _ in range(20):
        count = min(len(lines), rng.choice([2, 3, 4, 6, 8, 12, 16, 24]))
        first = rng.randrange(len(lines) - count + 1)
        inside = [box for row in lines[first : first + count] for box in row]
        top, bottom = min(box[1] for box in inside), max(box[3] for box in inside)
        # Turned lines have boxes that reach into the next: their inner half counts.
        others = [box for row in lines[:first] + lines[first + count :] for box in row]
        if any(box[1] * 0.75 + box[3] * 0.25 < bottom and box[1] * 0.25 + box[3] * 0.75 > top for box in others):
            continue
        slack = (bottom - top) / count * 0.15
        area = [0, max(0, top - slack), image.width, min(image.height, bottom + slack)]
        if rng.random() < 0.5:
            area[0] = rng.uniform(0, max(0, min(box[0] for box in inside)))
            area[2] = rng.uniform(min(image.width, max(box[2] for box in inside)), image.width)
        area = [round(value) for value in area]
        cut = image.crop(area)
        # Shear stands for turning: lines rise, letters stay upright. Boxes move with it, at most half a line.
        rise = rng.uniform(-0.3, 0.3) * (bottom - top) / count / cut.width if rng.random() < 0.5 else 0
        cut = cut.transform(cut.size, Image.AFFINE, (1, 0, 0, -rise, 1, 0), Image.BICUBIC, fillcolor=255)
        moved = [(x0 - area[0], y0 - area[1], x1 - area[0], y1 - area[1], *more) for x0, y0, x1, y1, *more in inside]
        return cut, [(x0, y0 + rise * x0, x1, y1 + rise * x1, *more) for x0, y0, x1, y1, *more in moved]
    return None


def worn(image, rng):
    """A picture as a scanner or a fax may have left it: blurred, pale or dark."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.5:
        low, high = rng.randint(0, 70), rng.randint(200, 255)
        image = image.point([round(low + level * (high - low) / 255) for level in range(256)])
    return image


def crop(job):
    """A part of a picture: its boxes, or None. The file is written."""
    path, target, boxes, seed = job
    rng = random.Random(seed)
    with Image.open(path) as image:
        found = part(image.convert("L"), boxes, rng)
    if found:
        worn(found[0], rng).save(target, "JPEG", quality=rng.randint(60, 90))
        return found[1]
    return None


def crops(pages, real, out, number, seed):
    """Samples of parts of pages with their boxes; pictures go to the folder of `out`."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    jobs, samples = [], []
    for index, (sample, boxes, _) in enumerate(pages):
        for part in range(number):
            name = f"{index}_{part}.jpg"
            jobs.append((real / "images" / sample["image"], folder / name, boxes, f"{seed}/{name}"))
            samples.append({**sample, "id": f"{sample['id']}_part{part}", "image": f"{folder.name}/{name}"})
    asked = [entries for _, _, entries in pages for _ in range(number)]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for sample, entries, boxes in zip(samples, asked, pool.map(crop, jobs, chunksize=8)):
            if boxes:
                yield read(sample, boxes), boxes, entries


def read(sample, boxes):
    """The sample with the text of the boxes as its answer."""
    text = "\n".join(" ".join(box[4] for box in row) for row in rows(boxes))
    return {**sample, "conversations": [sample["conversations"][0], {"from": "gpt", "value": text}]}


def questions(pages, seed):
    """Samples that ask for entries of forms of which the picture has every word."""
    rng = random.Random(seed)
    for sample, boxes, entries in pages:
        there = {box[5] for box in boxes}
        inside = [(label, value) for numbers, label, value in entries if numbers <= there]
        turns = []
        for label, value in rng.sample(inside, min(len(inside), rng.choice([1, 1, 2, 4]))):
            question = asked_otherwise(sample["image"], f'what is "{label}" information in the image?', rng)
            asked = question if turns else f"<image>\n{question}"
            turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": entry(label, value)}]
        if turns:
            yield {"id": f"{sample['id']}_asked", "image": sample["image"], "conversations": turns}


def labelled(data, real):
    """Of each page with labels: its transcription as a sample, its boxes, the entries of a form that have a value."""
    kinds = [("sroie", sroie, "train/box", "txt"), ("funsd", funsd, "training_data/annotations", "json")]
    values = known(real)
    for name, boxes_of, folder, ending in kinds:
        samples = json.loads((real / f"{name}-read.json").read_text("utf-8"))
        parts = json.loads((real / f"{samples[0]['image'].split('/')[0]}-parts.json").read_text("utf-8"))
        for sample in samples:
            image = Path(sample["image"])
            labels = data / image.parts[0] / folder / f"{image.stem}.{ending}"
            with Image.open(real / "images" / image) as picture:
                boxes = list(stored(boxes_of(labels), parts[str(image)], picture.size))
            yield sample, boxes, list(pairs(labels, values.get(str(image), {}))) if name == "funsd" else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--crops", type=int, default=0, help="parts of each page in place of the page")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pages, below = list(labelled(args.data, args.real)), args.real / "images"
    if args.crops:
        pages, below = list(crops(pages, args.real, args.out, args.crops, args.seed)), args.out.parent
        write(args.out.with_name(f"{args.out.stem}-asked.json"), questions(pages, args.seed))
    places = dict(placed((below / sample["image"] for sample, _, _ in pages), args.grid * 32))
    for sample, boxes, _ in pages:
        sample["cells"] = cells(boxes, places[below / sample["image"]], args.grid)
    samples = [sample for sample, _, _ in pages]
    write(args.out, samples)
    print(f"{args.out}: {len(samples)} pictures, {sum(c != ' ' for s in samples for c in s['cells']) / len(samples):.0f} letters each")


if __name__ == "__main__":
    main()
