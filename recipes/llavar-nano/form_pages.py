#!/usr/bin/env python3
"""Text-only lessons in reading forms: blocks of entries beside and below each other, as OCR text lays them out.

    form_pages.py CORPUS OUT.json -n PAGES [--seed N]

copy_pages.py teaches to find an entry in a line. On forms a value also stands below its label, goes on over several
lines beside other entries, or is a column or a row of a table, and labels are misread. Labels and values are random, so
that nothing but the place tells what belongs together. Answers are label and value as the form means them.
"""

import random

from answers import ABSENT, SEVERAL, VALUE_FOR, WISH, entry
from copy_pages import Pages, arguments, conversation, read_corpus, spread, write

PUBLISHED = ['what is "{0}" information in the image?', VALUE_FOR + WISH]
ASKED = PUBLISHED + PUBLISHED[:1] * 2 + ['What is filled in for "{0}"?', 'Which entry belongs to "{0}"?', 'What is the value of "{0}"?']
MISREAD = {"O": "0", "0": "O", "I": "l", "l": "1", "1": "l", "S": "5", "5": "S", "B": "8", "8": "B", "e": "c", "m": "rn", "i": "l", "G": "6", ".": ",", ":": ".", "h": "b", "a": "o"}


class Block:
    """Lines of strings at columns, and the entries in them."""

    def __init__(self):
        self.lines, self.entries = [], []

    def width(self):
        return max((at + len(text) for line in self.lines for at, text in line), default=0)


def together(entries):
    """One entry for each label, with every value of it; what would be too long to answer is left out."""
    found = {}
    for label, value in entries:
        found.setdefault(label.lower(), (label, []))[1].append(value)
    said = [(label, SEVERAL.join(dict.fromkeys(values))) for label, values in found.values()]
    return [pair for pair in said if len(pair[1]) < (260 if SEVERAL not in pair[1] else 700)]


