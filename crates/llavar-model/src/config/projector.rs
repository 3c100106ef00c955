//! The projector between vision tower and language model.

use super::fields::{Fields, Problems};

/// The kind of projector, `mm_projector_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    /// One linear layer.
    Linear,
    /// `depth` linear layers with exact GELU between them (`mlp2x_gelu` has depth 2).
    Mlp {
        /// Number of linear layers, at least 1.
        depth: usize,
    },
    /// Nothing; needs `mm_hidden_size == hidden_size`.
    Identity,
}

/// Shape of the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Which kind.
    pub kind: ProjectorKind,
    /// Width of the image features that come in.
    pub mm_hidden_size: usize,
    /// Width that goes out, the language model's.
    pub hidden_size: usize,
}

impl ProjectorConfig {
    pub(crate) fn read(
        fields: &Fields<'_>,
        vision_size: usize,
        hidden_size: usize,
        problems: &mut Problems,
    ) -> Self {
        let name = fields
            .string("mm_projector_type", problems)
            .unwrap_or("linear");
        let kind = ProjectorKind::parse(name).unwrap_or_else(|| {
            problems.add(
                "mm_projector_type",
                format!("\"{name}\""),
                "\"linear\", \"mlpNx_gelu\" with N from 1 to 16, or \"identity\"",
            );
            ProjectorKind::Linear
        });
        let mm_hidden_size = fields.size("mm_hidden_size", Some(vision_size), problems);
        if mm_hidden_size != vision_size {
            problems.add(
                "mm_hidden_size",
                mm_hidden_size,
                format!("{vision_size}, the width of the vision tower's features"),
            );
        }
        if kind == ProjectorKind::Identity && mm_hidden_size != hidden_size {
            problems.add(
                "mm_projector_type",
                "\"identity\"",
                format!("another type, because mm_hidden_size = {mm_hidden_size} is not hidden_size = {hidden_size}"),
            );
        }
        Self {
            kind,
            mm_hidden_size,
            hidden_size,
        }
    }
}

impl ProjectorKind {
    /// Reads `linear`, `mlpNx_gelu` or `identity`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "linear" => Some(Self::Linear),
            "identity" => Some(Self::Identity),
            _ => {
                let depth = name
                    .strip_prefix("mlp")?
                    .strip_suffix("x_gelu")?
                    .parse()
                    .ok()?;
                (1..=16).contains(&depth).then_some(Self::Mlp { depth })
            }
        }
    }
}
