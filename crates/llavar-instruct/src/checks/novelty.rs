//! No fact twice.

use std::collections::HashSet;

use super::{
    Broken, Evidence, Reason, broken,
    evidence::{normal, words},
    facts,
    language::is_common,
    quotes::quoted_spans,
};
use crate::Duo;

/// Whether a duo does not repeat itself and asks for another fact than those that are kept.
pub(super) fn is_new(
    duo: &Duo,
    kept: &[Duo],
    evidence: &Evidence,
    least: f64,
) -> Result<(), Broken> {
    for (first, second, what) in [
        (
            &duo.extractive_question,
            &duo.self_explain_question,
            "the self explain question repeats the extractive question",
        ),
        (
            &duo.extractive_answer,
            &duo.self_explain_answer,
            "the self explain answer repeats the extractive answer",
        ),
    ] {
        if same(first, second, least) {
            return broken(Reason::Duplicate, what);
        }
    }
    let known = |duo: &Duo| (facts::fact(duo, evidence), quotes(duo));
    let fact = known(duo);
    for other in kept {
        if same(&duo.extractive_question, &other.extractive_question, least)
            || same(&duo.extractive_answer, &other.extractive_answer, least)
            || (!fact.0.is_empty() && fact == known(other))
        {
            return broken(
                Reason::Duplicate,
                format!("\"{}\" has been asked already", other.extractive_question),
            );
        }
    }
    Ok(())
}

fn quotes(duo: &Duo) -> HashSet<String> {
    let spans = quoted_spans(&duo.self_explain_answer);
    spans.into_iter().map(normal).collect()
}

/// Whether two texts are the same but for their wording. In long texts one other name or number changes
/// few letters and all of the meaning, so the words that differ are looked at.
fn same(a: &str, b: &str, least: f64) -> bool {
    let alike = strsim::normalized_levenshtein;
    if alike(&normal(a), &normal(b)) < least {
        return false;
    }
    let (a, b) = (words(a), words(b));
    let only = |own: &[String], other: &[String]| -> Vec<String> {
        let own = own.iter().filter(|word| !other.contains(word));
        own.filter(|word| !is_common(word)).cloned().collect()
    };
    let (in_a, in_b) = (only(&a, &b), only(&b, &a));
    let number = |word: &String| word.contains(|c: char| c.is_ascii_digit());
    if in_a.iter().chain(&in_b).any(number) {
        return false;
    }
    let paired = |word: &String| in_b.iter().any(|other| alike(word, other) >= 0.6);
    in_a.is_empty() || in_b.is_empty() || in_a.iter().all(paired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_numbers_and_names_are_other_facts() {
        let same = |a: &str, b: &str| same(a, b, 0.9);
        assert!(same(
            "What is the total amount?",
            "What is the total amount ?"
        ));
        assert!(same(
            "What are the opening hours?",
            "What are the openings hours?"
        ));
        for (a, b) in [
            ("The total amount is 9.90.", "The total amount is 9.00."),
            (
                "How many people voted for the party of the greens in 2017?",
                "How many people voted for the party of the reds in 2017?",
            ),
            ("What is the total?", "Who is the cashier?"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_duo_that_repeats_itself_or_a_fact() {
        let evidence = Evidence::new(["TOTAL 9.90", "Cash 9.90"]);
        let duo = |texts: [&str; 4]| Duo::from_texts(texts.map(str::to_owned));
        let good = duo([
            "What is the total?",
            "The total is 9.90.",
            "Which text shows the total?",
            "The line \"TOTAL 9.90\" shows it.",
        ]);
        let check = |duo: &Duo, kept: &[Duo]| is_new(duo, kept, &evidence, 0.9);
        assert_eq!(check(&good, &[]), Ok(()));
        let mut twice = good.clone();
        twice.self_explain_question = twice.extractive_question.clone();
        assert!(check(&twice, &[]).is_err());
        let mut twice = good.clone();
        twice.self_explain_answer = twice.extractive_answer.clone();
        assert!(check(&twice, &[]).is_err());
        let other_words = duo([
            "How much was charged in all?",
            "In all 9.90 was charged.",
            "Where can this be read?",
            "It is said by \"TOTAL 9.90\" in the image.",
        ]);
        assert!(check(&other_words, std::slice::from_ref(&good)).is_err());
        let mut other_line = other_words;
        other_line.self_explain_answer = "It is said by \"Cash 9.90\" in the image.".into();
        assert_eq!(check(&other_line, &[good]), Ok(()));
    }
}
