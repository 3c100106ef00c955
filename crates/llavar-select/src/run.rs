//! Scoring a whole data set: samples are read and decoded ahead in a thread of their own.

use std::{collections::HashMap, ops::ControlFlow, sync::mpsc::sync_channel, thread};

use llavar_data::{Dataset, Error as DataError};
use llavar_eval::samples::Shard;
use rayon::prelude::*;

use crate::{
    Journal, Pair, PairKind, Prepared, RowKey, ScoreRow, Scorer, SeenPictures, SelectError,
    journal::Entry,
    pairs, pictures,
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
    /// To be scored: number of the sample, and the mark of its pictures.
    New(usize, Prepared, Option<String>),
}

/// Scores the samples of `shard`, those in the journal excepted. The rows of a pass, or of a sample on a
/// server, go to the journal as soon as they are there. `observe` is called whenever the samples read
/// together are done and may stop the run.
///
/// Rows with a reason are tried again, and so are rows whose text or picture files have changed.
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
    let finished: HashMap<RowKey, Entry> = journal
        .entries()
        .filter(|entry| entry.row.reason.is_none())
        .map(|entry| (entry.row.key(), entry.clone()))
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
                            // Before they are decoded: a change in between is noticed the next time.
                            let sees = scorer.options().scores.needs_images();
                            let mark = sees.then(|| pictures::mark(data, i, &sample)).flatten();
                            let mark = mark.as_deref();
                            Ok(
                                match taken_over(scorer, &sample, i, occurrence, mark, finished) {
                                    Some(rows) => Work::Known(rows),
                                    None => {
                                        let source_of = |nth| data.image(i, &sample, nth);
                                        let prepared =
                                            scorer.prepare(&sample, i, occurrence, source_of);
                                        Work::New(i, prepared, mark.map(str::to_owned))
                                    }
                                },
                            )
                        }
                        Err(error @ DataError::Sample { .. }) => {
                            Ok(Work::New(i, bad_record(&error, i, id, occurrence), None))
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
            let (mut new, mut marks) = (Vec::new(), HashMap::new());
            let work = work?;
            let samples = work.len();
            for work in work {
                match work {
                    Work::Known(rows) => {
                        run.view.resumed += rows.len();
                        run.rows.extend(rows);
                    }
                    Work::New(record, prepared, mark) => {
                        marks.insert(record as u64, mark);
                        new.push(prepared);
                    }
                }
            }
            if !new.is_empty() {
                scorer.score_each(new, &mut seen, &mut |_, rows| {
                    let entry = |row: &ScoreRow| Entry {
                        row: row.clone(),
                        pictures: marks.get(&row.record).cloned().flatten(),
                    };
                    journal.append(rows.iter().map(entry).collect())?;
                    run.view.pairs += rows.len();
                    run.view.with_reason += rows.iter().filter(|row| row.reason.is_some()).count();
                    run.rows.extend(rows);
                    Ok(())
                })?;
                // Not for every pass: a disk that takes its time would hold up the model.
                journal.sync()?;
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
    mark: Option<&str>,
    finished: &HashMap<RowKey, Entry>,
) -> Option<Vec<ScoreRow>> {
    let place = Place::of(sample, record, occurrence);
    let pairs = pairs(sample, scorer.options().duos);
    pairs
        .iter()
        .map(|pair| {
            let key = (place.id.clone(), occurrence, pair.qa_id as u32);
            let Entry { row, pictures } = finished.get(&key)?;
            // Only marks on both sides can differ: a picture that is gone voids nothing, nor does an old journal.
            if mark
                .zip(pictures.as_deref())
                .is_some_and(|(now, then)| now != then)
            {
                return None;
            }
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
