//! The rules of the tokeniser: the longest match wins, the first of those as long.

use std::sync::LazyLock;

use regex::Regex;

use crate::python_text::{is_space, lower};

/// What a match is, where that decides how much of it is taken or how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Taken as it stands.
    Plain,
    /// A word: gives up the `n` of a following `'t`.
    Word,
    /// Two words written as one: the first three letters are taken.
    Joined,
    /// `'twas`: the apostrophe and the `t` are taken.
    Twas,
    /// Taken only where no ASCII letter follows.
    BeforeNoLetter,
    /// Taken only where a letter follows.
    BeforeLetter,
    /// An abbreviation that is followed by one more full stop at the end of a sentence.
    Abbreviation,
    /// Letters with full stops: as an abbreviation, but only a word that often begins sentences shows an end.
    Acronym,
    /// One letter and a full stop: two tokens at the end of a sentence.
    Initial,
    /// `No.` and the like: one token before a number only.
    BeforeNumber,
    /// A telephone number: one token, spaces and brackets in it.
    Phone,
    /// A dash of any kind.
    Dash,
    /// Three full stops and more, or one character for them.
    Ellipsis,
}

struct Rule {
    kind: Kind,
    pattern: Regex,
}

/// `{A}` is an apostrophe, `{W}` a character of words.
const RULES: &[(Kind, &str)] = &[
    (Kind::BeforeNoLetter, "(?i:n{A}t)"),
    (Kind::Joined, "(?i:cannot|gonna|gotta|lemme|gimme|wanna)"),
    (Kind::Twas, "{A}(?i:t(?:is|was))"),
    (Kind::Plain, r#"</?[A-Za-z!?](?:[^<>\r\n"]|"[^"\r\n]*")*>"#),
    // Addresses.
    (
        Kind::Plain,
        r#"(?i:https?|ftp)://[^\s"<>|(){}]*[^\s"<>|.!?(){},\-]"#,
    ),
    (
        Kind::Plain,
        r#"www\.(?:[^\s"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}(?:/[^\s"<>|()]+[^\s"<>|.!?(){},\-])?"#,
    ),
    (
        Kind::Plain,
        r#"(?:[^\s"`'<>|.!?(){},\-_$]+\.)+(?:com|net|org|edu)(?:/[^\s"<>|()]+[^\s"<>|.!?(){},\-])?"#,
    ),
    (
        Kind::Plain,
        r#"[a-zA-Z0-9][^\s"<>|(){}]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+"#,
    ),
    (Kind::Plain, r"[@#]\p{L}[\p{L}\p{Nd}_]*"),
    // Words.
    (Kind::Word, r"[\p{L}\p{M}\u{ad}]{W}*"),
    (
        Kind::Plain,
        r"(?i:o{A}clock|ma{A}am|[dol]{A}{W}+|{A}(?:em|till?|cause))|{A}\p{Nd}0s",
    ),
    (
        Kind::Plain,
        r"\p{L}+[aeiouyAEIOUY]{A}[aeiouAEIOU][a-z]*|[A-HJ-XZ]{A}\p{L}{2,}",
    ),
    (Kind::BeforeLetter, "[yY]{A}"),
    (Kind::Plain, "{A}[nN]{A}"),
    (
        Kind::Plain,
        "{W}+(?:-{W}+){0,2}(?:/{W}+(?:-{W}+){0,2}){1,2}",
    ),
    (
        Kind::Plain,
        r"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+",
    ),
    (Kind::Plain, "{W}+(?:[-_]{W}+)+"),
    (Kind::Plain, r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"),
    (Kind::Plain, r"[Cc]\+\+|[CF]#"),
    (Kind::Plain, r"\p{L}+(?:\.\p{L}{2,})+"),
    (Kind::Plain, "(?i:-[lr][rcs]b-)"),
    // Numbers.
    (Kind::Plain, r"\p{Nd}{1,2}[\-/]\p{Nd}{1,2}[\-/]\p{Nd}{2,4}"),
    (Kind::Plain, r"[\-+]?(?:\p{Nd}*(?:[.,:]\p{Nd}+)+|\p{Nd}+)"),
    (Kind::Plain, r"\p{Nd}+{W}*"),
    (
        Kind::Phone,
        r"(?:\+\p{Nd}{1,3} )?(?:\(\p{Nd}{2,4}\)[ \u{a0}]?|\p{Nd}{2,4}[ \u{a0}])\p{Nd}{3,4}[\- \u{a0}]\p{Nd}{3,5}",
    ),
    // Abbreviations.
    (Kind::Acronym, r"(?:[A-Za-z]|Ph)(?:\.[A-Za-z])+\."),
    (Kind::BeforeNoLetter, r"[A-Za-z](?:\.[A-Za-z])+"),
    (
        Kind::Plain,
        r"(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|hon|brig|com?dr|pfc|supts?|rd|blvd|sq|rt|mts?|ft|hwy|ph)\.",
    ),
    (
        Kind::Abbreviation,
        r"(?i:inc|cos?|corp|ptys?|ltd|plc|bancorp|dept|bhd|assn|univ|intl|sys|bros|esq|jr|sr|etc|vs|al|seq|ed|eds)\.",
    ),
    (
        Kind::Abbreviation,
        r"(?:Ala|Ariz|Ark|Calif|Colo|Conn|Dak|Del|Fla|Ga|Ill|Ind|Kans?|Ky|La|Md|Mich|Minn|Mo|Mont|Neb|Nev|Okla|Ore|Pa|Penn|Tenn|Tex|Va|Vt|Wash|Wisc?|Wyo|Mon|Tues?|Wed|Thurs?|Fri)\.",
    ),
    (
        Kind::BeforeNumber,
        r"(?i:nos?|vols?|figs?|pp?|art|ext|tel)\.",
    ),
    (Kind::Initial, r"[A-Za-z]\."),
    // Signs.
    (Kind::Ellipsis, r"\.{3,}|…|\. \. \."),
    (Kind::Dash, r"-{2,}|[\u{2012}-\u{2015}\u{96}\u{97}]"),
    (Kind::Plain, "[?!]+"),
    (Kind::Plain, r"[A-Z]*\$|#+"),
    (Kind::BeforeNoLetter, r"[<>]?[:;=][\-o*']?[()DPdpO\\:@\[\]]"),
    (Kind::BeforeNoLetter, "{A}(?i:[msd]|re|ve|ll)"),
    (Kind::Plain, r"''|``|\*+|_+|&amp;|&lt;|&gt;|\\[*/]"),
    (Kind::Plain, r"\S"),
];

static COMPILED: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    RULES
        .iter()
        .filter_map(|(kind, pattern)| {
            let pattern = pattern
                .replace("{A}", r"['\u{2019}\u{92}]")
                .replace("{W}", r"[\p{L}\p{M}\p{Nd}\u{ad}]");
            let pattern = Regex::new(&format!("^(?:{pattern})")).ok()?;
            Some(Rule {
                kind: *kind,
                pattern,
            })
        })
        .collect()
});

