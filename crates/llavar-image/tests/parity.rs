//! Decoding and processing against the pixels of PIL and `CLIPImageProcessor`.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use llavar_image::{Aspect, DecodeLimits, ImageProcessor, decode_file, probe_file};
use serde_json::Value;

fn folder(test: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("LLAVAR_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let folder = shared.join("parity/image");
    if !folder.is_dir() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
        return None;
    }
    Some(folder)
}

fn check(folder: &Path, case: &Value) -> Result<String, String> {
    let text = |key: &str| case[key].as_str().ok_or(format!("no {key}"));
    let limits = DecodeLimits::default();
    let path = folder.join(text("input")?);
    let image = decode_file(&path, &limits).map_err(|e| e.to_string())?;
    let info = probe_file(&path, &limits).map_err(|e| e.to_string())?;
    assert_eq!(
        (info.width as usize, info.height as usize),
        (image.width, image.height)
    );

    let size = case["size"].as_u64().ok_or("no size")? as usize;
    let aspect: Aspect = text("mode")?.parse().map_err(|e| format!("{e}"))?;
    let processor = ImageProcessor::new(size, aspect);
    let square = processor.to_square(&image).map_err(|e| e.to_string())?;
    let expected =
        decode_file(&folder.join(text("expected")?), &limits).map_err(|e| e.to_string())?;
    if (square.width, square.height) != (expected.width, expected.height) {
        return Err(format!("{square:?} instead of {expected:?}"));
    }
    let off = square
        .data
        .iter()
        .zip(&expected.data)
        .map(|(a, b)| a.abs_diff(*b));
    let worst = off.clone().max().unwrap_or(0);
    let unequal = off.filter(|&d| d > 0).count();
    let values = square.data.len();
    if worst > 1 || unequal * 1000 > values {
        return Err(format!(
            "{unequal} of {values} bytes differ, by up to {worst}"
        ));
    }

    let pixels = processor.process(&image).map_err(|e| e.to_string())?;
    let sum: f64 = pixels.iter().map(|&v| f64::from(v)).sum();
    let wanted = case["normalised_sum"].as_f64().ok_or("no normalised_sum")?;
    // One level is 1 / 255 / 0.26; the rest is the order of the reference's sum.
    let slack = unequal as f64 / 255.0 / 0.26 + 1e-6 * wanted.abs().max(values as f64);
    if (sum - wanted).abs() > slack {
        return Err(format!("sum {sum} instead of {wanted}"));
    }
    for (channel, value) in pixels.iter().take(3).enumerate() {
        let wanted = case["first_rgb"][channel].as_f64().ok_or("no first_rgb")?;
        let slack = if square.data[channel] == expected.data[channel] {
            1e-6
        } else {
            0.016
        };
        if (f64::from(*value) - wanted).abs() > slack {
            return Err(format!(
                "first value of channel {channel} {value} instead of {wanted}"
            ));
        }
    }
    Ok(format!("{unequal} bytes differ"))
}

#[test]
fn every_case_has_the_pixels_of_pil() {
    let Some(folder) = folder("every_case_has_the_pixels_of_pil") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let cases = json["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    let mut failures = 0;
    for case in cases {
        let name = case["expected"].as_str().unwrap_or("?");
        match check(&folder, case) {
            Ok(note) => println!("ok {name}: {note}"),
            Err(reason) => {
                failures += 1;
                println!("FAILED {name}: {reason}");
            }
        }
    }
    assert_eq!(failures, 0, "of {} cases", cases.len());
}
