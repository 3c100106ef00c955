#!/usr/bin/env python3
"""Text-only lessons in looking things up: pages of random entries, as OCR text, and questions for them.

    copy_pages.py CORPUS OUT.json -n PAGES [--seed N] [--rows FEWEST MOST] [--questions MOST]

A language model learns to copy an answer out of the text only where it cannot know the answer otherwise, so values
are random strings, figures and lines of CORPUS in any combination, and names of entries are too. Few rows first.
The text stands before the first question exactly as `ask --ocr` puts it there.
"""

import argparse
import json
import multiprocessing
import random
import string
from pathlib import Path

from answers import entry

PREFIX = "Given OCR-based Page Parser Results:"
# {0} is the name of an entry.
WORDINGS = [
    'What is filled in for "{0}"?', 'Which entry belongs to "{0}"?', 'What is written next to "{0}"?',
    "{0}:", "What is the {0}?", "what does it say for {0}?", "{0}?", 'Give the value of "{0}".',
]
BELOW = ['Which line comes after "{0}"?', 'What is written below "{0}"?', 'What is the next line after "{0}"?']
ABOVE = ['Which line comes before "{0}"?', 'What is written above "{0}"?']
WHOLE = ['Which line has "{0}" in it?', 'Give the whole line that begins with "{0}".', 'How does the line "{0}" go on?']


def read_corpus(path):
    return [line for line in Path(path).read_text("utf-8").splitlines() if line]


class Pages:
    """Draws pages; equal seeds draw equal pages."""

    def __init__(self, lines, rows, questions):
        self.lines, self.rows, self.questions = lines, rows, questions

    def string(self, rng):
        signs = rng.choice([string.ascii_uppercase, string.ascii_lowercase, string.ascii_uppercase + string.digits, string.ascii_letters + string.digits])
        return "".join(rng.choice(signs) for _ in range(rng.randint(1, 9)))

    def figure(self, rng):
        number = rng.randrange(10 ** rng.randint(1, 7))
        return rng.choice([
            lambda: str(number), lambda: f"{number / 100:.2f}", lambda: f"{number / 100:,.2f}", lambda: f"RM{number / 100:.2f}", lambda: f"${number:,}",
            lambda: f"{number % 1000 / 10}%", lambda: f"{rng.randint(1, 31):02}/{rng.randint(1, 12):02}/{rng.choice(['', '19', '20'])}{rng.randint(0, 99):02}",
            lambda: f"{rng.randint(1, 31)}-{rng.choice('Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split())}-{rng.randint(0, 99):02}",
            lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}", lambda: f"{self.string(rng)}-{number}", lambda: f"({rng.randint(100, 999)}) {rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
        ])()

    def phrase(self, rng, most):
        words = rng.choice(self.lines).split()
        if rng.random() < 0.3:  # Words in no order that a language model could expect.
            words += rng.choice(self.lines).split()
            rng.shuffle(words)
        first = rng.randrange(len(words))
        text = " ".join(words[first : first + rng.randint(1, most)])
        return text.upper() if rng.random() < 0.35 else text

    def value(self, rng):
        kind = rng.random()
        if kind < 0.25:
            return self.string(rng) if rng.random() < 0.6 else f"{self.string(rng)} {self.string(rng)}"
        if kind < 0.55:
            return self.figure(rng)
        return self.phrase(rng, rng.choice([1, 2, 3, 4, 6, 10]))

    def name(self, rng):
        text = self.string(rng) if rng.random() < 0.2 else self.phrase(rng, rng.choice([1, 1, 2, 3, 4]))
        return text.strip(" :;,.?\"'") or "No"

    def page(self, rng):
        rows, entries, taken = [], [], set()
        columns = rng.random() < 0.25  # One long row of names over a row of values, now and then.
        colon = rng.choice([": ", ": ", " : ", ":    ", "     ", " "])
        indent = rng.randint(0, 20)

        def add():
            name, value = self.name(rng), self.value(rng)
            while name.lower() in taken:
                name += " " + self.string(rng)
            taken.add(name.lower())
            entries.append((name, value))
            return name, value

        for _ in range(rng.randint(*self.rows)):
            kind, pad = rng.random(), " " * max(0, indent + rng.randint(-4, 8))
            if kind < 0.6:
                cells = [add() for _ in range(rng.choice([1, 1, 1, 2, 2, 3]))]
                gap = " " * rng.randint(4, 14)
                if columns and len(cells) > 1:
                    rows += [pad + gap.join(name for name, _ in cells), pad + gap.join(value for _, value in cells)]
                else:
                    rows.append(pad + gap.join(f"{name}{colon}{value}" for name, value in cells))
            elif kind < 0.7:  # A value of several lines.
                name, value = add()
                more = [self.phrase(rng, 8) for _ in range(rng.randint(1, 2))]
                rows.append(f"{pad}{name}{colon}{value}")
                rows += [pad + " " * rng.randint(0, 8) + line for line in more]
                entries[-1] = (name, " ".join([value, *more]))
            else:
                rows.append(pad + self.phrase(rng, 12))
        return rows, entries

    def rounds(self, rng, rows, entries):
        asked = [
            (rng.choice(WORDINGS).format(name if rng.random() < 0.7 else name + ":"), entry(name, value)) for name, value in entries
        ]
        plain = [row.strip() for row in rows]
        for index in rng.sample(range(len(plain)), min(3, len(plain))):
            line = plain[index]
            if plain.count(line) > 1 or "  " in line or len(line) > 70:
                continue
            if index + 1 < len(plain):
                asked.append((rng.choice(BELOW).format(line), " ".join(plain[index + 1].split())))
            if index:
                asked.append((rng.choice(ABOVE).format(line), " ".join(plain[index - 1].split())))
            begin = " ".join(line.split()[:2])
            if sum(begin in other for other in plain) == 1:
                asked.append((rng.choice(WHOLE).format(begin), line))
        rng.shuffle(asked)
        return asked[: rng.randint(1, self.questions)]

    def sample(self, seed, index):
        rng = random.Random(f"{seed}/{index}")
        while True:
            rows, entries = self.page(rng)
            rounds = self.rounds(rng, rows, entries)
            if rounds:
                return conversation(f"copy_{seed}_{index}", "\n".join(rows), rounds)


