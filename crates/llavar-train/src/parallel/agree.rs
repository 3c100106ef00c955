//! What ranks tell each other before a step: how much each has, whether it must stop, what went wrong.

use llavar_tensor::collective::Group;
use serde::{Deserialize, Serialize};

use crate::{TrainError, data::cuts::Cut, error::SampleFault};

/// What one rank says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Voice {
    /// Its stop flag is set.
    pub(crate) stop: bool,
    /// Why it cannot do the step.
    pub(crate) failed: Option<String>,
    /// Supervised tokens of its micro-batches.
    pub(crate) supervised: usize,
    /// Tokens of them, images counted in full.
    pub(crate) tokens: usize,
    /// Pictures of them.
    pub(crate) images: usize,
    /// For each of its micro-batches, whether there are pictures in it.
    pub(crate) with_images: Vec<bool>,
    /// Samples for which others stand in.
    pub(crate) faults: Vec<Fault>,
    /// Samples that were cut to fit.
    pub(crate) cuts: Vec<Cut>,
}

/// A [`SampleFault`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    index: usize,
    id: String,
    path: Option<std::path::PathBuf>,
    phase: String,
    reason: String,
}

/// What all ranks have said.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Somebody must stop.
    pub(crate) stop: bool,
    /// The first rank that cannot do the step, and why.
    pub(crate) failed: Option<(usize, String)>,
    pub(crate) supervised: usize,
    pub(crate) tokens: usize,
    pub(crate) images: usize,
    /// Micro-batches of all ranks.
    pub(crate) parts: usize,
    /// For each micro-batch of the rank that has the most, whether any rank has pictures in it.
    pub(crate) with_images: Vec<bool>,
    /// Samples that any rank could not use, in the order of the ranks.
    pub(crate) faults: Vec<SampleFault>,
    /// Samples that any rank has cut to fit.
    pub(crate) cuts: Vec<Cut>,
}

/// Tells the other ranks and hears them. One rank alone hears itself.
pub(crate) fn agree(group: &Group, voice: Voice) -> Result<Round, TrainError> {
    let voices = match group.size() {
        1 => vec![voice],
        _ => {
            let said = serde_json::to_vec(&voice).unwrap_or_default();
            let heard = group.exchange(&said)?;
            let parsed = heard.iter().map(|words| serde_json::from_slice(words));
            let parsed: Result<Vec<Voice>, _> = parsed.collect();
            parsed.map_err(|e| {
                TrainError::Tensor(llavar_tensor::Error::Collective {
                    op: "agreement of the ranks",
                    reason: format!("{e}; do all ranks run the same program?"),
                })
            })?
        }
    };
    let mut round = Round::default();
    for (rank, voice) in voices.into_iter().enumerate() {
        round.stop |= voice.stop;
        if let (None, Some(reason)) = (&round.failed, voice.failed) {
            round.failed = Some((rank, reason));
        }
        round.supervised += voice.supervised;
        round.tokens += voice.tokens;
        round.images += voice.images;
        round.parts += voice.with_images.len();
        for (part, images) in voice.with_images.into_iter().enumerate() {
            match round.with_images.get_mut(part) {
                Some(any) => *any |= images,
                None => round.with_images.push(images),
            }
        }
        round.cuts.extend(voice.cuts);
        round
            .faults
            .extend(voice.faults.into_iter().map(Fault::back));
    }
    Ok(round)
}

impl From<SampleFault> for Fault {
    fn from(fault: SampleFault) -> Self {
        Self {
            index: fault.index,
            id: fault.id,
            path: fault.path,
            phase: fault.phase.into(),
            reason: fault.reason,
        }
    }
}

impl Fault {
    fn back(self) -> SampleFault {
        let known = ["read", "encode", "image path", "image"];
        let phase = known.into_iter().find(|known| *known == self.phase);
        SampleFault {
            index: self.index,
            id: self.id,
            path: self.path,
            phase: phase.unwrap_or("read"),
            reason: self.reason,
        }
    }
}
