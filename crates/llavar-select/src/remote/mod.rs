//! A model on an OpenAI-compatible server that gives log-probabilities of prompts: vLLM
//! (`prompt_logprobs`), llama.cpp and others (`echo` with `logprobs`).
//!
//! The template renders the texts here and says where the answers lie; the server's tokens are laid over
//! the text ([`align`]), so nothing has to be known of its tokenizer.
//!
//! Completions take no pictures. What VFD and FFD compare is asked as conversations, with and without the
//! pictures alike, in the server's own chat template, and question and answer are found in its tokens
//! ([`find`]).

mod align;
mod batch;
mod find;

use std::{fmt, ops::Range, sync::Arc};

use find::Missing;
use llavar_client::{
    ChatRequest, Client, ClientError, CompletionRequest, Content, ErrorClass,
    Message as ChatMessage, Role, TokenLogprob,
};
use llavar_data::{EncodeError, ImageSource, Message, Template, TemplateName};
use llavar_image::{DecodeLimits, ImageError, RgbImage, as_sent, encode_png, read_file};

use crate::{Compat, Loss, Pair, PairKind, ScoreOptions, ScoreRow, SelectError, scorer::chain};

/// Llama-3's template writes the token that begins a text; a server would add a second one.
const WRITTEN_BOS: &str = "<|begin_of_text|>";

/// A model on a server.
#[derive(Debug)]
pub struct RemoteModel {
    client: Client,
    name: String,
    template: Template,
    workers: usize,
}

/// A text of which a part is to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemotePrompt {
    pair: usize,
    loss: Loss,
    asked: Asked,
}

/// How a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// As a text that goes on; the span is in its bytes.
    Text { text: String, span: Range<usize> },
    /// As a conversation whose last question and answer are scored, and `before` tokens in front of them.
    Turns {
        /// Before its first question; none for a conversation without.
        pictures: Arc<[Content]>,
        turns: Vec<[String; 2]>,
        before: usize,
    },
}

/// A picture as it is sent.
pub(crate) fn picture(source: ImageSource) -> Result<Content, ImageError> {
    let limits = DecodeLimits::default();
    let (name, bytes) = match source {
        ImageSource::File(path) => {
            let bytes = read_file(&path, &limits)?;
            (path, bytes)
        }
        ImageSource::Bytes { name, bytes } => (name, bytes),
    };
    let (mime, bytes) = as_sent(bytes, &name, &limits)?;
    Ok(Content::image(mime, &bytes))
}

