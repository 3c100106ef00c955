//! A page about scores, and about a pick of them.

use std::collections::HashMap;

use llavar_image::{ImageError, RgbImage};
use llavar_report::{
    Answer, Axis, Card, Cards, Cell, Histogram, Marker, Page, Pictures, Point, Scatter, Table,
};

use crate::{Loss, SCORES, ScoreRow, ScoreTable, pick::Dropped};

/// What the page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportOptions {
    /// Pairs shown at each end of a score, and of kept and dropped ones.
    pub shown: usize,
    /// Points of the scatter at most: evenly chosen of more.
    pub points: usize,
    /// Largest side of a picture, px.
    pub side: usize,
    /// All pictures together at most, bytes.
    pub picture_bytes: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            shown: 8,
            points: 4000,
            side: 320,
            picture_bytes: 16 << 20,
        }
    }
}

/// The page about a score file: histograms, VFD against IFD, the lowest and the highest pairs of every
/// score with their pictures, what has no scores and why. With verdicts (`None` for a kept row, as
/// [`crate::pick::pick`] gives them) kept and dropped pairs are told apart and shown side by side.
/// `read` opens a picture by its name in the data.
pub fn page(
    title: &str,
    table: &ScoreTable,
    verdicts: Option<&[Option<Dropped>]>,
    options: &ReportOptions,
    read: &mut dyn FnMut(&str) -> Result<RgbImage, ImageError>,
) -> String {
    let rows = &table.rows;
    let mut page = Page::new(title);
    let reasons = rows.iter().filter(|row| row.reason.is_some()).count();
    let samples: std::collections::HashSet<u64> = rows.iter().map(|row| row.record).collect();
    page.paragraph(format!(
        "{} pairs of {} samples; {reasons} of them have a reason instead of some score. Scores are ratios of mean losses: \
         IFD = s(A|Q) / s(A), VFD = s(Q,A|picture) / s(Q,A), mIFD = IFD x VFD, FFD = s(Qs,As|picture,Qe,Ae) / \
         s(Qs,As|picture). From 1 on the condition (question, picture, fact) does not help.",
        rows.len(),
        samples.len(),
    ));
    if let Some(info) = &table.info {
        page.facts([
            ("model", info.model.clone()),
            ("template", info.template.clone()),
            ("element type", info.dtype.clone()),
            ("scores", info.scores.to_string()),
        ]);
    }
    page.add(&summary(rows));

    page.section("Distributions");
    for (name, get) in SCORES {
        let values: Vec<f64> = rows.iter().filter_map(get).collect();
        if values.is_empty() {
            continue;
        }
        page.add(&Histogram {
            title: format!("{} of {} pairs", upper(name), values.len()),
            x: Axis::linear(upper(name)),
            unit: "pairs".into(),
            markers: vec![one(), median(&values)],
            values,
            bins: 0,
        });
    }
    scatter(&mut page, rows, verdicts, options);

    let mut pictures = Pictures::new(options.side, options.picture_bytes);
    let mut ends_of = Vec::new();
    let card = |row: &ScoreRow,
                category: &str,
                remark: Option<String>,
                pictures: &mut Pictures,
                read: &mut dyn FnMut(&str) -> Result<RgbImage, ImageError>| {
        let picture = match &row.image {
            Some(name) => pictures.get(name, || read(name)),
            None => llavar_report::Thumbnail::None,
        };
        card_of(row, category, remark, picture)
    };
    for (name, get) in SCORES {
        let mut order: Vec<(f64, &ScoreRow)> = rows
            .iter()
            .filter_map(|row| Some((get(row)?, row)))
            .collect();
        if order.is_empty() {
            continue;
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.key().cmp(&b.1.key())));
        let shown = options.shown.min(order.len());
        let ends = [
            ("lowest", order[..shown].to_vec()),
            (
                "highest",
                order[(order.len() - shown).max(shown)..]
                    .iter()
                    .rev()
                    .copied()
                    .collect(),
            ),
        ];
        for (end, rows) in ends {
            for (_, row) in rows {
                let category = format!("{end} {}", upper(name));
                ends_of.push(card(row, &category, None, &mut pictures, read));
            }
        }
    }
    let mut cards = vec![("Lowest and highest of every score".to_owned(), ends_of)];
    if let Some(verdicts) = verdicts {
        picked(&mut page, rows, verdicts);
        let mut own = Vec::new();
        for ((kept, dropped), why) in side_by_side(rows, verdicts, options.shown) {
            own.push(card(kept, "kept", None, &mut pictures, read));
            let remark = Some(in_words(why).to_owned());
            own.push(card(dropped, "dropped", remark, &mut pictures, read));
        }
        cards.insert(0, ("Kept beside dropped".to_owned(), own));
    }
    for (title, cards) in &cards {
        page.section(title);
        let cards = Cards {
            cards,
            pictures: &pictures,
        };
        match title.starts_with("Kept") {
            // Two to a row: a kept pair and a dropped one.
            true => page.add(&maud::html! { div.paired { (cards) } }),
            false => page.add(&cards),
        }
    }
    if reasons > 0 {
        page.section("Without some score");
        page.add(&reason_table(rows));
    }
    page.render()
}

