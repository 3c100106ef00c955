#!/usr/bin/env python3
"""Single words as signs, posters and labels show them, cut out closely as from photographs.

    scene_words.py FONTS DISPLAY CORPUS OUT -n PICTURES [--seed N]

Heavy and drawn letters with outlines, shadows and two colours, spaced out, bent, turned and seen from the side, on
plain, graded and grained grounds with pieces of other words at the edge, then in few pixels. `llavar data synth` draws
words as documents have them; these are what it lacks. OUT gets images/, small.json (the words, most asked for as IIIT5K's
are) and words.jsonl for `llavar data prefix`. FONTS, DISPLAY and CORPUS: fetch.py. Needs Pillow.
"""

import argparse
import concurrent.futures
import functools
import json
import math
import random
import string
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from copy_pages import read_corpus, write

ASKED = ["what is written in the image?"] * 7 + ["What does it say?", "Read the text.", "Which word is this?"]
CHUNK = 64
SIZE = 72  # Of the letters while they are drawn, px.


@functools.lru_cache(512)
def font(path, size):
    return ImageFont.truetype(path, size)


def colour(rng):
    kind = rng.random()
    if kind < 0.25:
        level = rng.choice([rng.randint(0, 40), rng.randint(215, 255), rng.randint(0, 255)])
        return (level, level, level)
    return tuple(rng.randint(0, 255) for _ in range(3))


def light(rgb):
    return 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def apart(rng, ground, least):
    """A colour that stands out from the ground."""
    for _ in range(30):
        found = colour(rng)
        if abs(light(found) - light(ground)) > least:
            return found
    return (255, 255, 255) if light(ground) < 128 else (0, 0, 0)


def graded(rng, size, first, second):
    """From one colour to another, down or across."""
    ramp = Image.linear_gradient("L").resize(size)
    if rng.random() < 0.4:
        ramp = Image.linear_gradient("L").rotate(90).resize(size)
    return Image.composite(Image.new("RGB", size, first), Image.new("RGB", size, second), ramp)


