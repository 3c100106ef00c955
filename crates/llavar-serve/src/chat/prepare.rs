//! From a request to what the engine takes. All of it is done off the engine's thread.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use llavar_assistant::{Error, Picture, user_turn};
use llavar_data::{IMAGE_TAG, Message};
use llavar_image::DecodeLimits;
use llavar_model::{ModelError, generation::GenerationOptions};
use llavar_ocr::Page;

use super::{Loaded, Stop};
use crate::wire::{ApiError, ChatRequest, PictureUrl};

/// What is refused before a pixel is decoded: half a gigabyte of a picture at work, at most.
const LIMITS: DecodeLimits = DecodeLimits {
    max_pixels: 64 << 20,
    max_side: 65_535,
    max_file_bytes: 64 << 20,
};

/// Bytes of text for each token of the context beyond which no tokenizer would make it fit.
const BYTES_A_TOKEN: usize = 256;

/// A request that is ready for the engine.
pub(super) struct Prepared {
    pub(super) prompt: Vec<i32>,
    pub(super) pictures: Vec<Picture>,
    /// Of the only picture, where a closer look may be taken.
    pub(super) halves: Vec<Picture>,
    pub(super) options: Arc<GenerationOptions>,
}

/// Pictures that are worked on at once.
pub(crate) struct Gate {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Gate {
    pub(crate) fn new(pictures: usize) -> Self {
        Self {
            free: Mutex::new(pictures.max(1)),
            given_back: Condvar::new(),
        }
    }

    fn enter(&self) -> Permit<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let waited = self.given_back.wait(free);
            free = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(self)
    }
}

struct Permit<'a>(&'a Gate);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}

/// Reads pictures and text of a request. `gone` says whether the client has gone, so that the rest of its
/// pictures can be left alone.
pub(super) fn prepare(
    loaded: &Loaded,
    request: ChatRequest,
    mut gone: impl FnMut() -> bool,
) -> Result<Prepared, Stop> {
    let assistant = &loaded.engine.assistant;
    let context = loaded.engine.room.context;
    let shown = request.pictures();
    let a_picture = match (shown, assistant.model().tokens_per_image()) {
        (0, _) => 0,
        (_, Some(tokens)) => tokens,
        (_, None) => {
            let message = "the model that is served takes no pictures";
            return Err(ApiError::field("messages", message).into());
        }
    };
    let texts = request.turns.iter().map(|turn| turn.text.len());
    let bytes = texts.sum::<usize>() + request.system.as_ref().map_or(0, String::len);
    let of_pictures = shown.saturating_mul(a_picture);
    if of_pictures >= context || bytes > context.saturating_mul(BYTES_A_TOKEN) {
        let what = match of_pictures >= context {
            true => format!("{shown} pictures of {a_picture} tokens each"),
            false => format!("a text of {bytes} bytes"),
        };
        return Err(too_long(&what, context).into());
    }
    let options = options(loaded, &request);
    if request.closer {
        fits_a_closer_look(shown, &options)?;
    }
    let (mut pictures, mut halves) = (Vec::with_capacity(shown), Vec::new());
    let mut messages = Vec::new();
    for turn in &request.turns {
        let mut ocr = String::new();
        for url in &turn.pictures {
            if gone() {
                return Err(Stop::Gone);
            }
            let (views, text) = read(loaded, url, request.closer)?;
            let mut views = views.into_iter();
            pictures.extend(views.next());
            halves.extend(views);
            ocr += &text;
        }
        messages.push(match turn.is_user {
            true => user_turn(turn.pictures.len(), &format!("{ocr}{}", turn.text)),
            false => Message::assistant(turn.text.replace(IMAGE_TAG, "").trim()),
        });
    }
    let system = request.system.map(|text| text.replace(IMAGE_TAG, ""));
    let prompt = assistant.prompt_ids(system.as_deref(), &messages);
    let prompt = prompt.map_err(|error| match error {
        Error::Encode(error) => {
            let message = format!("the model's template does not take this conversation: {error}");
            Stop::from(ApiError::field("messages", message))
        }
        other => Stop::Failed(Box::new(other)),
    })?;
    let tokens = prompt.len() - shown + of_pictures;
    if tokens >= context {
        let what = match shown {
            0 => format!("a prompt of {tokens} tokens"),
            _ => format!("a prompt of {tokens} tokens, {of_pictures} of them for pictures,"),
        };
        return Err(too_long(&what, context).into());
    }
    Ok(Prepared {
        prompt,
        pictures,
        halves,
        options,
    })
}

