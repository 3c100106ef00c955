//! Packs filled by subset sums: for samples of a few common lengths, which first-fit-decreasing puts side
//! by side, although a long, a middle and a short one would fill the pack.

use std::collections::BTreeMap;

/// Lengths that are tried for one pack; more cost time and win little.
const LENGTHS_TRIED: usize = 128;

/// Some number of samples of one length, to be taken together or not at all.
struct Piece {
    length: usize,
    count: usize,
    /// Sums that can be reached without this piece and those after it.
    before: Sums,
}

/// A set of sums up to a limit, one bit each.
#[derive(Clone)]
struct Sums {
    words: Vec<u64>,
}

impl Sums {
    fn zero(limit: usize) -> Self {
        let mut words = vec![0; limit / 64 + 1];
        words[0] = 1;
        Self { words }
    }

    fn has(&self, sum: usize) -> bool {
        let word = self.words.get(sum / 64);
        word.is_some_and(|word| word >> (sum % 64) & 1 == 1)
    }

    /// Adds every sum plus `by`.
    fn add(&mut self, by: usize) {
        let (skip, bits) = (by / 64, by % 64);
        for to in (skip..self.words.len()).rev() {
            let from = to - skip;
            let mut moved = self.words[from] << bits;
            if bits > 0 && from > 0 {
                moved |= self.words[from - 1] >> (64 - bits);
            }
            self.words[to] |= moved;
        }
    }

    fn largest(&self, limit: usize) -> usize {
        (0..=limit).rev().find(|&sum| self.has(sum)).unwrap_or(0)
    }
}

/// Packs of sample numbers, each of at most `budget`: the longest sample left, then those of the rest that
/// come nearest to the budget, long ones first. Every size is 1 to `budget`.
pub(super) fn pack_by_sums(sizes: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut left: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, &size) in sizes.iter().enumerate().rev() {
        left.entry(size).or_default().push(number);
    }
    let mut packs = Vec::new();
    while let Some((longest, first)) = take(&mut left, None) {
        let room = budget - longest;
        let mut pack = vec![first];
        // A sparse choice of lengths, another one for every pack.
        let fitting: Vec<usize> = left.range(..=room).map(|(&length, _)| length).collect();
        let step = fitting.len().div_ceil(LENGTHS_TRIED).max(1);
        let mut sums = Sums::zero(room);
        let mut pieces = Vec::new();
        for &length in fitting.iter().skip(packs.len() % step).step_by(step) {
            let there = left.get(&length).map_or(0, Vec::len);
            let mut count = there.min(room / length);
            let mut part = 1;
            while count > 0 {
                let taken = part.min(count);
                pieces.push(Piece {
                    length,
                    count: taken,
                    before: sums.clone(),
                });
                sums.add(taken * length);
                count -= taken;
                part *= 2;
            }
        }
        let mut sum = sums.largest(room);
        for piece in pieces.iter().rev() {
            let with = piece.length * piece.count;
            if sum >= with && piece.before.has(sum - with) {
                sum -= with;
                for _ in 0..piece.count {
                    pack.extend(take(&mut left, Some(piece.length)).map(|(_, number)| number));
                }
            }
        }
        packs.push(pack);
    }
    packs
}

/// The next sample of a length, or of the longest.
fn take(left: &mut BTreeMap<usize, Vec<usize>>, length: Option<usize>) -> Option<(usize, usize)> {
    let length = length.or_else(|| left.last_key_value().map(|(&length, _)| length))?;
    let of_length = left.get_mut(&length)?;
    let number = of_length.pop()?;
    if of_length.is_empty() {
        left.remove(&length);
    }
    Some((length, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_a_plain_loop() {
        for limit in [0, 1, 63, 64, 200] {
            let mut sums = Sums::zero(limit);
            let mut plain = vec![false; limit + 1];
            plain[0] = true;
            for by in [3, 64, 7, 130, 7] {
                sums.add(by);
                for sum in (by..=limit).rev() {
                    plain[sum] |= plain[sum - by];
                }
                for (sum, &want) in plain.iter().enumerate() {
                    assert_eq!(sums.has(sum), want, "{limit} {by} {sum}");
                }
            }
            let largest = plain.iter().rposition(|&x| x).unwrap();
            assert_eq!(sums.largest(limit), largest);
        }
    }

    #[test]
    fn every_sample_is_packed_once_within_the_budget() {
        let sizes: Vec<usize> = (0..3000).map(|i| 1 + (i * i * 31 + 7 * i) % 500).collect();
        for budget in [500, 777, 4096] {
            let packs = pack_by_sums(&sizes, budget);
            let mut seen = vec![0; sizes.len()];
            for pack in &packs {
                assert!(pack.iter().map(|&i| sizes[i]).sum::<usize>() <= budget);
                pack.iter().for_each(|&i| seen[i] += 1);
            }
            assert!(seen.iter().all(|&n| n == 1));
        }
        // First-fit-decreasing needs three packs here: 6 6 | 5 5 | 4 4.
        assert_eq!(pack_by_sums(&[6, 4, 6, 5, 5, 4], 15).len(), 2);
    }
}
