#!/usr/bin/env bash
# Every check of this repository, cheapest first. CI runs exactly this.
# Needs Rust, gcc and the crate registry; about 20 minutes on two cores from nothing.
set -euo pipefail
cd "$(dirname "$0")"
step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --release --workspace --all-targets -- -D warnings

if ! command -v mpirun >/dev/null; then
  step "OpenMPI, for the tests on several ranks"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends openmpi-bin; } >/dev/null 2>&1 ||
      echo "SKIPPED tests on several ranks: openmpi-bin cannot be installed"
  else
    echo "SKIPPED tests on several ranks: install OpenMPI (Debian: openmpi-bin)"
  fi
fi

if [ -z "${LLAVAR_PYTHON:-}" ] && ! python3 -c "import tensorboard" 2>/dev/null; then
  step "TensorBoard, for the test that reads event files with it"
  if python3 -m venv target/tensorboard && target/tensorboard/bin/pip install -q tensorboard; then
    export LLAVAR_PYTHON="$PWD/target/tensorboard/bin/python"
  else
    echo "SKIPPED reading event files with TensorBoard: it cannot be installed"
  fi
fi 2>/dev/null

if [ -z "${LLAVAR_METEOR:-}" ]; then
  step "pycocoevalcap's METEOR, whose word lists the published values need"
  if python3 -m venv target/meteor && target/meteor/bin/pip install -q --no-deps pycocoevalcap; then
    LLAVAR_METEOR=$(ls -d "$PWD"/target/meteor/lib/python3*/site-packages/pycocoevalcap/meteor | head -1)
    export LLAVAR_METEOR
  else
    echo "SKIPPED METEOR with all its matches: pycocoevalcap cannot be installed"
  fi
fi 2>/dev/null

if [ -z "${LLAVAR_TORCH_PYTHON:-}" ] && ! python3 -c "import torch, safetensors, numpy, PIL" 2>/dev/null; then
  step "PyTorch, for the tests that compute the same logits with it"
  # Debian's is for the CPU alone and a twentieth of the size of the registry's.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
    { apt-get update -qq &&
      apt-get install -y -qq --no-install-recommends python3-torch python3-pil python3-numpy python3-venv; } >/dev/null 2>&1 &&
    /usr/bin/python3 -m venv --system-site-packages target/torch && target/torch/bin/pip install -q safetensors; then
    export LLAVAR_TORCH_PYTHON="$PWD/target/torch/bin/python"
  else
    echo "SKIPPED logits beside PyTorch: install torch, safetensors, numpy and Pillow, or name a Python that has them in LLAVAR_TORCH_PYTHON"
  fi
fi

step "tests (those on reference data skip by name where LLAVAR_SHARED, default ../shared, is absent)"
cargo test --release --workspace

step "object stores, which are behind a feature"
cargo test --release -p llavar-data --features object-store --test object_store

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

step "end to end: quickstart on the CPU, from no file at all to a model that reads"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo run --release --bin llavar -- quickstart --train --out "$out/quickstart" --json >"$out/result.json"
cat "$out/result.json"
python3 - "$out/result.json" <<'PY'
import json, sys
result = json.load(open(sys.argv[1]))
assert result["accuracy_before"] < 0.05, result
assert result["accuracy_after"] >= 0.40, result
PY

if [ -f models/llavar-nano/config.json ]; then
  step "the shipped model answers about pages that are drawn just now, and is small enough for a laptop"
  cargo run --release --bin llavar -- quickstart --out "$out/asked" --json >"$out/asked.json"
  picture=$(ls "$out"/asked/asked/images/* | head -1)
  program=${CARGO_TARGET_DIR:-target}/release/llavar
  "$program" ask "$picture" "what is written here?" --ocr none --device cpu --json >"$out/ask.json"
  size=$(($(cat "$program" models/llavar-nano/* | wc -c)))
  python3 - "$out/asked.json" "$out/ask.json" "$size" <<'PY'
import json, sys
asked, ask, size = json.load(open(sys.argv[1])), json.load(open(sys.argv[2])), int(sys.argv[3])
shown = {key: ask[key] for key in ("load_seconds", "first_token_seconds", "tokens_per_second", "peak_memory_bytes")}
print(f"{asked['accuracy']:.1%} of {asked['questions']} right; {shown}; program and model {size / 1e6:.1f} MB")
assert asked["accuracy"] >= 0.75, asked
assert ask["peak_memory_bytes"] < 500e6, ask
assert size < 80e6, size
PY
fi

printf '\nall checks passed\n'
