//! What to keep: limits, duos, near-duplicates, quotas and the best of the rest, in this order.
//!
//! Everything follows from the rows and the options; ties go by (id, turn). A duo is one unit: it stays
//! only if both of its pairs pass the limits, and ranks by the worse of them.

mod card;
mod cluster;
mod dedup;
mod image_hash;
mod output;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{PairKind, ScoreRow, SelectError};

pub use card::{Card, Quantiles, SourceCount};
pub use dedup::MinHash;
pub use image_hash::ImageHash;
pub use output::kept_samples;

/// What pairs are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    /// mIFD; IFD for a pair without picture.
    #[default]
    Mifd,
    /// IFD.
    Ifd,
    /// VFD.
    Vfd,
    /// FFD of the duo.
    Ffd,
    /// A hash of the seed and the pair: a baseline for experiments.
    Random(u64),
}

/// Limits of a score, both exclusive of what they name as too much: kept is `min <= score < max`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Smallest score that is kept.
    pub min: Option<f64>,
    /// Scores from here on are dropped.
    pub max: Option<f64>,
}

impl Limits {
    fn hold(self, score: Option<f64>) -> bool {
        let Some(score) = score else { return true };
        self.min.is_none_or(|min| score >= min) && self.max.is_none_or(|max| score < max)
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PickOptions {
    /// Limits of IFD.
    pub ifd: Limits,
    /// Limits of VFD.
    pub vfd: Limits,
    /// Limits of mIFD.
    pub mifd: Limits,
    /// Limits of FFD.
    pub ffd: Limits,
    /// What the rest is ranked by.
    pub rank_by: RankBy,
    /// Whether the lowest rank first; by default the highest.
    pub lowest_first: bool,
    /// Share of all pairs of the file that is kept at most.
    pub fraction: Option<f64>,
    /// Pairs that are kept at most.
    pub number: Option<usize>,
    /// Pairs kept at most of a source.
    pub quotas: BTreeMap<String, usize>,
    /// Pairs kept at most of every source without a quota of its own.
    pub quota_each: Option<usize>,
    /// Whether a duo stays only if both of its pairs do.
    pub duo_rule: bool,
    /// Jaccard similarity of word triples from which on the lower-ranked text is dropped.
    pub near_text: Option<f64>,
    /// Bits of 256 that hashes of two pictures may differ in to count as the same; the lower-ranked picture
    /// goes with its pairs.
    pub near_image: Option<u32>,
    /// Clusters of texts from which the best are taken in turn; 0 for none. It matters with a fraction or
    /// number only.
    #[serde(default)]
    pub clusters: usize,
}

impl Default for PickOptions {
    /// Scores of 1 and more are dropped: there the condition does not help.
    fn default() -> Self {
        let below_one = Limits {
            min: None,
            max: Some(1.0),
        };
        Self {
            ifd: below_one,
            vfd: below_one,
            mifd: Limits::default(),
            ffd: below_one,
            rank_by: RankBy::Mifd,
            lowest_first: false,
            fraction: None,
            number: None,
            quotas: BTreeMap::new(),
            quota_each: None,
            duo_rule: true,
            near_text: None,
            near_image: None,
            clusters: 0,
        }
    }
}

/// Why a pair is not kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum Dropped {
    /// Scores are missing: the row's own reason.
    Unscored(String),
    /// IFD outside the limits.
    Ifd,
    /// VFD outside the limits.
    Vfd,
    /// mIFD outside the limits.
    Mifd,
    /// FFD outside the limits.
    Ffd,
    /// The other pair of the duo was dropped.
    DuoPartner,
    /// The score to rank by is missing.
    NoRank,
    /// Its text nearly equals that of the pair named.
    NearText(String),
    /// Its picture nearly equals the one named.
    NearImage(String),
    /// Its source has its quota.
    Quota,
    /// Enough others rank higher.
    Rank,
}

impl Dropped {
    /// The reason alone, for counts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unscored(_) => "unscored",
            Self::Ifd => "ifd",
            Self::Vfd => "vfd",
            Self::Mifd => "mifd",
            Self::Ffd => "ffd",
            Self::DuoPartner => "duo_partner",
            Self::NoRank => "no_rank",
            Self::NearText(_) => "near_text",
            Self::NearImage(_) => "near_image",
            Self::Quota => "quota",
            Self::Rank => "rank",
        }
    }
}

