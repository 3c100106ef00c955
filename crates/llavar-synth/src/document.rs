//! One finished document and the pure function that makes it.

use llavar_image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::cells;
use crate::colour::Scheme;
use crate::config::{Detail, DocKind, Layout, Split, SynthConfig};
use crate::damage::Plan;
use crate::error::SynthError;
use crate::font::FontSet;
use crate::kinds;
use crate::page::{Fact, Item, Page, Space};
use crate::phrase::{self, Slots};
use crate::rng::{FNV_START, Rng, fnv1a};
use crate::words::{Speaker, capital};

/// Draws of content tried before a split is called too small.
const SPLIT_ATTEMPTS: u64 = 20_000;

/// An RGB8 picture: `width * height * 3` bytes, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in px.
    pub width: u32,
    /// Height in px.
    pub height: u32,
    /// Bytes, R, G, B.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A copy for the coders and the resampling.
    pub(crate) fn to_rgb(&self) -> RgbImage {
        RgbImage {
            width: self.width as usize,
            height: self.height as usize,
            data: self.pixels.clone(),
        }
    }
}

/// A printed word and the corners of its ink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordBox {
    /// The word as printed.
    pub text: String,
    /// Corners in picture px, clockwise from the word's own top left.
    pub quad: [[f32; 2]; 4],
}

/// One fact of a picture as four turns (Hybrid-Instruct layout).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duo {
    /// What is asked for, one of [`crate::fields`].
    pub field: String,
    /// The short answer as printed; occurs in the transcription and in the extractive answer.
    pub gold: String,
    /// Question about the fact.
    pub extractive_question: String,
    /// Whole sentence naming the fact.
    pub extractive_answer: String,
    /// Question for what in the image supports the answer.
    pub self_explain_question: String,
    /// Sentence quoting the text and its place.
    pub self_explain_answer: String,
}

/// A document with everything known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its kind.
    pub kind: DocKind,
    /// Its picture.
    pub image: Picture,
    /// Caption: 40 to 110 words in full detail, one to three sentences otherwise.
    pub caption: String,
    /// The facts asked for, at most `max_facts`, in random order.
    pub duos: Vec<Duo>,
    /// Every printed word, in reading order.
    pub words: Vec<WordBox>,
    /// All printed text in reading order, lines divided by `\n`.
    pub transcription: String,
    /// The letter at the centre of each of `grid * grid` cells of the padded picture, row by row, blanks where
    /// there is none (see [`SynthConfig::grid`]).
    pub cells: Option<String>,
}

/// Makes document `index` of the set that `config` and `fonts` describe.
///
/// # Determinism
/// A pure function of its arguments: the thread, the order of calls and the size of the set do not
/// matter, so the first hundred documents of a set of a thousand are the set of a hundred.
///
/// # Errors
/// [`SynthError::Config`] and [`SynthError::NoFont`] for a bad config, [`SynthError::SplitTooSmall`]
/// when the vocabulary leaves nothing for the wanted split.
///
/// # Example
/// ```
/// use llavar_synth::{FontSet, SynthConfig, generate};
/// let config = SynthConfig::profile("quickstart")?;
/// let document = generate(&config, &FontSet::embedded()?, 0)?;
/// assert!(document.duos.iter().all(|d| d.extractive_answer.contains(&d.gold)));
/// # Ok::<(), llavar_synth::SynthError>(())
/// ```
pub fn generate(config: &SynthConfig, fonts: &FontSet, index: u64) -> Result<Document, SynthError> {
    config.validate_with(fonts)?;
    render(config, fonts, index)
}

