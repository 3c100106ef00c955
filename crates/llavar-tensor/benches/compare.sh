#!/bin/sh
# Ratios of our times to PyTorch's on this machine, same threads, one after the other, as Markdown.
#   benches/compare.sh [threads] [filter]
# PyTorch goes into a throw-away environment; TORCH_PYTHON names a python that has it already.
set -eu
cd "$(dirname "$0")/.."
threads=${1:-$(nproc)}
filter=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=${TORCH_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet torch
    python=$work/venv/bin/python
fi
cargo bench --quiet --bench ops --no-run
RAYON_NUM_THREADS=$threads cargo bench --quiet --bench ops -- $filter >"$work/ours"
OMP_NUM_THREADS=$threads "$python" benches/torch_ops.py "$threads" $filter >"$work/torch"

"$python" - "$work/ours" "$work/torch" "$threads" <<'PYTHON'
import json, sys
ours, torch = ({r["name"]: r for r in map(json.loads, open(p))} for p in sys.argv[1:3])
print(f"{sys.argv[3]} threads; median (minimum) in ms; below 1 we are faster\n")
print("| case | ours | PyTorch | ratio of medians | of minima |\n|---|---|---|---|---|")
for name, a in ours.items():
    b = torch[name]
    print(f"| {name} | {a['median_ms']:.2f} ({a['min_ms']:.2f}) | {b['median_ms']:.2f} ({b['min_ms']:.2f}) "
          f"| {a['median_ms'] / b['median_ms']:.2f} | {a['min_ms'] / b['min_ms']:.2f} |")
PYTHON
