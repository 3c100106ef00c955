//! What a text says of the picture.

use super::{
    Broken, Evidence, Reason, broken,
    evidence::{alike, normal, words},
    language::is_common,
    numbers,
    quotes::quoted_spans,
    sentences,
};
use crate::Duo;

/// Answers that say that there is none.
const NOTHING: [&str; 14] = [
    "not written",
    "not mentioned",
    "not provided",
    "not specified",
    "not stated",
    "not given",
    "not visible",
    "not available",
    "not shown",
    "not present",
    "not known",
    "not included",
    "no information",
    "cannot be determined",
];

/// A caption tells some of the text of a picture that has `from` words or more: it quotes some, or says a
/// number or two words in a row as they stand there.
pub(super) fn tells_text(text: &str, evidence: &Evidence, from: usize) -> Result<(), Broken> {
    if from == 0 || evidence.sure_words() < from {
        return Ok(());
    }
    let spans = quoted_spans(text);
    // That quotes are in the picture has been looked up.
    let quotes = spans
        .iter()
        .any(|span| words(span).iter().any(|word| says(word)));
    let words = words(text);
    let long = |word: &String| word.chars().filter(char::is_ascii_digit).count() >= 2;
    let mut numbers = words.iter().filter(|word| long(word));
    let mut pairs = words
        .windows(2)
        .filter(|pair| pair.iter().all(|word| says(word)));
    if quotes
        || numbers.any(|word| evidence.in_a_line(std::slice::from_ref(word)))
        || pairs.any(|pair| evidence.in_a_line(pair))
    {
        return Ok(());
    }
    broken(
        Reason::NoText,
        "the caption quotes none of the text that is written in the image: put its important words in double quotes",
    )
}

/// Whether a word says something by itself.
fn says(word: &str) -> bool {
    let long = word.chars().count() >= 3;
    let telling = word.contains(|c: char| c.is_ascii_digit() || sentences::is_wide(c));
    !is_common(word) && (long || telling)
}

/// The words of the answer that the question does not have and that mean something.
fn new_words(duo: &Duo) -> Vec<String> {
    let question = words(&duo.extractive_question);
    let answer = words(&duo.extractive_answer).into_iter();
    answer
        .filter(|word| !question.contains(word) && !is_common(word))
        .collect()
}

/// Those of them that are known of the picture: the fact.
pub(super) fn fact(duo: &Duo, evidence: &Evidence) -> Vec<String> {
    let mut fact = new_words(duo);
    fact.retain(|word| evidence.has_word(word) || numbers::is_known(word, evidence));
    fact.sort();
    fact.dedup();
    fact
}

/// The answer says something of the picture that the question does not.
pub(super) fn names_a_fact(duo: &Duo, evidence: &Evidence) -> Result<(), Broken> {
    let answer = words(&duo.extractive_answer).join(" ");
    let nothing = |says: &&&str| answer.contains(**says) && !evidence.mentions(says);
    if let Some(says) = NOTHING.iter().find(nothing) {
        return broken(
            Reason::NoFact,
            format!("the extractive answer says \"{says}\": ask for what is there"),
        );
    }
    let fact = fact(duo, evidence);
    let spans = quoted_spans(&duo.extractive_answer);
    let told = |span: &str| normal(&duo.extractive_question).contains(&normal(span));
    // A name of the question may be quoted again, if something is said of it.
    let only_told = fact.is_empty() && !spans.is_empty() && spans.iter().all(|span| told(span));
    if new_words(duo).is_empty() || only_told {
        return broken(
            Reason::AnswersItself,
            "the extractive question already says what its answer says",
        );
    }
    if fact.is_empty() {
        return broken(
            Reason::NoFact,
            "the extractive answer names nothing that is written in the image or known of it",
        );
    }
    Ok(())
}

/// The words of the fact that a quote can show: neither a single letter nor another form of a word of the
/// question, as "recipients" is of "recipient". Where the fact is a number, the words around it do not show it.
fn telling<'a>(fact: &'a [String], duo: &Duo) -> Vec<&'a String> {
    let question = words(&duo.extractive_question);
    let numbers: Vec<&String> = fact.iter().filter(|word| is_number(word)).collect();
    if !numbers.is_empty() {
        return numbers;
    }
    let new = |word: &&String| says(word) && !question.iter().any(|told| alike(told, word));
    let telling: Vec<&String> = fact.iter().filter(new).collect();
    match telling.is_empty() {
        true => fact.iter().collect(),
        false => telling,
    }
}

/// Whether a word is an amount, a date or another number: at least half digits. "MP3" is a name.
fn is_number(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    digits > 0 && digits >= word.chars().filter(|c| c.is_alphabetic()).count()
}

