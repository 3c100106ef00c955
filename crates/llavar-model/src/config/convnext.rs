//! Shape of the ConvNeXt, the slow path.

use serde_json::{Map, Value};

use super::fields::{Fields, Problems};

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

    pub(super) fn read(
        name: &str,
        map: Option<&Map<String, Value>>,
        problems: &mut Problems,
    ) -> Self {
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
