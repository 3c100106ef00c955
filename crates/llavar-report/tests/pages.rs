//! Whole pages: well formed, closed to everything outside, and deaf to what texts try.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use html5gum::{Token, Tokenizer, emitters::default::DefaultEmitter};
use llavar_image::{ImageError, RgbImage};
use llavar_report::{
    Answer, Axis, BarChart, BarSeries, BarValue, Card, Cards, Cell, Histogram, LineChart, Marker,
    Page, Pictures, Point, Scatter, Series, Table,
};
use proptest::prelude::*;

const VOID: [&str; 5] = ["meta", "img", "input", "br", "hr"];

/// An element's name and attributes.
type Element = (String, Vec<(String, String)>);

/// The elements of a page and all its text; panics where it is not well formed.
fn read(html: &str) -> (Vec<Element>, String) {
    let (mut open, mut elements, mut text) = (Vec::new(), Vec::new(), String::new());
    let mut raw = false;
    // Script and style are no markup.
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter).map(Result::unwrap) {
        match token {
            Token::StartTag(tag) => {
                let name = String::from_utf8(tag.name.to_vec()).unwrap();
                let attributes = tag.attributes.iter().map(|(key, value)| {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    (text(key), text(value))
                });
                elements.push((name.clone(), attributes.collect()));
                raw = name == "style" || name == "script";
                if !VOID.contains(&name.as_str()) {
                    open.push(name);
                }
            }
            Token::EndTag(tag) => {
                let name = String::from_utf8(tag.name.to_vec()).unwrap();
                assert_eq!(open.pop().as_ref(), Some(&name), "closes what is open");
                raw = false;
            }
            Token::String(part) if !raw => text += std::str::from_utf8(&part).unwrap(),
            Token::String(_) | Token::Doctype(_) => {}
            Token::Comment(_) => panic!("no part writes comments"),
            Token::Error(error) => panic!("{error:?}"),
        }
    }
    assert!(open.is_empty(), "still open: {open:?}");
    (elements, text)
}

/// A page of every part, with `text` wherever a text can stand and `value` as a number.
fn page(text: &str, value: f64) -> String {
    let own = || text.to_owned();
    let mut page = Page::new(text);
    page.paragraph(text);
    page.notes([text]);
    page.facts([(text, text)]);
    for _ in 0..3 {
        page.section(text);
    }
    let mut table = Table::new([text, "b"]);
    table.row([
        own().into(),
        Cell::number(value, text).note(text).best(true),
    ]);
    table.row([Cell::from(text).quiet()]);
    table.caption(text);
    page.add(&table);
    let marker = || {
        vec![Marker {
            value: 1.5,
            label: own(),
        }]
    };
    page.add(&LineChart {
        title: own(),
        x: Axis::linear(text),
        y: Axis::log(text),
        series: vec![Series {
            name: own(),
            points: vec![(1.0, 2.0), (2.0, value)],
        }],
        smooth: 2,
        at_x: marker(),
    });
    let bar = BarValue {
        value,
        error: Some(value),
        shown: own(),
    };
    page.add(&BarChart {
        title: own(),
        labels: vec![own(), "x".repeat(99)],
        series: vec![
            BarSeries {
                name: own(),
                values: vec![Some(bar), None]
            };
            2
        ],
        full: None,
    });
    page.add(&Histogram {
        title: own(),
        x: Axis::linear(text),
        unit: own(),
        values: vec![1.0, value, 2.0],
        bins: 5,
        markers: marker(),
    });
    let point = |y| Point {
        x: 1.0,
        y,
        group: 9,
        text: own(),
    };
    page.add(&Scatter {
        title: own(),
        x: Axis::log(text),
        y: Axis::linear(text),
        groups: vec![own(), own()],
        points: vec![point(value), point(3.0)],
        at_x: marker(),
        at_y: marker(),
    });
    let mut pictures = Pictures::new(16, 1 << 20);
    let seen = pictures.get("a", || Ok(RgbImage::filled(40, 20, [9, 120, 200])));
    let absent = pictures.get(text, || Err(ImageError::NotFound { path: text.into() }));
    let card = |picture: &llavar_report::Thumbnail, right| Card {
        id: own(),
        picture: picture.clone(),
        picture_name: own(),
        category: own(),
        question: own(),
        gold: vec![own(), String::new()],
        answers: vec![Answer {
            by: own(),
            text: own(),
            right,
            failed: right.is_none(),
            scores: vec![(own(), value)],
        }],
        remarks: vec![own()],
    };
    let cards = [
        card(&seen, Some(true)),
        card(&seen, Some(false)),
        card(&absent, None),
    ];
    page.add(&Cards {
        cards: &cards,
        pictures: &pictures,
    });
    page.commands([text]);
    page.render()
}

