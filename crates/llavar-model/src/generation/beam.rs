//! Beam search.
//!
//! Each step extends every open beam by every id and looks at the best of them in order: one that ends
//! with a stop id becomes a finished answer if it is among the first `num_beams`, the others fill the
//! next beams. A finished answer scores the sum of its log-probabilities over its length (stop id
//! included) to the power `length_penalty`. The search ends when no open beam can still beat the worst of
//! `num_beams` finished answers, judged by the best open sum at the present length.
//!
//! # Source
//! `BeamSearchScorer` of transformers 4.45 with `early_stopping = false`.

use super::{
    GenerationOptions, Job, StopReason,
    sampling::{log_softmax, penalise},
    session::{Next, Session, Text, Want},
    stop::stop_string,
};
use crate::{LlavaModel, Result};

/// A finished or unfinished answer.
#[derive(Debug, Clone)]
pub(crate) struct Hypothesis {
    pub(crate) ids: Vec<u32>,
    /// Sum of log-probabilities over length to the power of the penalty.
    pub(crate) score: f64,
    pub(crate) stop_reason: StopReason,
}

#[derive(Debug, Clone)]
struct Beam {
    ids: Vec<u32>,
    sum: f64,
}

struct Candidate {
    parent: usize,
    id: u32,
    sum: f64,
}

/// One prompt and the continuations that share it, one a slot.
struct Beams<'a> {
    session: Session<'a>,
    job: &'a Job,
    slots: usize,
}

impl<'a> Beams<'a> {
    fn new(model: &'a LlavaModel, job: &'a Job, slots: usize) -> Result<Self> {
        Ok(Self {
            session: Session::new(model, slots, job.capacity(), None)?,
            job,
            slots,
        })
    }

    /// Reads the prompt into every sequence; logits of what follows, `[V]`.
    fn start(&mut self) -> Result<Vec<f32>> {
        let mut first = self.read(&[&[]])?;
        self.session.spread()?;
        Ok(first.pop().unwrap_or_default())
    }

    /// Reads one more id for each sequence; `answers` are the ids of each after the prompt, the new one
    /// included. Logits of what follows, `[V]` for each sequence.
    fn step(&mut self, answers: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        if self.session.turns(0) {
            // The frequencies of every past key change: all is computed again, as the reference does. A
            // sequence out of use gets some answer, so that its copy of the prompt is there.
            let texts: Vec<&[u32]> = (0..self.slots)
                .filter_map(|slot| answers.get(slot).or(answers.first()).copied())
                .collect();
            let mut next = self.read(&texts)?;
            next.truncate(answers.len());
            return Ok(next);
        }
        let last = answers.iter().filter_map(|ids| ids.last().copied());
        self.session.begin((0..).zip(last).collect())?;
        Ok(logits(self.session.step(Want::Logits)?.wait()?))
    }

    /// Makes sequence `i` a continuation of sequence `parents[i]`; those beyond stay out of use.
    fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        self.session.reorder(parents, self.job.prompt.len())
    }

    /// Reads the prompt and an answer into each of the first sequences.
    fn read(&mut self, answers: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let mut next = Vec::with_capacity(answers.len());
        for (slot, answer) in answers.iter().enumerate() {
            self.session.clear(slot);
            let text = Text {
                slot,
                prompt: &self.job.prompt,
                features: self.job.features.as_ref(),
                answer,
            };
            next.extend(logits(self.session.read(&[text], Want::Logits)?));
        }
        Ok(next)
    }
}

fn logits(next: Vec<Next>) -> Vec<Vec<f32>> {
    next.into_iter()
        .filter_map(|next| match next {
            Next::Logits(logits) => Some(logits),
            Next::Picked(..) => None,
        })
        .collect()
}