/// [`generate`] without the checks of the config.
pub(crate) fn render(
    config: &SynthConfig,
    fonts: &FontSet,
    index: u64,
) -> Result<Document, SynthError> {
    let mut rng = Rng::new(config.seed, index, 0, 0);
    let kind = *rng.pick(&config.kinds);
    let mut side = |[low, high]: [u32; 2]| rng.int(i64::from(low), i64::from(high)) as u32;
    let width = side(config.width);
    let height = if config.square {
        width
    } else {
        side(config.height)
    };
    // Some kinds have a shape of their own.
    let (width, height) = match kind {
        _ if config.square || config.layout == Layout::Fixed => (width, height),
        DocKind::Word => (width, (width as f32 * rng.range(0.2, 0.6)) as u32),
        DocKind::Slip => ((height as f32 * rng.range(0.42, 0.8)) as u32, height),
        _ => (width, height),
    };
    let (width, height) = (width.max(96), height.max(96));
    let language = *rng.pick(&config.languages);
    let scale = width.min(height) as f32 / 768.0;
    let space = Space {
        w: width as f32,
        h: height as f32,
        px: config.font_px.map(|px| px * scale),
        detail: config.detail,
    };
    let speaker = Speaker { config, language };
    let content = content(config, kind, &speaker, &space, index)?;

    let bold = matches!(
        kind,
        DocKind::Poster | DocKind::BookCover | DocKind::Sign | DocKind::Screenshot
    );
    let scheme = Scheme::draw(config.palette, bold, &mut rng);
    let plan = Plan::draw(&config.damage, &mut rng);
    let mut page = Page {
        canvas: Canvas::new(width, height, scheme.surface.rgb),
        rng,
        speaker,
        fonts,
        kind,
        scheme,
        space,
        items: Vec::new(),
        facts: Vec::new(),
        caption: Vec::new(),
        caption_extra: Vec::new(),
    };
    page.surface();
    if let Some(plan) = &plan {
        page.canvas.warp = plan.warp(width as f32, height as f32);
    }
    content.draw(&mut page);
    if let Some(plan) = &plan {
        plan.finish(&mut page.canvas);
    }
    Ok(finish(page, plan.is_some_and(|p| p.warps())))
}

/// Draws content until it falls into the wanted split.
fn content(
    config: &SynthConfig,
    kind: DocKind,
    speaker: &Speaker<'_>,
    space: &Space,
    index: u64,
) -> Result<Box<dyn kinds::Content>, SynthError> {
    for attempt in 0..SPLIT_ATTEMPTS {
        let mut rng = Rng::new(config.seed, index, 1, attempt);
        let content = kinds::sample(kind, &mut rng, speaker, space);
        // The key is everything printed that differs between documents of a kind, and nothing of its
        // looks or of the seed: each content belongs to one side for good.
        let key = fnv1a(
            fnv1a(FNV_START, kind.name().as_bytes()),
            format!("{content:?}").as_bytes(),
        );
        // The high bits of FNV-1a mix better than the low ones.
        let held_out = (key >> 16).is_multiple_of(u64::from(config.held_out_every));
        if config.split == Split::All || held_out == (config.split == Split::HeldOut) {
            return Ok(content);
        }
    }
    Err(SynthError::SplitTooSmall {
        index,
        kind: kind.name(),
        attempts: SPLIT_ATTEMPTS,
    })
}

/// Turns a drawn page into a document.
fn finish(mut page: Page<'_>, warped: bool) -> Document {
    let config = page.speaker.config;
    let mut facts: Vec<Fact> = std::mem::take(&mut page.facts);
    facts.retain(|f| config.fields.is_empty() || config.fields.iter().any(|w| w == f.field));
    // Asked in random order, in fixed layouts too: what is asked first must not tell where it stands.
    let mut chosen: Vec<usize> = (0..facts.len()).collect();
    page.rng.shuffle(&mut chosen);
    chosen.truncate(config.max_facts as usize);
    let kind_name = noun(page.kind);
    let duos = chosen
        .into_iter()
        .filter_map(|i| facts.get(i).cloned())
        .map(|fact| {
            let flat = |id: usize| {
                page.items
                    .get(id)
                    .map_or(String::new(), |i: &Item| i.text.replace('\n', " "))
            };
            let (quote, label) = (flat(fact.quote), fact.label.map(flat));
            let label = label.as_deref().map(|l| l.trim_end_matches(':'));
            let slots = Slots {
                field: fact.field,
                value: &fact.gold,
                subject: &fact.subject,
                kind: kind_name,
                quote: &quote,
                label,
                place: page.place(fact.quote),
            };
            let [eq, ea, sq, sa] = phrase::duo(&slots, config.phrasings, &mut page.rng);
            Duo {
                field: fact.field.to_owned(),
                gold: fact.gold.clone(),
                extractive_question: eq,
                extractive_answer: ea,
                self_explain_question: sq,
                self_explain_answer: sa,
            }
        })
        .collect();
    let caption = caption(&mut page, warped);
    let order = reading_order(&page.items);
    let mut transcription = String::new();
    for row in &order {
        if !transcription.is_empty() {
            transcription.push('\n');
        }
        let texts: Vec<&str> = row.iter().map(|&i| page.items[i].text.as_str()).collect();
        transcription.push_str(&texts.join(" "));
    }
    let words = order
        .iter()
        .flatten()
        .flat_map(|&i| page.items[i].words.clone())
        .collect();
    let Canvas {
        width,
        height,
        pixels,
        ..
    } = page.canvas;
    let image = Picture {
        width,
        height,
        pixels,
    };
    let cells = (config.grid > 0).then(|| {
        let place = cells::placement(&image, config.grid_fit, config.grid);
        cells::cells(&page.items, &place, config.grid)
    });
    Document {
        kind: page.kind,
        image,
        caption,
        duos,
        words,
        transcription,
        cells,
    }
}

