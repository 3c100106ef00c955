//! The settings of a synthetic set, its profiles and their checks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::SynthError;
use crate::font::FontSet;
use crate::texts::Texts;

/// Names accepted by [`SynthConfig::profile`].
pub const PROFILES: &[&str] = &["default", "quickstart", "reading"];

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocKind {
    /// A till receipt whose lines add up to its total.
    Receipt,
    /// A filled-in form with labels and values.
    Form,
    /// An event poster.
    Poster,
    /// The front of a book.
    BookCover,
    /// A bar chart with printed values.
    BarChart,
    /// A line chart with printed values.
    LineChart,
    /// A pie chart whose shares add up to 100 %.
    PieChart,
    /// A table of numbers.
    Table,
    /// A program window or a phone screen with settings.
    Screenshot,
    /// A road, shop or notice sign in a simple scene.
    Sign,
    /// A note in a handwriting-like face.
    Note,
    /// A page of running text of any words.
    Text,
    /// A long shop receipt as it is scanned.
    Slip,
    /// A dense form of many labels and values.
    Entries,
    /// One word or short line cut out of a scene.
    Word,
}

impl DocKind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Receipt,
        Self::Form,
        Self::Poster,
        Self::BookCover,
        Self::BarChart,
        Self::LineChart,
        Self::PieChart,
        Self::Table,
        Self::Screenshot,
        Self::Sign,
        Self::Note,
        Self::Text,
        Self::Slip,
        Self::Entries,
        Self::Word,
    ];

    /// The name used in configs and ids, such as `book_cover`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            Self::Form => "form",
            Self::Poster => "poster",
            Self::BookCover => "book_cover",
            Self::BarChart => "bar_chart",
            Self::LineChart => "line_chart",
            Self::PieChart => "pie_chart",
            Self::Table => "table",
            Self::Screenshot => "screenshot",
            Self::Sign => "sign",
            Self::Note => "note",
            Self::Text => "text",
            Self::Slip => "slip",
            Self::Entries => "entries",
            Self::Word => "word",
        }
    }
}

/// Which part of all possible contents a set may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Any content.
    All,
    /// Only contents that no held-out set can show.
    Train,
    /// Only contents that no training set can show.
    HeldOut,
}

/// Languages of the printed names, goods and labels; questions and captions are in English.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    En,
    /// German.
    De,
    /// French.
    Fr,
    /// Spanish.
    Es,
}

/// Colours of paper, ink and surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Palette {
    /// Black on white.
    Mono,
    /// Dark inks on light papers.
    Soft,
    /// Everything, light on dark too.
    Full,
}

/// Layout freedom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Each kind prints each field always at the same place and size.
    Fixed,
    /// Places, sizes, order and ornaments vary.
    Free,
}

/// How much is printed and said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Two or three fields a document, all of them asked for; captions of one or two sentences.
    Few,
    /// Documents with all their parts; captions of 40 to 110 words.
    Full,
}

/// What photographing, printing and saving do to a picture; every number is the largest that occurs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// Share of pictures that are damaged at all, 0 to 1.
    pub share: f32,
    /// Rotation, degrees either way, at most 15.
    pub rotation: f32,
    /// Shift of each corner as a share of the side, at most 0.1: a light perspective.
    pub perspective: f32,
    /// Radius of the blur in px at 768 px, at most 2.
    pub blur: f32,
    /// Standard deviation of the noise in grey levels, at most 40.
    pub noise: f32,
    /// Darkening of one side by a soft shadow, 0 to 0.7.
    pub shadow: f32,
    /// Share of the damaged pictures that pass once through JPEG, 0 to 1.
    pub jpeg_share: f32,
    /// Lowest JPEG quality of that pass, 5 to 100; the highest is 85 (or this, if higher).
    pub jpeg_quality: u8,
}

impl Damage {
    /// Damage scaled from one number: 0 is none, 1 is a bad photograph of a worn page.
    pub fn level(level: f32) -> Self {
        let level = level.clamp(0.0, 1.0);
        Self {
            share: if level > 0.0 {
                0.35 + 0.65 * level
            } else {
                0.0
            },
            rotation: 8.0 * level,
            perspective: 0.06 * level,
            blur: 1.2 * level,
            noise: 22.0 * level,
            shadow: 0.6 * level,
            jpeg_share: 0.6 * level,
            jpeg_quality: (90.0 - 65.0 * level) as u8,
        }
    }
}

