//! `llavar data fit`: where pictures lie in the square that a model sees.

use std::path::{Path, PathBuf};

use llavar_image::{
    Aspect, DecodeLimits, ImageError, ImageProcessor, Placement, Rect, decode_file, encode_png,
};
use rayon::prelude::*;
use serde_json::json;

use super::{
    pictures::{Job, jobs},
    print, write_file,
};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::Progress,
};

/// Show where pictures lie in the square that a model with `image_aspect_ratio` "fit" sees: the empty border is cut
/// off, the rest stretched.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar data fit receipt.jpg --out seen\n         llavar data fit scans/ --json > places.jsonl"
)]
pub(crate) struct Args {
    /// Pictures, or folders of pictures.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Side of the square, px: `input_image_size` of the model.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(32..=8192))]
    size: u16,
    /// Print one JSON object a picture and line of output, rectangles as [left, top, width, height], px.
    #[arg(long)]
    json: bool,
    /// Write what the model sees as PICTURE.png into this folder too.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Pictures that are worked on at a time: what is printed comes in their order, soon.
const AT_ONCE: usize = 64;

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let jobs = jobs(&args.images, ".png", args.out.is_some())?;
    let mut progress = Progress::new("fitting", "pictures", jobs.len() as u64);
    for (done, some) in jobs.chunks(AT_ONCE).enumerate() {
        let places: Vec<Outcome<Placement>> = some.par_iter().map(|job| one(&args, job)).collect();
        for (job, place) in some.iter().zip(places) {
            show(&args, &job.image, place?)?;
        }
        progress.set((done * AT_ONCE + some.len()) as u64, String::new());
    }
    progress.finish(&format!("{} pictures", jobs.len()));
    Ok(())
}

/// The place of a picture; what the model sees of it is written where that is asked for.
fn one(args: &Args, job: &Job) -> Outcome<Placement> {
    let failed = |error: ImageError| Failure::new(Class::Data, error);
    let image = decode_file(&job.image, &DecodeLimits::default()).map_err(failed)?;
    let processor = ImageProcessor::new(args.size.into(), Aspect::Fit);
    if let Some(out) = &args.out {
        let seen = processor.to_square(&image).map_err(failed)?;
        write_file(&out.join(&job.result), &encode_png(&seen).map_err(failed)?)?;
    }
    Ok(Placement::fit(&image, args.size.into()))
}

fn show(args: &Args, image: &Path, place: Placement) -> Outcome {
    let Placement {
        source,
        target,
        size,
    } = place;
    if args.json {
        let list = |rect: Rect| [rect.left, rect.top, rect.width, rect.height];
        let line = json!({
            "image": image, "source": list(source), "target": list(target), "size": size
        });
        return print(format!("{line}\n"));
    }
    let rect = |rect: Rect| {
        let Rect {
            left,
            top,
            width,
            height,
        } = rect;
        format!("{width} x {height} px at ({left}, {top})")
    };
    print(format!(
        "{}: {} of the picture become {} of {size} x {size}\n",
        image.display(),
        rect(source),
        rect(target)
    ))
}
