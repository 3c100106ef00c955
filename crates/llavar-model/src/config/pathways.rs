//! The same model with both pathways of its vision tower, or with one of them alone.

use std::path::Path;

use serde_json::Value;

use super::{
    ConfigError, ModelConfig,
    fields::Problems,
    vision::{VisionConfig, VisionTower},
};

/// Which pathways of a vision tower of two remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pathways {
    /// CLIP and ConvNeXt.
    #[default]
    Both,
    /// CLIP alone, with the picture that it is made for.
    Fast,
    /// ConvNeXt alone, with the whole picture.
    Slow,
}

impl Pathways {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Both, Self::Fast, Self::Slow];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }

    /// Finds it by name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

impl ModelConfig {
    /// The same shape with these pathways, the projector's input as wide as what remains.
    ///
    /// A CLIP alone gives the output of its last layer, as it does beside a ConvNeXt. Keys of what is gone go too, so
    /// that the file tells of one tower.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where the tower has not two pathways to choose from.
    pub fn with_pathways(&self, pathways: Pathways) -> Result<Self, ConfigError> {
        let Some(VisionConfig {
            tower: VisionTower::Multipath { clip, convnext, .. },
            ..
        }) = &self.vision
        else {
            let mut problems = Problems::default();
            problems.add(
                "is_multipath_encoder",
                "false",
                "true: a choice of pathways needs a tower of two",
            );
            return Err(ConfigError::Invalid {
                path: "config.json".into(),
                problems: problems.0,
            });
        };
        let mut raw = self.raw.clone();
        let mut change = |gone: &[&str], set: Vec<(&str, Value)>| {
            // `shift_remove` keeps the order of the others, as a reader of the file expects.
            gone.iter().for_each(|key| drop(raw.shift_remove(*key)));
            raw.extend(set.into_iter().map(|(key, value)| (key.to_owned(), value)));
        };
        match pathways {
            Pathways::Both => {}
            Pathways::Fast => change(
                &["vision_tower_slow", "convnext_config"],
                vec![
                    ("is_multipath_encoder", false.into()),
                    ("input_image_size", clip.image_size.into()),
                    ("mm_vision_select_layer", (-1).into()),
                    ("mm_hidden_size", clip.hidden_size.into()),
                ],
            ),
            Pathways::Slow => {
                let name = self.raw.get("vision_tower_slow").cloned();
                change(
                    &["vision_tower_slow", "clip_vision_config"],
                    vec![
                        ("is_multipath_encoder", false.into()),
                        (
                            "mm_vision_tower",
                            name.unwrap_or_else(|| "convnext_large_mlp".into()),
                        ),
                        ("mm_hidden_size", convnext.out_dim().into()),
                    ],
                );
            }
        }
        Self::from_map(Path::new("config.json"), raw)
    }
}
