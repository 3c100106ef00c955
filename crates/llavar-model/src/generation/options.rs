//! What the caller of a generation decides.

use std::sync::Arc;

use crate::{
    ModelError, Result,
    config::{GenerationConfig, ModelConfig},
};

/// Turns generated ids into text, for stop strings.
pub type Decode = Arc<dyn Fn(&[u32]) -> String + Send + Sync>;

/// How an answer is generated. The default is greedy.
#[derive(Clone)]
pub struct GenerationOptions {
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 takes the most likely id.
    pub temperature: f32,
    /// Sampling keeps the smallest set of most likely ids whose mass reaches this, in (0, 1].
    pub top_p: Option<f32>,
    /// Sampling keeps this many most likely ids.
    pub top_k: Option<usize>,
    /// Beams; 1 is no beam search. Beams need temperature 0.
    pub num_beams: usize,
    /// Beam scores are divided by the answer's length to this power.
    pub length_penalty: f32,
    /// Logits of ids that the answer already has are divided (above 0) or multiplied (below 0) by this;
    /// 1 is none.
    pub repetition_penalty: f32,
    /// Ids that end the answer.
    pub stop_ids: Vec<u32>,
    /// Texts that end the answer; they need [`GenerationOptions::decode`].
    pub stop_strings: Vec<String>,
    /// Turns ids into text.
    pub decode: Option<Decode>,
    /// Ids from here on are never generated: rows of the output matrix beyond the tokenizer.
    pub vocab_limit: Option<usize>,
    /// Seed of sampling.
    pub seed: u64,
}

impl std::fmt::Debug for GenerationOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerationOptions")
            .field("max_new_tokens", &self.max_new_tokens)
            .field("temperature", &self.temperature)
            .field("top_p", &self.top_p)
            .field("top_k", &self.top_k)
            .field("num_beams", &self.num_beams)
            .field("length_penalty", &self.length_penalty)
            .field("repetition_penalty", &self.repetition_penalty)
            .field("stop_ids", &self.stop_ids)
            .field("stop_strings", &self.stop_strings)
            .field("decode", &self.decode.is_some())
            .field("vocab_limit", &self.vocab_limit)
            .field("seed", &self.seed)
            .finish()
    }
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            num_beams: 1,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            decode: None,
            vocab_limit: None,
            seed: 0,
        }
    }
}

impl GenerationOptions {
    /// The defaults of a model folder: `generation_config.json` where there is one, the end ids of both
    /// files.
    pub fn from_config(model: &ModelConfig, generation: Option<&GenerationConfig>) -> Self {
        let mut options = Self {
            stop_ids: model.llm.eos_token_ids.clone(),
            ..Self::default()
        };
        let Some(config) = generation else {
            return options;
        };
        options.stop_ids.extend(&config.eos_token_ids);
        options.stop_ids.sort_unstable();
        options.stop_ids.dedup();
        if config.do_sample == Some(true) {
            options.temperature = config.temperature.map_or(1.0, |t| t as f32);
            options.top_p = config.top_p.map(|p| p as f32).filter(|p| *p < 1.0);
            // What transformers takes where the file says nothing; 0 in the file is none.
            let unsaid = !config.as_json().contains_key("top_k");
            options.top_k = config.top_k.or(unsaid.then_some(50));
        } else {
            options.num_beams = config.num_beams.unwrap_or(1);
            options.length_penalty = config.length_penalty.map_or(1.0, |p| p as f32);
        }
        options.repetition_penalty = config.repetition_penalty.map_or(1.0, |p| p as f32);
        options.max_new_tokens = config.max_new_tokens.unwrap_or(options.max_new_tokens);
        options
    }

    /// Whether these options can be.
    ///
    /// # Errors
    /// [`ModelError::GenerationOption`] for the first impossible value.
    pub fn check(&self) -> Result<()> {
        let above_zero = |x: f32| x.is_finite() && x > 0.0;
        let checks: [(bool, &'static str, String, &'static str); 8] = [
            (
                self.temperature.is_finite() && self.temperature >= 0.0,
                "temperature",
                self.temperature.to_string(),
                "0 or more",
            ),
            (
                self.top_p.is_none_or(|p| p > 0.0 && p <= 1.0),
                "top_p",
                self.top_p.unwrap_or_default().to_string(),
                "above 0 and at most 1",
            ),
            (
                self.top_k != Some(0),
                "top_k",
                "0".to_owned(),
                "1 or more, or left out",
            ),
            (
                (1..=64).contains(&self.num_beams),
                "num_beams",
                self.num_beams.to_string(),
                "from 1 to 64",
            ),
            (
                self.num_beams == 1 || self.temperature == 0.0,
                "num_beams",
                self.num_beams.to_string(),
                "1 where the temperature is above 0",
            ),
            (
                self.length_penalty.is_finite(),
                "length_penalty",
                self.length_penalty.to_string(),
                "a number",
            ),
            (
                above_zero(self.repetition_penalty),
                "repetition_penalty",
                self.repetition_penalty.to_string(),
                "above 0",
            ),
            (
                self.stop_strings.is_empty() || self.decode.is_some(),
                "stop_strings",
                format!("{:?}", self.stop_strings),
                "empty where no decoder is given",
            ),
        ];
        match checks.into_iter().find(|(ok, ..)| !ok) {
            None => Ok(()),
            Some((_, option, value, allowed)) => Err(ModelError::GenerationOption {
                option,
                value,
                allowed,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_values_are_shown_as_they_were_given() {
        let given = |change: fn(&mut GenerationOptions)| {
            let mut options = GenerationOptions::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        for (message, shown) in [
            (given(|o| o.temperature = -1.0), "temperature = -1: "),
            (given(|o| o.top_p = Some(2.5)), "top_p = 2.5: "),
            (given(|o| o.top_k = Some(0)), "top_k = 0: "),
            (given(|o| o.num_beams = 65), "num_beams = 65: "),
        ] {
            assert!(message.contains(shown), "{message}");
        }
    }
}
