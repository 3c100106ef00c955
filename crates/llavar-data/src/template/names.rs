//! Names of the templates.

use crate::error::Error;

/// A conversation template by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateName {
    /// Image and caption alone (stage 1).
    Plain,
    /// Vicuna v1.1; also called `vicuna_v1`.
    #[serde(alias = "vicuna_v1")]
    V1,
    /// Vicuna v1.1 with "human" in the system text.
    #[serde(rename = "llava_v1")]
    LlavaV1,
    /// Phi-3 and Phi-3.5.
    #[serde(rename = "phi3_instruct", alias = "phi3")]
    Phi3Instruct,
    /// Llama 3.x.
    #[serde(rename = "llama3")]
    Llama3,
}

impl TemplateName {
    /// All templates.
    pub const ALL: [TemplateName; 5] = [
        TemplateName::Plain,
        TemplateName::V1,
        TemplateName::LlavaV1,
        TemplateName::Phi3Instruct,
        TemplateName::Llama3,
    ];

    /// The name that configurations use.
    pub fn as_str(self) -> &'static str {
        match self {
            TemplateName::Plain => "plain",
            TemplateName::V1 => "v1",
            TemplateName::LlavaV1 => "llava_v1",
            TemplateName::Phi3Instruct => "phi3_instruct",
            TemplateName::Llama3 => "llama3",
        }
    }
}

impl std::fmt::Display for TemplateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TemplateName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "plain" => Ok(TemplateName::Plain),
            "v1" | "vicuna_v1" => Ok(TemplateName::V1),
            "llava_v1" => Ok(TemplateName::LlavaV1),
            "phi3_instruct" | "phi3" => Ok(TemplateName::Phi3Instruct),
            "llama3" => Ok(TemplateName::Llama3),
            _ => Err(Error::UnknownTemplate {
                name: name.to_string(),
                known: TemplateName::ALL.map(TemplateName::as_str).join(", "),
            }),
        }
    }
}