/// Words that show the end of a sentence before them.
const STARTERS: &[&str] = &[
    "A",
    "About",
    "According",
    "Additionally",
    "After",
    "All",
    "Also",
    "Although",
    "An",
    "And",
    "As",
    "At",
    "But",
    "By",
    "Earlier",
    "He",
    "Her",
    "Here",
    "His",
    "How",
    "However",
    "I",
    "If",
    "In",
    "It",
    "Its",
    "Last",
    "Many",
    "More",
    "Mr.",
    "Ms.",
    "Now",
    "On",
    "Once",
    "One",
    "Other",
    "Our",
    "She",
    "Since",
    "So",
    "Some",
    "Such",
    "That",
    "The",
    "Their",
    "Then",
    "There",
    "These",
    "They",
    "This",
    "Those",
    "We",
    "What",
    "When",
    "While",
    "Who",
    "Yet",
    "You",
];

/// Tokens of `text` in lower case.
pub(super) fn scan(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if is_space(c) || matches!(c, '\u{200b}' | '\u{feff}') || is_untokenizable(c) {
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let plain = plain_word(rest);
        if plain > 0 {
            tokens.push(rest[..plain].to_ascii_lowercase());
            rest = &rest[plain..];
            continue;
        }
        let (kind, length) = longest(rest);
        let (token, after) = rest.split_at(length);
        match kind {
            Kind::Initial if starts_sentence(after) => {
                tokens.push(lower(&token[..1]));
                tokens.push(".".to_owned());
            }
            Kind::Abbreviation if starts_upper(after) => {
                tokens.push(lower(token));
                tokens.push(".".to_owned());
            }
            Kind::Acronym if starts_sentence(after) => {
                tokens.push(lower(token));
                tokens.push(".".to_owned());
            }
            _ => tokens.push(written(kind, token, after)),
        }
        rest = after;
    }
    tokens
}

