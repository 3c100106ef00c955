#!/usr/bin/env bash
# Scores of a model on the test parts of SROIE, FUNSD, ChartQA, IIIT5K words and OCRBench, containment, greedy, without
# and with the OCR prefix, beside the published LLaVAR-2 rows. The same command goes on where it was stopped.
#
#   benches/nano_eval.sh MODEL DATA OUT [OCR]
#
# DATA holds the sets in their official layouts; OCR holds folders of `llavar ocr run --out` (sroie_test, funsd_test,
# chart_test, iiit, ocrbench), which are made where they are missing. LLAVAR names the program, LIMIT asks only the
# first questions of every set. Writes OUT/report.md, report.html, report.json and per-question files.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
model=$1 data=$2 out=$3 ocr=${4:-$3/ocr}
llavar=${LLAVAR:-target/release/llavar}

# Pictures read once by the default engine; a folder that is there is taken as it is.
read_pictures() {
  local name=$1 pictures=$2
  if [ ! -d "$ocr/$name" ]; then
    "$llavar" ocr run "$pictures" --out "$ocr/$name.part" >/dev/null
    mv "$ocr/$name.part" "$ocr/$name"
  fi
}

# task, folder of the set, its pictures, folder of their text
run() {
  local task=$1 set=$2 pictures=$3 name=$4
  if [ ! -d "$data/$set" ]; then
    echo "SKIPPED $task: $data/$set is not there" >&2
    return
  fi
  read_pictures "$name" "$data/$set/$pictures"
  "$llavar" eval run --task "$task" --data "$data/$set" --model "$model" --out "$out" \
    --ocr both --ocr-engine "sidecar:$ocr/$name" ${LIMIT:+--limit "$LIMIT"} >/dev/null
}

mkdir -p "$ocr" "$out"
run sroie_test SROIE2019 test/img sroie_test
run funsd FUNSD testing_data/images funsd_test
run words IIIT5K test iiit
run chartqa "ChartQA Dataset" test/png chart_test
run ocrbench OCRBench OCRBench_Images ocrbench
"$llavar" eval report "$out" --out "$out/report.md" --out "$out/report.html" --out "$out/report.json" >/dev/null
cat "$out/report.md"
