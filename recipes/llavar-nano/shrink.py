#!/usr/bin/env python3
"""Copies the pictures of LLaVA JSON files as small WebP files, and the files with them.

    python3 recipes/llavar-nano/shrink.py --images FOLDER --out FOLDER [--quality 42] [--grey] FILE.json ...

Of each picture the part that a model sees (`llavar data fit`) is kept, in as many pixels as it sees of it, or fewer
where the picture has fewer; which part that was stands in OUT/NAME-parts.json. Pictures go below OUT/images under their own names with `.webp`, files go to OUT with the new names in them.
Needs Pillow.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

from PIL import Image


def shrink(job):
    source, target, quality, grey, place = job
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        left, top, width, height = place["source"]
        size = [min(width, place["target"][2]), min(height, place["target"][3])]
        with Image.open(source) as image:
            part = image.convert("L" if grey else "RGB").resize(size, Image.BICUBIC, (left, top, left + width, top + height))
            part.save(target, "WEBP", quality=quality, method=6)
    return target.stat().st_size


def placed(pictures, side=1024):
    """Where each picture lies in the square of `side` px that a model sees."""
    paths = sorted({str(path) for path in pictures})
    for first in range(0, len(paths), 500):
        command = [os.environ.get("LLAVAR", "llavar"), "data", "fit", "--json", "--size", str(side), *paths[first : first + 500]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        for line in done.stdout.splitlines():
            place = json.loads(line)
            yield pathlib.Path(place["image"]), place


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--images", type=pathlib.Path, required=True, help="folder below which the pictures lie")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--quality", type=int, default=42)
    parser.add_argument("--grey", action="store_true", help="drop the colours")
    args = parser.parse_args()
    # The set's own folder keeps pictures of equal names apart.
    below = pathlib.Path("images") / args.images.name.replace(" ", "_")
    jobs = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.files:
        samples = json.loads(path.read_text("utf-8"))
        for sample in samples:
            name = pathlib.PurePosixPath(sample["image"])
            small = below / name.with_suffix(".webp")
            jobs[small] = args.images / name
            sample["image"] = str(small.relative_to("images"))
        rows = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
        (args.out / path.name).write_text(f"[\n{rows}\n]\n", "utf-8")
    places = dict(placed(jobs.values()))
    parts = {str(small.relative_to("images")): places[source]["source"] for small, source in jobs.items()}
    (args.out / f"{below.name}-parts.json").write_text(json.dumps(parts) + "\n", "utf-8")
    jobs = [(source, args.out / small, args.quality, args.grey, places[source]) for small, source in jobs.items()]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        size = sum(pool.map(shrink, jobs, chunksize=8))
    print(f"{args.out / below}: {len(jobs)} pictures, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
