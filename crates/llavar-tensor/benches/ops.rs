//! Time of the operations on this machine, one JSON line a case: name, minimum and median in ms.
//!
//! `cargo bench -p llavar-tensor [-- filter]`; `RAYON_NUM_THREADS` sets the threads. `compare.sh` beside
//! this file runs the same shapes through PyTorch (`torch_ops.py`) and prints the ratios.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use llavar_tensor::{
    Activation, AttentionSpec, DType, Device, Param, Result, RopeTable, Segments, Tape, Tensor,
    Var,
    optim::{AdamW, Moments, Precision, StepState},
};

/// Each case runs this long, and at least `MIN_RUNS` times.
const BUDGET: Duration = Duration::from_millis(1500);
const MIN_RUNS: usize = 7;

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let bench = Bench(filter.unwrap_or_default());
    products(&bench)?;
    decoder(&bench)?;
    vision_transformer(&bench)?;
    convolutions(&bench)?;
    train_step(&bench)
}

struct Bench(String);

impl Bench {
    fn run(&self, name: &str, mut f: impl FnMut() -> Result<()>) -> Result<()> {
        if !name.contains(&self.0) {
            return Ok(());
        }
        f()?;
        f()?;
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < MIN_RUNS || start.elapsed() < BUDGET {
            let run = Instant::now();
            f()?;
            times.push(run.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (min, median) = (times[0], times[times.len() / 2]);
        println!(r#"{{"name":"{name}","min_ms":{min:.3},"median_ms":{median:.3}}}"#);
        Ok(())
    }

    /// Forward alone, then forward and backward with gradients for the input and all weights.
    fn both(
        &self,
        name: &str,
        input: &Tensor,
        params: &[Param],
        f: impl Fn(&Tape, &Var) -> Result<Var>,
    ) -> Result<()> {
        let x = Var::constant(input.clone());
        self.run(&format!("{name} forward"), || {
            f(&Tape::inference(), &x).map(|y| _ = black_box(y))
        })?;
        params.iter().for_each(|p| p.set_requires_grad(true));
        let seed = values(input.shape(), 1.0);
        self.run(&format!("{name} forward + backward"), || {
            params.iter().for_each(Param::zero_grad);
            let tape = Tape::training();
            let x = tape.leaf(input.clone());
            let y = f(&tape, &x)?;
            let seed = seed.reshape(y.shape())?;
            tape.backward_from(vec![(y, seed)], &[&x])
                .map(|g| _ = black_box(g))
        })?;
        params.iter().for_each(|p| p.set_requires_grad(false));
        Ok(())
    }
}

/// Numbers in [-scale, scale) from a fixed sequence.
fn values(shape: &[usize], scale: f32) -> Tensor {
    let mut state = 0x9e37_79b9_u32;
    let data = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect();
    Tensor::from_vec(data, shape).unwrap_or_else(|_| Tensor::zeros(shape))
}

fn weight(shape: &[usize], dtype: DType) -> Param {
    let wide = values(shape, 0.03);
    let value = wide.cast(dtype).unwrap_or(wide);
    Param::new("w", value)
}

fn products(bench: &Bench) -> Result<()> {
    let x = Var::constant(values(&[2048, 2048], 1.0));
    let tape = Tape::inference();
    for (name, dtype) in [
        ("matmul 2048 f32", DType::F32),
        ("matmul 2048 bf16 weights", DType::BF16),
    ] {
        let w = weight(&[2048, 2048], dtype);
        bench.run(name, || tape.linear(&x, &w, None).map(|y| _ = black_box(y)))?;
    }
    Ok(())
}

/// A Llama decoder layer.
struct Decoder {
    heads: usize,
    norms: [Param; 2],
    qkvo: [Param; 4],
    gate_up_down: [Param; 3],
}

impl Decoder {
    fn new(d: usize, heads: usize, ff: usize, dtype: DType) -> Self {
        Self {
            heads,
            norms: [weight(&[d], DType::F32), weight(&[d], DType::F32)],
            qkvo: std::array::from_fn(|_| weight(&[d, d], dtype)),
            gate_up_down: [
                weight(&[ff, d], dtype),
                weight(&[ff, d], dtype),
                weight(&[d, ff], dtype),
            ],
        }
    }

    fn params(&self) -> Vec<Param> {
        [&self.norms[..], &self.qkvo, &self.gate_up_down].concat()
    }

    /// `x [T, D]`, packed samples of the given segments.
    fn forward(&self, t: &Tape, x: &Var, table: &Arc<RopeTable>, s: &Segments) -> Result<Var> {
        let (tokens, d) = (x.value().rows(), x.value().last_dim());
        let positions = s.positions();
        let [q, k, v, o] = &self.qkvo;
        let split = |w: &Param, x: &Var| -> Result<Var> {
            t.reshape(
                &t.linear(x, w, None)?,
                &[tokens, self.heads, d / self.heads],
            )
        };
        let h = t.rms_norm(x, &self.norms[0], 1e-5)?;
        let q = t.rope(&split(q, &h)?, table, &positions)?;
        let k = t.rope(&split(k, &h)?, table, &positions)?;
        let spec = AttentionSpec::within(s.clone(), true, d / self.heads);
        let a = t.attention(&q, &k, &split(v, &h)?, &spec)?;
        let x = t.linear_residual(&t.reshape(&a, &[tokens, d])?, o, None, Some(x))?;
        let h = t.rms_norm(&x, &self.norms[1], 1e-5)?;
        let [gate, up, down] = &self.gate_up_down;
        let m = t.swiglu(&t.linear(&h, gate, None)?, &t.linear(&h, up, None)?)?;
        t.linear_residual(&m, down, None, Some(&x))
    }
}

fn rope(dim: usize, positions: usize) -> Arc<RopeTable> {
    let inv_freq: Vec<f32> = (0..dim / 2)
        .map(|i| 1e4f32.powf(-2.0 * i as f32 / dim as f32))
        .collect();
    Arc::new(RopeTable::new(&inv_freq, positions, 1.0))
}

fn decoder(bench: &Bench) -> Result<()> {
    let (x, table, one) = (
        values(&[512, 1024], 1.0),
        rope(64, 512),
        Segments::single(512),
    );
    let layer = Decoder::new(1024, 16, 2816, DType::F32);
    bench.both("decoder layer f32", &x, &layer.params(), |t, x| {
        layer.forward(t, x, &table, &one)
    })?;
    let layer = Decoder::new(1024, 16, 2816, DType::BF16);
    let x = Var::constant(x);
    bench.run("decoder layer bf16 forward", || {
        layer
            .forward(&Tape::inference(), &x, &table, &one)
            .map(|y| _ = black_box(y))
    })
}

/// A CLIP ViT-L encoder layer at 336 px, two images.
fn vision_transformer(bench: &Bench) -> Result<()> {
    let (d, ff, heads, tokens) = (1024, 4096, 16, 2 * 576);
    let f = DType::F32;
    let vectors: Vec<Param> = (0..8).map(|_| weight(&[d], f)).collect();
    let qkvo: Vec<Param> = (0..4).map(|_| weight(&[d, d], f)).collect();
    let (fc1, b1, fc2) = (weight(&[ff, d], f), weight(&[ff], f), weight(&[d, ff], f));
    let mut params = [&vectors[..], &qkvo].concat();
    params.extend([fc1.clone(), b1.clone(), fc2.clone(), weight(&[d], f)]);
    let b2 = params[params.len() - 1].clone();
    let spec = AttentionSpec::within(Segments::from_lengths([576, 576]), false, d / heads);
    bench.both("ViT layer", &values(&[tokens, d], 1.0), &params, |t, x| {
        let h = t.layer_norm(x, &vectors[0], &vectors[1], 1e-5)?;
        let split = |i: usize| -> Result<Var> {
            let y = t.linear(&h, &qkvo[i], Some(&vectors[4 + i]))?;
            t.reshape(&y, &[tokens, heads, d / heads])
        };
        let a = t.attention(&split(0)?, &split(1)?, &split(2)?, &spec)?;
        let a = t.reshape(&a, &[tokens, d])?;
        let x = t.linear_residual(&a, &qkvo[3], Some(&vectors[7]), Some(x))?;
        let h = t.layer_norm(&x, &vectors[2], &vectors[3], 1e-5)?;
        let h = t.activation(&t.linear(&h, &fc1, Some(&b1))?, Activation::QuickGelu)?;
        t.linear_residual(&h, &fc2, Some(&b2), Some(&x))
    })
}

fn convolutions(bench: &Bench) -> Result<()> {
    let (c, f) = (192, DType::F32);
    let x = values(&[1, 96, 96, c], 1.0);
    let [dw, dw_b, norm, norm_b, fc1, fc1_b, fc2, fc2_b, gamma] = [
        &[c, 1, 7, 7][..],
        &[c],
        &[c],
        &[c],
        &[4 * c, c],
        &[4 * c],
        &[c, 4 * c],
        &[c],
        &[c],
    ]
    .map(|shape| weight(shape, f));
    let conv = [dw.clone(), dw_b.clone()];
    bench.both("depthwise 7x7", &x, &conv, |t, x| {
        t.depthwise_conv(x, &dw, Some(&dw_b))
    })?;
    bench.run("1x1 conv 192 to 768", || {
        Tape::inference()
            .linear(&x.clone().into(), &fc1, Some(&fc1_b))
            .map(|y| _ = black_box(y))
    })?;
    let all = [
        &dw, &dw_b, &norm, &norm_b, &fc1, &fc1_b, &fc2, &fc2_b, &gamma,
    ]
    .map(Param::clone);
    bench.both("ConvNeXt block", &x, &all, |t, x| {
        let h = t.depthwise_conv(x, &dw, Some(&dw_b))?;
        let h = t.layer_norm(&h, &norm, &norm_b, 1e-6)?;
        let h = t.activation(&t.linear(&h, &fc1, Some(&fc1_b))?, Activation::Gelu)?;
        t.linear_layer_scale(x, &h, &fc2, &fc2_b, &gamma)
    })
}

/// Forward, loss, backward and AdamW of a four-layer decoder, four packed samples.
fn train_step(bench: &Bench) -> Result<()> {
    let (d, heads, ff, vocab, layers) = (512, 8, 1408, 2048, 4);
    let segments = Segments::from_lengths([256; 4]);
    let tokens = segments.total();
    let layers: Vec<Decoder> = (0..layers)
        .map(|_| Decoder::new(d, heads, ff, DType::F32))
        .collect();
    let [embed, head] = [0, 1].map(|_| weight(&[vocab, d], DType::F32));
    let norm = weight(&[d], DType::F32);
    let mut params: Vec<Param> = layers.iter().flat_map(Decoder::params).collect();
    params.extend([embed.clone(), head.clone(), norm.clone()]);
    params.iter().for_each(|p| p.set_requires_grad(true));
    let adamw = AdamW::default();
    let mut state = StepState::new(&Device::Cpu, 0, &adamw)?;
    let mut moments = params
        .iter()
        .map(|p| Moments::new(p, Precision::F32))
        .collect::<Result<Vec<_>>>()?;
    let ids: Vec<i32> = (0..tokens as i32).map(|i| i * 37 % vocab as i32).collect();
    let labels: Vec<i32> = (0..tokens as i32).map(|i| i * 53 % vocab as i32).collect();
    let table = rope(d / heads, 256);
    bench.run("train step", || {
        let tape = Tape::training();
        let mut x = tape.embed_merge(&embed, &ids, None)?;
        for layer in &layers {
            x = layer.forward(&tape, &x, &table, &segments)?;
        }
        let x = tape.rms_norm(&x, &norm, 1e-5)?;
        let loss = tape.linear_cross_entropy(&x, &head, &labels)?;
        tape.backward(&loss.sum, 1.0 / tokens as f32)?;
        state.begin(&params, 0.0)?;
        let mut updates = adamw.updates(&state)?;
        for (param, moments) in params.iter().zip(&mut moments) {
            updates.add(param, moments, 1e-4, 0.0)?;
        }
        updates.finish()?;
        params.iter().for_each(Param::zero_grad);
        Ok(())
    })
}
