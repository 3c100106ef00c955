//! `train.jsonl`: one line a step, appended and flushed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{StepReport, TrainError};

#[derive(Debug)]
pub(crate) struct RunLog {
    path: PathBuf,
    file: File,
}

impl RunLog {
    /// Opens the log of a run that goes on after `step`: lines of later steps, which an interrupted run
    /// left after its last checkpoint, and a torn last line are dropped.
    pub(crate) fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let failed = |source| TrainError::io(path)(source);
        match fs::read_to_string(path) {
            Ok(text) => {
                let kept: String = text
                    .split_inclusive('\n')
                    .filter(|line| line.ends_with('\n') && step_of(line).is_some_and(|s| s <= step))
                    .collect();
                if kept != text {
                    let aside = path.with_extension("jsonl.partial");
                    fs::write(&aside, kept).map_err(failed)?;
                    fs::rename(&aside, path).map_err(failed)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one line.
    pub(crate) fn write(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(report).unwrap_or_default();
        line.push('\n');
        // One call a line, so that an interruption leaves whole lines.
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| TrainError::save(&self.path, source))
    }
}

fn step_of(line: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    value.get("step")?.as_u64()
}