fn upper(name: &str) -> String {
    match name {
        "mifd" => "mIFD".to_owned(),
        _ => name.to_uppercase(),
    }
}

fn one() -> Marker {
    Marker {
        value: 1.0,
        label: "1".into(),
    }
}

fn median(values: &[f64]) -> Marker {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let value = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    Marker {
        value,
        label: "median".into(),
    }
}

fn summary(rows: &[ScoreRow]) -> Table {
    let mut table = Table::new(["score", "pairs", "10 %", "median", "90 %", "from 1 on"]);
    for (name, get) in SCORES {
        let mut values: Vec<f64> = rows.iter().filter_map(get).collect();
        values.sort_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else {
            continue;
        };
        let at = |share: f64| {
            let value = values[(share * last as f64).round() as usize];
            Cell::number(value, format!("{value:.3}"))
        };
        let above = values.iter().filter(|x| **x >= 1.0).count();
        table.row([
            upper(name).as_str().into(),
            Cell::number(values.len() as f64, values.len().to_string()),
            at(0.1),
            at(0.5),
            at(0.9),
            Cell::number(
                above as f64 / values.len() as f64,
                format!("{:.1} %", 100.0 * above as f64 / values.len() as f64),
            ),
        ]);
    }
    table
}

fn scatter(
    page: &mut Page,
    rows: &[ScoreRow],
    verdicts: Option<&[Option<Dropped>]>,
    options: &ReportOptions,
) {
    let scored: Vec<(usize, f64, f64)> = rows
        .iter()
        .enumerate()
        .filter_map(|(i, row)| Some((i, row.ifd?, row.vfd?)))
        .collect();
    if scored.is_empty() {
        return;
    }
    let step = scored.len().div_ceil(options.points.max(1)).max(1);
    let points = scored.iter().step_by(step).map(|(i, ifd, vfd)| Point {
        x: *ifd,
        y: *vfd,
        group: verdicts.map_or(0, |verdicts| usize::from(verdicts[*i].is_some())),
        text: format!("{} {}: {}", rows[*i].id, rows[*i].qa_id, rows[*i].question),
    });
    let points: Vec<Point> = points.collect();
    let groups = match verdicts {
        Some(_) => vec!["kept".to_owned(), "dropped".to_owned()],
        None => vec!["pairs".to_owned()],
    };
    page.add(&Scatter {
        title: format!(
            "VFD against IFD, {} of {} pairs",
            points.len(),
            scored.len()
        ),
        x: Axis::linear("IFD"),
        y: Axis::linear("VFD"),
        groups,
        points,
        at_x: vec![one()],
        at_y: vec![one()],
    });
}

/// Counts of a pick.
fn picked(page: &mut Page, rows: &[ScoreRow], verdicts: &[Option<Dropped>]) {
    page.section("The pick");
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for verdict in verdicts {
        let name = verdict.as_ref().map_or("kept", Dropped::name);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|(name, count)| (*name != "kept", std::cmp::Reverse(*count)));
    let mut table = Table::new(["", "pairs", "share"]);
    for (name, count) in counts {
        let share = count as f64 / rows.len().max(1) as f64;
        table.row([
            (if name == "kept" { name } else { in_words(name) }).into(),
            Cell::number(count as f64, count.to_string()),
            Cell::number(share, format!("{:.1} %", 100.0 * share)),
        ]);
    }
    page.add(&table);
}

type Beside<'a> = ((&'a ScoreRow, &'a ScoreRow), &'a str);

