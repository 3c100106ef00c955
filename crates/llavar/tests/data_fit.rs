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
fn what_is_seen_is_never_written_over_pictures() {
    let world = World::empty("data_fit_over");
    let picture = encode_png(&sheet()).unwrap();
    fs::create_dir(world.path("fd")).unwrap();
    let other = encode_png(&RgbImage::filled(40, 30, [9; 3])).unwrap();
    fs::write(world.path("fd/a.png"), &picture).unwrap();
    fs::write(world.path("fd/a.png.png"), &other).unwrap();
    let fit = |images: &[&str], more: &[&str]| {
        let args = [&["data", "fit", "--size", "64"][..], images].concat();
        world.run(&args, more)
    };
    let files = |folder: &str| -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(world.path(folder)).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let before = files("fd");
    for force in [&[][..], &["--force"]] {
        let out = |out| [&["--out", out][..], force].concat();
        fit(&["fd"], &out("./fd")).fails(2, &["./fd", "pictures that are read"]);
        fit(&["fd/a.png", "fd/a.png.png"], &out("fd"))
            .fails(2, &["--out would write over", "the picture fd/a.png.png"]);
        // Nothing of it is written before it is refused.
        fs::create_dir_all(world.path("up/fd")).unwrap();
        fs::write(world.path("up/b.png"), &picture).unwrap();
        fs::write(world.path("up/fd/b.png.png"), &picture).unwrap();
        fit(&["fd/a.png", "up", "up/fd/b.png.png"], &out("up/fd"))
            .fails(2, &["the picture up/fd/b.png.png"]);
        assert_eq!(files("up/fd").len(), 1);
    }
    assert_eq!(files("fd"), before);

    fit(&["fd/a.png"], &["--out", "fd"]).fails(2, &["fd/a.png.png exists", "--force"]);
    assert_eq!(files("fd"), before);
    // In a folder of the pictures: a repeat neither reads its own results nor writes more of them.
    fit(&["fd"], &["--out", "fd/seen"]).ok();
    let seen = files("fd/seen");
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.png.png", "a.png.png.png"]);
    fit(&["fd"], &["--out", "fd/seen"]).fails(2, &["exists already", "--force"]);
    let run = fit(&["fd"], &["--out", "fd/seen", "--force"]);
    assert!(run.err.contains("2 pictures in fd/seen"), "{run:?}");
    assert_eq!(run.ok().lines().count(), 2);
    assert_eq!((files("fd"), files("fd/seen")), (before, seen));
    // A folder above that of the pictures leaves out none; those that are named are read.
    let out = fit(&["fd/seen"], &["--out", "."]).ok();
    assert_eq!(out.lines().count(), 2);
    assert!(world.path("a.png.png.png").is_file());
    let named = fit(
        &["fd", "fd/seen/a.png.png.png"],
        &["--out", "fd/seen/", "--force"],
    );
    named.fails(2, &["the picture fd/seen/a.png.png.png"]);
}

#[test]
fn a_broken_picture_does_not_end_the_run() {
    let world = World::empty("data_fit_broken");
    fs::create_dir(world.path("scans")).unwrap();
    let picture = encode_png(&sheet()).unwrap();
    fs::write(world.path("scans/a.png"), &picture[..60]).unwrap();
    fs::write(world.path("scans/c.png"), &picture).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere.png", world.path("scans/b.png")).unwrap();
    #[cfg(not(unix))]
    fs::write(world.path("scans/b.png"), b"").unwrap();
    let run = world.run(&["data", "fit", "scans"], &["--json", "--out", "seen"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    for word in ["scans/a.png", "scans/b.png", "2 of 3 pictures"] {
        assert!(run.err.contains(word), "{word}: {run:?}");
    }
    let place: Value = serde_json::from_str(run.out.trim()).unwrap();
    assert_eq!(place["image"], "scans/c.png");
    assert!(world.path("seen/c.png.png").is_file());
    assert_eq!(fs::read_dir(world.path("seen")).unwrap().count(), 1);
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
