//! `Batch`: what one forward pass takes.

use std::sync::Arc;

use llavar_data::{
    Encoded, IGNORE_INDEX, Tokenizer,
    packing::{PackedBatch, PaddedBatch},
};
use llavar_image::ImageProcessor;
use llavar_tensor::{DType, Device, PixelLevels, Segments, Tensor};

use super::{Picture, Prepared};
use crate::{
    TrainError,
    features::{Features, PictureKey},
    recipe::Layout,
};

/// One micro-batch.
///
/// # Shapes
/// `ids`, `labels`: `[T]`, images expanded.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<i32>,
    pub(crate) labels: Vec<i32>,
    pub(crate) segments: Segments,
    pub(crate) pictures: Option<Pictures>,
    /// Tokens whose prediction counts.
    pub(crate) supervised: usize,
    /// Number of the sample in each segment.
    pub(crate) samples: Vec<usize>,
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
        let (ids, mut labels, segments, slots) = match layout {
            Layout::Packed => {
                let batch = PackedBatch::new(&encoded, image_tokens)?;
                let cu = batch.cu_seqlens.iter().map(|&x| x as i32).collect();
                (batch.ids, batch.labels, Segments::new(cu)?, batch.images)
            }
            Layout::Padded => {
                let batch = PaddedBatch::new(&encoded, image_tokens, tokenizer.pad_id())?;
                let rows = std::iter::repeat_n(batch.row_len, batch.rows());
                let segments = Segments::from_lengths(rows);
                let slots = batch.images.into_iter().map(|mut slot| {
                    slot.start += slot.sample * batch.row_len;
                    slot
                });
                (batch.ids, batch.labels, segments, slots.collect())
            }
        };
        // The label of a position is what the token before it is to say.
        for slot in slots {
            let cells = &samples[slot.sample].cells;
            if let Some(row) = labels.get_mut(slot.start + 1..slot.start + 1 + cells.len()) {
                row.copy_from_slice(cells);
            }
        }
        // Nothing stands before the first token of a sample, so it is never predicted.
        for range in segments.ranges() {
            if let Some(label) = labels.get_mut(range.start) {
                *label = IGNORE_INDEX;
            }
        }
        let supervised = labels.iter().filter(|&&l| l != IGNORE_INDEX).count();
        Ok(Self {
            ids: ids.into_iter().map(|id| id as i32).collect(),
            labels: labels.into_iter().map(|l| l as i32).collect(),
            segments,
            pictures: processor.and_then(|processor| Pictures::new(samples, processor)),
            supervised,
            samples: samples.iter().map(|s| s.index).collect(),
        })
    }

    /// Its pictures.
    pub(crate) fn images(&self) -> usize {
        self.pictures.as_ref().map_or(0, Pictures::len)
    }
}

/// The pictures of a micro-batch side by side, as bytes: a quarter of the room of floats, and of what goes
/// to a GPU. Where features are kept on disk, those that are known stand for themselves.
#[derive(Debug)]
pub(crate) struct Pictures {
    /// Of the pictures that the tower has to see.
    rgb: Vec<u8>,
    keys: Vec<PictureKey>,
    /// Of every picture.
    known: Vec<Option<Arc<Features>>>,
    size: usize,
    levels: Box<PixelLevels>,
}

impl Pictures {
    fn new(samples: &[Prepared], processor: &ImageProcessor) -> Option<Self> {
        let mut pictures = Self {
            rgb: Vec::new(),
            keys: Vec::new(),
            known: Vec::new(),
            size: processor.size,
            levels: Box::new(processor.levels()),
        };
        let images = || samples.iter().flat_map(|s| &s.images);
        pictures
            .rgb
            .reserve(images().count() * processor.output_len());
        for image in images() {
            match image {
                Picture::Pixels(image, key) => {
                    pictures.rgb.extend_from_slice(&image.data);
                    pictures.keys.extend(key);
                    pictures.known.push(None);
                }
                Picture::Known(features) => pictures.known.push(Some(Arc::clone(features))),
            }
        }
        (!pictures.known.is_empty()).then_some(pictures)
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Every picture in order, with its features where they are known.
    pub(crate) fn known(&self) -> impl Iterator<Item = Option<&Arc<Features>>> {
        self.known.iter().map(Option::as_ref)
    }

    /// The keys of the others, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = PictureKey> {
        self.keys.iter().copied()
    }

    /// The normalised pixels of those whose features are not known, `[images, S, S, 3]`; `None` without any.
    pub(crate) fn pixels(
        &self,
        device: &Device,
        dtype: DType,
    ) -> Result<Option<Tensor>, TrainError> {
        let count = self.known().filter(Option::is_none).count();
        if count == 0 {
            return Ok(None);
        }
        let shape = [count, self.size, self.size, 3];
        let pixels = Tensor::from_rgb(&self.rgb, &shape, &self.levels, device, dtype)?;
        Ok(Some(pixels))
    }
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
    #![allow(clippy::unwrap_used)]

    use llavar_data::{Encoded, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Tokenizer};

    use super::{Batch, Layout, Prepared, split_by_tokens};

    fn sample(index: usize, ids: &[i64], labels: &[i64], cells: &[i64]) -> Prepared {
        Prepared {
            index,
            encoded: Encoded {
                ids: ids.to_vec(),
                labels: labels.to_vec(),
                turns: Vec::new(),
            },
            images: Vec::new(),
            cells: cells.to_vec(),
            cut: None,
        }
    }

    /// The token after a picture's last is predicted from that last one: a label stands one place after the image
    /// token that is to say it, since the model shifts labels.
    #[test]
    fn cells_stand_one_after_their_image_tokens() {
        const NO: i64 = IGNORE_INDEX;
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
        let tokenizer = Tokenizer::from_json(json, &serde_json::json!({})).unwrap();
        let image = IMAGE_TOKEN_INDEX;
        let samples = [
            sample(0, &[1, 5, 6], &[NO, NO, 6], &[]),
            sample(1, &[1, image, 7, 8], &[NO, NO, NO, 8], &[21, 22, 23]),
        ];
        let packed = Batch::new(&samples, Layout::Packed, 3, &tokenizer, None).unwrap();
        let no = NO as i32;
        assert_eq!(packed.labels, [no, no, 6, no, no, 21, 22, 23, 8]);
        let padded = Batch::new(&samples, Layout::Padded, 3, &tokenizer, None).unwrap();
        assert_eq!(
            padded.labels,
            [no, no, 6, no, no, no, no, no, 21, 22, 23, 8]
        );
        for batch in [&packed, &padded] {
            let counted: usize = samples.iter().map(Prepared::supervised).sum();
            assert_eq!(batch.supervised, counted);
        }
    }

    #[test]
    fn token_budgets_are_kept() {
        assert_eq!(split_by_tokens(&[3, 3, 3, 9, 1], 6), [2, 1, 1, 1]);
        assert_eq!(split_by_tokens(&[1, 1, 1], 100), [3]);
        assert!(split_by_tokens(&[], 6).is_empty());
    }
}