/// A closer look compares answers about one picture by their probability.
fn fits_a_closer_look(shown: usize, options: &GenerationOptions) -> Result<(), ApiError> {
    let message = match shown {
        1 if options.temperature == 0.0 => return Ok(()),
        1 => "`closer` compares the most likely answers: `temperature` has to be 0".to_owned(),
        _ => format!("`closer` looks at one picture, there are {shown}"),
    };
    Err(ApiError::field("closer", message).code("invalid_value"))
}

fn too_long(what: &str, context: usize) -> ApiError {
    let message = format!(
        "{what} leaves no room for an answer: prompt and answer together may have {context} tokens here"
    );
    ApiError::field("messages", message).code("context_length_exceeded")
}

/// Decodes a picture and reads its text, if there is an engine for that; with `closer` both halves of it follow.
fn read(loaded: &Loaded, url: &PictureUrl, closer: bool) -> Result<(Vec<Picture>, String), Stop> {
    let _permit = loaded.gate.enter();
    let file = url.file()?;
    let name: &Path = url.place.as_ref();
    let assistant = &loaded.engine.assistant;
    let views = match closer {
        true => Picture::read_with_halves(assistant, &file, name, &LIMITS).map(Vec::from),
        false => Picture::read(assistant, &file, name, &LIMITS).map(|picture| vec![picture]),
    };
    let views = views.map_err(|error| match error {
        Error::Image(error) => bad_picture(url, &error),
        Error::Model(ModelError::NoVisionTower) => {
            let message = "the model that is served takes no pictures";
            ApiError::field(&url.place, message).into()
        }
        other => Stop::Failed(Box::new(other)),
    })?;
    let Some(reader) = &loaded.reader else {
        return Ok((views, String::new()));
    };
    let text = reader.read(&Page::from_bytes(name, file));
    let text = text.map_err(|error| match error {
        llavar_ocr::OcrError::Image(error) => bad_picture(url, &error),
        other => Stop::Failed(Box::new(other)),
    })?;
    Ok((views, llavar_ocr::prefix(&text)))
}

fn bad_picture(url: &PictureUrl, error: &llavar_image::ImageError) -> Stop {
    let error = ApiError::field(&url.place, error.to_string());
    error.code("invalid_image").into()
}

/// The server's options with those that the request names.
fn options(loaded: &Loaded, request: &ChatRequest) -> Arc<GenerationOptions> {
    let defaults = &loaded.defaults;
    let mut options = GenerationOptions {
        max_new_tokens: request.max_tokens.unwrap_or(defaults.max_new_tokens),
        temperature: request.temperature.unwrap_or(defaults.temperature),
        top_p: request.top_p.or(defaults.top_p).filter(|p| *p < 1.0),
        top_k: request.top_k.or(defaults.top_k),
        repetition_penalty: request
            .repetition_penalty
            .unwrap_or(defaults.repetition_penalty),
        // Whoever wants the same answer again names a seed.
        seed: request
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one("seed")),
        stop_strings: request.stop.clone(),
        num_beams: 1,
        ..defaults.clone()
    };
    if !options.stop_strings.is_empty() {
        let assistant = loaded.engine.assistant.clone();
        options.decode = Some(Arc::new(move |ids| {
            let text = assistant.tokenizer().decode(ids, true);
            text.unwrap_or_default()
        }));
    }
    Arc::new(options)
}
