//! Scoring a whole data set: samples are read and decoded ahead in a thread of their own.

use std::{collections::HashMap, ops::ControlFlow, sync::mpsc::sync_channel, thread};

use llavar_data::{Dataset, Error as DataError};
use llavar_eval::samples::Shard;
use rayon::prelude::*;

use crate::{
    Journal, Pair, PairKind, Prepared, RowKey, ScoreRow, Scorer, SeenPictures, SelectError, pairs,
    row::{Place, content},
    scorer::chain,
};

/// Samples that are read and decoded together.
const READ_AT_ONCE: usize = 32;

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunView {
    /// Samples of this run's part.
    pub samples: usize,
    /// Samples done, those of earlier runs included.
    pub done: usize,
    /// Pairs scored by this run.
    pub pairs: usize,
    /// Pairs taken over from the journal.
    pub resumed: usize,
    /// Pairs of this run with a reason instead of some score.
    pub with_reason: usize,
    /// Pictures that went through the vision tower.
    pub pictures: usize,
}

/// What a run gives.
#[derive(Debug)]
pub struct ScoreRun {
    /// Rows of this part of the data set, in its order; whole only if the run was not stopped.
    pub rows: Vec<ScoreRow>,
    /// How far it went.
    pub view: RunView,
    /// Whether `observe` stopped it.
    pub stopped: bool,
}

/// A sample on its way to the model.
enum Work {
    /// Rows of an earlier run.
    Known(Vec<ScoreRow>),
    /// To be scored.
    New(Prepared),
}

/// Scores the samples of `shard`, those in the journal excepted. `observe` is called after every batch
/// and may stop the run; everything scored is then in the journal.
///
/// Rows with a reason are tried again, and so are rows whose text has changed.
///
/// # Errors
/// When the data set or the journal fail, or the model. Faults of single samples are rows with a reason.
pub fn score_dataset(
    scorer: &Scorer<'_>,
    data: &Dataset,
    shard: Shard,
    journal: &mut Journal,
    observe: &mut dyn FnMut(&RunView) -> ControlFlow<()>,
) -> Result<ScoreRun, SelectError> {
    let part = shard.range(data.len());
    let mut run = ScoreRun {
        rows: Vec::new(),
        view: RunView {
            samples: part.len(),
            ..RunView::default()
        },
        stopped: false,
    };
    let mut seen = SeenPictures::default();
    // The reader must not hold the journal while rows are appended.
    let finished: HashMap<RowKey, ScoreRow> = journal
        .rows()
        .filter(|row| row.reason.is_none())
        .map(|row| (row.key(), row.clone()))
        .collect();
    let (send, receive) = sync_channel::<Result<Vec<Work>, SelectError>>(2);
    thread::scope(|scope| {
        let finished = &finished;
        scope.spawn(move || {
            let mut occurrences = HashMap::new();
            let mut start = 0;
            while start < part.end {
                let end = (start + READ_AT_ONCE).min(part.end);
                let read: Vec<_> = (start..end).map(|i| (i, data.get(i))).collect();
                let numbered = read.into_iter().map(|(i, sample)| {
                    let id = sample.as_ref().map(|sample| sample.id.to_string());
                    let id = id.unwrap_or_else(id_of);
                    let count = occurrences.entry(id.clone()).or_insert(0u32);
                    *count += 1;
                    (i, sample, id, *count - 1)
                });
                let numbered: Vec<_> = numbered.filter(|(i, ..)| *i >= part.start).collect();
                start = end;
                if numbered.is_empty() {
                    continue;
                }
                let work: Result<Vec<Work>, SelectError> = numbered
                    .into_par_iter()
                    .map(|(i, sample, id, occurrence)| match sample {
                        Ok(sample) => {
                            Ok(match taken_over(scorer, &sample, i, occurrence, finished) {
                                Some(rows) => Work::Known(rows),
                                None => {
                                    let source_of = |nth| data.image(i, &sample, nth);
                                    Work::New(scorer.prepare(&sample, i, occurrence, source_of))
                                }
                            })
                        }
                        Err(error @ DataError::Sample { .. }) => {
                            Ok(Work::New(bad_record(&error, i, id, occurrence)))
                        }
                        Err(error) => Err(error.into()),
                    })
                    .collect();
                let failed = work.is_err();
                // Nobody listens any more when the run was stopped.
                if send.send(work).is_err() || failed {
                    return;
                }
            }
        });
        for work in receive {
            let mut new = Vec::new();
            let work = work?;
            let samples = work.len();
            for work in work {
                match work {
                    Work::Known(rows) => {
                        run.view.resumed += rows.len();
                        run.rows.extend(rows);
                    }
                    Work::New(prepared) => new.push(prepared),
                }
            }
            if !new.is_empty() {
                let rows = scorer.score(new, &mut seen)?;
                journal.append(&rows)?;
                run.view.pairs += rows.len();
                run.view.with_reason += rows.iter().filter(|row| row.reason.is_some()).count();
                run.rows.extend(rows);
            }
            run.view.done += samples;
            run.view.pictures = seen.encoded();
            if observe(&run.view).is_break() && run.view.done < run.view.samples {
                run.stopped = true;
                break;
            }
        }
        if !run.stopped && run.view.done < run.view.samples {
            return Err(SelectError::Reader);
        }
        run.rows.sort_by_key(|row| (row.record, row.qa_id));
        Ok(run)
    })
}

/// The rows of a sample that earlier runs have scored whole, with its present place in the file.
fn taken_over(
    scorer: &Scorer<'_>,
    sample: &llavar_data::Sample,
    record: usize,
    occurrence: u32,
    finished: &HashMap<RowKey, ScoreRow>,
) -> Option<Vec<ScoreRow>> {
    let place = Place::of(sample, record, occurrence);
    let pairs = pairs(sample, scorer.options().duos);
    pairs
        .iter()
        .map(|pair| {
            let key = (place.id.clone(), occurrence, pair.qa_id as u32);
            let row = finished.get(&key)?;
            // A pair that is the second of a duo no longer, or only now, has other scores.
            let same = row.kind == pair.kind && row.content == content(&place.images, pair);
            same.then(|| ScoreRow {
                record: place.record,
                source: place.source.clone(),
                ..row.clone()
            })
        })
        .collect()
}

fn id_of(error: &DataError) -> String {
    match error {
        DataError::Sample { at, .. } => at.id.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

fn bad_record(error: &DataError, record: usize, id: String, occurrence: u32) -> Prepared {
    let place = Place {
        record: record as u64,
        id,
        occurrence,
        images: Vec::new(),
        source: String::new(),
    };
    let pair = Pair {
        qa_id: 0,
        kind: PairKind::Single,
        question: String::new(),
        answer: None,
    };
    Prepared::unreadable(ScoreRow::unscored(&place, &pair), chain(error))
}
