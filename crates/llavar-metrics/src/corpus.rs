//! Values of corpus metrics from statistics of rows: what each row is counted for once gives the value of any
//! part of a corpus.

use super::{Aggregate, Metric, Row, bleu, meteor, ngrams::Vocabulary, ptb};

/// What a row adds to the value of a corpus: whole numbers, so that their sums are exact in any order.
#[derive(Debug, Clone)]
pub struct CorpusStatistics(Counted);

#[derive(Debug, Clone)]
enum Counted {
    Bleu(bleu::Statistics),
    Meteor(meteor::Statistics),
}

impl CorpusStatistics {
    fn bleu(&self) -> Option<&bleu::Statistics> {
        match &self.0 {
            Counted::Bleu(statistics) => Some(statistics),
            Counted::Meteor(_) => None,
        }
    }

    fn meteor(&self) -> Option<&meteor::Statistics> {
        match &self.0 {
            Counted::Meteor(statistics) => Some(statistics),
            Counted::Bleu(_) => None,
        }
    }
}

impl Metric {
    /// Statistics of a row, which is tokenised with [`ptb`]; `None` for a metric whose aggregate is not
    /// [`Aggregate::Corpus`].
    pub fn corpus_statistics(self, row: Row<'_>) -> Option<CorpusStatistics> {
        if self.aggregate() != Aggregate::Corpus {
            return None;
        }
        ptb::with_tokenised(&[row], |rows| {
            let row = rows.first()?;
            let counted = match self {
                Self::MeteorExactStem => Counted::Meteor(meteor::Meteor::exact_stem().count(row)),
                // The same for every order.
                _ => Counted::Bleu(bleu::Statistics::of(row, &mut Vocabulary::default())),
            };
            Some(CorpusStatistics(counted))
        })
    }

    /// Value of the rows with these statistics, to the last bit that of [`Metric::evaluate`]; of a single row
    /// its score. 0 for no rows; statistics for another metric are left out.
    pub fn corpus_value<'s, I>(self, rows: I) -> f64
    where
        I: IntoIterator<Item = &'s CorpusStatistics>,
    {
        let rows = rows.into_iter();
        let bleu = |rows: I::IntoIter| bleu::corpus(rows.filter_map(CorpusStatistics::bleu));
        match self {
            Self::Bleu1 => bleu(rows)[0],
            Self::Bleu2 => bleu(rows)[1],
            Self::Bleu3 => bleu(rows)[2],
            Self::Bleu4 => bleu(rows)[3],
            Self::MeteorExactStem => meteor::corpus(rows.filter_map(CorpusStatistics::meteor)),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts of few words, so that rows are matched whole, in part and not at all.
    fn text() -> impl Strategy<Value = String> {
        "((the|a|red|cars?|sign)( (the|a|red|cars?|sign)){0,6})?"
    }

    proptest! {
        #[test]
        fn statistics_have_the_values_of_the_rows(
            texts in prop::collection::vec((text(), prop::collection::vec(text(), 0..4)), 0..6),
            left_out in 0usize..6,
        ) {
            let rows: Vec<Row<'_>> = texts
                .iter()
                .map(|(answer, references)| Row { answer, references })
                .collect();
            for metric in Metric::ALL {
                let counted: Vec<Option<CorpusStatistics>> =
                    rows.iter().map(|row| metric.corpus_statistics(*row)).collect();
                if metric.aggregate() != Aggregate::Corpus {
                    prop_assert!(counted.iter().all(Option::is_none));
                    continue;
                }
                let all = metric.evaluate(&rows);
                let value = metric.corpus_value(counted.iter().flatten());
                prop_assert_eq!(value.to_bits(), all.value.to_bits(), "{}", metric);
                for (one, score) in counted.iter().zip(&all.rows) {
                    let found = metric.corpus_value(one);
                    prop_assert_eq!(found.to_bits(), score.to_bits(), "{}", metric);
                }
                let keeps = |at: &usize| *at != left_out;
                let kept: Vec<Row<'_>> = (0..rows.len()).filter(keeps).map(|at| rows[at]).collect();
                let value = metric.corpus_value(
                    (0..rows.len()).filter(keeps).filter_map(|at| counted[at].as_ref()),
                );
                prop_assert_eq!(value.to_bits(), metric.evaluate(&kept).value.to_bits());
            }
        }
    }

    #[test]
    fn statistics_of_another_metric_are_left_out() {
        let references = ["a red car".to_owned()];
        let row = Row {
            answer: "a red sign",
            references: &references,
        };
        let bleu = Metric::Bleu1.corpus_statistics(row);
        let meteor = Metric::MeteorExactStem.corpus_statistics(row);
        assert!(Metric::Bleu2.corpus_value(&bleu) > 0.0);
        assert_eq!(Metric::Bleu2.corpus_value(&meteor), 0.0);
        assert_eq!(Metric::MeteorExactStem.corpus_value(&bleu), 0.0);
        assert_eq!(Metric::Anls.corpus_value(&bleu), 0.0);
    }
}
