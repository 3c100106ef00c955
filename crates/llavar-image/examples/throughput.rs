//! Images a second of decode + process, one thread:
//! `cargo run --release -p llavar-image --example throughput -- [--once] SIZE FILE...`
//!
//! With `--once` every file is taken once, for a caller that measures processor time; else for 3 seconds.

use std::path::Path;
use std::time::{Duration, Instant};

use llavar_image::{Aspect, DecodeLimits, ImageProcessor, decode_file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let once = arguments.next_if(|word| word == "--once").is_some();
    let size = arguments
        .next()
        .ok_or("usage: throughput [--once] SIZE FILE...")?
        .parse()?;
    let files: Vec<String> = arguments.collect();
    let processor = ImageProcessor::new(size, Aspect::Pad);
    let mut pixels = vec![0.0; processor.output_len()];
    let (mut decode, mut square, mut count) = (Duration::ZERO, Duration::ZERO, 0u32);
    let start = Instant::now();
    while count == 0 || (!once && start.elapsed() < Duration::from_secs(3)) {
        for file in &files {
            let begun = Instant::now();
            let image = decode_file(Path::new(file), &DecodeLimits::default())?;
            let decoded = Instant::now();
            processor.process_into(&image, &mut pixels)?;
            decode += decoded - begun;
            square += decoded.elapsed();
            count += 1;
        }
    }
    let each = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(count);
    println!(
        "{:.0} images/s on one thread: decode {:.2} ms, process {:.2} ms",
        f64::from(count) / (decode + square).as_secs_f64(),
        each(decode),
        each(square)
    );
    Ok(())
}
