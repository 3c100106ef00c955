//! Samples that could not be used, in `quarantine.jsonl`.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{TrainError, error::SampleFault};

/// Bad samples of which each is told of; further ones stand in the list alone.
const TOLD: usize = 20;

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

    /// What to say of a sample that is about to be added; nothing of one that was, nor of many after the first, of
    /// which the list alone tells.
    pub(crate) fn warning(&self, fault: &SampleFault) -> Option<String> {
        match self.bad.len() {
            _ if self.bad.contains(&fault.index) => None,
            n if n < TOLD => Some(format!("{fault}; the next sample stands in")),
            TOLD => Some(format!(
                "more than {TOLD} samples cannot be used; {} tells of the others",
                self.path.display()
            )),
            _ => None,
        }
    }

    /// How many samples could not be used in the whole run, in words; `None` for none.
    pub(crate) fn summary(&self) -> Option<String> {
        (!self.bad.is_empty()).then(|| {
            format!(
                "{} samples could not be used and others stood in for them; see {}",
                self.bad.len(),
                self.path.display()
            )
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(index: usize) -> SampleFault {
        SampleFault {
            index,
            id: format!("s{index}"),
            path: None,
            phase: "encode",
            reason: "broken".into(),
        }
    }

    #[test]
    fn the_first_are_told_one_by_one_and_all_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quarantine.jsonl");
        let mut list = Quarantine::new(&path, true, 1000, []);
        assert_eq!(list.summary(), None);
        let mut told = Vec::new();
        for index in (0..60).chain(0..60) {
            told.extend(list.warning(&fault(index)));
            list.add(fault(index)).unwrap();
        }
        assert_eq!(told.len(), TOLD + 1, "{told:?}");
        assert!(told[0].contains("s0") && told[0].ends_with("the next sample stands in"));
        assert!(told[TOLD].contains("more than 20") && told[TOLD].contains("quarantine.jsonl"));
        let summary = list.summary().unwrap();
        assert!(
            summary.starts_with("60 samples could not be used"),
            "{summary}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 60);
        // A run that goes on knows of those before.
        let resumed = Quarantine::new(&path, true, 1000, 0..60);
        assert_eq!(resumed.summary(), Some(summary));
        assert_eq!(resumed.warning(&fault(3)), None);
    }
}
