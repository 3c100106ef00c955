//! The kept pairs as LLaVA samples.

use std::collections::HashMap;

use llavar_data::{Dataset, IMAGE_TAG, Role, Sample, Turn};

use super::Dropped;
use crate::{Duos, ScoreRow, SelectError, pairs, row::content};

/// Samples with their kept turns, in the order of the data set; samples of which nothing is kept are left
/// out. The picture's tag moves to the first turn that is left where its own turn was dropped.
///
/// # Errors
/// [`SelectError::DataChanged`] where a kept pair is not what was scored, and when the data set cannot be
/// read.
pub fn kept_samples(
    data: &Dataset,
    rows: &[ScoreRow],
    verdicts: &[Option<Dropped>],
) -> Result<Vec<Sample>, SelectError> {
    let mut of_record: HashMap<usize, Vec<&ScoreRow>> = HashMap::new();
    for (row, verdict) in rows.iter().zip(verdicts) {
        if verdict.is_none() {
            of_record.entry(row.record as usize).or_default().push(row);
        }
    }
    let mut records: Vec<usize> = of_record.keys().copied().collect();
    records.sort_unstable();
    let mut samples = Vec::with_capacity(records.len());
    for record in records {
        let kept = &of_record[&record];
        let changed = || SelectError::DataChanged {
            path: data.path().to_path_buf(),
            record,
            id: kept[0].id.clone(),
        };
        if record >= data.len() {
            return Err(changed());
        }
        let mut sample = data.get(record)?;
        let now = pairs(&sample, Duos::Never);
        for row in kept {
            let pair = now.iter().find(|pair| pair.qa_id == row.qa_id as usize);
            let same = pair.is_some_and(|pair| content(&sample.images, pair) == row.content);
            if !same || sample.id.to_string() != row.id {
                return Err(changed());
            }
        }
        let mut turns: Vec<usize> = kept.iter().map(|row| row.qa_id as usize).collect();
        turns.sort_unstable();
        sample.conversations = turns
            .iter()
            .flat_map(|turn| [turn, &(turn + 1)].map(|i| sample.conversations[*i].clone()))
            .collect();
        restore_tags(&mut sample);
        samples.push(sample);
    }
    Ok(samples)
}

/// As many tags as pictures: where some were dropped, all go to the first question.
fn restore_tags(sample: &mut Sample) {
    let images = sample.images.len();
    if sample.image_tags() == images {
        return;
    }
    let strip = |turn: &mut Turn| turn.value = crate::pairs::without_tags(&turn.value);
    sample.conversations.iter_mut().for_each(strip);
    let first = sample.conversations.first_mut();
    if let Some(first) = first.filter(|turn| turn.from == Role::Human) {
        first.value = format!("{}{}", format!("{IMAGE_TAG}\n").repeat(images), first.value);
    }
}
