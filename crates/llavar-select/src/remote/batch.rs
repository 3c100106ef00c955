//! Samples asked side by side; each is given back as soon as its last answer is there.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::channel,
    },
    thread,
};

use super::{RemoteModel, RemotePrompt, Scored};
use crate::{Losses, Prepared, ScoreRow, SelectError, scorer::Done};

/// A sample with the answers that have come so far.
struct Open {
    rows: Vec<ScoreRow>,
    /// In the order of its prompts.
    answers: Vec<Option<Scored>>,
    left: usize,
}

impl RemoteModel {
    /// The rows of prepared samples, to `done` by sample as they come. What the server refuses is a reason; a
    /// server that cannot be used at all ends the run.
    pub(crate) fn score(
        &self,
        prepared: Vec<Prepared>,
        limit: Option<usize>,
        done: Done<'_>,
    ) -> Result<(), SelectError> {
        let (mut open, mut prompts) = (Vec::new(), Vec::new());
        for (sample, prepared) in prepared.into_iter().enumerate() {
            let left = prepared.prompts.len();
            let mut own = Open {
                rows: prepared.rows,
                answers: vec![None; left],
                left,
            };
            if left == 0 {
                done(sample, own.close(&[]))?;
            }
            open.push(own);
            prompts.push(prepared.prompts);
        }
        let of_all = prompts.iter().enumerate();
        let all: Vec<(usize, usize, &RemotePrompt)> = of_all
            .flat_map(|(sample, own)| {
                let own = own.iter().enumerate();
                own.map(move |(nth, prompt)| (sample, nth, prompt))
            })
            .collect();
        let (all, next) = (&all, &AtomicUsize::new(0));
        let mut failed = None;
        thread::scope(|scope| {
            let (send, receive) = channel();
            for _ in 0..self.workers.min(all.len()) {
                let send = send.clone();
                scope.spawn(move || {
                    while let Some((sample, nth, prompt)) = all.get(next.fetch_add(1, Relaxed)) {
                        let answer = self.ask(prompt, limit);
                        if answer.is_err() {
                            next.store(all.len(), Relaxed);
                        }
                        if send.send((*sample, *nth, answer)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            // Those under way when something fails are still taken in.
            for (sample, nth, answer) in receive {
                let own = &mut open[sample];
                let ended = match answer {
                    Ok(answer) => {
                        own.answers[nth] = Some(answer);
                        own.left -= 1;
                        match own.left {
                            0 => done(sample, own.close(&prompts[sample])),
                            _ => Ok(()),
                        }
                    }
                    Err(error) => Err(SelectError::Server(error)),
                };
                if let Err(error) = ended {
                    next.store(all.len(), Relaxed);
                    failed.get_or_insert(error);
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }
}

impl Open {
    /// Its rows with what was measured; of several reasons that of the first prompt stays.
    fn close(&mut self, prompts: &[RemotePrompt]) -> Vec<ScoreRow> {
        let mut rows = std::mem::take(&mut self.rows);
        let mut losses = vec![Losses::default(); rows.len()];
        for (prompt, answer) in prompts.iter().zip(self.answers.drain(..)) {
            match answer {
                Some(Ok((mean, tokens))) => losses[prompt.pair].set(prompt.loss, mean, tokens),
                Some(Err(reason)) => {
                    rows[prompt.pair].reason.get_or_insert(reason);
                }
                None => {}
            }
        }
        for (row, losses) in rows.iter_mut().zip(&losses) {
            row.fill(losses);
        }
        rows
    }
}
