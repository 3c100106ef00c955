//! What a run will take, before anything is sent.

use std::collections::HashMap;

use llavar_client::Usage;
use llavar_ocr::Reader;
use serde::Serialize;
use serde_json::json;

use crate::{
    Caller, InstructError, Picture, Pictures, Prompts, Settings,
    call::{Question, tokens_about, tokens_of},
    generate::{caption_schema, cut, duos_schema},
};

/// Bytes of a usual caption and of a usual duo as JSON.
const CAPTION_BYTES: usize = 620;
const DUO_BYTES: usize = 520;

/// Tokens and price of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Pictures.
    pub pictures: usize,
    /// Pictures that cannot be used.
    pub unusable: usize,
    /// First requests that are in the journal already.
    pub answered: usize,
    /// Requests if every first answer is kept.
    pub requests: usize,
    /// Tokens of those requests.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
    /// Their price, USD; absent without prices.
    pub usd: Option<f64>,
    /// The price if every step of every picture needs all attempts at full length, USD.
    pub most_usd: Option<f64>,
}

impl Estimate {
    /// Looks at every picture; nothing is sent.
    ///
    /// # Errors
    /// [`InstructError::Prompt`].
    pub fn of(
        pictures: &Pictures,
        captions: &HashMap<String, String>,
        reader: &Reader,
        caller: &Caller<'_>,
        prompts: &Prompts,
        settings: &Settings,
    ) -> Result<Self, InstructError> {
        let mut sum = Self {
            pictures: pictures.names.len(),
            ..Self::default()
        };
        let (mut usd, mut most_usd) = (0.0, 0.0);
        let sees = caller.sampling.send_images;
        for name in &pictures.names {
            let caption = captions.get(name).map(String::as_str);
            let Ok(picture) = Picture::open(&pictures.folder, name, caption, reader) else {
                sum.unusable += 1;
                continue;
            };
            if picture.caption.is_none() && picture.lines.is_empty() && !sees {
                sum.unusable += 1;
                continue;
            }
            let (least, most) = settings.rules.caption_words;
            let known = json!({
                "name": picture.name, "width": picture.width, "height": picture.height,
                "caption": picture.caption, "layout": cut(&picture.layout, settings.layout_chars),
                "sees": sees, "language": settings.rules.language.name(),
                "least_words": least.max(30), "most_words": most.min(120), "rejected": [],
                // A caption that is yet to be written.
                "description": "x".repeat(CAPTION_BYTES), "number": settings.duos, "kept": [], "open": [],
            });
            let steps = [
                ("caption", caption_schema(), CAPTION_BYTES),
                ("duos", duos_schema(), DUO_BYTES * settings.duos),
            ];
            let mut first_is_known = true;
            for (step, schema, bytes) in steps {
                let question = Question {
                    step,
                    attempt: 1,
                    messages: prompts.render(step, known.clone())?,
                    schema,
                    picture: &picture,
                    can_be_shorter: true,
                };
                // The second request depends on the first answer; it is known only after that.
                first_is_known &= step == "duos" || caller.known(&question);
                if step == "caption" && first_is_known {
                    sum.answered += 1;
                    continue;
                }
                let usage = Usage {
                    prompt_tokens: tokens_about(&question, sees),
                    completion_tokens: tokens_of(bytes),
                    cached_tokens: 0,
                };
                sum.requests += 1;
                sum.prompt_tokens += usage.prompt_tokens;
                sum.completion_tokens += usage.completion_tokens;
                if let Some(prices) = caller.prices {
                    usd += prices.of(&usage);
                    let most = caller.most(&question);
                    most_usd += prices.of(&most) * f64::from(settings.attempts);
                }
            }
        }
        if caller.prices.is_some() {
            sum.usd = Some(usd);
            sum.most_usd = Some(most_usd);
        }
        Ok(sum)
    }
}
