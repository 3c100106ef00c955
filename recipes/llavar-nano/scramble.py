#!/usr/bin/env python3
"""Real pages with other words and figures in them: the layout of receipts and forms without what stands there.

    scramble.py CORPUS OUT.json -n SAMPLES [--seed N] [--share S] SET-ask-ocr.json ...

A few hundred training pages are learnt by heart in a few epochs, and a model that knows an answer by heart does not
look it up. So every run of letters and of digits of a page is exchanged for another one, the same wherever it stands
in the text, the question and the answer: figures always, words of which answers are made nearly always, other words in a
share S of the pages (default 0.5). What a question says outside quotation marks stays, so TOTAL does where the total
is asked for. Samples have no picture, since it would not show what the text says. Answers of which the text does not
have every run are left out. Half of the pages lose lines that nobody asks for, have a few of another page put between,
and other gaps, so that there are more layouts than pages. Fields are answered in one way each (answers.py).
"""

import json
import random
import re
from collections import defaultdict
from pathlib import Path

from answers import asked_otherwise, sentence
from copy_pages import PREFIX, arguments, conversation, read_corpus, spread, write

RUN = re.compile(r"[A-Za-z]+|[0-9]+")
GAP = re.compile(r" {2,}")
QUOTED = re.compile(r'"[^"]*"')
# How people ask for the four fields of a receipt; evaluation asks the first way.
ASKED = {
    "what is the total amount of this invoice?": [
        "what is the total?", "What is the total amount?", "how much was paid in total?", "How much is it?", "total?",
        "What does the whole bill come to?", "Total amount:", "How much did they pay?", "what is the amount due?",
    ],
    "when was this invoice issued?": [
        "what is the date?", "When was this?", "On which day was it bought?", "date?", "What date is on the receipt?",
        "Date of the receipt:", "when was this receipt printed?",
    ],
    "where was this invoice issued?": [
        "what is the address?", "Where is this shop?", "address?", "What is the address of the store?", "Where was it bought?", "Address:",
    ],
    "what is the name of the company that issued this invoice?": [
        "which company is this from?", "What is the name of the shop?", "Who sold it?", "company?", "Which store is this receipt from?", "Name of the company:",
    ],
}


class Page:
    def __init__(self, image, text):
        self.image, self.text = image, text
        self.runs = {run.lower() for run in RUN.findall(text)}
        self.rounds = []


def read_pages(paths):
    pages = {}
    for path in paths:
        for sample in json.loads(Path(path).read_text("utf-8")):
            asked, answer = (turn["value"] for turn in sample["conversations"][:2])
            text, question = asked.split(PREFIX, 1)[1].rsplit("\n", 1)
            page = pages.setdefault((sample["image"], text), Page(sample["image"], text))
            runs = RUN.findall(answer)
            if runs and all(run.lower() in page.runs for run in runs):
                page.rounds.append((question, answer))
    return [page for page in pages.values() if page.rounds]


def cased(word, like):
    """The word in capitals as like is written; figures are as they are."""
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word.lower()


class Scrambler:
    def __init__(self, pages, lines, share):
        self.pages, self.share = pages, share
        words = {word for line in lines for word in RUN.findall(line) if word.isalpha()}
        self.words = defaultdict(list)
        for word in sorted(words):
            self.words[min(len(word), 12)].append(word.lower())

    def sample(self, seed, index):
        rng = random.Random(f"{seed}/{index}")
        page = rng.choice(self.pages)
        rounds = rng.sample(page.rounds, min(len(page.rounds), rng.choice([1, 1, 2, 4, 6])))
        changed = self.change(rng, rounds, rng.random() < self.share)
        text = changed(self.relaid(rng, page, rounds) if rng.random() < 0.5 else page.text)
        return conversation(f"scrambled_{seed}_{index}", text, self.turns(rng, page, rounds, changed))

    def change(self, rng, rounds, others):
        """What exchanges the runs of a page in any text of it, each the same everywhere."""
        answered = {run.lower() for _, answer in rounds for run in RUN.findall(answer)}
        # None stays.
        swap = {run.lower(): None for question, _ in rounds for run in RUN.findall(QUOTED.sub("", question))}

        def exchanged(match):
            run = match[0]
            key = run.lower()
            if key not in swap:
                swap[key] = self.other(rng, run, key in answered, others)
            new = swap[key]
            return run if new is None else cased(new, run)

        return lambda text: RUN.sub(exchanged, text)

    def turns(self, rng, page, rounds, changed):
        """The questions and answers of a page after the change."""
        turns, seen = [], set()
        for question, answer in rounds:
            published = question = QUOTED.sub(lambda quoted: changed(quoted[0]), question)
            if question in ASKED and rng.random() < 0.6:
                question = rng.choice(ASKED[question])
            if question not in seen:
                seen.add(question)
                asked = asked_otherwise(page.image, question, rng)
                turns.append((asked, sentence(page.image, published, changed(answer), alone=True)))
        return turns

    def relaid(self, rng, page, rounds):
        """The text of a page in another layout: all lines stay that have a run of a question or an answer in them."""
        asked = {run.lower() for pair in rounds for part in pair for run in RUN.findall(part)}
        lose, out = rng.uniform(0, 0.6), []
        for line in page.text.split("\n"):
            runs = {run.lower() for run in RUN.findall(line)}
            if runs & asked or rng.random() >= lose:
                out.append(line)
        if rng.random() < 0.3:
            other = rng.choice(self.pages).text.split("\n")
            first, at = rng.randrange(len(other)), rng.choice([0, len(out)])
            lines = [line for line in other[first : first + rng.randint(1, 8)]]
            out[at:at] = [line for line in lines if not {run.lower() for run in RUN.findall(line)} & asked]
        scale = rng.uniform(0.5, 1.6)
        return "\n".join(GAP.sub(lambda gap: " " * max(2, round(len(gap[0]) * scale)), line) for line in out)

    def other(self, rng, run, answered, others):
        """What stands for a run on this page, or None where it stays."""
        if run.isdigit():
            # Years and other leading digits stay likely: half of the figures keep their first digit.
            keep = 1 if rng.random() < 0.5 else 0
            return run[:keep] + "".join(rng.choice("0123456789") for _ in run[keep:])
        if len(run) == 1 or not (answered and rng.random() < 0.9 or others and rng.random() < 0.7):
            return None
        size = max(2, min(12, len(run) + rng.randint(-2, 2)))
        return rng.choice(self.words.get(size) or self.words[5])


def main():
    parser = arguments(__doc__)
    parser.add_argument("asked", nargs="+", help="SET-ask-ocr.json files")
    parser.add_argument("--share", type=float, default=0.5, help="share of the pages in which all words change")
    args = parser.parse_args()
    scrambler = Scrambler(read_pages(args.asked), read_corpus(args.corpus), args.share)
    write(args.out, spread(lambda index: scrambler.sample(args.seed, index), args.n))


if __name__ == "__main__":
    main()
