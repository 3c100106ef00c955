#!/usr/bin/env bash
# What a part of llavar-nano is worth: the same training without it, for as long on the same card.
#
#   recipes/llavar-nano/ablate.sh DATA BASE OUT [ROW ...]
#
# DATA is the DATA of train.sh, besides that ocr/ with the text of the test pictures (llavar ocr run; sroie_test,
# funsd_test). BASE is the model after train.sh's phase `pages`: it reads at 768 px, has looked things up in texts, and
# was never asked about a picture. Rows, all by default, or the names of groups:
#
#   towers    both fast slow both-without-cells: a new tower and projector on BASE's language model, READ seconds of
#             reading and ASK seconds of questions each; seed 1, or that of a name such as slow-2
#   explain   explain-with-1 explain-without-1 .. -3: BASE, STEPS steps on the same pages and questions, with and
#             without self-explain turns, seeds 1 to 3
#   select    select-picked-1 select-random-1 .. -3: FROM (explain-with-1), FEW steps on the real training duos that
#             `llavar select` keeps (at most half), or on as many of chance
#
# A finished row is OUT/rows/ROW.json with its answers beside it, and is not made again. `ablation.py table OUT/rows`
# prints the tables. LLAVAR names the program, DEVICE is cuda or cpu, WORKERS decode pictures, PAGES scales the
# synthetic sets, BATCH is the samples of a step, LIMIT asks only the first questions of the real test parts.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,24s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") base=$(realpath "$2") out=$3
shift 3
llavar=${LLAVAR:-llavar} device=${DEVICE:-cuda} workers=${WORKERS:-12} pages=${PAGES:-1} batch=${BATCH:-32}
read_s=${READ:-60} ask_s=${ASK:-40} steps=${STEPS:-400} few=${FEW:-150}
llavar=$(realpath "$(command -v "$llavar" || echo "$llavar")")
[ -x "$llavar" ] || { echo "there is no program $llavar (LLAVAR names it)" >&2; exit 1; }
mkdir -p "$out/rows" "$out/logs"; cd "$out"
begin=$(date +%s)
say() { echo "[$(($(date +%s) - begin)) s] $*"; }
rows=()
for row in "${@:-all}"; do
  case $row in
  all | towers | explain | select)
    case $row in all | towers) rows+=(both slow fast both-without-cells) ;; esac
    for seed in 1 2 3; do
      case $row in all | explain) rows+=("explain-with-$seed" "explain-without-$seed") ;; esac
    done
    for seed in 1 2 3; do
      case $row in all | select) rows+=("select-picked-$seed" "select-random-$seed") ;; esac
    done ;;
  *) rows+=("$row") ;;
  esac
done

# --- sets: drawn once, in the background

# name, pictures, seed, settings
pages_of() {
  local name=$1 number seed=$3; number=$(awk "BEGIN { n = int($2 * $pages + 0.5); print n < 8 ? 8 : n }"); shift 3
  [ -e "$name/card.json" ] || nice -n 10 "$llavar" data synth --profile reading --out "$name" -n "$number" --seed "$seed" \
    --fonts "$data/fonts" --set corpus="$data/corpus.txt" --set grid=24 --jpeg 85 --force "$@" >"logs/$name.log" 2>&1
  touch "logs/$name.made"
}
wait_for() {
  local name
  for name in "$@"; do
    until [ -e "logs/$name.made" ]; do
      kill -0 "$drawing" 2>/dev/null || [ -e "logs/$name.made" ] || {
        tail -5 "logs/$name.log" >&2 || true
        echo "the set $name could not be made" >&2
        exit 1
      }
      sleep 0.2
    done
  done
}
needs() { local row; for row in "${rows[@]}"; do case $row in $1) [ -e "rows/$row.json" ] || return 0 ;; esac; done; return 1; }
words=(--set 'kinds=["word"]' --set 'width=[128,384]' --set 'height=[96,240]')
size=(--set 'width=[480,768]' --set 'height=[480,768]')
lines='kinds=["text","text","text","sign","book_cover"]'
# What has questions: each with its answer on the page.
asked='kinds=["text","entries","slip","form","receipt","table","screenshot","sign"]'
draw() {
  if needs 'both*' || needs 'fast*' || needs 'slow*'; then
    pages_of words 12000 101 --split train "${words[@]}"
    pages_of strings 8000 102 --split train "${words[@]}" --set 'letters=[1,7]'
    pages_of big_lines 16000 103 --split train --set "$lines" "${size[@]}" --set 'font_px=[44.0,140.0]'
    held_out
    pages_of lines 16000 104 --split train --set "$asked" "${size[@]}" --set 'font_px=[20.0,90.0]' \
      --set self_explain=0.3
  else
    held_out
  fi
  needs 'explain*' || needs 'select*' || return 0
  # The same pages, questions and answers twice, each also behind the text of the page.
  local name share=1
  for name in explained unexplained; do
    pages_of "$name" 12000 105 --split train --set "$asked" "${size[@]}" --set 'font_px=[16.0,90.0]' \
      --set self_explain="$share"
    share=0
    [ -e "$name/prefix.json" ] || "$llavar" data prefix "$name/data.json" --ocr "sidecar:$name/words.jsonl" \
      --errors 0.015 --max-chars 2600 --out "$name/prefix.json" >"logs/$name-prefix.log" 2>&1
    touch "logs/$name-prefix.made"
  done
}
# Pages of another seed, of documents that no training set has.
held_out() {
  needs '[!s]*' || needs 'slow*' || return 0
  pages_of test_words 100 905 --split held_out "${words[@]}"
  pages_of test_large 60 906 --split held_out --set "$lines" "${size[@]}" --set 'font_px=[44.0,140.0]'
  pages_of test_middle 60 907 --split held_out --set 'kinds=["text"]' "${size[@]}" --set 'font_px=[20.0,44.0]'
  pages_of test_small 60 908 --split held_out --set 'kinds=["text"]' --set 'width=[768,768]' --set 'height=[768,768]' \
    --set 'font_px=[11.0,20.0]'
  pages_of test_asked 160 909 --split held_out --set "$asked" "${size[@]}" --set 'font_px=[20.0,90.0]'
  python3 "$here/ablation.py" pages held_out --read test_words test_large test_middle test_small --ask test_asked
  touch logs/held_out.made
}
draw & drawing=$!
trap 'kill "$drawing" 2>/dev/null || true' EXIT

