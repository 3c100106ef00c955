//! The vision tower's part of `config.json`: CLIP alone, or CLIP and ConvNeXt side by side.

use serde_json::{Map, Value};

use super::fields::{Fields, Problems};

/// The ConvNeXt stem and stages halve the picture five times.
pub const SLOW_STRIDE: usize = 32;

/// Largest accepted picture side in pixels: its 16,384 image tokens are beyond every published use.
pub const MAX_IMAGE_SIZE: usize = 4096;

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

    fn read(name: &str, map: Option<&Map<String, Value>>, problems: &mut Problems) -> Self {
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
        if clip.hidden_size % clip.num_attention_heads != 0 {
            problems.add(
                fields.path("num_attention_heads"),
                clip.num_attention_heads,
                format!(
                    "a divisor of clip_vision_config.hidden_size = {}",
                    clip.hidden_size
                ),
            );
        }
        if clip.image_size % clip.patch_size != 0 {
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

/// Shape of the ConvNeXt (slow path).
#[derive(Debug, Clone, PartialEq)]
pub struct ConvNextConfig {
    /// Channels of the four stages.
    pub dims: [usize; 4],
    /// Blocks of the four stages.
    pub depths: [usize; 4],
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
}

impl ConvNextConfig {
    /// Channels of the only feature used, the last stage's output.
    pub fn out_dim(&self) -> usize {
        self.dims[3]
    }

    /// `convnext_large_mlp` unless the name says `xxlarge`, as the reference decides.
    fn by_name(name: &str) -> Self {
        if name.contains("xxlarge") {
            Self {
                dims: [384, 768, 1536, 3072],
                depths: [3, 4, 30, 3],
                layer_norm_eps: 1e-5,
            }
        } else {
            Self {
                dims: [192, 384, 768, 1536],
                depths: [3, 3, 27, 3],
                layer_norm_eps: 1e-6,
            }
        }
    }

    fn read(name: &str, map: Option<&Map<String, Value>>, problems: &mut Problems) -> Self {
        let default = Self::by_name(name);
        let Some(map) = map else { return default };
        let fields = Fields::new(map, "convnext_config");
        Self {
            dims: fields.four_sizes("dims", default.dims, 1 << 16, problems),
            depths: fields.four_sizes("depths", default.depths, 1024, problems),
            layer_norm_eps: fields.positive(
                "layer_norm_eps",
                Some(default.layer_norm_eps),
                problems,
            ),
        }
    }
}

/// Which features of a lone CLIP tower are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureSelect {
    /// Number of encoder layers that are run: `mm_vision_select_layer` counted from the front (-2 of 24
    /// layers is 23; 0 is the embedding output).
    pub layers: usize,
    /// Whether the class token stays (`cls_patch`) or not (`patch`).
    pub keep_class_token: bool,
}

/// How the picture is seen.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionTower {
    /// CLIP and ConvNeXt with adapters and fusion (LLaVA-HR, LLaVAR-2).
    Multipath {
        /// The slow path.
        convnext: ConvNextConfig,
        /// What `freeze_vision` says. Whether adapters exist is decided by the tensors of the weight
        /// files, not by this.
        freeze_vision: Option<bool>,
    },
    /// CLIP alone (LLaVA).
    Single(FeatureSelect),
}

/// Shape of the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// One path or two.
    pub tower: VisionTower,
    /// The CLIP transformer.
    pub clip: ClipConfig,
    /// Side of the square picture that enters, pixels.
    pub input_image_size: usize,
}

impl VisionConfig {
    /// Whether there are two paths.
    pub fn is_multipath(&self) -> bool {
        matches!(self.tower, VisionTower::Multipath { .. })
    }

    /// Side of the ConvNeXt output grid for a picture of `image_size` pixels.
    pub fn slow_grid(image_size: usize) -> usize {
        image_size / SLOW_STRIDE
    }

    /// Side in pixels of the picture that CLIP sees.
    ///
    /// # Source
    /// `max(S / 32 * 14, 336)` of the reference, with the tower's own patch and image size.
    pub fn fast_image_size(&self) -> usize {
        match self.tower {
            VisionTower::Multipath { .. } => (self.input_image_size / SLOW_STRIDE
                * self.clip.patch_size)
                .max(self.clip.image_size),
            VisionTower::Single(_) => self.input_image_size,
        }
    }

    /// Patches along one side of the picture that CLIP sees.
    pub fn fast_grid(&self) -> usize {
        self.fast_image_size() / self.clip.patch_size
    }

    /// Number of positions that one picture takes in the text.
    pub fn image_tokens(&self) -> usize {
        let patches = self.fast_grid() * self.fast_grid();
        match &self.tower {
            VisionTower::Single(select) if select.keep_class_token => patches + 1,
            _ => patches,
        }
    }