/// Items in rows from the top, each row from the left.
fn reading_order(items: &[Item]) -> Vec<Vec<usize>> {
    let mut by_y: Vec<usize> = (0..items.len())
        .filter(|&i| !items[i].words.is_empty())
        .collect();
    let middle = |i: usize| (items[i].rect[1] + items[i].rect[3]) / 2.0;
    by_y.sort_by(|&a, &b| middle(a).total_cmp(&middle(b)));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for i in by_y {
        match rows.last_mut() {
            Some(row) if middle(i) < items[row[0]].rect[3] && middle(row[0]) > items[i].rect[1] => {
                row.push(i)
            }
            _ => rows.push(vec![i]),
        }
    }
    for row in &mut rows {
        row.sort_by(|&a, &b| items[a].rect[0].total_cmp(&items[b].rect[0]));
    }
    rows
}

/// How sentences name the kind.
pub(crate) fn noun(kind: DocKind) -> &'static str {
    match kind {
        DocKind::BookCover => "book cover",
        DocKind::Text => "page",
        DocKind::Slip => "receipt",
        DocKind::Entries => "form",
        DocKind::Word => "picture",
        DocKind::BarChart => "bar chart",
        DocKind::LineChart => "line chart",
        DocKind::PieChart => "pie chart",
        other => other.name(),
    }
}

/// Joins the sentences and brings the caption to 40 to 110 words.
fn caption(page: &mut Page<'_>, warped: bool) -> String {
    let mut text = page.caption.join(" ");
    if page.speaker.config.detail == Detail::Few {
        return text;
    }
    let scheme = page.scheme;
    if warped && page.kind != DocKind::Sign {
        page.caption_extra.insert(
            0,
            format!(
                "The picture was taken slightly askew, and the {} ground shows around the edges.",
                scheme.surface.name
            ),
        );
    }
    if page.kind != DocKind::Sign {
        let looks = format!(
            "The dominant colors are {} for the background and {} for the text, which is easy to make out.",
            scheme.paper.name, scheme.ink.name
        );
        page.caption_extra.push(looks);
    }
    let (words, lines) = (
        page.items.iter().map(|i| i.words.len()).sum::<usize>(),
        page.items
            .iter()
            .map(|i| i.text.lines().count())
            .sum::<usize>(),
    );
    page.caption_extra.push(format!(
        "In all, about {words} printed words in {lines} pieces of text are spread over the {}.",
        noun(page.kind)
    ));
    page.caption_extra.push(
        "The layout is orderly, the text runs horizontally from left to right, and nothing else is shown."
            .to_owned(),
    );
    let count = |text: &str| text.split_whitespace().count();
    // A random wish between 45 and 85 words, so that captions do not all have one length.
    let wish = 45 + page.rng.below(41);
    for sentence in std::mem::take(&mut page.caption_extra) {
        let after = count(&text) + count(&sentence);
        if count(&text) >= wish || after > 110 {
            continue;
        }
        text.push(' ');
        text.push_str(&sentence);
    }
    capital(&text)
}
