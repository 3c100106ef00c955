//! A model folder that answers: model, tokenizer, conversation template and image processor together.
//!
//! It calls `llavar-model`, `llavar-data`, `llavar-image` and `llavar-tensor`. The program's `ask` and
//! `chat`, evaluation and serving all go through [`Assistant`], so that a question is put to a model in
//! one way only.
#![forbid(unsafe_code)]

mod batch;
mod closer;
mod conversation;
mod error;
mod pictures;
#[cfg(feature = "testing")]
pub mod testing;
mod visible;

use std::{ops::ControlFlow, path::Path};

use llavar_data::{Message, Template, TemplateName, Tokenizer};
use llavar_image::{Aspect, DecodeLimits, ImageProcessor, RgbImage};
use llavar_model::{
    LlavaModel,
    config::{GenerationConfig, ImageAspectRatio, LlmFamily},
    generation::{GenerationOptions, StopReason, generate},
    lora::Adapter,
};
use llavar_tensor::{DType, Device, Tape, Tensor};

pub use batch::Question;
pub use closer::{UNSURE, is_unsure};
pub use conversation::{Conversation, stack, user_turn};
pub use error::Error;
pub use pictures::{Part, Picture, PictureCache, PictureCounts, Seen};
pub use visible::Visible;

/// An answer with what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without special tokens, trimmed.
    pub text: String,
    /// Its ids, without the stop id.
    pub ids: Vec<u32>,
    /// Tokens of the prompt, image positions included.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub new_tokens: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How likely the model finds the answer: [`Generation::score`].
    ///
    /// [`Generation::score`]: llavar_model::generation::Generation::score
    pub score: f64,
}

/// A model that can be asked.
#[derive(Debug)]
pub struct Assistant {
    model: LlavaModel,
    tokenizer: Tokenizer,
    template: Template,
    processor: Option<ImageProcessor>,
    defaults: GenerationOptions,
}

impl Assistant {
    /// Opens a model folder. `template` overrides the one that [`guess_template`] finds.
    ///
    /// # Errors
    /// When the folder's configuration, weights or tokenizer cannot be used.
    pub fn load(folder: &Path, template: Option<TemplateName>) -> Result<Self, Error> {
        Self::load_on(folder, template, &Device::Cpu, DType::F32)
    }

    /// As [`Assistant::load`] with the weights on a device, in `dtype`.
    ///
    /// # Errors
    /// As [`Assistant::load`], and when the device has no room.
    pub fn load_on(
        folder: &Path,
        template: Option<TemplateName>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        Self::load_adapted_on(folder, None, template, device, dtype)
    }

    /// As [`Assistant::load_on`] with a LoRA or DoRA of the folder `adapter` merged into the model. A `folder` that
    /// is an adapter itself is read with the base that it names. Tokenizer and generation settings are the
    /// adapter's, where it has them.
    ///
    /// # Errors
    /// As [`Assistant::load_on`], and when the adapter does not fit the model.
    pub fn load_adapted_on(
        folder: &Path,
        adapter: Option<&Path>,
        template: Option<TemplateName>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        let adapter = match adapter {
            Some(path) => Some(Adapter::open(path)?),
            None if Adapter::is_at(folder) => Some(Adapter::open(folder)?),
            None => None,
        };
        let (base, model) = match &adapter {
            None => (
                folder.to_owned(),
                LlavaModel::load_on(folder, device, dtype)?,
            ),
            Some(adapter) => {
                let base = match adapter.folder() == folder {
                    true => adapter.base()?,
                    false => folder.to_owned(),
                };
                let model = LlavaModel::load_adapted_on(&base, adapter, device, dtype)?;
                (base, model)
            }
        };
        let with = |name: &str| -> &Path {
            let own = adapter.as_ref().map(Adapter::folder);
            own.filter(|folder| folder.join(name).is_file())
                .unwrap_or(&base)
        };
        let tokenizer = Tokenizer::from_folder(with("tokenizer.json"))?;
        let generation = GenerationConfig::read(with("generation_config.json"));
        let generation = generation.map_err(llavar_model::ModelError::from)?;
        Ok(Self::new(model, tokenizer, template, generation.as_ref()))
    }

    /// Wraps a model that is in memory.
    pub fn new(
        model: LlavaModel,
        tokenizer: Tokenizer,
        template: Option<TemplateName>,
        generation: Option<&GenerationConfig>,
    ) -> Self {
        let template =
            Template::new(template.unwrap_or_else(|| guess_template(&model, &tokenizer)));
        let aspect = match model.config.image_aspect_ratio {
            ImageAspectRatio::Pad => Aspect::Pad,
            ImageAspectRatio::Fit => Aspect::Fit,
            ImageAspectRatio::Square => Aspect::Square,
        };
        let processor = model
            .image_size()
            .map(|size| ImageProcessor::new(size, aspect));
        let mut defaults = GenerationOptions::from_config(&model.config, generation);
        defaults.vocab_limit = Some(tokenizer.vocab_len());
        // Safe rule: the template's separator ends a turn too, whatever the configuration lists.
        let separator = tokenizer.token_to_id(template.stop());
        for id in separator.into_iter().chain(tokenizer.eos_id()) {
            if !defaults.stop_ids.contains(&id) {
                defaults.stop_ids.push(id);
            }
        }
        Self {
            model,
            tokenizer,
            template,
            processor,
            defaults,
        }
    }

