#!/usr/bin/env python3
"""Real pages with other words drawn where theirs stood: layout, lines and dirt of real receipts and forms, new text.

    redraw.py DATA REAL FONTS CORPUS OUT -n PICTURES [--grid 32] [--seed N] [--forms S] [--quilts S]

DATA has the sets as published, REAL what real.sh made of them, FONTS and CORPUS what fetch.py brought. A few hundred
training pages are known by heart within minutes, pictures and all; of these no two say the same. Words and figures
are exchanged as scramble.py does it, the boxes of the labels tell where, and a part of the words stays as it was
scanned. Half of the pictures are parts of a page. On half of the forms some labels become one that stands several times.
With --quilts a share of the forms are strips of several forms below each other (quilt.py).

OUT is laid out as `llavar data synth` does it: images/, transcriptions.json with `cells`, data.json with questions
for entries and fields, words.jsonl for `llavar data prefix`. Needs Pillow.
"""

import argparse
import concurrent.futures
import functools
import json
import random
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from answers import FORM, SEVERAL, asked_otherwise, entry
from copy_pages import read_corpus, write
from quilt import quilt
from real_cells import cells, labelled, part, read, rows, worn
from scramble import Page, Scrambler
from shrink import placed

FIRST = "<image>\n"
TICK = ["X", "X", "x", "X.", "V", "/", "√", "", "", "", ""]
CHUNK = 64  # Pictures of one task.
ASKED = 'what is "{}" information in the image?'
# As people ask for an entry, and for the figure at the end of a row of a receipt.
SPOKEN = ["what is the {}?", "What is the {}?", "{}?", "{}:", "what does it say for {}?", "Tell me the {}.", "which {} is given?"]
AT_END = ['What is written next to "{}"?', "how much is {}?", "How much is the {}?", 'what does it say beside "{}"?', "{}?"]
# Labels that people ask for in other words.
MEANT = {
    "from": ["who is this from?", "Who sent this?", "who is the sender?"],
    "to": ["who is this to?", "Who is it addressed to?", "Who is the recipient?"],
    "date": ["when was this written?", "What is the date of this form?", "which date is on it?"],
    "subject": ["what is this about?", "What is the subject?"],
    "re": ["what is this about?"],
    "fax": ["what is the fax number?"],
    "phone": ["what is the phone number?", "which number can I call?"],
    "telephone": ["what is the phone number?", "which number can I call?"],
    "brand": ["which brand is it about?"],
    "company": ["which company is it?"],
    "name": ["what is the name?", "whose name is on it?"],
    "address": ["what is the address?", "where is it?"],
    "cc": ["who gets a copy?"],
}


@functools.lru_cache(4096)
def face(path, height):
    """A font whose letters from the top of H to the foot of g are `height` px high, and how far above zero they begin."""
    probe = ImageFont.truetype(path, 64).getbbox("Hg", anchor="ls")
    font = ImageFont.truetype(path, max(4, 64 * height / (probe[3] - probe[1])))
    return font, -font.getbbox("Hg", anchor="ls")[1]


def levels(region):
    """Paper and ink of a part of a picture, 0 to 255."""
    counts, total, seen, ink, paper = region.histogram(), region.width * region.height, 0, 0, 255
    for level, count in enumerate(counts):
        if seen < 0.04 * total <= seen + count:
            ink = level
        if seen < 0.85 * total <= seen + count:
            paper = level
        seen += count
    return (paper, ink) if abs(paper - ink) > 50 else (paper, max(0, paper - 140))


def drawn(image, boxes, changed, fonts, rng, anyway=()):
    """The boxes with their new text, which is drawn into the picture; also where it stays, of the entries `anyway`."""
    draw, out, of_entry = ImageDraw.Draw(image), [], {}
    # As many kinds of letters as a page is likely to have: print, a typewriter, a hand.
    chosen = [rng.choice(fonts) for _ in range(rng.choice([1, 1, 2, 3]))]
    grown = rng.uniform(0.85, 1.05)
    for row in rows(boxes):
        new = [changed(box[4]) for box in row]
        touched = {box[5] for box, text in zip(row, new) if text != box[4]}
        if rng.random() < 0.3:  # The words that stay keep the letters that were scanned.
            touched = set()
        for place, (x0, y0, x1, y1, text, number) in enumerate(row):
            beside = [box for box in row if box[5] == number]
            # Words of an entry have one size, though their boxes are as high as their letters.
            top, bottom = min(box[1] for box in beside), max(box[3] for box in beside)
            room = (row[place + 1][0] if place + 1 < len(row) else image.width) - x0 - 2
            area = [max(0, round(x0) - 1), max(0, round(y0)), min(image.width, round(x1) + 1), min(image.height, round(y1))]
            small = area[2] - area[0] < 3 or area[3] - area[1] < 4 or room < 4
            if small or new[place] == text and number not in touched and number not in anyway:
                out.append((x0, y0, x1, y1, text, number))
                continue
            paper, ink = levels(image.crop(area))
            draw.rectangle([area[0], area[1], area[2] - 1, area[3] - 1], fill=paper)
            height = (bottom - top) * grown
            font, above = face(of_entry.setdefault(number, rng.choice(chosen)), max(5, round(height)))
            natural = max(1, font.getlength(new[place]))
            width = min(room, max(0.75 * (x1 - x0), min(natural, 1.3 * (x1 - x0))))
            top += (bottom - top - height) / 2
            if 0.97 < width / natural < 1.03:
                draw.text((x0, top + above), new[place], fill=ink, font=font, anchor="ls")
            else:
                mask = Image.new("L", (round(natural) + 2, round(bottom - top) + 4))
                ImageDraw.Draw(mask).text((0, above + 1), new[place], fill=255, font=font, anchor="ls")
                mask = mask.resize((max(1, round(width)), mask.height), Image.BILINEAR)
                image.paste(ink, (round(x0), round(top) - 1), mask)
            out.append((x0, top, x0 + width, top + height, new[place], number))
    return out


