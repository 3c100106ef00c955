//! Contact sheets: sizes, texts of any kind, pictures of any kind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use llavar_synth::{
    FontSet, ImageKind, Picture, SheetCell, SheetLine, SynthConfig, contact_sheet, encode, generate,
};

fn picture(width: u32, height: u32, rgb: [u8; 3]) -> Picture {
    let pixels = rgb.repeat((width * height) as usize);
    Picture {
        width,
        height,
        pixels,
    }
}

fn line(text: &str, rgb: [u8; 3], bold: bool) -> SheetLine {
    let text = text.to_owned();
    SheetLine { text, rgb, bold }
}

/// Left, top, right and bottom (exclusive) of the pixels that `is` accepts.
fn extent(sheet: &Picture, is: impl Fn([u8; 3]) -> bool) -> Option<[u32; 4]> {
    let mut found: Option<[u32; 4]> = None;
    for (i, px) in sheet.pixels.chunks_exact(3).enumerate() {
        if is([px[0], px[1], px[2]]) {
            let (x, y) = (i as u32 % sheet.width, i as u32 / sheet.width);
            let f = found.unwrap_or([x, y, x + 1, y + 1]);
            found = Some([f[0].min(x), f[1].min(y), f[2].max(x + 1), f[3].max(y + 1)]);
        }
    }
    found
}

const RED: [u8; 3] = [230, 10, 20];
const BLUE: [u8; 3] = [10, 20, 230];
const GREEN: [u8; 3] = [0, 140, 0];

fn is_green([r, g, b]: [u8; 3]) -> bool {
    g > 100 && r < 100 && b < 100
}

#[test]
fn pictures_keep_their_aspect_and_texts_stand_below_inside_the_cell() {
    let fonts = FontSet::embedded().unwrap();
    let cells = [
        SheetCell {
            image: picture(40, 30, RED),
            lines: vec![line(&"wide words ".repeat(9), GREEN, false)],
        },
        SheetCell {
            image: picture(900, 300, BLUE),
            lines: vec![],
        },
    ];
    let sheet = contact_sheet("Heading", &cells, 2, 200, &fonts);
    assert_eq!(
        sheet.pixels.len(),
        (sheet.width * sheet.height * 3) as usize
    );
    let red = extent(&sheet, |p| p == RED).unwrap();
    let blue = extent(&sheet, |p| p == BLUE).unwrap();
    // The edge may tint the outermost pixels.
    for (found, [w, h]) in [(red, [200, 150]), (blue, [200, 67])] {
        assert!(
            (found[2] - found[0]).abs_diff(w) <= 2 && (found[3] - found[1]).abs_diff(h) <= 2,
            "{found:?} is not {w} x {h}"
        );
    }
    assert_eq!(red[1], blue[1]);
    assert!(blue[0] > red[2]);
    let text = extent(&sheet, is_green).unwrap();
    assert!(text[1] > red[3], "{text:?} runs into {red:?}");
    assert!(text[0] + 2 >= red[0] && text[2] <= red[2] + 2, "{text:?}");
    assert!(
        text[3] - text[1] > 30,
        "not wrapped to several lines: {text:?}"
    );
    // The heading stands above.
    let ink = extent(&sheet, |p| p.iter().all(|&c| c < 60)).unwrap();
    assert!(ink[1] < red[1] && ink[3] <= red[1], "{ink:?}");

    // A second row begins below the tallest cell of the first.
    let one = contact_sheet("Heading", &cells, 1, 200, &fonts);
    let blue = extent(&one, |p| p == BLUE).unwrap();
    assert!(blue[1] > extent(&one, is_green).unwrap()[3]);
    assert!(one.height > sheet.height && one.width < sheet.width);
}

#[test]
fn long_texts_are_cut() {
    let fonts = FontSet::embedded().unwrap();
    let height = |text: &str| {
        let cell = SheetCell {
            image: picture(10, 10, RED),
            lines: vec![line(text, GREEN, true)],
        };
        contact_sheet("", &[cell], 1, 160, &fonts).height
    };
    let cut = height(&"long ".repeat(100_000));
    assert_eq!(cut, height(&"x".repeat(3_000_000)));
    assert_eq!(cut, height(&"long ".repeat(60)));
    assert!(cut > height("short") + 40);
    let many = SheetCell {
        image: picture(10, 10, RED),
        lines: vec![line("a line of its own", GREEN, false); 5000],
    };
    assert!(contact_sheet("", &[many], 1, 160, &fonts).height < 1000);
}

