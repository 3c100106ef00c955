//! Every metric by name.

use std::{fmt, str::FromStr};

use super::{
    Row, anls, bleu, chartqa, cider_d, meteor, multimodal_ocr, multimodal_ocr::Protocol, ocrbench,
    ptb, rouge_l, textvqa_m4c, token_f1, whole_words,
};

/// A metric that rows can be scored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// MultimodalOCR containment of questions, see [`multimodal_ocr`].
    MultimodalOcrVqa,
    /// MultimodalOCR containment of word pictures, see [`multimodal_ocr`].
    MultimodalOcrRecognition,
    /// MultimodalOCR containment of Chinese text, see [`multimodal_ocr`].
    MultimodalOcrChinese,
    /// MultimodalOCR containment of formulas, see [`multimodal_ocr`].
    MultimodalOcrFormula,
    /// OCRBench containment, see [`ocrbench`].
    OcrBench,
    /// OCRBench containment of HME100k, see [`ocrbench`].
    OcrBenchFormula,
    /// ANLS of the competition's script, see [`anls`].
    Anls,
    /// ANLS of the PyPI package, see [`anls`].
    AnlsPypi,
    /// TextVQA soft accuracy, see [`textvqa_m4c`].
    TextVqaM4c,
    /// ChartQA relaxed accuracy, see [`chartqa`].
    ChartQaRelaxed,
    /// SQuAD's F1 of words, see [`token_f1`].
    TokenF1,
    /// Containment of whole words, see [`whole_words`].
    WholeWords,
    /// BLEU-1, see [`mod@bleu`].
    Bleu1,
    /// BLEU-2, see [`mod@bleu`].
    Bleu2,
    /// BLEU-3, see [`mod@bleu`].
    Bleu3,
    /// BLEU-4, see [`mod@bleu`].
    Bleu4,
    /// METEOR with exact and stem matches, see [`meteor`].
    MeteorExactStem,
    /// ROUGE-L, see [`mod@rouge_l`].
    RougeL,
    /// CIDEr-D, see [`mod@cider_d`].
    CiderD,
}

/// How the scores of rows become one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Mean of the rows.
    Mean,
    /// Sum of the rows: OCRBench counts right answers.
    Sum,
    /// From statistics of all rows together: not a function of the rows' scores.
    Corpus,
}

/// Scores of rows and the value of all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// One score a row, in order.
    pub rows: Vec<f64>,
    /// The value by the metric's [`Aggregate`]; 0 for no rows.
    pub value: f64,
}

