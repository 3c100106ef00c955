//! A model behind an OpenAI-compatible server.

use super::{AnswerError, Answerer, Ask, Replies, Reply};
use crate::fingerprint::Fingerprint;
use crate::results::{DecodeSettings, ModelInfo};
use crate::tasks::chain;
use llavar_client::{ChatRequest, Client, ClientError, Content, ErrorClass, Message};
use llavar_image::{DecodeLimits, ImageError, as_sent, read_file};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

/// Failures in a row, after all retries and without one answer, that end a run: the server is down, and
/// every further question would take its retries too.
const DOWN: usize = 8;
/// Questions handed over at once for each request that may run at once: the last one of a hand-over is
/// waited for alone.
const DEPTH: usize = 16;

/// Takes the replies of [`RemoteModel::ask_all`], by the number of the ask, and says whether to go on.
type Deliver<'a> = dyn FnMut(usize, Result<Reply, String>) -> ControlFlow<()> + 'a;

/// A request: a picture, if there is one, and what is said about it.
#[derive(Debug, Clone)]
pub struct RemoteAsk {
    /// The picture's file.
    pub image: Option<PathBuf>,
    /// The user's turn.
    pub prompt: String,
}

/// A model on a server. The client has its own retries, time-outs and limit of requests at once.
#[derive(Debug)]
pub struct RemoteModel<'c> {
    client: &'c Client,
    model: String,
    concurrency: usize,
    prompt_tokens: u64,
    new_tokens: u64,
}

impl<'c> RemoteModel<'c> {
    /// The model called `model` on the client's server, asked `concurrency` questions at once.
    pub fn new(client: &'c Client, model: impl Into<String>, concurrency: usize) -> Self {
        Self {
            client,
            model: model.into(),
            concurrency: concurrency.max(1),
            prompt_tokens: 0,
            new_tokens: 0,
        }
    }

    /// Sends all asks, `concurrency` at once, and hands each reply to `deliver` as it comes; one without text is an
    /// error of its request. Where `deliver` breaks or `stop` is set nothing more is sent; what is on its way is
    /// waited for and delivered, as it is paid for.
    ///
    /// # Errors
    /// The first error that every other request would meet too (the key, the address, the quota), or the
    /// last of eight failures in a row. Errors of single requests are delivered.
    pub fn ask_all(
        &mut self,
        asks: &[RemoteAsk],
        decode: &DecodeSettings,
        stop: &AtomicBool,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), ClientError> {
        self.send_all(asks, (decode, false), stop, deliver)
    }

    /// As [`RemoteModel::ask_all`]; with the settings stands whether a reply may have no text.
    fn send_all(
        &mut self,
        asks: &[RemoteAsk],
        (decode, may_be_empty): (&DecodeSettings, bool),
        stop: &AtomicBool,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), ClientError> {
        let next = AtomicUsize::new(0);
        let halt = AtomicBool::new(false);
        let this = &*self;
        let (mut fault, mut in_a_row, mut taken) = (None, 0, [0u64; 2]);
        std::thread::scope(|scope| {
            let (send, replies) = mpsc::channel();
            for _ in 0..this.concurrency.min(asks.len()) {
                let (send, next, halt) = (send.clone(), &next, &halt);
                scope.spawn(move || {
                    while !halt.load(Relaxed) && !stop.load(Relaxed) {
                        let number = next.fetch_add(1, Relaxed);
                        let Some(ask) = asks.get(number) else { break };
                        if send
                            .send((number, this.ask(ask, decode, may_be_empty)))
                            .is_err()
                        {
                            break;
                        }
                    }
                });
            }
            drop(send);
            for (number, reply) in replies {
                let reply = match reply {
                    Ok((reply, tokens)) => {
                        in_a_row = 0;
                        taken = [taken[0] + tokens[0], taken[1] + tokens[1]];
                        Ok(reply)
                    }
                    Err(AskError::Picture(error)) => Err(chain(&error)),
                    // Not asked: it is neither answered nor failed.
                    Err(AskError::Client(error)) if error.class() == ErrorClass::Cancelled => {
                        continue;
                    }
                    Err(AskError::Client(error)) if error.is_fatal() => {
                        halt.store(true, Relaxed);
                        fault.get_or_insert(error);
                        continue;
                    }
                    Err(AskError::Client(error)) => {
                        // A server that answers is not down, whatever it says.
                        let silent = error.class() == ErrorClass::EmptyText;
                        in_a_row += usize::from(error.is_transient() && !silent);
                        let text = chain(&error);
                        if in_a_row >= DOWN {
                            halt.store(true, Relaxed);
                            fault.get_or_insert(error);
                        }
                        Err(text)
                    }
                };
                if deliver(number, reply).is_break() {
                    halt.store(true, Relaxed);
                }
            }
        });
        self.prompt_tokens += taken[0];
        self.new_tokens += taken[1];
        fault.map_or(Ok(()), Err)
    }

