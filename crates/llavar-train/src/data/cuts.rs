//! Samples that were cut to fit, in `truncated.jsonl`: nothing is left out in silence.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Observer, TrainError};

/// What was cut off the end of one sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// Its number over all data files, from 0.
    pub(crate) index: usize,
    pub(crate) id: String,
    /// Tokens before, images counting as one.
    pub(crate) tokens_before: usize,
    /// Tokens cut off, images counting as one.
    pub(crate) tokens_cut: usize,
    /// Images cut off, each whole.
    pub(crate) images_dropped: usize,
    /// Supervised tokens cut off.
    pub(crate) supervised_cut: usize,
}

/// The list of samples that were cut, each once. The file itself remembers them over interruptions.
#[derive(Debug)]
pub(crate) struct CutLog {
    path: PathBuf,
    seen: BTreeSet<usize>,
    tokens: usize,
    images: usize,
}

impl CutLog {
    /// Goes on with the list in `path`, if there is one.
    pub(crate) fn open(path: &Path) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            seen: BTreeSet::new(),
            tokens: 0,
            images: 0,
        };
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let number = |key: &str| value.get(key)?.as_u64().map(|n| n as usize);
            if let Some(index) = number("index")
                && log.seen.insert(index)
            {
                log.tokens += number("tokens_cut").unwrap_or(0);
                log.images += number("images_dropped").unwrap_or(0);
            }
        }
        log
    }

    /// Adds a sample; the first of all is told to the observer too.
    pub(crate) fn add(&mut self, cut: Cut, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if !self.seen.insert(cut.index) {
            return Ok(());
        }
        let line = serde_json::json!({
            "index": cut.index,
            "id": cut.id,
            "tokens_before": cut.tokens_before,
            "tokens_cut": cut.tokens_cut,
            "supervised_cut": cut.supervised_cut,
            "images_dropped": cut.images_dropped,
        });
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .map_err(|e| TrainError::save(&self.path, e))?;
        self.tokens += cut.tokens_cut;
        self.images += cut.images_dropped;
        if self.seen.len() == 1 {
            observer.on_warning(&format!(
                "sample {} is too long: {} of {} tokens and {} image(s) were cut off; all such samples are \
                 listed in {}",
                cut.id,
                cut.tokens_cut,
                cut.tokens_before,
                cut.images_dropped,
                self.path.display()
            ));
        }
        Ok(())
    }

    /// What was cut in the whole run, in words; `None` for nothing.
    pub(crate) fn summary(&self) -> Option<String> {
        (!self.seen.is_empty()).then(|| {
            format!(
                "{} samples were cut: {} tokens and {} images left out; see {}",
                self.seen.len(),
                self.tokens,
                self.images,
                self.path.display()
            )
        })
    }
}