/// A single pair or a duo.
struct Unit {
    rows: Vec<usize>,
    /// Higher is better.
    rank: f64,
}

/// Decides about every row: `None` for one that is kept. `hash_of` gives the hash of a picture by its
/// path, and is called only with [`PickOptions::near_image`].
///
/// # Errors
/// [`SelectError::Setting`] for an option out of range.
pub fn pick(
    rows: &[ScoreRow],
    options: &PickOptions,
    hash_of: &mut dyn FnMut(&str) -> Option<ImageHash>,
) -> Result<Vec<Option<Dropped>>, SelectError> {
    check(options)?;
    let mut verdicts: Vec<Option<Dropped>> =
        rows.iter().map(|row| beyond_limits(row, options)).collect();
    let mut units = Vec::new();
    for group in groups(rows, options.duo_rule) {
        // The other pair may be missing from a file that another tool has filtered.
        let torn = options.duo_rule && group.len() == 1 && rows[group[0]].kind != PairKind::Single;
        if torn || group.iter().any(|i| verdicts[*i].is_some()) {
            for i in group {
                verdicts[i].get_or_insert(Dropped::DuoPartner);
            }
            continue;
        }
        match rank(rows, &group, options) {
            Some(rank) => units.push(Unit { rows: group, rank }),
            None => group
                .into_iter()
                .for_each(|i| verdicts[i] = Some(Dropped::NoRank)),
        }
    }
    let order = |unit: &Unit| {
        let row = &rows[unit.rows[0]];
        (&row.id, row.occurrence, row.qa_id)
    };
    units.sort_by(|a, b| b.rank.total_cmp(&a.rank).then(order(a).cmp(&order(b))));
    if options.clusters > 1 {
        units = in_turn(rows, units, options.clusters);
    }

    let mut near = dedup::NearDuplicates::new(options);
    let mut of_source: HashMap<&str, usize> = HashMap::new();
    let share = options
        .fraction
        .map(|f| (f * rows.len() as f64).round() as usize);
    let most = share.into_iter().chain(options.number).min();
    let mut kept = 0;
    for unit in units {
        let of_unit: Vec<&ScoreRow> = unit.rows.iter().map(|i| &rows[*i]).collect();
        let source = of_unit[0].source.as_str();
        let quota = options.quotas.get(source).copied().or(options.quota_each);
        let held = of_source.get(source).copied().unwrap_or(0);
        let size = of_unit.len();
        let dropped = if let Some(twin) = near.find(&of_unit, hash_of) {
            Some(twin)
        } else if quota.is_some_and(|quota| held + size > quota) {
            Some(Dropped::Quota)
        } else if most.is_some_and(|most| kept + size > most) {
            Some(Dropped::Rank)
        } else {
            None
        };
        match dropped {
            Some(reason) => unit
                .rows
                .iter()
                .for_each(|i| verdicts[*i] = Some(reason.clone())),
            None => {
                near.keep(&of_unit, hash_of);
                *of_source.entry(source).or_default() += size;
                kept += size;
            }
        }
    }
    Ok(verdicts)
}

/// The best unit of every cluster, then the second of every cluster, and so on.
fn in_turn(rows: &[ScoreRow], units: Vec<Unit>, clusters: usize) -> Vec<Unit> {
    let clusters = clusters.min(units.len()).max(1);
    let texts: Vec<String> = units
        .iter()
        .map(|unit| {
            let of_unit: Vec<&ScoreRow> = unit.rows.iter().map(|i| &rows[*i]).collect();
            dedup::text_of(&of_unit)
        })
        .collect();
    let mut taken = vec![0usize; clusters];
    let turns = cluster::clusters(&texts, clusters).into_iter().map(|of| {
        taken[of] += 1;
        taken[of]
    });
    let mut order: Vec<(usize, Unit)> = turns.zip(units).collect();
    // Stable: within a turn the rank decides as before.
    order.sort_by_key(|(turn, _)| *turn);
    order.into_iter().map(|(_, unit)| unit).collect()
}

