//! The vision tower's part of `config.json`: CLIP and ConvNeXt side by side, or one of them alone.

use serde_json::{Map, Value};

use super::{
    clip::ClipConfig,
    convnext::ConvNextConfig,
    fields::{Fields, Problems},
};

/// The ConvNeXt stem and stages halve the picture five times.
pub const SLOW_STRIDE: usize = 32;

/// Largest accepted picture side in pixels: its 16,384 image tokens are beyond every published use.
pub const MAX_IMAGE_SIZE: usize = 4096;

/// `mm_vision_select_layer` from here on asks for several layers.
///
/// # Source
/// `feature_select` of LLaVA-HR.
const SEVERAL_LAYERS: i64 = 100;

/// Side of the picture that a lone ConvNeXt sees where nothing is said, pixels.
///
/// # Source
/// `crop_size` of LLaVA-HR's `ConvNextVisionTower`.
const CONVNEXT_IMAGE_SIZE: usize = 256;

/// Which features of a lone CLIP tower are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSelect {
    /// After how many encoder layers the features are taken: `mm_vision_select_layer` counted from the
    /// front (-2 of 24 layers is 23; 0 is the embedding output). Values from 100 on mean several: 100 k
    /// takes every `layers / k`-th layer, and the features stand side by side.
    pub layers: Vec<usize>,
    /// Whether the class token stays (`cls_patch`) or not (`patch`).
    pub keep_class_token: bool,
}

/// How the picture is seen.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionTower {
    /// CLIP and ConvNeXt with adapters and fusion (LLaVA-HR, LLaVAR-2).
    Multipath {
        /// The fast path.
        clip: ClipConfig,
        /// The slow path.
        convnext: ConvNextConfig,
        /// What `freeze_vision` says. Whether adapters exist is decided by the tensors of the weight
        /// files, not by this.
        freeze_vision: Option<bool>,
    },
    /// CLIP alone (LLaVA).
    Clip(ClipConfig, FeatureSelect),
    /// ConvNeXt alone: the output of its last stage.
    ConvNext(ConvNextConfig),
}

/// Shape of the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// One path or two.
    pub tower: VisionTower,
    /// Side of the square picture that enters, pixels.
    pub input_image_size: usize,
}

impl VisionConfig {
    /// The CLIP transformer, where there is one.
    pub fn clip(&self) -> Option<&ClipConfig> {
        match &self.tower {
            VisionTower::Multipath { clip, .. } | VisionTower::Clip(clip, _) => Some(clip),
            VisionTower::ConvNext(_) => None,
        }
    }

    /// The ConvNeXt, where there is one.
    pub fn convnext(&self) -> Option<&ConvNextConfig> {
        match &self.tower {
            VisionTower::Multipath { convnext, .. } | VisionTower::ConvNext(convnext) => {
                Some(convnext)
            }
            VisionTower::Clip(..) => None,
        }
    }

    /// Whether there are two paths.
    pub fn is_multipath(&self) -> bool {
        matches!(self.tower, VisionTower::Multipath { .. })
    }

    /// Side of the ConvNeXt output grid for a picture of `image_size` pixels.
    pub fn slow_grid(image_size: usize) -> usize {
        image_size / SLOW_STRIDE
    }

    /// Side in pixels of the picture that CLIP sees; `None` without a CLIP.
    ///
    /// # Source
    /// `max(S / 32 * 14, 336)` of the reference, with the tower's own patch and image size.
    pub fn fast_image_size(&self) -> Option<usize> {
        match &self.tower {
            VisionTower::Multipath { clip, .. } => Some(
                (Self::slow_grid(self.input_image_size) * clip.patch_size).max(clip.image_size),
            ),
            VisionTower::Clip(..) => Some(self.input_image_size),
            VisionTower::ConvNext(_) => None,
        }
    }

    /// Places along one side of the features that leave the tower: CLIP's patches, or the ConvNeXt's output
    /// where it sees alone.
    pub fn grid(&self) -> usize {
        match (self.fast_image_size(), self.clip()) {
            (Some(side), Some(clip)) => side / clip.patch_size,
            _ => Self::slow_grid(self.input_image_size),
        }
    }

    /// Number of positions that one picture takes in the text.
    pub fn image_tokens(&self) -> usize {
        let places = self.grid() * self.grid();
        match &self.tower {
            VisionTower::Clip(_, select) if select.keep_class_token => places + 1,
            _ => places,
        }
    }

    /// Width of the features that leave the tower.
    pub fn feature_size(&self) -> usize {
        match &self.tower {
            VisionTower::Multipath { clip, .. } => clip.hidden_size,
            VisionTower::Clip(clip, select) => clip.hidden_size * select.layers.len(),
            VisionTower::ConvNext(convnext) => convnext.out_dim(),
        }
    }

    /// Every picture side in pixels, up to [`MAX_IMAGE_SIZE`], that this tower can take.
    ///
    /// A ConvNeXt takes multiples of 32. With two paths, too, the two grids are equal or the smaller (slow)
    /// one has a token count that divides the other's.
    pub fn possible_image_sizes(&self) -> Vec<usize> {
        let slow_grids = 1..=MAX_IMAGE_SIZE / SLOW_STRIDE;
        match &self.tower {
            VisionTower::Clip(clip, _) => vec![clip.image_size],
            VisionTower::ConvNext(_) => slow_grids.map(|slow| slow * SLOW_STRIDE).collect(),
            VisionTower::Multipath { clip, .. } => slow_grids
                .filter(|&slow| {
                    let fast = slow.max(clip.position_grid());
                    (fast * fast) % (slow * slow) == 0
                })
                .map(|slow| slow * SLOW_STRIDE)
                .collect(),
        }
    }