class Forms(Pages):
    def label(self, rng):
        if self.used and rng.random() < 0.08:  # The same label once more.
            return rng.choice(self.used)
        self.used.append(self.fresh(rng))
        return self.used[-1]

    def fresh(self, rng):
        text = self.name(rng)[:32].strip()
        text = text.upper() if rng.random() < 0.5 else text
        return text + rng.choice([":", ":", ":", "", "", ".", "?", " -"])

    def single(self, rng):
        return self.value(rng)[:48].strip() or "-"

    def several(self, rng):
        return [self.phrase(rng, rng.choice([2, 3, 5, 8]))[:56] for _ in range(rng.randint(2, 5))]

    def beside(self, rng):
        """Labels with their values to the right, all values at one column or each behind its label."""
        block, rows = Block(), rng.randint(1, 7)
        labels = [self.label(rng) for _ in range(rows)]
        column = max(map(len, labels)) + rng.randint(1, 8) if rng.random() < 0.6 else 0
        for label in labels:
            at = column or len(label) + rng.randint(1, 4)
            kind = rng.random()
            value = [] if kind < 0.12 else self.several(rng) if kind < 0.35 else [self.single(rng)]
            block.lines.append([(0, label)] + [(at, text) for text in value[:1]])
            back = at if rng.random() < 0.7 else 0  # Paragraphs go on at the margin.
            block.lines += [[(back, text)] for text in value[1:]]
            if value:
                block.entries.append((label, " ".join(value)))
            block.lines += [[]] * (rng.random() < 0.1)
        return block

    def below(self, rng):
        """A row of labels, values below them, as in boxes of a form."""
        block = Block()
        for _ in range(rng.randint(1, 3)):
            labels = [self.label(rng) for _ in range(rng.randint(1, 4))]
            values = [[] if rng.random() < 0.25 else self.several(rng)[: rng.choice([1, 1, 1, 2, 3])] if rng.random() < 0.4 else [self.single(rng)[:28]] for _ in labels]
            at, places = 0, []
            for label, value in zip(labels, values):
                places.append(at)
                at += max([len(label), *map(len, value)]) + rng.randint(2, 9)
            shift = rng.randint(0, 3)
            block.lines.append(list(zip(places, labels)))
            for row in range(max(map(len, values))):
                block.lines.append([(place + shift, value[row]) for place, value in zip(places, values) if row < len(value)])
            block.entries += [(label, " ".join(value)) for label, value in zip(labels, values) if value]
        return block

    def table(self, rng):
        """Heads of columns over rows; one who asks for a head or for the first cell of a row gets what is below or beside."""
        block, columns, rows = Block(), rng.randint(2, 5), rng.randint(2, 6)
        named = rng.random() < 0.5  # The first column names the rows.
        heads = [self.label(rng)[:16].strip() for _ in range(columns)]
        kinds = [rng.random() < 0.6 for _ in heads]
        cells = [[None if rng.random() < 0.08 else self.figure(rng)[:14] if kinds[c] else self.phrase(rng, 2)[:18] for c in range(columns)] for _ in range(rows)]
        if named:
            for row in cells:
                row[0] = self.label(rng)[:20].strip()
        widths = [max([len(heads[c]), *(len(row[c] or "") for row in cells)]) for c in range(columns)]
        gap = rng.randint(2, 7)
        places = [sum(widths[:c]) + gap * c for c in range(columns)]
        block.lines.append([(places[c], heads[c]) for c in range(columns) if c or not named])
        for row in cells:
            block.lines.append([(places[c], row[c]) for c in range(columns) if row[c]])
        for c in range(named, columns):
            column = [row[c] for row in cells if row[c]]
            if column:
                block.entries.append((heads[c], " ".join(column)))
        if named:
            block.entries += [(row[0], " ".join(filter(None, row[1:]))) for row in cells if any(row[1:])]
        return block

    def sections(self, rng):
        """The same few labels again and again, each time with other values: people, places, shops of a report."""
        block, count = Block(), rng.choice([2, 2, 3, 3, 4, 5, 6, 8, 12, 18])
        labels = [self.label(rng) for _ in range(rng.choice([1, 1, 2, 2, 3, 4]))]
        across, under = rng.random() < 0.4, rng.random() < 0.35
        gap, room = rng.randint(1, 5), rng.random() < 0.5
        for _ in range(count):
            values = [None if rng.random() < 0.1 else self.single(rng)[: rng.choice([8, 16, 28])].strip() or "-" for _ in labels]
            if across:  # Side by side, values behind or below their labels.
                at, heads, below = 0, [], []
                for label, value in zip(labels, values):
                    heads.append((at, label))
                    (below if under else heads).append((at if under else at + len(label) + gap, value or ""))
                    at += (max(len(label), len(value or "")) if under else len(label) + gap + len(value or "")) + rng.randint(2, 6)
                block.lines += [heads] + [below] * under
            else:
                for label, value in zip(labels, values):
                    block.lines += [[(0, label)], [(gap, value or "")]] if under else [[(0, label), (len(label) + gap, value or "")]]
            block.entries += [(label, value) for label, value in zip(labels, values) if value]
            block.lines += [[]] * room
        block.lines = [[(at, text) for at, text in line if text] for line in block.lines]
        return block

    def loose(self, rng):
        """Headings, sentences, numbers of pages: nothing that is asked for."""
        block = Block()
        for _ in range(rng.randint(1, 3)):
            block.lines.append([(rng.randint(0, 30), self.phrase(rng, rng.choice([3, 6, 12])))])
        return block

    def block(self, rng):
        kind = rng.random()
        return (self.beside if kind < 0.45 else self.below if kind < 0.67 else self.table if kind < 0.82 else self.loose)(rng)

    def form(self, rng):
        lines, entries, self.used = [], [], []
        if rng.random() < 0.3:
            first = self.sections(rng)
            lines, entries = list(first.lines), list(first.entries)
        while len(lines) < 6 or len(lines) < 26 and rng.random() < 0.7:
            left, margin = self.block(rng), rng.randint(0, 8)
            entries += left.entries
            rows = [[(at + margin, text) for at, text in row] for row in left.lines]
            if left.width() < 46 and rng.random() < 0.45:  # Another block to its right.
                right, start = self.block(rng), margin + left.width() + rng.randint(3, 10)
                entries += right.entries
                first = rng.randint(0, 2)
                rows += [[] for _ in range(first + len(right.lines) - len(rows))]
                for row, more in zip(rows[first:], right.lines):
                    row += [(at + start, text) for at, text in more]
            lines += rows
        return lines, entries

    def round(self, rng, label, value):
        """A question and its answer."""
        return rng.choice(ASKED).format(label if rng.random() < 0.8 else label.rstrip(":")), entry(label, value)

    def misread(self, rng, text):
        at = rng.randrange(len(text))
        if rng.random() < 0.3 and " " in text:
            return text.replace(" ", "", 1)
        return text[:at] + MISREAD.get(text[at], text[at]) + text[at + 1 :]

    def sample(self, seed, index):
        rng = random.Random(f"{seed}/{index}")
        while True:
            lines, entries = self.form(rng)
            entries = together(entries)
            if not entries:
                continue
            asked = rng.sample(entries, min(len(entries), rng.randint(1, 6)))
            again = [pair for pair in entries if SEVERAL in pair[1]]
            if again and rng.random() < 0.7 and not any(pair in asked for pair in again):
                asked[0] = rng.choice(again)
            # Labels are misread now and then; values stay, since nothing would tell what they were.
            wrong = {label for label, _ in entries if rng.random() < 0.08}
            rows, squeeze = [], rng.uniform(0.6, 1.0)
            for line in lines:
                row = ""
                for at, text in line:
                    at = max(round(at * squeeze), len(row) + (2 if row else 0))
                    row = row.ljust(at) + (self.misread(rng, text) if text in wrong else text)
                if row.strip():
                    rows.append(row)
            rounds = [self.round(rng, label, value) for label, value in asked]
            if rng.random() < 0.12:
                other = self.fresh(rng)
                if not any(other.strip(" :.?-").lower() in text.lower() for line in lines for _, text in line):
                    rounds[rng.randrange(len(rounds))] = (rng.choice(ASKED).format(other), ABSENT)
            text = "\n".join(rows)
            if len(text) < 2600:
                return conversation(f"form_{seed}_{index}", text, rounds)


def main():
    parser = arguments(__doc__)
    args = parser.parse_args()
    forms = Forms(read_corpus(args.corpus), [1, 1], 1)
    write(args.out, spread(lambda index: forms.sample(args.seed, index), args.n))


if __name__ == "__main__":
    main()
