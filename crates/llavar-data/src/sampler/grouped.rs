//! Batches of one modality and of similar length, as LLaVA and LLaVA-HR make them.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Whose rule for what is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupingVariant {
    /// LLaVA and LLaVAR-2: all of the remainder stands at the end, by ascending number; data of one
    /// modality are grouped by length alone.
    Llava,
    /// LLaVA-HR: the first whole megabatch of the remainder goes to the front; both modalities must
    /// be present.
    LlavaHr,
}

/// Orders samples so that each chunk of `batch` has one modality and similar lengths.
///
/// `lengths` are words, negative for a sample without image. `chunks` is ranks times gradient
/// accumulation (ranks alone in LLaVA-HR). `permutation(n)` gives a random permutation of `0..n`; it
/// is asked for the image samples, the text samples and the megabatches, in this order (once where
/// there is one modality).
///
/// # Errors
/// [`Error::Invalid`]: a zero length, zero `batch` or `chunks`, one modality alone with
/// [`GroupingVariant::LlavaHr`], or something that is no permutation.
///
/// # Source
/// `get_modality_length_grouped_indices` of `llava_trainer.py`.
pub fn group_by_modality_length(
    lengths: &[i64],
    batch: usize,
    chunks: usize,
    variant: GroupingVariant,
    permutation: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Result<Vec<usize>, Error> {
    let megabatch = match batch.checked_mul(chunks) {
        Some(size) if size > 0 => size,
        _ => {
            return Err(invalid(format!(
                "batch {batch} times chunks {chunks} is no batch size"
            )));
        }
    };
    if let Some(index) = lengths.iter().position(|&length| length == 0) {
        return Err(invalid(format!("sample number {index} has no words")));
    }
    let with_image: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
    let text: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] < 0).collect();
    if with_image.is_empty() || text.is_empty() {
        if variant == GroupingVariant::LlavaHr {
            return Err(invalid(
                "the LLaVA-HR grouping needs samples with and without image".into(),
            ));
        }
        // The signs stay: text alone is grouped shortest first, as in the reference.
        return length_grouped(lengths, megabatch, chunks, permutation);
    }
    let mut grouped = |members: &[usize]| -> Result<Vec<usize>, Error> {
        let own: Vec<i64> = members
            .iter()
            .map(|&i| lengths[i].saturating_abs())
            .collect();
        let order = length_grouped(&own, megabatch, chunks, permutation)?;
        Ok(order.into_iter().map(|i| members[i]).collect())
    };
    let with_image = grouped(&with_image)?;
    let text = grouped(&text)?;

    let mut whole: Vec<&[usize]> = Vec::new();
    let mut remainder: Vec<usize> = Vec::new();
    for part in [&with_image, &text] {
        let mut slices: Vec<&[usize]> = part.chunks(megabatch).collect();
        // The last is set aside even where it is full.
        remainder.extend_from_slice(slices.pop().unwrap_or(&[]));
        whole.extend(slices);
    }
    let shuffle = checked(permutation(whole.len()), whole.len())?;
    let mut order: Vec<usize> = Vec::with_capacity(lengths.len());
    if variant == GroupingVariant::LlavaHr && remainder.len() >= megabatch {
        order.extend(remainder.drain(..megabatch));
    }
    order.extend(shuffle.into_iter().flat_map(|i| whole[i].iter().copied()));
    if variant == GroupingVariant::Llava {
        remainder.sort_unstable();
    }
    order.extend(remainder);
    Ok(order)
}

/// `get_length_grouped_indices`: random megabatches, each sorted by length and dealt to its chunks.
fn length_grouped(
    lengths: &[i64],
    megabatch: usize,
    chunks: usize,
    permutation: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Result<Vec<usize>, Error> {
    let shuffled = checked(permutation(lengths.len()), lengths.len())?;
    let mut order = Vec::with_capacity(lengths.len());
    for members in shuffled.chunks(megabatch) {
        let mut members = members.to_vec();
        members.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
        split_to_even_chunks(&members, lengths, chunks, &mut order);
    }
    Ok(order)
}

/// Deals members, longest first, to the chunk with the smallest total; appends chunk after chunk.
fn split_to_even_chunks(members: &[usize], lengths: &[i64], chunks: usize, out: &mut Vec<usize>) {
    if !members.len().is_multiple_of(chunks) {
        for first in 0..chunks {
            out.extend(members.iter().skip(first).step_by(chunks));
        }
        return;
    }
    let size = members.len() / chunks;
    let mut dealt: Vec<Vec<usize>> = vec![Vec::with_capacity(size); chunks];
    // A full chunk has no total and takes no more.
    let mut totals: Vec<Option<i64>> = vec![Some(0); chunks];
    for &member in members {
        let smallest = (0..chunks)
            .filter_map(|c| totals[c].map(|total| (total, c)))
            .min();
        let Some((total, chunk)) = smallest else {
            break;
        };
        dealt[chunk].push(member);
        totals[chunk] = (dealt[chunk].len() < size).then(|| total.saturating_add(lengths[member]));
    }
    out.extend(dealt.into_iter().flatten());
}

fn checked(order: Vec<usize>, len: usize) -> Result<Vec<usize>, Error> {
    let mut seen = vec![false; len];
    let fits = |i: usize| i < len && !std::mem::replace(&mut seen[i], true);
    if order.len() != len || !order.iter().copied().all(fits) {
        return Err(invalid(format!(
            "the random order is no permutation of 0..{len}"
        )));
    }
    Ok(order)
}

fn invalid(reason: String) -> Error {
    Error::Invalid {
        what: "group_by_modality_length",
        reason,
    }
}
