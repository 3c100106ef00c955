#!/usr/bin/env bash
# Trains llavar-nano from nothing on the GPUs of one machine.
#
#   recipes/llavar-nano/train.sh DATA OUT
#
# DATA holds fonts/ and corpus.txt (fetch.py) and real/ (real.sh). Every phase is a run of its own that goes on
# where it was stopped when the script is started again. RANKS (default 2) is the number of GPUs, LLAVAR the
# program, WORKERS the threads that decode pictures for each rank. The steps of the phases are those of the weights
# in models/llavar-nano; PAGES scales the synthetic sets (1 = 24,000 + 130,000 + 220,000 pictures).
set -euo pipefail
[ $# = 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$(realpath "$1") out=$2
llavar=${LLAVAR:-llavar} ranks=${RANKS:-2} workers=${WORKERS:-12} pages=${PAGES:-1}
command -v "$llavar" >/dev/null && llavar=$(command -v "$llavar") || llavar=$(realpath "$llavar")
mkdir -p "$out"; cd "$out"

count() { awk "BEGIN { printf \"%d\", $1 * $pages + 0.5 }"; }
# name, pictures, seed, settings
pages_of() {
  local name=$1 number seed=$3; number=$(count "$2"); shift 3
  [ -e "$name/card.json" ] || "$llavar" data synth --profile reading --out "$name" -n "$number" --seed "$seed" \
    --split train --fonts "$data/fonts" --set corpus="$data/corpus.txt" --set self_explain=0.3 --jpeg 85 "$@"
  [ -e "$name/prefix.json" ] || "$llavar" data prefix "$name/data.json" --ocr "sidecar:$name/words.jsonl" \
    --errors 0.006 --max-chars 2600 --out "$name/prefix.json"
}
# name, settings: trains on all ranks
phase() {
  local name=$1 rank pids=() args; shift
  [ -e "$name/model/model.safetensors" ] && return
  args=(train --recipe nano-sft --set model_max_length=2048 --set group_by_modality_length=false
    --set image_cache_bytes=0 --set dataloader_num_workers="$workers" --set save_total_limit=1 --set save_steps=1000
    --set adam_beta2=0.98 --set warmup_ratio=0 --set on_bad_sample=skip "$@" --out "$name" --resume auto)
  if [ "$ranks" = 1 ]; then "$llavar" "${args[@]}"; return; fi
  for ((rank = 0; rank < ranks; rank++)); do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$ranks LOCAL_WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 \
      "$llavar" "${args[@]}" --set zero_stage=1 &
    pids+=($!)
  done
  for rank in "${pids[@]}"; do wait "$rank"; done
}
# pages, weights of transcriptions, questions, questions with OCR text, real questions, the same with OCR text
mixture() {
  mix=(--set "data_path=[\"$1/transcriptions.json\",\"$1/data.json\",\"$1/prefix.json\",\"$data/real/plain.json\",\"$data/real/prefix.json\"]"
    --set "image_folder=[\"$1\",\"$1\",\"$1\",\"$data/real/images\",\"$data/real/images\"]" --set "weights=[$2]"
    --set per_device_train_batch_size=$((64 / ranks)))
}

pages_of words 24000 1 --set 'kinds=["word","word","text","text","sign","book_cover"]' --set 'font_px=[30.0,140.0]'
pages_of pages1 130000 2
pages_of pages2 220000 3
# The parts of the real sets as one list without and one with OCR text; transcriptions three times.
[ -e "$data/real/prefix.json" ] || python3 - "$data/real" <<'P'
import json, pathlib, sys
root = pathlib.Path(sys.argv[1])
load = lambda *names: [x for name in names for x in json.loads((root / f"{name}.json").read_text())]
plain = load("sroie-ask", "funsd-ask", "chartqa-ask") + 3 * load("sroie-read", "funsd-read")
prefix = load("sroie-ask-ocr", "funsd-ask-ocr", "sroie-talk", "funsd-talk", "sroie-duos", "funsd-duos")
(root / "plain.json").write_text(json.dumps(plain))
(root / "prefix.json").write_text(json.dumps(prefix))
P
[ -e untrained ] || "$llavar" init --preset nano-768 --vocab-size 4096 --out untrained --text words/transcriptions.json \
  --text words/prefix.json --text "$data/real/sroie-talk.json" --text "$data/real/funsd-talk.json"

# Stage 1, reading: single words and large lines, then pages; every weight learns, for none is trained yet.
phase read1 --set model_name_or_path=untrained --set data_path=words/transcriptions.json --set image_folder=words \
  --set per_device_train_batch_size=$((24 / ranks)) --set max_steps=2600 --set learning_rate=1e-3 \
  --set warmup_steps=200 --set lr_scheduler_type=constant_with_warmup
mixture pages1 1.0,1.0,0.6,2.0,2.0
phase read2 --set model_name_or_path=read1/model "${mix[@]}" --set max_steps=4940 --set learning_rate=8e-4 \
  --set warmup_steps=150 --set lr_scheduler_type=constant_with_warmup
# Stage 2, answering: more of the real pages, the rate falling to nothing.
mixture pages2 0.8,0.8,0.7,4.0,4.0
phase answer1 --set model_name_or_path=read2/model "${mix[@]}" --set max_steps=5472 --set learning_rate=8e-4 \
  --set warmup_steps=100 --set lr_scheduler_type=cosine
mixture pages2 0.15,0.15,0.15,3.0,3.0
phase answer2 --set model_name_or_path=answer1/model "${mix[@]}" --set max_steps=1316 --set learning_rate=3e-4 \
  --set warmup_steps=50 --set lr_scheduler_type=cosine
mixture pages2 0.5,0.5,0.6,4.0,4.0
phase answer3 --set model_name_or_path=answer2/model "${mix[@]}" --set max_steps=2100 --set learning_rate=5e-4 \
  --set warmup_steps=50 --set lr_scheduler_type=cosine
echo "the model is $out/answer3/model; llavar model quantize makes it the folder that is shipped"
