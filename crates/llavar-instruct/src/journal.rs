//! The append-only file of a run: what was sent, what came back, what people decided.
//!
//! Every line is one [`Entry`], on disk before anything is built on it. A request is noted before it is
//! sent, so a process killed at any moment leaves a trace of each request that may have been charged; an
//! answer is noted before it is used. A torn last line is cut off at the next opening.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use llavar_client::{ErrorClass, Usage};
use serde::{Deserialize, Serialize};

use crate::{Duo, InstructError, Prompt};

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Entry {
    /// A run began.
    Run {
        /// Seconds since 1970.
        time: u64,
        /// The program.
        version: String,
        /// The server; `template` without one.
        endpoint: String,
        /// The model.
        model: String,
        /// The prompts.
        prompts: Vec<Prompt>,
    },
    /// A request is about to be sent.
    Sent {
        /// Seconds since 1970.
        time: u64,
        /// What was asked, hashed.
        key: String,
        /// `caption` or `duos`.
        step: String,
        /// The picture.
        image: String,
        /// The model.
        model: String,
        /// Most that it can cost, USD; absent without prices.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most_usd: Option<f64>,
    },
    /// An attempt failed; the last one of a request where `last` is set.
    Failed {
        /// Seconds since 1970.
        time: u64,
        /// What was asked, hashed.
        key: String,
        /// `caption` or `duos`.
        step: String,
        /// The model.
        model: String,
        /// Class of the error.
        class: String,
        /// The error.
        message: String,
        /// Tokens that were charged all the same, where the server said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// Their price, USD.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usd: Option<f64>,
        /// Whether it may have been charged though nobody said so.
        may_be_charged: bool,
        /// Whether the request was given up.
        last: bool,
    },
    /// An answer.
    Answer(Answer),
    /// A person decided about a duo.
    Review(Verdict),
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Seconds since 1970.
    pub time: u64,
    /// What was asked, hashed.
    pub key: String,
    /// `caption` or `duos`.
    pub step: String,
    /// The picture.
    pub image: String,
    /// The model.
    pub model: String,
    /// What it said.
    pub text: String,
    /// Why it ends.
    pub finish_reason: Option<String>,
    /// Tokens as the server counts them, or as we estimate.
    pub usage: Usage,
    /// Whether we had to estimate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// Price, USD; absent without prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// From the first attempt to the answer, seconds.
    pub seconds: f64,
}

/// A person's decision about a duo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Seconds since 1970.
    pub time: u64,
    /// [`Duo::id`] of what was shown.
    pub duo: String,
    /// Who decided.
    pub reviewer: String,
    /// `accept`, `edit`, `reject`, or `undo` of what this person said before.
    pub verdict: String,
    /// The duo after an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<Duo>,
    /// What the person remarked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// An open journal; threads share it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Requests that are being asked.
    asked: Mutex<HashSet<String>>,
    answered: Condvar,
}

/// A request that nobody else asks meanwhile.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    journal: &'a Journal,
    key: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let asked = self.journal.asked.lock();
        asked
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.key);
        self.journal.answered.notify_all();
    }
}

#[derive(Debug)]
struct Inner {
    /// Absent where it is only read.
    file: Option<File>,
    /// Bytes up to the end of the last whole line.
    end: u64,
    answers: HashMap<String, Answer>,
    /// Requests that the server found too long, with its words.
    too_long: HashMap<String, String>,
    /// Everything but answers' texts, for the ledger and reviews.
    entries: Vec<Entry>,
}

impl Journal {
    /// Its name in a run folder.
    pub const FILE: &'static str = "journal.jsonl";