/// Settings of a synthetic set. The pictures are a pure function of these, the font set and an index.
///
/// # Example
/// ```
/// use llavar_synth::SynthConfig;
/// let config = SynthConfig::profile("quickstart")?;
/// assert!(config.validate().is_ok());
/// # Ok::<(), llavar_synth::SynthError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SynthConfig {
    /// Seed of the set; another seed is another set.
    pub seed: u64,
    /// Which contents may occur. See [`crate::overlap`] for what held-out means.
    pub split: Split,
    /// One of this many contents (by hash) is held out; 2 to 1000.
    pub held_out_every: u32,
    /// Kinds drawn from, evenly; a kind named twice is drawn twice as often.
    pub kinds: Vec<DocKind>,
    /// Smallest and largest width in px, 96 to 4096.
    pub width: [u32; 2],
    /// Smallest and largest height in px, 96 to 4096.
    pub height: [u32; 2],
    /// Same width and height in every picture, taken from `width`.
    pub square: bool,
    /// Names of the faces that may be used (see [`FontSet::names`]); empty for all.
    pub fonts: Vec<String>,
    /// Smallest and largest letter size (em) in px at a picture of 768 px, scaled with the picture's
    /// shorter side; the smallest gives way before text would be clipped.
    pub font_px: [f32; 2],
    /// Colours.
    pub palette: Palette,
    /// Layout freedom.
    pub layout: Layout,
    /// How much is printed and said.
    pub detail: Detail,
    /// Languages of the printed content.
    pub languages: Vec<Language>,
    /// Words used from each word list (names, goods, towns ...); 0 for whole lists.
    pub vocabulary: u32,
    /// Share of names that are made up from syllables, 0 to 1: an open vocabulary.
    pub made_up: f32,
    /// Digits of the largest amount, 1 to 4; never counts cents.
    pub amount_digits: u8,
    /// Whether amounts of money have two decimals.
    pub cents: bool,
    /// Most facts asked for in one picture; each is one extractive and one self-explain pair.
    pub max_facts: u32,
    /// Share of pictures in `data.json` whose facts are each followed by a self-explain pair, 0 to 1.
    pub self_explain: f32,
    /// Fields that may be asked for, such as `total`; empty for all. See [`crate::fields`].
    pub fields: Vec<String>,
    /// Different wordings used for each question and answer; 0 for all that there are.
    pub phrasings: u32,
    /// Fewest and most random letters and digits that the kind `word` prints in place of words, for the
    /// first steps of reading; `[0, 0]` prints words.
    pub letters: [u32; 2],
    /// Cells on a side of the grid over the padded picture for each of which the letter at its centre is told
    /// (`cells` in `transcriptions.json`): a vision tower whose image tokens form that grid learns letters by
    /// them before any text is read. 0 tells none; at most 128.
    pub grid: u32,
    /// Whether the grid lies over the picture as `image_aspect_ratio = "fit"` places it, not over the padded one.
    pub grid_fit: bool,
    /// Share of single questions that ask for the bare answer and get it, 0 to 1.
    pub short_answers: f32,
    /// Text file whose lines the kinds `text`, `slip`, `entries` and `word` print; made-up phrases
    /// without it. Read by [`SynthConfig::read_corpus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<PathBuf>,
    /// The lines of the corpus.
    #[serde(skip)]
    pub texts: Texts,
    /// What happens to the finished page.
    pub damage: Damage,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            split: Split::All,
            held_out_every: 8,
            // The kinds whose words come from lists.
            kinds: DocKind::ALL[..11].to_vec(),
            width: [576, 960],
            height: [576, 960],
            square: false,
            fonts: Vec::new(),
            font_px: [15.0, 110.0],
            palette: Palette::Full,
            layout: Layout::Free,
            detail: Detail::Full,
            languages: vec![Language::En],
            vocabulary: 0,
            made_up: 0.35,
            amount_digits: 3,
            cents: true,
            max_facts: 5,
            self_explain: 1.0,
            fields: Vec::new(),
            phrasings: 0,
            letters: [0, 0],
            grid: 0,
            grid_fit: false,
            short_answers: 0.0,
            corpus: None,
            texts: Texts::default(),
            damage: Damage::level(0.35),
        }
    }
}

impl SynthConfig {
    /// A named profile.
    ///
    /// * `default`: all kinds, fonts and wordings, 576 to 960 px, light damage.
    /// * `reading`: all kinds with the dense ones more often, letters down to 10 px, half of the
    ///   questions with bare answers: what a model learns reading from. Best with a corpus.
    /// * `quickstart`: what a model of some ten million parameters can learn to read from scratch in
    ///   minutes: signs, receipts and book covers of 384 px in one bold face, black on white, in fixed
    ///   layouts; asked for are the names of places, shops and authors from a **closed vocabulary**
    ///   (12 words a list) with one wording a question, one picture in five with self-explain pairs.
    ///   Every single word of a held-out picture occurs in training too; its combination does not. It
    ///   shows that reading works, not that the model reads any word.
    ///
    /// # Errors
    /// [`SynthError::UnknownProfile`], naming those that exist.
    pub fn profile(name: &str) -> Result<Self, SynthError> {
        match name {
            "default" => Ok(Self::default()),
            "quickstart" => Ok(Self {
                kinds: vec![DocKind::Sign, DocKind::Receipt, DocKind::BookCover],
                fields: ["destination", "shop", "author"]
                    .map(str::to_owned)
                    .to_vec(),
                self_explain: 0.2,
                width: [384, 384],
                height: [384, 384],
                square: true,
                fonts: vec!["DejaVu Sans Bold".to_owned()],
                font_px: [40.0, 150.0],
                palette: Palette::Mono,
                layout: Layout::Fixed,
                detail: Detail::Few,
                vocabulary: 12,
                made_up: 0.0,
                amount_digits: 2,
                cents: false,
                max_facts: 3,
                phrasings: 1,
                damage: Damage::level(0.0),
                ..Self::default()
            }),
            "reading" => Ok(Self {
                // Half of the pictures are pages whose words come from anywhere.
                kinds: [
                    &DocKind::ALL[..],
                    &[DocKind::Text; 4],
                    &[DocKind::Slip; 3],
                    &[DocKind::Entries; 3],
                    &[DocKind::Word; 2],
                ]
                .concat(),
                width: [480, 1000],
                height: [480, 1000],
                font_px: [10.0, 110.0],
                made_up: 0.6,
                amount_digits: 4,
                short_answers: 0.5,
                ..Self::default()
            }),
            _ => Err(SynthError::UnknownProfile {
                name: name.to_owned(),
                known: PROFILES,
            }),
        }
    }

