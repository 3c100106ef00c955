//! Times attention on the shapes that the models use: `cargo run --release --example attention_speed`.

use std::time::Instant;

use llavar_tensor::{AttentionSpec, Segments, Tape, Tensor, Var};

fn filled(shape: &[usize]) -> llavar_tensor::Result<Tensor> {
    let mut state = 1u32;
    let data = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec::<f32>(data, shape)
}

/// Milliseconds of the fastest of several runs.
fn best(mut run: impl FnMut() -> llavar_tensor::Result<()>) -> llavar_tensor::Result<f64> {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64()
        < std::env::var("SECONDS_EACH")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(1.5)
    {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}

fn main() -> llavar_tensor::Result<()> {
    for (name, segments, len, heads, kv_heads, dim, causal) in [
        ("vit", 8, 576, 16, 16, 64, false),
        ("decoder 512", 1, 512, 16, 16, 64, true),
        ("decoder 4x256", 4, 256, 16, 16, 64, true),
        ("phi 2048", 1, 2048, 32, 32, 96, true),
        ("llama 2048", 1, 2048, 32, 8, 128, true),
    ] {
        let tokens = segments * len;
        let spec = AttentionSpec::within(Segments::from_lengths(vec![len; segments]), causal, dim);
        let q = filled(&[tokens, heads, dim])?;
        let k = filled(&[tokens, kv_heads, dim])?;
        let forward = best(|| {
            let [q, k] = [&q, &k].map(|x| Var::constant(x.clone()));
            Tape::inference().attention(&q, &k, &k, &spec).map(|_| ())
        })?;
        let both = best(|| {
            let tape = Tape::training();
            let [qv, kv, vv] = [&q, &k, &k].map(|x| tape.leaf(x.clone()));
            let y = tape.attention(&qv, &kv, &vv, &spec)?;
            let _grads = tape.backward_from(vec![(y, q.clone())], &[&qv, &kv, &vv])?;
            Ok(())
        })?;
        let macs = (segments * len * len * heads * dim) as f64 * if causal { 0.5 } else { 1.0 };
        println!(
            "{name:14} forward {forward:8.2} ms ({:5.0} GFLOP/s)  with backward {both:8.2} ms ({:5.0} GFLOP/s)",
            4.0 * macs / forward / 1e6,
            14.0 * macs / both / 1e6
        );
    }
    for (heads, kv_heads, dim) in [(32, 32, 96), (32, 8, 128)] {
        let len = 4096;
        let spec = AttentionSpec {
            q_segments: Segments::single(1),
            ..AttentionSpec::within(Segments::single(len), true, dim)
        };
        let q = Var::constant(filled(&[1, heads, dim])?);
        let [k, v] = [
            filled(&[len, kv_heads, dim])?,
            filled(&[len, kv_heads, dim])?,
        ]
        .map(Var::constant);
        let ms = best(|| Tape::inference().attention(&q, &k, &v, &spec).map(|_| ()))?;
        let bytes = (2 * len * kv_heads * dim * 4) as f64;
        println!(
            "decode {heads}/{kv_heads} heads of {dim}, {len} keys: {ms:.3} ms ({:.1} GB/s)",
            bytes / ms / 1e6
        );
    }
    Ok(())
}
