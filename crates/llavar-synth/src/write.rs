//! Writing a set to a folder, in parallel and in constant memory.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use llavar_image::{ImageError, encode_jpeg, encode_png};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::config::SynthConfig;
use crate::document::{Document, Picture, render};
use crate::error::SynthError;
use crate::font::FontSet;
use crate::overlap::FactRecord;
use crate::phrase::{DESCRIBE, READ, SHORT};
use crate::replace::{CARD, IMAGES, UNFINISHED, id, remove_lists};
use crate::rng::Rng;

/// File format of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// Without loss.
    Png,
    /// With loss, at a quality of 1 to 100.
    Jpeg(u8),
}

impl ImageKind {
    /// File name extension, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg(_) => "jpg",
        }
    }
}

/// How a set is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    /// File format of the pictures.
    pub images: ImageKind,
    /// Index of the first document; a second part of a set begins where the first ended.
    pub first: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            images: ImageKind::Jpeg(90),
            first: 0,
        }
    }
}

/// What was written: `card.json` of the set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetCard {
    /// Pictures written.
    pub pictures: u64,
    /// Index of the first.
    pub first: u64,
    /// Facts asked for; each is two pairs of turns.
    pub facts: u64,
    /// [`FontSet::hash`]: the same config, fonts hash and program version give the same set.
    pub fonts_hash: String,
    /// Names of the faces in the font set.
    pub fonts: Vec<String>,
    /// Version of this crate.
    pub version: String,
    /// File format of the pictures.
    pub images: ImageKind,
    /// The whole config.
    pub config: SynthConfig,
}

/// Encodes a picture; JPEG is byte for byte what PIL's `save(quality=...)` writes.
///
/// # Errors
/// The encoder's error, which a picture of [`crate::generate`] never meets.
pub fn encode(picture: &Picture, kind: ImageKind) -> Result<Vec<u8>, ImageError> {
    let image = picture.to_rgb();
    match kind {
        ImageKind::Png => encode_png(&image),
        ImageKind::Jpeg(quality) => encode_jpeg(&image, quality),
    }
}

/// The lines that one document adds to the files of the set.
struct Records {
    data: Option<Value>,
    caption: Value,
    transcription: Value,
    words: Value,
    facts: Vec<Value>,
}

/// Writes documents `first .. first + n` below `out_dir`:
///
/// * `images/KIND_INDEX.jpg` (or `.png`),
/// * `data.json`: LLaVA JSON, per picture extractive question and answer, self-explain question and
///   answer (see [`SynthConfig::self_explain`]), and so on for each fact; `<image>\n` in front of the
///   first human turn,
/// * `captions.json`: LLaVA JSON, one round "describe" and the caption (stage 1),
/// * `transcriptions.json`: LLaVA JSON, one round "read" and the whole text, and the letters of a grid's
///   cells where one is told (see [`SynthConfig::grid`]),
/// * `words.jsonl`: word boxes, `facts.jsonl`: [`FactRecord`]s, `card.json`: [`SetCard`].
///
/// Pictures are rendered on rayon's pool. Each file is written beside its place and renamed; the lists
/// are renamed after the last picture, `card.json` last of all, so its presence marks a whole set. Those of
/// an earlier set go first: its pictures are replaced one by one, and those with other names stay unless
/// [`crate::remove_set`] was called.
/// A set of `n` is the beginning of every larger set of the same config.
///
/// `progress(done, total)` is called from many threads after every picture; `false` stops the run.
///
/// # Errors
/// Every error of [`crate::generate`], [`SynthError::Io`] (such as a full disk), [`SynthError::Encode`]
/// and [`SynthError::Stopped`].
pub fn write_set(
    config: &SynthConfig,
    fonts: &FontSet,
    n: u64,
    out_dir: &Path,
    options: &WriteOptions,
    progress: &(dyn Fn(u64, u64) -> bool + Sync),
) -> Result<SetCard, SynthError> {
    config.validate_with(fonts)?;
    let images = out_dir.join(IMAGES);
    std::fs::create_dir_all(&images)
        .map_err(|e| SynthError::io("create the folder", &images, e))?;
    remove_lists(out_dir)?;
    let mut data = List::new(out_dir, "data.json", true)?;
    let mut captions = List::new(out_dir, "captions.json", true)?;
    let mut transcriptions = List::new(out_dir, "transcriptions.json", true)?;
    let mut words = List::new(out_dir, "words.jsonl", false)?;
    let mut facts = List::new(out_dir, "facts.jsonl", false)?;

    let (done, go_on, mut asked) = (AtomicU64::new(0), AtomicBool::new(true), 0);
    let last = options.first.saturating_add(n);
    // A chunk at a time bounds the memory; within it every thread has several documents.
    let chunk = 16 * rayon::current_num_threads().max(1) as u64;
    let mut start = options.first;
    while start < last {
        let end = last.min(start.saturating_add(chunk));
        let records: Result<Vec<Records>, SynthError> = (start..end)
            .into_par_iter()
            .map(|index| {
                let stopped = || SynthError::Stopped {
                    done: done.load(Ordering::Relaxed),
                    total: n,
                };
                if !go_on.load(Ordering::Relaxed) {
                    return Err(stopped());
                }
                let records = one(config, fonts, index, out_dir, options.images)?;
                let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                if !progress(count, n) {
                    go_on.store(false, Ordering::Relaxed);
                    return Err(stopped());
                }
                Ok(records)
            })
            .collect();
        for record in records? {
            if let Some(value) = &record.data {
                data.push(value)?;
            }
            captions.push(&record.caption)?;
            transcriptions.push(&record.transcription)?;
            words.push(&record.words)?;
            for fact in &record.facts {
                facts.push(fact)?;
                asked += 1;
            }
        }
        start = end;
    }
    for list in [data, captions, transcriptions, words, facts] {
        list.finish()?;
    }
    let card = SetCard {
        pictures: n,
        first: options.first,
        facts: asked,
        fonts_hash: fonts.hash(),
        fonts: fonts.names().into_iter().map(str::to_owned).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        images: options.images,
        config: config.clone(),
    };
    let path = out_dir.join(CARD);
    let text = serde_json::to_vec_pretty(&card).map_err(|source| SynthError::Json {
        path: path.clone(),
        source,
    })?;
    place(&path, &text)?;
    Ok(card)
}

