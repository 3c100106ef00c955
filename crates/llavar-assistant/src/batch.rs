//! Many questions at once.

use std::ops::ControlFlow;

use llavar_data::Message;
use llavar_model::{
    ModelError,
    generation::{Generation, GenerationOptions, Prompt, generate_many},
};
use llavar_tensor::Tensor;

use crate::{Answer, Assistant, Error};

/// A conversation whose last message is to be answered, with the features of its pictures.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The messages; `<image>` stands for the rows of `features`, in order.
    pub messages: &'a [Message],
    /// Rows of all its pictures.
    pub features: Option<&'a Tensor>,
}

impl Assistant {
    /// Answers many questions side by side, each as [`Assistant::answer`] answers it alone. A question
    /// that does not fit the model's context costs only itself. `going_on` is asked after every token;
    /// where it breaks, the answers end with what they have.
    ///
    /// # Errors
    /// When an option is impossible or the model fails; faults of single questions are in the list.
    pub fn answer_many(
        &self,
        questions: &[Question<'_>],
        options: &GenerationOptions,
        mut going_on: impl FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let encoded: Vec<Result<Vec<i32>, Error>> = questions
            .iter()
            .map(|question| self.encode(question))
            .collect();
        let prompts: Vec<Prompt<'_>> = encoded
            .iter()
            .zip(questions)
            .filter_map(|(ids, question)| {
                Some(Prompt {
                    ids: ids.as_deref().ok()?,
                    features: question.features,
                })
            })
            .collect();
        let generated = generate_many(&self.model, &prompts, options, |_, _| going_on())?;
        let mut generated = generated.into_iter();
        encoded
            .into_iter()
            .map(|ids| match ids {
                Err(error) => Ok(Err(error)),
                Ok(_) => {
                    let generation = generated.next().ok_or(ModelError::EmptyPrompt)?;
                    Ok(self.decode(generation))
                }
            })
            .collect()
    }

    /// The ids of a question, one negative for each picture position or picture.
    fn encode(&self, question: &Question<'_>) -> Result<Vec<i32>, Error> {
        let ids = self.prompt_ids(None, question.messages)?;
        // Pictures may still be one id each.
        let pictures = ids.iter().filter(|id| **id < 0).count();
        let prompt = ids.len() - pictures + question.features.map_or(0, Tensor::rows);
        let context = self.model.context_length();
        if prompt >= context {
            return Err(ModelError::PromptTooLong { prompt, context }.into());
        }
        Ok(ids)
    }

    /// The ids of a conversation whose last message is to be answered, one negative id for each `<image>`;
    /// `system` stands in place of the template's own system text.
    ///
    /// # Errors
    /// When the template does not take such a conversation.
    pub fn prompt_ids(
        &self,
        system: Option<&str>,
        messages: &[Message],
    ) -> Result<Vec<i32>, Error> {
        let other = system.map(|text| self.template.with_system(text));
        let template = other.as_ref().unwrap_or(&self.template);
        let ids = template.encode_prompt(&self.tokenizer, messages);
        let ids = ids.map_err(Error::Encode)?.into_iter();
        Ok(ids.map(|id| id as i32).collect())
    }

    pub(crate) fn decode(&self, generation: Generation) -> Result<Answer, Error> {
        let text = self.tokenizer.decode(&generation.ids, true);
        Ok(Answer {
            text: text.map_err(Error::Encode)?.trim().to_owned(),
            prompt_tokens: generation.prompt_tokens,
            new_tokens: generation.ids.len(),
            ids: generation.ids,
            stop_reason: generation.stop_reason,
            score: generation.score,
        })
    }
}
