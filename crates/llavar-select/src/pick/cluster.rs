//! Clusters of texts, so that a pick takes from all of them in turn.
//!
//! A text is a vector of word counts, folded by hashing; clusters come from spherical k-means (Dhillon and
//! Modha 2001) with a fixed seed. Every sum has a fixed order: the same rows give the same clusters.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::dedup::hash;

/// Places of a vector. Words that share one are rare among the few dozen of a text.
const WIDTH: usize = 256;
const ROUNDS: usize = 12;

/// The cluster of every text, below `count`.
pub(super) fn clusters(texts: &[String], count: usize) -> Vec<usize> {
    let vectors: Vec<Vec<f32>> = texts.par_iter().map(|text| vector(text)).collect();
    let count = count.min(vectors.len());
    if count < 2 {
        return vec![0; vectors.len()];
    }
    let mut centres = first_centres(&vectors, count);
    let mut of = assign(&vectors, &centres);
    for _ in 0..ROUNDS {
        for (number, centre) in centres.iter_mut().enumerate() {
            let mut sum = vec![0.0; WIDTH];
            let own = vectors.iter().zip(&of).filter(|(_, at)| **at == number);
            for (vector, _) in own {
                sum.iter_mut().zip(vector).for_each(|(s, x)| *s += x);
            }
            // A cluster that has lost all of its texts keeps its centre.
            if sum.iter().any(|x| *x != 0.0) {
                *centre = normalised(sum);
            }
        }
        let next = assign(&vectors, &centres);
        if next == of {
            break;
        }
        of = next;
    }
    of
}

/// Texts far from each other: each one drawn by its squared distance to those drawn before.
///
/// # Source
/// k-means++ (Arthur and Vassilvitskii 2007).
fn first_centres(vectors: &[Vec<f32>], count: usize) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut centres = vec![vectors[rng.random_range(0..vectors.len())].clone()];
    let mut far: Vec<f64> = vec![f64::INFINITY; vectors.len()];
    while let Some(last) = centres.last().filter(|_| centres.len() < count) {
        let distance = |vector: &Vec<f32>| f64::from((2.0 - 2.0 * dot(vector, last)).max(0.0));
        far.iter_mut()
            .zip(vectors)
            .for_each(|(far, vector)| *far = far.min(distance(vector)));
        let mut at = rng.random::<f64>() * far.iter().sum::<f64>();
        let next = far.iter().position(|far| {
            at -= far;
            at < 0.0
        });
        // Fewer different texts than clusters.
        let Some(next) = next else { break };
        centres.push(vectors[next].clone());
    }
    centres
}

fn assign(vectors: &[Vec<f32>], centres: &[Vec<f32>]) -> Vec<usize> {
    let nearest = |vector: &Vec<f32>| {
        let mut best = (f32::NEG_INFINITY, 0);
        for (number, centre) in centres.iter().enumerate() {
            let near = dot(vector, centre);
            if near > best.0 {
                best = (near, number);
            }
        }
        best.1
    };
    vectors.par_iter().map(nearest).collect()
}

fn vector(text: &str) -> Vec<f32> {
    let mut counts = vec![0.0f32; WIDTH];
    let words = text.split(|c: char| !c.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        let h = hash(word.to_lowercase().as_bytes());
        // The sign keeps words that share a place from adding up.
        let sign = if h & 1 == 0 { 1.0 } else { -1.0 };
        counts[(h >> 1) as usize % WIDTH] += sign;
    }
    normalised(counts)
}

fn normalised(mut x: Vec<f32>) -> Vec<f32> {
    let norm = dot(&x, &x).sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x /= norm);
    }
    x
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_kind_are_one_cluster() {
        let texts: Vec<String> = (0..30)
            .map(|i| match i % 3 {
                0 => format!("What is the total of receipt {i}? The total is {i} dollars."),
                1 => format!("Who wrote this book? The author of the book is writer {i}."),
                _ => format!("Where does the bus go? It goes to stop {i} on line nine."),
            })
            .collect();
        let of = clusters(&texts, 3);
        assert_eq!(of, clusters(&texts, 3));
        for i in 0..30 {
            assert_eq!(of[i], of[i % 3], "{}", texts[i]);
        }
        assert!(of[0] != of[1] && of[1] != of[2] && of[0] != of[2]);
        let same = vec!["one".to_owned(); 5];
        assert_eq!(clusters(&same, 3), [0; 5]);
        assert!(clusters(&[], 4).is_empty());
    }
}
