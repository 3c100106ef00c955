//! `llavar data fit`, and the grid of letters over fitted pictures.
#![allow(clippy::unwrap_used)]

mod common;

use common::World;
use llavar_image::{DecodeLimits, RgbImage, decode_file, encode_png};
use serde_json::{Value, json};
use std::fs;

/// A white sheet with a narrow block of lines.
fn sheet() -> RgbImage {
    let mut image = RgbImage::filled(800, 1000, [255; 3]);
    for line in 0..20 {
        for y in 100 + line * 20..110 + line * 20 {
            let at = (y * 800 + 300) * 3;
            image.data[at..at + 100 * 3].fill(0);
        }
    }
    image
}

#[test]
fn places_are_told_and_what_is_seen_is_written() {
    let world = World::new("data_fit");
    fs::create_dir(world.path("scans")).unwrap();
    fs::write(world.path("scans/a.png"), encode_png(&sheet()).unwrap()).unwrap();
    let out = world
        .run(
            &["data", "fit", "scans", "--size", "320"],
            &["--json", "--out", "seen"],
        )
        .ok();
    let place: Value = serde_json::from_str(out.trim()).unwrap();
    let source: Vec<u64> = serde_json::from_value(place["source"].clone()).unwrap();
    assert!((290..=300).contains(&source[0]) && (90..=100).contains(&source[1]));
    assert!((100..=124).contains(&source[2]) && (390..=424).contains(&source[3]));
    // Four times as high as wide: stretched twice, it is half as wide as the square.
    let target: Vec<u64> = serde_json::from_value(place["target"].clone()).unwrap();
    assert_eq!((target[1], target[3]), (0, 320));
    assert!((155..=190).contains(&target[2]), "{target:?}");
    let seen = decode_file(&world.path("seen/a.png.png"), &DecodeLimits::default()).unwrap();
    assert_eq!((seen.width, seen.height), (320, 320));
    assert_eq!(seen.pixel(0, 0), Some([122, 116, 104]));

    let missing = world.run(&["data", "fit", "scans/b.png"], &[]);
    missing.fails(3, &["b.png"]);
}

#[test]
fn cells_lie_over_the_fitted_picture() {
    let world = World::new("data_fit_cells");
    let synth = |out: &str, more: &[&str]| {
        let args = [
            "data", "synth", "--out", out, "-n", "12", "--set", "grid=16",
        ];
        world.run(&args, more).ok();
        let text = fs::read_to_string(world.path(&format!("{out}/transcriptions.json"))).unwrap();
        let samples: Vec<Value> = serde_json::from_str(&text).unwrap();
        let cells = |s: &Value| s["cells"].as_str().unwrap().to_owned();
        samples.iter().map(cells).collect::<Vec<_>>()
    };
    let kinds = ["--set", "kinds=[\"slip\"]"];
    let padded = synth("padded", &kinds);
    let fitted = synth(
        "fitted",
        &[&kinds[..], &["--set", "grid_fit=true"]].concat(),
    );
    let letters = |cells: &[String]| -> usize {
        let all = cells.iter().flat_map(|c| c.chars());
        all.filter(|c| *c != ' ').count()
    };
    assert!(fitted.iter().all(|cells| cells.chars().count() == 256));
    // Long slips fill half of a padded square at most.
    assert!(
        letters(&fitted) * 10 > letters(&padded) * 13,
        "{}",
        json!([padded, fitted])
    );
}
