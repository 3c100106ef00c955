//! The forward pass: pictures to rows, rows and ids to hidden states, hidden states to a loss or logits.

use std::sync::Arc;

use llavar_tensor::{Segments, Tape, Tensor, Var, ops::TokenLoss};

use super::LlavaModel;
use crate::{
    Checkpointing, ModelError, Result,
    language_model::{Targets, check_count},
    vision_tower::{Observer, TowerFeatures, VisionTower},
};

impl LlavaModel {
    /// Pictures to rows for the text. With `checkpoint`, layers are computed again in the backward pass.
    ///
    /// # Shapes
    /// `pixels [B, S, S, 3]`, normalised as the image processor does, on the CPU or where the model is ->
    /// `[B * N, D]`.
    ///
    /// # Errors
    /// Without a vision tower, or for another shape.
    pub fn encode_images(
        &self,
        tape: &Tape,
        pixels: &Tensor,
        checkpoint: impl Into<Checkpointing>,
    ) -> Result<Var> {
        self.encode_images_observed(tape, pixels, checkpoint, &mut |_, _| {})
    }

    /// As [`LlavaModel::encode_images`], showing the stages of [`VisionTower::forward`] and `projector`.
    ///
    /// # Errors
    /// As [`LlavaModel::encode_images`].
    pub fn encode_images_observed(
        &self,
        tape: &Tape,
        pixels: &Tensor,
        checkpoint: impl Into<Checkpointing>,
        observe: &mut Observer<'_>,
    ) -> Result<Var> {
        let checkpoint = checkpoint.into().before(self.language_model.depth());
        let (tower, pixels) = self.tower_input(pixels)?;
        let features = tower.forward(tape, &pixels, checkpoint, observe)?;
        self.project(tape, &features, observe)
    }

    /// The part of [`LlavaModel::encode_images`] that does not change while the tower is frozen, without a
    /// gradient.
    ///
    /// # Errors
    /// As [`LlavaModel::encode_images`].
    pub fn tower_features(&self, pixels: &Tensor) -> Result<TowerFeatures> {
        let (tower, pixels) = self.tower_input(pixels)?;
        Ok(tower.features(&pixels)?)
    }

    /// The rest of it: fusion and projector, on features that are where the model is.
    ///
    /// # Errors
    /// Without a vision tower, or for other shapes.
    pub fn encode_features(&self, tape: &Tape, features: &TowerFeatures) -> Result<Var> {
        let Some(tower) = &self.vision_tower else {
            return Err(ModelError::NoVisionTower);
        };
        let features = tower.join(tape, features)?;
        self.project(tape, &features, &mut |_, _| {})
    }

    /// `[B, N, C]` -> `[B * N, D]`.
    fn project(&self, tape: &Tape, features: &Var, observe: &mut Observer<'_>) -> Result<Var> {
        let Some(projector) = &self.mm_projector else {
            return Err(ModelError::NoVisionTower);
        };
        let features = projector.forward(tape, features)?;
        observe("projector", &features);
        let rows = [features.value().rows(), features.value().last_dim()];
        Ok(tape.reshape(&features, &rows)?)
    }

    /// The tower, and pixels of its size where and as it computes.
    fn tower_input(&self, pixels: &Tensor) -> Result<(&VisionTower, Var)> {
        let Some(tower) = &self.vision_tower else {
            return Err(ModelError::NoVisionTower);
        };
        let size = tower.image_size();
        let &[_, height, width, 3] = pixels.shape() else {
            return Err(ModelError::PixelShape {
                size,
                got: pixels.shape().to_vec(),
            });
        };
        if (height, width) != (size, size) {
            return Err(ModelError::PixelShape {
                size,
                got: pixels.shape().to_vec(),
            });
        }
        let pixels = pixels.to_device(&self.device())?;
        let pixels = pixels.cast(self.activation_dtype())?;
        Ok((tower, Var::constant(pixels)))
    }

