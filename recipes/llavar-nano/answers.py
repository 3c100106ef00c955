"""Questions for fields of receipts and forms answered in one way each, whatever the wording of the question.

Receipts by a sentence: where half of the answers were bare and half sentences, the bare ones were right half as often
(dates 52 against 99 of 171 receipts), since their first letters decide before anything was looked up. Entries of forms
by label and value, as they stand on the page: whoever copies the label has found the value.
"""

import re

RECEIPT = [  # What a question has, the sentence; the first that fits.
    (("address", "where"), "This invoice was issued at {}."),
    (("date", "when", "day"), "This invoice was issued on {}."),
    (("company", "shop", "seller", "who", "store"), "The company that issued this invoice is {}."),
    (("total", "much", "come to", "bill", "amount"), "The total amount of this invoice is {}."),
]
# For what is asked and is not there.
ABSENT = "This is not on the picture."
# Between the values of a label that stands several times.
SEVERAL = "; "
# What OCRBench adds to its questions; the answers stay as they are.
WISH = " Answer this question using the text in the image directly."
# How it asks for entries of forms.
VALUE_FOR = "what is the value for '{}'?"
FORM = [
    r'what is "(.*)" information in the image\?', r'what is the "(.*)" in this form\?', r'What is filled in for "(.*)"\?',
    r'What does the form say for "(.*)"\?', r'Which entry belongs to "(.*)"\?', r'What is the value of "(.*)"\?',
]
ASKED_ALONE = [r'What is written next to "(.*)"\?', r"What is the (.*)\?", r"(.*)"]


def receipt(question, answer):
    """The sentence for a question about one of the four fields, or None for any other question."""
    question = question.removesuffix(WISH).lower()
    for words, sentence in RECEIPT:
        if '"' not in question and any(word in question for word in words):
            return sentence.format(answer.removesuffix("."))
    return None


def form(question, answer, alone=False):
    """Label and value for a question about an entry of a form; alone: every question of a list is one."""
    for pattern in FORM + ASKED_ALONE * alone:
        found = re.fullmatch(pattern, question.strip(), re.DOTALL)
        if found and found[1].strip(" :"):
            return entry(found[1], answer)
    return None


def asked_otherwise(image, question, rng):
    """Now and then the question as OCRBench asks it."""
    found = re.fullmatch(FORM[0], question)
    if found and rng.random() < 0.3:
        return VALUE_FOR.format(found[1]) + WISH
    if "ChartQA" not in image and rng.random() < 0.3:
        return question + WISH
    return question


def entry(label, value):
    return f"{label.strip().removesuffix(':').strip()}: {value}"


def sentence(image, question, answer, alone=False):
    """The answer with its field named where the question asks for a field of a receipt or form, or as it is."""
    said = receipt(question, answer) if "SROIE" in image else form(question, answer, alone) if "FUNSD" in image else None
    return said or answer