    /// Opens or creates the journal of a run folder; nobody else may write to it meanwhile.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::Locked`], [`InstructError::Line`].
    pub fn open(run: &Path) -> Result<Self, InstructError> {
        let path = run.join(Self::FILE);
        std::fs::create_dir_all(run).map_err(InstructError::io(run))?;
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let file = options.open(&path).map_err(InstructError::io(&path))?;
        // Some network file systems have no locks; one writer a run is then the user's care.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(InstructError::Locked { path });
        }
        let journal = Self::of_file(path, file, true)?;
        // The name of a new file must outlive a crash too.
        if let Ok(folder) = File::open(run) {
            let _ = folder.sync_all();
        }
        Ok(journal)
    }

    /// Opens a journal to read it alone; others may write to it.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::Line`].
    pub fn open_to_read(run: &Path) -> Result<Self, InstructError> {
        let path = run.join(Self::FILE);
        let file = File::open(&path).map_err(InstructError::io(&path))?;
        Self::of_file(path, file, false)
    }

    fn of_file(path: PathBuf, mut file: File, write: bool) -> Result<Self, InstructError> {
        let is_file = file.metadata().map(|found| found.is_file());
        if !is_file.unwrap_or(false) {
            let error = std::io::Error::other("not a regular file");
            return Err(InstructError::io(&path)(error));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(InstructError::io(&path))?;
        let mut inner = Inner {
            file: None,
            end: 0,
            answers: HashMap::new(),
            too_long: HashMap::new(),
            entries: Vec::new(),
        };
        for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            // Cut off while it was written.
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            let entry = serde_json::from_slice(text).map_err(|error| InstructError::Line {
                path: path.clone(),
                line: i + 1,
                reason: error.to_string(),
            })?;
            inner.take(entry);
            inner.end += line.len() as u64;
        }
        if write {
            if inner.end < bytes.len() as u64 {
                let cut = file.set_len(inner.end).and_then(|()| file.sync_data());
                cut.map_err(InstructError::io(&path))?;
            }
            inner.file = Some(file);
        }
        Ok(Self {
            path,
            inner: Mutex::new(inner),
            asked: Mutex::default(),
            answered: Condvar::new(),
        })
    }

    /// Waits until nobody else asks this request, and keeps others from it.
    pub(crate) fn claim<'a>(&'a self, key: &'a str) -> Claim<'a> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = self
            .answered
            .wait_while(asked, |asked| asked.contains(key))
            .unwrap_or_else(PoisonError::into_inner);
        asked.insert(key.to_owned());
        Claim { journal: self, key }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The answer to a request, if there is one.
    pub fn answer(&self, key: &str) -> Option<Answer> {
        self.lock().answers.get(key).cloned()
    }

    /// What was said of a request that is longer than the model's context.
    pub(crate) fn too_long(&self, key: &str) -> Option<String> {
        self.lock().too_long.get(key).cloned()
    }

    /// The pictures that requests were of.
    pub(crate) fn pictures(&self) -> HashSet<String> {
        let of = |entry: &Entry| match entry {
            Entry::Sent { image, .. } | Entry::Answer(Answer { image, .. }) => Some(image.clone()),
            _ => None,
        };
        self.lock().entries.iter().filter_map(of).collect()
    }

    /// All entries so far, in order; answers without their texts.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// What people decided, in order.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let of = |entry: &Entry| match entry {
            Entry::Review(verdict) => Some(verdict.clone()),
            _ => None,
        };
        self.lock().entries.iter().filter_map(of).collect()
    }

    /// Writes an entry; it is on disk when this returns.
    ///
    /// # Errors
    /// [`InstructError::Io`], after which the file ends in its last whole line.
    pub fn append(&self, entry: Entry) -> Result<(), InstructError> {
        let io = |error| InstructError::io(&self.path)(error);
        let mut line = serde_json::to_vec(&entry).map_err(|error| io(error.into()))?;
        line.push(b'\n');
        let mut inner = self.lock();
        let end = inner.end;
        let Some(file) = &mut inner.file else {
            return Err(io(std::io::ErrorKind::ReadOnlyFilesystem.into()));
        };
        if let Err(error) = file.write_all(&line).and_then(|()| file.sync_data()) {
            // A full disk takes half a line; what follows must not be glued to it.
            let _ = file.set_len(end);
            return Err(io(error));
        }
        inner.end += line.len() as u64;
        inner.take(entry);
        Ok(())
    }
}

impl Inner {
    fn take(&mut self, entry: Entry) {
        if let Entry::Answer(answer) = &entry {
            let mut short = answer.clone();
            short.text = String::new();
            self.entries.push(Entry::Answer(short));
            self.answers.insert(answer.key.clone(), answer.clone());
            return;
        }
        if let Entry::Failed {
            key,
            class,
            message,
            last: true,
            ..
        } = &entry
            && class == ErrorClass::ContextLength.as_str()
        {
            self.too_long.insert(key.clone(), message.clone());
        }
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: &str) -> Entry {
        Entry::Answer(Answer {
            time: 1,
            key: key.into(),
            step: "duos".into(),
            image: "a.png".into(),
            model: "m".into(),
            text: format!("text of {key}"),
            finish_reason: None,
            usage: Usage::default(),
            estimated: false,
            usd: Some(0.5),
            seconds: 0.1,
        })
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        (0..5).for_each(|i| journal.append(answer(&format!("k{i}"))).unwrap());
        drop(journal);
        let path = dir.path().join(Journal::FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in (0..=whole.len()).step_by(17) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|b| **b == b'\n').count();
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.entries().len(), lines);
            assert_eq!(journal.answer("k0").is_some(), lines > 0);
            journal.append(answer("new")).unwrap();
            drop(journal);
            let again = Journal::open_to_read(dir.path()).unwrap();
            assert_eq!(again.entries().len(), lines + 1);
            assert_eq!(again.answer("new").unwrap().text, "text of new");
        }
    }

    #[test]
    fn one_writer_and_no_foreign_lines() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert!(matches!(
            Journal::open(dir.path()),
            Err(InstructError::Locked { .. })
        ));
        let reader = Journal::open_to_read(dir.path()).unwrap();
        assert!(reader.append(answer("k")).is_err());
        drop(journal);
        std::fs::write(dir.path().join(Journal::FILE), "{\"type\": \"other\"}\n").unwrap();
        let error = Journal::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