# --- training and its measure

common=(--recipe nano-sft --set model_max_length=2048 --set group_by_modality_length=false --set image_cache_bytes=0
  --set save_total_limit=1 --set save_steps=1000000 --set adam_beta2=0.98 --set warmup_ratio=0 --set on_bad_sample=skip
  --set max_bad_samples=100000 --set dataloader_num_workers="$workers" --set per_device_train_batch_size="$batch"
  --device "$device")
# FILE FOLDER WEIGHT ...: the mixture as settings
mixture() {
  local files=() folders=() weights=()
  while [ $# -gt 0 ]; do files+=("\"$1\""); folders+=("\"$2\""); weights+=("$3"); shift 3; done
  local IFS=,
  mix=(--set "data_path=[${files[*]}]" --set "image_folder=[${folders[*]}]" --set "weights=[${weights[*]}]")
}
read_of() { echo "$1/transcriptions.json" "$1" "$2"; }
newest() { [ -e "$1/model/config.json" ] && echo "$1/model" || ls -d "$1"/checkpoints/step-*/model | tail -1; }
# name, model, seconds, learning rate, settings: trains for so long, counted from the first step
timed() {
  local name=$1 model=$2 seconds=$3 rate=$4 pid end; shift 4
  rm -rf "$name"
  "$llavar" train "${common[@]}" --set model_name_or_path="$model" --set learning_rate="$rate" --set warmup_steps=30 \
    --set lr_scheduler_type=constant_with_warmup --set max_steps=1000000 "$@" --out "$name" >"logs/$name.log" 2>&1 &
  pid=$!
  until [ -s "$name/train.jsonl" ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
  end=$(($(date +%s%3N) + seconds * 1000))
  while kill -0 "$pid" 2>/dev/null && [ "$(date +%s%3N)" -lt "$end" ]; do sleep 0.1; done
  # Ctrl-C saves a checkpoint and is no success to the shell; a run that failed by itself has none.
  kill -INT "$pid" 2>/dev/null || true
  wait "$pid" || true
  [ -n "$(newest "$name")" ] || { tail -5 "logs/$name.log" >&2; exit 1; }
}
# name, model, steps, learning rate, seed, settings
stepped() {
  local name=$1 model=$2 number=$3 rate=$4 seed=$5; shift 5
  rm -rf "$name"
  "$llavar" train "${common[@]}" --set model_name_or_path="$model" --set learning_rate="$rate" \
    --set warmup_steps=$((number / 10)) --set lr_scheduler_type=cosine --set max_steps="$number" --set train.seed="$seed" \
    "$@" --out "$name" >"logs/$name.log" 2>&1 || { tail -5 "logs/$name.log" >&2; exit 1; }
}
# row, model: what it answers about the held-out pages
measure() {
  local row=$1 model=$2
  rm -rf "eval-$row"
  "$llavar" eval run --task words --data held_out --model "$model" --out "eval-$row" --max-new-tokens 160 \
    --device "$device" >"logs/eval-$row.log" 2>&1 || { tail -5 "logs/eval-$row.log" >&2; exit 1; }
}
# row, model: what it answers about the real test parts with their text
measure_real() {
  local row=$1 model=$2 task set text
  rm -rf "eval-$row"
  for task in sroie_test:SROIE2019:sroie_test funsd:FUNSD:funsd_test; do
    IFS=: read -r task set text <<<"$task"
    "$llavar" eval run --task "$task" --data "$data/sets/$set" --model "$model" --out "eval-$row" --ocr on \
      --ocr-engine "sidecar:$data/ocr/$text" --device "$device" ${LIMIT:+--limit "$LIMIT"} \
      >"logs/eval-$row-$task.log" 2>&1 || { tail -5 "logs/eval-$row-$task.log" >&2; exit 1; }
  done
}
# row, its runs: the row is done
done_with() {
  local row=$1; shift
  python3 "$here/ablation.py" row "$row" rows --batch "$batch" --eval "eval-$row" --runs "$@"
  say "$row done"
}

tower() {
  local row=$1 pathways=${1%%-*} seed=${1##*-} set=(); local start
  [[ $seed = [0-9]* ]] || seed=1
  start=start-$pathways-$seed
  set=(--set train.seed="$seed")
  [[ $row = *without-cells* ]] && set+=(--set data.cells=false)
  if [ ! -e "$start" ]; then
    rm -rf "$start.part"
    "$llavar" init --preset nano-768 --pathways "$pathways" --tokenizer "$base/tokenizer.json" --seed "$seed" \
      --out "$start.part" >/dev/null
    python3 "$here/ablation.py" graft "$base" "$start.part"
    mv "$start.part" "$start"
  fi
  # All of them, so that no row shares the processor with the drawing.
  wait_for words strings big_lines lines held_out
  mixture $(read_of words 0.7) $(read_of strings 0.7) $(read_of big_lines 1)
  timed "$row-read" "$start" "$read_s" 1e-3 "${mix[@]}" "${set[@]}"
  mixture lines/data.json lines 1 $(read_of lines 0.7) $(read_of big_lines 0.2) $(read_of words 0.2)
  timed "$row" "$(newest "$row-read")" "$ask_s" 5e-4 "${mix[@]}" "${set[@]}"
  measure "$row" "$(newest "$row")"
  done_with "$row" "$row-read" "$row"
}
explain() {
  local row=$1 seed=${1##*-} set=explained
  case $row in explain-without-*) set=unexplained ;; esac
  wait_for explained-prefix unexplained-prefix held_out
  mixture "$set/data.json" "$set" 1 "$set/prefix.json" "$set" 0.3 $(read_of explained 0.3)
  stepped "$row" "$base" "$steps" 6e-4 "$seed" "${mix[@]}"
  measure "$row" "$row/model"
  done_with "$row" "$row"
}
# The duos of real training pages, their scores by FROM, and the part that is kept.
duos() {
  [ -e picked.json ] && return
  from=${FROM:-explain-with-1}
  [ -e "$from/model/config.json" ] && from=$from/model
  [ -e "$from/config.json" ] || { echo "select needs the row explain-with-1, or a model in FROM" >&2; exit 1; }
  python3 "$here/ablation.py" join duos.json "$data"/real/{sroie,funsd}-duos.json
  "$llavar" select score duos.json --model "$from" --image-folder "$data/real/images" --out scores.parquet \
    --device "$device" >logs/score.log 2>&1 || { tail -5 logs/score.log >&2; exit 1; }
  "$llavar" select pick scores.parquet --data duos.json --fraction 0.5 --out picked.json >logs/pick.log
  say "$(head -1 logs/pick.log)"
}
select_row() {
  local row=$1 seed=${1##*-} set=picked.json kept
  duos
  if [[ $row = select-random-* ]]; then
    set=random-$seed.json
    kept=$(sed -n '1s/.*: \([0-9]*\) of .*/\1/p' logs/pick.log)
    "$llavar" select pick scores.parquet --data duos.json --max-ifd none --max-vfd none --max-ffd none --rank-by random \
      --seed "$seed" --number "$kept" --out "$set" >"logs/pick-$row.log"
  fi
  from=${FROM:-explain-with-1}
  [ -e "$from/model/config.json" ] && from=$from/model
  mixture "$set" "$data/real/images" 1
  stepped "$row" "$from" "$few" 4e-4 "$seed" "${mix[@]}"
  measure_real "$row" "$row/model"
  done_with "$row" "$row"
}

for row in "${rows[@]}"; do
  [ -e "rows/$row.json" ] && continue
  case $row in
  both* | fast* | slow*) tower "$row" ;;
  explain-with-[0-9]* | explain-without-[0-9]*) explain "$row" ;;
  select-picked-[0-9]* | select-random-[0-9]*) select_row "$row" ;;
  *) echo "no row is called $row" >&2; exit 2 ;;
  esac
done
wait "$drawing"
python3 "$here/ablation.py" table rows
