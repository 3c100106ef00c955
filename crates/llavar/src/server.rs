//! Flags of the commands that ask a model on an OpenAI-compatible server.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use llavar_client::{ApiKey, Client, ClientOptions, Endpoint, RetryPolicy};

use crate::failure::Outcome;

/// How to reach a server.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerFlags {
    /// Environment variable that holds the server's key; without a value none is sent.
    #[arg(
        long,
        alias = "key-env",
        value_name = "VARIABLE",
        default_value = "OPENAI_API_KEY"
    )]
    pub(crate) key_var: String,
    /// Requests at once, at most; fewer where the server asks to slow down.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Longest wait for the beginning of an answer, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Certificates (PEM) to trust instead of the usual ones, for servers of one's own.
    #[arg(long, alias = "ca-file", value_name = "FILE")]
    pub(crate) certificates: Option<PathBuf>,
}

/// How often a server is asked, for the commands that have no attempts of another kind.
#[derive(Debug, clap::Args)]
pub(crate) struct AttemptsFlag {
    /// Requests for one answer, at most, the first included.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

impl Default for AttemptsFlag {
    fn default() -> Self {
        Self {
            attempts: RetryPolicy::default().attempts,
        }
    }
}

impl ServerFlags {
    /// A client of the server at `address`. Once `cancel` is set nothing more is sent.
    pub(crate) fn client(
        &self,
        address: &str,
        attempts: &AttemptsFlag,
        cancel: Arc<AtomicBool>,
    ) -> Outcome<Client> {
        let mut options = ClientOptions::new(Endpoint::parse(address)?);
        options.key = ApiKey::from_env(&self.key_var)?;
        options.max_concurrency = usize::from(self.concurrency);
        options.time_outs.answer = Duration::from_secs(self.timeout);
        options.retries.attempts = attempts.attempts;
        options.certificates.clone_from(&self.certificates);
        options.cancel = Some(cancel);
        Ok(Client::new(options)?)
    }
}