/// The explanation quotes something, and what it quotes, or the line of which that is a part, holds a telling
/// word of the fact, or every number of it where it has numbers.
pub(super) fn quotes_support(duo: &Duo, evidence: &Evidence, least: f64) -> Result<(), Broken> {
    let spans = quoted_spans(&duo.self_explain_answer);
    if spans.is_empty() {
        return broken(
            Reason::NoQuote,
            "the self explain answer quotes no text of the image: put the words of the image in double quotes",
        );
    }
    let lines = spans.iter().flat_map(|span| evidence.lines_of(span, least));
    let lines: Vec<&str> = lines.map(|line| line.text.as_str()).collect();
    let quoted = Evidence::new(spans.iter().copied().chain(lines));
    let fact = fact(duo, evidence);
    let held = |word: &&String| quoted.has_word(word) || numbers::is_known(word, &quoted);
    let telling = telling(&fact, duo);
    let missing: Vec<&str> = match telling.iter().any(|word| is_number(word)) {
        false if telling.iter().any(held) => Vec::new(),
        false => fact.iter().map(String::as_str).collect(),
        true => {
            let lost = telling.iter().filter(|word| !held(word));
            lost.map(|word| word.as_str()).collect()
        }
    };
    if missing.is_empty() {
        return Ok(());
    }
    broken(
        Reason::Unsupported,
        format!(
            "the text that the self explain answer quotes does not hold \"{}\": quote the text that does",
            missing.join(" ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_ocr::Line;

    fn page(texts: &[&str]) -> Evidence {
        let line = |(i, text): (usize, &&str)| {
            let y = 20.0 * i as f64;
            Line::in_box([10.0, y, 90.0, y + 10.0], *text, 0.9)
        };
        let lines: Vec<Line> = texts.iter().enumerate().map(line).collect();
        Evidence::of_page(&lines, (100, 100), None)
    }

    #[test]
    fn a_caption_of_a_page_with_text_tells_some_of_it() {
        let evidence = page(&["ACME STORE", "Date 12/03/2018", "Total 9.90"]);
        for empty in [
            "The image is laid out as it stands there, with the text of the image written in the text of the image.",
            "The image is a poster of a postcard with a date and a price, but it is not a postcard.",
            "It reads \"the\" and has a total.",
        ] {
            let broken = tells_text(empty, &evidence, 3).unwrap_err();
            assert_eq!(broken.reason, Reason::NoText, "{empty}");
            assert_eq!(tells_text(empty, &evidence, 0), Ok(()));
            assert_eq!(tells_text(empty, &page(&["STOP", "9"]), 3), Ok(()));
        }
        for good in [
            "A receipt reads \"Acme\" at the top.",
            "A receipt of the Acme Store lies on a table.",
            "A receipt was printed on 12/03/2018.",
        ] {
            assert_eq!(tells_text(good, &evidence, 3), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_quoted_holds_the_fact() {
        let evidence = page(&["ACME STORE", "TOTAL 9.90", "Market share", "23 %"]);
        let duo = |answer: &str, explanation: &str| {
            Duo::from_texts([
                "What is the amount?".into(),
                answer.into(),
                "Which text shows it?".into(),
                explanation.into(),
            ])
        };
        for (answer, explanation, right) in [
            ("It is 9.90.", "The line \"TOTAL 9.90\" shows it.", true),
            ("It is 9.90.", "The word \"TOTAL\" shows it.", true),
            ("It is 23 %.", "The text \"Market share\" shows it.", false),
            (
                "It is 23 %.",
                "The text \"23 %\" below \"Market share\" shows it.",
                true,
            ),
            ("It is 9.90.", "The line \"ACME STORE\" shows it.", false),
            (
                "The market share is 23 %.",
                "The text \"Market share\" shows it.",
                false,
            ),
        ] {
            let found = quotes_support(&duo(answer, explanation), &evidence, 0.8);
            assert_eq!(found.is_ok(), right, "{answer} {explanation}");
        }
        let all = "The amount is 9.90, of which 23 % go to the market.";
        for (explanation, right) in [
            ("The line \"TOTAL 9.90\" shows it.", false),
            ("The lines \"TOTAL 9.90\" and \"23 %\" show it.", true),
        ] {
            let found = quotes_support(&duo(all, explanation), &evidence, 0.8);
            assert_eq!(found.is_ok(), right, "{explanation}");
        }
        let shop = page(&["MP3 Player", "RM40.00"]);
        for (quote, right) in [("RM40.00", true), ("MP3 Player", false)] {
            let told = duo(
                "The MP3 player costs RM40.00.",
                &format!("\"{quote}\" says it."),
            );
            assert_eq!(quotes_support(&told, &shop, 0.8).is_ok(), right, "{quote}");
        }
        let list = page(&["Recipient(s):", "Mr. Arthur Golden"]);
        let mut duo_of_list = duo(
            "The recipient(s) are Arthur Golden.",
            "The text \"Recipient(s):\" lists them.",
        );
        duo_of_list.extractive_question = "Who is the recipient?".into();
        let broken = quotes_support(&duo_of_list, &list, 0.8).unwrap_err();
        assert_eq!(broken.reason, Reason::Unsupported);
        duo_of_list.self_explain_answer = "The text \"Mr. Arthur Golden\" names him.".into();
        assert_eq!(quotes_support(&duo_of_list, &list, 0.8), Ok(()));
        let nothing = duo(
            "The total is not written in the image.",
            "\"TOTAL\" shows it.",
        );
        let broken = names_a_fact(&nothing, &evidence).unwrap_err();
        assert_eq!(broken.reason, Reason::NoFact);
    }
}
