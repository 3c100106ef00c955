#!/usr/bin/env python3
"""The letters of real pages on a grid: transcriptions of SROIE and FUNSD with the key `cells`.

    real_cells.py DATA REAL OUT.json [--grid 32]

DATA has the sets as published, REAL what real.sh made of them. Where a letter stands is known for no real page, but
lines and words have boxes, in which letters are taken to be of equal width: nearly true on receipts and typed forms. The
grid lies over the pictures as `llavar data fit` places them. Needs Pillow.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from shrink import placed


def sroie(path):
    """Left, top, right, bottom and text of each line."""
    for line in path.read_text("utf-8", "replace").splitlines():
        parts = line.split(",", 8)
        if len(parts) == 9:
            x, y = [int(v) for v in parts[0:8:2]], [int(v) for v in parts[1:8:2]]
            yield min(x), min(y), max(x), max(y), parts[8]


def funsd(path):
    for entry in json.loads(path.read_text("utf-8"))["form"]:
        for word in entry["words"]:
            yield *word["box"], word["text"]


def cells(boxes, part, size, place, side):
    """The letters in the square where `place` puts the stored picture of `size`, which is the `part` of the page that
    the boxes are given on."""
    def mapped(value, axis):
        stored = (value - part[axis]) * size[axis] / part[axis + 2]
        source, target = place["source"], place["target"]
        return ((stored - source[axis]) * target[axis + 2] / source[axis + 2] + target[axis]) / step

    step = place["size"] / side
    grid = [" "] * (side * side)
    for x0, y0, x1, y1, text in boxes:
        left, right, top, bottom = mapped(x0, 0), mapped(x1, 0), mapped(y0, 1), mapped(y1, 1)
        if not text or right <= left:
            continue
        advance = (right - left) / len(text)
        for row in range(max(0, round(top)), min(side, round(bottom))):
            for column in range(max(0, round(left)), min(side, round(right))):
                index = int((column + 0.5 - left) / advance)
                if 0 <= index < len(text):
                    grid[row * side + column] = text[index]
    return "".join(grid)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--grid", type=int, default=32)
    args = parser.parse_args()
    kinds = [("sroie", sroie, "train/box", "txt"), ("funsd", funsd, "training_data/annotations", "json")]
    samples = []
    for name, read, folder, ending in kinds:
        read_all = json.loads((args.real / f"{name}-read.json").read_text("utf-8"))
        places = dict(placed(args.real / "images" / sample["image"] for sample in read_all))
        folder_name = read_all[0]["image"].split("/")[0]
        parts = json.loads((args.real / f"{folder_name}-parts.json").read_text("utf-8"))
        for sample in read_all:
            image = Path(sample["image"])
            labels = args.data / image.parts[0] / folder / f"{image.stem}.{ending}"
            path = args.real / "images" / image
            with Image.open(path) as picture:
                size = picture.size
            sample["cells"] = cells(list(read(labels)), parts[str(image)], size, places[path], args.grid)
            samples.append(sample)
    aside = args.out.with_suffix(".part")
    aside.write_text("[\n" + ",\n".join(json.dumps(s, ensure_ascii=False) for s in samples) + "\n]\n", "utf-8")
    aside.rename(args.out)
    print(f"{args.out}: {len(samples)} pages, {sum(c != ' ' for s in samples for c in s['cells']) / len(samples):.0f} letters a page")


if __name__ == "__main__":
    main()
