//! The vision tower: pictures in, one feature row for each image position of the text out.
//!
//! Two paths (LLaVA-HR, LLaVAR-2): the ConvNeXt sees the picture at full size, CLIP sees it resized to
//! `max(S / 32 * 14, 336)`; between CLIP's layer groups the adapters add what the ConvNeXt found, and a
//! fusion layer joins both. One path: CLIP alone (LLaVA), with a choice of layers, or the ConvNeXt alone, whose last
//! stage goes to the projector as it is.

mod adapter;
mod clip;
mod convnext;
mod fusion;

use std::sync::Arc;

use llavar_tensor::{Result as TensorResult, Tape, Tensor, Var, ops::Resample};

use crate::{
    Checkpointing, Result,
    config::{self, FeatureSelect, VisionConfig},
    layers::{ParamSet, run_block},
};
use adapter::Adapter;
use clip::Clip;
use convnext::ConvNext;
pub use convnext::has_layer_scale;
use fusion::Fusion;

/// Sees the values between the stages of a forward pass, under the names that the modules' docs give.
pub type Observer<'a> = dyn FnMut(&str, &Var) + 'a;

const PREFIX: &str = "model.vision_tower";
/// CLIP's layers run in this many groups, with an adapter after each but the last.
const GROUPS: usize = 4;

/// The vision tower.
#[derive(Debug)]
pub struct VisionTower {
    config: VisionConfig,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Multipath(Multipath),
    Clip(Clip, FeatureSelect),
    ConvNext(ConvNext),
}

#[derive(Debug)]
struct Multipath {
    clip: Clip,
    convnext: ConvNext,
    adapters: Vec<Arc<Adapter>>,
    fusion: Fusion,
    /// The picture for CLIP, where its side is another.
    shrink: Option<Arc<Resample>>,
    grid: usize,
}

/// What the tower makes of pictures before its fusion: all that is needed of it where it is frozen.
///
/// # Shapes
/// Fast path, or the one that there is, `[B, N, C]`; with two paths the slow one too, `[B, s, s, Cs]`.
#[derive(Debug, Clone)]
pub struct TowerFeatures {
    rows: Tensor,
    slow: Option<Tensor>,
}

impl TowerFeatures {
    /// The fast path or the only one, then the slow one.
    pub fn parts(&self) -> Vec<Tensor> {
        std::iter::once(&self.rows)
            .chain(&self.slow)
            .cloned()
            .collect()
    }

    /// From [`TowerFeatures::parts`]; an empty list stands for no picture.
    pub fn from_parts(parts: Vec<Tensor>) -> Self {
        let mut parts = parts.into_iter();
        Self {
            rows: parts.next().unwrap_or_else(|| Tensor::zeros(&[0])),
            slow: parts.next(),
        }
    }
}

impl VisionTower {
    pub(crate) fn new(set: &ParamSet, config: &VisionConfig) -> Result<Self> {
        let scope = set.scope(PREFIX);
        let grid = config.grid();
        let kind = match &config.tower {
            config::VisionTower::Clip(clip, select) => Kind::Clip(
                Clip::new(&scope.at("vision_tower"), clip, grid)?,
                select.clone(),
            ),
            config::VisionTower::ConvNext(convnext) => {
                Kind::ConvNext(ConvNext::new(&scope.at("vision_tower"), convnext)?)
            }
            config::VisionTower::Multipath { clip, convnext, .. } => {
                let side = config.input_image_size;
                let fast_side = grid * clip.patch_size;
                let slow_grid = VisionConfig::slow_grid(side);
                let resample = slow_to_fast(slow_grid, grid);
                let has_adapters =
                    set.contains(&format!("{PREFIX}.align_stages_latent.0.gate.0.weight"));
                let adapters = (0..if has_adapters { GROUPS - 1 } else { 0 })
                    .map(|n| {
                        let scope = scope.at("align_stages_latent").at(n);
                        Ok(Arc::new(Adapter::new(&scope, resample.clone())?))
                    })
                    .collect::<Result<_>>()?;
                Kind::Multipath(Multipath {
                    clip: Clip::new(&scope.at("fast_vision_tower.vision_tower"), clip, grid)?,
                    convnext: ConvNext::new(&scope.at("slow_vision_tower.vision_tower"), convnext)?,
                    adapters,
                    fusion: Fusion::new(&scope.at("align_stages").at(0), resample)?,
                    shrink: (side != fast_side).then(|| {
                        Arc::new(Resample::bilinear_align_corners(
                            (side, side),
                            (fast_side, fast_side),
                        ))
                    }),
                    grid,
                })
            }
        };
        Ok(Self {
            config: config.clone(),
            kind,
        })
    }

