#!/usr/bin/env bash
# Does selection help? Trains a small model on all of a data set in which many samples are faulty, on the
# part that `llavar select` keeps and on a random part of the same size, three seeds each, and prints how
# many held-out questions each model answers rightly.
#
#   benches/select/experiment.sh MODEL SCORER OUT
#
# Training starts from MODEL (of `llavar quickstart --set-synth self_explain=1.0`), which reads 12 words for
# every kind of fact; the new pictures have VOCABULARY (12) of them. SCORER is a model that knows whole texts
# (example `whole_texts`). Environment: LLAVAR (the program), EXAMPLES (their folder), PICTURES, SHARE (of
# faulty samples), STEPS, SEEDS, PICK (flags of `llavar select pick`).
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 scorer=$2 out=$3
llavar=${LLAVAR:-llavar}
examples=${EXAMPLES:-target/release/examples}
pictures=${PICTURES:-800} share=${SHARE:-0.5} steps=${STEPS:-100}
mkdir -p "$out"
for split in train held_out; do
    [ -d "$out/$split" ] || "$llavar" data synth --profile quickstart --split $split --seed 77 --jpeg 0 \
        -n $([ $split = train ] && echo "$pictures" || echo 150) \
        --set self_explain=1.0 --set vocabulary=${VOCABULARY:-12} --out "$out/$split" >/dev/null
done
"$examples/plant" "$out/train/data.json" "$share" 5 "$out/train/all.json"
"$llavar" select score "$out/train/all.json" --model "$scorer" --out "$out/scores.parquet" >/dev/null
"$llavar" select pick "$out/scores.parquet" --data "$out/train/all.json" --out "$out/selected.json" \
    ${PICK:-} | tee "$out/pick.txt"
kept=$(sed -n '1s/.*: \([0-9]*\) of .*/\1/p' "$out/pick.txt")
for seed in ${SEEDS:-1 2 3}; do
    "$llavar" select pick "$out/scores.parquet" --data "$out/train/all.json" --out "$out/random-$seed.json" \
        --max-ifd none --max-vfd none --max-ffd none --rank-by random --seed "$seed" --number "$kept" >/dev/null
done
faulty() { grep -o '"id":"[^"]*"' "$1" | grep -c '#fault' || true; }
samples() { grep -c '"conversations"' "$1"; }
echo "samples (faulty): all $(samples "$out/train/all.json") ($(faulty "$out/train/all.json")), selected" \
    "$(samples "$out/selected.json") ($(faulty "$out/selected.json")), random" \
    "$(samples "$out/random-1.json") ($(faulty "$out/random-1.json"))"
echo "before: $("$examples/held_out" "$model" "$out/held_out")"
for seed in ${SEEDS:-1 2 3}; do
    for set in all selected random; do
        case $set in
            all) data=$out/train/all.json ;;
            selected) data=$out/selected.json ;;
            random) data=$out/random-$seed.json ;;
        esac
        run=$out/run-$set-$seed
        [ -f "$run/model/config.json" ] || "$llavar" train --recipe "$(dirname "$0")/experiment.toml" --out "$run" \
            --set model_name_or_path="\"$model\"" --set data_path="\"$data\"" \
            --set image_folder="\"$out/train\"" --set seed="$seed" --set max_steps="$steps" >/dev/null
        echo "$set, seed $seed: $("$examples/held_out" "$run/model" "$out/held_out")"
    done
done | tee "$out/results.txt"
echo "means over seeds"
awk -F'[:,% ]+' '{ n[$1]++; s[$1] += $4 } END { for (k in n) printf "%-10s %.1f %%\n", k, s[k] / n[k] }' \
    "$out/results.txt"