/// Nothing of a page comes from elsewhere, and it runs no script but its own.
fn closed(elements: &[Element]) {
    for (name, attributes) in elements {
        assert!(
            !["link", "iframe", "object", "embed", "base", "form"].contains(&name.as_str()),
            "{name}"
        );
        for (key, value) in attributes {
            assert!(
                !key.starts_with("on") && key != "style",
                "{name} {key}={value}"
            );
            match key.as_str() {
                "src" => assert!(value.starts_with("data:image/"), "{value:.60}"),
                "href" => assert!(value.starts_with("#section-"), "{value}"),
                "action" | "srcset" | "background" | "poster" | "xlink:href" => {
                    panic!("{name} {key}")
                }
                _ => {}
            }
        }
    }
    let scripts = elements.iter().filter(|(name, _)| name == "script").count();
    assert_eq!(scripts, 1);
}

#[test]
fn a_page_of_every_part_is_closed_and_repeats() {
    let html = page("What does the sign say?", 0.5);
    let (elements, text) = read(&html);
    closed(&elements);
    assert_eq!(html, page("What does the sign say?", 0.5));
    assert!(text.contains("no picture") && text.contains("What does the sign say?"));
    let count = |name: &str| elements.iter().filter(|(other, _)| other == name).count();
    // Two cards share a picture: its bytes are there once.
    assert_eq!(
        (
            count("article"),
            count("img"),
            html.matches("data:image/").count()
        ),
        (3, 2, 1)
    );
    for outside in [
        "http:",
        "https:",
        "//cdn",
        "@import",
        "url(",
        "fetch(",
        "XMLHttpRequest",
        "eval(",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn scripts_in_texts_stay_texts() {
    for text in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "</style><script src=//e.x></script>",
        "</title></script><!--",
        "]]><svg/onload=alert(1)>",
        "javascript:alert(1)",
        "&lt;b&gt; &#60;i&#62; &amp",
        "a\u{0}b\u{8}\u{1b}[31m\u{202E}gpj.exe\u{FFFE}",
        "\r\n\r",
    ] {
        let (elements, read_text) = read(&page(text, 1.0));
        // Long labels have one element more.
        let plain = read(&page(&"x".repeat(text.chars().count()), 1.0)).0;
        assert_eq!(elements.len(), plain.len(), "{text}");
        closed(&elements);
        if !text.contains(|c: char| c.is_control() || c == '\u{202E}') {
            assert!(
                read_text.matches(text).count() > 10,
                "{text} is shown as it is"
            );
        }
    }
}

#[test]
fn a_picture_in_two_lists_is_there_once() {
    let mut page = Page::new("two lists");
    let mut pictures = Pictures::new(16, 1 << 20);
    let card = Card {
        id: "1".into(),
        picture: pictures.get("a", || Ok(RgbImage::filled(40, 20, [9, 120, 200]))),
        picture_name: "a".into(),
        category: String::new(),
        question: "?".into(),
        gold: Vec::new(),
        answers: Vec::new(),
        remarks: Vec::new(),
    };
    for _ in 0..2 {
        page.add(&Cards {
            cards: std::slice::from_ref(&card),
            pictures: &pictures,
        });
    }
    let html = page.render();
    assert_eq!(html.matches("id=\"picture-0\"").count(), 1);
    assert_eq!(
        (
            html.matches("<img").count(),
            html.matches("data:image/").count()
        ),
        (2, 1)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_text_and_any_number_make_a_well_formed_page(
        text in prop_oneof![any::<String>(), "[<>&'\"/a-z =!-]{0,40}", "(<|</|<!--|&#|script|[\\x00-\\x20]|\\PC){0,12}"],
        value in any::<f64>(),
    ) {
        closed(&read(&page(&text, value)).0);
    }
}
