//! The mistakes of an engine, made on purpose.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Line;

/// What is read for what; where the first letters are found one of the others may stand.
const CONFUSED: &[(&str, &[&str])] = &[
    ("rn", &["m"]),
    ("cl", &["d"]),
    ("vv", &["w"]),
    ("ri", &["n"]),
    ("0", &["O", "o", "8"]),
    ("1", &["l", "I", "7", "i"]),
    ("2", &["Z", "z"]),
    ("3", &["8"]),
    ("4", &["A"]),
    ("5", &["S", "s", "6"]),
    ("6", &["G", "b", "5"]),
    ("7", &["1", "T"]),
    ("8", &["B", "3", "0"]),
    ("9", &["g", "q"]),
    ("A", &["4", "R"]),
    ("B", &["8", "R"]),
    ("C", &["c", "G", "("]),
    ("D", &["O", "0"]),
    ("E", &["F"]),
    ("G", &["C", "6"]),
    ("H", &["N", "M"]),
    ("I", &["1", "l", "i"]),
    ("K", &["k", "X"]),
    ("L", &["1", "I", "l"]),
    ("M", &["N", "H"]),
    ("N", &["M", "H"]),
    ("O", &["0", "o", "D"]),
    ("Q", &["O", "0"]),
    ("R", &["A", "P"]),
    ("S", &["5", "s"]),
    ("T", &["I", "7"]),
    ("U", &["V", "u"]),
    ("V", &["v", "Y"]),
    ("W", &["w", "M"]),
    ("X", &["x", "×", "K"]),
    ("Z", &["2", "z"]),
    ("a", &["o", "e"]),
    ("b", &["6", "h"]),
    ("c", &["e", "o"]),
    ("d", &["cl"]),
    ("e", &["c", "o"]),
    ("f", &["t"]),
    ("g", &["9", "q"]),
    ("h", &["b", "n"]),
    ("i", &["l", "1", "j"]),
    ("l", &["1", "I", "i"]),
    ("m", &["rn", "n"]),
    ("n", &["r", "u"]),
    ("o", &["0", "c"]),
    ("q", &["9", "g"]),
    ("s", &["5", "S"]),
    ("t", &["f", "l"]),
    ("u", &["v"]),
    ("v", &["y", "u"]),
    ("w", &["vv", "W"]),
    ("y", &["v"]),
    ("z", &["2"]),
    (".", &[",", ""]),
    (",", &[".", ""]),
    (":", &[".", "", ";"]),
    (";", &[":"]),
    ("-", &["", "_"]),
    ("'", &["", "`"]),
    ("\"", &["''"]),
    ("(", &["C", "{"]),
    (")", &["}", ""]),
    ("/", &["1", "I"]),
    ("&", &["8"]),
    ("$", &["S", "5"]),
    ("@", &["0", "8"]),
    ("!", &["I", "1"]),
    ("%", &["9", "X"]),
    ("é", &["e"]),
    ("ä", &["a"]),
    ("ö", &["o"]),
    ("ü", &["u"]),
    ("ß", &["B"]),
];

/// How often an engine errs. Rates are 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Misreading {
    /// Of a line: it is not found at all.
    pub lost_line: f64,
    /// Of a character: it is taken for another, or falls away where nothing looks like it.
    pub wrong_character: f64,
    /// Of a space: the words grow together.
    pub lost_space: f64,
}

impl Misreading {
    /// A common measure for all three: of a hundred characters `100 rate` are wrong, of a hundred lines as many
    /// are lost, of a hundred spaces three times as many. PP-OCR on scanned receipts is about `at(0.02)`.
    pub fn at(rate: f64) -> Self {
        Self {
            lost_line: rate,
            wrong_character: rate,
            lost_space: (3.0 * rate).min(1.0),
        }
    }

    /// Reads lines with errors; the same seed makes the same ones. Scores fall with the share of what is wrong.
    pub fn read(&self, lines: &[Line], seed: u64) -> Vec<Line> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut read = Vec::with_capacity(lines.len());
        for line in lines {
            if chance(&mut rng, self.lost_line) {
                continue;
            }
            let (text, errors) = self.text(&line.text, &mut rng);
            if text.trim().is_empty() {
                continue;
            }
            let share = errors as f64 / line.text.chars().count().max(1) as f64;
            read.push(Line {
                quad: line.quad,
                text,
                score: (line.score * (1.0 - share)).clamp(0.0, 1.0),
            });
        }
        read
    }

    /// The text as read, and how many errors are in it.
    fn text(&self, text: &str, rng: &mut ChaCha8Rng) -> (String, usize) {
        let mut read = String::with_capacity(text.len());
        let mut errors = 0;
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let mut taken = letter.len_utf8();
            let rate = if letter == ' ' {
                self.lost_space
            } else {
                self.wrong_character
            };
            if chance(rng, rate) {
                errors += 1;
                if letter != ' ' {
                    let alike = CONFUSED.iter().find(|(from, _)| rest.starts_with(from));
                    if let Some((from, to)) = alike {
                        taken = from.len();
                        read.push_str(to[rng.random_range(0..to.len())]);
                    }
                }
            } else {
                read.push(letter);
            }
            rest = &rest[taken..];
        }
        (read, errors)
    }
}

fn chance(rng: &mut ChaCha8Rng, rate: f64) -> bool {
    rng.random::<f64>() < rate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, count: usize) -> Vec<Line> {
        vec![Line::in_box([0.0, 0.0, 9.0, 9.0], text, 0.9); count]
    }

    #[test]
    fn none_and_all() {
        let page = lines("Total: 10.50 MYR", 20);
        assert_eq!(Misreading::at(0.0).read(&page, 1), page);
        let lost = Misreading {
            lost_line: 1.0,
            ..Misreading::at(0.0)
        };
        assert!(lost.read(&page, 1).is_empty());
        let joined = Misreading {
            lost_space: 1.0,
            ..Misreading::at(0.0)
        };
        assert_eq!(joined.read(&page, 1)[0].text, "Total:10.50MYR");
        let wrong = Misreading {
            wrong_character: 1.0,
            ..Misreading::at(0.0)
        };
        let read = wrong.read(&lines("burn 0", 1), 1);
        // `rn` is one mistake, and every letter is another one now.
        assert!(
            read[0].text.contains('m') && read[0].score < 0.31,
            "{read:?}"
        );
        assert!(!read[0].text.contains(['b', 'u', '0']), "{read:?}");
    }

    #[test]
    fn rates_are_kept_and_seeds_decide() {
        let page = lines("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 2000);
        let read = Misreading::at(0.02).read(&page, 7);
        assert_eq!(read, Misreading::at(0.02).read(&page, 7));
        assert_ne!(read, Misreading::at(0.02).read(&page, 8));
        let lost = page.len() - read.len();
        assert!(
            (20..65).contains(&lost),
            "{lost} of 2000 lines, expected about 40"
        );
        let wrong: usize = read
            .iter()
            .map(|line| line.text.chars().filter(|c| *c != 'a').count())
            .sum();
        let share = wrong as f64 / (50 * read.len()) as f64;
        assert!((0.018..0.022).contains(&share), "{share}");
        assert!(read.iter().all(|line| line.score <= 0.9));
    }
}
