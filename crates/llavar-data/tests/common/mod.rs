//! Helpers of the integration tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod server;

use std::io::Write as _;
use std::path::PathBuf;

/// The folder of reference values, or a loud word that the test is skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let path =
        std::env::var_os("LLAVAR_SHARED").map_or_else(|| PathBuf::from(default), PathBuf::from);
    if path.is_dir() {
        Some(path)
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
        None
    }
}

/// A small byte-level tokenizer with the markers of all templates.
pub fn small_tokenizer() -> llavar_data::Tokenizer {
    use llavar_data::tokenizer::{BpeOptions, train_bpe};
    let options = BpeOptions::new(400).with_phi3_tokens().with_llama3_tokens();
    let texts = ["The quick brown fox. What is the title? USER: ASSISTANT: The title is Foo."];
    let (json, config) = train_bpe(texts.iter().cycle().take(20), &options).unwrap();
    llavar_data::Tokenizer::from_json(&json, &serde_json::from_str(&config).unwrap()).unwrap()
}
