//! METEOR's own normalisation of a line (`-norm`), for text that has been through the Penn Treebank
//! tokeniser: what that leaves together and METEOR separates.

use crate::python_text::{lower, split};

/// METEOR 1.5's English abbreviations whose full stop stays at the end of a text, in lower case.
const PREFIXES: &str = "adj adm adv asst bart bldg brig bros capt cmdr col comdr con corp cpl dr drs ens gen gov hon hosp \
insp lt mm mr mrs ms maj messrs mlle mme msgr op ord pfc ph prof pvt rep reps res rev rt sen sens sfc sgt sr st supt \
surg v vs i.e e.g no nos art nr pp";

/// Words that are aligned.
pub(super) fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = lower(text).chars().collect();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, c) in chars.iter().copied().enumerate() {
        let before = at.checked_sub(1).map_or(' ', |at| chars[at]);
        let after = chars.get(at + 1).copied().unwrap_or(' ');
        match c {
            '\'' | '`' | '‘' | '’' => {
                out.push_str(" '");
                // Between letters (and in 90's) the apostrophe goes with what follows.
                let joined = before.is_alphabetic() && after.is_alphabetic()
                    || before.is_numeric() && after == 's';
                if !joined {
                    out.push(' ');
                }
            }
            '“' | '”' => out.push_str(" \" "),
            '-' | '–' if before.is_alphanumeric() && after.is_alphanumeric() => out.push(' '),
            '–' => out.push('-'),
            // A double dash is written as one.
            '-' if before == '-' => {}
            ',' if before.is_numeric() && after.is_numeric() => out.push(','),
            '-' | '.' => out.push(c),
            c if c.is_alphanumeric() || c.is_whitespace() => out.push(c),
            c => out.extend([' ', c, ' ']),
        }
    }
    let mut words: Vec<String> = Vec::new();
    let mut tokens = split(&out).peekable();
    while let Some(token) = tokens.next() {
        let Some(stem) = token.strip_suffix('.').filter(|stem| !stem.is_empty()) else {
            words.push(token.to_owned());
            continue;
        };
        let goes_on = tokens
            .peek()
            .is_some_and(|next| next.starts_with(char::is_lowercase));
        if stem.contains('.') && stem.contains(char::is_alphabetic) {
            // An acronym loses its full stops.
            words.push(stem.replace('.', ""));
        } else if goes_on || PREFIXES.split(' ').any(|prefix| prefix == stem) {
            words.push(token.to_owned());
        } else {
            words.extend([stem.to_owned(), ".".to_owned()]);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs of the original.
    #[test]
    fn as_the_original_does() {
        for (text, expected) in [
            (
                "it 's a close-up of a man 's dog n't",
                "it ' s a close up of a man ' s dog n 't",
            ),
            ("a and/or b", "a and / or b"),
            ("inc. u.s. mr. smith co.", "inc. us mr. smith co ."),
            ("x $ 5 10-12 a_b", "x $ 5 10 12 a _ b"),
            ("don't o'clock '90s", "don 't o 'clock ' 90s"),
            ("well - known 1,000 a,b", "well - known 1,000 a , b"),
        ] {
            assert_eq!(words(text).join(" "), expected, "{text}");
        }
    }
}
