//! A scorer on an OpenAI-compatible server.

use llavar_client::{ClientError, ErrorClass};
use llavar_data::TemplateName;
use llavar_select::RemoteModel;

use crate::{
    failure::{Class, Failure, Outcome},
    interrupt,
    server::{AttemptsFlag, ServerFlags},
};

/// Flags of a model on a server.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoteFlags {
    /// Score with a model on this server instead of --model: an OpenAI-compatible one that gives
    /// log-probabilities of prompts (vLLM, llama.cpp). It gives IFD; VFD and FFD too where it scores
    /// conversations with pictures (vLLM), which is tried first.
    #[arg(long, alias = "endpoint", value_name = "URL", conflicts_with = "model")]
    pub(crate) server: Option<String>,
    /// Name of the model on the server; its only one by default.
    #[arg(long, value_name = "NAME", requires = "server")]
    server_model: Option<String>,
    #[command(flatten, next_help_heading = "With --server")]
    how: ServerFlags,
    #[command(flatten, next_help_heading = "With --server")]
    attempts: AttemptsFlag,
}

impl RemoteFlags {
    /// The model on the server at `url`. Nothing tells which template it was trained with, so it must be
    /// named.
    pub(crate) fn open(&self, url: &str, template: Option<TemplateName>) -> Outcome<RemoteModel> {
        let template = template.ok_or_else(|| {
            Failure::usage("which template the server's model was trained with is not known")
                .hint("name it with --conv-mode: v1, llava_v1, phi3_instruct or llama3")
        })?;
        let stop = interrupt::stop_flag()?;
        let client = self.how.client(url, &self.attempts, stop)?;
        let name = match &self.server_model {
            Some(name) => name.clone(),
            None => match client.models().map_err(failure)?.as_slice() {
                [only] => only.clone(),
                several => {
                    let message = format!("the server has {} models", several.len());
                    let hint = format!("name one with --server-model: {}", several.join(", "));
                    return Err(Failure::usage(message).hint(hint));
                }
            },
        };
        let workers = usize::from(self.how.concurrency);
        Ok(RemoteModel::new(client, name, template, workers))
    }
}

/// A failure of the server, with what can be done about it.
pub(crate) fn failure(error: ClientError) -> Failure {
    use ErrorClass as C;
    let class = error.class();
    if class == C::Cancelled {
        return Failure::interrupted(
            "what was scored is kept; the same command goes on".to_owned(),
        );
    }
    let hint = match class {
        C::Auth => "put the server's key into the variable that --key-var names",
        C::NotFound => {
            "check --server and --server-model; `curl URL/v1/models` lists what there is"
        }
        C::Connect | C::TimeOut => {
            "check that the server runs; the same command goes on where it was"
        }
        C::Malformed | C::Unsupported => {
            "the server must give log-probabilities of prompts: vLLM does, others with `echo` and `logprobs`"
        }
        _ => "what was scored before is kept; the same command goes on",
    };
    let class = match class {
        C::Setup => Class::Usage,
        _ => Class::Failure,
    };
    Failure::new(class, error).hint(hint)
}
