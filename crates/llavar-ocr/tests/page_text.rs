//! Layout, paragraphs and prefix beside values that a plain transcription of spec 9.2 gave for random
//! boxes. `LLAVAR_PAGE_TEXT` may name a larger file of the same form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use llavar_ocr::{page_layout, paragraphs, parse_lines, prefix};
use serde_json::Value;

#[test]
fn as_the_transcription() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/page_text.jsonl");
    let path = std::env::var("LLAVAR_PAGE_TEXT").unwrap_or(own.to_owned());
    let cases = std::fs::read_to_string(path).unwrap();
    let mut pages = 0;
    for (at, case) in cases.lines().enumerate() {
        let expected: Value = serde_json::from_str(case).unwrap();
        let lines = parse_lines(case).unwrap();
        assert_eq!(expected["layout"], page_layout(&lines), "case {at}");
        let texts: Vec<String> = paragraphs(&lines).into_iter().map(|p| p.text).collect();
        assert_eq!(expected["paragraphs"], Value::from(texts), "case {at}");
        assert_eq!(expected["prefix"], prefix(&lines), "case {at}");
        pages += usize::from(lines.len() > 4);
    }
    assert!(pages > 10, "only {pages} pages of more than four lines");
}