/// Dropped pairs, evenly chosen, each with a kept one that asks the most similar question: the same one if
/// there is such a pair, else one of the same source and kind.
fn side_by_side<'a>(
    rows: &'a [ScoreRow],
    verdicts: &'a [Option<Dropped>],
    shown: usize,
) -> Vec<Beside<'a>> {
    let kept: Vec<&ScoreRow> = rows
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| verdict.is_none())
        .map(|(row, _)| row)
        .collect();
    let mut by_question: HashMap<&str, Vec<&ScoreRow>> = HashMap::new();
    for row in &kept {
        by_question.entry(&row.question).or_default().push(row);
    }
    let dropped: Vec<(&ScoreRow, &Dropped)> = rows
        .iter()
        .zip(verdicts)
        .filter_map(|(row, verdict)| Some((row, verdict.as_ref()?)))
        .collect();
    let step = dropped.len().div_ceil(shown.max(1)).max(1);
    let pairs = dropped.iter().step_by(step).enumerate();
    pairs
        .filter_map(|(n, (row, why))| {
            let same = by_question.get(row.question.as_str());
            let alike = |other: &&&ScoreRow| other.source == row.source && other.kind == row.kind;
            let other = match same {
                Some(same) => same[n % same.len()],
                None => kept.iter().find(alike).or(kept.first())?,
            };
            Some(((other, *row), why.name()))
        })
        .collect()
}

fn card_of(
    row: &ScoreRow,
    category: &str,
    remark: Option<String>,
    picture: llavar_report::Thumbnail,
) -> Card {
    let losses = [
        (Loss::AGivenQ, row.s_a_given_q),
        (Loss::A, row.s_a),
        (Loss::QaGivenImage, row.s_qa_given_image),
        (Loss::Qa, row.s_qa),
        (Loss::Duo, row.s_duo_given_image_and_extractive),
    ];
    let losses: Vec<String> = losses
        .iter()
        .filter_map(|(loss, value)| Some(format!("{} {:.3}", loss.symbol(), (*value)?)))
        .collect();
    let mut remarks: Vec<String> = remark.into_iter().collect();
    remarks.push(row.kind.as_str().replace('_', " "));
    remarks.extend(row.reason.clone());
    Card {
        id: format!("{} {}", row.id, row.qa_id),
        picture,
        picture_name: row.image.clone().unwrap_or_default(),
        category: category.to_owned(),
        question: row.question.clone(),
        // The answer of the data is what others call gold; what the model says of it is the losses.
        gold: vec![row.answer.clone()],
        answers: vec![Answer {
            text: match losses.is_empty() {
                true => "not scored".to_owned(),
                false => format!("{} nats a token", losses.join(", ")),
            },
            failed: losses.is_empty(),
            scores: SCORES
                .iter()
                .filter_map(|(name, get)| Some((upper(name), get(row)?)))
                .collect(),
            ..Answer::default()
        }],
        remarks,
    }
}

fn reason_table(rows: &[ScoreRow]) -> Table {
    let mut reasons: Vec<(String, usize, &str)> = Vec::new();
    for row in rows {
        let Some(reason) = &row.reason else { continue };
        // Numbers and names differ from row to row; what stands before them is the kind of fault.
        let kind = reason.split(':').next().unwrap_or(reason);
        let kind = kind
            .split_once(' ')
            .filter(|(first, _)| *first == "picture")
            .map_or(kind, |(first, _)| first);
        match reasons.iter_mut().find(|(known, ..)| known == kind) {
            Some((_, count, _)) => *count += 1,
            None => reasons.push((kind.to_owned(), 1, reason)),
        }
    }
    reasons.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    let mut table = Table::new(["reason", "pairs", "for example"]);
    for (kind, count, example) in reasons {
        table.row([
            kind.as_str().into(),
            Cell::number(count as f64, count.to_string()),
            example.into(),
        ]);
    }
    table
}

/// A reason of a pick for people.
pub fn in_words(reason: &str) -> &str {
    match reason {
        "unscored" => "no scores (column `reason` says why)",
        "ifd" => "IFD outside the limits",
        "vfd" => "VFD outside the limits",
        "mifd" => "mIFD outside the limits",
        "ffd" => "FFD outside the limits",
        "duo_partner" => "the other pair of the duo was dropped",
        "no_rank" => "no score to rank by",
        "near_text" => "text nearly that of a kept pair",
        "near_image" => "picture nearly that of a kept pair",
        "cluster" => "its cluster has its share",
        "quota" => "its source has its quota",
        "rank" => "enough others rank higher",
        other => other,
    }
}
