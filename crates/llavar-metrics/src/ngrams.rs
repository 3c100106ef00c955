//! Counts of n-grams of one to four words, for BLEU and CIDEr.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::python_text::split;

/// Longest n-gram counted.
pub(crate) const MAX_N: usize = 4;

/// Word ids of an n-gram, 32 bits each from the top, zeros behind its last word: one number sorts and
/// hashes faster than four.
pub(crate) type Ngram = u128;

/// A map that is only looked up, so that its order decides nothing.
pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;

/// Ids of words, one per distinct word in order of first appearance, from 1.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary<'a>(Map<&'a str, u32>);

impl<'a> Vocabulary<'a> {
    /// Ids of the words of `text`, split at white space.
    pub(crate) fn words(&mut self, text: &'a str) -> Vec<u32> {
        split(text)
            .map(|word| {
                let next = self.0.len() as u32 + 1;
                *self.0.entry(word).or_insert(next)
            })
            .collect()
    }
}

/// Distinct n-grams of every length with how often they occur, sorted: sums over them have one order.
pub(crate) fn count(words: &[u32]) -> Vec<(Ngram, u32)> {
    let mut all: Vec<Ngram> = Vec::with_capacity(words.len() * MAX_N);
    for start in 0..words.len() {
        let mut ngram = 0;
        for (n, word) in words[start..].iter().take(MAX_N).enumerate() {
            ngram |= Ngram::from(*word) << (32 * (MAX_N - 1 - n));
            all.push(ngram);
        }
    }
    all.sort_unstable();
    let mut counts: Vec<(Ngram, u32)> = Vec::with_capacity(all.len());
    for ngram in all {
        match counts.last_mut() {
            Some((last, count)) if *last == ngram => *count += 1,
            _ => counts.push((ngram, 1)),
        }
    }
    counts
}

/// Number of words of an n-gram, 1 to 4.
pub(crate) fn order(ngram: Ngram) -> usize {
    MAX_N - ngram.trailing_zeros() as usize / 32
}

/// Pairs of counts of the n-grams that both have.
pub(crate) fn common<'c, A, B>(
    a: &'c [(Ngram, A)],
    b: &'c [(Ngram, B)],
) -> impl Iterator<Item = (Ngram, &'c A, &'c B)> {
    let mut at = 0;
    a.iter().filter_map(move |(ngram, left)| {
        while at < b.len() && b[at].0 < *ngram {
            at += 1;
        }
        let (other, right) = b.get(at)?;
        (other == ngram).then_some((*ngram, left, right))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_counted() {
        let mut vocabulary = Vocabulary::default();
        let counts = count(&vocabulary.words("a b a  b c"));
        let of = |n: usize| {
            counts
                .iter()
                .filter(|(ngram, _)| order(*ngram) == n)
                .count()
        };
        assert_eq!([of(1), of(2), of(3), of(4)], [3, 3, 3, 2]);
        assert_eq!(
            counts.iter().map(|(_, count)| count).sum::<u32>(),
            5 + 4 + 3 + 2
        );
        let other = count(&vocabulary.words("b a b"));
        let both: Vec<_> = common(&counts, &other).map(|(_, a, b)| (*a, *b)).collect();
        assert_eq!(both.len(), 5, "a, b, a b, b a, b a b");
    }
}
