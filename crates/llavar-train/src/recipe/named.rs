//! Recipes that come with the program.

use crate::TrainError;

/// A built-in recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedRecipe {
    /// Its name, e.g. `phi3-readme-sft`.
    pub name: &'static str,
    /// Its file.
    pub toml: &'static str,
}

macro_rules! named {
    ($($name:literal),+ $(,)?) => {
        /// All built-in recipes: `README` and script defaults of both stages for the three published
        /// backbones (spec 6.2), and those of the nano preset.
        pub const NAMED_RECIPES: &[NamedRecipe] = &[$(NamedRecipe {
            name: $name,
            toml: include_str!(concat!("../../recipes/", $name, ".toml")),
        }),+];
    };
}

named!(
    "llama3-readme-pretrain",
    "llama3-readme-sft",
    "llama3-script-pretrain",
    "llama3-script-sft",
    "nano-pretrain",
    "nano-sft",
    "phi3-readme-pretrain",
    "phi3-readme-sft",
    "phi3-script-pretrain",
    "phi3-script-sft",
    "vicuna-readme-pretrain",
    "vicuna-readme-sft",
    "vicuna-script-pretrain",
    "vicuna-script-sft",
);

impl NamedRecipe {
    /// The recipe of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        NAMED_RECIPES.iter().find(|r| r.name == name)
    }

    /// One line about it: the first comment of its file.
    pub fn description(&self) -> &'static str {
        let line = self.toml.lines().next().unwrap_or_default();
        line.trim_start_matches(['#', ' '])
    }

    pub(super) fn unknown(name: &str) -> TrainError {
        let nearest = NAMED_RECIPES
            .iter()
            .max_by(|a, b| {
                strsim::jaro_winkler(a.name, name).total_cmp(&strsim::jaro_winkler(b.name, name))
            })
            .map_or("", |r| r.name);
        TrainError::UnknownRecipe {
            name: name.to_owned(),
            nearest,
            known: NAMED_RECIPES.iter().map(|r| r.name).collect(),
        }
    }
}