    /// The same settings for another part of the contents: `train` and `held_out` sets made from one
    /// config share no content, whatever their sizes and seeds.
    #[must_use]
    pub fn with_split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Reads the file that `corpus` names, if it names one.
    ///
    /// # Errors
    /// [`SynthError::Input`] for a file that cannot be read as UTF-8 text.
    pub fn read_corpus(&mut self) -> Result<(), SynthError> {
        if let Some(path) = &self.corpus {
            let text = std::fs::read_to_string(path)
                .map_err(|source| SynthError::input("read the corpus", path, source))?;
            self.texts = Texts::new(&text);
        }
        Ok(())
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// [`SynthError::Config`] with all problems, each naming its key, value and allowed range.
    pub fn validate(&self) -> Result<(), SynthError> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                problems.push(text);
            }
        };
        for (key, [low, high]) in [("width", self.width), ("height", self.height)] {
            check(
                96 <= low && low <= high && high <= 4096,
                format!("{key} = [{low}, {high}], expected 96 <= smallest <= largest <= 4096"),
            );
        }
        let [small, large] = self.font_px;
        check(
            6.0 <= small && small <= large && large <= 400.0,
            format!("font_px = [{small}, {large}], expected 6 <= smallest <= largest <= 400"),
        );
        let [few, many] = self.letters;
        check(
            few <= many && many <= 40 && (few > 0 || many == 0),
            format!("letters = [{few}, {many}], expected [0, 0] or 1 <= fewest <= most <= 40"),
        );
        check(
            !self.kinds.is_empty(),
            "kinds is empty, expected one kind or more".to_owned(),
        );
        check(
            !self.languages.is_empty(),
            "languages is empty, expected one or more".to_owned(),
        );
        for (key, value, low, high) in [
            ("held_out_every", self.held_out_every, 2, 1000),
            ("amount_digits", u32::from(self.amount_digits), 1, 4),
            ("max_facts", self.max_facts, 1, 32),
            ("grid", self.grid, 0, 128),
            (
                "damage.jpeg_quality",
                u32::from(self.damage.jpeg_quality),
                5,
                100,
            ),
        ] {
            let text = format!("{key} = {value}, expected {low} to {high}");
            check((low..=high).contains(&value), text);
        }
        for (key, value, high) in [
            ("made_up", self.made_up, 1.0),
            ("self_explain", self.self_explain, 1.0),
            ("short_answers", self.short_answers, 1.0),
            ("damage.share", self.damage.share, 1.0),
            ("damage.rotation", self.damage.rotation, 15.0),
            ("damage.perspective", self.damage.perspective, 0.1),
            ("damage.blur", self.damage.blur, 2.0),
            ("damage.noise", self.damage.noise, 40.0),
            ("damage.shadow", self.damage.shadow, 0.7),
            ("damage.jpeg_share", self.damage.jpeg_share, 1.0),
        ] {
            // A NaN fails the comparison too.
            check(
                (0.0..=high).contains(&value),
                format!("{key} = {value}, expected 0 to {high}"),
            );
        }
        for field in &self.fields {
            let known = crate::phrase::PHRASES.iter().any(|p| p.field == field);
            check(
                known,
                format!("fields has '{field}', which no document asks for"),
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(SynthError::Config { problems })
        }
    }

    /// [`SynthConfig::validate`], and that `fonts` names only faces of the set.
    ///
    /// # Errors
    /// As [`SynthConfig::validate`], and [`SynthError::NoFont`].
    pub fn validate_with(&self, fonts: &FontSet) -> Result<(), SynthError> {
        self.validate()?;
        let names = fonts.names();
        match self.fonts.iter().find(|f| !names.contains(&f.as_str())) {
            Some(wanted) => Err(SynthError::NoFont {
                wanted: format!("'{wanted}'"),
            }),
            None => Ok(()),
        }
    }
}
