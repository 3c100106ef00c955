"""How far a model folder in 8 bits is from the folder that it was made of: answers and logits.

    python benches/int8_agreement.py PLAIN INT8 DATA OUT [QUESTIONS]

Asks both the first QUESTIONS (100) of SROIE, FUNSD and ChartQA (test parts below DATA, official layouts) without OCR
and counts equal answers and scores; then, where this Python has torch, safetensors, Pillow and tokenizers, compares
the logits of the answers' tokens on 10 SROIE receipts, given the same text. LLAVAR names the program.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SETS = {"sroie_test": "SROIE2019", "funsd": "FUNSD", "chartqa": "ChartQA Dataset"}
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def ask(model, data, out, questions):
    """Answers by task and question, and the score of every task."""
    program = os.environ.get("LLAVAR", "target/release/llavar")
    answers, scores = {}, {}
    for task, folder in SETS.items():
        command = ["eval", "run", "--task", task, "--data", data / folder, "--model", model, "--out", out]
        subprocess.run([program, *command, "--limit", str(questions)], check=True, stdout=subprocess.DEVNULL)
    for column in sorted(path.parent for path in out.glob("*/samples.jsonl")):
        rows = [json.loads(line) for line in (column / "samples.jsonl").open()]
        answers[column.name] = {row["question_id"]: row for row in rows}
        result = json.loads((column / "results.json").read_text())
        scores[column.name] = result["metrics"][0]
    return answers, scores


def compare_answers(plain, int8):
    for task in plain[0]:
        a, b = plain[0][task], int8[0][task]
        equal = sum(a[key]["text"] == b[key]["text"] for key in a)
        values = [side[1][task]["value"] for side in (plain, int8)]
        print(f"{task}: {equal} of {len(a)} answers equal, {plain[1][task]['metric']} {values[0]:.4f} and {values[1]:.4f}")


def compare_logits(plain, int8, rows, pictures):
    try:
        import torch
        from tokenizers import Tokenizer

        sys.path.insert(0, str(Path(__file__).parent / "../crates/llavar-assistant/tests/torch"))
        import llavar2
    except ImportError as error:
        print(f"SKIPPED logits: {error}")
        return
    tokenizer = Tokenizer.from_file(str(plain / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    models = [llavar2.Model(folder) for folder in (plain, int8)]
    bos = models[0].config["bos_token_id"]
    off = power = count = same = largest = 0.0
    for row in rows:
        before = [bos] + encode(SYSTEM + " USER: ") + [-200]
        answer = encode(" " + row["text"] + "</s>")
        ids = before + encode("\n" + row["prompt"] + " ASSISTANT:") + answer
        with torch.no_grad():
            pixels = llavar2.read_pixels(pictures / row["image"], models[0].config["input_image_size"])
            a, b = (model.answer(pixels, ids)[1][-len(answer) - 1 : -1] for model in models)
        a, b = (logits - logits.mean(-1, keepdim=True) for logits in (a, b))
        off += (a - b).pow(2).sum().item()
        power += a.pow(2).sum().item()
        largest = max(largest, (a - b).abs().max().item())
        same += (a.argmax(-1) == b.argmax(-1)).sum().item()
        count += len(a)
    print(
        f"logits of {int(count)} answer tokens: {(off / power) ** 0.5:.2%} of their size apart (root of mean squares, "
        f"mean removed), {largest:.3f} at most; the likeliest token is the same {int(same)} times"
    )


def main():
    plain, int8, data, out = map(Path, sys.argv[1:5])
    questions = int(sys.argv[5]) if len(sys.argv) > 5 else 100
    asked = [ask(model, data, out / name, questions) for name, model in (("plain", plain), ("int8", int8))]
    compare_answers(*asked)
    rows, seen = [], set()
    for row in asked[0][0]["sroie_test"].values():
        if row["image"] not in seen and len(seen) < 10:
            seen.add(row["image"])
            rows.append(row)
    compare_logits(plain, int8, rows, data / "SROIE2019/test/img")


if __name__ == "__main__":
    main()
