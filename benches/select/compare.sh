#!/usr/bin/env bash
# Packed scoring beside the released way, in our engine and on PyTorch, one after the other.
#
#   benches/select/compare.sh MODEL DATA.json IMAGE_FOLDER SAMPLES [PYTHON]
#
# PYTHON needs torch, safetensors, tokenizers, pillow and numpy; without one that has them only our engine
# runs. Compare processor times where the machine is shared.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
python=${5:-python3}
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
here=$(dirname "$0")
cargo run --quiet --release -p llavar-select --example speed -- "$1" "$2" "$3" "$4" "$rows"
if "$python" -c 'import torch, safetensors, tokenizers, PIL' 2>/dev/null; then
    "$python" "$here/released.py" "$1" "$2" "$3" "$4" "$rows"
else
    echo "SKIPPED PyTorch: $python lacks torch, safetensors, tokenizers or pillow"
fi
