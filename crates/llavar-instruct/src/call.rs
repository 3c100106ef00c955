//! One question to the model: from the journal, or from the server into the journal.

use std::ops::ControlFlow;

use llavar_client::{
    ChatRequest, Client, ClientError, Content, ErrorClass, JsonSchema, Message, Usage,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    Answer, Budget, Entry, InstructError, Journal, Picture, Prices, duo::hex, journal::now,
};

/// How the model is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Name of the model on the server.
    pub model: String,
    /// 0 is greedy.
    pub temperature: f32,
    /// Repeats sampling where the server can.
    pub seed: u64,
    /// Longest answer of the caption step, tokens.
    pub caption_tokens: u32,
    /// Longest answer of the duo step, tokens.
    pub duo_tokens: u32,
    /// Whether the pictures are sent along.
    pub send_images: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The journal has none and there is no server to ask.
    #[error("the journal has no answer to this request")]
    NotInJournal,
    /// The next request might pass the budget.
    #[error("the budget is used up")]
    Budget,
    /// The journal says that the request is longer than the model's context.
    #[error("{message}")]
    TooLong {
        /// What was said when it was sent.
        message: String,
    },
    /// The server gave none.
    #[error(transparent)]
    Client(ClientError),
    /// The journal cannot be written: nothing further may be asked.
    #[error(transparent)]
    Journal(InstructError),
}

impl CallError {
    /// Whether a shorter request may have an answer.
    pub(crate) fn is_too_long(&self) -> bool {
        match self {
            Self::TooLong { .. } => true,
            Self::Client(error) => error.class() == ErrorClass::ContextLength,
            _ => false,
        }
    }
}

/// A request to make.
pub(crate) struct Question<'a> {
    pub(crate) step: &'static str,
    /// Which request of this step for this picture, from 1.
    pub(crate) attempt: u32,
    pub(crate) messages: Vec<Message>,
    pub(crate) schema: JsonSchema,
    pub(crate) picture: &'a Picture,
    /// Whether a shorter one is made where this one is too long.
    pub(crate) can_be_shorter: bool,
}

/// What is set aside of the budget for one attempt; what nobody settles goes back.
struct Held<'a> {
    budget: &'a Budget,
    most: f64,
    is_held: bool,
}

impl Held<'_> {
    fn reserve(&mut self) -> bool {
        self.is_held = self.budget.reserve(self.most);
        self.is_held
    }

    fn settle(&mut self, cost: f64) {
        if std::mem::take(&mut self.is_held) {
            self.budget.settle(self.most, cost);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.settle(0.0);
    }
}

/// Asks.
#[derive(Debug)]
pub struct Caller<'a> {
    /// The server; absent where the journal alone is to answer.
    pub client: Option<&'a Client>,
    /// Answers.
    pub journal: &'a Journal,
    /// The limit.
    pub budget: &'a Budget,
    /// What tokens cost.
    pub prices: Option<Prices>,
    /// How the model is asked.
    pub sampling: &'a Sampling,
}

