"""The published formulas in plain Python, to be timed beside ours by metrics.rs.

Reads {"rounds": n, "sets": {metric: [[answer, [reference, ...]], ...]}} from the file named on the command line
and prints {metric: {"seconds": of the fastest round, "scores": [...]}}. Standard library only.
"""

import json
import math
import re
import sys
import time
from collections import Counter, defaultdict

SIGNS = ";/[]\"{}()=+\\_-><@`,?!"
NUMBERS = {w: str(n) for n, w in enumerate("zero one two three four five six seven eight nine ten".split())}
NUMBERS["none"] = "0"
DIGIT_COMMA = re.compile(r"(\d)(,)(\d)")
FULL_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")


def contractions():
    """The table of the normaliser in Rust, so that it stands in one place."""
    path = sys.argv[0].rsplit("benches", 1)[0] + "src/vqa_normalise.rs"
    with open(path, encoding="utf-8") as source:
        table = source.read().split("const CONTRACTIONS", 1)[1].split("];", 1)[0]
    return dict(re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)",?\s*\)', table))


CONTRACTIONS = contractions()


def without_signs(text):
    out = text
    for sign in SIGNS:
        if sign + " " in text or " " + sign in text or DIGIT_COMMA.search(text):
            out = out.replace(sign, "")
        else:
            out = out.replace(sign, " ")
    return FULL_STOP.sub("", out, count=32)