#[test]
fn any_text_and_any_picture_are_drawn() {
    let fonts = FontSet::embedded().unwrap();
    let ink = |text: &str| {
        let cell = SheetCell {
            image: picture(8, 8, RED),
            lines: vec![line(text, GREEN, false)],
        };
        let sheet = contact_sheet("", &[cell], 1, 300, &fonts);
        extent(&sheet, is_green).map_or(0, |e| e[2] - e[0])
    };
    assert_eq!(ink("\u{0}\u{7}\u{200b}\u{feff}\n\t"), 0);
    // Greek, Chinese, an emoji, Arabic, a private and an unassigned character all leave ink.
    for text in [
        "Ω",
        "漢",
        "😀",
        "ش",
        "\u{e000}",
        "\u{10ffff}",
        "“‘…’”",
        "e\u{301}",
    ] {
        assert!(ink(text) > 3, "nothing is drawn for {text:?}");
    }
    assert!(ink("漢漢漢漢") > 3 * ink("漢"));

    let bad = |width, height, bytes| SheetCell {
        image: Picture {
            width,
            height,
            pixels: vec![7; bytes],
        },
        lines: vec![line("no picture", GREEN, false)],
    };
    let cells = [
        bad(0, 0, 0),
        bad(0, 9, 0),
        bad(5, 5, 3),
        bad(u32::MAX, u32::MAX, 0),
        bad(1, 4000, 12_000),
        bad(4000, 1, 12_000),
        bad(1, 1, 3),
    ];
    for (columns, cell_width) in [
        (0, 0),
        (1, 64),
        (3, 200),
        (usize::MAX, 300),
        (usize::MAX, u32::MAX),
    ] {
        let sheet = contact_sheet(&"heading ".repeat(500), &cells, columns, cell_width, &fonts);
        assert_eq!(
            sheet.pixels.len(),
            sheet.width as usize * sheet.height as usize * 3
        );
    }
    let empty = contact_sheet("", &[], 4, 100, &fonts);
    assert!(empty.width > 0 && empty.height > 0);
}

#[test]
fn a_sheet_of_documents_is_the_same_every_time() {
    let (fonts, config) = (FontSet::embedded().unwrap(), SynthConfig::default());
    let cells: Vec<SheetCell> = (0..6)
        .map(|i| {
            let document = generate(&config, &fonts, i).unwrap();
            let mut lines = vec![
                line(document.kind.name(), [90, 90, 90], false),
                line(
                    &document.duos[0].extractive_question,
                    [20, 20, 20],
                    i % 2 == 0,
                ),
                line(
                    &format!("expected: {}", document.duos[0].gold),
                    [0, 110, 40],
                    true,
                ),
            ];
            if i == 1 {
                lines.push(line(&document.caption, [160, 0, 0], false));
                lines.push(line(
                    "Ελλάδα, Россия, 東京, 😀 ✓ → — “quoted” naïve e\u{301}",
                    [0; 3],
                    false,
                ));
                lines.push(line(&"unbroken".repeat(60), [0, 0, 160], true));
            }
            SheetCell {
                image: document.image,
                lines,
            }
        })
        .collect();
    let draw = || contact_sheet("Held-out pictures – 6 of 200", &cells, 3, 320, &fonts);
    let sheet = draw();
    assert_eq!(sheet, draw());
    // `LLAVAR_SHEET=file.png` keeps the sheet, to look at it.
    if let Some(path) = std::env::var_os("LLAVAR_SHEET") {
        std::fs::write(path, encode(&sheet, ImageKind::Png).unwrap()).unwrap();
    }
}

#[test]
fn a_sheet_that_would_be_too_large_says_what_is_missing() {
    let fonts = FontSet::embedded().unwrap();
    let cell = SheetCell {
        image: picture(1, 2, RED),
        lines: vec![],
    };
    let sheet = contact_sheet("many", &vec![cell; 40_000], 2, 32, &fonts);
    assert!(sheet.height <= 65_000 && sheet.height > 60_000);
    let ink = extent(&sheet, |p| p.iter().all(|&c| c < 90)).unwrap();
    let pictures = extent(&sheet, |p| p == RED).unwrap();
    assert!(ink[3] > pictures[3], "no note below the last picture");
}
