"""Document questions a second with transformers, beside `llavar bench gpu --work docvqa`.

The same work on the same shape with random weights: 768 px pictures, 4 questions a picture, 12 + 576 + 28 tokens
a prompt, 8 new tokens an answer. `peer_torch.py` (the shape of LLaVAR-2-3.8B from timm and transformers, with
build() and Llavar.embeds) must be on PYTHONPATH. Two loops:

  one by one   what model_vqa.py does: every question encodes its picture and is answered alone
  batches      16 pictures encoded in one pass, 64 questions answered in one padded batch
"""

import json
import sys
import time

import torch

from peer_torch import bf, build, dev

PICTURES, QUESTIONS, TEXT, NEW = 16, 4, 40, 8


def answer(model, pictures, ids):
    """Ids of answers; pictures [B, 3, 768, 768] and ids [B * n, TEXT], n questions a picture."""
    each = len(ids) // len(pictures)
    seen = model.proj(model.vision(pictures)).repeat_interleave(each, 0)
    words = model.lm.get_input_embeddings()(ids)
    embeds = torch.cat([words[:, :12], seen, words[:, 12:]], 1)
    mask = torch.ones(embeds.shape[:2], device=dev, dtype=torch.long)
    return model.lm.generate(
        inputs_embeds=embeds, attention_mask=mask, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW
    )


def timed(name, questions, loop):
    with torch.no_grad():
        loop()
        torch.cuda.synchronize()
        start = time.time()
        loop()
        torch.cuda.synchronize()
    seconds = time.time() - start
    print(json.dumps({"loop": name, "questions": questions, "seconds": seconds, "questions_per_second": questions / seconds,
                      "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)


def main():
    model = build().eval()
    pictures = torch.randn(PICTURES, 3, 768, 768, device=dev, dtype=bf)
    ids = torch.randint(0, 32000, (PICTURES * QUESTIONS, TEXT), device=dev)

    def one_by_one():
        for i in range(32):
            picture = i // QUESTIONS
            answer(model, pictures[picture : picture + 1], ids[i : i + 1])

    def batches():
        for _ in range(4):
            answer(model, pictures, ids)

    timed("one by one", 32, one_by_one)
    timed("batches of 64", 4 * PICTURES * QUESTIONS, batches)


if __name__ == "__main__":
    sys.exit(main())
