//! Properties of the metrics on any text.

use llavar_metrics::{
    Metric, Row, anls, bleu::bleu, meteor::Meteor, multimodal_ocr, ocrbench, ptb, rouge_l::rouge_l,
};
use proptest::prelude::*;

/// Any text, or text of the characters that the normalisations turn on.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-cA-C0-2 .,'\"?!%$()\\[\\]/<>&;:=@\\-\n\t\u{1c}\u{a0}ßİσΣ中१²\u{93e}\u{2019}]{0,40}",
        "(the|a|an|dont|ten|U\\.S\\.|No\\. 5|cannot|'twas|n't|1,000|5%|_1|inf|nan)( (the|dogs?|1_0|x\\.|It))*",
    ]
}

fn words() -> impl Strategy<Value = String> {
    "[a-e]{1,2}( [a-e]{1,2}){0,12}"
}

/// Largest score of a metric.
fn highest(metric: Metric) -> f64 {
    if metric == Metric::CiderD { 10.0 } else { 1.0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_text_panics_and_scores_are_bounded(
        answers in prop::collection::vec((any_text(), prop::collection::vec(any_text(), 0..3)), 0..3),
    ) {
        let rows: Vec<Row<'_>> = answers
            .iter()
            .map(|(answer, references)| Row { answer, references })
            .collect();
        for metric in Metric::ALL {
            let evaluation = metric.evaluate(&rows);
            prop_assert_eq!(evaluation.rows.len(), rows.len());
            for score in evaluation.rows {
                prop_assert!((-1e-9..=highest(metric) + 1e-9).contains(&score), "{} {}", metric, score);
            }
            prop_assert!(evaluation.value.is_finite());
        }
    }

    #[test]
    fn anls_is_symmetric_and_its_readings_agree_away_from_the_threshold(a in words(), b in words()) {
        let (x, y) = (anls::rrc(&a, &[&b]), anls::rrc(&b, &[&a]));
        prop_assert_eq!(x, y);
        prop_assert!(x == 0.0 || (anls::THRESHOLD..=1.0).contains(&x));
        let z = anls::pypi(&a, &[&b]);
        // Words with single spaces: both readings have the same length.
        prop_assert!(z == x || x == anls::THRESHOLD && z == 0.0);
        prop_assert_eq!(anls::rrc(&a, &[&a]), 1.0);
    }

    #[test]
    fn anls_is_the_plain_edit_distance(a in any_text(), b in any_text()) {
        let normal = |text: &str| -> Vec<char> {
            let lowered = text.to_lowercase();
            let words: Vec<&str> = lowered
                .split(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
                .filter(|word| !word.is_empty())
                .collect();
            words.join(" ").chars().collect()
        };
        let (x, y) = (normal(&a), normal(&b));
        let length = x.len().max(y.len());
        let ratio = if length == 0 { 0.0 } else { edit_distance(&x, &y) as f64 / length as f64 };
        let expected = if ratio < 0.5 { 1.0 - ratio } else { 0.0 };
        prop_assert_eq!(anls::pypi(&a, &[&b]), expected);
    }

    #[test]
    fn a_further_reference_never_lowers_the_score(a in any_text(), b in any_text(), c in any_text()) {
        for metric in [
            Metric::MultimodalOcrVqa, Metric::MultimodalOcrRecognition, Metric::MultimodalOcrChinese,
            Metric::MultimodalOcrFormula, Metric::OcrBench, Metric::OcrBenchFormula, Metric::Anls,
            Metric::AnlsPypi, Metric::ChartQaRelaxed, Metric::TokenF1, Metric::WholeWords, Metric::RougeL,
            Metric::MeteorExactStem,
        ] {
            let (one, two) = ([b.clone()], [b.clone(), c.clone()]);
            let less = metric.score(Row { answer: &a, references: &one });
            let more = metric.score(Row { answer: &a, references: &two });
            prop_assert!(less <= more, "{}", metric);
        }
    }

    #[test]
    fn identity_has_the_highest_score(text in words(), other in words()) {
        let (own, others) = ([text.clone()], [other.clone()]);
        let row = Row { answer: &text, references: &own };
        let scores = bleu(&[row]).rows[0];
        prop_assert!((scores[0] - 1.0).abs() < 1e-6);
        prop_assert_eq!(rouge_l(&text, &own), 1.0);
        prop_assert!((Meteor::exact_stem().evaluate(&[row]).rows[0] - 1.0).abs() < 1e-12);
        let different = Row { answer: &text, references: &others };
        prop_assert!(bleu(&[different]).rows[0][0] <= scores[0]);
    }

    #[test]
    fn ocrbench_finds_what_is_inside(before in any_text(), inside in "[a-z]{1,8}", after in any_text()) {
        let answer = format!("{before}{inside}{after}");
        prop_assert!(ocrbench::contains(&answer, &[&inside]));
    }

    #[test]
    fn whole_words_are_found_between_spaces(before in words(), inside in "[f-z]{2,8}", after in words()) {
        let answer = format!("{before} {inside} {after}");
        let twice = [format!("{inside}{inside}")];
        for protocol in [multimodal_ocr::Protocol::Vqa, multimodal_ocr::Protocol::Recognition] {
            // `ten` is 10 on both sides, `whos` is who's: the same rules apply to both.
            prop_assert!(multimodal_ocr::contains(protocol, &answer, &[&inside]));
            prop_assert!(!multimodal_ocr::contains(protocol, &answer, &twice));
        }
    }

    #[test]
    fn tokens_keep_every_letter(text in "[a-zA-Z ,]{0,40}") {
        let letters = |text: &str| -> String {
            text.chars().filter(|c| c.is_alphabetic()).collect::<String>().to_lowercase()
        };
        prop_assert_eq!(letters(&ptb::tokens(&text).concat()), letters(&text));
        prop_assert!(!ptb::tokenise(&text).contains(','));
    }
}

fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
