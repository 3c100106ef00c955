//! `llavar data fit`: where pictures lie in the square that a model sees.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use llavar_image::{
    Aspect, DecodeLimits, ImageError, ImageProcessor, Placement, Rect, decode_file, encode_png,
};
use rayon::prelude::*;
use serde_json::json;

use super::{
    data::not_there,
    is_same, not_over,
    pictures::{Job, jobs},
    print, write_file,
};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::{Progress, note},
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
    /// Write what the model sees as PICTURE.png into this folder too. Pictures that lie there are not read,
    /// unless they are named.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write over results that are there already; never over a picture that is read.
    #[arg(long, requires = "out")]
    force: bool,
}

/// Pictures that are worked on at a time: what is printed comes in their order, soon.
const AT_ONCE: usize = 64;

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let mut jobs = jobs(&args.images, ".png", args.out.is_some())?;
    if let Some(out) = &args.out {
        without_results(&mut jobs, &args.images, out)?;
        nothing_is_lost(&jobs, out, args.force)?;
    }
    let mut bad = 0;
    let mut progress = Progress::new("fitting", "pictures", jobs.len() as u64);
    for (done, some) in jobs.chunks(AT_ONCE).enumerate() {
        let places: Vec<_> = some.par_iter().map(|job| one(&args, job)).collect();
        for (job, place) in some.iter().zip(places) {
            match place? {
                Ok(place) => show(&args, &job.image, place)?,
                // One bad picture must not end the work on thousands.
                Err(error) => {
                    bad += 1;
                    let (picture, error) = (job.image.display().to_string(), error.to_string());
                    progress.line(&match error.contains(&picture) {
                        true => format!("not read: {error}"),
                        false => format!("not read: {picture}: {error}"),
                    });
                }
            }
        }
        progress.set((done * AT_ONCE + some.len()) as u64, String::new());
    }
    progress.finish(&format!("{} pictures, {bad} bad", jobs.len()));
    if bad > 0 {
        let what = format!("{bad} of {} pictures could not be read", jobs.len());
        return Err(Failure::new(Class::Data, what).hint("the lines above say why"));
    }
    Ok(())
}

/// Leaves out what earlier runs wrote: results of results would pile up, and a repeat would write over what it
/// reads. In a folder that is itself read, results could not be told from pictures.
fn without_results(jobs: &mut Vec<Job>, images: &[PathBuf], out: &Path) -> Outcome {
    let Ok(folder) = out.canonicalize() else {
        return Ok(());
    };
    if images.iter().any(|image| is_same(image, out)) {
        let what = format!(
            "--out {} is a folder of pictures that are read",
            out.display()
        );
        return Err(Failure::usage(what).hint("give another --out; it may lie in that folder"));
    }
    let before = jobs.len();
    jobs.retain(|job| {
        let parent = place(job.image.parent().unwrap_or(Path::new("")));
        // Named itself, or in a folder that is given and does not hold --out.
        let meant =
            |given: &PathBuf| job.image.starts_with(given) && !folder.starts_with(place(given));
        !parent.starts_with(&folder) || images.iter().any(meant)
    });
    if jobs.len() < before {
        let (left_out, shown) = (before - jobs.len(), out.display());
        note(format!("{left_out} pictures in {shown} are not read"));
    }
    Ok(())
}

/// Refuses results that would be written over pictures, or over other files without `--force`.
fn nothing_is_lost(jobs: &[Job], out: &Path, force: bool) -> Outcome {
    let read: HashMap<PathBuf, &Path> = jobs
        .iter()
        .map(|job| (place(&job.image), job.image.as_path()))
        .collect();
    for job in jobs {
        let result = out.join(&job.result);
        if let Some(picture) = read.get(&place(&result)) {
            let name = format!("the picture {}", picture.display());
            not_over("--out", &result, &[(&name, picture)])?;
        }
        not_there(&result, force)?;
    }
    Ok(())
}

/// Where a file is, whatever its path is spelled like.
fn place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The place of a picture, if it can be read; what the model sees of it is written where that is asked for.
fn one(args: &Args, job: &Job) -> Outcome<Result<Placement, ImageError>> {
    let processor = ImageProcessor::new(args.size.into(), Aspect::Fit);
    let look = || {
        let image = decode_file(&job.image, &DecodeLimits::default())?;
        let seen = match args.out {
            Some(_) => Some(encode_png(&processor.to_square(&image)?)?),
            None => None,
        };
        Ok((Placement::fit(&image, args.size.into()), seen))
    };
    match look() {
        Ok((place, seen)) => {
            if let (Some(out), Some(seen)) = (&args.out, seen) {
                write_file(&out.join(&job.result), &seen)?;
            }
            Ok(Ok(place))
        }
        Err(error) => Ok(Err(error)),
    }
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
