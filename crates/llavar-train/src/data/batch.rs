//! `Batch`: what one forward pass takes.

use llavar_data::{
    Encoded, IGNORE_INDEX, Tokenizer,
    packing::{PackedBatch, PaddedBatch},
};
use llavar_image::ImageProcessor;
use llavar_tensor::{Segments, Tensor};

use super::Prepared;
use crate::{TrainError, recipe::Layout};

/// One micro-batch.
///
/// # Shapes
/// `ids`, `labels`: `[T]`, images expanded; `pixels`: `[images, S, S, 3]`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<i32>,
    pub(crate) labels: Vec<i32>,
    pub(crate) segments: Segments,
    pub(crate) pixels: Option<Tensor>,
    /// Images in it.
    pub(crate) images: usize,
    /// Tokens whose prediction counts.
    pub(crate) supervised: usize,
    /// Tokens without padding.
    pub(crate) tokens: usize,
}

impl Batch {
    /// Joins samples; an image takes `image_tokens` positions.
    pub(crate) fn new(
        samples: &[Prepared],
        layout: Layout,
        image_tokens: usize,
        tokenizer: &Tokenizer,
        processor: Option<&ImageProcessor>,
    ) -> Result<Self, TrainError> {
        let encoded: Vec<&Encoded> = samples.iter().map(|s| &s.encoded).collect();
        let tokens = encoded.iter().map(|e| e.expanded_len(image_tokens)).sum();
        let (ids, mut labels, segments) = match layout {
            Layout::Packed => {
                let batch = PackedBatch::new(&encoded, image_tokens)?;
                let cu = batch.cu_seqlens.iter().map(|&x| x as i32).collect();
                (batch.ids, batch.labels, Segments::new(cu)?)
            }
            Layout::Padded => {
                let batch = PaddedBatch::new(&encoded, image_tokens, tokenizer.pad_id())?;
                let rows = std::iter::repeat_n(batch.row_len, batch.rows());
                let segments = Segments::from_lengths(rows);
                (batch.ids, batch.labels, segments)
            }
        };
        // Nothing stands before the first token of a sample, so it is never predicted.
        for range in segments.ranges() {
            if let Some(label) = labels.get_mut(range.start) {
                *label = IGNORE_INDEX;
            }
        }
        let supervised = labels.iter().filter(|&&l| l != IGNORE_INDEX).count();
        let (pixels, images) = pixels(samples, processor)?;
        Ok(Self {
            ids: ids.into_iter().map(|id| id as i32).collect(),
            labels: labels.into_iter().map(|l| l as i32).collect(),
            segments,
            pixels,
            images,
            supervised,
            tokens,
        })
    }
}

fn pixels(
    samples: &[Prepared],
    processor: Option<&ImageProcessor>,
) -> Result<(Option<Tensor>, usize), TrainError> {
    let images: Vec<_> = samples.iter().flat_map(|s| &s.images).collect();
    let Some(processor) = processor.filter(|_| !images.is_empty()) else {
        return Ok((None, 0));
    };
    let size = processor.size;
    let mut tensor = Tensor::zeros(&[images.len(), size, size, 3]);
    let out = tensor.data_mut::<f32>()?;
    for (out, image) in out.chunks_exact_mut(processor.output_len()).zip(&images) {
        // The pictures were made by this very processor, so only a bug can fail here.
        let fit = processor.normalise_into(image, out);
        fit.map_err(|e| TrainError::model(None, e))?;
    }
    Ok((Some(tensor), images.len()))
}

/// Cuts the samples of a step into micro-batches of at most `max_tokens` tokens, in order; a longer
/// sample stands alone.
pub(crate) fn split_by_tokens(lengths: &[usize], max_tokens: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    let (mut count, mut tokens) = (0, 0usize);
    for &length in lengths {
        if count > 0 && tokens.saturating_add(length) > max_tokens {
            counts.push(std::mem::take(&mut count));
            tokens = 0;
        }
        count += 1;
        tokens = tokens.saturating_add(length);
    }
    if count > 0 {
        counts.push(count);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::split_by_tokens;

    #[test]
    fn token_budgets_are_kept() {
        assert_eq!(split_by_tokens(&[3, 3, 3, 9, 1], 6), [2, 1, 1, 1]);
        assert_eq!(split_by_tokens(&[1, 1, 1], 100), [3]);
        assert!(split_by_tokens(&[], 6).is_empty());
    }
}
