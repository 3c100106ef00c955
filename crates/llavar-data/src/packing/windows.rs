//! Packing of large sets: window by window of a random order, in the better of two ways.

use super::{pack, sums::pack_by_sums};
use crate::error::Error;
use crate::sampler::epoch_permutation;

/// Samples that are packed together: enough for packs that are full, few enough for little memory.
pub const PACK_WINDOW: usize = 1 << 15;

/// Beyond this budget packs hold so many samples that first-fit-decreasing fills them.
const MOST_SUMS: usize = 1 << 16;

/// Packs of a whole set, flat.
///
/// # Units
/// 4 bytes a sample and 4 a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packs {
    members: Vec<u32>,
    /// Where each pack begins in `members`, and the end of the last.
    starts: Vec<u32>,
    /// Tokens that a pack may hold.
    pub budget: usize,
    /// Tokens of all packed samples.
    pub tokens: u64,
    /// Samples longer than the budget; they are in no pack.
    pub too_long: Vec<usize>,
}

impl Packs {
    /// Number of packs.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no pack.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of the samples of a pack; empty beyond the end.
    pub fn get(&self, pack: usize) -> &[u32] {
        match self.starts.get(pack..).unwrap_or_default() {
            [start, end, ..] => &self.members[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// Share of the budget of all packs that is filled, 0 to 1 (0 without packs).
    pub fn utilisation(&self) -> f64 {
        match self.len() {
            0 => 0.0,
            packs => self.tokens as f64 / (packs as f64 * self.budget as f64),
        }
    }
}

/// Packs `members` (sample numbers) by `lengths[member]` (tokens, images expanded) into packs of at most
/// `budget` tokens. A length of 0 leaves a sample out. Samples, and so images, are never split.
///
/// The members are brought into a random order and packed window by window, first-fit-decreasing or by
/// subset sums, whichever needs fewer packs, so that a pack holds samples
/// from anywhere in the set and time and memory stay in proportion to the set.
///
/// # Errors
/// [`Error::Invalid`] for a zero budget, a member without length, or more than 2^32 members.
///
/// # Determinism
/// A function of the arguments alone.
pub fn pack_in_windows(
    members: &[u32],
    lengths: &[u32],
    budget: usize,
    seed: u64,
) -> Result<Packs, Error> {
    let invalid = |reason: String| Error::Invalid {
        what: "packing",
        reason,
    };
    if u32::try_from(members.len()).is_err() {
        return Err(invalid(format!("{} samples are too many", members.len())));
    }
    let mut packs = Packs {
        members: Vec::with_capacity(members.len()),
        starts: vec![0],
        budget,
        tokens: 0,
        too_long: Vec::new(),
    };
    let order = epoch_permutation(members.len(), seed, 0);
    for window in order.chunks(PACK_WINDOW) {
        let mut present: Vec<u32> = Vec::with_capacity(window.len());
        let mut sizes: Vec<usize> = Vec::with_capacity(window.len());
        for &place in window {
            let member = members[place];
            let length = lengths
                .get(member as usize)
                .ok_or_else(|| invalid(format!("sample number {member} has no length")))?;
            if *length > 0 {
                present.push(member);
                sizes.push(*length as usize);
            }
        }
        let plan = pack(&sizes, budget)?;
        let too_long = plan.too_long.iter().map(|&i| present[i] as usize);
        packs.too_long.extend(too_long);
        packs.tokens += plan.tokens as u64;
        let mut chosen = plan.packs;
        // Where nothing can be won, nothing is tried.
        if budget <= MOST_SUMS && plan.tokens.div_ceil(budget) < chosen.len() {
            let fits: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] <= budget).collect();
            let fitting: Vec<usize> = fits.iter().map(|&i| sizes[i]).collect();
            let other = pack_by_sums(&fitting, budget);
            if other.len() < chosen.len() {
                chosen = other;
                chosen.iter_mut().flatten().for_each(|i| *i = fits[*i]);
            }
        }
        for pack in &chosen {
            packs.members.extend(pack.iter().map(|&i| present[i]));
            packs.starts.push(packs.members.len() as u32);
        }
    }
    Ok(packs)
}
