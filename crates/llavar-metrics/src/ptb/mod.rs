//! Penn Treebank tokenisation of captions, after Stanford's `PTBTokenizer` as pycocoevalcap calls it.
//!
//! A text becomes lower-case tokens with one space between, without punctuation: `It's a dog, isn't it?` is
//! `it 's a dog is n't it`. BLEU, METEOR, ROUGE-L and CIDEr-D compare such text.
//!
//! At every place the longest match of the rules wins (`rules.rs`): words, contractions, numbers, dates,
//! abbreviations, addresses, quotes, brackets, dashes and every other character alone.
//!
//! # Quirks
//! - Brackets become `-lrb-`, `-rsb-`, ... and are *not* taken out: the list of punctuation has them in
//!   capitals, and the tokens are lower-cased before.
//! - An abbreviation at the end of a sentence yields the full stop twice (`Inc. The` is `inc. . the`), of
//!   which the second is taken out as punctuation.
//! - The original tokenises all captions as one stream, so whether a full stop belongs to a last `x.` hangs
//!   on the next caption there. Here each text is by itself and its end is not a sentence start.
//!
//! # Source
//! `PTBTokenizer` of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`, and the punctuation list of
//! `ptbtokenizer.py` in pycocoevalcap 1.2. Ours is written after its behaviour, not its hundreds of rules: of
//! 40,000 lines of answers, questions and labels (receipts, formulas and Chinese among them) 99.6 % are equal
//! without punctuation, and all lines of the reference captions are.

mod rules;

use super::Row;

/// Raised when the tokens of any text can change.
pub const VERSION: u32 = 1;

/// Tokens that captions are compared without.
const PUNCTUATION: [&str; 17] = [
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
    "...", ";",
];

/// Tokens of `text` in lower case, punctuation among them.
pub fn tokens(text: &str) -> Vec<String> {
    rules::scan(text)
}

/// Tokens of `text` without punctuation, one space between: the form that caption metrics compare.
pub fn tokenise(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for token in tokens(text) {
        if PUNCTUATION.contains(&token.as_str()) {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&token);
    }
    out
}

/// Calls `score` with the tokenised texts of `rows`.
pub fn with_tokenised<T>(rows: &[Row<'_>], score: impl FnOnce(&[Row<'_>]) -> T) -> T {
    let texts: Vec<(String, Vec<String>)> = rows
        .iter()
        .map(|row| {
            let references = row.references.iter().map(|text| tokenise(text)).collect();
            (tokenise(row.answer), references)
        })
        .collect();
    let rows: Vec<Row<'_>> = texts
        .iter()
        .map(|(answer, references)| Row { answer, references })
        .collect();
    score(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs of the original for texts written for this test.
    #[test]
    fn as_the_original_does() {
        for (text, expected) in [
            (
                "He said (quietly) \"hello\" and 'bye' {x} [y].",
                "he said -lrb- quietly -rrb- `` hello '' and ` bye ' -lcb- x -rcb- -lsb- y -rsb- .",
            ),
            (
                "colour cannot gonna don't can't won't it's James' I'm you've we'd they'll",
                "colour can not gon na do n't ca n't wo n't it 's james ' i 'm you 've we 'd they 'll",
            ),
            (
                "Mr. Smith went to U.S. today. e.g. this, etc. I.e. that... a.m. and p.m. St. Louis",
                "mr. smith went to u.s. today . e.g. this , etc. . i.e. that ... a.m. and p.m. st. louis",
            ),
            (
                "$5.00 £10 €3 5% 1,000,000 3/4 10-12 and/or A&B AT&T #1 C++ 100km 5pm 5:30 12/25/2015",
                "$ 5.00 # 10 $ 3 5 % 1,000,000 3/4 10-12 and/or a&b at&t # 1 c++ 100km 5pm 5:30 12/25/2015",
            ),
            (
                "http://www.example.com/a?b=c user@site.com www.foo.org example.com",
                "http://www.example.com/a?b=c user@site.com www.foo.org example.com",
            ),
            (
                "well-known state-of-the-art -- dash — em - hyphen a--b",
                "well-known state-of-the-art -- dash -- em - hyphen a -- b",
            ),
            (
                "'twas 'em y'all o'clock rock'n'roll gimme wanna",
                "'t was 'em y' all o'clock rock 'n' roll gim me wan na",
            ),
            (
                "… ... ? ! ?! !!! ; : , “curly” ‘single’",
                "... ... ? ! ?! !!! ; : , `` curly '' ` single '",
            ),
            (
                "@ # + = < > _ ` a_b a/b a*b x=y 50x50 <b>tag</b>",
                "@ # + = < > _ ` a_b a/b a * b x = y 50x50 <b> tag </b>",
            ),
            ("© ® ™ ° é ñ 中文 日本 ÷ ×", "© ® ™ ° é ñ 中文 日本 ÷ ×"),
            (
                "1st 90's 1990s '90s 3.5 .5 -5 +5 1.2.3 555-1234",
                "1st 90 's 1990s '90s 3.5 .5 -5 +5 1.2.3 555-1234",
            ),
        ] {
            assert_eq!(tokens(text).join(" "), expected, "{text}");
        }
    }

    #[test]
    fn punctuation_is_taken_out_and_brackets_stay() {
        assert_eq!(tokenise("It's a dog, isn't it?"), "it 's a dog is n't it");
        assert_eq!(
            tokenise("A sign (red) - \"STOP\"..."),
            "a sign -lrb- red -rrb- stop"
        );
        assert_eq!(tokenise(" \n. "), "");
    }
}
