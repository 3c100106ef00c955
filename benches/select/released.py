"""The released way of scoring on PyTorch, with a model folder of ours: what `llavar select` is compared to.

Three passes over the data like the three released scripts (IFD, VFD, FFD): one text a forward pass, the
picture opened once a sample and script, prepared and encoded again for every text that shows it, logits
of all positions in f32, losses read token by token with `.item()` over the whole text. Spans are those of
`llavar select` (the released offsets fit one tokenizer only), so the scores can be compared.

python released.py MODEL DATA.json IMAGE_FOLDER SAMPLES [ROWS.jsonl of the example `speed`]

Needs torch, safetensors, tokenizers, pillow and numpy. Threads: OMP_NUM_THREADS.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Model:
    """LLaVA-HR's two towers, projector and a Llama or Phi-3, on the published tensor names."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.w = {k: v.float() for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}
        self.phi3 = "phi" in self.config["model_type"]
        self.tower = "model.vision_tower."

    def linear(self, name, x):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def conv(self, name, x, **kw):
        return F.conv2d(x, self.w[name + ".weight"], self.w.get(name + ".bias"), **kw)

    def norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def norm2d(self, name, x):
        return self.norm(name, x.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)

    def slow(self, x):
        at = self.tower + "slow_vision_tower.vision_tower."
        x = self.norm2d(at + "stem.1", self.conv(at + "stem.0", x, stride=4))
        for i, depth in enumerate(self.config["convnext_config"]["depths"]):
            stage = f"{at}stages.{i}."
            if i:
                x = self.conv(stage + "downsample.1", self.norm2d(stage + "downsample.0", x), stride=2)
            for j in range(depth):
                block = f"{stage}blocks.{j}."
                y = self.conv(block + "conv_dw", x, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
                y = F.gelu(self.linear(block + "mlp.fc1", self.norm(block + "norm", y, 1e-6)))
                x = x + (self.linear(block + "mlp.fc2", y) * self.w[block + "weight"]).permute(0, 3, 1, 2)
        return x

    def resample(self, x, n):
        """Slow map `[1, C, s, s]` as n tokens."""
        f, s = math.isqrt(n), x.shape[-1]
        if s < f:
            x = F.interpolate(x, size=(f, f), mode="bilinear", align_corners=True)
        elif s > f:
            x = F.avg_pool2d(x, s // f)
        return x.flatten(2).transpose(1, 2)

    def adapter(self, at, y, z):
        n, c = y.shape[1:]
        f = math.isqrt(n)
        h = self.resample(self.conv(at + "slow_proj", F.gelu(self.conv(at + "slow_conv", z))), n)
        u = y.transpose(1, 2).reshape(1, c, f, f)
        u = u + self.conv(at + "fast_proj", F.gelu(self.conv(at + "fast_conv", u, padding=3, groups=c)))
        u = u.flatten(2).transpose(1, 2)
        g = F.gelu(self.linear(at + "gate.0", torch.cat([u, h], -1).mean(1)))
        return u + torch.tanh(self.linear(at + "gate.2", g)).unsqueeze(1) * h

    def encode_image(self, pixels):
        clip, at = self.config["clip_vision_config"], self.tower + "fast_vision_tower.vision_tower.vision_model."
        side = max(pixels.shape[-1] // 32 * clip["patch_size"], clip["image_size"])
        z = self.slow(pixels)
        y = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=True)
        y = self.conv(at + "embeddings.patch_embedding", y, stride=clip["patch_size"]).flatten(2).transpose(1, 2)
        positions = self.w[at + "embeddings.position_embedding.weight"][1:]
        if positions.shape[0] != y.shape[1]:
            old, new = math.isqrt(positions.shape[0]), math.isqrt(y.shape[1])
            grid = positions.T.reshape(1, -1, old, old)
            grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
            positions = grid.flatten(2)[0].T
        eps = clip["layer_norm_eps"]
        y = self.norm(at + "pre_layrnorm", y + positions, eps)
        layers, heads = clip["num_hidden_layers"], clip["num_attention_heads"]
        for n in range(layers):
            layer = f"{at}encoder.layers.{n}."
            x = self.norm(layer + "layer_norm1", y, eps)
            q, k, v = (
                self.linear(f"{layer}self_attn.{p}_proj", x).view(1, x.shape[1], heads, -1).transpose(1, 2)
                for p in "qkv"
            )
            x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape)
            y = y + self.linear(layer + "self_attn.out_proj", x)
            x = self.linear(layer + "mlp.fc1", self.norm(layer + "layer_norm2", y, eps))
            y = y + self.linear(layer + "mlp.fc2", x * torch.sigmoid(1.702 * x))
            group, rest = divmod(n + 1, layers // 4)
            adapter = f"{self.tower}align_stages_latent.{group - 1}."
            if not rest and adapter + "gate.0.weight" in self.w:
                y = self.adapter(adapter, y, z)
        at = self.tower + "align_stages.0."
        y = self.linear(at + "fast_proj", y) + self.linear(at + "slow_proj", self.resample(z, y.shape[1]))
        x = self.linear("model.mm_projector.0", y)
        return self.linear("model.mm_projector.2", F.gelu(x))[0]

    def rms(self, name, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * self.w[name + ".weight"]

    def logits(self, ids, features):
        """f32 logits of all positions; features stand where an id is -1."""
        c = self.config
        x = F.embedding(ids.clamp(min=0), self.w["model.embed_tokens.weight"])
        if features is not None:
            x = x.masked_scatter((ids < 0).unsqueeze(-1), features)
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        dim = c["hidden_size"] // heads
        turns = c["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
        angles = torch.arange(len(ids)).float()[:, None] * turns
        cos, sin = (torch.cat([t, t], -1) for t in (angles.cos(), angles.sin()))

        def rope(t):
            a, b = t.chunk(2, -1)
            return t * cos + torch.cat([-b, a], -1) * sin

        for n in range(c["num_hidden_layers"]):
            layer = f"model.layers.{n}."
            y = self.rms(layer + "input_layernorm", x)
            if self.phi3:
                q, k, v = self.linear(layer + "self_attn.qkv_proj", y).split([heads * dim, kv * dim, kv * dim], -1)
            else:
                q, k, v = (self.linear(f"{layer}self_attn.{p}_proj", y) for p in "qkv")
            q, k, v = (t.view(len(ids), -1, dim).transpose(0, 1) for t in (q, k, v))
            k, v = (t.repeat_interleave(heads // kv, 0) for t in (rope(k), v))
            y = F.scaled_dot_product_attention(rope(q)[None], k[None], v[None], is_causal=True)[0]
            x = x + self.linear(layer + "self_attn.o_proj", y.transpose(0, 1).reshape(len(ids), -1))
            y = self.rms(layer + "post_attention_layernorm", x)
            if self.phi3:
                gate, up = self.linear(layer + "mlp.gate_up_proj", y).chunk(2, -1)
            else:
                gate, up = self.linear(layer + "mlp.gate_proj", y), self.linear(layer + "mlp.up_proj", y)
            x = x + self.linear(layer + "mlp.down_proj", up * F.silu(gate))
        return F.linear(self.rms("model.norm", x), self.w["lm_head.weight"]).float()


class Scorer:
    def __init__(self, folder):
        self.model = Model(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def pixels(self, image):
        """Padded to a square, resized and normalised: the processor, called anew for every text."""
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        size = self.model.config["input_image_size"]
        x = np.asarray(square.resize((size, size), Image.BICUBIC), dtype=np.float32) / 255
        x = (x - np.float32(MEAN)) / np.float32(STD)
        return torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()

    def render(self, turns):
        """The chat, where the last question begins and where the last answer begins."""
        text, question = ("<|system|>\nYou are a helpful AI assistant.<|end|>" if self.model.phi3 else V1 + " "), None
        for role, words in turns:
            if self.model.phi3:
                text += "\n<|user|>\n" if role == "Q" else "\n<|assistant|>\n"
            else:
                text += "USER: " if role == "Q" else "ASSISTANT: "
            at = len(text) + len(words) - len(words.removeprefix("<image>\n"))
            question, answer = (at, None) if role == "Q" else (question, at)
            text += words + ("<|end|>" if self.model.phi3 else " " if role == "Q" else "</s>")
        return text, question, answer

    def mean_loss(self, turns, span, image=None):
        text, question, answer = self.render(turns)
        start, ids, first, at = (question if span == "QA" else answer), [], None, 0
        for n, chunk in enumerate(text.split("<image>")):
            if n:
                pixels = self.pixels(image)
                with torch.no_grad():
                    features = self.model.encode_image(pixels)
                ids += [-1] * len(features)
                at += len("<image>")
            encoded = self.tokenizer.encode(chunk)
            # A tokenizer that begins every chunk with BOS does so once in a text.
            begin = int(n > 0 and encoded.ids[:1] == [self.model.config["bos_token_id"]])
            for id, (_, end) in zip(encoded.ids[begin:], encoded.offsets[begin:]):
                if first is None and at + end > start:
                    first = len(ids)
                ids.append(id)
            at += len(chunk)
        ids = torch.tensor(ids)
        with torch.no_grad():
            logits = self.model.logits(ids, features if image is not None else None)
        losses = []
        for j in range(1, len(ids)):
            distribution = F.log_softmax(logits[j - 1], dim=-1)
            token = torch.where(ids[j] == -1, torch.tensor(-100), ids[j])
            losses.append(F.nll_loss(distribution[None], token[None], reduction="none").item())
        return float(np.mean(losses[first - 1 :]))

    def score(self, data, folder):
        rows = {}
        for sample in data:  # IFD
            for i, (q, a) in self.pairs(sample):
                num = self.mean_loss([("Q", q), ("A", a)], "A")
                rows[sample["id"], i] = {"ifd": num / self.mean_loss([("A", a)], "A")}
        for sample in data:  # VFD
            image = Image.open(folder / sample["image"]).convert("RGB")
            for i, (q, a) in self.pairs(sample):
                seen = self.mean_loss([("Q", "<image>\n" + q), ("A", a)], "QA", image)
                row = rows[sample["id"], i]
                row["mifd"] = row["ifd"] * seen / self.mean_loss([("Q", q), ("A", a)], "QA")
        for sample in data:  # FFD
            image = Image.open(folder / sample["image"]).convert("RGB")
            pairs = self.pairs(sample)
            for (_, (qe, ae)), (i, (qs, a)) in zip(pairs[::2], pairs[1::2]):
                both = [("Q", "<image>\n" + qe), ("A", ae), ("Q", qs), ("A", a)]
                alone = self.mean_loss([("Q", "<image>\n" + qs), ("A", a)], "QA", image)
                rows[sample["id"], i]["ffd"] = self.mean_loss(both, "QA", image) / alone
        return rows

    def pairs(self, sample):
        turns = [t["value"].replace("<image>\n", "").replace("\n<image>", "") for t in sample["conversations"]]
        return [(i, (turns[i], turns[i + 1])) for i in range(0, len(turns), 2)]


def main():
    model, data, folder, samples, *ours = sys.argv[1:]
    scorer = Scorer(Path(model))
    data = json.loads(Path(data).read_text())[: int(samples)]
    scorer.score(data[:1], Path(folder))  # first uses
    begun = time.perf_counter()
    cpu = time.process_time()
    rows = scorer.score(data, Path(folder))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    worst = None
    if ours:
        own = {(r["id"], r["qa_id"]): r for r in map(json.loads, Path(ours[0]).read_text().splitlines())}
        worst = max(
            abs(row[s] - own[str(i), q][s]) for (i, q), row in rows.items() for s in ("ifd", "mifd", "ffd") if s in row
        )
    print(
        json.dumps(
            {
                "what": "released way, PyTorch " + torch.__version__,
                "pictures": len(data),
                "pairs": len(rows),
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu, 3),
                "pairs_per_second": round(len(rows) / seconds, 3),
                "pairs_per_cpu_second": round(len(rows) / cpu, 3),
                "scores_apart": worst,
            }
        )
    )


main()
