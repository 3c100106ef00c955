//! Near-duplicates: MinHash over word triples for texts, a difference hash for pictures.

use std::collections::{HashMap, HashSet};

use super::{Dropped, ImageHash, PickOptions};
use crate::{
    ScoreRow,
    hash::{START, fnv1a},
};

/// Hash functions of a signature, in bands of [`BAND`]: texts with one equal band are compared. Of texts
/// that share 0.8 of their triples, all but one in 10^8 meet; at 0.5, seven of eight.
const HASHES: usize = 128;
const BAND: usize = 4;

/// A text as a set of word triples, with its signature.
#[derive(Debug, Clone)]
pub struct MinHash {
    shingles: HashSet<u64>,
    signature: Vec<u64>,
}

impl MinHash {
    /// Of a text: words in lower case without punctuation, three in a row; a shorter text is one triple.
    pub fn of(text: &str) -> Self {
        let words: Vec<String> = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let shingles: HashSet<u64> = words
            .windows(3.min(words.len().max(1)))
            .map(|triple| hash(triple.join(" ").as_bytes()))
            .collect();
        let signature = (0..HASHES as u64)
            .map(|k| {
                let least = shingles.iter().map(|x| mix(x ^ mix(k + 1))).min();
                least.unwrap_or(u64::MAX)
            })
            .collect();
        Self {
            shingles,
            signature,
        }
    }

    /// Share of all triples of two texts that they have in common; 1 for two empty texts.
    pub fn similarity(&self, other: &Self) -> f64 {
        let common = self.shingles.intersection(&other.shingles).count();
        let all = self.shingles.len() + other.shingles.len() - common;
        if all == 0 {
            return 1.0;
        }
        common as f64 / all as f64
    }

    fn bands(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.signature.chunks(BAND).enumerate()
    }
}

/// What is kept so far, for comparison.
pub(super) struct NearDuplicates {
    near_text: Option<f64>,
    near_image: Option<u32>,
    texts: Vec<(MinHash, String)>,
    bands: HashMap<(usize, Vec<u64>), Vec<usize>>,
    pictures: Vec<(String, ImageHash)>,
    known: HashSet<String>,
}

impl NearDuplicates {
    pub(super) fn new(options: &PickOptions) -> Self {
        Self {
            near_text: options.near_text,
            near_image: options.near_image,
            texts: Vec::new(),
            bands: HashMap::new(),
            pictures: Vec::new(),
            known: HashSet::new(),
        }
    }

    /// What a unit nearly equals among those kept.
    pub(super) fn find(
        &self,
        unit: &[&ScoreRow],
        hash_of: &mut dyn FnMut(&str) -> Option<ImageHash>,
    ) -> Option<Dropped> {
        if let Some(bits) = self.near_image
            && let Some(name) = &unit[0].image
            && !self.known.contains(name)
            && let Some(own) = hash_of(name)
        {
            let twin = self.pictures.iter().find(|(_, h)| h.distance(&own) <= bits);
            if let Some((twin, _)) = twin {
                return Some(Dropped::NearImage(twin.clone()));
            }
        }
        let least = self.near_text?;
        let own = MinHash::of(&text_of(unit));
        let mut candidates: Vec<usize> = own
            .bands()
            .filter_map(|(n, band)| self.bands.get(&(n, band.to_vec())))
            .flatten()
            .copied()
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates
            .into_iter()
            .map(|at| &self.texts[at])
            .find(|(other, _)| other.similarity(&own) >= least)
            .map(|(_, name)| Dropped::NearText(name.clone()))
    }

    /// Remembers a unit that is kept.
    pub(super) fn keep(
        &mut self,
        unit: &[&ScoreRow],
        hash_of: &mut dyn FnMut(&str) -> Option<ImageHash>,
    ) {
        if self.near_image.is_some()
            && let Some(name) = &unit[0].image
            && self.known.insert(name.clone())
            && let Some(hash) = hash_of(name)
        {
            self.pictures.push((name.clone(), hash));
        }
        if self.near_text.is_some() {
            let text = MinHash::of(&text_of(unit));
            let at = self.texts.len();
            for (n, band) in text.bands() {
                self.bands.entry((n, band.to_vec())).or_default().push(at);
            }
            self.texts
                .push((text, format!("{} {}", unit[0].id, unit[0].qa_id)));
        }
    }
}

pub(super) fn text_of(unit: &[&ScoreRow]) -> String {
    let texts = unit.iter().flat_map(|row| [&*row.question, &*row.answer]);
    texts.collect::<Vec<&str>>().join(" ")
}

/// Of a text, well mixed.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    mix(fnv1a(START, bytes))
}

/// The finaliser of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
