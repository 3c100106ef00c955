//! `llavar serve`: answers over HTTP.

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, time::Duration};

use llavar_client::ApiKey;
use llavar_eval::run::model_id;
use llavar_model::generation::{GenerationOptions, Room};
use llavar_serve::{HttpLimits, Log, Served, Server, ServerOptions};

use crate::{
    device::DeviceFlags,
    failure::{Failure, Outcome},
    interrupt,
    progress::note,
    shipped::ModelFlag,
};

/// Where a key is looked for that nobody named.
const KEY_VARIABLE: &str = "LLAVAR_API_KEY";

/// How often it is looked whether the program is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Answer over HTTP: OpenAI's chat interface for text and pictures, and a page to ask from.
///
/// Requests are answered side by side, each as `llavar ask` answers it. Pictures are sent as data URLs
/// (data:image/png;base64,...); addresses of pictures are not fetched. Where a request names no temperature the
/// most likely answer is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar serve\n         \
llavar serve runs/sft/model --port 9000 --ocr none\n         \
LLAVAR_API_KEY=... llavar serve --host 0.0.0.0\n\
Routes: POST /v1/chat/completions, GET /v1/models, /health, /ready, /metrics (Prometheus), / (the page)")]
pub(crate) struct Args {
    /// Model folder, as with --model.
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlag,
    /// Name that clients call the model by; the folder's by default.
    #[arg(long)]
    name: Option<String>,
    /// Name or address of this machine to listen at; 0.0.0.0 for all of them.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Environment variable that holds the key which clients have to send; LLAVAR_API_KEY by default, and
    /// without a value there none is asked for.
    #[arg(long, alias = "key-var", value_name = "VARIABLE")]
    api_key_var: Option<String>,
    #[command(flatten)]
    ocr: super::ocr::OcrFlag,
    /// Conversation template (v1, llava_v1, phi3_instruct, llama3, plain); guessed from the model.
    #[arg(long, alias = "conv_mode")]
    conv_mode: Option<String>,
    /// Longest answer where a request names none, tokens.
    #[arg(long, alias = "max_new_tokens", value_name = "TOKENS", default_value_t = 512, value_parser = count())]
    max_new_tokens: u32,
    /// Answers side by side; by default 8 on the CPU and 32 on a GPU, fewer where memory is short.
    #[arg(long, value_name = "N", value_parser = count())]
    slots: Option<u32>,
    /// Tokens of a prompt and its answer together, at most; what the model can by default.
    #[arg(long, value_name = "TOKENS", value_parser = count())]
    context: Option<u32>,
    /// Requests that wait while all slots are taken; one more is told to come again.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count())]
    queue: u32,
    /// Features of pictures that are kept for further questions, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    picture_cache: u32,
    /// Largest body of a request, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_body: u32,
    /// Let pages of other origins ask.
    #[arg(long)]
    cors: bool,
    /// After Ctrl-C: how long answers under way may take to end, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,
    /// Do not print a line for every request.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    device: DeviceFlags,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 24)
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let folder = match args.folder {
        Some(folder) => folder,
        None => args.model.folder()?,
    };
    let (variable, key) = key(args.api_key_var.as_deref())?;
    let stop = interrupt::stop_flag_saying(
        "answers under way are finished; press Ctrl-C again to end at once",
    )?;
    let body_bytes = (args.max_body as usize) << 20;
    let usual = HttpLimits::default();
    let quiet = args.quiet;
    let server = Server::bind(ServerOptions {
        host: args.host,
        port: args.port,
        key: key.clone(),
        cors: args.cors,
        queue: args.queue as usize,
        limits: HttpLimits {
            body_bytes,
            all_body_bytes: usual.all_body_bytes.max(4 * body_bytes),
            ..usual
        },
        log: Log::new(move |line| {
            if !quiet || line.starts_with("error") {
                note(line);
            }
        }),
    })?;
    let address = server.address();
    if key.is_none() && !address.ip().is_loopback() {
        note(format!(
            "warning: everybody who reaches {address} can ask: there is no key (set {variable} to one)"
        ));
    }
    let reader = args.ocr.open_in_memory(&folder)?;
    let assistant = super::ask::load(&folder, args.conv_mode.as_deref(), &args.device)?;
    let (slots, context) = (args.slots, args.context);
    let room = Room::of(
        assistant.model(),
        slots.map(|n| n as usize),
        context.map(|n| n as usize),
    );
    if slots.is_some_and(|slots| slots as usize > room.slots) {
        note(format!(
            "memory holds keys and values of {} answers side by side",
            room.slots
        ));
    }
    let name = args.name.unwrap_or_else(|| model_id(&folder));
    let mib = room.bytes(assistant.model()) as f64 / f64::from(1 << 20);
    let defaults = GenerationOptions {
        max_new_tokens: args.max_new_tokens as usize,
        temperature: 0.0,
        top_p: None,
        top_k: None,
        ..assistant.defaults()
    };
    server.load(Served {
        assistant,
        name: name.clone(),
        reader,
        defaults,
        room,
        picture_bytes: (args.picture_cache as usize) << 20,
    })?;
    note(format!(
        "serving {name} at http://{address} ({} answers side by side of {} tokens, {mib:.0} MiB of keys and \
         values); Ctrl-C ends",
        room.slots, room.context
    ));
    let header = match &key {
        Some(_) => format!(" -H \"Authorization: Bearer ${variable}\""),
        None => String::new(),
    };
    note(format!(
        "try: open http://{address} in a browser, or\n  \
         curl http://{address}/v1/chat/completions{header} -H 'Content-Type: application/json' \
         -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
    ));
    while !stop.load(Relaxed) {
        std::thread::sleep(LOOK);
    }
    match server.stop(Duration::from_secs(u64::from(args.grace))) {
        true => note("all answers were finished"),
        false => note(format!(
            "answers that took longer than {} s were broken off",
            args.grace
        )),
    }
    Ok(())
}

/// The variable of the key, and what is in it. One that was named has to be there: a misspelt name must not open
/// the server to everybody.
fn key(named: Option<&str>) -> Outcome<(String, Option<ApiKey>)> {
    let variable = named.unwrap_or(KEY_VARIABLE);
    let key = ApiKey::from_env(variable)?;
    if named.is_some() && key.is_none() {
        let message = format!("the environment variable {variable} holds no key");
        return Err(Failure::usage(message).hint("set it, or leave --api-key-var out"));
    }
    Ok((variable.to_owned(), key))
}