/// Renders and saves one document.
fn one(
    config: &SynthConfig,
    fonts: &FontSet,
    index: u64,
    out_dir: &Path,
    kind: ImageKind,
) -> Result<Records, SynthError> {
    let document = render(config, fonts, index)?;
    let id = id(document.kind, index);
    let image = format!("{IMAGES}/{id}.{}", kind.extension());
    let path = out_dir.join(&image);
    let bytes = encode(&document.image, kind).map_err(|source| SynthError::Encode {
        path: path.clone(),
        source,
    })?;
    place(&path, &bytes)?;
    Ok(records(config, index, &id, &image, &document))
}

/// The JSON of one document.
fn records(
    config: &SynthConfig,
    index: u64,
    id: &str,
    image: &str,
    document: &Document,
) -> Records {
    let mut rng = Rng::new(config.seed, index, 2, 0);
    let turn = |from: &str, value: String| json!({"from": from, "value": value});
    let sample = |turns: Vec<Value>| json!({"id": id, "image": image, "conversations": turns});
    // A stream of its own: the share changes no other choice.
    let explain = Rng::new(config.seed, index, 3, 0).chance(config.self_explain);
    let mut turns = Vec::new();
    let mut brief = Rng::new(config.seed, index, 4, 0);
    for duo in &document.duos {
        let front = if turns.is_empty() { "<image>\n" } else { "" };
        let (short, wish) = (brief.chance(config.short_answers), *brief.pick(SHORT));
        let (wish, answer) = if short {
            (wish, &duo.gold)
        } else {
            ("", &duo.extractive_answer)
        };
        let question = format!("{front}{}{wish}", duo.extractive_question);
        turns.push(turn("human", question));
        turns.push(turn("gpt", answer.clone()));
        if explain {
            turns.push(turn("human", duo.self_explain_question.clone()));
            turns.push(turn("gpt", duo.self_explain_answer.clone()));
        }
    }
    let mut round = |list: &[&str], answer: &str| {
        let limit = if config.phrasings == 0 {
            list.len()
        } else {
            list.len().min(config.phrasings as usize)
        };
        let ask = list.get(rng.below(limit)).copied().unwrap_or_default();
        sample(vec![
            turn("human", format!("<image>\n{ask}")),
            turn("gpt", answer.to_owned()),
        ])
    };
    let caption = round(DESCRIBE, &document.caption);
    let mut transcription = round(READ, &document.transcription);
    if let Some(cells) = &document.cells {
        transcription["cells"] = json!(cells);
    }
    let facts = document.duos.iter().map(|duo| {
        let fact = FactRecord {
            id: id.to_owned(),
            image: image.to_owned(),
            question: duo.extractive_question.clone(),
            gold: duo.gold.clone(),
            field: duo.field.clone(),
        };
        json!(fact)
    });
    let (width, height) = (document.image.width, document.image.height);
    Records {
        // A picture of which nothing may be asked (see `fields`) has no conversation.
        data: (!turns.is_empty()).then(|| sample(turns)),
        caption,
        transcription,
        words: json!({"id": id, "image": image, "width": width, "height": height, "words": document.words}),
        facts: facts.collect(),
    }
}

/// Writes a file beside its place and renames it.
fn place(path: &Path, bytes: &[u8]) -> Result<(), SynthError> {
    let mut file = beside(path)?;
    file.write_all(bytes)
        .map_err(|e| SynthError::io("write", path, e))?;
    persist(file, path)
}

fn beside(path: &Path) -> Result<NamedTempFile, SynthError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .map_err(|e| SynthError::io("create a file in", folder, e))
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), SynthError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private; a data set is readable like any other file.
        let open = std::fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(open)
            .map_err(|e| SynthError::io("set the mode of", path, e))?;
    }
    file.persist(path)
        .map(drop)
        .map_err(|e| SynthError::io("rename into place", path, e.error))
}

/// A JSON array or JSON lines, being written.
struct List {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    array: bool,
    empty: bool,
}

impl List {
    fn new(folder: &Path, name: &str, array: bool) -> Result<Self, SynthError> {
        let path = folder.join(name);
        let file = BufWriter::new(beside(&path)?);
        Ok(Self {
            path,
            file,
            array,
            empty: true,
        })
    }

    fn text(&mut self, text: &str) -> Result<(), SynthError> {
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| SynthError::io("write", &self.path, e))
    }

    fn push(&mut self, value: &Value) -> Result<(), SynthError> {
        if self.array {
            self.text(if self.empty { "[\n" } else { ",\n" })?;
        }
        self.empty = false;
        serde_json::to_writer(&mut self.file, value).map_err(|source| SynthError::Json {
            path: self.path.clone(),
            source,
        })?;
        if self.array { Ok(()) } else { self.text("\n") }
    }

    fn finish(mut self) -> Result<(), SynthError> {
        if self.array {
            self.text(if self.empty { "[]\n" } else { "\n]\n" })?;
        }
        let file = self
            .file
            .into_inner()
            .map_err(|e| SynthError::io("write", &self.path, e.into_error()))?;
        persist(file, &self.path)
    }
}
