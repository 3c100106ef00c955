#!/usr/bin/env bash
# Trains llavar-nano from nothing on the GPUs of one machine.
#
#   recipes/llavar-nano/train.sh DATA OUT
#
# DATA holds fonts/, display/ and corpus.txt (fetch.py), real/ (real.sh) and the published sets below sets/ (SROIE2019, FUNSD).
# Every phase is a run of its own that goes on where it was stopped when the script is started again. RANKS (default
# 1) is the number of GPUs, LLAVAR the program, WORKERS the threads that decode pictures for each rank. The steps of
# the phases are those of the weights in models/llavar-nano; PAGES scales the synthetic sets, STEPS the phases and BATCH
# the samples of a step; LARGER=1 goes on at 1,280 and 1,536 px, which are not shipped. PAGES=0.0005 STEPS=0.0003 BATCH=0.1 goes through everything on a CPU, to see that it runs.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
python3 -c 'import numpy, PIL' || { echo "the scripts need numpy and Pillow: pip install numpy Pillow" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") out=$2
llavar=${LLAVAR:-llavar} ranks=${RANKS:-1} workers=${WORKERS:-12}
pages=${PAGES:-1} part_of_steps=${STEPS:-1} part_of_batch=${BATCH:-1}
llavar=$(realpath "$(command -v "$llavar" || echo "$llavar")")
export LLAVAR=$llavar
mkdir -p "$out"; cd "$out"
real=$data/real

# number, its part, the least
scaled() { awk "BEGIN { n = int($1 * $2 + 0.5); print n < $3 ? $3 : n }"; }
count() { scaled "$1" "$pages" 16; }
# name, pictures, seed, corpus, cells on a side, settings
pages_of() {
  local name=$1 number seed=$3 corpus=$4 grid=$5; number=$(count "$2"); shift 5
  [ -e "$name/card.json" ] || "$llavar" data synth --profile reading --out "$name" -n "$number" --seed "$seed" \
    --split train --fonts "$data/fonts" --set corpus="$corpus" --set self_explain=0.3 --set grid="$grid" --jpeg 85 "$@"
}
# name: the questions of a set behind the text of their pages, as an engine would have read it
with_text() {
  [ -e "$1/prefix.json" ] || "$llavar" data prefix "$1/data.json" --ocr "sidecar:$1/words.jsonl" \
    --errors 0.015 --max-chars 2600 --out "$1/prefix.json"
}
# name, model, steps, learning rate, schedule, samples a step, settings: trains on all ranks
phase() {
  local name=$1 model=$2 steps=$3 rate=$4 schedule=$5 batch=$6 rank pids=() args; shift 6
  [ -e "$name/model/model.safetensors" ] && return
  steps=$(scaled "$steps" "$part_of_steps" 1) batch=$(scaled "$batch" "$part_of_batch" "$ranks")
  args=(train --recipe nano-sft --set model_name_or_path="$model" --set max_steps="$steps" --set learning_rate="$rate"
    --set lr_scheduler_type="$schedule" --set per_device_train_batch_size=$((batch / ranks)) --set warmup_steps=30
    --set model_max_length="$length" --set image_aspect_ratio="$aspect" --set group_by_modality_length=false --set image_cache_bytes=0
    --set dataloader_num_workers="$workers" --set save_total_limit=1 --set save_steps=1000 --set adam_beta2=0.98
    --set warmup_ratio=0 --set on_bad_sample=skip "$@" --out "$name" --resume auto)
  if [ "$ranks" = 1 ]; then "$llavar" "${args[@]}"; return; fi
  for ((rank = 0; rank < ranks; rank++)); do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$ranks LOCAL_WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 \
      "$llavar" "${args[@]}" --set zero_stage=1 &
    pids+=($!)
  done
  for rank in "${pids[@]}"; do wait "$rank"; done
}
# FILE FOLDER WEIGHT ...: the mixture as settings
mixture() {
  local files=() folders=() weights=()
  while [ $# -gt 0 ]; do files+=("\"$1\""); folders+=("\"$2\""); weights+=("$3"); shift 3; done
  local IFS=,
  mix=(--set "data_path=[${files[*]}]" --set "image_folder=[${folders[*]}]" --set "weights=[${weights[*]}]")
}
# model, side in px, its copy that sees pictures of that side
of_side() {
  [ -e "$3" ] && return
  rm -rf "$3.part"; cp -r "$1" "$3.part"
  sed -i "s/\"input_image_size\": [0-9]*/\"input_image_size\": $2/" "$3.part/config.json"; mv "$3.part" "$3"
}
read_of() { local set; for set in "$@"; do echo "$set/transcriptions.json" "$set"; done; }
length=2048 aspect=pad  # Tokens of a sample at most; how pictures go into the square.
big=(--set 'width=[480,768]' --set 'height=[480,768]' --set 'font_px=[44.0,140.0]')
middle=(--set 'width=[480,768]' --set 'height=[480,768]' --set 'font_px=[20.0,90.0]')
large=(--set 'width=[640,1024]' --set 'height=[640,1024]')
small_words=(--set 'kinds=["word"]' --set 'width=[128,384]' --set 'height=[96,240]')
rough=(--set damage.share=0.85 --set damage.blur=1.3 --set damage.noise=16 --set damage.rotation=6
  --set damage.perspective=0.05 --set damage.shadow=0.4 --set damage.jpeg_share=0.5)
random='kinds=["text","text","text","entries","slip"]'
all='kinds=["text","text","entries","slip","slip","form","receipt","table","note","poster"]'
corpus=$data/corpus.txt letters=$PWD/letters.txt

# Labels that stand several times on a form are asked once; the real questions without and with OCR text.
[ -e "$real/prefix.json" ] || { python3 "$here/several.py" "$data/sets" "$real"; python3 "$here/mix_real.py" "$real"; }
# Random strings can be read and not be guessed; random entries can be looked up and not be known.
[ -e letters.txt ] || python3 "$here/letters.py" letters.txt -n "$(count 150000)"
[ -e copy1.json ] || python3 "$here/copy_pages.py" "$corpus" copy1.json -n "$(count 60000)" --rows 1 4 --questions 3 --seed 1
[ -e copy2.json ] || python3 "$here/copy_pages.py" "$corpus" copy2.json -n "$(count 60000)" --seed 2
[ -e scrambled.json ] || python3 "$here/scramble.py" "$corpus" scrambled.json \
  "$real"/{sroie,funsd,chartqa}-ask-ocr.json -n "$(count 80000)" --seed 6
[ -e "$real/cells.json" ] || python3 "$here/real_cells.py" "$data/sets" "$real" "$real/cells.json" --grid 32
pages_of words 50000 13 "$corpus" 24 "${small_words[@]}"
pages_of strings 40000 12 "$corpus" 24 "${small_words[@]}" --set 'letters=[1,7]'
pages_of big_letters 45000 21 "$letters" 24 --set 'kinds=["text"]' "${big[@]}"
pages_of big_lines 40000 22 "$corpus" 24 --set 'kinds=["text","text","text","sign","book_cover"]' "${big[@]}"
pages_of letters1 70000 23 "$letters" 24 --set "$random" "${middle[@]}"
pages_of lines1 70000 24 "$corpus" 24 "${middle[@]}" \
  --set 'kinds=["text","text","entries","slip","poster","form","receipt","table","screenshot","word"]'
[ -e untrained ] || "$llavar" init --preset nano-768 --vocab-size 4096 --out untrained --text words/transcriptions.json \
  --text copy2.json --text "$real/sroie-talk.json" --text "$real/funsd-talk.json"

# Looking up in short texts; then what each image token shows; then reading words and large lines; then pages.
mixture copy1.json . 1
phase copy untrained 800 1e-3 constant_with_warmup 128 "${mix[@]}"
mixture $(read_of big_letters) 1 $(read_of words) 0.5 $(read_of strings) 0.5
phase cells copy/model 3160 1e-3 constant_with_warmup 32 "${mix[@]}"
mixture $(read_of big_letters) 0.7 $(read_of words) 0.7 $(read_of strings) 0.7 $(read_of big_lines) 1 copy2.json . 0.15
phase words_and_lines cells/model 2850 8e-4 constant_with_warmup 32 "${mix[@]}" --set data.cells=false
mixture $(read_of letters1) 1 $(read_of lines1) 1 $(read_of big_letters) 0.3 $(read_of words) 0.3 $(read_of big_lines) 0.3 \
  copy2.json . 0.1
phase pages words_and_lines/model 4210 8e-4 constant_with_warmup 32 "${mix[@]}"

# 1024 px: small print, the real pages, questions; pictures that fit (their border cut off, the rest stretched).
of_side pages/model 1024 at_1024
aspect=fit seen=(--set grid_fit=true)
pages_of rough_words 36000 63 "$corpus" 32 "${seen[@]}" --set 'kinds=["word"]' --set 'width=[96,384]' --set 'height=[96,240]' \
  "${rough[@]}"
pages_of letters2 40000 51 "$letters" 32 "${seen[@]}" --set "$random" "${large[@]}" --set 'font_px=[11.0,60.0]'
pages_of lines2 40000 52 "$corpus" 32 "${seen[@]}" --set "$all" "${large[@]}" --set 'font_px=[11.0,70.0]'
pages_of reading1 60000 54 "$corpus" 32 "${seen[@]}"; with_text reading1
pages_of reading2 60000 64 "$corpus" 32 "${seen[@]}"; with_text reading2
pages_of reading3 24000 74 "$corpus" 32 "${seen[@]}"; with_text reading3
photos=$real/images
mixture $(read_of letters2) 1 $(read_of lines2) 1 $(read_of rough_words) 0.6 "$real/cells.json" "$photos" 6 \
  copy2.json . 0.1 scrambled.json . 0.1
phase large at_1024 2430 8e-4 constant_with_warmup 32 "${mix[@]}"
# set of pages, weights of its transcriptions, questions, questions with text, small letters, small lines, real cells,
# real questions, real questions with text, scrambled pages, rough words
answers() {
  mixture "$1/transcriptions.json" "$1" "$2" "$1/data.json" "$1" "$3" "$1/prefix.json" "$1" "$4" \
    $(read_of letters2) "$5" $(read_of lines2) "$6" "$real/cells.json" "$photos" "$7" "$real/plain.json" "$photos" "$8" \
    "$real/prefix.json" "$photos" "$9" scrambled.json . "${10}" $(read_of rough_words) "${11}"
}
answers reading1 0.5 1 0.6 0.4 0.4 5 1.5 1 0.5 0.4
phase answer1 large/model 3140 8e-4 constant_with_warmup 32 "${mix[@]}"
mixture $(read_of rough_words) 1 "$real/cells.json" "$photos" 4 "$real/plain.json" "$photos" 1 \
  "$real/prefix.json" "$photos" 1 scrambled.json . 0.4 copy2.json . 0.1
phase answer2 answer1/model 2270 8e-4 constant_with_warmup 32 "${mix[@]}"
answers reading2 0.3 0.7 0.5 0.3 0.35 5 2 2 0.35 0.7
phase answer3 answer2/model 4520 8e-4 cosine 32 "${mix[@]}"
answers reading3 0.35 0.5 0.5 0.25 0.01 6 2.5 2.5 0.15 0.3
phase answer4 answer3/model 3510 7e-4 cosine 32 "${mix[@]}"
[ -e averaged ] || python3 "$here/average.py" answer3/model answer4/model averaged

# 768 px again, and one way of answering each field.
of_side averaged 768 fitted
[ -e "$real/cells24.json" ] || python3 "$here/real_cells.py" "$data/sets" "$real" "$real/cells24.json" --grid 24
fit=(--set grid_fit=true --set short_answers=0 --set self_explain=0.25)
small=10  # Letters of fine print, px.
# number of a draw, cells on a side, pages with questions, of random letters, of fine print: its sets
draw() {
  local n=$1 grid=$2
  [ -e "crops$n.json" ] || python3 "$here/real_cells.py" "$data/sets" "$real" "crops$n.json" --grid "$grid" \
    --crops "$(scaled 12 "$pages" 1)" \
    --seed "$n"
  [ -e "forms$n.json" ] || python3 "$here/scramble.py" "$corpus" "forms$n.json" "$real/funsd-ask-ocr.json" \
    -n "$(count 60000)" --seed "$n"
  [ -e "scrambled$n.json" ] || python3 "$here/scramble.py" "$corpus" "scrambled$n.json" \
    "$real"/{sroie,funsd,chartqa}-ask-ocr.json -n "$(count 50000)" --seed "1$n"
  [ -e "copy$n.json" ] || python3 "$here/copy_pages.py" "$corpus" "copy$n.json" -n "$(count 30000)" --seed "$n"
  pages_of "photos$n" 30000 "3$n" "$corpus" "$grid" "${fit[@]}" --set 'kinds=["word"]' --set 'width=[96,384]' \
    --set 'height=[96,160]' "${rough[@]}"
  [ -e "photos$n/small.json" ] || python3 "$here/small_words.py" "photos$n" --seed "$n"
  [ -e "photos$n/prefix.json" ] || "$llavar" data prefix "photos$n/small.json" --ocr "sidecar:photos$n/words.jsonl" \
    --errors 0.06 --out "photos$n/prefix.json"
  pages_of "fit$n" "$3" "4$n" "$corpus" "$grid" "${fit[@]}"; with_text "fit$n"
  pages_of "random$n" "$4" "5$n" "$letters" "$grid" "${fit[@]}" --set "$random" "${large[@]}" --set "font_px=[$small.0,60.0]"
  pages_of "fine$n" "$5" "6$n" "$corpus" "$grid" "${fit[@]}" "${large[@]}" --set "font_px=[$small.0,50.0]" \
    --set 'kinds=["text","entries","entries","slip","slip","slip","form","receipt","table","note"]'
}
# number of a draw, weights of the real questions without and with text: its mixture
fitting() {
  local n=$1
  mixture "scrambled$n.json" . 0.3 "forms$n.json" . 0.7 "crops$n.json" . 1 "crops$n-asked.json" . 3 \
    "$real/cells24.json" "$photos" 3 "$real/plain.json" "$photos" "$2" "$real/prefix.json" "$photos" "$3" \
    "photos$n/small.json" "photos$n" 0.8 "photos$n/prefix.json" "photos$n" 0.2 "copy$n.json" . 0.15 \
    $(read_of "fit$n") 0.2 "fit$n/data.json" "fit$n" 0.4 "fit$n/prefix.json" "fit$n" 0.4 $(read_of "random$n") 0.6 \
    $(read_of "fine$n") 0.8
}
draw 5 24 50000 20000 24000; fitting 5 1 1
phase answer5 fitted 12790 8e-4 constant_with_warmup 32 "${mix[@]}"
fitting 5 2 2
phase answer6 answer5/model 8910 8e-4 cosine 32 "${mix[@]}"
draw 7 24 50000 20000 24000; fitting 7 1.5 1.5
phase answer7 answer6/model 14270 8e-4 constant_with_warmup 32 "${mix[@]}"
fitting 7 2 2
phase answer8 answer7/model 10880 8e-4 cosine 32 "${mix[@]}"
[ -e at_768 ] || python3 "$here/average.py" answer6/model answer8/model at_768

# 1024 px, with real pages on which other words are drawn and with forms of random blocks.
of_side at_768 1024 finer
grid=32 quilts=0 cells=$real/cells.json  # Image tokens on a side; the share of forms that are strips of several.
# number of a draw: its sets
redraw() {
  local n=$1; draw "$n" "$grid" 60000 30000 40000
  [ -e "redrawn$n/data.json" ] || python3 "$here/redraw.py" "$data/sets" "$real" "$data/fonts" "$corpus" "redrawn$n" \
    -n "$(count 60000)" --seed "$n" --grid "$grid" --quilts "$quilts"
  with_text "redrawn$n"
  [ -e "blocks$n.json" ] || python3 "$here/form_pages.py" "$corpus" "blocks$n.json" -n "$(count 80000)" --seed "$n"
}
# number of a draw: words as signs show them
signs() {
  local n=$1
  [ -e "signs$n/small.json" ] || python3 "$here/scene_words.py" "$data/fonts" "$data/display" "$corpus" "signs$n" \
    -n "$(count 50000)" --seed "$n"
  [ -e "signs$n/prefix.json" ] || "$llavar" data prefix "signs$n/small.json" --ocr "sidecar:signs$n/words.jsonl" \
    --errors 0.08 --out "signs$n/prefix.json"
}
# number of a draw, weights of the real questions without and with text, of words in few pixels without and with text,
# more sets: its mixture
redrawn() {
  local n=$1 plain=$2 prefix=$3 few=$4 few_prefix=$5; shift 5
  mixture "$@" "forms$n.json" . 0.4 "scrambled$n.json" . 0.25 "blocks$n.json" . 0.4 "copy$n.json" . 0.15 \
    $(read_of "redrawn$n") 1.1 "redrawn$n/data.json" "redrawn$n" 0.9 "redrawn$n/prefix.json" "redrawn$n" 1.5 \
    "crops$n.json" . 1 "crops$n-asked.json" . 4 "$cells" "$photos" 6 "$real/plain.json" "$photos" "$plain" \
    "$real/prefix.json" "$photos" "$prefix" "photos$n/small.json" "photos$n" "$few" "photos$n/prefix.json" "photos$n" "$few_prefix" \
    $(read_of "fit$n") 0.2 "fit$n/data.json" "fit$n" 0.33 "fit$n/prefix.json" "fit$n" 0.33 $(read_of "random$n") 0.6 \
    $(read_of "fine$n") 0.8
}
length=2560
redraw 8
mixture "forms8.json" . 0.3 "scrambled8.json" . 0.3 "blocks8.json" . 0.4 $(read_of redrawn8) 1.5 redrawn8/data.json redrawn8 0.9 \
  redrawn8/prefix.json redrawn8 1.5 crops8.json . 1.5 crops8-asked.json . 4 "$real/cells.json" "$photos" 8 \
  "$real/plain.json" "$photos" 1.3 "$real/prefix.json" "$photos" 2
phase answer9 finer 488 1e-3 constant_with_warmup 96 "${mix[@]}"
redraw 9; redrawn 9 1.75 2.5 1.2 0.35
phase answer10 answer9/model 6154 1e-3 cosine 96 "${mix[@]}"
redrawn 8 1.75 2.5 1.2 0.35
phase answer11 answer10/model 2641 8e-4 cosine 96 "${mix[@]}"
[ -e redrawn ] || python3 "$here/average.py" answer10/model answer11/model redrawn

# Words of signs; more of the real questions at the end.
redraw 10; signs 10
mixture "forms10.json" . 0.4 "scrambled10.json" . 0.3 "blocks10.json" . 0.6 $(read_of redrawn10) 1 redrawn10/data.json redrawn10 0.9 \
  redrawn10/prefix.json redrawn10 1.5 crops10.json . 1.5 crops10-asked.json . 4 "$real/cells.json" "$photos" 8 \
  "$real/plain.json" "$photos" 2 "$real/prefix.json" "$photos" 3
phase answer12 redrawn 298 1e-3 constant_with_warmup 96 "${mix[@]}"
redrawn 10 1.75 2.5 0.5 0.2 signs10/small.json signs10 0.9 signs10/prefix.json signs10 0.2
phase answer13 answer12/model 3549 1e-3 constant_with_warmup 96 "${mix[@]}"
redraw 11; signs 11
redrawn 11 2.8 4 0.5 0.2 signs11/small.json signs11 0.9 signs11/prefix.json signs11 0.2
phase answer14 answer13/model 4665 1e-3 cosine 96 "${mix[@]}"
[ -e signed ] || python3 "$here/average.py" redrawn answer14/model signed

# More of it; on half of the redrawn forms labels stand several times.
redraw 12; signs 12
redrawn 12 2.8 4 0.5 0.2 signs12/small.json signs12 0.9 signs12/prefix.json signs12 0.2
phase answer15 signed 5311 1e-3 constant_with_warmup 96 "${mix[@]}"
redraw 13; signs 13
redrawn 13 2.8 4 0.5 0.2 signs13/small.json signs13 0.9 signs13/prefix.json signs13 0.2
phase answer16 answer15/model 6964 1e-3 cosine 96 "${mix[@]}"
# Its config asks for the text of an engine, where there is one.
[ -e final ] || { python3 "$here/average.py" signed answer16/model final.part
  sed -i '1s/^{$/{\n  "ocr_engine": "ppocr",/' final.part/config.json; mv final.part final; }

echo "the model is $out/final; llavar model quantize makes it the folder that is shipped"
[ -n "${LARGER:-}" ] || exit 0

# 1280 px, for small print; most of the redrawn forms are strips of several.
of_side final 1280 larger
length=3136 grid=40 small=8 quilts=0.6 cells=$real/cells40.json
[ -e "$cells" ] || python3 "$here/real_cells.py" "$data/sets" "$real" "$cells" --grid 40
redraw 14
mixture "forms14.json" . 0.4 "scrambled14.json" . 0.3 "blocks14.json" . 0.5 $(read_of redrawn14) 1 redrawn14/data.json redrawn14 0.9 \
  redrawn14/prefix.json redrawn14 1.5 crops14.json . 1.5 crops14-asked.json . 4 "$cells" "$photos" 8 \
  "$real/plain.json" "$photos" 2 "$real/prefix.json" "$photos" 3
phase answer17 larger 1200 1e-3 constant_with_warmup 96 "${mix[@]}"
redraw 15; signs 15
redrawn 15 2.2 3.2 0.5 0.2 signs15/small.json signs15 0.9 signs15/prefix.json signs15 0.2
[ -e large ] || python3 "$here/average.py" answer17/model larger large
phase answer18 large 7775 8e-4 cosine 96 "${mix[@]}"
[ -e final-large ] || python3 "$here/average.py" answer18/model larger final-large

# 1536 px, from there.
of_side final-large 1536 largest
length=4096 grid=48 small=7 cells=$real/cells48.json
[ -e "$cells" ] || python3 "$here/real_cells.py" "$data/sets" "$real" "$cells" --grid 48
redraw 16; signs 16
redrawn 16 2.2 3.2 0.5 0.2 signs16/small.json signs16 0.9 signs16/prefix.json signs16 0.2
phase answer19 largest 5749 8e-4 cosine 96 "${mix[@]}"
