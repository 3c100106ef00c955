#!/usr/bin/env python3
"""The mean of the weights of two checkpoints of one run of phases, often better than either.

    average.py A B OUT

A and B are model folders of the same shape; OUT has the files of A with the mean of both weights, in f32. B may have
matrices in 8 bits (`llavar model quantize`), A may not, since its config is taken over. Needs NumPy.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np


def read(path):
    """Names, shapes and values of a safetensors file of f32, bf16 or 8 bits with a scale a row."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])

    def values(name):
        said = header[name]
        first, last = said["data_offsets"]
        body = raw[8 + size + first : 8 + size + last]
        if said["dtype"] == "BF16":
            return (np.frombuffer(body, np.uint16).astype(np.uint32) << 16).view(np.float32)
        if said["dtype"] == "F32":
            return np.frombuffer(body, np.float32)
        if said["dtype"] == "I8" and f"{name}_scale" in header:
            rows = np.frombuffer(body, np.int8).reshape(said["shape"][0], -1)
            return (rows * values(f"{name}_scale").reshape(-1, 1)).astype(np.float32).ravel()
        sys.exit(f"{path}: {name} is {said['dtype']}, expected F32, BF16 or I8 with a scale")

    for name in header:
        scale = name.endswith("_scale") and header.get(name.removesuffix("_scale"), {}).get("dtype") == "I8"
        if name != "__metadata__" and not scale:
            yield name, header[name]["shape"], values(name)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    a, b, out = map(Path, sys.argv[1:])
    second = {name: (shape, values) for name, shape, values in read(b / "model.safetensors")}
    header, body = {"__metadata__": {"format": "pt"}}, []
    offset = 0
    for name, shape, values in read(a / "model.safetensors"):
        other_shape, other = second.pop(name)
        if shape != other_shape:
            sys.exit(f"{name}: {shape} in {a}, {other_shape} in {b}")
        mean = ((values + other) / 2).astype(np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(mean)]}
        offset += len(mean)
        body.append(mean)
    if second:
        sys.exit(f"only in {b}: {', '.join(second)}")
    aside = out.with_name(out.name + ".part")
    shutil.copytree(a, aside)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (aside / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))
    aside.rename(out)


if __name__ == "__main__":
    main()
