//! What was found in a whole data set.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
};

use llavar_data::packing::pack_in_windows;
use serde::Serialize;

use super::check::Checked;

/// So many faults and duplicates are told one by one; all are counted, and `--fix` lists all.
const MOST_NAMED: usize = 50;

/// A sample that is left out of a clean copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its number over all files, from 0.
    pub index: usize,
    /// Its id, or `?`.
    pub id: String,
    /// The image, where one is at fault; else the data file.
    pub path: Option<PathBuf>,
    /// `read`, `encode`, `image path`, `image`, or `duplicate`.
    pub phase: &'static str,
    /// Why.
    pub error: String,
}

/// A sample with the pictures and turns of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// Its number, from 0.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Number of the earlier one.
    pub of: usize,
}

/// Lengths of the good samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LengthStats {
    /// Shortest.
    pub min: usize,
    /// Half are at most this long.
    pub median: usize,
    /// 90 of 100 are at most this long.
    pub p90: usize,
    /// 99 of 100 are at most this long.
    pub p99: usize,
    /// Longest.
    pub max: usize,
    /// All together.
    pub total: u64,
}

/// How full packs of the good samples would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Packing {
    /// Most tokens of a pack (`train.pack_tokens`).
    pub pack_tokens: usize,
    /// Packs.
    pub packs: usize,
    /// Share of their room that is filled, 0 to 1.
    pub utilisation: f64,
    /// Samples longer than that, which would be cut.
    pub too_long: usize,
}

/// Numbers and faults of one data set.
///
/// # Units
/// Lengths are tokens with images counted in full (after cutting), or words where no tokenizer was given.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Samples looked at.
    pub samples: usize,
    /// Samples that can be trained on, duplicates among them.
    pub good: usize,
    /// Good samples without image.
    pub text_only: usize,
    /// Image references of good samples.
    pub images: usize,
    /// Whether pictures were looked at: a folder was given, or they lie in the data file.
    pub images_checked: bool,
    /// Smallest width and height of a picture, px.
    pub smallest_image: Option<(u32, u32)>,
    /// Largest picture by pixels, px.
    pub largest_image: Option<(u32, u32)>,
    /// Turns of good samples.
    pub turns: usize,
    /// Leading turns that are not the human's and are left out.
    pub dropped_turns: usize,
    /// `tokens` or `words`.
    pub unit: &'static str,
    /// Lengths of good samples.
    pub lengths: LengthStats,
    /// How full packs of several sizes would be; empty where words are counted.
    pub packing: Vec<Packing>,
    /// Tokens that count in the loss.
    pub supervised_tokens: Option<u64>,
    /// Samples that are cut to fit.
    pub cut_samples: usize,
    /// Tokens cut off.
    pub cut_tokens: usize,
    /// Images cut off, each whole.
    pub cut_images: usize,
    /// Good samples whose id an earlier one has. LLaVA data share ids between the questions of an image.
    pub repeated_ids: usize,
    /// Good samples that are copies of earlier ones.
    pub duplicates: usize,
    /// The first of them.
    pub first_duplicates: Vec<Duplicate>,
    /// Keys that LLaVA does not define, with the number of samples that have them.
    pub unknown_fields: BTreeMap<String, usize>,
    /// Samples that cannot be used.
    pub bad: usize,
    /// The same by phase: `read`, `encode`, `image path`, `image`.
    pub bad_by_phase: BTreeMap<&'static str, usize>,
    /// The first of them.
    pub first_bad: Vec<Finding>,
    #[serde(skip)]
    all_lengths: Vec<u32>,
    #[serde(skip)]
    seen: HashMap<u64, u32>,
    #[serde(skip)]
    ids: HashSet<u64>,
    #[serde(skip)]
    last: Option<Finding>,
}

impl Report {
    pub(super) fn new(tokenizes: bool, images_checked: bool) -> Self {
        Self {
            samples: 0,
            good: 0,
            text_only: 0,
            images: 0,
            images_checked,
            smallest_image: None,
            largest_image: None,
            turns: 0,
            dropped_turns: 0,
            unit: if tokenizes { "tokens" } else { "words" },
            lengths: LengthStats::default(),
            packing: Vec::new(),
            supervised_tokens: tokenizes.then_some(0),
            cut_samples: 0,
            cut_tokens: 0,
            cut_images: 0,
            repeated_ids: 0,
            duplicates: 0,
            first_duplicates: Vec::new(),
            unknown_fields: BTreeMap::new(),
            bad: 0,
            bad_by_phase: BTreeMap::new(),
            first_bad: Vec::new(),
            all_lengths: Vec::new(),
            seen: HashMap::new(),
            ids: HashSet::new(),
            last: None,
        }
    }

    /// Whether every sample can be trained on.
    pub fn is_usable(&self) -> bool {
        self.bad == 0
    }

    /// Whether there is nothing at all to remark: also no copies, nothing cut, no stray turns.
    pub fn is_spotless(&self) -> bool {
        self.is_usable() && self.duplicates + self.cut_samples + self.dropped_turns == 0
    }

