#!/usr/bin/env python3
"""Forms to choose weights and settings by, so that test parts are asked once: laid out as FUNSD, for `llavar eval run`.

    held_out_forms.py DATA REAL FONTS CORPUS OUT -n FORMS [--seed N] [--questions N]

Pages are strips of several training forms with other words drawn on them (quilt.py, redraw.py), by a seed that no
training draw has; so the words are new and the layouts nearly. OUT/testing_data has pictures and annotations, OUT/words.jsonl
what an engine would have read (`--ocr-engine sidecar:OUT/words.jsonl`). Needs Pillow.
"""

import json
import random

from answers import SEVERAL
from quilt import quilt
from real_cells import worn
from redraw import ASKED, Redrawer, arguments, drawn, words


def annotated(entries, rng, questions):
    """Labels and values as FUNSD has them, a label with several values once for each."""
    form = []
    for _, label, value in rng.sample(entries, min(len(entries), questions)):
        for text in value.split(SEVERAL):
            first = len(form)
            link = {"box": [0, 0, 1, 1], "words": [], "linking": [[first, first + 1]]}
            form += [{**link, "id": first, "label": "question", "text": label}, {**link, "id": first + 1, "label": "answer", "text": text}]
    return form


def page(redrawer, index):
    """Picture, annotation and words of a form."""
    rng = random.Random(f"held out/{redrawer.args.seed}/{index}")
    while True:
        image, boxes, entries = quilt(redrawer.forms(rng), rng)
        changed = redrawer.scrambler.change(rng, [(ASKED.format(label), value) for _, label, value in entries], rng.random() < 0.65)
        boxes = drawn(image, boxes, changed, redrawer.fonts, rng)
        entries = [(numbers, changed(label), changed(value)) for numbers, label, value in entries if len(value) < 160]
        if len(entries) >= 3 and image.height > 400:
            return worn(image, rng), annotated(entries, rng, redrawer.args.questions), list(words(boxes, rng))


def main():
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=6, help="labels asked of a form, at most")
    args = parser.parse_args()
    images, annotations = (args.out / "testing_data" / name for name in ("images", "annotations"))
    images.mkdir(parents=True), annotations.mkdir()
    redrawer, seen = Redrawer(args), []
    for index in range(args.n):
        image, form, said = page(redrawer, index)
        image.save(images / f"{index:04}.png")
        (annotations / f"{index:04}.json").write_text(json.dumps({"form": form}, ensure_ascii=False), "utf-8")
        seen.append({"id": f"{index:04}", "image": f"testing_data/images/{index:04}.png", "width": image.width, "height": image.height, "words": said})
    (args.out / "words.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in seen), "utf-8")


if __name__ == "__main__":
    main()
