//! Free text for documents whose words come from no list: lines of a corpus, or made-up phrases.

use std::sync::Arc;

use crate::rng::Rng;
use crate::words::{self, capital};

/// Longest line kept of a corpus, bytes.
const MAX_LINE: usize = 400;

/// Lines of a corpus, shared by all threads; empty for made-up phrases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts(Arc<Vec<String>>);

impl Texts {
    /// Keeps what every face of a set can print of each line: printable ASCII; other characters are
    /// left out, runs of white space become one space, empty lines are dropped.
    pub fn new(corpus: &str) -> Self {
        let clean = |line: &str| {
            let mut printable: Vec<char> = line
                .chars()
                .take(MAX_LINE)
                .map(|c| if c == '\t' { ' ' } else { c })
                // Quotation marks would end a quotation early.
                .filter(|c| (' '..='~').contains(c) && *c != '"')
                .collect();
            // Sentences made of a text end with one full stop, so none is printed in a run.
            printable.dedup_by(|a, b| *a == '.' && *b == '.');
            let printable: String = printable.into_iter().collect();
            printable.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let lines = corpus.lines().map(clean).filter(|line| !line.is_empty());
        Self(Arc::new(lines.collect()))
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is no corpus and phrases are made up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Between `low` and `high` words that follow each other in a corpus line (fewer, where the line
    /// is shorter), or as many made-up and listed words.
    pub(crate) fn phrase(&self, low: usize, high: usize, rng: &mut Rng) -> String {
        let wanted = rng.int(low as i64, high as i64).max(1) as usize;
        if self.0.is_empty() {
            let mut word = || match rng.below(5) {
                0 => words::made_up(rng).to_lowercase(),
                1 => words::made_up(rng),
                2 => (*rng.pick(words::GOODS[0])).to_owned(),
                3 => (*rng.pick(words::NOUNS[0])).to_lowercase(),
                _ => rng.int(0, 9999).to_string(),
            };
            return (0..wanted).map(|_| word()).collect::<Vec<_>>().join(" ");
        }
        let words: Vec<&str> = rng.pick(self.0.as_slice()).split(' ').collect();
        let from = rng.below(words.len().saturating_sub(wanted) + 1);
        let take = words.len().min(from + wanted);
        words[from..take].join(" ")
    }

    /// A phrase as headings and labels are written: as it is, in capitals, or with a capital letter.
    pub(crate) fn heading(&self, low: usize, high: usize, rng: &mut Rng) -> String {
        let text = self.phrase(low, high, rng);
        match rng.below(3) {
            0 => text.to_uppercase(),
            1 => capital(&text),
            _ => text.split(' ').map(capital).collect::<Vec<_>>().join(" "),
        }
    }
}

/// A number, code, date, amount or time as forms and receipts print them.
pub(crate) fn figure(rng: &mut Rng) -> String {
    match rng.below(9) {
        0 => rng.int(0, 99).to_string(),
        1 => rng.int(100, 999_999).to_string(),
        2 => format!("{}.{:02}", rng.int(0, 999), rng.below(100)),
        3 => format!("{:02}/{:02}/{}", rng.int(1, 31), rng.int(1, 12), year(rng)),
        4 => format!("{}{}-{:04}", letter(rng), letter(rng), rng.below(10_000)),
        5 => format!("{}:{:02}", rng.int(0, 23), rng.below(60)),
        6 => format!(
            "{:03}-{:03}-{:04}",
            rng.int(100, 999),
            rng.below(1000),
            rng.below(10_000)
        ),
        7 => format!("{:.1}%", rng.below(1000) as f32 / 10.0),
        _ => format!("{},{:03}", rng.int(1, 99), rng.below(1000)),
    }
}

/// Two or four digits of a year.
fn year(rng: &mut Rng) -> String {
    let year = rng.int(1960, 2026);
    if rng.chance(0.3) {
        format!("{:02}", year % 100)
    } else {
        year.to_string()
    }
}

/// A capital letter.
pub(crate) fn letter(rng: &mut Rng) -> char {
    char::from(b'A' + rng.below(26) as u8)
}
