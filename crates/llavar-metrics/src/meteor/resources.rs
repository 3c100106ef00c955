//! Synonyms and paraphrases, from the files of METEOR 1.5.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::{DeflateDecoder, GzDecoder};

use crate::Row;

use super::normalise;

/// What the synonym and paraphrase matchers look up.
///
/// The folder is `pycocoevalcap/meteor` of the Python package (or any folder with `meteor-1.5.jar` and
/// `data/paraphrase-en.gz`): WordNet's synonyms are read out of the archive, nothing of it is run. Of the five
/// million paraphrases only those are kept that the given texts can use.
#[derive(Debug, Default)]
pub struct Resources {
    /// Synonym sets of a word.
    sets: HashMap<String, Vec<u32>>,
    /// Base forms of an irregular form.
    bases: HashMap<String, Vec<String>>,
    /// Paraphrases of a phrase, both as words with spaces between.
    paraphrases: HashMap<String, Vec<String>>,
    /// Words of the longest phrase.
    longest: usize,
}

/// The files of METEOR cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// A file is missing or broken.
    #[error(
        "{path}: {source}; METEOR's synonyms and paraphrases are read from `meteor-1.5.jar` and `data/paraphrase-en.gz`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The archive lacks a table.
    #[error("{path} has no readable `{entry}`: it is not METEOR 1.5")]
    Entry {
        /// The archive.
        path: PathBuf,
        /// What was looked for in it.
        entry: String,
    },
}

/// A range of words: first word, number of words.
type Span = (usize, usize);

