"""The cases of ops.rs in PyTorch on the CPU: one JSON line each, name, minimum and median in ms.

python torch_ops.py [threads] [filter]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
wanted = sys.argv[2] if len(sys.argv) > 2 else ""
torch.set_num_threads(threads)
torch.manual_seed(0)
BUDGET, MIN_RUNS = 1.5, 7


def run(name, f):
    if wanted not in name:
        return
    f(), f()
    start, times = time.perf_counter(), []
    while len(times) < MIN_RUNS or time.perf_counter() - start < BUDGET:
        t = time.perf_counter()
        f()
        times.append((time.perf_counter() - t) * 1e3)
    times.sort()
    print(json.dumps({"name": name, "min_ms": round(times[0], 3), "median_ms": round(times[len(times) // 2], 3)}), flush=True)


def both(name, x, params, f):
    def forward():
        with torch.inference_mode():
            f(x)

    run(f"{name} forward", forward)
    leaves = [x, *params]
    for p in leaves:
        p.requires_grad_(True)
    seed = torch.rand(f(x).shape) * 2 - 1

    def train():
        for p in leaves:
            p.grad = None
        f(x).backward(seed)

    run(f"{name} forward + backward", train)
    for p in leaves:
        p.requires_grad_(False)


def weight(*shape, dtype=torch.float32):
    return ((torch.rand(shape) * 2 - 1) * 0.03).to(dtype)


def products():
    x = torch.rand(2048, 2048)
    with torch.inference_mode():
        w = weight(2048, 2048)
        run("matmul 2048 f32", lambda: F.linear(x, w))
        # PyTorch takes one dtype for both operands.
        xb, wb = x.bfloat16(), w.bfloat16()
        run("matmul 2048 bf16 weights", lambda: F.linear(xb, wb))


def rope(dim, positions):
    inv = 1e4 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(positions).float(), inv)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Decoder:
    def __init__(self, d, heads, ff, dtype=torch.float32):
        self.heads = heads
        self.n1, self.n2 = weight(d, dtype=dtype), weight(d, dtype=dtype)
        self.q, self.k, self.v, self.o = (weight(d, d, dtype=dtype) for _ in range(4))
        self.gate, self.up, self.down = weight(ff, d, dtype=dtype), weight(ff, d, dtype=dtype), weight(d, ff, dtype=dtype)
        self.params = [self.n1, self.n2, self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def __call__(self, x, table):  # [B, S, D]
        b, s, d = x.shape
        cos, sin = (t.to(x.dtype) for t in table)
        h = F.rms_norm(x, (d,), self.n1, 1e-5)
        q, k, v = (F.linear(h, w).view(b, s, self.heads, -1).transpose(1, 2) for w in (self.q, self.k, self.v))
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + F.linear(a.transpose(1, 2).reshape(b, s, d), self.o)
        h = F.rms_norm(x, (d,), self.n2, 1e-5)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


def decoder():
    x, table = torch.rand(1, 512, 1024) * 2 - 1, rope(64, 512)
    layer = Decoder(1024, 16, 2816)
    both("decoder layer f32", x, layer.params, lambda x: layer(x, table))
    layer = Decoder(1024, 16, 2816, torch.bfloat16)
    xb = x.detach().bfloat16()
    with torch.inference_mode():
        run("decoder layer bf16 forward", lambda: layer(xb, table))


def vision_transformer():
    d, ff, heads = 1024, 4096, 16
    n = [weight(d) for _ in range(4)]
    w, b = [weight(d, d) for _ in range(4)], [weight(d) for _ in range(4)]
    fc1, b1, fc2, b2 = weight(ff, d), weight(ff), weight(d, ff), weight(d)

    def f(x):
        h = F.layer_norm(x, (d,), n[0], n[1], 1e-5)
        q, k, v = (F.linear(h, w[i], b[i]).view(2, 576, heads, -1).transpose(1, 2) for i in range(3))
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 576, d)
        x = x + F.linear(a, w[3], b[3])
        h = F.linear(F.layer_norm(x, (d,), n[2], n[3], 1e-5), fc1, b1)
        return x + F.linear(h * torch.sigmoid(1.702 * h), fc2, b2)

    both("ViT layer", torch.rand(2, 576, d) * 2 - 1, [*n, *w, *b, fc1, b1, fc2, b2], f)


def convolutions():
    c = 192
    # Channels-last memory: the layout in which PyTorch is fastest here.
    x = (torch.rand(1, c, 96, 96) * 2 - 1).contiguous(memory_format=torch.channels_last)
    dw, dw_b = weight(c, 1, 7, 7), weight(c)
    norm, norm_b, gamma = weight(c), weight(c), weight(c)
    fc1, fc1_b, fc2, fc2_b = weight(4 * c, c), weight(4 * c), weight(c, 4 * c), weight(c)
    both("depthwise 7x7", x, [dw, dw_b], lambda x: F.conv2d(x, dw, dw_b, padding=3, groups=c))
    one = fc1.view(4 * c, c, 1, 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        run("1x1 conv 192 to 768", lambda: F.conv2d(x, one, fc1_b))

    def block(x):
        h = F.conv2d(x, dw, dw_b, padding=3, groups=c).permute(0, 2, 3, 1)
        h = F.layer_norm(h, (c,), norm, norm_b, 1e-6)
        h = F.linear(F.gelu(F.linear(h, fc1, fc1_b)), fc2, fc2_b) * gamma
        return x + h.permute(0, 3, 1, 2)

    both("ConvNeXt block", x, [dw, dw_b, norm, norm_b, fc1, fc1_b, fc2, fc2_b, gamma], block)


def train_step():
    d, vocab = 512, 2048
    layers = [Decoder(d, 8, 1408) for _ in range(4)]
    embed, head, norm = weight(vocab, d), weight(vocab, d), weight(d)
    params = [p for layer in layers for p in layer.params] + [embed, head, norm]
    for p in params:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True)
    table = rope(64, 256)
    ids = (torch.arange(1024) * 37 % vocab).view(4, 256)
    labels = torch.arange(1024) * 53 % vocab

    def f():
        x = F.embedding(ids, embed)
        for layer in layers:
            x = layer(x, table)
        logits = F.linear(F.rms_norm(x, (d,), norm, 1e-5), head)
        F.cross_entropy(logits.view(-1, vocab), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run("train step", f)


for case in (products, decoder, vision_transformer, convolutions, train_step):
    case()