    /// The language model's output after its final norm.
    ///
    /// # Shapes
    /// `ids [T]`, a negative id for each image position; `segments` over T tokens, positions restart with
    /// each; `features [M, D]` with M negative ids -> `[T, D]`.
    ///
    /// # Errors
    /// When the lengths do not fit or an id is outside the vocabulary.
    pub fn hidden(
        &self,
        tape: &Tape,
        ids: &[i32],
        segments: &Segments,
        features: Option<&Var>,
        checkpoint: impl Into<Checkpointing>,
    ) -> Result<Var> {
        self.hidden_of(tape, ids, segments, features, checkpoint.into(), None)
    }

    /// As [`LlavaModel::hidden`], of the rows in `read` alone where it is given.
    fn hidden_of(
        &self,
        tape: &Tape,
        ids: &[i32],
        segments: &Segments,
        features: Option<&Var>,
        checkpoint: Checkpointing,
        read: Option<Arc<[usize]>>,
    ) -> Result<Var> {
        check_count("segments", ids.len(), segments.total())?;
        let expected = features.map_or(0, |f| f.value().rows());
        let got = ids.iter().filter(|id| **id < 0).count();
        if expected != got {
            let tokens_per_image = self.tokens_per_image().unwrap_or(0);
            return Err(ModelError::ImagePositions {
                expected,
                got,
                tokens_per_image,
            });
        }
        let x = self.language_model.embed(tape, ids, features)?;
        Ok(self
            .language_model
            .forward(tape, &x, segments, checkpoint, read)?)
    }

    /// Sum of the next-token losses of a packed stream, with the number of supervised tokens.
    ///
    /// # Shapes
    /// `ids [T]` as in [`LlavaModel::hidden`], `labels [T]` unshifted (-100 where nothing is supervised),
    /// `pixels [B, S, S, 3]`: the pictures in the order of their positions.
    ///
    /// # Errors
    /// As [`LlavaModel::encode_images`] and [`LlavaModel::hidden`].
    pub fn loss(
        &self,
        tape: &Tape,
        ids: &[i32],
        labels: &[i32],
        segments: &Segments,
        pixels: Option<&Tensor>,
        checkpoint: impl Into<Checkpointing>,
    ) -> Result<TokenLoss> {
        let checkpoint = checkpoint.into();
        let rows = pixels
            .map(|p| self.encode_images(tape, p, checkpoint))
            .transpose()?;
        self.loss_of_rows(tape, ids, labels, segments, rows.as_ref(), checkpoint)
    }

    /// As [`LlavaModel::loss`] with pictures that are rows for the text already.
    ///
    /// # Shapes
    /// `rows [M, D]` as [`LlavaModel::encode_images`] gives them.
    ///
    /// # Errors
    /// As [`LlavaModel::hidden`].
    pub fn loss_of_rows(
        &self,
        tape: &Tape,
        ids: &[i32],
        labels: &[i32],
        segments: &Segments,
        rows: Option<&Var>,
        checkpoint: impl Into<Checkpointing>,
    ) -> Result<TokenLoss> {
        check_count("labels", ids.len(), labels.len())?;
        let targets = Targets::new(labels, segments)?;
        let read = targets.read();
        let checkpoint = checkpoint.into();
        let hidden = self.hidden_of(tape, ids, segments, rows, checkpoint, read.clone())?;
        let model = &self.language_model;
        let loss = match read {
            None => tape.linear_cross_entropy(&hidden, model.lm_head(), &targets.labels),
            Some(read) => model.loss_of_read(tape, &hidden, &targets, &read),
        };
        Ok(loss?)
    }

    /// Logits of some rows.
    ///
    /// # Shapes
    /// `hidden [T, D]` -> `[T, V]`.
    ///
    /// # Errors
    /// When the width is another.
    pub fn logits(&self, tape: &Tape, hidden: &Var) -> Result<Var> {
        Ok(self.language_model.logits(tape, hidden)?)
    }
}

/// Each negative id (a picture) repeated for its `tokens_per_image` positions.
pub fn expand_image_tokens(ids: &[i32], tokens_per_image: usize) -> Vec<i32> {
    ids.iter()
        .flat_map(|id| std::iter::repeat_n(*id, if *id < 0 { tokens_per_image } else { 1 }))
        .collect()
}
