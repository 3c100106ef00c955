//! Synthetic text-rich documents with everything known about them: picture, caption, questions with
//! answers, word boxes and transcription. With this crate the program can be trained and tried out
//! with no download at all.
//!
//! * [`SynthConfig`] says what is drawn; [`SynthConfig::profile`] has two ready settings.
//! * [`FontSet`] holds the parsed fonts; [`FontSet::embedded`] is the same on every machine.
//! * [`generate`] makes one [`Document`], a pure function of config, fonts and index.
//! * [`write_set`] writes a whole set in LLaVA JSON, in parallel.
//! * [`overlap`] counts what two sets share.
//! * [`contact_sheet`] puts pictures with lines of text below them onto one picture, for reports.
//!
//! # Held-out sets
//! Every content (all that is printed and differs, without fonts, colours and places) belongs by its
//! hash either to training or to held-out sets, for good and for every seed: one of
//! `held_out_every` is held out. [`Split::Train`] and [`Split::HeldOut`] redraw content until it is on
//! their side, so two such sets of one config never show the same document. Single words and single
//! facts may occur in both, and in a closed vocabulary (the `quickstart` profile) all of them do: what
//! is unseen there is the combination. `made_up = 1` gives names that are mostly unseen themselves.
//!
//! # Texts
//! The printed content is in the languages of the config, the questions and captions in English.
//! Every gold answer occurs in the transcription and in its extractive answer, and every quotation of
//! a self-explain answer occurs in the transcription; a test holds this for every kind.
//!
//! Of the workspace this crate calls `llavar-image` alone, to code and resample pictures.

#![forbid(unsafe_code)]

mod canvas;
mod cells;
mod colour;
mod column;
mod config;
mod damage;
mod document;
mod error;
mod font;
mod kinds;
mod letters;
mod overlap;
mod page;
mod phrase;
mod replace;
mod rng;
mod sheet;
mod stroke_font;
mod texts;
mod words;
mod write;

pub use config::{
    Damage, Detail, DocKind, Language, Layout, PROFILES, Palette, Split, SynthConfig,
};
pub use document::{Document, Duo, Picture, WordBox, generate};
pub use error::SynthError;
pub use font::FontSet;
pub use overlap::{FactRecord, Overlap, overlap, read_facts};
pub use phrase::fields;
pub use replace::remove_set;
pub use sheet::{SheetCell, SheetLine, contact_sheet};
pub use texts::Texts;
pub use write::{ImageKind, SetCard, WriteOptions, encode, write_set};
