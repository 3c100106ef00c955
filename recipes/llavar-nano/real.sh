#!/usr/bin/env bash
# The training parts of SROIE, FUNSD and ChartQA as llavar-nano is fine-tuned on them.
#
#     recipes/llavar-nano/real.sh DATA OCR OUT [sroie|funsd|chartqa ...]
#
# DATA has the sets as published (SROIE2019, FUNSD, "ChartQA Dataset"). OCR has the text of their training
# pictures, or gets it, which takes PP-OCR some seconds a picture: sroie_train, funsd_train, chart_train. OUT gets
# images/ and for every set
#
#     SET-ask.json       every published question alone, and in other words: bare labels
#     SET-ask-ocr.json   the same with the text of the picture before the question, as evaluation asks with --ocr
#     SET-talk.json      several questions in one conversation; half of the samples with the text
#     SET-duos.json      whole sentences with self-explain turns; half of the samples with the text
#     SET-read.json      all text of a picture (of a chart: what OCR reads)
#
# Nothing is learnt from test parts: they are only looked at for pictures that are in both. Needs Pillow for the pictures; LLAVAR names another program than `llavar`.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2; }
data=$1 ocr=$2 out=$3
shift 3
sets=${*:-sroie funsd chartqa}
llavar=${LLAVAR:-llavar}
here=$(cd "$(dirname "$0")" && pwd)
work=$out/.work
mkdir -p "$work"

set_of() { # name layout folder pictures test-pictures ocr-folder forms shrink-options
    local name=$1 layout=$2 folder=$data/$3 pictures=$4 test=$data/$3/$5 text=$ocr/$6 forms=$7 options=$8
    # A set without its test part has nothing to be kept apart from.
    [ -d "$test" ] && apart=(--not-in "$test") || apart=()
    [ -d "$text" ] || "$llavar" ocr run "$folder/$pictures" --out "$text"
    local files=()
    for form in $forms; do
        "$llavar" data import "$layout" "$folder" --split train --form "$form" --ocr "sidecar:$text" \
            "${apart[@]}" --out "$work/$name-$form.json" --force
        case $form in
        ask)
            "$llavar" data prefix "$work/$name-ask.json" --ocr "sidecar:$text" \
                --out "$work/$name-ask-ocr.json" --force
            files+=("$work/$name-ask-ocr.json") ;;
        talk | duos)
            "$llavar" data prefix "$work/$name-$form.json" --ocr "sidecar:$text" --share 0.5 \
                --out "$work/$name-$form.half" --force
            mv "$work/$name-$form.half" "$work/$name-$form.json" ;;
        esac
        files+=("$work/$name-$form.json")
    done
    # shellcheck disable=SC2086
    python3 "$here/shrink.py" --images "$folder" --out "$out" $options "${files[@]}"
}

for name in $sets; do
    case $name in
    sroie) set_of sroie sroie SROIE2019 train/img test/img sroie_train "ask talk duos read" --grey ;;
    funsd)
        set_of funsd funsd FUNSD training_data/images testing_data/images funsd_train "ask talk duos read" --grey ;;
    chartqa) set_of chartqa chartqa "ChartQA Dataset" train/png test/png chart_train "ask duos read" "" ;;
    *) echo "unknown set $name: sroie, funsd or chartqa" >&2; exit 2 ;;
    esac
done
rm -r "$work"
du -sh "$out"