/// Length of a run of ASCII letters with a space behind it, 0 if `rest` does not begin with one that no
/// rule cuts. Most tokens are such words, and this spares them the rules.
fn plain_word(rest: &str) -> usize {
    let length = rest
        .bytes()
        .position(|byte| !byte.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let closed = matches!(rest.as_bytes().get(length), None | Some(b' '));
    let joined = matches!(length, 5 | 6)
        && ["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(&rest[..length]));
    if closed && !joined { length } else { 0 }
}

/// Kind and length in bytes of the longest match, at least one character.
fn longest(rest: &str) -> (Kind, usize) {
    let mut best = (Kind::Plain, 0, 0);
    for rule in COMPILED.iter() {
        let Some(found) = rule.pattern.find(rest) else {
            continue;
        };
        let (token, after) = rest.split_at(found.end());
        let next = after.chars().next();
        let taken = match rule.kind {
            Kind::BeforeNoLetter if next.is_some_and(|c| c.is_ascii_alphabetic()) => continue,
            Kind::BeforeLetter if !next.is_some_and(char::is_alphabetic) => continue,
            Kind::BeforeNumber if !starts_number(after) => continue,
            Kind::Joined => 3,
            Kind::Twas => token.trim_end_matches(char::is_alphabetic).len() + 1,
            Kind::Word if ends_before_not(token, after) => token.len() - 1,
            _ => token.len(),
        };
        // Compared by what was seen, not by what is taken of it.
        if token.len() > best.1 && taken > 0 {
            best = (rule.kind, token.len(), taken);
        }
    }
    let one = rest.chars().next().map_or(0, char::len_utf8);
    (best.0, best.2.max(one))
}

/// Whether the `n` at the end of `word` belongs to the `'t` behind it.
fn ends_before_not(word: &str, after: &str) -> bool {
    let mut chars = after.chars();
    word.len() > 1
        && word.ends_with(['n', 'N'])
        && matches!(chars.next(), Some('\'' | '\u{2019}' | '\u{92}'))
        && matches!(chars.next(), Some('t' | 'T'))
        && !chars.next().is_some_and(|c| c.is_ascii_alphabetic())
}

fn starts_sentence(after: &str) -> bool {
    let trimmed = after.trim_start();
    let word = trimmed
        .split(char::is_whitespace)
        .next()
        .unwrap_or_default();
    trimmed.len() < after.len() && STARTERS.contains(&word)
}

fn starts_upper(after: &str) -> bool {
    let trimmed = after.trim_start();
    // A company's second abbreviation goes on, it begins nothing.
    let goes_on = ["Ltd", "Inc", "Corp"]
        .iter()
        .any(|word| trimmed.starts_with(word));
    trimmed.len() < after.len() && trimmed.starts_with(char::is_uppercase) && !goes_on
}

fn starts_number(after: &str) -> bool {
    after.trim_start().starts_with(|c: char| c.is_ascii_digit())
}

/// Characters that the original drops with a warning.
fn is_untokenizable(c: char) -> bool {
    c.is_control() && !matches!(c, '\u{96}' | '\u{97}' | '\u{92}' | '\u{80}')
        || matches!(c, '\u{fffd}' | '「' | '」' | '\u{e000}'..='\u{f8ff}' | '\u{10000}'..)
}

/// The token as it is written, in lower case.
fn written(kind: Kind, token: &str, after: &str) -> String {
    let next = after.chars().next();
    let known = match token {
        "(" => "-lrb-",
        ")" => "-rrb-",
        "[" => "-lsb-",
        "]" => "-rsb-",
        "{" => "-lcb-",
        "}" => "-rcb-",
        "\"" if next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '$') => "``",
        "\"" | "\u{201d}" => "''",
        "\u{201c}" => "``",
        "'" if next.is_some_and(|c| c.is_ascii_alphabetic()) => "`",
        "\u{2019}" | "\u{92}" => "'",
        "\u{2018}" => "`",
        "\u{a2}" => "cents",
        "\u{a3}" => "#",
        "\u{a4}" | "\u{a5}" | "\u{80}" | "\u{20a0}" | "\u{20ac}" => "$",
        "½" => "1/2",
        "¼" => "1/4",
        "¾" => "3/4",
        "&amp;" => "&",
        "&lt;" => "<",
        "&gt;" => ">",
        _ if kind == Kind::Dash => "--",
        _ if kind == Kind::Ellipsis => "...",
        _ => {
            let smiley = kind == Kind::BeforeNoLetter && token.contains(['(', ')', '[', ']']);
            let mut token = lower(token).replace(['\u{2019}', '\u{92}'], "'");
            token.retain(|c| c != '\u{ad}');
            if kind == Kind::Phone {
                token = token.replace(' ', "\u{a0}");
            }
            if smiley || kind == Kind::Phone {
                token = token.replace('(', "-lrb-").replace(')', "-rrb-");
                token = token.replace('[', "-lsb-").replace(']', "-rsb-");
            }
            return token;
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_compiles() {
        assert_eq!(COMPILED.len(), RULES.len());
    }

    #[test]
    fn abbreviations_and_ends_of_sentences() {
        for (text, expected) in [
            ("Ltd. Question", "ltd. . question"),
            ("Co. Ltd. in", "co. ltd. in"),
            ("D.C. The end", "d.c. . the end"),
            ("U.S. Bank", "u.s. bank"),
            ("red X. This is", "red x . this is"),
            ("Ray A. Kroc", "ray a. kroc"),
            ("No. 8 of No. of", "no. 8 of no . of"),
        ] {
            assert_eq!(scan(text).join(" "), expected, "{text}");
        }
    }
}
