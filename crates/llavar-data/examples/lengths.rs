//! Lengths of samples as training has them, one line each: text tokens, supervised tokens, images.
//! `cargo run --release -p llavar-data --example lengths -- TOKENIZER_FOLDER TEMPLATE DATA...`

use std::path::Path;

use llavar_data::{Dataset, MaskMode, Template, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: lengths TOKENIZER_FOLDER TEMPLATE DATA...";
    let tokenizer = Tokenizer::from_folder(Path::new(&arguments.next().ok_or(usage)?))?;
    let template = Template::new(arguments.next().ok_or(usage)?.parse()?);
    for path in arguments {
        for sample in Dataset::open(Path::new(&path), None)?.iter() {
            let encoded = template.encode_sample(&tokenizer, &sample?, MaskMode::Exact)?;
            let images = encoded.images();
            println!(
                "{} {} {images}",
                encoded.ids.len() - images,
                encoded.supervised()
            );
        }
    }
    Ok(())
}
