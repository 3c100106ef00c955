//! Draws samples of every kind onto contact sheets and measures the speed:
//! `cargo run --release -p llavar-synth --example samples -- OUT_DIR [PROFILE] [SEED]`
//! (`-` as OUT_DIR measures only).

use std::path::PathBuf;
use std::time::Instant;

use llavar_synth::{DocKind, FontSet, ImageKind, Picture, SynthConfig, encode, generate};

const CELL: u32 = 480;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().unwrap_or_else(|| "samples".to_owned()));
    let profile = args.next().unwrap_or_else(|| "default".to_owned());
    let seed = args.next().map_or(Ok(0), |s| s.parse())?;
    let fonts = FontSet::embedded()?;
    let base = SynthConfig {
        seed,
        ..SynthConfig::profile(&profile)?
    };
    let kinds = if out.as_os_str() == "-" {
        &[][..]
    } else {
        &DocKind::ALL[..]
    };
    for &kind in kinds {
        std::fs::create_dir_all(&out)?;
        let config = SynthConfig {
            kinds: vec![kind],
            ..base.clone()
        };
        let mut sheet = Picture {
            width: CELL * 4,
            height: CELL * 2,
            pixels: vec![255; (CELL * CELL * 24) as usize],
        };
        for i in 0..8 {
            let document = generate(&config, &fonts, u64::from(i))?;
            paste(&mut sheet, &document.image, (i % 4) * CELL, (i / 4) * CELL);
            if i < 2 {
                println!(
                    "--- {} {i}\n{}\n{}",
                    kind.name(),
                    document.caption,
                    document.transcription
                );
                for duo in &document.duos {
                    println!("Q {}\nA {}", duo.extractive_question, duo.extractive_answer);
                    println!(
                        "q {}\na {}",
                        duo.self_explain_question, duo.self_explain_answer
                    );
                }
            }
        }
        let path = out.join(format!("{profile}_{}.png", kind.name()));
        std::fs::write(path, encode(&sheet, ImageKind::Png)?)?;
    }
    let config = SynthConfig {
        width: [768, 768],
        height: [768, 768],
        ..base
    };
    let (n, start) = (220, Instant::now());
    let mut coding = 0.0;
    for i in 0..n {
        let document = generate(&config, &fonts, i)?;
        let before = Instant::now();
        encode(&document.image, ImageKind::Jpeg(90))?;
        coding += before.elapsed().as_secs_f64();
    }
    let all = start.elapsed().as_secs_f64();
    let n = n as f64;
    println!(
        "768 px, one core: {:.1} images/s drawn, {:.1} with JPEG",
        n / (all - coding),
        n / all
    );
    Ok(())
}

/// Copies a picture, shrunk by whole-pixel picking where it is larger than a cell.
fn paste(sheet: &mut Picture, picture: &Picture, left: u32, top: u32) {
    let scale = (picture.width.max(picture.height) as f32 / (CELL - 8) as f32).max(1.0);
    let (w, h) = (
        (picture.width as f32 / scale) as u32,
        (picture.height as f32 / scale) as u32,
    );
    for y in 0..h {
        for x in 0..w {
            let (x0, y0) = ((x as f32 * scale) as u32, (y as f32 * scale) as u32);
            let (x1, y1) = (
                ((x + 1) as f32 * scale) as u32,
                ((y + 1) as f32 * scale) as u32,
            );
            let (x1, y1) = (
                x1.clamp(x0 + 1, picture.width),
                y1.clamp(y0 + 1, picture.height),
            );
            let to = (((top + y) * sheet.width + left + x) * 3) as usize;
            for c in 0..3 {
                let mut sum = 0_u32;
                for sy in y0..y1 {
                    for sx in x0..x1 {
                        sum +=
                            u32::from(picture.pixels[((sy * picture.width + sx) * 3) as usize + c]);
                    }
                }
                sheet.pixels[to + c] = (sum / ((x1 - x0) * (y1 - y0))) as u8;
            }
        }
    }
}