    /// Side of the pictures it takes, pixels.
    pub fn image_size(&self) -> usize {
        self.config.input_image_size
    }

    /// Feature rows of one picture.
    pub fn tokens_per_image(&self) -> usize {
        self.config.image_tokens()
    }

    /// Shapes of [`TowerFeatures::parts`] of one picture.
    pub fn feature_shapes(&self) -> Vec<Vec<usize>> {
        let mut shapes = vec![vec![self.tokens_per_image(), self.config.feature_size()]];
        if let config::VisionTower::Multipath { convnext, .. } = &self.config.tower {
            let side = VisionConfig::slow_grid(self.config.input_image_size);
            shapes.push(vec![side, side, convnext.out_dim()]);
        }
        shapes
    }

    /// Normalised pictures to what stands before the fusion, without a gradient.
    ///
    /// # Errors
    /// As [`VisionTower::forward`].
    pub(crate) fn features(&self, pixels: &Var) -> TensorResult<TowerFeatures> {
        let (tape, whole) = (Tape::inference(), Checkpointing::NONE);
        let (rows, slow) = match &self.kind {
            Kind::Multipath(tower) => {
                let (fast, slow) = tower.paths(&tape, pixels, whole, &mut |_, _| {})?;
                (fast, Some(slow))
            }
            _ => (self.forward(&tape, pixels, whole, &mut |_, _| {})?, None),
        };
        Ok(TowerFeatures {
            rows: rows.value().clone(),
            slow: slow.map(|s| s.value().clone()),
        })
    }

    /// What [`VisionTower::forward`] does behind [`VisionTower::features`].
    pub(crate) fn join(&self, tape: &Tape, features: &TowerFeatures) -> TensorResult<Var> {
        let rows = Var::constant(features.rows.clone());
        match (&self.kind, &features.slow) {
            (Kind::Multipath(tower), Some(slow)) => {
                let slow = Var::constant(slow.clone());
                tower.fusion.forward(tape, &rows, &slow)
            }
            _ => Ok(rows),
        }
    }

    /// Blocks that can be computed again in the backward pass.
    pub(crate) fn blocks(&self) -> usize {
        match &self.kind {
            Kind::Multipath(m) => m.convnext.blocks() + m.clip.depth() + m.adapters.len(),
            Kind::Clip(_, select) => last_layer(select),
            Kind::ConvNext(convnext) => convnext.blocks(),
        }
    }

    /// Whether there are two paths.
    pub fn is_multipath(&self) -> bool {
        matches!(self.kind, Kind::Multipath(_))
    }

    /// Whether the adapters between the paths exist.
    pub fn has_adapters(&self) -> bool {
        matches!(&self.kind, Kind::Multipath(m) if !m.adapters.is_empty())
    }

    /// Normalised pictures to features.
    ///
    /// `observe` sees `slow.stem`, `slow.stage0` to `3` (`[B, H, W, C]`), `fast.embeddings`,
    /// `fast.pre_layrnorm`, `fast.layer{n}`, `align_latent0` to `2` and `vision_tower` (`[B, N, C]`).
    ///
    /// # Shapes
    /// `pixels [B, S, S, 3]`, f32, normalised -> `[B, N, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn forward(
        &self,
        tape: &Tape,
        pixels: &Var,
        checkpoint: impl Into<Checkpointing>,
        observe: &mut Observer<'_>,
    ) -> TensorResult<Var> {
        let checkpoint = checkpoint.into();
        let features = match &self.kind {
            Kind::Multipath(tower) => tower.forward(tape, pixels, checkpoint, observe)?,
            Kind::Clip(clip, select) => {
                clip_alone(clip, select, tape, pixels, checkpoint, observe)?
            }
            Kind::ConvNext(convnext) => {
                let map = convnext.forward(tape, pixels, checkpoint, observe)?;
                places_as_rows(tape, &map)?
            }
        };
        observe("vision_tower", &features);
        Ok(features)
    }
}

impl Multipath {
    fn forward(
        &self,
        tape: &Tape,
        pixels: &Var,
        checkpoint: Checkpointing,
        observe: &mut Observer<'_>,
    ) -> TensorResult<Var> {
        let (fast, slow) = self.paths(tape, pixels, checkpoint, observe)?;
        self.fusion.forward(tape, &fast, &slow)
    }