def conversation(name, text, rounds):
    """A LLaVA JSON sample without a picture."""
    turns = []
    for index, (question, answer) in enumerate(rounds):
        asked = f"{PREFIX}{text}\n{question}" if index == 0 else question
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns}


def write(path, samples):
    """One sample a line, in a file that is there whole or not at all."""
    path = Path(path)
    aside = path.with_suffix(".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for index, sample in enumerate(samples):
            file.write((",\n" if index else "") + json.dumps(sample, ensure_ascii=False, separators=(",", ":")))
        file.write("\n]\n")
    aside.rename(path)


def spread(sample, number, chunk=200):
    """sample(0), sample(1), ... on all processors, in order; None is left out."""
    global DRAW  # Forked processes take it along.
    DRAW = sample
    with multiprocessing.get_context("fork").Pool() as pool:
        yield from (x for x in pool.imap(draw, range(number), chunk) if x is not None)


def draw(index):
    return DRAW(index)


def arguments(text):
    """What every script that writes samples without pictures is told."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("out")
    parser.add_argument("-n", type=int, required=True, help="samples")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[3, 26], help="fewest and most rows of a page")
    parser.add_argument("--questions", type=int, default=8, help="most questions for a page")
    args = parser.parse_args()
    pages = Pages(read_corpus(args.corpus), args.rows, args.questions)
    write(args.out, spread(lambda index: pages.sample(args.seed, index), args.n))


if __name__ == "__main__":
    main()
