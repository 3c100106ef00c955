//! Runs a network on a picture of noise: `run_onnx MODEL HEIGHT WIDTH [OUT]`. Prints times; OUT gets the
//! output's elements as little-endian floats, to be compared with another program's.

use std::time::Instant;

use llavar_onnx::Network;

/// The same noise that a few lines of any language make.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, height, width, rest @ ..] = &args[..] else {
        return Err("give MODEL HEIGHT WIDTH [OUT]".into());
    };
    let size = [height.parse()?, width.parse()?];
    let network = Network::load(&std::fs::read(model)?)?;
    for parallel in [false, true] {
        let mut times = Vec::new();
        for _ in 0..7 {
            let pixels = noise(size[0] * size[1] * 3);
            let begun = Instant::now();
            let output = network.run(pixels, size, parallel)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            if let (Some(path), 1) = (rest.first(), times.len()) {
                let bytes: Vec<u8> = output.data.iter().flat_map(|x| x.to_le_bytes()).collect();
                std::fs::write(path, bytes)?;
                println!("{:?}", output.dims);
            }
        }
        times.sort_by(f64::total_cmp);
        let threads = if parallel {
            "all threads"
        } else {
            "one thread"
        };
        println!(
            "{threads}: least {:.1} ms, median {:.1} ms",
            times[0], times[3]
        );
    }
    Ok(())
}