impl RemoteModel {
    /// The model called `name`; texts are rendered with `template`, at most `workers` requests run at
    /// once (the client adapts to what the server takes).
    pub fn new(
        client: Client,
        name: impl Into<String>,
        template: TemplateName,
        workers: usize,
    ) -> Self {
        Self {
            client,
            name: name.into(),
            template: Template::new(template),
            workers: workers.max(1),
        }
    }

    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// Whether it scores conversations with pictures: one is tried.
    pub(crate) fn check_pictures(&self) -> Result<(), SelectError> {
        let white = RgbImage::filled(64, 64, [255; 3]);
        let picture = Content::image("image/png", &encode_png(&white)?);
        let turns = vec![["What is this?".to_owned(), "A white square.".to_owned()]];
        let pictures: Arc<[Content]> = [picture].into();
        let reason = match self.converse(&pictures, &turns, 0) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(error) => match error.class() {
                // Nothing that has to do with pictures.
                ErrorClass::Setup
                | ErrorClass::Auth
                | ErrorClass::NotFound
                | ErrorClass::RateLimit
                | ErrorClass::Quota
                | ErrorClass::TimeOut
                | ErrorClass::Connect
                | ErrorClass::Cancelled => return Err(SelectError::Server(error)),
                _ => chain(&error),
            },
        };
        Err(SelectError::ServerVision { reason })
    }

    /// The texts of a sample; a pair that has none gets its reason.
    pub(crate) fn prompts(
        &self,
        pairs: &[Pair],
        options: &ScoreOptions,
        pictures: Arc<[Content]>,
        rows: &mut [ScoreRow],
    ) -> Vec<RemotePrompt> {
        let mut prompts = Vec::new();
        let none: Arc<[Content]> = Arc::default();
        for (i, (pair, row)) in pairs.iter().zip(rows).enumerate() {
            let Some(answer) = &pair.answer else {
                row.reason = Some("the question has no answer".to_owned());
                continue;
            };
            let wants = |loss| options.scores.wants(loss);
            let turn = [
                Message::user(&pair.question),
                Message::assistant(answer.as_str()),
            ];
            for (loss, messages) in [(Loss::AGivenQ, &turn[..]), (Loss::A, &turn[1..])] {
                if !wants(loss) {
                    continue;
                }
                match self.text(messages, options.compat) {
                    Ok(asked) => prompts.push(RemotePrompt {
                        pair: i,
                        loss,
                        asked,
                    }),
                    Err(error) => {
                        let reason = format!("cannot be encoded: {}", chain(&error));
                        row.reason.get_or_insert(reason);
                    }
                }
            }
            let mut converse = |loss, pictures: &Arc<[Content]>, turns: &[&Pair], before| {
                let said = |pair: &&Pair| Some([pair.question.clone(), pair.answer.clone()?]);
                if let (true, Some(turns)) = (wants(loss), turns.iter().map(said).collect()) {
                    let pictures = pictures.clone();
                    let asked = Asked::Turns {
                        pictures,
                        turns,
                        before,
                    };
                    prompts.push(RemotePrompt {
                        pair: i,
                        loss,
                        asked,
                    });
                }
            };
            converse(Loss::Qa, &none, &[pair], 0);
            if pictures.is_empty() {
                continue;
            }
            converse(Loss::QaGivenImage, &pictures, &[pair], 0);
            let before = i.checked_sub(1).map(|i| &pairs[i]);
            if let (PairKind::SelfExplain, Some(first)) = (pair.kind, before) {
                // The release's span begins a token early.
                let early = usize::from(options.compat == Compat::Llavar2);
                converse(Loss::Duo, &pictures, &[first, pair], early);
            }
        }
        prompts
    }

    fn text(&self, messages: &[Message], compat: Compat) -> Result<Asked, EncodeError> {
        let rendered = self.template.render(messages, false)?;
        let text = rendered.text();
        let answer = rendered.turns.last().and_then(|turn| turn.answer);
        let span = match (compat, answer) {
            (Compat::Llavar2, _) => 0..text.len(),
            (Compat::Exact, Some((start, end))) => start.byte..end.byte,
            (Compat::Exact, None) => 0..0,
        };
        Ok(Asked::Text { text, span })
    }

    /// Mean loss and number of tokens of a span, or why there are none; an error where the server is of
    /// no use for other texts either.
    fn ask(&self, prompt: &RemotePrompt, limit: Option<usize>) -> Result<Scored, ClientError> {
        let scored = match &prompt.asked {
            Asked::Text { text, span } => self.go_on(text, span),
            Asked::Turns {
                pictures,
                turns,
                before,
            } => self.converse(pictures, turns, *before),
        };
        match scored {
            Ok(Ok((_, tokens))) if limit.is_some_and(|limit| tokens > limit) => {
                let limit = limit.unwrap_or_default();
                Ok(Err(format!(
                    "too long: {tokens} tokens, the limit is {limit}"
                )))
            }
            Ok(scored) => Ok(scored.map(|(mean, _)| mean)),
            Err(error) => match error.class() {
                ErrorClass::Refused | ErrorClass::ContextLength | ErrorClass::Filtered => {
                    Ok(Err(format!("server: {}", chain(&error))))
                }
                _ => Err(error),
            },
        }
    }

    fn go_on(&self, text: &str, span: &Range<usize>) -> Result<OfAll, ClientError> {
        let mut request = CompletionRequest::score(&self.name, text);
        if text.starts_with(WRITTEN_BOS) {
            request
                .extra
                .insert("add_special_tokens".into(), false.into());
        }
        let tokens = self.client.complete(&request)?.prompt;
        let scored = in_text(text, span, &tokens).and_then(mean);
        Ok(scored.map(|mean| (mean, tokens.len())))
    }

    fn converse(
        &self,
        pictures: &Arc<[Content]>,
        turns: &[[String; 2]],
        before: usize,
    ) -> Result<OfAll, ClientError> {
        let mut messages = Vec::new();
        for [question, answer] in turns {
            messages.push(ChatMessage::user(question));
            messages.push(ChatMessage::new(Role::Assistant, answer));
        }
        if let Some(first) = messages.first_mut() {
            first.content.splice(0..0, pictures.iter().cloned());
        }
        let request = ChatRequest::score(&self.name, messages);
        let tokens = self.client.score_chat(&request)?.prompt;
        let [question, answer] = turns.last().map_or(["", ""], |turn| {
            let [question, answer] = turn;
            [question, answer]
        });
        let texts = tokens.iter().map(|token| token.text.as_str());
        let scored = find::last_turn(texts, question, answer).map_err(|missing| {
            let what = match missing {
                Missing::Question => "question",
                Missing::Answer => "answer",
            };
            format!("the {what} is not in the tokens of the server's conversation")
        });
        let scored = scored.and_then(|span| {
            let start = span.start.saturating_sub(before);
            mean(tokens[start..span.end].iter())
        });
        Ok(scored.map(|mean| (mean, tokens.len())))
    }
}

/// Mean loss and number of tokens of a span, or why there are none.
type Scored = Result<(f64, u32), String>;

/// The same with the number of tokens of the whole text.
type OfAll = Result<((f64, u32), usize), String>;

/// Where it is and what it is called.
impl fmt::Display for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.client.endpoint())
    }
}

/// The tokens of a span of a text.
fn in_text<'a>(
    text: &str,
    span: &Range<usize>,
    tokens: &'a [TokenLogprob],
) -> Result<impl Iterator<Item = &'a TokenLogprob>, String> {
    let texts = tokens.iter().map(|token| token.text.as_str());
    let places = align::align(text, texts).map_err(|at| {
        let rest = text.get(at..).unwrap_or_default();
        let rest: String = rest.chars().take(40).collect();
        format!("the server's tokens leave the text that it was sent at byte {at}: {rest:?}")
    })?;
    let span = span.clone();
    let inside = move |place: &Range<usize>| {
        !place.is_empty() && place.end > span.start && place.start < span.end
    };
    let scored = places.into_iter().zip(tokens);
    Ok(scored.filter_map(move |(place, token)| inside(&place).then_some(token)))
}

/// Mean loss of tokens, and their number. The first token of a text has no probability.
fn mean<'a>(tokens: impl Iterator<Item = &'a TokenLogprob>) -> Scored {
    let losses: Vec<f64> = tokens
        .filter_map(|token| token.logprob)
        .map(|logprob| -logprob)
        .collect();
    if losses.is_empty() {
        return Err("a span without tokens".to_owned());
    }
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    Ok((mean, losses.len() as u32))
}
