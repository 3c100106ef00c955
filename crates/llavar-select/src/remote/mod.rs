//! A model on an OpenAI-compatible server that gives log-probabilities of prompts: vLLM
//! (`prompt_logprobs`), llama.cpp and others (`echo` with `logprobs`).
//!
//! The template renders the texts here and says where the answers lie; the server's tokens are laid over
//! the text ([`align`]), so nothing has to be known of its tokenizer.

mod align;

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use llavar_client::{Client, ClientError, CompletionRequest, ErrorClass, TokenLogprob};
use llavar_data::{EncodeError, Message, Template, TemplateName};

use crate::{Compat, Loss, Losses, Pair, Prepared, ScoreRow, SelectError, scorer::chain};

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

/// A text whose answer is to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemotePrompt {
    pair: usize,
    loss: Loss,
    text: String,
    /// Bytes of the text.
    span: Range<usize>,
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

    /// The texts of a sample; a pair that has none gets its reason.
    pub(crate) fn prompts(
        &self,
        pairs: &[Pair],
        compat: Compat,
        rows: &mut [ScoreRow],
    ) -> Vec<RemotePrompt> {
        let mut prompts = Vec::new();
        for (i, (pair, row)) in pairs.iter().zip(rows).enumerate() {
            let Some(answer) = &pair.answer else {
                row.reason = Some("the question has no answer".to_owned());
                continue;
            };
            let turn = [
                Message::user(&pair.question),
                Message::assistant(answer.as_str()),
            ];
            for (loss, messages) in [(Loss::AGivenQ, &turn[..]), (Loss::A, &turn[1..])] {
                match self.prompt(i, loss, messages, compat) {
                    Ok(prompt) => prompts.push(prompt),
                    Err(error) => {
                        let reason = format!("cannot be encoded: {}", chain(&error));
                        row.reason.get_or_insert(reason);
                    }
                }
            }
        }
        prompts
    }

    fn prompt(
        &self,
        pair: usize,
        loss: Loss,
        messages: &[Message],
        compat: Compat,
    ) -> Result<RemotePrompt, EncodeError> {
        let rendered = self.template.render(messages, false)?;
        let text = rendered.text();
        let answer = rendered.turns.last().and_then(|turn| turn.answer);
        let span = match (compat, answer) {
            (Compat::Llavar2, _) => 0..text.len(),
            (Compat::Exact, Some((start, end))) => start.byte..end.byte,
            (Compat::Exact, None) => 0..0,
        };
        Ok(RemotePrompt {
            pair,
            loss,
            text,
            span,
        })
    }

    /// The rows of prepared samples. What the server refuses is a reason; a server that cannot be used at
    /// all ends the run.
    pub(crate) fn score(
        &self,
        prepared: Vec<Prepared>,
        limit: Option<usize>,
    ) -> Result<Vec<ScoreRow>, SelectError> {
        let of_all = prepared.iter().enumerate();
        let all: Vec<(usize, &RemotePrompt)> = of_all
            .flat_map(|(sample, own)| own.prompts.iter().map(move |prompt| (sample, prompt)))
            .collect();
        let (next, answers) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let fatal = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..self.workers.min(all.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Relaxed);
                        let Some((_, prompt)) = all.get(index) else {
                            return;
                        };
                        match self.ask(prompt, limit) {
                            Ok(answer) => {
                                let locked = answers.lock();
                                let mut answers = locked.unwrap_or_else(PoisonError::into_inner);
                                answers.insert(index, answer);
                            }
                            Err(error) => {
                                next.store(all.len(), Relaxed);
                                let locked = fatal.lock();
                                let mut fatal = locked.unwrap_or_else(PoisonError::into_inner);
                                fatal.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(SelectError::Server(error));
        }
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut losses: Vec<Vec<Losses>> = prepared
            .iter()
            .map(|own| vec![Losses::default(); own.rows.len()])
            .collect();
        let mut reasons = HashMap::new();
        for (i, (sample, prompt)) in all.iter().enumerate() {
            match answers.get(&i) {
                Some(Ok((mean, tokens))) => {
                    losses[*sample][prompt.pair].set(prompt.loss, *mean, *tokens);
                }
                Some(Err(reason)) => {
                    let first = reasons.entry((*sample, prompt.pair));
                    first.or_insert_with(|| reason.clone());
                }
                None => {}
            }
        }
        let mut rows = Vec::new();
        for (sample, (prepared, losses)) in prepared.into_iter().zip(losses).enumerate() {
            for (pair, (mut row, losses)) in prepared.rows.into_iter().zip(losses).enumerate() {
                if let Some(reason) = reasons.remove(&(sample, pair)) {
                    row.reason.get_or_insert(reason);
                }
                row.fill(&losses);
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Mean loss and number of tokens of a span, or why there are none; an error where the server is of
    /// no use for other texts either.
    fn ask(
        &self,
        prompt: &RemotePrompt,
        limit: Option<usize>,
    ) -> Result<Result<(f64, u32), String>, ClientError> {
        let mut request = CompletionRequest::score(&self.name, &prompt.text);
        if prompt.text.starts_with(WRITTEN_BOS) {
            request
                .extra
                .insert("add_special_tokens".into(), false.into());
        }
        let tokens = match self.client.complete(&request) {
            Ok(answer) => answer.prompt,
            Err(error) => {
                return match error.class() {
                    ErrorClass::Refused | ErrorClass::ContextLength | ErrorClass::Filtered => {
                        Ok(Err(format!("server: {}", chain(&error))))
                    }
                    _ => Err(error),
                };
            }
        };
        if limit.is_some_and(|limit| tokens.len() > limit) {
            let (own, limit) = (tokens.len(), limit.unwrap_or_default());
            return Ok(Err(format!("too long: {own} tokens, the limit is {limit}")));
        }
        Ok(mean_over(prompt, &tokens))
    }
}

/// Where it is and what it is called.
impl fmt::Display for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.client.endpoint())
    }
}

fn mean_over(prompt: &RemotePrompt, tokens: &[TokenLogprob]) -> Result<(f64, u32), String> {
    let texts = tokens.iter().map(|token| token.text.as_str());
    let places = align::align(&prompt.text, texts).map_err(|at| {
        let rest: String = prompt
            .text
            .get(at..)
            .unwrap_or_default()
            .chars()
            .take(40)
            .collect();
        format!("the server's tokens leave the text that it was sent at byte {at}: {rest:?}")
    })?;
    let inside = |place: &Range<usize>| {
        !place.is_empty() && place.end > prompt.span.start && place.start < prompt.span.end
    };
    let scored = places.iter().zip(tokens).filter(|(place, _)| inside(place));
    // The first token of a text has no probability.
    let losses: Vec<f64> = scored
        .filter_map(|(_, token)| token.logprob)
        .map(|logprob| -logprob)
        .collect();
    if losses.is_empty() {
        return Err("a span without tokens".to_owned());
    }
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    Ok((mean, losses.len() as u32))
}
