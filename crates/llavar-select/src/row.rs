//! One row of a score file: a pair with its losses and scores, or why it has none.

use llavar_data::{Sample, SampleId};
use serde::{Deserialize, Serialize};

use crate::{
    Loss, Losses, Pair, PairKind,
    hash::{START, fnv1a},
};

/// A pair in a score file. Losses are means in nats a token, counts are tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Number of the sample in its file, from 0.
    pub record: u64,
    /// Identity of the sample.
    pub id: String,
    /// How many samples with the same id stand before it in the file.
    pub occurrence: u32,
    /// Number of the question's turn.
    pub qa_id: u32,
    /// Single, or which one of a duo.
    pub kind: PairKind,
    /// First picture of the sample.
    pub image: Option<String>,
    /// Where the sample comes from: its `source` key, or the first folder of its picture's path.
    pub source: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Hash of what was scored, to notice that the data have changed since.
    pub content: String,
    /// Tokens of `s_a_given_q`.
    pub n_answer: Option<u32>,
    /// Tokens of `s_qa_given_image`, or of `s_qa` without picture.
    pub n_qa: Option<u32>,
    /// Tokens of `s_duo_given_image_and_extractive`.
    pub n_duo: Option<u32>,
    /// `s(A|Q)`.
    pub s_a_given_q: Option<f64>,
    /// `s(A)`.
    pub s_a: Option<f64>,
    /// `s(Q,A|I)`; for the second pair of a duo this is `s(Qs,As|I)`.
    pub s_qa_given_image: Option<f64>,
    /// `s(Q,A)`.
    pub s_qa: Option<f64>,
    /// `s(Qs,As|I,Qe,Ae)`.
    pub s_duo_given_image_and_extractive: Option<f64>,
    /// `s(A|Q) / s(A)`.
    pub ifd: Option<f64>,
    /// `s(Q,A|I) / s(Q,A)`.
    pub vfd: Option<f64>,
    /// IFD times VFD.
    pub mifd: Option<f64>,
    /// `s(Qs,As|I,Qe,Ae) / s(Qs,As|I)`.
    pub ffd: Option<f64>,
    /// Why scores are missing.
    pub reason: Option<String>,
}

/// How a score is taken from a row.
pub type ScoreOf = fn(&ScoreRow) -> Option<f64>;

/// The four scores by their column names.
pub const SCORES: [(&str, ScoreOf); 4] = [
    ("ifd", |row| row.ifd),
    ("vfd", |row| row.vfd),
    ("mifd", |row| row.mifd),
    ("ffd", |row| row.ffd),
];

/// Identity of a row: sample, how often its id came before, turn.
pub type RowKey = (String, u32, u32);

impl ScoreRow {
    /// A row without scores.
    pub(crate) fn unscored(place: &Place, pair: &Pair) -> Self {
        Self {
            record: place.record,
            id: place.id.clone(),
            occurrence: place.occurrence,
            qa_id: pair.qa_id as u32,
            kind: pair.kind,
            image: place.images.first().cloned(),
            source: place.source.clone(),
            question: pair.question.clone(),
            answer: pair.answer.clone().unwrap_or_default(),
            content: content(&place.images, pair),
            n_answer: None,
            n_qa: None,
            n_duo: None,
            s_a_given_q: None,
            s_a: None,
            s_qa_given_image: None,
            s_qa: None,
            s_duo_given_image_and_extractive: None,
            ifd: None,
            vfd: None,
            mifd: None,
            ffd: None,
            reason: None,
        }
    }

    /// Fills in what was measured; a loss that is no number counts as missing.
    pub(crate) fn fill(&mut self, losses: &Losses) {
        let mean = |loss| losses.get(loss).map(|(mean, _)| mean);
        let count = |loss| losses.get(loss).map(|(_, count)| count);
        if Loss::ALL
            .into_iter()
            .filter_map(mean)
            .any(|m| !m.is_finite())
        {
            let reason = "a loss is not a finite number".to_owned();
            self.reason.get_or_insert(reason);
        }
        let finite = |loss| mean(loss).filter(|mean| mean.is_finite());
        self.n_answer = count(Loss::AGivenQ);
        self.n_qa = count(Loss::QaGivenImage).or(count(Loss::Qa));
        self.n_duo = count(Loss::Duo);
        self.s_a_given_q = finite(Loss::AGivenQ);
        self.s_a = finite(Loss::A);
        self.s_qa_given_image = finite(Loss::QaGivenImage);
        self.s_qa = finite(Loss::Qa);
        self.s_duo_given_image_and_extractive = finite(Loss::Duo);
        self.ifd = losses.ifd();
        self.vfd = losses.vfd();
        self.mifd = losses.mifd();
        self.ffd = losses.ffd();
    }

    /// Its identity.
    pub fn key(&self) -> RowKey {
        (self.id.clone(), self.occurrence, self.qa_id)
    }
}

/// A sample in its file.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) record: u64,
    pub(crate) id: String,
    pub(crate) occurrence: u32,
    pub(crate) images: Vec<String>,
    pub(crate) source: String,
}

impl Place {
    pub(crate) fn of(sample: &Sample, record: usize, occurrence: u32) -> Self {
        let named = sample.extra.get("source").and_then(|value| value.as_str());
        let folder = || {
            let (folder, _) = sample.images.first()?.split_once('/')?;
            Some(folder)
        };
        Self {
            record: record as u64,
            id: match &sample.id {
                SampleId::Int(id) => id.to_string(),
                SampleId::Text(id) => id.clone(),
            },
            occurrence,
            images: sample.images.clone(),
            source: named.or_else(folder).unwrap_or_default().to_owned(),
        }
    }
}

/// Hash of pictures, question and answer.
pub(crate) fn content(images: &[String], pair: &Pair) -> String {
    let answer = pair.answer.as_deref().unwrap_or_default();
    let texts = [pair.question.as_str(), answer];
    let texts = images.iter().map(String::as_str).chain(texts);
    // 0xff is in no text: it keeps neighbours apart.
    let hash = texts.fold(START, |hash, text| {
        fnv1a(fnv1a(hash, text.as_bytes()), &[0xff])
    });
    format!("{hash:016x}")
}
