#!/usr/bin/env python3
"""Images a second of one core: files to normalised 768-px pixels, the reference's way and ours.

    python3 -m venv venv && venv/bin/pip install -r benches/pixels/requirements.txt
    venv/bin/python benches/pixels/compare.py FOLDER_OF_RECEIPTS

The reference: Pillow opens and converts, the picture is padded to a square as LLaVA does, transformers'
CLIPImageProcessor resizes, crops, rescales and normalises. Ours: `llavar-image`'s example `throughput` on the
same files. Both run on one thread, in turns; what counts is processor time, so that a machine that is shared
with other work gives the same ratio.
"""
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np  # noqa: E402
import PIL  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import CLIPImageProcessor  # noqa: E402

SIDE = 768
ROUNDS = 3
MOST_FILES = 150


def square(image, colour):
    """As LLaVA's expand2square."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    out = Image.new(image.mode, (side, side), colour)
    out.paste(image, ((side - width) // 2, (side - height) // 2))
    return out


def reference(files, processor):
    colour = tuple(int(x * 255) for x in processor.image_mean)
    for path in files:
        image = square(Image.open(path).convert("RGB"), colour)
        pixels = processor.preprocess(image, return_tensors="np")["pixel_values"][0]
        assert pixels.shape == (3, SIDE, SIDE)
        np.ascontiguousarray(pixels, dtype=np.float32)


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = sorted(Path(sys.argv[1]).rglob("*.jpg"))[:MOST_FILES]
    if not files:
        sys.exit(f"no .jpg below {sys.argv[1]}")
    root = Path(__file__).resolve().parents[2]
    build = ["cargo", "build", "--release", "-q", "-p", "llavar-image", "--example", "throughput"]
    subprocess.run(build, cwd=root, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    ours = [target / "release/examples/throughput", "--once", str(SIDE), *map(str, files)]
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    reference(files[:5], processor)
    subprocess.run(ours, check=True, stdout=subprocess.DEVNULL)
    rates = {"reference": [], "ours": []}
    for _ in range(ROUNDS):
        begun = time.process_time()
        reference(files, processor)
        rates["reference"].append(len(files) / (time.process_time() - begun))
        begun = children()
        subprocess.run(ours, check=True, stdout=subprocess.DEVNULL)
        rates["ours"].append(len(files) / (children() - begun))
    print(f"{len(files)} files, {SIDE} px, images a second of processor time, {ROUNDS} rounds in turns")
    print(f"Pillow {PIL.__version__} + transformers {transformers.__version__} + numpy {np.__version__}")
    median = {name: sorted(values)[ROUNDS // 2] for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:<10} {median[name]:>7.1f} img/s   " + " ".join(f"{v:.1f}" for v in values))
    print(f"ratio      {median['ours'] / median['reference']:>7.2f} x")


if __name__ == "__main__":
    main()
