//! The page, the contact sheet and the last words of the quickstart.

use std::path::{Path, PathBuf};

use llavar_eval::{
    AnswerRow, answer,
    page::{Page, PictureRows},
};
use llavar_image::{DecodeLimits, decode_file, encode_png, thumbnail};
use llavar_synth::{FontSet, Picture, SheetCell, SheetLine, contact_sheet};

use super::prepare::Prepared;
use crate::{commands::write_file, failure::Outcome};

/// What came out.
pub(super) struct Result {
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) blind: f64,
    pub(super) parameters: usize,
    pub(super) seconds: f64,
    pub(super) losses: Vec<(String, Vec<f32>)>,
    pub(super) answers: Vec<AnswerRow>,
}

/// Pictures on the page.
const SHOWN: usize = 48;
/// Pictures on the contact sheet.
const SHEET: usize = 12;

/// Writes `report.html` and `contact-sheet.png`; returns their paths.
pub(super) fn write(
    set: &Prepared,
    result: &Result,
    model: &Path,
    out: &Path,
) -> Outcome<(PathBuf, PathBuf)> {
    let mut pictures: Vec<(PathBuf, PictureRows)> = Vec::new();
    for (row, question) in result.answers.iter().zip(&set.questions) {
        let room = pictures.len() < SHOWN;
        match pictures
            .iter_mut()
            .find(|(path, _)| *path == question.picture)
        {
            Some((_, picture)) => picture.rows.push(row.clone()),
            None if room => {
                let image = thumbnail(
                    &decode_file(&question.picture, &DecodeLimits::default())?,
                    320,
                    320,
                )?;
                pictures.push((
                    question.picture.clone(),
                    PictureRows {
                        image,
                        rows: vec![row.clone()],
                    },
                ));
            }
            None => {}
        }
    }
    let pictures: Vec<PictureRows> = pictures.into_iter().map(|(_, picture)| picture).collect();

    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut summary = vec![
        (
            "untrained model".to_owned(),
            percent(result.before),
            String::new(),
        ),
        (
            "trained model".to_owned(),
            percent(result.after),
            String::new(),
        ),
        (
            "trained model, asked without the picture".to_owned(),
            percent(result.blind),
            String::new(),
        ),
    ];
    for (group, share, n) in answer::by_group(&result.answers) {
        summary.push((
            format!("trained model: {group}"),
            percent(share),
            format!("{n} questions"),
        ));
    }
    let mut remarks = vec![format!(
        "A LLaVAR-2 of {:.1} M parameters (CLIP and ConvNeXt towers, adapters, projector, decoder) was trained from random \
         weights in {:.0} s altogether and asked {} questions about {} pictures that it had never seen.",
        result.parameters as f64 / 1e6,
        result.seconds,
        result.answers.len(),
        set.held_out_pictures,
    )];
    remarks.extend(set.remarks.clone());
    let html = Page {
        title: "llavar quickstart".into(),
        remarks,
        columns: ("right".into(), String::new()),
        summary,
        losses: result.losses.clone(),
        next: next(model, set),
        pictures: pictures.clone(),
    }
    .render()?;
    let page = out.join("report.html");
    write_file(&page, html.as_bytes())?;

    let cells: Vec<SheetCell> = pictures.into_iter().take(SHEET).map(cell).collect();
    let title = format!(
        "held-out pictures: {} right before training, {} after",
        percent(result.before),
        percent(result.after)
    );
    let sheet = contact_sheet(&title, &cells, 4, 300, &FontSet::embedded()?);
    let image =
        llavar_image::RgbImage::new(sheet.width as usize, sheet.height as usize, sheet.pixels)?;
    let path = out.join("contact-sheet.png");
    write_file(&path, &encode_png(&image)?)?;
    Ok((page, path))
}

fn cell(picture: PictureRows) -> SheetCell {
    const INK: [u8; 3] = [20, 20, 20];
    let line = |text: String, rgb, bold| SheetLine { text, rgb, bold };
    let mut lines = Vec::new();
    for row in &picture.rows {
        lines.push(line(row.question.clone(), INK, true));
        let (mark, rgb) = if row.correct {
            ("right", [20, 120, 60])
        } else {
            ("wrong", [180, 40, 30])
        };
        lines.push(line(format!("{mark}: {}", row.answer), rgb, false));
        lines.push(line(format!("gold: {}", row.gold), [110, 110, 110], false));
    }
    let image = Picture {
        width: picture.image.width as u32,
        height: picture.image.height as u32,
        pixels: picture.image.data,
    };
    SheetCell { image, lines }
}

fn next(model: &Path, set: &Prepared) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(q) = set.questions.first() {
        lines.push(format!(
            "llavar ask --model {} --image {} \"{}\"",
            model.display(),
            q.picture.display(),
            q.question
        ));
        lines.push(format!(
            "llavar chat --model {} --image {}",
            model.display(),
            q.picture.display()
        ));
    }
    lines.push("llavar quickstart --out longer --pictures 8000 --set max_steps=3000".to_owned());
    lines.push(
        "llavar quickstart --out mine --data your.json --image-folder your_images".to_owned(),
    );
    lines.push("llavar train --list".to_owned());
    lines
}

/// What is said at the end.
pub(super) fn summary(
    set: &Prepared,
    result: &Result,
    model: &Path,
    page: &Path,
    sheet: &Path,
) -> String {
    let mut text = format!(
        "\nheld-out questions right: {:.1} % before, {:.1} % after training ({:.1} % without the picture), {:.0} s in all\n",
        100.0 * result.before,
        100.0 * result.after,
        100.0 * result.blind,
        result.seconds,
    );
    text += &format!(
        "model          {}\npage           {}\ncontact sheet  {}\n\ntry next:\n",
        model.display(),
        page.display(),
        sheet.display()
    );
    for line in next(model, set) {
        text += &format!("  {line}\n");
    }
    text
}