def words(boxes, rng):
    """Text and corners of every word; in a box of several all letters are taken to be of equal width."""
    for x0, y0, x1, y1, text, _ in boxes:
        for word in re.finditer(r"\S+", text):
            left, right = (x0 + (x1 - x0) * at / len(text) for at in word.span())
            # An engine reads a tick as letters, or not at all.
            said = rng.choice(TICK) if word[0] == "☑" else word[0]
            if said:
                yield {"text": said, "quad": [[left, y0], [right, y0], [right, y1], [left, y1]]}


class Redrawer:
    def __init__(self, args):
        self.args, self.images = args, args.real / "images"
        self.fonts = sorted(str(path) for path in args.fonts.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
        self.pages = {True: [], False: []}
        asked = {}
        for sample in json.loads((args.real / "sroie-ask.json").read_text("utf-8")):
            turns = [turn["value"] for turn in sample["conversations"][:2]]
            asked.setdefault(sample["image"], []).append((turns[0].removeprefix(FIRST), turns[1]))
        everything = []
        for sample, boxes, entries in labelled(args.data, args.real):
            form = "FUNSD" in sample["image"]
            page = Page(sample["image"], "\n".join(box[4] for box in boxes))
            page.rounds = [(ASKED.format(label), value) for _, label, value in entries] if form else asked.get(sample["image"], [])
            everything.append(page)
            self.pages[form].append((sample, boxes, entries, page))
        self.scrambler = Scrambler(everything, read_corpus(args.corpus), 0.85)

    def picture(self, index):
        """The samples of one picture, which is written: transcription, questions or None, words."""
        rng = random.Random(f"{self.args.seed}/{index}")
        form = rng.random() < self.args.forms
        sample, boxes, entries, page = rng.choice(self.pages[form])
        if form and rng.random() < self.args.quilts:
            image, boxes, entries = quilt(self.forms(rng), rng)
            rounds = [(ASKED.format(label), value) for _, label, value in entries]
        else:
            image, rounds = self.scanned(sample["image"]).copy(), page.rounds
        changed = self.scrambler.change(rng, rounds, rng.random() < 0.65)
        again = set()
        if form and rng.random() < 0.5:
            boxes, entries, again = alike(boxes, entries, rng)
        boxes = drawn(image, boxes, changed, self.fonts, rng, again)
        entries = [(numbers, changed(label), changed(value)) for numbers, label, value in entries]
        whole = rng.random() < 0.5
        if not whole:
            found = part(image, boxes, rng)
            whole = found is None
            image, boxes = found or (image, boxes)
        name = f"images/{index:06}.jpg"
        worn(image, rng).save(self.args.out / name, "JPEG", quality=rng.randint(55, 90))
        sample = {**read(sample, boxes), "id": f"{self.args.out.name}_{index}", "image": name}
        if form:
            there = {box[5] for box in boxes}
            rounds = [(self.wording(rng, label), entry(label, value)) for numbers, label, value in entries if numbers <= there]
            several = [pair for pair in rounds if SEVERAL in pair[1]]
            rounds = rng.sample(rounds, min(len(rounds), rng.choice([1, 2, 3, 5])))
            rounds += rng.sample(several, 1) if several and not any(pair in rounds for pair in several) else []
        else:
            rounds = self.scrambler.turns(rng, page, rng.sample(page.rounds, min(len(page.rounds), 3)), changed) if whole else []
            rounds += rng.sample(ends := list(at_end(boxes, rng)), min(len(ends), rng.choice([0, 1, 2])))
            rng.shuffle(rounds)
        turns = [{"from": side, "value": text} for pair in rounds for side, text in zip(("human", "gpt"), pair)]
        if turns:
            turns[0]["value"] = FIRST + turns[0]["value"]
        asked = {"id": f"{sample['id']}_asked", "image": name, "conversations": turns} if turns else None
        seen = {"id": sample["id"], "image": name, "width": image.width, "height": image.height, "words": list(words(boxes, rng))}
        return sample, asked, seen, boxes

    @functools.cache
    def scanned(self, name):
        with Image.open(self.images / name) as image:
            return image.convert("L")

    def forms(self, rng):
        while True:
            sample, boxes, entries, _ = rng.choice(self.pages[True])
            yield self.scanned(sample["image"]), boxes, entries

    def wording(self, rng, label):
        kind, bare = rng.random(), label.strip(" :.?-")
        if kind < 0.4 or len(bare) < 2:
            return asked_otherwise("FUNSD", ASKED.format(label), rng)
        if kind < 0.6:
            return rng.choice(FORM).replace("(.*)", label).replace("\\?", "?")
        if bare.lower() in MEANT and rng.random() < 0.6:
            return rng.choice(MEANT[bare.lower()])
        return rng.choice(SPOKEN).format(bare.lower() if rng.random() < 0.7 else bare)


def alike(boxes, entries, rng):
    """Some labels of a form become one label that stands several times: boxes, entries, numbers of those labels."""
    told = {}
    for box in boxes:
        told.setdefault(box[5], []).append(box)
    groups = {}
    for at, (numbers, label, value) in enumerate(entries):
        own = [number for number in numbers if number in told and " ".join(box[4] for box in told[number]) == label]
        if len(own) == 1 and SEVERAL not in value and len(value) < 60:
            groups.setdefault(min(3, len(told[own[0]])), []).append((at, own[0]))
    groups = [group for group in groups.values() if len(group) > 1]
    if not groups:
        return boxes, entries, set()
    group = rng.choice(groups)
    group = rng.sample(group, min(len(group), rng.choice([2, 2, 3, 3, 4, 6, 8, 12, 20])))
    size = min(len(told[number]) for _, number in group)
    chosen = rng.choice([number for _, number in group if len(told[number]) == size])
    words_of = [box[4] for box in told[chosen]]
    numbers, out = {number for _, number in group}, []
    for number, of_entry in told.items():
        if number in numbers:
            # A longer label keeps its first places.
            out += [(*box[:4], word, number) for box, word in zip(of_entry, words_of)]
        else:
            out += of_entry
    # From the top, as they are read.
    placed_at = {at: (round(told[number][0][1] / 12), told[number][0][0]) for at, number in group}
    members = sorted(placed_at, key=placed_at.get)
    values = list(dict.fromkeys(entries[at][2] for at in members))
    joined = (set().union(*(entries[at][0] for at in members)), " ".join(words_of), SEVERAL.join(values))
    return out, [one for at, one in enumerate(entries) if at not in placed_at] + [joined], numbers


def at_end(boxes, rng):
    """Questions for the figures at the end of rows that begin with words, each word but once on the page."""
    found = {}
    for row in rows(boxes):
        first, last = row[0][4].strip(" :"), row[-1][4]
        field = any(word in first.lower() for word in ("total", "date", "amount"))  # Asked for in words of their own.
        if len(row) > 1 and sum(map(str.isalpha, first)) > 2 and any(map(str.isdigit, last)) and len(first) < 40 and not field:
            found.setdefault(first, []).append(last)
    for first, last in found.items():
        if len(last) == 1:
            yield rng.choice(AT_END).format(first if rng.random() < 0.5 else first.lower()), entry(first, last[0])


def pictures(first):
    """Of each picture from `first` on the transcription, the questions or None, and its words as a line of JSON."""
    args, made = REDRAWER.args, []
    drawn = [REDRAWER.picture(index) for index in range(first, min(first + CHUNK, args.n))]
    places = dict(placed((args.out / sample["image"] for sample, *_ in drawn), args.grid * 32))
    for sample, asked, seen, boxes in drawn:
        sample["cells"] = cells(boxes, places[args.out / sample["image"]], args.grid)
        made.append((sample, asked, json.dumps(seen, ensure_ascii=False)))
    return made


def arguments(doc):
    """What is redrawn, with what, where to, how often and by which seed."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["data", "real", "fonts", "corpus", "out"]:
        parser.add_argument(name, type=Path)
    parser.add_argument("-n", type=int, required=True, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--forms", type=float, default=0.65, help="share of the pictures that are forms")
    parser.add_argument("--quilts", type=float, default=0, help="share of the forms that are strips of several")
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    global REDRAWER  # Forked processes take it along.
    REDRAWER = Redrawer(args)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        made = [one for chunk in pool.map(pictures, range(0, args.n, CHUNK)) for one in chunk]
    (args.out / "words.jsonl").write_text("".join(seen + "\n" for _, _, seen in made), "utf-8")
    write(args.out / "data.json", (asked for _, asked, _ in made if asked))
    write(args.out / "transcriptions.json", (sample for sample, *_ in made))
    print(f"{args.out}: {len(made)} pictures, {sum(asked is not None for _, asked, _ in made)} with questions")


if __name__ == "__main__":
    main()