impl Caller<'_> {
    /// The name of a request: all that its answer depends on. The server's address is no part of it, so a
    /// run may move to another one.
    fn key(&self, question: &Question<'_>) -> String {
        let mut hash = Sha256::new();
        let sampling = self.sampling;
        let what = json!([
            question.step,
            question.attempt,
            sampling.model,
            sampling.temperature,
            sampling.seed,
            self.most_tokens(question.step),
            sampling.send_images,
            question.picture.hash,
        ]);
        hash.update(what.to_string());
        for message in &question.messages {
            hash.update([0]);
            hash.update(json!(message.role).to_string());
            for part in &message.content {
                if let Content::Text(text) = part {
                    hash.update(text);
                }
            }
        }
        hex(&hash.finalize()[..16])
    }

    fn most_tokens(&self, step: &str) -> u32 {
        match step {
            "caption" => self.sampling.caption_tokens,
            _ => self.sampling.duo_tokens,
        }
    }

    /// Whether the journal has the answer, or that of a shorter request.
    pub(crate) fn known(&self, question: &Question<'_>) -> bool {
        let key = self.key(question);
        self.journal.answer(&key).is_some() || self.journal.too_long(&key).is_some()
    }

    /// The most tokens that a request can take.
    pub(crate) fn most(&self, question: &Question<'_>) -> Usage {
        Usage {
            prompt_tokens: tokens_at_most(question, self.sampling.send_images),
            completion_tokens: u64::from(self.most_tokens(question.step)),
            cached_tokens: 0,
        }
    }

    /// The answer.
    pub(crate) fn ask(&self, question: Question<'_>) -> Result<Answer, CallError> {
        let key = self.key(&question);
        if let Some(answer) = self.journal.answer(&key) {
            return Ok(answer);
        }
        // The shortest request is sent again: the server may have more room by now.
        if (question.can_be_shorter || self.client.is_none())
            && let Some(message) = self.journal.too_long(&key)
        {
            return Err(CallError::TooLong { message });
        }
        let client = self.client.ok_or(CallError::NotInJournal)?;
        // A copy of a picture makes the same request: the second waits for the first one's answer.
        let _claim = self.journal.claim(&key);
        if let Some(answer) = self.journal.answer(&key) {
            return Ok(answer);
        }
        let most_usd = self.prices.map(|prices| prices.of(&self.most(&question)));
        // Without prices the budget counts nothing.
        let mut held = Held {
            budget: self.budget,
            most: most_usd.unwrap_or(0.0),
            is_held: false,
        };
        if !held.reserve() {
            return Err(CallError::Budget);
        }
        self.ask_server(client, &key, question, most_usd, &mut held)
    }

    /// The answer of the server; each attempt settles what it cost.
    fn ask_server(
        &self,
        client: &Client,
        key: &str,
        question: Question<'_>,
        most_usd: Option<f64>,
        held: &mut Held<'_>,
    ) -> Result<Answer, CallError> {
        let price = |usage: &Usage| self.prices.map(|prices| prices.of(usage));
        let step = question.step;
        let model = self.sampling.model.clone();
        let estimate = tokens_about(&question, self.sampling.send_images);
        let image = question.picture.name.clone();
        let request = self.request(key, question);
        self.journal
            .append(Entry::Sent {
                time: now(),
                key: key.to_owned(),
                step: step.to_owned(),
                image: image.clone(),
                model: model.clone(),
                most_usd,
            })
            .map_err(CallError::Journal)?;
        let mut fault = None;
        let mut over_budget = false;
        let sent = client.chat_watched(&request, &mut |attempt| {
            let usd = attempt.usage.as_ref().and_then(price);
            let may_be_charged = attempt.error.may_be_charged();
            // What nobody counts is counted at its most: the budget holds in any case.
            let cost = match (usd, may_be_charged) {
                (Some(usd), _) => usd,
                (None, true) => most_usd.unwrap_or(0.0),
                (None, false) => 0.0,
            };
            held.settle(cost);
            // The next attempt may cost as much again.
            over_budget = attempt.retry_in.is_some() && !held.reserve();
            let entry = Entry::Failed {
                time: now(),
                key: key.to_owned(),
                step: step.to_owned(),
                model: model.clone(),
                class: attempt.error.class().as_str().to_owned(),
                message: attempt.error.to_string(),
                usage: attempt.usage,
                usd,
                may_be_charged,
                last: attempt.retry_in.is_none() || over_budget,
            };
            if let Err(error) = self.journal.append(entry) {
                fault.get_or_insert(error);
            }
            match over_budget || fault.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        if let Some(error) = fault {
            return Err(CallError::Journal(error));
        }
        if over_budget {
            return Err(CallError::Budget);
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                // A stop before or between attempts has no attempt of its own in the journal.
                if matches!(error, ClientError::Cancelled) {
                    let entry = Entry::Failed {
                        time: now(),
                        key: key.to_owned(),
                        step: step.to_owned(),
                        model,
                        class: error.class().as_str().to_owned(),
                        message: error.to_string(),
                        usage: None,
                        usd: None,
                        may_be_charged: false,
                        last: true,
                    };
                    self.journal.append(entry).map_err(CallError::Journal)?;
                }
                return Err(CallError::Client(error));
            }
        };
        let estimated = answer.usage.is_none();
        let usage = answer.usage.unwrap_or(Usage {
            prompt_tokens: estimate,
            completion_tokens: tokens_of(answer.text.len()),
            cached_tokens: 0,
        });
        let usd = price(&usage);
        let answer = Answer {
            time: now(),
            key: key.to_owned(),
            step: step.to_owned(),
            image,
            model,
            text: answer.text,
            finish_reason: answer.finish_reason,
            usage,
            estimated,
            usd,
            seconds: answer.seconds,
        };
        held.settle(usd.unwrap_or(0.0));
        self.journal
            .append(Entry::Answer(answer.clone()))
            .map_err(CallError::Journal)?;
        Ok(answer)
    }

    fn request(&self, key: &str, question: Question<'_>) -> ChatRequest {
        let mut messages = question.messages;
        if self.sampling.send_images
            && let Some(last) = messages.pop()
        {
            let picture = question.picture;
            messages.push(last.with_image(Content::image(picture.mime, &picture.bytes)));
        }
        let mut request = ChatRequest::new(self.sampling.model.clone(), messages);
        request.temperature = Some(self.sampling.temperature);
        request.seed = Some(self.sampling.seed);
        request.max_tokens = Some(self.most_tokens(question.step));
        request.schema = Some(question.schema);
        // Each sending of a request is charged once by a server that knows such keys.
        request.idempotency_key = Some(format!("llavar-{key}"));
        request
    }
}

/// Tokens of so many bytes: about four bytes a token in English, three to be on the safe side of names and
/// numbers.
pub(crate) fn tokens_of(bytes: usize) -> u64 {
    bytes.div_ceil(3) as u64
}

fn bytes_of(question: &Question<'_>) -> usize {
    let parts = question
        .messages
        .iter()
        .flat_map(|message| &message.content);
    parts
        .map(|part| match part {
            Content::Text(text) => text.len() + 16,
            Content::ImageUrl(_) => 0,
        })
        .sum()
}

/// Tokens of a picture: those of OpenAI's high detail, 170 a tile of 512 px after scaling to a short side of
/// 768 px; other servers are of the same order.
fn picture_tokens(picture: &Picture) -> u64 {
    let (w, h) = (
        f64::from(picture.width.max(1)),
        f64::from(picture.height.max(1)),
    );
    let scale = (2048.0 / w.max(h)).min(768.0 / w.min(h)).min(1.0);
    let tiles = (w * scale / 512.0).ceil() * (h * scale / 512.0).ceil();
    85 + 170 * tiles as u64
}

/// Tokens that a request about takes.
pub(crate) fn tokens_about(question: &Question<'_>, send_images: bool) -> u64 {
    let text = tokens_of(bytes_of(question));
    text + if send_images {
        picture_tokens(question.picture)
    } else {
        0
    }
}

/// Tokens that a request takes at most: a tokenizer that splits every two bytes, twice the picture.
fn tokens_at_most(question: &Question<'_>, send_images: bool) -> u64 {
    let text = bytes_of(question).div_ceil(2) as u64;
    text + if send_images {
        2 * picture_tokens(question.picture)
    } else {
        0
    }
}