impl Resources {
    /// Reads what `rows` (tokenised) can use from METEOR's `folder`.
    ///
    /// # Errors
    /// A missing or broken file, named.
    pub fn load(folder: &Path, rows: &[Row<'_>]) -> Result<Self, ResourcesError> {
        let mut resources = Self::default();
        resources.read_synonyms(&folder.join("meteor-1.5.jar"))?;
        let vocabulary: HashSet<String> = rows
            .iter()
            .flat_map(|row| {
                row.references
                    .iter()
                    .map(String::as_str)
                    .chain([row.answer])
            })
            .flat_map(normalise::words)
            .collect();
        let path = folder.join("data").join("paraphrase-en.gz");
        resources
            .read_paraphrases(&path, &vocabulary)
            .map_err(|source| ResourcesError::Read { path, source })?;
        Ok(resources)
    }

    fn read_synonyms(&mut self, jar: &Path) -> Result<(), ResourcesError> {
        let bytes = fs::read(jar).map_err(|source| ResourcesError::Read {
            path: jar.into(),
            source,
        })?;
        let table = |entry: &str| {
            zip_entry(&bytes, entry).ok_or_else(|| ResourcesError::Entry {
                path: jar.into(),
                entry: entry.into(),
            })
        };
        for (word, ids) in pairs(&table("synonym/english.synsets")?) {
            let ids = ids
                .split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect();
            self.sets.insert(word.to_owned(), ids);
        }
        for (base, forms) in pairs(&table("synonym/english.exceptions")?) {
            for form in forms.split_whitespace() {
                self.bases
                    .entry(form.to_owned())
                    .or_default()
                    .push(base.to_owned());
            }
        }
        Ok(())
    }

    /// Three lines an entry: probability (not used), phrase, its paraphrase.
    fn read_paraphrases(&mut self, path: &Path, vocabulary: &HashSet<String>) -> io::Result<()> {
        let known = |phrase: &str| {
            phrase
                .split_whitespace()
                .all(|word| vocabulary.contains(word))
        };
        let mut reader = BufReader::with_capacity(1 << 20, GzDecoder::new(fs::File::open(path)?));
        let [mut phrase, mut paraphrase] = [String::new(), String::new()];
        loop {
            phrase.clear();
            if reader.read_line(&mut phrase)? == 0 {
                return Ok(());
            }
            phrase.clear();
            paraphrase.clear();
            reader.read_line(&mut phrase)?;
            reader.read_line(&mut paraphrase)?;
            let (phrase, paraphrase) = (phrase.trim_end(), paraphrase.trim_end());
            if known(phrase) && known(paraphrase) {
                self.longest = self.longest.max(phrase.split(' ').count());
                self.paraphrases
                    .entry(phrase.to_owned())
                    .or_default()
                    .push(paraphrase.to_owned());
            }
        }
    }

    /// Synonym sets of `word` and of its base form.
    pub(super) fn synonym_sets(&self, word: &str) -> Vec<u32> {
        let of = |word: &str| self.sets.get(word).into_iter().flatten().copied();
        let mut sets: Vec<u32> = of(word).collect();
        match self.bases.get(word) {
            Some(bases) => sets.extend(bases.iter().flat_map(|base| of(base))),
            None => sets.extend(self.base_form(word).iter().flat_map(|base| of(base))),
        }
        sets
    }

    /// The first regular base form that has synonym sets (WordNet's rules of detachment).
    fn base_form(&self, word: &str) -> Option<String> {
        const ENDINGS: [(&str, &str); 20] = [
            ("s", ""),
            ("ses", "s"),
            ("xes", "x"),
            ("zes", "z"),
            ("ches", "ch"),
            ("shes", "sh"),
            ("men", "man"),
            ("ies", "y"),
            ("s", ""),
            ("ies", "y"),
            ("es", "e"),
            ("es", ""),
            ("ed", "e"),
            ("ed", ""),
            ("ing", "e"),
            ("ing", ""),
            ("er", ""),
            ("est", ""),
            ("er", "e"),
            ("est", "e"),
        ];
        if word.ends_with("ss") || word.chars().count() <= 2 {
            return None;
        }
        ENDINGS.iter().find_map(|(ending, base)| {
            let form = format!("{}{base}", word.strip_suffix(ending)?);
            self.sets.contains_key(&form).then_some(form)
        })
    }

    /// Where a phrase of `from` has a paraphrase in `to`, as (range in `from`, range in `to`).
    pub(super) fn paraphrases(&self, from: &[String], to: &[String]) -> Vec<(Span, Span)> {
        let mut found = Vec::new();
        for start in 0..from.len() {
            let mut phrase = String::new();
            for length in 1..=self.longest.min(from.len() - start) {
                if length > 1 {
                    phrase.push(' ');
                }
                phrase.push_str(&from[start + length - 1]);
                for paraphrase in self.paraphrases.get(&phrase).into_iter().flatten() {
                    let words: Vec<&str> = paraphrase.split(' ').collect();
                    for (at, window) in to.windows(words.len()).enumerate() {
                        if window == words.as_slice() {
                            found.push(((start, length), (at, words.len())));
                        }
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
impl Resources {
    /// From synonym sets of words and pairs of phrases.
    pub(super) fn of(sets: &[(&str, &[u32])], paraphrases: &[(&str, &str)]) -> Self {
        let mut resources = Self::default();
        for (word, sets) in sets {
            resources.sets.insert((*word).to_owned(), sets.to_vec());
        }
        for (phrase, paraphrase) in paraphrases {
            resources.longest = resources.longest.max(phrase.split(' ').count());
            let of_phrase = resources.paraphrases.entry((*phrase).to_owned());
            of_phrase.or_default().push((*paraphrase).to_owned());
        }
        resources
    }
}

/// Lines two by two.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?)))
}

/// Text of an entry of a zip archive, `None` where there is none or it is broken.
fn zip_entry(archive: &[u8], name: &str) -> Option<String> {
    let u16_at = |at: usize| {
        let bytes = archive.get(at..at.checked_add(2)?)?;
        Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
    };
    let u32_at = |at: usize| {
        let bytes = archive.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    // The central directory lies at the end, and its own end is found from behind.
    let end = memchr::memmem::rfind(archive, b"PK\x05\x06")?;
    let mut at = u32_at(end + 16)?;
    for _ in 0..u16_at(end + 10)? {
        if archive.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        let (method, packed, size) = (u16_at(at + 10)?, u32_at(at + 20)?, u32_at(at + 24)?);
        let (name_length, extra, comment) = (u16_at(at + 28)?, u16_at(at + 30)?, u16_at(at + 32)?);
        if archive.get(at + 46..at + 46 + name_length)? == name.as_bytes() {
            let local = u32_at(at + 42)?;
            let from = local + 30 + u16_at(local + 26)? + u16_at(local + 28)?;
            let data = archive.get(from..from.checked_add(packed)?)?;
            let mut text = String::new();
            match method {
                0 => text.push_str(std::str::from_utf8(data).ok()?),
                8 => {
                    DeflateDecoder::new(data)
                        .take(size as u64)
                        .read_to_string(&mut text)
                        .ok()?;
                }
                _ => return None,
            }
            return Some(text);
        }
        at += 46 + name_length + extra + comment;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        let mut resources = Resources::of(
            &[("car", &[1, 2]), ("automobile", &[1]), ("mouse", &[3])],
            &[("in front", "ahead")],
        );
        resources.bases.insert("mice".into(), vec!["mouse".into()]);
        resources
    }

    #[test]
    fn base_forms_have_the_sets_of_their_words() {
        let resources = resources();
        assert_eq!(resources.synonym_sets("cars"), [1, 2]);
        assert_eq!(resources.synonym_sets("mice"), [3]);
        assert!(resources.synonym_sets("glass").is_empty());
    }

    #[test]
    fn phrases_are_found_where_they_stand() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = resources().paraphrases(&words("a man in front"), &words("ahead a man"));
        assert_eq!(found, [((2, 2), (0, 1))]);
    }

    #[test]
    fn broken_archives_are_errors() {
        for bytes in [
            &b""[..],
            b"PK\x05\x06",
            b"PK\x05\x06\0\0\0\0\0\0\x01\0\0\0\0\0\xff\xff\xff\xff\0\0",
        ] {
            assert_eq!(zip_entry(bytes, "x"), None);
        }
        let error = Resources::load(Path::new("/nonexistent"), &[]).expect_err("no such folder");
        assert!(error.to_string().contains("meteor-1.5.jar"), "{error}");
    }
}