/// No metric has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no metric is called `{name}`; there are {}", Metric::names().join(", "))]
pub struct UnknownMetric {
    /// The name asked for.
    pub name: String,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 19] = [
        Self::MultimodalOcrVqa,
        Self::MultimodalOcrRecognition,
        Self::MultimodalOcrChinese,
        Self::MultimodalOcrFormula,
        Self::OcrBench,
        Self::OcrBenchFormula,
        Self::Anls,
        Self::AnlsPypi,
        Self::TextVqaM4c,
        Self::ChartQaRelaxed,
        Self::TokenF1,
        Self::WholeWords,
        Self::Bleu1,
        Self::Bleu2,
        Self::Bleu3,
        Self::Bleu4,
        Self::MeteorExactStem,
        Self::RougeL,
        Self::CiderD,
    ];

    /// Name in result files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MultimodalOcrVqa => "multimodal_ocr_vqa",
            Self::MultimodalOcrRecognition => "multimodal_ocr_recognition",
            Self::MultimodalOcrChinese => "multimodal_ocr_chinese",
            Self::MultimodalOcrFormula => "multimodal_ocr_formula",
            Self::OcrBench => "ocrbench",
            Self::OcrBenchFormula => "ocrbench_formula",
            Self::Anls => "anls",
            Self::AnlsPypi => "anls_pypi",
            Self::TextVqaM4c => "textvqa_m4c",
            Self::ChartQaRelaxed => "chartqa_relaxed",
            Self::TokenF1 => "token_f1",
            Self::WholeWords => "whole_words",
            Self::Bleu1 => "bleu_1",
            Self::Bleu2 => "bleu_2",
            Self::Bleu3 => "bleu_3",
            Self::Bleu4 => "bleu_4",
            Self::MeteorExactStem => "meteor_exact_stem",
            Self::RougeL => "rouge_l",
            Self::CiderD => "cider_d",
        }
    }

    /// All names, in the order of [`Self::ALL`].
    pub fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|metric| metric.name()).collect()
    }

    /// Version of the definition; part of a result.
    ///
    /// Caption metrics add the tokeniser's version, in thousands: a change of either is another metric.
    pub const fn version(self) -> u32 {
        match self {
            Self::MultimodalOcrVqa
            | Self::MultimodalOcrRecognition
            | Self::MultimodalOcrChinese
            | Self::MultimodalOcrFormula => multimodal_ocr::VERSION,
            Self::OcrBench | Self::OcrBenchFormula => ocrbench::VERSION,
            Self::Anls | Self::AnlsPypi => anls::VERSION,
            Self::TextVqaM4c => textvqa_m4c::VERSION,
            Self::ChartQaRelaxed => chartqa::VERSION,
            Self::TokenF1 => token_f1::VERSION,
            Self::WholeWords => whole_words::VERSION,
            Self::Bleu1 | Self::Bleu2 | Self::Bleu3 | Self::Bleu4 => {
                1000 * ptb::VERSION + bleu::VERSION
            }
            Self::MeteorExactStem => 1000 * ptb::VERSION + meteor::VERSION,
            Self::RougeL => 1000 * ptb::VERSION + rouge_l::VERSION,
            Self::CiderD => 1000 * ptb::VERSION + cider_d::VERSION,
        }
    }

    /// How rows become one value.
    pub const fn aggregate(self) -> Aggregate {
        match self {
            Self::OcrBench | Self::OcrBenchFormula => Aggregate::Sum,
            Self::Bleu1 | Self::Bleu2 | Self::Bleu3 | Self::Bleu4 | Self::MeteorExactStem => {
                Aggregate::Corpus
            }
            _ => Aggregate::Mean,
        }
    }

    /// Score of one row by itself; `None` for CIDEr-D, whose weights come from all rows.
    pub fn score(self, row: Row<'_>) -> Option<f64> {
        match self {
            Self::CiderD => None,
            _ => self.evaluate(&[row]).rows.first().copied(),
        }
    }

    /// Scores of `rows` and the value of all of them. Caption metrics tokenise with [`ptb`].
    pub fn evaluate(self, rows: &[Row<'_>]) -> Evaluation {
        let containment = |protocol| {
            self.aggregated(rows, |row| {
                f64::from(multimodal_ocr::contains(
                    protocol,
                    row.answer,
                    row.references,
                ))
            })
        };
        match self {
            Self::MultimodalOcrVqa => containment(Protocol::Vqa),
            Self::MultimodalOcrRecognition => containment(Protocol::Recognition),
            Self::MultimodalOcrChinese => containment(Protocol::Chinese),
            Self::MultimodalOcrFormula => containment(Protocol::Formula),
            Self::OcrBench => self.aggregated(rows, |row| {
                f64::from(ocrbench::contains(row.answer, row.references))
            }),
            Self::OcrBenchFormula => self.aggregated(rows, |row| {
                f64::from(ocrbench::formula_contains(row.answer, row.references))
            }),
            Self::Anls => self.aggregated(rows, |row| anls::rrc(row.answer, row.references)),
            Self::AnlsPypi => self.aggregated(rows, |row| anls::pypi(row.answer, row.references)),
            Self::TextVqaM4c => self.aggregated(rows, |row| {
                textvqa_m4c::accuracy(row.answer, row.references)
            }),
            Self::ChartQaRelaxed => self.aggregated(rows, |row| {
                f64::from(chartqa::relaxed_correct(row.answer, row.references))
            }),
            Self::TokenF1 => self.aggregated(rows, |row| token_f1::f1(row.answer, row.references)),
            Self::WholeWords => self.aggregated(rows, |row| {
                let found = |gold: &String| whole_words::contains_words(row.answer, gold);
                f64::from(row.references.iter().any(found))
            }),
            Self::Bleu1 => bleu_of_order(rows, 1),
            Self::Bleu2 => bleu_of_order(rows, 2),
            Self::Bleu3 => bleu_of_order(rows, 3),
            Self::Bleu4 => bleu_of_order(rows, 4),
            Self::MeteorExactStem => ptb::with_tokenised(rows, |rows| {
                let meteor = meteor::Meteor::exact_stem().evaluate(rows);
                Evaluation {
                    rows: meteor.rows,
                    value: meteor.corpus,
                }
            }),
            Self::RougeL => ptb::with_tokenised(rows, |rows| {
                self.aggregated(rows, |row| rouge_l::rouge_l(row.answer, row.references))
            }),
            Self::CiderD => ptb::with_tokenised(rows, |rows| {
                let scores = cider_d::cider_d(rows);
                Evaluation {
                    value: mean(&scores),
                    rows: scores,
                }
            }),
        }
    }

    fn aggregated(self, rows: &[Row<'_>], score: impl Fn(&Row<'_>) -> f64) -> Evaluation {
        let rows: Vec<f64> = rows.iter().map(score).collect();
        let value = match self.aggregate() {
            Aggregate::Sum => rows.iter().sum(),
            _ => mean(&rows),
        };
        Evaluation { rows, value }
    }
}

fn bleu_of_order(rows: &[Row<'_>], n: usize) -> Evaluation {
    ptb::with_tokenised(rows, |rows| {
        let bleu = bleu::bleu(rows);
        Evaluation {
            rows: bleu.rows.iter().map(|scores| scores[n - 1]).collect(),
            value: bleu.corpus[n - 1],
        }
    })
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| UnknownMetric {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_read_back() {
        for metric in Metric::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        let error = "anlz".parse::<Metric>().expect_err("no such metric");
        assert!(error.to_string().contains("anls_pypi"), "{error}");
    }

    #[test]
    fn rules_of_aggregation() {
        let references = ["a b c d e".to_owned()];
        let right = Row {
            answer: "a b c d e",
            references: &references,
        };
        let wrong = Row {
            answer: "x",
            references: &references,
        };
        for metric in Metric::ALL {
            let both = metric.evaluate(&[right, wrong]);
            assert_eq!(both.rows.len(), 2, "{metric}");
            assert!(both.rows[0] >= both.rows[1], "{metric}");
            let sum = both.rows[0] + both.rows[1];
            match metric.aggregate() {
                Aggregate::Mean => assert_eq!(both.value, sum / 2.0, "{metric}"),
                Aggregate::Sum => assert_eq!(both.value, sum, "{metric}"),
                Aggregate::Corpus => assert_ne!(both.value, sum / 2.0, "{metric}"),
            }
            assert_eq!(
                metric.evaluate(&[]),
                Evaluation {
                    rows: vec![],
                    value: 0.0
                }
            );
        }
        assert_eq!(Metric::CiderD.score(right), None);
        assert_eq!(Metric::OcrBench.score(right), Some(1.0));
    }
}