    /// Every picture side in pixels, up to [`MAX_IMAGE_SIZE`], that this tower can take.
    ///
    /// With two paths the side is a multiple of 32, and the two grids are equal or the smaller (slow) one
    /// has a token count that divides the other's.
    pub fn possible_image_sizes(&self) -> Vec<usize> {
        match self.tower {
            VisionTower::Single(_) => vec![self.clip.image_size],
            VisionTower::Multipath { .. } => (1..=MAX_IMAGE_SIZE / SLOW_STRIDE)
                .filter(|&slow| {
                    let fast = slow.max(self.clip.position_grid());
                    (fast * fast) % (slow * slow) == 0
                })
                .map(|slow| slow * SLOW_STRIDE)
                .collect(),
        }
    }

    pub(crate) fn read(map: &Map<String, Value>, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::new(map, "");
        let name = fields.string("mm_vision_tower", problems)?;
        let clip = ClipConfig::read(
            name,
            fields.object("clip_vision_config", problems),
            problems,
        );
        let multipath = fields.boolean("is_multipath_encoder", false, problems);
        let (tower, default_size) = if multipath {
            let slow = fields
                .string("vision_tower_slow", problems)
                .unwrap_or("convnext_large_mlp");
            if !slow.to_ascii_lowercase().contains("convnext") {
                problems.add(
                    "vision_tower_slow",
                    format!("\"{slow}\""),
                    "the name of a ConvNeXt",
                );
            }
            let convnext =
                ConvNextConfig::read(slow, fields.object("convnext_config", problems), problems);
            if clip.num_hidden_layers % 4 != 0 {
                problems.add(
                    "clip_vision_config.num_hidden_layers",
                    clip.num_hidden_layers,
                    "a multiple of 4: the layers are run in four groups",
                );
            }
            if clip.hidden_size % 2 != 0 {
                problems.add("clip_vision_config.hidden_size", clip.hidden_size, "even");
            }
            let freeze_vision = fields
                .get("freeze_vision")
                .map(|_| fields.boolean("freeze_vision", true, problems));
            (
                VisionTower::Multipath {
                    convnext,
                    freeze_vision,
                },
                None,
            )
        } else {
            (
                VisionTower::Single(read_select(&fields, &clip, problems)),
                Some(clip.image_size),
            )
        };
        let input_image_size =
            fields.size_below("input_image_size", default_size, MAX_IMAGE_SIZE, problems);
        let config = Self {
            tower,
            clip,
            input_image_size,
        };
        let possible = config.possible_image_sizes();
        if !possible.contains(&input_image_size) {
            problems.add(
                "input_image_size",
                input_image_size,
                format!("one of {}", shorten(&possible)),
            );
        }
        Some(config)
    }
}

fn read_select(fields: &Fields<'_>, clip: &ClipConfig, problems: &mut Problems) -> FeatureSelect {
    let key = "mm_vision_select_layer";
    let depth = clip.num_hidden_layers as i64;
    let layers = match fields.get(key).map(|v| (v, v.as_i64())) {
        None => depth - 1,
        // Hidden states are the embedding output and one for each layer.
        Some((_, Some(n))) if (-(depth + 1)..=depth).contains(&n) => {
            if n < 0 {
                depth + 1 + n
            } else {
                n
            }
        }
        Some((value, _)) => {
            problems.add(
                key,
                value,
                format!("a whole number from {} to {depth}", -(depth + 1)),
            );
            depth
        }
    };
    let keep_class_token = match fields.string("mm_vision_select_feature", problems) {
        None | Some("patch") => false,
        Some("cls_patch") => true,
        Some(other) => {
            problems.add(
                "mm_vision_select_feature",
                format!("\"{other}\""),
                "\"patch\" or \"cls_patch\"",
            );
            false
        }
    };
    FeatureSelect {
        layers: layers.max(0) as usize,
        keep_class_token,
    }
}

/// Lists sizes, with the regular tail (every multiple of 32) written as a range.
fn shorten(sizes: &[usize]) -> String {
    let mut tail = sizes.len();
    while tail >= 2 && sizes[tail - 1] - sizes[tail - 2] == SLOW_STRIDE {
        tail -= 1;
    }
    let mut parts: Vec<String> = sizes[..tail.min(sizes.len())]
        .iter()
        .map(usize::to_string)
        .collect();
    if tail < sizes.len() {
        let (first, last) = (sizes[tail - 1], sizes[sizes.len() - 1]);
        parts.pop();
        parts.push(format!(
            "or every multiple of {SLOW_STRIDE} from {first} to {last}"
        ));
    }
    parts.join(", ")
}
