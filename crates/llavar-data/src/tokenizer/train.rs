//! Training a byte-level BPE, for models that start from nothing.

use crate::error::Error;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper, TokenizerImpl};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper};

/// What kind of vocabulary to train.
#[derive(Debug, Clone)]
pub struct BpeOptions {
    /// Entries including special tokens and the 256 bytes.
    pub vocab_size: usize,
    /// Special tokens after `<unk> <s> </s> <pad>`, in id order.
    pub extra_special: Vec<String>,
    /// One token a digit: a small model reads numbers better so.
    pub split_digits: bool,
}

impl BpeOptions {
    /// `vocab_size` entries, no extra special tokens, digits apart.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            extra_special: Vec::new(),
            split_digits: true,
        }
    }

    /// Adds the markers of the `phi3_instruct` template.
    pub fn with_phi3_tokens(mut self) -> Self {
        let tokens = [
            "<|endoftext|>",
            "<|assistant|>",
            "<|system|>",
            "<|end|>",
            "<|user|>",
        ];
        self.extra_special.extend(tokens.map(String::from));
        self
    }

    /// Adds the markers of the `llama3` template (its BOS stays `<s>`).
    pub fn with_llama3_tokens(mut self) -> Self {
        let tokens = [
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ];
        self.extra_special.extend(tokens.map(String::from));
        self
    }
}

/// The specials of the Llama family, ids 0 to 3.
const BASE_SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Trains a byte-level BPE and returns the texts of `tokenizer.json` and `tokenizer_config.json`.
///
/// `<unk> <s> </s> <pad>` have ids 0 to 3; a BOS is put in front by a post-processor as in the Llama
/// tokenizers; any text can be encoded and decodes to itself.
///
/// # Errors
/// [`Error::Invalid`] for a vocabulary smaller than the specials and the 256 bytes.
///
/// # Determinism
/// The same texts and options give the same bytes.
pub fn train_bpe<I, S>(texts: I, options: &BpeOptions) -> Result<(String, String), Error>
where
    I: Iterator<Item = S> + Send,
    S: AsRef<str> + Send,
{
    let mut special: Vec<&str> = BASE_SPECIAL.to_vec();
    for token in &options.extra_special {
        if token.is_empty() || special.contains(&token.as_str()) {
            return Err(invalid(format!(
                "special token {token:?} is empty or given twice"
            )));
        }
        special.push(token);
    }
    let least = special.len() + 256;
    if options.vocab_size < least {
        return Err(invalid(format!(
            "vocab_size {} is too small; the special tokens and 256 bytes need {least}",
            options.vocab_size
        )));
    }
    let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
    if options.split_digits {
        parts.push(Digits::new(true).into());
    }
    parts.push(ByteLevel::new(false, false, true).into());
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(options.vocab_size)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.iter().map(|t| AddedToken::from(*t, true)).collect())
        .build();
    let mut tokenizer: TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    tokenizer
        .train(&mut trainer, texts)
        .map_err(|e| invalid(e.to_string()))?;
    let text = tokenizer
        .to_string(false)
        .map_err(|e| invalid(e.to_string()))?;
    let mut file: Value = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    // Written out rather than built: this is the form that Llama's own file has.
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            bos, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}
        ],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": true,
        "clean_up_tokenization_spaces": false
    });
    let print =
        |value: &Value| serde_json::to_string_pretty(value).map_err(|e| invalid(e.to_string()));
    let file = print(&file)?;
    let config_text = print(&config)?;
    // What is handed out must load.
    crate::Tokenizer::from_json(&file, &config).map_err(|reason| Error::Tokenizer {
        path: PathBuf::from("tokenizer.json"),
        reason,
    })?;
    Ok((file, config_text))
}

fn invalid(reason: String) -> Error {
    Error::Invalid {
        what: "tokenizer training",
        reason,
    }
}
