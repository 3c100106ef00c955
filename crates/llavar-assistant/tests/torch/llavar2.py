"""A model folder of two vision pathways, or of a ConvNeXt alone, and a Llama, in plain PyTorch: what any other program must get from the same
files. Nothing but torch functions, Pillow and the safetensors library; no code of the Rust program is used.

usage: python llavar2.py MODEL_FOLDER PICTURE IDS.json OUT.safetensors

IDS.json is a list of token ids, -200 where the picture stands. OUT gets `pixels` [S, S, 3] (normalised), `features`
[N, D] (the picture's rows for the text) and `logits` [T, V], all f32.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SLOW = "model.vision_tower.slow_vision_tower.vision_tower."
ALONE = "model.vision_tower.vision_tower."
FAST = "model.vision_tower.fast_vision_tower.vision_tower.vision_model."


def read_weights(folder):
    """Every tensor as f32. A matrix of type int8 has one scale a row beside it, `NAME_scale`."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    stored = {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            stored.update({key: file.get_tensor(key) for key in file.keys()})
    weights = {}
    for name, tensor in stored.items():
        scale = stored.get(name + "_scale")
        if tensor.dtype == torch.int8:
            rows = scale.float().reshape(-1, *[1] * (tensor.dim() - 1))
            weights[name] = tensor.float() * rows
        elif not name.endswith("_scale") or stored[name[: -len("_scale")]].dtype != torch.int8:
            weights[name] = tensor.float()
    return weights


def read_pixels(path, size):
    """Padded to a square with the mean colour, resized, normalised: [1, 3, S, S]."""
    picture = Image.open(path).convert("RGB")
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in MEAN))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    resized = square if side == size else square.resize((size, size), Image.BICUBIC)
    pixels = torch.from_numpy(numpy.array(resized, dtype=numpy.float32)) / 255
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(2, 0, 1)[None]


