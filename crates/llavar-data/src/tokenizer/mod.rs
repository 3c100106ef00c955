//! Tokenizers of published model folders.
//!
//! A thin layer over the `tokenizers` crate that fixes what the LLaVA code relies on: which ids are
//! BOS, EOS, PAD; whether a BOS stands in front; byte offsets of each token; and the `<image>`
//! convention.

mod bytes;
mod stream;
mod train;

pub use stream::DecodeStream;
pub use train::{BpeOptions, train_bpe};

use crate::error::{EncodeError, Error};
use crate::{IMAGE_TAG, IMAGE_TOKEN_INDEX};
use serde_json::Value;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// One token with the bytes of the text that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Vocabulary id.
    pub id: u32,
    /// First byte of the chunk that it covers.
    pub start: usize,
    /// One past the last byte that it covers.
    pub end: usize,
    /// Whether it is an added token (`</s>`, `<|end|>`, ...), matched as a whole before BPE.
    pub added: bool,
}

/// A loaded tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    add_bos: bool,
    added: HashSet<u32>,
    special: HashSet<u32>,
    word_start: Option<u32>,
    vocab_len: usize,
    slow_llama: bool,
    identity: u64,
}

const METASPACE: &str = "\u{2581}";

impl Tokenizer {
    /// Loads `tokenizer.json` and, where present, `tokenizer_config.json` and
    /// `special_tokens_map.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Tokenizer`].
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let json = read(&path)?;
        let mut config = Value::Object(serde_json::Map::new());
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let part: Value =
                serde_json::from_str(&read(&path)?).map_err(|error| Error::Tokenizer {
                    path: path.clone(),
                    reason: error.to_string(),
                })?;
            if let (Some(all), Value::Object(part)) = (config.as_object_mut(), part) {
                // Null says "not here", so it does not hide the other file's value.
                all.extend(part.into_iter().filter(|(_, value)| !value.is_null()));
            }
        }
        Self::from_json(&json, &config).map_err(|reason| Error::Tokenizer { path, reason })
    }

    /// Builds a tokenizer from the text of `tokenizer.json` and the value of
    /// `tokenizer_config.json` (`Value::Null` for none).
    ///
    /// # Errors
    /// A sentence that says why the files cannot be used.
    pub fn from_json(json: &str, config: &Value) -> Result<Self, String> {
        let mut inner = parse(json)?;
        // Files saved after training carry the trainer's own truncation and padding.
        inner.with_truncation(None).map_err(|e| format!("{e}"))?;
        inner.with_padding(None);
        let named = |key: &str| {
            let token = config.get(key)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            inner.token_to_id(text)
        };
        let (bos, eos, unk) = (named("bos_token"), named("eos_token"), named("unk_token"));
        let pad = named("pad_token");
        let leading = inner
            .encode("", true)
            .map_err(|e| format!("{e}"))?
            .get_ids()
            .first()
            .copied();
        let bos = bos.or(leading);
        // Llama's fast tokenizer builds its post-processor anew from this flag, whatever the file
        // says; other classes take the file as it is.
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        let flag = config.get("add_bos_token").and_then(Value::as_bool);
        let add_bos = match (class, flag) {
            (Some("LlamaTokenizer" | "LlamaTokenizerFast"), Some(flag)) => flag && bos.is_some(),
            _ => leading.is_some() && leading == bos,
        };
        let added_tokens = inner.get_added_tokens_decoder();
        let special = added_tokens.iter().filter(|(_, token)| token.special);
        let special = special.map(|(&id, _)| id).collect();
        let added = added_tokens.into_keys().collect();
        let word_start = inner.token_to_id(METASPACE);
        let vocab_len = inner
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&id| id as usize + 1);
        if vocab_len == 0 {
            return Err("the vocabulary is empty".into());
        }
        Ok(Self {
            inner,
            bos,
            eos,
            pad,
            unk,
            add_bos,
            added,
            special,
            word_start,
            vocab_len,
            slow_llama: false,
            identity: identity(json, config),
        })
    }

    /// The same vocabulary with the ids of the slow `LlamaTokenizer` (`legacy=False`).
    ///
    /// The release of LLaVAR-2 trained Phi-3 through that class: only the start of a chunk gets the
    /// word-start mark, not the text after each special token (spec 4.8). No effect on tokenizers
    /// without such a mark.
    ///
    /// # Errors
    /// A sentence, where the tokenizer cannot be rebuilt.
    pub fn with_slow_llama_ids(&self) -> Result<Self, String> {
        let text = self.inner.to_string(false).map_err(|e| format!("{e}"))?;
        let mut json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let is_prepend = |n: &Value| n.get("type").and_then(Value::as_str) == Some("Prepend");
        let list = json
            .get_mut("normalizer")
            .and_then(|n| n.get_mut("normalizers"));
        let Some(list) = list.and_then(Value::as_array_mut) else {
            return Ok(self.clone());
        };
        let before = list.len();
        list.retain(|n| !is_prepend(n));
        if list.len() == before {
            return Ok(self.clone());
        }
        Ok(Self {
            inner: parse(&json.to_string())?,
            slow_llama: true,
            identity: self.identity.wrapping_add(1),
            ..self.clone()
        })
    }

    /// BOS id, if there is one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// EOS id, if there is one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// The id that fills padded batches: PAD, else UNK, else EOS, else 0. Padded positions are
    /// masked, so the choice never changes a result.
    pub fn pad_id(&self) -> u32 {
        self.pad.or(self.unk).or(self.eos).unwrap_or(0)
    }

    /// Whether a BOS stands before every prompt.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// One past the largest id, added tokens included. A model may have more rows.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// Equal for tokenizers made from equal files (by the same build of this program): what is known of
    /// texts and one tokenizer does not hold for another.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Id of an exact token, e.g. `<|end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text form of an id, e.g. `▁the`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is an added token.
    pub fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
    }

    /// Whether an id is a special token, left out where text is for people.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The lone word-start mark `▁` of SentencePiece vocabularies: what stands before a word that
    /// has no entry together with its space.
    pub fn word_start_id(&self) -> Option<u32> {
        self.word_start
    }

    /// Tokens of one chunk of text with byte offsets, without BOS.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn encode_chunk(&self, text: &str) -> Result<Vec<Token>, EncodeError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let shift = if self.slow_llama { METASPACE.len() } else { 0 };
        let encoding = if self.slow_llama {
            self.inner.encode(format!("{METASPACE}{text}"), false)
        } else {
            self.inner.encode(text, false)
        }
        .map_err(|e| EncodeError::Tokenizer {
            reason: e.to_string(),
        })?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens
            .map(|(&id, &(start, end))| Token {
                id,
                start: start.saturating_sub(shift),
                end: end.saturating_sub(shift),
                added: self.added.contains(&id),
            })
            .collect())
    }

    /// Ids of a text, with BOS where the tokenizer adds one.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let bos = self.bos.filter(|_| self.add_bos);
        let chunk = self.encode_chunk(text)?;
        Ok(bos.into_iter().chain(chunk.iter().map(|t| t.id)).collect())
    }

    /// Ids of a prompt in which each `<image>` becomes one [`IMAGE_TOKEN_INDEX`].
    ///
    /// Each chunk between images is tokenized by itself and one BOS stands in front where the
    /// tokenizer adds one.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    ///
    /// # Source
    /// `tokenizer_image_token` of LLaVA. That code drops the first id of every chunk when the prompt
    /// itself starts with the text of a BOS that the tokenizer does not add; here nothing is lost.
    pub fn tokenizer_image_token(&self, prompt: &str) -> Result<Vec<i64>, EncodeError> {
        let mut ids: Vec<i64> = Vec::new();
        ids.extend(self.bos.filter(|_| self.add_bos).map(i64::from));
        for (i, chunk) in prompt.split(IMAGE_TAG).enumerate() {
            if i > 0 {
                ids.push(IMAGE_TOKEN_INDEX);
            }
            ids.extend(self.encode_chunk(chunk)?.iter().map(|t| i64::from(t.id)));
        }
        Ok(ids)
    }

    /// Text of ids. Unknown ids are left out; added special tokens too if `skip_special`.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, EncodeError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| EncodeError::Tokenizer {
                reason: e.to_string(),
            })
    }

    /// A decoder that takes ids one by one and hands out text that will not change any more.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }
}

fn identity(json: &str, config: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    (json, config.to_string()).hash(&mut hasher);
    hasher.finish()
}

/// Builds the tokenizer and tokenizes one text with it.
///
/// The library has `expect`s in its readers: broken JSON inside a part, or a part with the wrong
/// fields, would end the program. Broken JSON is found before; what is left is caught.
fn parse(json: &str) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|e| format!("broken json: {e}"))?;
    let build = || -> Result<tokenizers::Tokenizer, String> {
        let tokenizer: tokenizers::Tokenizer = json.parse().map_err(|e| format!("{e}"))?;
        let probe = tokenizer.encode("Probe 1", true);
        let ids = probe.map_err(|e| format!("{e}"))?;
        tokenizer
            .decode(ids.get_ids(), true)
            .map_err(|e| format!("{e}"))?;
        Ok(tokenizer)
    };
    std::panic::catch_unwind(build)
        .unwrap_or_else(|_| Err("a part has fields that its type does not take".to_string()))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })
}