    /// The model.
    pub fn model(&self) -> &LlavaModel {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The conversation template in use.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Decoding as the model's folder asks for it, greedy where it says nothing, with the stop ids of this model.
    pub fn defaults(&self) -> GenerationOptions {
        self.defaults.clone()
    }

    /// Decodes and encodes a picture file once; the result serves any number of questions.
    ///
    /// # Errors
    /// When the file is no readable picture, or the model takes none.
    pub fn see_file(&self, path: &Path) -> Result<Tensor, Error> {
        self.see(&llavar_image::decode_file(path, &DecodeLimits::default())?)
    }

    /// Projected features of a picture.
    ///
    /// # Shapes
    /// `[N, D]`: positions of one picture by hidden size.
    ///
    /// # Errors
    /// When the model takes no pictures.
    pub fn see(&self, image: &RgbImage) -> Result<Tensor, Error> {
        self.see_squares(&[self.to_square(image)?])
    }

    /// A picture as the vision tower takes it, still as bytes.
    ///
    /// # Errors
    /// When the model takes no pictures.
    pub fn to_square(&self, image: &RgbImage) -> Result<RgbImage, Error> {
        Ok(self.processor()?.to_square(image)?)
    }

    /// Projected features of pictures from [`Assistant::to_square`], all in one pass of the tower.
    ///
    /// # Shapes
    /// K pictures -> `[K * N, D]`.
    ///
    /// # Errors
    /// When the model takes no pictures.
    pub fn see_squares(&self, squares: &[RgbImage]) -> Result<Tensor, Error> {
        let processor = self.processor()?;
        let one;
        let bytes = match squares {
            [square] => &square.data,
            _ => {
                one = squares
                    .iter()
                    .map(|s| s.data.as_slice())
                    .collect::<Vec<_>>()
                    .concat();
                &one
            }
        };
        let pixels = Tensor::from_rgb(
            bytes,
            &[squares.len(), processor.size, processor.size, 3],
            &processor.levels(),
            &self.model.device(),
            self.model.activation_dtype(),
        )?;
        Ok(self
            .model
            .encode_images(&Tape::inference(), &pixels, false)?
            .value()
            .clone())
    }

    fn processor(&self) -> Result<&ImageProcessor, Error> {
        let none = llavar_model::ModelError::NoVisionTower;
        Ok(self.processor.as_ref().ok_or(none)?)
    }

    /// Answers the last message. `<image>` in the messages stands for the rows of `features`, in order.
    /// `on_text` receives the answer's text piece by piece, as trimmed as the whole, and may end it.
    ///
    /// # Errors
    /// When the conversation does not fit the model's context, or an option is impossible.
    pub fn answer(
        &self,
        messages: &[Message],
        features: Option<&Tensor>,
        options: &GenerationOptions,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Error> {
        let prompt = self.prompt_ids(None, messages)?;
        let mut stream = self.tokenizer.decode_stream(true);
        let mut visible = Visible::default();
        let mut show = |piece: &str| match piece {
            "" => ControlFlow::Continue(()),
            piece => on_text(piece),
        };
        let mut failed = None;
        let generation = generate(&self.model, &prompt, features, options, |id| {
            match stream.push(id) {
                Ok(Some(piece)) => show(&visible.push(&piece)),
                Ok(None) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(Error::Encode(error));
        }
        if let Some(rest) = stream.finish().map_err(Error::Encode)? {
            let _ = show(&visible.push(&rest));
        }
        self.decode(generation)
    }

    /// Answers one question about pictures already seen.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn ask(
        &self,
        features: &[Tensor],
        question: &str,
        options: &GenerationOptions,
    ) -> Result<Answer, Error> {
        let mut conversation = Conversation::default();
        for picture in features {
            conversation.show(picture.clone());
        }
        conversation.ask(self, question, options, |_| ControlFlow::Continue(()))
    }
}

/// The template that a model was most probably trained with: `phi3_instruct` for the Phi-3 family,
/// `llama3` where the tokenizer has its markers, else `v1`. Folder names are not looked at.
pub fn guess_template(model: &LlavaModel, tokenizer: &Tokenizer) -> TemplateName {
    if model.config.llm.family == LlmFamily::Phi3 {
        TemplateName::Phi3Instruct
    } else if tokenizer.token_to_id("<|eot_id|>").is_some() {
        TemplateName::Llama3
    } else {
        TemplateName::V1
    }
}
