//! Text out of a recognition network's classes: connectionist temporal classification, greedily.

/// The classes of a recognition network: nothing, the characters of its dictionary, a space.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alphabet {
    /// Texts of the classes after the first, which stands for nothing.
    characters: Vec<String>,
}

/// Which writing a page is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Script {
    /// Latin letters with their accents, digits, punctuation and signs: faster, and no other writing is
    /// read into a blurred word.
    #[default]
    Latin,
    /// All that the network knows.
    All,
}

impl Script {
    /// Whether a character may occur.
    fn has(self, character: &str) -> bool {
        let is_latin = |c: char| {
            matches!(u32::from(c),
                // ASCII, Latin-1, Latin Extended A and B, and the letters with further accents.
                0x20..=0x24F | 0x1E00..=0x1EFF
                // Punctuation, currencies, letter-like signs, arrows, operators, bullets and boxes.
                | 0x2010..=0x2027 | 0x2030..=0x205E | 0x20A0..=0x20CF | 0x2100..=0x214F
                | 0x2190..=0x21FF | 0x2200..=0x22FF | 0x25A0..=0x25FF | 0x2600..=0x2612
                | 0x2713..=0x2718)
        };
        self == Self::All || character.chars().all(is_latin)
    }
}

impl Alphabet {
    /// The classes of a network that has `classes` of them, from its dictionary of one character a line,
    /// with those that a script has: classes to keep, and their alphabet.
    ///
    /// The network has one class more than the dictionary for nothing, and one more for the space where
    /// that is not in the dictionary.
    pub(crate) fn of(
        dictionary: &str,
        classes: usize,
        script: Script,
    ) -> Option<(Vec<usize>, Self)> {
        let mut all: Vec<&str> = dictionary
            .strip_suffix('\n')
            .unwrap_or(dictionary)
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .collect();
        if all.len() + 2 == classes {
            all.push(" ");
        }
        if all.len() + 1 != classes {
            return None;
        }
        let mut keep = vec![0];
        let mut characters = Vec::new();
        for (at, character) in all.into_iter().enumerate() {
            if script.has(character) {
                keep.push(at + 1);
                characters.push(character.to_owned());
            }
        }
        Some((keep, Self { characters }))
    }

    /// Number of classes.
    pub(crate) fn classes(&self) -> usize {
        self.characters.len() + 1
    }

    /// Text and mean probability of steps of class probabilities: the likeliest class of each step, without
    /// repetitions, without nothing.
    pub(crate) fn decode(&self, steps: &[f32]) -> (String, f64) {
        let (mut text, mut sum, mut count) = (String::new(), 0.0, 0_usize);
        let mut before = 0;
        for step in steps.chunks_exact(self.classes()) {
            let mut best = 0;
            for (class, probability) in step.iter().enumerate() {
                if *probability > step[best] {
                    best = class;
                }
            }
            if best != 0 && best != before {
                text.push_str(&self.characters[best - 1]);
                sum += f64::from(step[best]);
                count += 1;
            }
            before = best;
        }
        (text, if count == 0 { 0.0 } else { sum / count as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries() {
        let (keep, alphabet) = Alphabet::of("a\n中\nb\n", 5, Script::Latin).unwrap();
        assert_eq!(keep, [0, 1, 3, 4]);
        assert_eq!(alphabet.characters, ["a", "b", " "]);
        let (keep, alphabet) = Alphabet::of("a\r\n中\r\n ", 4, Script::All).unwrap();
        assert_eq!(keep, [0, 1, 2, 3]);
        assert_eq!(alphabet.characters, ["a", "中", " "]);
        assert_eq!(Alphabet::of("a\nb", 9, Script::All), None);
    }

    #[test]
    fn steps_become_text() {
        let (_, alphabet) = Alphabet::of("a\nb", 4, Script::All).unwrap();
        let step = |class: usize, p: f32| {
            let mut step = [(1.0 - p) / 3.0; 4];
            step[class] = p;
            step
        };
        let steps = [
            step(0, 0.9),
            step(1, 0.8),
            step(1, 0.9),
            step(0, 0.7),
            step(1, 0.6),
            step(3, 0.9),
            step(2, 0.5),
        ];
        let (text, score) = alphabet.decode(steps.as_flattened());
        assert_eq!(text, "aa b");
        assert!((score - (0.8 + 0.6 + 0.9 + 0.5) / 4.0).abs() < 1e-6);
        assert_eq!(alphabet.decode(&step(0, 1.0)), (String::new(), 0.0));
        assert_eq!(alphabet.decode(&[]), (String::new(), 0.0));
    }
}
