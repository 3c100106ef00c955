//! Flags of the commands that sample from a model.

/// How the next token is picked.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingFlags {
    /// 0 always takes the most likely token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Sample from the smallest set of tokens with this probability mass.
    #[arg(long = "top-p", alias = "top_p", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Sample from this many most likely tokens.
    #[arg(long = "top-k", alias = "top_k")]
    pub(crate) top_k: Option<usize>,
    /// Beams; needs temperature 0.
    #[arg(long = "num-beams", alias = "num_beams", default_value_t = 1)]
    pub(crate) num_beams: usize,
    /// Seed of sampling.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// A second look at small print.
#[derive(Debug, clap::Args)]
pub(crate) struct CloserFlag {
    /// Where the model's own probability of its answer is below 0.5, look at both halves of the picture as
    /// well, enlarged, and take the surest answer. For small print; greedy only.
    #[arg(long, conflicts_with_all = ["temperature", "num_beams"])]
    pub(crate) closer: bool,
}