/// The best answer to a prompt.
pub(super) fn search(
    model: &LlavaModel,
    job: &Job,
    options: &GenerationOptions,
) -> Result<Hypothesis> {
    let (width, max_new, at_limit) = (options.num_beams, job.max_new, job.at_limit.clone());
    let mut session = Beams::new(model, job, width)?;
    let mut finished = Finished {
        best: Vec::new(),
        width,
    };
    let first = session.start()?;
    let mut beams = vec![Beam {
        ids: Vec::new(),
        sum: 0.0,
    }];
    let mut logits = vec![first];
    let mut done = false;
    for length in 1..=max_new {
        let candidates = best_candidates(&mut logits, &beams, options, width);
        let top_sum = candidates.first().map_or(f64::NEG_INFINITY, |c| c.sum);
        let (next, parents) = choose(&candidates, &beams, options, &mut finished, width, length);
        done = finished.is_done(top_sum, length, options.length_penalty);
        beams = next;
        if done || beams.is_empty() || length == max_new {
            break;
        }
        session.reorder(&parents)?;
        let answers: Vec<&[u32]> = beams.iter().map(|b| b.ids.as_slice()).collect();
        logits = session.step(&answers)?;
    }
    if !done {
        for beam in beams {
            let length = beam.ids.len();
            finished.add(
                beam.ids,
                beam.sum,
                length,
                options.length_penalty,
                at_limit.clone(),
            );
        }
    }
    let empty = Hypothesis {
        ids: Vec::new(),
        score: f64::NEG_INFINITY,
        stop_reason: at_limit,
    };
    Ok(finished.best.pop().unwrap_or(empty))
}

/// Walks through the candidates, best first: finished ones to `finished`, the others to the next beams.
fn choose(
    candidates: &[Candidate],
    beams: &[Beam],
    options: &GenerationOptions,
    finished: &mut Finished,
    width: usize,
    length: usize,
) -> (Vec<Beam>, Vec<usize>) {
    let (mut next, mut parents) = (Vec::with_capacity(width), Vec::with_capacity(width));
    for (rank, candidate) in candidates.iter().enumerate() {
        let mut ids = beams[candidate.parent].ids.clone();
        if options.stop_ids.contains(&candidate.id) {
            if rank < width {
                let reason = StopReason::StopId(candidate.id);
                finished.add(ids, candidate.sum, length, options.length_penalty, reason);
            }
            continue;
        }
        ids.push(candidate.id);
        if let Some(text) = stop_string(options, &ids) {
            if rank < width {
                let reason = StopReason::StopString(text);
                finished.add(ids, candidate.sum, length, options.length_penalty, reason);
            }
            continue;
        }
        next.push(Beam {
            ids,
            sum: candidate.sum,
        });
        parents.push(candidate.parent);
        if next.len() == width {
            break;
        }
    }
    (next, parents)
}

/// The best extensions of all beams, best first; enough of them that `width` remain when every stop id
/// takes its share.
fn best_candidates(
    logits: &mut [Vec<f32>],
    beams: &[Beam],
    options: &GenerationOptions,
    width: usize,
) -> Vec<Candidate> {
    let keep = (1 + options.stop_ids.len()).max(2) * width;
    let mut all = Vec::new();
    for (parent, (logits, beam)) in logits.iter_mut().zip(beams).enumerate() {
        log_softmax(logits, options.vocab_limit);
        penalise(logits, options.repetition_penalty, &beam.ids);
        let mut own: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .filter(|(_, p)| p.is_finite())
            .map(|(id, p)| Candidate {
                parent,
                id: id as u32,
                sum: beam.sum + f64::from(*p),
            })
            .collect();
        // No beam can give more than `keep` of the best `keep`.
        if own.len() > keep {
            own.select_nth_unstable_by(keep - 1, better);
            own.truncate(keep);
        }
        all.extend(own);
    }
    all.sort_unstable_by(better);
    all.truncate(keep);
    all
}

fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.sum
        .total_cmp(&a.sum)
        .then(a.parent.cmp(&b.parent))
        .then(a.id.cmp(&b.id))
}

/// The best finished answers, worst first.
struct Finished {
    best: Vec<Hypothesis>,
    width: usize,
}

impl Finished {
    fn add(
        &mut self,
        ids: Vec<u32>,
        sum: f64,
        length: usize,
        penalty: f32,
        stop_reason: StopReason,
    ) {
        let score = sum / (length.max(1) as f64).powf(f64::from(penalty));
        if self.best.len() >= self.width
            && self.best.first().is_some_and(|worst| score <= worst.score)
        {
            return;
        }
        // Of equal scores the later one wins, as there.
        let at = self.best.partition_point(|h| h.score <= score);
        self.best.insert(
            at,
            Hypothesis {
                ids,
                score,
                stop_reason,
            },
        );
        if self.best.len() > self.width {
            self.best.remove(0);
        }
    }

    fn is_done(&self, best_sum: f64, length: usize, penalty: f32) -> bool {
        let reachable = best_sum / (length as f64).powf(f64::from(penalty));
        self.best.len() >= self.width
            && self
                .best
                .first()
                .is_some_and(|worst| worst.score >= reachable)
    }
}
