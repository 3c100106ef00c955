//! Decodes the named pictures and writes their RGB bytes beside a given folder, for comparing:
//! `cargo run --release -p llavar-image --example decode -- OUT_FOLDER FILE...`

use std::path::Path;

use llavar_image::{DecodeLimits, decode_file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: decode OUT_FOLDER FILE...")?;
    for file in arguments {
        let file = Path::new(&file);
        match decode_file(file, &DecodeLimits::default()) {
            Ok(image) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                std::fs::write(Path::new(&folder).join(format!("{name}.rgb")), &image.data)?;
                println!("{}: {}x{}", file.display(), image.width, image.height);
            }
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}
