#!/usr/bin/env python3
"""Words as they are cut out of photographs: the pictures of a set of single words in few pixels, some off their colours.

    small_words.py SET [--seed N]

SET is a folder of `llavar data synth` with the kind `word`. Its pictures are changed where they lie; SET/small.json
has the words of SET/transcriptions.json, most asked for as IIIT5K's are, without cells, whose grid is another for
smaller pictures. Needs Pillow.
"""

import argparse
import concurrent.futures
import json
import random
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from copy_pages import write

ASKED = "<image>\nwhat is written in the image?"


def change(job):
    path, seed = job
    rng = random.Random(seed)
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    # Words fill most of what is cut out.
    left, top = (rng.uniform(0, 0.06) * side for side in picture.size)
    right, bottom = (side * rng.uniform(0.94, 1) for side in picture.size)
    picture = picture.crop(tuple(map(round, (left, top, right, bottom))))
    height = rng.choice([18, 24, 30, 36, 48, 64, 96])
    if height < picture.height:
        width = max(8, round(picture.width * height / picture.height * rng.uniform(0.8, 1.25)))
        picture = picture.resize((width, height), rng.choice([Image.BILINEAR, Image.BICUBIC, Image.BOX]))
    if rng.random() < 0.3:
        picture = ImageOps.invert(picture)
    if rng.random() < 0.5:
        bands = list(picture.split())
        rng.shuffle(bands)
        picture = Image.merge("RGB", bands)
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.35, 1.3))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.6, 1.3))
    picture.save(path, "JPEG", quality=rng.randint(40, 92))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    samples = json.loads((args.set / "transcriptions.json").read_text("utf-8"))
    for sample in samples:
        sample.pop("cells", None)
        if rng.random() < 0.7:
            sample["conversations"][0]["value"] = ASKED
    with concurrent.futures.ProcessPoolExecutor() as pool:
        list(pool.map(change, [(args.set / s["image"], f"{args.seed}/{s['image']}") for s in samples], chunksize=32))
    write(args.set / "small.json", samples)


if __name__ == "__main__":
    main()