def vqa_words(text):
    text = without_signs(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def has_word(text, word):
    return re.search(r"\b" + re.escape(word) + r"\b", text) is not None


def multimodal_ocr_vqa(answer, references):
    answer = vqa_words(answer)
    return float(any(has_word(answer, vqa_words(reference)) for reference in references))


def multimodal_ocr_recognition(answer, references):
    def plain(text):
        return re.sub(r"[^a-zA-Z0-9\s]", "", text).lower()

    answer = plain(answer)
    return float(any(has_word(answer, plain(reference)) for reference in references))


def ocrbench(answer, references):
    answer = answer.lower().strip().replace("\n", " ")
    return float(any(reference.lower().strip().replace("\n", " ") in answer for reference in references))


def levenshtein(a, b):
    if len(a) > len(b):
        a, b = b, a
    row = range(len(a) + 1)
    for j, y in enumerate(b):
        following = [j + 1]
        for i, x in enumerate(a):
            if x == y:
                following.append(row[i])
            else:
                following.append(1 + min(row[i], row[i + 1], following[-1]))
        row = following
    return row[-1]


def anls(answer, references):
    values = []
    for reference in references:
        distance = levenshtein(" ".join(reference.lower().split()), " ".join(answer.lower().split()))
        length = max(len(reference.upper()), len(answer.upper()))
        values.append(distance / length if length else 0.0)
    similarity = 1 - min(values)
    return similarity if similarity >= 0.5 else 0.0


def anls_pypi(answer, references):
    best = 0.0
    answer = " ".join(answer.lower().split())
    for reference in references:
        reference = " ".join(reference.lower().split())
        length = max(len(reference), len(answer))
        ratio = levenshtein(reference, answer) / length if length else 0.0
        best = max(best, 1 - ratio if ratio < 0.5 else 0.0)
    return best


def textvqa_m4c(answer, references):
    def words(text):
        return vqa_words(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())

    answer = words(answer)
    given = [words(reference) for reference in references]
    scores = {}
    for unique in set(given):
        shares = []
        for at in range(len(given)):
            others = [other for i, other in enumerate(given) if i != at]
            shares.append(min(1, sum(other == unique for other in others) / 3))
        scores[unique] = sum(shares) / len(shares)
    return scores.get(answer, 0.0)


def chartqa_relaxed(answer, references):
    def value(text):
        try:
            return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
        except ValueError:
            return None

    def right(reference):
        number, target = value(answer), value(reference)
        if number is not None and target:
            return abs(number - target) / abs(target) <= 0.05
        return answer.lower() == reference.lower()

    return float(any(right(reference) for reference in references))


PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def token_f1(answer, references):
    def words(text):
        text = "".join(c for c in text.lower() if c not in PUNCTUATION)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    best = 0.0
    answer = words(answer)
    for reference in references:
        reference = words(reference)
        if not answer or not reference:
            best = max(best, float(answer == reference))
            continue
        common = sum((Counter(answer) & Counter(reference)).values())
        if common:
            precision, recall = common / len(answer), common / len(reference)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def ngrams(text):
    words = text.split()
    counts = defaultdict(int)
    for n in range(1, 5):
        for at in range(len(words) - n + 1):
            counts[tuple(words[at : at + n])] += 1
    return len(words), counts


def bleu_4(answer, references):
    length, counts = ngrams(answer)
    most, lengths = {}, []
    for reference in references:
        reference_length, reference_counts = ngrams(reference)
        lengths.append(reference_length)
        for ngram, count in reference_counts.items():
            most[ngram] = max(most.get(ngram, 0), count)
    matches = [0] * 4
    for ngram, count in counts.items():
        matches[len(ngram) - 1] += min(count, most.get(ngram, 0))
    nearest = min((abs(other - length), other) for other in lengths)[1]
    product = 1.0
    for n in range(4):
        product *= (matches[n] + 1e-15) / (max(0, length - n) + 1e-9)
    ratio = (length + 1e-15) / (nearest + 1e-9)
    return product**0.25 * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def rouge_l(answer, references):
    answer = answer.split(" ")
    precision = recall = 0.0
    for reference in references:
        reference = reference.split(" ")
        table = [[0] * (len(answer) + 1) for _ in range(len(reference) + 1)]
        for i in range(1, len(reference) + 1):
            for j in range(1, len(answer) + 1):
                if reference[i - 1] == answer[j - 1]:
                    table[i][j] = table[i - 1][j - 1] + 1
                else:
                    table[i][j] = max(table[i - 1][j], table[i][j - 1])
        precision = max(precision, table[-1][-1] / len(answer))
        recall = max(recall, table[-1][-1] / len(reference))
    if not precision or not recall:
        return 0.0
    return 2.44 * precision * recall / (recall + 1.44 * precision)


def cider_d(rows):
    cooked = [(ngrams(answer)[1], [ngrams(reference)[1] for reference in references]) for answer, references in rows]
    frequency = defaultdict(float)
    for _, references in cooked:
        for ngram in {ngram for reference in references for ngram in reference}:
            frequency[ngram] += 1
    log_rows = math.log(len(rows))

    def vector(counts):
        weights = [defaultdict(float) for _ in range(4)]
        norms, length = [0.0] * 4, 0
        for ngram, count in counts.items():
            n = len(ngram) - 1
            weight = count * (log_rows - math.log(max(1.0, frequency[ngram])))
            weights[n][ngram] = weight
            norms[n] += weight * weight
            if n == 1:
                length += count
        return weights, [math.sqrt(norm) for norm in norms], length

    scores = []
    for answer, references in cooked:
        own, own_norms, own_length = vector(answer)
        total = 0.0
        for reference in references:
            other, other_norms, other_length = vector(reference)
            penalty = math.exp(-((own_length - other_length) ** 2) / 72)
            for n in range(4):
                product = 0.0
                for ngram, weight in own[n].items():
                    product += min(weight, other[n][ngram]) * other[n][ngram]
                if own_norms[n] and other_norms[n]:
                    product /= own_norms[n] * other_norms[n]
                total += product * penalty
        scores.append(10 * total / 4 / len(references))
    return scores


def main():
    with open(sys.argv[1], encoding="utf-8") as source:
        given = json.load(source)
    result = {}
    for name, rows in given["sets"].items():
        score = globals()[name]
        best = math.inf
        for _ in range(given["rounds"]):
            start = time.perf_counter()
            scores = score(rows) if name == "cider_d" else [score(*row) for row in rows]
            best = min(best, time.perf_counter() - start)
        result[name] = {"seconds": best, "scores": scores}
    json.dump(result, sys.stdout)


main()
