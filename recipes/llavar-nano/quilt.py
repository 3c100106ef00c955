"""Forms that no office ever printed: strips of several real forms below each other, with their boxes and entries.

149 training forms are as many layouts, however often their words change; test forms have others. A strip is a run of
rows between gaps that no word crosses and no entry spans, so what belongs together stays together.
"""

from PIL import Image

from answers import SEVERAL


def bands(boxes, entries):
    """Top and bottom of the parts of a form that can stand alone, from the top."""
    spans = {}
    for _, y0, _, y1, _, number in boxes:
        # Boxes of words reach a little into the next row: their inner part counts.
        slack = (y1 - y0) * 0.15
        top, bottom = spans.get(number, (y0 + slack, y1 - slack))
        spans[number] = min(top, y0 + slack), max(bottom, y1 - slack)
    joined = list(spans.values())
    for numbers, _, value in entries:
        there = [spans[number] for number in numbers if number in spans]
        if there and SEVERAL not in value:
            joined.append((min(top for top, _ in there), max(bottom for _, bottom in there)))
    out = []
    for top, bottom in sorted(joined):
        if out and top < out[-1][1]:
            out[-1][1] = max(out[-1][1], bottom)
        else:
            out.append([top, bottom])
    return out


def strip(image, boxes, entries, height, rng):
    """A run of bands of about that height: the picture of it, its boxes, the entries of which it has every word."""
    parts = bands(boxes, entries)
    first = rng.randrange(len(parts))
    last = first
    while last + 1 < len(parts) and parts[last + 1][1] - parts[first][0] < height:
        last += 1
    top, bottom = parts[first][0], parts[last][1]
    above = (parts[first - 1][1] + top) / 2 if first else max(0, top - 20)
    below = (parts[last + 1][0] + bottom) / 2 if last + 1 < len(parts) else min(image.height, bottom + 20)
    above, below = round(max(above, top - 40)), round(min(below, bottom + 40))
    inside = [(x0, y0 - above, x1, y1 - above, *more) for x0, y0, x1, y1, *more in boxes if top <= (y0 + y1) / 2 <= bottom]
    there = {box[5] for box in inside}
    return image.crop((0, above, image.width, below)), inside, [one for one in entries if one[0] <= there]


def quilt(forms, rng):
    """A page of strips: picture, boxes, entries. `forms` yields the picture, boxes and entries of one form after another."""
    width, height = rng.randint(640, 860), rng.choice([500, 700, 900, 1000, 1100])
    page, at = Image.new("L", (width, height + 400), 255), rng.randint(0, 30)
    boxes, said = [], {}
    for turn, (image, its_boxes, its_entries) in enumerate(forms):
        cut, inside, entries = strip(image, its_boxes, its_entries, rng.uniform(0.1, 0.6) * height, rng)
        # Some strips are narrower than the page and stand anywhere on it.
        share = rng.uniform(0.75, 1.0) if rng.random() < 0.3 else rng.uniform(0.95, 1.05)
        scale = width * share / cut.width
        cut = cut.resize((round(cut.width * scale), max(1, round(cut.height * scale))), Image.BICUBIC)
        if at + cut.height > page.height:
            continue
        left = round(rng.uniform(0, width - cut.width)) if cut.width < width else 0
        page.paste(cut, (left, at))
        number = {old: (turn, old) for old in {box[5] for box in inside}}
        for x0, y0, x1, y1, text, old in inside:
            moved = [max(0, min(width, value * scale + left)) for value in (x0, x1)]
            if moved[1] - moved[0] > 2:
                boxes.append((moved[0], y0 * scale + at, moved[1], y1 * scale + at, text, number[old]))
        for numbers, label, value in entries:
            said.setdefault(label, []).append(({number[old] for old in numbers}, value))
        at += cut.height + rng.choice([0, 0, 4, 12, 30])
        if at > height or turn > 12:
            break
    # A label of several strips is one entry with every value, as on the forms themselves.
    entries = [
        (set().union(*(numbers for numbers, _ in found)), label, SEVERAL.join(dict.fromkeys(value for _, value in found)))
        for label, found in said.items()
    ]
    return page.crop((0, 0, width, max(60, min(at + rng.randint(0, 30), page.height)))), boxes, entries