class Model:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.w = read_weights(folder)

    def linear(self, name, x):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def conv(self, name, x, **how):
        return F.conv2d(x, self.w[name + ".weight"], self.w.get(name + ".bias"), **how)

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def rms_norm(self, name, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.w[name + ".weight"]

    # Slow path: ConvNeXt. x [B, 3, S, S] -> [B, Cs, S/32, S/32]

    def channel_norm(self, name, x):
        return self.layer_norm(name, x.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)

    def slow(self, x):
        tower = SLOW if self.config["is_multipath_encoder"] else ALONE
        x = self.channel_norm(tower + "stem.1", self.conv(tower + "stem.0", x, stride=4))
        for stage, depth in enumerate(self.config["convnext_config"]["depths"]):
            prefix = f"{tower}stages.{stage}."
            if stage > 0:
                x = self.channel_norm(prefix + "downsample.0", x)
                x = self.conv(prefix + "downsample.1", x, stride=2)
            for n in range(depth):
                block = f"{prefix}blocks.{n}"
                h = self.conv(block + ".conv_dw", x, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
                h = self.linear(block + ".mlp.fc1", self.layer_norm(block + ".norm", h, 1e-6))
                h = self.linear(block + ".mlp.fc2", F.gelu(h)) * self.w[block + ".weight"]
                x = x + h.permute(0, 3, 1, 2)
        return x

    # Fast path: CLIP without its class token, adapters between quarters of its layers.

    def embed_patches(self, x, grid):
        clip = self.config["clip_vision_config"]
        x = self.conv(FAST + "embeddings.patch_embedding", x, stride=clip["patch_size"])
        x = x.flatten(2).transpose(1, 2)
        places = self.w[FAST + "embeddings.position_embedding.weight"][1:]
        side = round(len(places) ** 0.5)
        if side != grid:
            places = places.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            places = F.interpolate(places, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
            places = places.flatten(2)[0].T
        return x + places

    def clip_layer(self, n, x):
        clip = self.config["clip_vision_config"]
        heads, eps = clip["num_attention_heads"], clip["layer_norm_eps"]
        layer = f"{FAST}encoder.layers.{n}."
        h = self.layer_norm(layer + "layer_norm1", x, eps)
        split = lambda name: self.linear(f"{layer}self_attn.{name}", h).unflatten(-1, (heads, -1)).transpose(1, 2)
        q, k, v = (split(name) for name in ("q_proj", "k_proj", "v_proj"))
        h = attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.linear(layer + "self_attn.out_proj", h)
        h = self.linear(layer + "mlp.fc1", self.layer_norm(layer + "layer_norm2", x, eps))
        h = h * torch.sigmoid(1.702 * h) if clip.get("hidden_act", "quick_gelu") == "quick_gelu" else F.gelu(h)
        return x + self.linear(layer + "mlp.fc2", h)

    def adapter(self, n, y, z, grid):
        """y [B, N, C] fast, z [B, Cs, s, s] slow -> [B, N, C]"""
        prefix = f"model.vision_tower.align_stages_latent.{n}."
        h = self.conv(prefix + "slow_proj", F.gelu(self.conv(prefix + "slow_conv", z)))
        h = resample(h, grid)
        u = y.transpose(1, 2).unflatten(2, (grid, grid))
        local = self.conv(prefix + "fast_conv", u, padding=3, groups=u.shape[1])
        u = (u + self.conv(prefix + "fast_proj", F.gelu(local))).flatten(2).transpose(1, 2)
        pooled = torch.cat([u, h], -1).mean(1)
        gate = torch.tanh(self.linear(prefix + "gate.2", F.gelu(self.linear(prefix + "gate.0", pooled))))
        return u + gate[:, None] * h

    def encode_picture(self, pixels):
        """[1, 3, S, S] -> rows for the text [N, D]"""
        slow = self.slow(pixels)
        if self.config["is_multipath_encoder"]:
            x = self.join(pixels, slow)
        else:
            x = slow.flatten(2).transpose(1, 2)
        x = F.gelu(self.linear("model.mm_projector.0", x[0]))
        return self.linear("model.mm_projector.2", x)

    def join(self, pixels, slow):
        """[1, 3, S, S] and what the slow path made of it -> [1, N, C]"""
        clip, size = self.config["clip_vision_config"], self.config["input_image_size"]
        side = max(size // 32 * clip["patch_size"], clip["image_size"])
        grid = side // clip["patch_size"]
        small = pixels
        if side != size:
            small = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=True)
        x = self.embed_patches(small, grid)
        x = self.layer_norm(FAST + "pre_layrnorm", x, clip["layer_norm_eps"])
        group = clip["num_hidden_layers"] // 4
        for n in range(clip["num_hidden_layers"]):
            x = self.clip_layer(n, x)
            done = (n + 1) // group
            if (n + 1) % group == 0 and done < 4 and has_adapters(self.w):
                x = self.adapter(done - 1, x, slow, grid)
        fusion = "model.vision_tower.align_stages.0."
        return self.linear(fusion + "fast_proj", x) + self.linear(fusion + "slow_proj", resample(slow, grid))

    # Language model: Llama.

    def logits(self, x):
        """Embeddings [T, D] -> [T, V]"""
        config = self.config
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        width = x.shape[-1] // heads
        steps = torch.arange(0, width, 2).float() / width
        angles = torch.arange(len(x)).float()[:, None] / config["rope_theta"] ** steps
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        mask = torch.full((len(x), len(x)), float("-inf")).triu(1)

        def rotate(q):
            a, b = q.chunk(2, -1)
            return q * cos + torch.cat([-b, a], -1) * sin

        for n in range(config["num_hidden_layers"]):
            layer = f"model.layers.{n}."
            h = self.rms_norm(layer + "input_layernorm", x)
            split = lambda name, n: self.linear(f"{layer}self_attn.{name}", h).unflatten(-1, (n, -1)).transpose(0, 1)
            q, k, v = split("q_proj", heads), split("k_proj", kv_heads), split("v_proj", kv_heads)
            k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (rotate(k), v))
            h = attention(rotate(q), k, v, mask).transpose(0, 1).flatten(1)
            x = x + self.linear(layer + "self_attn.o_proj", h)
            h = self.rms_norm(layer + "post_attention_layernorm", x)
            h = F.silu(self.linear(layer + "mlp.gate_proj", h)) * self.linear(layer + "mlp.up_proj", h)
            x = x + self.linear(layer + "mlp.down_proj", h)
        x = self.rms_norm("model.norm", x)
        head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
        return F.linear(x, self.w[head])

    def answer(self, pixels, ids):
        features = self.encode_picture(pixels)
        table = self.w["model.embed_tokens.weight"]
        rows = [features if id < 0 else table[id][None] for id in ids]
        return features, self.logits(torch.cat(rows))


def attention(q, k, v, mask=0.0):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask
    return scores.softmax(-1) @ v


def resample(z, grid):
    """[B, C, s, s] -> [B, grid * grid, C]"""
    side = z.shape[-1]
    if side < grid:
        z = F.interpolate(z, (grid, grid), mode="bilinear", align_corners=True)
    elif side > grid:
        z = F.avg_pool2d(z, side // grid)
    return z.flatten(2).transpose(1, 2)


def has_adapters(weights):
    return any("align_stages_latent" in name for name in weights)


def main():
    folder, picture, ids, out = sys.argv[1:]
    with torch.no_grad():
        model = Model(Path(folder))
        pixels = read_pixels(picture, model.config["input_image_size"])
        features, logits = model.answer(pixels, json.loads(Path(ids).read_text()))
    pixels = pixels[0].permute(1, 2, 0).contiguous()
    save_file({"pixels": pixels, "features": features, "logits": logits}, out)


if __name__ == "__main__":
    main()
