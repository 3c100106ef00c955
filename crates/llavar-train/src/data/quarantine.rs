//! Samples that could not be used, in `quarantine.jsonl`.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{TrainError, error::SampleFault};

/// The list of bad samples of a run, each once, and the limit on it.
#[derive(Debug)]
pub(crate) struct Quarantine {
    path: PathBuf,
    /// Whether this rank writes the list.
    writes: bool,
    limit: usize,
    bad: BTreeSet<usize>,
}

impl Quarantine {
    /// A list in `path` that already holds `bad`.
    /// Without `writes` another rank does that.
    pub(crate) fn new(
        path: &Path,
        writes: bool,
        limit: usize,
        bad: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            writes,
            limit,
            bad: bad.into_iter().collect(),
        }
    }

    /// Numbers of the bad samples.
    pub(crate) fn bad(&self) -> &BTreeSet<usize> {
        &self.bad
    }

    /// Adds a sample; a line is written the first time.
    pub(crate) fn add(&mut self, fault: SampleFault) -> Result<(), TrainError> {
        if self.bad.contains(&fault.index) {
            return Ok(());
        }
        let line = serde_json::json!({
            "index": fault.index,
            "id": fault.id,
            "path": fault.path,
            "phase": fault.phase,
            "error": fault.reason,
        });
        if self.writes {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
                .and_then(|mut file| writeln!(file, "{line}"))
                .map_err(TrainError::io(&self.path))?;
        }
        // The one too many is not taken in: a run that is resumed under the same limit stops there again.
        if self.bad.len() >= self.limit {
            return Err(TrainError::TooManyBadSamples {
                count: self.bad.len() + 1,
                limit: self.limit,
                quarantine: self.path.clone(),
                source: Box::new(fault),
            });
        }
        self.bad.insert(fault.index);
        Ok(())
    }
}