def grained(rng, size, rgb):
    """Coarse and fine grain around a colour, as walls, wood and cloth have it."""
    small = (max(1, size[0] // rng.randint(3, 20)), max(1, size[1] // rng.randint(3, 20)))
    grain = Image.effect_noise(small, rng.uniform(20, 70)).resize(size, Image.BICUBIC)
    grain = Image.blend(grain, Image.effect_noise(size, rng.uniform(5, 40)), 0.3)
    return ImageChops.overlay(Image.new("RGB", size, rgb), Image.merge("RGB", (grain, grain, grain)))


def ground(rng, size, rgb):
    kind = rng.random()
    if kind < 0.45:
        return Image.new("RGB", size, rgb)
    near = tuple(max(0, min(255, level + rng.randint(-60, 60))) for level in rgb)
    return graded(rng, size, rgb, near) if kind < 0.65 else grained(rng, size, rgb)


def letters(rng, text, face):
    """A mask of the text: in a line, spaced out, or bent."""
    track = rng.choice([0, 0, 0, rng.uniform(-0.04, 0), rng.uniform(0, 0.25)]) * SIZE
    bend = rng.uniform(-1, 1) * 0.5 if len(text) > 3 and rng.random() < 0.15 else 0
    widths = [face.getlength(sign) + track for sign in text]
    total = max(1, sum(widths))
    side = SIZE * 2
    mask = Image.new("L", (round(total) + side, SIZE * (4 if bend else 3)))
    x = side / 2
    for sign, width in zip(text, widths):
        if bend:
            along = (x + width / 2 - side / 2) / total - 0.5
            angle, lift = -bend * along * 2, bend * total * along * along
            tile = Image.new("L", (side, side))
            ImageDraw.Draw(tile).text((side / 2, side / 2), sign, fill=255, font=face, anchor="mm")
            tile = tile.rotate(math.degrees(angle), Image.BICUBIC)
            mask.paste(255, (round(x + width / 2 - side / 2), round(SIZE + lift)), tile)
        else:
            ImageDraw.Draw(mask).text((x, SIZE * 2), sign, fill=255, font=face, anchor="ls")
        x += width
    box = mask.getbbox()
    return mask.crop(box) if box else None


def seen(rng, image):
    """Turned, slanted, or from the side."""
    width, height = image.size
    if rng.random() < 0.6:
        most = 0.35 if rng.random() < 0.12 else 0.1
        slope = rng.uniform(-most, most) * height / max(width, height)
        quad = [0, 0, 0, height, width, height, width, 0]
        moved = [value + rng.uniform(-0.1, 0.1) * height for value in quad]
        for corner in (5, 7):
            moved[corner] += slope * width
        for corner in (1, 3):
            moved[corner] -= slope * width
        if rng.random() < 0.5:
            lean = rng.uniform(-0.25, 0.25) * height
            moved[0] += lean
            moved[6] += lean
        return image.transform(image.size, Image.QUAD, moved, Image.BICUBIC)
    return image


class Scenes:
    def __init__(self, args):
        self.args = args
        faces = lambda folder: sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf"))
        plain = faces(args.fonts)
        heavy = [path for path in plain if "bold" in path.lower() or "demi" in path.lower()]
        self.faces = [faces(args.display), heavy, plain]
        self.lines = read_corpus(args.corpus)

    def word(self, rng):
        kind = rng.random()
        if kind < 0.1:
            number = rng.randrange(10 ** rng.randint(1, 4))
            return rng.choice([f"{number}", f"{number}", f"${number}", f"{number}%", f"{number / 100:.2f}", f"{number}{rng.choice(string.ascii_uppercase)}"])
        if kind < 0.16:
            return "".join(rng.choice(string.ascii_uppercase + string.digits) for _ in range(rng.randint(1, 7)))
        words = [word for word in rng.choice(self.lines).split() if len(word) < 15]
        text = rng.choice(words or ["the"])
        if rng.random() < 0.85:
            text = text.strip(".,;:()\"'!?") or text
        case = rng.random()
        return text.upper() if case < 0.55 else text.capitalize() if case < 0.75 else text

    def picture(self, index):
        rng = random.Random(f"{self.args.seed}/{index}")
        while True:
            text = self.word(rng)
            path = rng.choice(rng.choices(self.faces, [0.45, 0.3, 0.25])[0])
            mask = letters(rng, text, font(path, SIZE))
            if mask and mask.width > 6 and mask.height > 6:
                break
        image = self.scene(rng, mask, path)
        height = rng.choice([16, 20, 24, 30, 36, 48, 64, 96, 128])
        if height < image.height:
            size = (max(8, round(image.width * height / image.height * rng.uniform(0.8, 1.2))), height)
            image = image.resize(size, rng.choice([Image.BILINEAR, Image.BICUBIC, Image.BOX]))
        if rng.random() < 0.35:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
        if rng.random() < 0.5:
            image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.4, 1.3))
            image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.3))
        name = f"images/{index:06}.jpg"
        image.save(self.args.out / name, "JPEG", quality=rng.randint(40, 95))
        name_of = f"{self.args.out.name}_{index}"
        asked = [{"from": "human", "value": f"<image>\n{rng.choice(ASKED)}"}, {"from": "gpt", "value": text}]
        box = [[0, 0], [image.width, 0], [image.width, image.height], [0, image.height]]
        read = {"id": name_of, "image": name, "width": image.width, "height": image.height, "words": [{"text": text, "quad": box}]}
        return {"id": name_of, "image": name, "conversations": asked}, read

    def scene(self, rng, mask, path):
        edge = [rng.uniform(0.02, 0.3) for _ in range(4)]
        # More ground than is cut out in the end, so that no corner is empty.
        spare = round(0.4 * mask.height)
        pad = [round(part * mask.height) + 1 + spare for part in edge]
        size = (mask.width + pad[0] + pad[1], mask.height + pad[2] + pad[3])
        base = colour(rng)
        image = ground(rng, size, base)
        ink = apart(rng, base, rng.choice([25, 60, 60, 100]))
        whole = Image.new("L", size)
        whole.paste(mask, (pad[0], pad[2]))
        if rng.random() < 0.2:  # A piece of what stands above or below.
            other = letters(rng, self.word(rng), font(path, SIZE))
            if other:
                above = rng.random() < 0.5
                shown = spare + round(rng.uniform(0.1, 0.8) * (pad[2 if above else 3] - spare))
                image.paste(ink, (spare + rng.randint(-20, 20), shown - other.height if above else size[1] - shown), other)
        if rng.random() < 0.3:
            far = rng.randint(1, 6)
            shadow = ImageChops.offset(whole, rng.choice([-far, far]), far).filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))
            dark = tuple(level // 3 for level in base) if rng.random() < 0.7 else colour(rng)
            image.paste(dark, (0, 0), shadow)
        if rng.random() < 0.3:
            outline = whole.filter(ImageFilter.MaxFilter(rng.choice([3, 5, 7, 9])))
            image.paste(apart(rng, ink, 60), (0, 0), outline)
        kind = rng.random()
        fill = Image.new("RGB", size, ink)
        if kind < 0.2:
            fill = graded(rng, size, ink, apart(rng, base, 40))
        elif kind < 0.3:
            fill = grained(rng, size, ink)
        image.paste(fill, (0, 0), whole)
        return seen(rng, image).crop((spare, spare, size[0] - spare, size[1] - spare))


def pictures(first):
    return [SCENES.picture(index) for index in range(first, min(first + CHUNK, SCENES.args.n))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["fonts", "display", "corpus", "out"]:
        parser.add_argument(name, type=Path)
    parser.add_argument("-n", type=int, required=True, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    global SCENES  # Forked processes take it along.
    SCENES = Scenes(args)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        made = [one for chunk in pool.map(pictures, range(0, args.n, CHUNK)) for one in chunk]
    (args.out / "words.jsonl").write_text("".join(json.dumps(read, ensure_ascii=False) + "\n" for _, read in made), "utf-8")
    write(args.out / "small.json", (sample for sample, _ in made))
    print(f"{args.out}: {len(made)} words")


if __name__ == "__main__":
    main()
