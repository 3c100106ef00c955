#!/usr/bin/env python3
"""Copies the pictures of LLaVA JSON files as small WebP files of their present size, and the files with them.

    python3 recipes/llavar-nano/shrink.py --images FOLDER --out FOLDER [--quality 42] [--grey] FILE.json ...

Pictures go below OUT/images under their own names with `.webp`, files go to OUT with the new names in them.
Needs Pillow.
"""

import argparse
import concurrent.futures
import json
import pathlib

from PIL import Image


def shrink(job):
    source, target, quality, grey = job
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            image.convert("L" if grey else "RGB").save(target, "WEBP", quality=quality, method=6)
    return target.stat().st_size


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
            jobs[small] = (args.images / name, args.out / small, args.quality, args.grey)
            sample["image"] = str(small.relative_to("images"))
        rows = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
        (args.out / path.name).write_text(f"[\n{rows}\n]\n", "utf-8")
    with concurrent.futures.ProcessPoolExecutor() as pool:
        size = sum(pool.map(shrink, jobs.values(), chunksize=8))
    print(f"{args.out / below}: {len(jobs)} pictures, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
