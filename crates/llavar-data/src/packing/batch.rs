//! What the model gets: a packed stream, or padded rows.

use crate::error::Error;
use crate::template::Encoded;
use crate::{IGNORE_INDEX, IMAGE_TOKEN_INDEX};

/// Where the features of one image go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSlot {
    /// Number of the sample in the batch.
    pub sample: usize,
    /// First position: in the stream for [`PackedBatch`], in the row for [`PaddedBatch`].
    pub start: usize,
    /// Features.
    pub len: usize,
}

/// Samples one after the other in a single token stream.
///
/// # Shapes
/// `ids`, `labels`, `position_ids`: `[T]`; `cu_seqlens`: `[samples + 1]`. Each image is expanded to
/// its features: its ids are [`IMAGE_TOKEN_INDEX`], its labels [`IGNORE_INDEX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// Vocabulary ids and image positions.
    pub ids: Vec<i64>,
    /// Labels at their own positions (not shifted). The first of each sample is never supervised:
    /// nothing of that sample stands before it.
    pub labels: Vec<i64>,
    /// Positions, from 0 in each sample.
    pub position_ids: Vec<u32>,
    /// Where each sample starts, and the end of the last.
    pub cu_seqlens: Vec<u32>,
    /// One entry an image, in stream order.
    pub images: Vec<ImageSlot>,
}

impl PackedBatch {
    /// Joins samples. Each image becomes `image_tokens` positions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no sample, an empty sample, zero `image_tokens` where there are
    /// images, or a stream of more than `u32::MAX` tokens.
    pub fn new(samples: &[&Encoded], image_tokens: usize) -> Result<Self, Error> {
        let total = check(samples, image_tokens)?;
        let mut batch = Self {
            ids: Vec::with_capacity(total),
            labels: Vec::with_capacity(total),
            position_ids: Vec::with_capacity(total),
            cu_seqlens: vec![0],
            images: Vec::new(),
        };
        for (number, sample) in samples.iter().enumerate() {
            let start = batch.ids.len();
            expand(
                sample,
                image_tokens,
                &mut batch.ids,
                &mut batch.labels,
                |at| {
                    batch.images.push(ImageSlot {
                        sample: number,
                        start: at,
                        len: image_tokens,
                    });
                },
            );
            if let Some(first) = batch.labels.get_mut(start) {
                *first = IGNORE_INDEX;
            }
            let end = batch.ids.len();
            batch.position_ids.extend(0..(end - start) as u32);
            batch.cu_seqlens.push(end as u32);
        }
        Ok(batch)
    }

    /// Tokens in the stream.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token; never true for a built batch.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of supervised tokens.
    pub fn supervised(&self) -> usize {
        self.labels.iter().filter(|&&l| l != IGNORE_INDEX).count()
    }
}

/// Samples as rows of equal length, padded on the right, as the reference trains.
///
/// # Shapes
/// `ids`, `labels`, `attention_mask`, `position_ids`: `[rows, row_len]`, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedBatch {
    /// Vocabulary ids, image positions and padding.
    pub ids: Vec<i64>,
    /// Labels at their own positions; padding is [`IGNORE_INDEX`].
    pub labels: Vec<i64>,
    /// Whether a position is no padding.
    pub attention_mask: Vec<bool>,
    /// Positions, from 0 in each row, running on through the padding.
    pub position_ids: Vec<u32>,
    /// Tokens of each row without padding.
    pub lengths: Vec<usize>,
    /// Length of every row.
    pub row_len: usize,
    /// One entry an image, row by row.
    pub images: Vec<ImageSlot>,
}

impl PaddedBatch {
    /// Pads samples to the longest. Each image becomes `image_tokens` positions; 1 gives the layout
    /// of the reference before the features are inserted.
    ///
    /// # Errors
    /// As [`PackedBatch::new`].
    pub fn new(samples: &[&Encoded], image_tokens: usize, pad_id: u32) -> Result<Self, Error> {
        check(samples, image_tokens)?;
        let lengths: Vec<usize> = samples
            .iter()
            .map(|s| s.expanded_len(image_tokens))
            .collect();
        let row_len = lengths.iter().copied().max().unwrap_or(0);
        let mut batch = Self {
            ids: Vec::new(),
            labels: Vec::new(),
            attention_mask: Vec::new(),
            position_ids: Vec::new(),
            lengths,
            row_len,
            images: Vec::new(),
        };
        for (number, sample) in samples.iter().enumerate() {
            let row = number * row_len;
            expand(
                sample,
                image_tokens,
                &mut batch.ids,
                &mut batch.labels,
                |at| {
                    batch.images.push(ImageSlot {
                        sample: number,
                        start: at - row,
                        len: image_tokens,
                    });
                },
            );
            batch.attention_mask.resize(batch.ids.len(), true);
            batch.ids.resize(row + row_len, i64::from(pad_id));
            batch.labels.resize(row + row_len, IGNORE_INDEX);
            batch.attention_mask.resize(row + row_len, false);
            batch.position_ids.extend(0..row_len as u32);
        }
        Ok(batch)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }
}

fn check(samples: &[&Encoded], image_tokens: usize) -> Result<usize, Error> {
    let invalid = |reason: String| Error::Invalid {
        what: "batch",
        reason,
    };
    if samples.is_empty() {
        return Err(invalid("no samples".into()));
    }
    let mut total = 0usize;
    let mut longest = 0usize;
    for (number, sample) in samples.iter().enumerate() {
        if sample.ids.is_empty() || sample.ids.len() != sample.labels.len() {
            return Err(invalid(format!(
                "sample {number} of the batch has {} ids and {} labels",
                sample.ids.len(),
                sample.labels.len()
            )));
        }
        if image_tokens == 0 && sample.images() > 0 {
            return Err(invalid("an image needs at least one token".into()));
        }
        let length = sample.expanded_len(image_tokens);
        longest = longest.max(length);
        total = total.saturating_add(length);
    }
    if longest.saturating_mul(samples.len()) > u32::MAX as usize {
        return Err(invalid(format!(
            "{total} tokens are too many for one batch"
        )));
    }
    Ok(total)
}

fn expand(
    sample: &Encoded,
    image_tokens: usize,
    ids: &mut Vec<i64>,
    labels: &mut Vec<i64>,
    mut image_at: impl FnMut(usize),
) {
    for (&id, &label) in sample.ids.iter().zip(&sample.labels) {
        if id == IMAGE_TOKEN_INDEX {
            image_at(ids.len());
            ids.resize(ids.len() + image_tokens, IMAGE_TOKEN_INDEX);
            labels.resize(labels.len() + image_tokens, IGNORE_INDEX);
        } else {
            ids.push(id);
            labels.push(label);
        }
    }
}