    /// Takes in the next sample; gives the reason to leave it out of a copy, if there is one.
    pub(super) fn add(&mut self, one: Checked) -> Option<&Finding> {
        self.samples += 1;
        self.last = None;
        if let Some(fault) = one.fault {
            self.bad += 1;
            *self.bad_by_phase.entry(fault.phase).or_default() += 1;
            let finding = Finding {
                index: fault.index,
                id: fault.id,
                path: fault.path,
                phase: fault.phase,
                error: fault.reason,
            };
            if self.first_bad.len() < MOST_NAMED {
                self.first_bad.push(finding.clone());
            }
            self.last = Some(finding);
            return self.last.as_ref();
        }
        self.good += 1;
        self.text_only += usize::from(one.images == 0);
        self.images += one.images;
        self.turns += one.turns;
        self.dropped_turns += one.dropped_turns;
        for size in one.sizes {
            self.size(size);
        }
        let length = match self.supervised_tokens {
            Some(_) => one.tokens,
            None => one.words,
        };
        self.all_lengths.push(length as u32);
        if let Some(all) = &mut self.supervised_tokens {
            *all += one.supervised as u64;
        }
        if let Some((tokens, images)) = one.cut {
            self.cut_samples += 1;
            self.cut_tokens += tokens;
            self.cut_images += images;
        }
        for key in one.unknown {
            *self.unknown_fields.entry(key).or_default() += 1;
        }
        self.repeated_ids += usize::from(!self.ids.insert(hash_of(&one.id)));
        match self.seen.get(&one.content) {
            None => {
                self.seen.insert(one.content, one.index as u32);
            }
            Some(&of) => {
                self.duplicates += 1;
                let duplicate = Duplicate {
                    index: one.index,
                    id: one.id.clone(),
                    of: of as usize,
                };
                if self.first_duplicates.len() < MOST_NAMED {
                    self.first_duplicates.push(duplicate);
                }
                self.last = Some(Finding {
                    index: one.index,
                    id: one.id,
                    path: None,
                    phase: "duplicate",
                    error: format!("has the pictures and turns of sample number {of}"),
                });
            }
        }
        self.last.as_ref()
    }

    fn size(&mut self, (width, height): (u32, u32)) {
        let smallest = self.smallest_image.get_or_insert((width, height));
        *smallest = (smallest.0.min(width), smallest.1.min(height));
        let largest = self.largest_image.get_or_insert((width, height));
        let area = |(w, h): (u32, u32)| u64::from(w) * u64::from(h);
        if area((width, height)) > area(*largest) {
            *largest = (width, height);
        }
    }

    pub(super) fn finish(&mut self) -> Result<(), llavar_data::Error> {
        if self.supervised_tokens.is_some() && !self.all_lengths.is_empty() {
            let members: Vec<u32> = (0..self.all_lengths.len() as u32).collect();
            for pack_tokens in [2048, 4096, 8192, 16384, 32768] {
                let packs = pack_in_windows(&members, &self.all_lengths, pack_tokens, 0)?;
                self.packing.push(Packing {
                    pack_tokens,
                    packs: packs.len(),
                    utilisation: packs.utilisation(),
                    too_long: packs.too_long.len(),
                });
            }
        }
        self.all_lengths.sort_unstable();
        let all = &self.all_lengths;
        let at = |share: f64| {
            let rank = (share * all.len() as f64).ceil() as usize;
            all.get(rank.saturating_sub(1)).map_or(0, |&l| l as usize)
        };
        self.lengths = LengthStats {
            min: at(0.0),
            median: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
            total: all.iter().map(|&l| u64::from(l)).sum(),
        };
        Ok(())
    }
}

fn hash_of(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut row = |name: &str, value: u64| writeln!(f, "{name:<24}{value:>12}");
        row("samples", self.samples as u64)?;
        row("  usable", self.good as u64)?;
        row("    without image", self.text_only as u64)?;
        row("  bad", self.bad as u64)?;
        for (phase, count) in &self.bad_by_phase {
            row(&format!("    {phase}"), *count as u64)?;
        }
        row("images", self.images as u64)?;
        row("turns", self.turns as u64)?;
        row("  left out", self.dropped_turns as u64)?;
        row(self.unit, self.lengths.total)?;
        if let Some(supervised) = self.supervised_tokens {
            row("  supervised", supervised)?;
        }
        row("cut samples", self.cut_samples as u64)?;
        row("  tokens", self.cut_tokens as u64)?;
        row("  images", self.cut_images as u64)?;
        row("copies of others", self.duplicates as u64)?;
        row("repeated ids", self.repeated_ids as u64)?;
        let l = &self.lengths;
        writeln!(
            f,
            "lengths, {}: min {}, median {}, 90 % {}, 99 % {}, max {}",
            self.unit, l.min, l.median, l.p90, l.p99, l.max
        )?;
        for p in &self.packing {
            let long = match p.too_long {
                0 => String::new(),
                count => format!(", {count} samples are longer"),
            };
            writeln!(
                f,
                "packs of {:>5} tokens: {:>8}, {:.2} % filled{long}",
                p.pack_tokens,
                p.packs,
                100.0 * p.utilisation
            )?;
        }
        match (self.smallest_image, self.largest_image) {
            (Some((w, h)), Some((wide, high))) => {
                writeln!(
                    f,
                    "pictures, px: at least {w} x {h}, largest {wide} x {high}"
                )?;
            }
            _ if self.images > 0 && !self.images_checked => {
                writeln!(f, "pictures were not looked at: give --image-folder")?;
            }
            _ => {}
        }
        for (key, count) in &self.unknown_fields {
            writeln!(f, "unknown field {key:?} in {count} samples")?;
        }
        for bad in &self.first_bad {
            let path = bad.path.as_ref().map(|p| format!(", {}", p.display()));
            writeln!(
                f,
                "bad: sample {} (number {}){} ({}): {}",
                bad.id,
                bad.index,
                path.unwrap_or_default(),
                bad.phase,
                bad.error
            )?;
        }
        for copy in &self.first_duplicates {
            writeln!(
                f,
                "copy: sample {} (number {}) of number {}",
                copy.id, copy.index, copy.of
            )?;
        }
        Ok(())
    }
}
