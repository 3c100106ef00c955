//! Held-out questions that a model answers rightly: the answer contains the printed fact as whole words.
//!
//! `cargo run --release -p llavar-select --example held_out -- MODEL FOLDER`
//!
//! FOLDER is one of `llavar data synth`.

use std::{error::Error, path::Path};

use llavar_assistant::Assistant;
use llavar_metrics::contains_words;
use llavar_model::generation::GenerationOptions;
use rayon::prelude::*;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = args.as_slice() else {
        return Err("give MODEL FOLDER".into());
    };
    let (folder, assistant) = (Path::new(folder), Assistant::load(Path::new(model), None)?);
    let facts = std::fs::read_to_string(folder.join("facts.jsonl"))?;
    let facts: Vec<Value> = facts
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let options = GenerationOptions {
        // One sentence; what rambles on must not hit the fact by chance.
        max_new_tokens: 24,
        ..assistant.defaults()
    };
    let right = |fact: &Value| -> Result<bool, String> {
        let text = |key: &str| fact[key].as_str().ok_or(format!("a fact without {key}"));
        let features = assistant.see_file(&folder.join(text("image")?));
        let features = features.map_err(|error| error.to_string())?;
        let answer = assistant.ask(&[features], text("question")?, &options);
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(contains_words(&answer.text, text("gold")?))
    };
    let right: Vec<bool> = facts.par_iter().map(right).collect::<Result<_, _>>()?;
    let count = right.iter().filter(|right| **right).count();
    println!(
        "{:.1} % of {} questions right",
        100.0 * count as f64 / right.len() as f64,
        right.len()
    );
    Ok(())
}
