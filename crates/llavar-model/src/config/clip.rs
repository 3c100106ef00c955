//! Shape of the CLIP vision transformer, the fast path.

use serde_json::{Map, Value};

use super::{
    fields::{Fields, Problems},
    vision::MAX_IMAGE_SIZE,
};

/// Activation in the CLIP MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipActivation {
    /// `x * sigmoid(1.702 x)`, of the OpenAI weights.
    QuickGelu,
    /// Exact (erf) GELU, of LAION weights.
    Gelu,
}

/// Shape of the CLIP vision transformer (fast path).
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Width.
    pub hidden_size: usize,
    /// Layers; four groups of equal size in the two-path tower.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Side of the picture that the position embeddings are made for, pixels.
    pub image_size: usize,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Activation.
    pub activation: ClipActivation,
}

impl ClipConfig {
    /// Patches along one side of the position table.
    pub fn position_grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Rows of the position table: the class token and the grid.
    pub fn positions(&self) -> usize {
        self.position_grid() * self.position_grid() + 1
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Published folders do not carry these sizes; they follow from the tower's name.
    fn by_name(name: &str) -> Self {
        let image_size = if name.contains("336") { 336 } else { 224 };
        let (hidden_size, layers, heads, patch_size, image_size) = if name.contains("base-patch16")
        {
            (768, 12, 12, 16, 224)
        } else if name.contains("base-patch32") {
            (768, 12, 12, 32, 224)
        } else if name.contains("large-patch14") {
            (1024, 24, 16, 14, image_size)
        } else {
            (1024, 24, 16, 14, 336)
        };
        Self {
            hidden_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: 4 * hidden_size,
            patch_size,
            image_size,
            layer_norm_eps: 1e-5,
            activation: ClipActivation::QuickGelu,
        }
    }

    pub(super) fn read(
        name: &str,
        map: Option<&Map<String, Value>>,
        problems: &mut Problems,
    ) -> Self {
        let default = Self::by_name(name);
        let Some(map) = map else { return default };
        let fields = Fields::new(map, "clip_vision_config");
        let clip = Self {
            hidden_size: fields.size("hidden_size", Some(default.hidden_size), problems),
            num_hidden_layers: fields.size_below(
                "num_hidden_layers",
                Some(default.num_hidden_layers),
                1024,
                problems,
            ),
            num_attention_heads: fields.size_below(
                "num_attention_heads",
                Some(default.num_attention_heads),
                1024,
                problems,
            ),
            intermediate_size: fields.size(
                "intermediate_size",
                Some(default.intermediate_size),
                problems,
            ),
            patch_size: fields.size_below("patch_size", Some(default.patch_size), 256, problems),
            image_size: fields.size_below(
                "image_size",
                Some(default.image_size),
                MAX_IMAGE_SIZE,
                problems,
            ),
            layer_norm_eps: fields.positive(
                "layer_norm_eps",
                Some(default.layer_norm_eps),
                problems,
            ),
            activation: match fields.string("hidden_act", problems) {
                None | Some("quick_gelu") => ClipActivation::QuickGelu,
                Some("gelu") => ClipActivation::Gelu,
                Some(other) => {
                    problems.add(
                        fields.path("hidden_act"),
                        format!("\"{other}\""),
                        "\"quick_gelu\" or \"gelu\"",
                    );
                    ClipActivation::QuickGelu
                }
            },
        };
        if !clip.hidden_size.is_multiple_of(clip.num_attention_heads) {
            problems.add(
                fields.path("num_attention_heads"),
                clip.num_attention_heads,
                format!(
                    "a divisor of clip_vision_config.hidden_size = {}",
                    clip.hidden_size
                ),
            );
        }
        if !clip.image_size.is_multiple_of(clip.patch_size) {
            problems.add(
                fields.path("image_size"),
                clip.image_size,
                format!(
                    "a multiple of clip_vision_config.patch_size = {}",
                    clip.patch_size
                ),
            );
        }
        clip
    }
}