    /// One request. The reply, and the tokens of request and answer.
    fn ask(
        &self,
        ask: &RemoteAsk,
        decode: &DecodeSettings,
        may_be_empty: bool,
    ) -> Result<(Reply, [u64; 2]), AskError> {
        let mut message = Message::user(&ask.prompt);
        let mut key = Fingerprint::default();
        key.field(&self.model)
            .field(&ask.prompt)
            .field(&format!("{decode:?}"));
        if let Some(path) = &ask.image {
            let (mime, bytes) = picture(path).map_err(AskError::Picture)?;
            key.bytes(&bytes);
            message = message.with_image(Content::image(mime, &bytes));
        }
        let mut request = ChatRequest::new(&self.model, vec![message]);
        request.temperature = Some(decode.temperature);
        request.top_p = decode.top_p;
        request.max_tokens = u32::try_from(decode.max_new_tokens).ok();
        request.seed = (decode.temperature > 0.0).then_some(decode.seed);
        request.may_be_empty = may_be_empty;
        request.idempotency_key = Some(key.hex());
        let answer = self.client.chat(&request).map_err(AskError::Client)?;
        let mut metadata = Map::new();
        let mut add = |name: &str, value: Value| metadata.insert(name.to_owned(), value);
        if let Some(usage) = answer.usage {
            add("prompt_tokens", usage.prompt_tokens.into());
            add("new_tokens", usage.completion_tokens.into());
        }
        if let Some(reason) = answer.finish_reason {
            add("stop_reason", reason.into());
        }
        let usage = answer.usage.unwrap_or_default();
        let reply = Reply {
            text: answer.text,
            metadata,
        };
        Ok((reply, [usage.prompt_tokens, usage.completion_tokens]))
    }
}

/// A setting that the servers' interface does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be asked of a server")]
pub struct NotForServers {
    /// The setting.
    pub setting: &'static str,
}

/// Why one request has no answer.
enum AskError {
    Picture(ImageError),
    Client(ClientError),
}

impl Answerer for RemoteModel<'_> {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            id: self.model.clone(),
            endpoint: Some(self.client.endpoint().to_string()),
            ..ModelInfo::default()
        }
    }

    fn at_once(&self) -> usize {
        self.concurrency.saturating_mul(DEPTH)
    }

    fn check(&self, decode: &DecodeSettings) -> Result<(), AnswerError> {
        for (asked, setting) in [
            (decode.num_beams != 1, "beams"),
            (decode.top_k.is_some(), "top-k"),
            (decode.repetition_penalty != 1.0, "a repetition penalty"),
            (decode.closer, "a closer look"),
        ] {
            if asked {
                return Err(AnswerError::Other(Box::new(NotForServers { setting })));
            }
        }
        Ok(())
    }

    fn answer(
        &mut self,
        asks: &[Ask<'_>],
        decode: &DecodeSettings,
        stop: &AtomicBool,
        deliver: &mut dyn FnMut(Replies) -> ControlFlow<()>,
    ) -> Result<(), AnswerError> {
        let asks: Vec<RemoteAsk> = asks
            .iter()
            .map(|ask| RemoteAsk {
                image: Some(ask.image.to_path_buf()),
                prompt: ask.prompt.clone(),
            })
            .collect();
        // A model in this process may have nothing to say too.
        self.send_all(&asks, (decode, true), stop, &mut |number, reply| {
            deliver(vec![(number, reply)])
        })
        .map_err(AnswerError::Server)
    }

    fn summary(&self) -> Option<String> {
        Some(format!(
            "{} of {}: {} tokens of requests, {} tokens of answers",
            self.model,
            self.client.endpoint(),
            self.prompt_tokens,
            self.new_tokens
        ))
    }
}

/// The picture as it is sent.
fn picture(path: &Path) -> Result<(&'static str, Vec<u8>), ImageError> {
    let limits = DecodeLimits::default();
    as_sent(read_file(path, &limits)?, path, &limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_client::{
        ClientOptions,
        testing::{Reply as Sent, StubServer},
    };
    use std::time::Duration;

    #[test]
    fn a_model_without_a_word_has_answered_and_is_no_server_that_is_down() {
        // More of them than failures in a row that end a run.
        const ASKED: usize = DOWN + 4;
        let server = StubServer::start(|_| {
            Sent::Json(serde_json::json!({
                "choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 1},
            }))
        })
        .unwrap();
        let mut options = ClientOptions::new(server.endpoint().unwrap());
        options.retries.base = Duration::from_millis(1);
        options.retries.attempts = 2;
        let client = Client::new(options).unwrap();
        let mut model = RemoteModel::new(&client, "m", 1);
        let decode = DecodeSettings {
            temperature: 0.0,
            top_p: None,
            top_k: None,
            num_beams: 1,
            repetition_penalty: 1.0,
            max_new_tokens: 16,
            seed: 0,
            closer: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("p.png");
        let white = llavar_image::RgbImage::filled(8, 8, [255; 3]);
        std::fs::write(&image, llavar_image::encode_png(&white).unwrap()).unwrap();
        let (mut texts, stop) = (Vec::new(), AtomicBool::new(false));

        let asks: Vec<Ask<'_>> = (0..ASKED)
            .map(|i| Ask {
                id: "q",
                image: &image,
                prompt: format!("say {i}?"),
            })
            .collect();
        let mut keep = |replies: Replies| {
            texts.extend(replies);
            ControlFlow::Continue(())
        };
        model.answer(&asks, &decode, &stop, &mut keep).unwrap();
        assert_eq!(texts.len(), ASKED);
        for (_, reply) in texts {
            let reply = reply.unwrap();
            assert_eq!(reply.text, "");
            assert_eq!(reply.metadata["new_tokens"], 1);
            assert_eq!(reply.metadata["stop_reason"], "stop");
        }
        assert_eq!(server.requests().len(), ASKED, "nothing is asked again");

        // A judge has to say something.
        let asks = vec![
            RemoteAsk {
                image: None,
                prompt: "who is right?".into(),
            };
            ASKED
        ];
        let mut errors = Vec::new();
        let mut keep = |_, reply: Result<Reply, String>| {
            errors.push(reply.unwrap_err());
            ControlFlow::Continue(())
        };
        model.ask_all(&asks, &decode, &stop, &mut keep).unwrap();
        assert_eq!(errors.len(), ASKED);
        assert!(errors.iter().all(|e| e.contains("the answer is empty")));
    }
}
