//! The page, the contact sheet and the last words of the quickstart.

use std::path::{Path, PathBuf};

use llavar_eval::{AnswerRow, answer};
use llavar_image::{DecodeLimits, RgbImage, decode_file, encode_png, thumbnail};
use llavar_report::{
    Answer, Axis, BarChart, BarSeries, BarValue, Card, Cards, Cell, LineChart, Page, Pictures,
    Series, Table,
};
use llavar_synth::{FontSet, Picture, SheetCell, SheetLine, contact_sheet};

use super::{evaluate::Question, prepare::Prepared};
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

/// Questions on the page.
const SHOWN: usize = 144;
/// Pictures on the contact sheet.
const SHEET: usize = 12;
/// Size of a picture on both, px.
const SIDE: usize = 320;
/// Most that the page's pictures take, bytes.
const PICTURE_BYTES: usize = 16 << 20;

/// Writes `report.html` and `contact-sheet.png`; returns their paths.
pub(super) fn write(
    set: &Prepared,
    result: &Result,
    model: &Path,
    out: &Path,
) -> Outcome<(PathBuf, PathBuf)> {
    let page = out.join("report.html");
    write_file(&page, html(set, result, model).as_bytes())?;
    let title = format!(
        "held-out pictures: {} right before training, {} after",
        percent(result.before),
        percent(result.after)
    );
    let sheet = out.join("contact-sheet.png");
    write_sheet(&title, &set.questions, &result.answers, &sheet)?;
    Ok((page, sheet))
}

/// Writes a sheet of the first pictures with what was asked and answered.
pub(super) fn write_sheet(
    title: &str,
    questions: &[Question],
    answers: &[AnswerRow],
    path: &Path,
) -> Outcome {
    let mut cells: Vec<(&Path, SheetCell)> = Vec::new();
    for (row, question) in answers.iter().zip(questions) {
        let path = question.picture.as_path();
        let room = cells.len() < SHEET;
        match cells.iter_mut().find(|(known, _)| *known == path) {
            Some((_, cell)) => cell.lines.extend(lines(row)),
            None if room => cells.push((path, cell(path, row)?)),
            None => {}
        }
    }
    let cells: Vec<SheetCell> = cells.into_iter().map(|(_, cell)| cell).collect();
    let sheet = contact_sheet(title, &cells, 4, 300, &FontSet::embedded()?);
    let image = RgbImage::new(sheet.width as usize, sheet.height as usize, sheet.pixels)?;
    write_file(path, &encode_png(&image)?)
}

/// The page.
fn html(set: &Prepared, result: &Result, model: &Path) -> String {
    let mut page = Page::new("llavar quickstart");
    page.paragraph(format!(
        "A LLaVAR-2 of {:.1} M parameters (CLIP and ConvNeXt towers, adapters, projector, decoder) was trained from random \
         weights in {:.0} s altogether and asked {} questions about {} pictures that it had never seen.",
        result.parameters as f64 / 1e6,
        result.seconds,
        result.answers.len(),
        set.held_out_pictures,
    ));
    for remark in &set.remarks {
        page.paragraph(remark);
    }
    let share = |share: f64| Cell::number(share, percent(share));
    let mut table = Table::new(["asked", "right"]);
    table.row(["untrained model".into(), share(result.before)]);
    table.row(["trained model".into(), share(result.after).best(true)]);
    table.row([
        "trained model, without the picture".into(),
        share(result.blind),
    ]);
    page.add(&table);
    let groups = answer::by_group(&result.answers);
    page.add(&BarChart {
        title: "trained model, right answers by kind of picture".into(),
        labels: groups.iter().map(|(name, ..)| name.clone()).collect(),
        series: vec![BarSeries {
            name: String::new(),
            values: groups
                .iter()
                .map(|(_, share, n)| {
                    Some(BarValue {
                        value: *share,
                        error: None,
                        shown: format!("{} of {n}", percent(*share)),
                    })
                })
                .collect(),
        }],
        full: Some(1.0),
    });
    page.section("Loss");
    for (name, losses) in &result.losses {
        page.add(&LineChart {
            title: format!("{name}: {} steps", losses.len()),
            x: Axis::linear("step"),
            y: Axis::linear("loss [nats a token]"),
            series: vec![Series::of_values("loss", losses)],
            smooth: losses.len() / 50,
            ..LineChart::default()
        });
    }
    page.section("Questions on held-out pictures");
    let mut pictures = Pictures::new(SIDE, PICTURE_BYTES);
    let asked = result.answers.iter().zip(&set.questions).take(SHOWN);
    let cards: Vec<Card> = asked
        .map(|(row, question)| card(row, question, &mut pictures))
        .collect();
    page.add(&Cards {
        cards: &cards,
        pictures: &pictures,
    });
    page.section("Try next");
    page.commands(next(model, set));
    page.render()
}

fn card(row: &AnswerRow, question: &Question, pictures: &mut Pictures) -> Card {
    let picture = pictures.get(&row.image, || {
        decode_file(&question.picture, &DecodeLimits::default())
    });
    Card {
        id: row.id.clone(),
        picture,
        picture_name: row.image.clone(),
        category: row.group.clone(),
        question: row.question.clone(),
        gold: vec![row.gold.clone()],
        answers: vec![Answer {
            text: row.answer.clone(),
            right: Some(row.correct),
            ..Answer::default()
        }],
        remarks: Vec::new(),
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn cell(picture: &Path, row: &AnswerRow) -> Outcome<SheetCell> {
    let image = decode_file(picture, &DecodeLimits::default())?;
    let image = thumbnail(&image, SIDE, SIDE)?;
    Ok(SheetCell {
        image: Picture {
            width: image.width as u32,
            height: image.height as u32,
            pixels: image.data,
        },
        lines: lines(row),
    })
}

fn lines(row: &AnswerRow) -> Vec<SheetLine> {
    const INK: [u8; 3] = [20, 20, 20];
    let line = |text: String, rgb, bold| SheetLine { text, rgb, bold };
    let (mark, rgb) = if row.correct {
        ("right", [20, 120, 60])
    } else {
        ("wrong", [180, 40, 30])
    };
    vec![
        line(row.question.clone(), INK, true),
        line(format!("{mark}: {}", row.answer), rgb, false),
        line(format!("gold: {}", row.gold), [110, 110, 110], false),
    ]
}

fn next(model: &Path, set: &Prepared) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(q) = set.questions.first() {
        lines.push(format!(
            "llavar ask --model {} {} \"{}\"",
            model.display(),
            q.picture.display(),
            q.question
        ));
        lines.push(format!(
            "llavar chat --model {} {}",
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