    /// The tower that the keys describe.
    ///
    /// # Source
    /// `build_vision_tower` of LLaVA-HR: `is_multipath_encoder` asks for two paths; without it the name in
    /// `mm_vision_tower` says which one there is.
    pub(crate) fn read(map: &Map<String, Value>, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::new(map, "");
        let name = fields.string("mm_vision_tower", problems)?;
        let multipath = fields.boolean("is_multipath_encoder", false, problems);
        let (tower, default_size) = match (multipath, is_convnext(name)) {
            (true, _) => (read_multipath(name, &fields, problems), None),
            (false, true) => (
                VisionTower::ConvNext(read_lone_convnext(name, &fields, problems)),
                Some(CONVNEXT_IMAGE_SIZE),
            ),
            (false, false) => {
                let clip = read_clip(name, &fields, problems);
                let size = clip.image_size;
                let select = read_select(&fields, &clip, problems);
                (VisionTower::Clip(clip, select), Some(size))
            }
        };
        let input_image_size =
            fields.size_below("input_image_size", default_size, MAX_IMAGE_SIZE, problems);
        let config = Self {
            tower,
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

/// Whether a tower's name is that of a ConvNeXt. Folders above it do not count: a path may run through one of any name.
fn is_convnext(name: &str) -> bool {
    let last = name.trim_end_matches('/').rsplit('/').next();
    last.is_some_and(|last| last.to_ascii_lowercase().contains("convnext"))
}

fn read_clip(name: &str, fields: &Fields<'_>, problems: &mut Problems) -> ClipConfig {
    let keys = fields.object("clip_vision_config", problems);
    ClipConfig::read(name, keys, problems)
}

fn read_convnext(name: &str, fields: &Fields<'_>, problems: &mut Problems) -> ConvNextConfig {
    let keys = fields.object("convnext_config", problems);
    ConvNextConfig::read(name, keys, problems)
}

fn read_multipath(name: &str, fields: &Fields<'_>, problems: &mut Problems) -> VisionTower {
    if is_convnext(name) {
        problems.add(
            "mm_vision_tower",
            format!("\"{name}\""),
            "the name of a CLIP, the fast path: the ConvNeXt of two paths is vision_tower_slow, and a ConvNeXt alone \
             has is_multipath_encoder = false",
        );
    }
    let clip = read_clip(name, fields, problems);
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
    let convnext = read_convnext(slow, fields, problems);
    if !clip.num_hidden_layers.is_multiple_of(4) {
        problems.add(
            "clip_vision_config.num_hidden_layers",
            clip.num_hidden_layers,
            "a multiple of 4: the layers are run in four groups",
        );
    }
    if !clip.hidden_size.is_multiple_of(2) {
        problems.add("clip_vision_config.hidden_size", clip.hidden_size, "even");
    }
    let freeze_vision = fields
        .get("freeze_vision")
        .map(|_| fields.boolean("freeze_vision", true, problems));
    VisionTower::Multipath {
        clip,
        convnext,
        freeze_vision,
    }
}

/// A ConvNeXt that sees alone.
///
/// # Source
/// `ConvNextVisionTower` of LLaVA-HR takes the last stage whatever `mm_vision_select_layer` says, and from 100 on a
/// list of four stages that no projector of it takes; there is no class token.
fn read_lone_convnext(name: &str, fields: &Fields<'_>, problems: &mut Problems) -> ConvNextConfig {
    let key = "mm_vision_select_layer";
    if let Some(value) = fields.get(key)
        && value.as_i64().is_none_or(|n| n >= SEVERAL_LAYERS)
    {
        let allowed = format!(
            "a whole number below {SEVERAL_LAYERS}: of a ConvNeXt alone the last stage is used"
        );
        problems.add(key, value, allowed);
    }
    let key = "mm_vision_select_feature";
    if let Some(select) = fields.string(key, problems).filter(|s| *s != "patch") {
        problems.add(
            key,
            format!("\"{select}\""),
            "\"patch\": a ConvNeXt has no class token",
        );
    }
    read_convnext(name, fields, problems)
}

fn read_select(fields: &Fields<'_>, clip: &ClipConfig, problems: &mut Problems) -> FeatureSelect {
    let key = "mm_vision_select_layer";
    let depth = clip.num_hidden_layers as i64;
    let layers = match fields.get(key).map(|v| (v, v.as_i64())) {
        None => vec![depth - 1],
        // Hidden states are the embedding output and one for each layer.
        Some((_, Some(n))) if (-(depth + 1)..=depth).contains(&n) => {
            vec![if n < 0 { depth + 1 + n } else { n }]
        }
        Some((_, Some(n))) if (SEVERAL_LAYERS..=SEVERAL_LAYERS * depth).contains(&n) => {
            let every = (depth / (n / SEVERAL_LAYERS)).max(1);
            (1..=depth).filter(|layer| layer % every == 0).collect()
        }
        Some((value, _)) => {
            let several = format!("or {SEVERAL_LAYERS} times a number of layers");
            problems.add(
                key,
                value,
                format!("a whole number from {} to {depth}, {several}", -(depth + 1)),
            );
            vec![depth]
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
        layers: layers.into_iter().map(|n| n.max(0) as usize).collect(),
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
