//! The samples that can be used, and the list of the others, as new files.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use llavar_data::Sample;

use super::Finding;
use crate::TrainError;

/// The list of what a clean copy leaves out, beside it.
pub fn quarantine_of(copy: &Path) -> PathBuf {
    let mut name = copy.file_name().unwrap_or_default().to_os_string();
    name.push(".quarantine.jsonl");
    copy.with_file_name(name)
}

/// Two files written aside; neither is there before [`CleanCopy::publish`].
pub(super) struct CleanCopy {
    samples: Aside,
    quarantine: Aside,
    as_array: bool,
    written: usize,
}

impl CleanCopy {
    pub(super) fn create(path: &Path) -> Result<Self, TrainError> {
        let mut copy = Self {
            samples: Aside::create(path.to_owned())?,
            quarantine: Aside::create(quarantine_of(path))?,
            as_array: path.extension().is_some_and(|e| e == "json"),
            written: 0,
        };
        if copy.as_array {
            copy.samples.write(b"[")?;
        }
        Ok(copy)
    }

    pub(super) fn sample(&mut self, sample: &Sample) -> Result<(), TrainError> {
        let text = sample.to_json().to_string();
        let text = match (self.as_array, self.written) {
            (false, _) => format!("{text}\n"),
            (true, 0) => format!("\n{text}"),
            (true, _) => format!(",\n{text}"),
        };
        self.written += 1;
        self.samples.write(text.as_bytes())
    }

    pub(super) fn quarantine(&mut self, finding: &Finding) -> Result<(), TrainError> {
        let line = serde_json::to_string(finding).unwrap_or_default();
        self.quarantine.write(format!("{line}\n").as_bytes())
    }

    pub(super) fn publish(mut self) -> Result<(), TrainError> {
        if self.as_array {
            self.samples.write(b"\n]\n")?;
        }
        self.samples.publish()?;
        self.quarantine.publish()
    }
}

struct Aside {
    path: PathBuf,
    aside: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Aside {
    fn create(path: PathBuf) -> Result<Self, TrainError> {
        let path =
            llavar_data::write::replaceable(&path).map_err(|e| TrainError::save(&path, e))?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let aside = path.with_file_name(name);
        let file = File::create(&aside).map_err(|e| TrainError::save(&path, e))?;
        Ok(Self {
            path,
            aside,
            file: Some(BufWriter::new(file)),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
        .map_err(|e| TrainError::save(&self.path, e))
    }

    fn publish(&mut self) -> Result<(), TrainError> {
        let mut finish = || -> io::Result<()> {
            if let Some(file) = self.file.take() {
                file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
            }
            fs::rename(&self.aside, &self.path)
        };
        finish().map_err(|e| TrainError::save(&self.path, e))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Renamed where it was published.
        let _ = fs::remove_file(&self.aside);
    }
}