    /// Both paths with the adapters between them: `[B, N, C]` and `[B, s, s, Cs]`.
    fn paths(
        &self,
        tape: &Tape,
        pixels: &Var,
        checkpoint: Checkpointing,
        observe: &mut Observer<'_>,
    ) -> TensorResult<(Var, Var)> {
        // Blocks of the fast path that are still to come.
        let mut left = self.clip.depth() + self.adapters.len();
        let slow = self
            .convnext
            .forward(tape, pixels, checkpoint.before(left), observe)?;
        let small = match &self.shrink {
            Some(plan) => tape.resample(pixels, plan)?,
            None => pixels.clone(),
        };
        let mut x = self.clip.embed_patches(tape, &small)?;
        observe("fast.embeddings", &x);
        x = self.clip.pre_norm(tape, &x)?;
        observe("fast.pre_layrnorm", &x);
        let group = self.clip.depth() / GROUPS;
        for n in 0..self.clip.depth() {
            let again = checkpoint.recomputes(left);
            x = self.clip.layer(tape, n, &x, again, observe)?;
            left -= 1;
            if (n + 1) % group != 0 {
                continue;
            }
            let index = (n + 1) / group - 1;
            if let Some(adapter) = self.adapters.get(index) {
                let grid = self.grid;
                let mut out = run_block(
                    tape,
                    adapter,
                    &[&x, &slow],
                    checkpoint.recomputes(left),
                    move |adapter, tape, x| Ok(vec![adapter.forward(tape, &x[0], &x[1], grid)?]),
                )?;
                x = out.swap_remove(0);
                left -= 1;
                observe(&format!("align_latent{index}"), &x);
            }
        }
        Ok((x, slow))
    }
}

/// CLIP alone: the outputs of the chosen layers side by side.
fn clip_alone(
    clip: &Clip,
    select: &FeatureSelect,
    tape: &Tape,
    pixels: &Var,
    checkpoint: Checkpointing,
    observe: &mut Observer<'_>,
) -> TensorResult<Var> {
    let embeddings = clip.embed_all(tape, pixels)?;
    observe("fast.embeddings", &embeddings);
    let mut x = clip.pre_norm(tape, &embeddings)?;
    observe("fast.pre_layrnorm", &x);
    let mut chosen: Option<Var> = None;
    let last = last_layer(select);
    for done in 0..=last {
        if done > 0 {
            let again = checkpoint.recomputes(last + 1 - done);
            x = clip.layer(tape, done - 1, &x, again, observe)?;
        }
        if select.layers.contains(&done) {
            let features = if select.keep_class_token {
                // A place of its own on the tape: its gradient so comes after that of the next layer, whether that
                // is computed again or not, and sums are made in one order.
                tape.reshape(&x, x.shape())?
            } else {
                drop_class_token(tape, &x)?
            };
            chosen = Some(match chosen {
                None => features,
                Some(before) => {
                    let width = before.value().last_dim() + features.value().last_dim();
                    let mut shape = features.shape().to_vec();
                    if let Some(last) = shape.last_mut() {
                        *last = width;
                    }
                    tape.reshape(&tape.concat_last(&before, &features)?, &shape)?
                }
            });
        }
    }
    Ok(chosen.unwrap_or(x))
}

/// The last layer that runs, from 1; 0 where the embeddings are enough.
fn last_layer(select: &FeatureSelect) -> usize {
    select.layers.iter().copied().max().unwrap_or(0)
}

/// `[B, 1 + N, C]` -> `[B, N, C]`.
fn drop_class_token(tape: &Tape, x: &Var) -> TensorResult<Var> {
    let tokens = x.shape().get(1).copied().unwrap_or(0);
    tape.narrow_tokens(x, 1, tokens.saturating_sub(1))
}

/// `[B, s, s, C]` -> `[B, s * s, C]`: the places of a map, row by row.
fn places_as_rows(tape: &Tape, map: &Var) -> TensorResult<Var> {
    let batch = map.shape().first().copied().unwrap_or(0);
    let places = map.value().rows() / batch.max(1);
    tape.reshape(map, &[batch, places, map.value().last_dim()])
}

/// Slow grid to fast grid: bilinear up, average pool down, nothing where they are equal.
fn slow_to_fast(slow: usize, fast: usize) -> Option<Arc<Resample>> {
    let plan = match slow.cmp(&fast) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => Resample::bilinear_align_corners((slow, slow), (fast, fast)),
        std::cmp::Ordering::Greater => Resample::avg_pool((slow, slow), slow / fast.max(1)),
    };
    Some(Arc::new(plan))
}
