//! First-fit-decreasing packing of whole samples.

use crate::error::Error;

/// Which samples share a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackPlan {
    /// Sample numbers of each pack; in a pack, longest first.
    pub packs: Vec<Vec<usize>>,
    /// Samples longer than the budget, in order; they are in no pack.
    pub too_long: Vec<usize>,
    /// Tokens that a pack may hold.
    pub budget: usize,
    /// Tokens of all packed samples.
    pub tokens: usize,
}

impl PackPlan {
    /// Share of the budget of all packs that is filled, 0 to 1 (0 without packs).
    pub fn utilisation(&self) -> f64 {
        let room = self.packs.len() as f64 * self.budget as f64;
        if room > 0.0 {
            self.tokens as f64 / room
        } else {
            0.0
        }
    }
}

/// Packs samples by their lengths (images expanded) into as few packs of `budget` tokens as
/// first-fit-decreasing finds. Samples, and so images, are never split.
///
/// # Errors
/// [`Error::Invalid`] for a zero budget or a zero length.
///
/// # Determinism
/// Equal lengths keep their order; the plan depends on the arguments alone. O(n log n).
pub fn pack(lengths: &[usize], budget: usize) -> Result<PackPlan, Error> {
    let invalid = |reason| Error::Invalid {
        what: "packing",
        reason,
    };
    if budget == 0 {
        return Err(invalid("the budget is 0 tokens".to_string()));
    }
    if let Some(index) = lengths.iter().position(|&length| length == 0) {
        return Err(invalid(format!("sample number {index} has no tokens")));
    }
    let (mut fitting, too_long): (Vec<usize>, Vec<usize>) =
        (0..lengths.len()).partition(|&i| lengths[i] <= budget);
    fitting.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut room = RoomTree::new(fitting.len(), budget);
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in fitting {
        let slot = room.take_first(lengths[index]);
        if slot >= packs.len() {
            packs.push(Vec::new());
        }
        if let Some(pack) = packs.get_mut(slot) {
            pack.push(index);
        }
        tokens += lengths[index];
    }
    Ok(PackPlan {
        packs,
        too_long,
        budget,
        tokens,
    })
}

/// A binary tree over packs that holds the largest free room below each node, so that the first
/// pack with enough room is found in log n.
struct RoomTree {
    leaves: usize,
    most: Vec<usize>,
}

impl RoomTree {
    /// As many empty packs as there are samples: enough for any plan.
    fn new(packs: usize, budget: usize) -> Self {
        let leaves = packs.max(1).next_power_of_two();
        Self {
            leaves,
            most: vec![budget; 2 * leaves],
        }
    }

    /// Takes room from the first pack that has enough. An empty pack always has.
    fn take_first(&mut self, length: usize) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.most[node] < length {
                node += 1;
            }
        }
        let slot = node - self.leaves;
        self.most[node] = self.most[node].saturating_sub(length);
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
        slot
    }
}
