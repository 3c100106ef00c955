"""Compares adapters of llavar with those of the real PEFT, both ways; no test needs it.

    pip install torch transformers peft
    python benches/peft_check.py target/release/llavar

1. llavar trains a LoRA and a DoRA on a tiny Llama; PEFT loads the folder. Its logits must be those of the folder
   that `llavar model merge` makes of the same adapter.
2. PEFT makes a LoRA and a DoRA, saves them, and merges them itself; `llavar model merge` must give the same logits.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = "<unk> <s> </s> USER ASSISTANT : what is the total seven nine red green . A a".split()
LIMIT = 1e-4


def make_base(folder):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    special = lambda i, text: {
        "id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": True,
    }
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(i, text) for i, text in enumerate(WORDS[:3])],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }))


def logits(model):
    ids = torch.arange(1, 31).reshape(2, 15) % len(WORDS)
    with torch.no_grad():
        return model.eval()(ids).logits


def base_model(folder):
    return LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)


def check(what, got, want, base):
    off, moved = (got - want).abs().max().item(), (want - base).abs().max().item()
    print(f"{what}: largest difference of logits {off:.1e} (the adapter moves them by {moved:.2f})")
    assert off < LIMIT < moved / 10, what


def main():
    llavar = Path(sys.argv[1]).resolve()
    run = lambda *args: subprocess.run([str(llavar), *map(str, args)], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base = folder / "base"
        make_base(base)
        plain = logits(base_model(base))
        data = [{"id": str(i), "conversations": [
            {"from": "human", "value": "what is the total"}, {"from": "gpt", "value": f"the total is {w}"},
        ]} for i, w in enumerate(["seven", "nine", "red", "green"])]
        (folder / "data.json").write_text(json.dumps(data))
        for kind in ("LoRA", "DoRA"):
            dora = kind == "DoRA"
            out = folder / f"ours-{kind}"
            sets = [
                f"model_name_or_path={base}", f"data_path={folder / 'data.json'}", "max_steps=20", "save_steps=0",
                "per_device_train_batch_size=4", "learning_rate=2e-2", "lora_enable=true", "lora_r=8",
                f"use_dora={str(dora).lower()}", "train.device=cpu", "group_by_modality_length=false",
            ]
            run("train", "--recipe", "nano-sft", "--out", out, *[a for s in sets for a in ("--set", s)])
            run("model", "merge", "--adapter", out / "model", "--out", folder / f"merged-{kind}")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                theirs = PeftModel.from_pretrained(base_model(base), out / "model")
            lost = [str(w.message) for w in caught if "missing" in str(w.message) or "unexpected" in str(w.message)]
            assert not lost, lost
            check(f"{kind} of llavar in PEFT", logits(theirs), logits(base_model(folder / f"merged-{kind}")), plain)

            torch.manual_seed(2)
            config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "o_proj", "up_proj"], use_dora=dora)
            model = get_peft_model(base_model(base), config)
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.data += 0.1 * torch.randn_like(value)
            model.save_pretrained(folder / f"peft-{kind}")
            run("model", "merge", "--base", base, "--adapter", folder / f"peft-{kind}", "--out", folder / f"theirs-{kind}")
            check(f"{kind} of PEFT in llavar", logits(base_model(folder / f"theirs-{kind}")), logits(model), plain)
            merged = logits(model.merge_and_unload())
            check(f"{kind} merged by both", logits(base_model(folder / f"theirs-{kind}")), merged, plain)


if __name__ == "__main__":
    main()