fn check(options: &PickOptions) -> Result<(), SelectError> {
    let share = |x: f64| (0.0..=1.0).contains(&x);
    let fail = |option, reason: &str| {
        let reason = reason.to_owned();
        Err(SelectError::Setting { option, reason })
    };
    if options.fraction.is_some_and(|x| !share(x)) {
        return fail("fraction", "must be between 0 and 1");
    }
    if options.near_text.is_some_and(|x| !share(x) || x == 0.0) {
        return fail("near text", "must be above 0 and at most 1");
    }
    if options.near_image.is_some_and(|bits| bits >= 128) {
        return fail("near image", "must be below 128 of 256 bits");
    }
    Ok(())
}

fn beyond_limits(row: &ScoreRow, options: &PickOptions) -> Option<Dropped> {
    if let Some(reason) = &row.reason {
        return Some(Dropped::Unscored(reason.clone()));
    }
    [
        (options.ifd, row.ifd, Dropped::Ifd),
        (options.vfd, row.vfd, Dropped::Vfd),
        (options.mifd, row.mifd, Dropped::Mifd),
        (options.ffd, row.ffd, Dropped::Ffd),
    ]
    .into_iter()
    .find(|(limits, score, _)| !limits.hold(*score))
    .map(|(_, _, reason)| reason)
}

/// Rows of single pairs and duos.
fn groups(rows: &[ScoreRow], duo_rule: bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::with_capacity(rows.len());
    let mut firsts = HashMap::new();
    if duo_rule {
        let first = |(i, row): (usize, &ScoreRow)| {
            (row.kind == PairKind::Extractive).then(|| (row.key(), i))
        };
        firsts.extend(rows.iter().enumerate().filter_map(first));
    }
    let mut partner = vec![None; rows.len()];
    for (i, row) in rows.iter().enumerate() {
        if row.kind == PairKind::SelfExplain && row.qa_id >= 2 {
            let (id, occurrence, qa_id) = row.key();
            if let Some(first) = firsts.get(&(id, occurrence, qa_id - 2)) {
                partner[*first] = Some(i);
                partner[i] = Some(*first);
            }
        }
    }
    for i in 0..rows.len() {
        match partner[i] {
            Some(_) if rows[i].kind == PairKind::SelfExplain => {}
            other => groups.push([Some(i), other].into_iter().flatten().collect()),
        }
    }
    groups
}

fn rank(rows: &[ScoreRow], group: &[usize], options: &PickOptions) -> Option<f64> {
    let sign = if options.lowest_first { -1.0 } else { 1.0 };
    let of_row = |i: &usize| {
        let row = &rows[*i];
        match options.rank_by {
            RankBy::Mifd => row.mifd.or(row.ifd),
            RankBy::Ifd => row.ifd,
            RankBy::Vfd => row.vfd,
            RankBy::Ffd => row.ffd,
            RankBy::Random(_) => None,
        }
    };
    if let RankBy::Random(seed) = options.rank_by {
        let row = &rows[group[0]];
        let text = format!("{seed}\0{}\0{}\0{}", row.id, row.occurrence, row.qa_id);
        return Some(dedup::hash(text.as_bytes()) as f64);
    }
    let all: Vec<f64> = group.iter().filter_map(of_row).map(|x| sign * x).collect();
    // FFD belongs to a duo's second pair alone.
    let needed = if options.rank_by == RankBy::Ffd {
        1
    } else {
        group.len()
    };
    (all.len() >= needed).then(|| all.into_iter().fold(f64::INFINITY, f64::min))
}

#[cfg(test)]
mod tests;
