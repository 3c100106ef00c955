//! `llavar instruct run`.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Instant,
};

use llavar_instruct::{
    Budget, Caller, Captions, Entry, Estimate, Generated, Journal, Ledger, PictureResult, Pictures,
    Prices, Prompts, RunFile, Sampling, Settings, State, Stop, View,
    checks::{Language, Rules},
    generate,
    output::{Formats, Selection},
    read_pictures, write_pictures,
};
use llavar_ocr::{EngineChoice, Reader};
use serde::Serialize;

use super::{export, select::SelectFlags, text};
use crate::{
    commands::{no_pipe, print, print_json},
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
    server::{AttemptsFlag, ServerFlags},
};

/// Turn pictures, human captions and OCR into detail-enriched captions and duos of questions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
  llavar instruct run --images posters --captions captions.csv --endpoint http://localhost:8000 \\\n\
    --model my-model --out runs/posters\n\
  llavar instruct run --images posters --ocr ppocr --endpoint template --out runs/posters\n\
\n\
Captions: Label Studio's JSON export, CSV or TSV with columns image and caption, JSON, JSONL, LLaVA JSON.\n\
Every answer goes to journal.jsonl before it is used; the same command again goes on where it was and asks\n\
nothing twice. --replay makes the data set again from the journal with no network at all.\n\
The key is read from the environment ($OPENAI_API_KEY, see --key-var). Proxies: ALL_PROXY, HTTPS_PROXY,\n\
HTTP_PROXY, NO_PROXY.\n\
--endpoint template needs no model: pairs are made from OCR and page layout alone.")]
pub(crate) struct Args {
    /// Folder of pictures; folders below it count too.
    #[arg(long)]
    images: PathBuf,
    /// What people wrote about the pictures.
    #[arg(long)]
    captions: Option<PathBuf>,
    /// OCR engine: ppocr, ppocr-v4, tesseract, sidecar, sidecar:FILE-OR-FOLDER, none; or auto: that of the run
    /// that goes on, else results beside all pictures, else the first engine that is ready (`llavar ocr
    /// pull` makes ppocr ready).
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    ocr: String,
    /// Address of an OpenAI-compatible server, or `template`.
    #[arg(long)]
    endpoint: String,
    /// Name of the model on the server.
    #[arg(long)]
    model: Option<String>,
    /// Run folder.
    #[arg(long, short)]
    out: PathBuf,
    /// Send the pictures too: for models that see.
    #[arg(long)]
    send_images: bool,
    /// Duos wanted of a picture.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=50))]
    duos: u8,
    /// Requests of a step for a picture: what is turned down is asked again with the reason.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    attempts: u32,
    /// Language of all texts: en, de, fr, es, it, pt, nl, zh, ja, ko, ru, ar, or any.
    #[arg(long, default_value = "en", value_parser = language)]
    language: Language,
    /// How like a quoted span must be to OCR or caption, 0 to 1; numbers must always be equal.
    #[arg(long, default_value_t = Rules::default().grounding)]
    grounding: f64,
    /// From how many words of text in a picture its caption must quote some of them; 0: never.
    #[arg(long, value_name = "WORDS", default_value_t = Rules::default().caption_text_from)]
    caption_text_from: usize,
    /// Folder of prompts (see `llavar instruct prompts`).
    #[arg(long)]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
    /// Prices, USD a million tokens: of prompts, of answers, and of cached prompts if they differ.
    #[arg(long, value_name = "IN,OUT[,CACHED]", value_parser = prices)]
    price: Option<Prices>,
    /// Most that the whole run may cost, USD; it stops cleanly before. Needs --price.
    #[arg(long, requires = "price")]
    budget: Option<f64>,
    /// Count requests, tokens and price, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Use the answers of the journal alone; nothing is sent.
    #[arg(long, conflicts_with = "dry_run")]
    replay: bool,
    /// Look at the first so many pictures only.
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    select: SelectFlags,
    /// Part of the pictures that is kept for testing, by their content, 0 to 1.
    #[arg(long, default_value_t = 0.05)]
    test_fraction: f64,
    /// Forms beside LLaVA JSON: json, parquet, webdataset; files of those not named are removed.
    #[arg(long, default_value = export::FORMATS, value_parser = export::formats)]
    formats: Formats,
    /// Print a JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// How the server is asked.
#[derive(Debug, clap::Args)]
struct Asking {
    #[command(flatten)]
    server: ServerFlags,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.3)]
    temperature: f32,
    /// Seed of sampling, where the server knows one.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest answer with a caption, tokens.
    #[arg(long, default_value_t = 400)]
    caption_tokens: u32,
    /// Longest answer with duos, tokens; 300 a duo by default.
    #[arg(long)]
    duo_tokens: Option<u32>,
    /// Characters of the page layout in a prompt.
    #[arg(long, default_value_t = Settings::default().layout_chars)]
    layout_chars: usize,
}

fn language(text: &str) -> Result<Language, String> {
    let found = Language::CODES.iter().find(|(code, _)| *code == text);
    let known = || Language::CODES.map(|(code, _)| code).join(", ");
    found.map_or_else(|| Err(format!("known: {}", known())), |(_, lang)| Ok(*lang))
}

fn prices(text: &str) -> Result<Prices, String> {
    let numbers: Option<Vec<f64>> = text
        .split(',')
        .map(|n| {
            n.trim()
                .parse()
                .ok()
                .filter(|n: &f64| n.is_finite() && *n >= 0.0)
        })
        .collect();
    match numbers.as_deref() {
        Some([prompt, completion, rest @ ..]) if rest.len() <= 1 => Ok(Prices {
            prompt: *prompt,
            completion: *completion,
            cached: rest.first().copied(),
        }),
        _ => Err("give two or three prices, as 2.5,10".to_owned()),
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    out: &'a Path,
    seconds: f64,
    stopped: Option<&'static str>,
    card: &'a llavar_instruct::output::Card,
}

impl Args {
    /// Numbers that make no sense are told before anything is read.
    fn check(&self) -> Outcome {
        let temperature = f64::from(self.asking.temperature);
        for (name, value, most) in [
            ("--grounding", self.grounding, 1.0),
            ("--test-fraction", self.test_fraction, 1.0),
            ("--temperature", temperature, f64::from(f32::MAX)),
            ("--budget", self.budget.unwrap_or(0.0), f64::MAX),
        ] {
            if !(0.0..=most).contains(&value) {
                let message = match most {
                    1.0 => format!("{name} {value} is not between 0 and 1"),
                    _ => format!("{name} {value} is no number from 0 on"),
                };
                return Err(Failure::usage(message));
            }
        }
        Ok(())
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let begun = Instant::now();
    args.check()?;
    let template = args.endpoint == "template";
    if !template && args.model.is_none() {
        return Err(Failure::usage("--model is missing")
            .hint("name the model as the server does (/v1/models), or use --endpoint template"));
    }
    if template && !matches!(args.language, Language::English | Language::Any) {
        return Err(Failure::usage("--endpoint template writes English alone")
            .hint("leave --language out, or name a model that writes the language"));
    }
    let pictures = {
        let mut pictures = Pictures::list(&args.images)?;
        pictures
            .names
            .truncate(args.limit.unwrap_or(usize::MAX).max(1));
        pictures
    };
    let captions = captions(args.captions.as_deref(), &pictures)?;
    let (ocr, engine) = text::engine(&args.ocr, &args.out, &pictures)?;
    if ocr == EngineChoice::None && (template || (args.captions.is_none() && !args.send_images)) {
        let message = "there is nothing to write from: no OCR, no captions, and no pictures sent";
        return Err(Failure::usage(message).hint(format!(
            "give --ocr ({}), or --captions, or --send-images for a model that sees",
            EngineChoice::KNOWN
        )));
    }
    let reader = Reader::of_user(engine);
    let settings = Settings {
        duos: usize::from(args.duos),
        attempts: args.attempts,
        layout_chars: args.asking.layout_chars,
        rules: Rules {
            grounding: args.grounding,
            caption_text_from: args.caption_text_from,
            language: args.language,
            ..Rules::default()
        },
    };
    let prompts = Prompts::load(args.prompts.as_deref())?;
    let sampling = (!template).then(|| Sampling {
        model: args.model.clone().unwrap_or_default(),
        temperature: args.asking.temperature,
        seed: args.asking.seed,
        caption_tokens: args.asking.caption_tokens,
        duo_tokens: args.asking.duo_tokens.unwrap_or(300 * u32::from(args.duos)),
        send_images: args.send_images,
    });
    let file = RunFile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        images: args.images.clone(),
        images_from_run: None, // By `RunFile::write`.
        captions: args.captions.clone(),
        ocr: ocr.to_string(),
        endpoint: args.endpoint.clone(),
        sampling: sampling.clone(),
        prompts: match template {
            true => Vec::new(),
            false => prompts.used.clone(),
        },
        settings: settings.clone(),
        test_fraction: args.test_fraction,
    };
    let stop = interrupt::stop_flag()?;
    let work = Work {
        args: &args,
        pictures: &pictures,
        captions: &captions,
        reader: &reader,
        settings: &settings,
        stop: &stop,
    };
    let generated = match &sampling {
        Some(sampling) if args.dry_run => return work.estimate(sampling, &prompts),
        None if args.dry_run => {
            return Err(Failure::usage("--dry-run: templates send no requests")
                .hint("leave --dry-run out; without a model nothing costs anything"));
        }
        Some(sampling) => work.with_model(sampling, &prompts, &file)?,
        None => work.go(None),
    };
    unusable(&generated);
    let is_cancelled = generated.stop == Some(Stop::Cancelled);
    let lost = would_lose(&args.out, &generated.pictures);
    if lost > 0 {
        return Err(left_as_it_was(lost, &args.out, generated, template));
    }
    // What was done is written in any case.
    file.write(&args.out)?;
    write_pictures(&args.out, &generated.pictures)?;
    let whole = generated.error.is_none() && !is_cancelled;
    let selection = match &args.select.select_model {
        Some(model) if whole => {
            let pictures = &generated.pictures;
            let select = &args.select;
            let Some(selection) = select.select(model, &args.out, &args.images, pictures, &stop)?
            else {
                return Err(Failure::interrupted(
                    "the same command goes on with scoring",
                ));
            };
            Some(selection)
        }
        _ => None,
    };
    // What was selected before stays so until the run is whole and selects anew.
    if whole || args.select.select_model.is_none() {
        Selection::write(&args.out, selection.as_ref())?;
    }
    let card = export::write(&args.out, args.formats)?;
    if let Some(error) = generated.error {
        note(export::summary(&args.out, &card));
        return Err(error.into());
    }
    if is_cancelled {
        note(export::summary(&args.out, &card));
        return Err(Failure::interrupted("the same command goes on"));
    }
    failed(&generated)?;
    if generated.stop == Some(Stop::Budget) {
        note(
            "the budget does not cover the next request; the same command with a higher --budget goes on",
        );
    }
    match args.json {
        true => print_json(&Report {
            out: &args.out,
            seconds: begun.elapsed().as_secs_f64(),
            stopped: generated.stop.map(|_| "budget"),
            card: &card,
        }),
        false => print(export::summary(&args.out, &card)),
    }
}

/// Pictures that were gone through to the end.
fn done(pictures: &[PictureResult]) -> usize {
    pictures.iter().filter(|p| p.state == State::Done).count()
}

/// Pictures of the set in a run folder that are still there and would drop out of it.
fn would_lose(run: &Path, pictures: &[PictureResult]) -> usize {
    let (Ok(file), Ok(before)) = (RunFile::read(run), read_pictures(run)) else {
        return 0;
    };
    let is_done = |p: &&PictureResult| p.state == State::Done;
    let now: HashSet<&str> = pictures
        .iter()
        .filter(is_done)
        .map(|p| p.name.as_str())
        .collect();
    let folder = file.folder(run);
    before
        .iter()
        .filter(is_done)
        .filter(|p| !now.contains(p.name.as_str()) && folder.join(&p.name).exists())
        .count()
}

/// Why the set that is there was not written over.
fn left_as_it_was(lost: usize, out: &Path, mut generated: Generated, template: bool) -> Failure {
    let left = format!(
        "the set in {} is left as it was: {lost} of its pictures would have dropped out",
        out.display()
    );
    if generated.stop == Some(Stop::Cancelled) {
        // Without a journal there is nothing that the rest could be made from.
        let on = if template { "begins again" } else { "goes on" };
        return Failure::interrupted(format!("{left}; the same command {on}"));
    }
    let failure = match generated.error.take() {
        Some(error) => Some(error.into()),
        None => failed(&generated).err(),
    };
    match failure {
        Some(failure) => {
            note(left);
            failure
        }
        None => Failure::usage(left).hint("give another --out"),
    }
}

/// Tells of the first pictures that cannot be used, and why.
fn unusable(generated: &Generated) {
    for picture in generated
        .pictures
        .iter()
        .filter_map(|picture| match &picture.state {
            State::Unusable { reason } => Some(format!("{}: {reason}", picture.name)),
            _ => None,
        })
        .take(3)
    {
        note(format!("not used: {picture}"));
    }
}

/// Tells of pictures that got no answer; where none got one, the run has failed.
fn failed(generated: &Generated) -> Outcome {
    let reasons: Vec<&str> = generated
        .pictures
        .iter()
        .filter_map(|picture| match &picture.state {
            State::Failed { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    let Some(last) = reasons.last() else {
        return Ok(());
    };
    let message = format!("{} pictures got no answer; the last: {last}", reasons.len());
    if done(&generated.pictures) > 0 {
        note(message + "; the same command tries them again");
        return Ok(());
    }
    Err(Failure::new(Class::Failure, message)
        .hint("when the server is well, the same command tries them again"))
}

/// Reads captions and says which of them have no picture.
fn captions(path: Option<&Path>, pictures: &Pictures) -> Outcome<HashMap<String, String>> {
    let Some(path) = path else {
        return Ok(HashMap::new());
    };
    no_pipe(path)?;
    let captions = Captions::read(path)?;
    let matched = captions.matched(pictures);
    let few = |names: &[String]| names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    for (names, what) in [
        (&matched.unmatched, "captions are of no picture here"),
        (
            &matched.ambiguous,
            "captions could be of several pictures and are left out",
        ),
    ] {
        if !names.is_empty() {
            note(format!("{} {what}: {}", names.len(), few(names)));
        }
    }
    if captions.empty > 0 {
        note(format!(
            "{} records without picture or caption",
            captions.empty
        ));
    }
    let without = pictures.names.len() - matched.by_picture.len();
    if without > 0 {
        note(format!(
            "{without} of {} pictures have no caption",
            pictures.names.len()
        ));
    }
    Ok(matched.by_picture)
}

struct Work<'a> {
    args: &'a Args,
    pictures: &'a Pictures,
    captions: &'a HashMap<String, String>,
    reader: &'a Reader,
    settings: &'a Settings,
    stop: &'a Arc<AtomicBool>,
}

impl Work<'_> {
    fn go(&self, caller: Option<(&Caller<'_>, &Prompts)>) -> Generated {
        let begun = Instant::now();
        let total = self.pictures.names.len() as u64;
        let bar = Mutex::new(Progress::new("instruct", "pictures", total));
        let watch = |view: View| {
            if let Ok(mut bar) = bar.lock() {
                let duos = view.kept as f64 / begun.elapsed().as_secs_f64() * 60.0;
                let failed = match view.failed {
                    0 => String::new(),
                    n => format!(", {n} failed"),
                };
                let (kept, proposed) = (view.kept, view.proposed);
                let message = format!("{kept} of {proposed} duos kept, {duos:.0} duos/min{failed}");
                bar.set(view.done as u64, message);
            }
        };
        let generated = generate(
            self.pictures,
            self.captions,
            self.reader,
            caller,
            self.settings,
            match caller {
                Some(_) => usize::from(self.args.asking.server.concurrency),
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            self.stop,
            &watch,
        );
        if let Ok(bar) = bar.into_inner() {
            bar.finish(&format!(
                "{} pictures gone through in {:.1} s",
                generated
                    .pictures
                    .iter()
                    .filter(|p| p.state != State::Pending)
                    .count(),
                begun.elapsed().as_secs_f64()
            ));
        }
        generated
    }

    fn with_model(
        &self,
        sampling: &Sampling,
        prompts: &Prompts,
        file: &RunFile,
    ) -> Outcome<Generated> {
        let args = self.args;
        let client = match args.replay {
            true => None,
            false => {
                let (server, stop) = (&args.asking.server, Arc::clone(self.stop));
                Some(server.client(&args.endpoint, &AttemptsFlag::default(), stop)?)
            }
        };
        let journal = match args.replay {
            true => Journal::open_to_read(&args.out)?,
            false => Journal::open(&args.out)?,
        };
        let ledger = Ledger::of(&journal.entries());
        let spent = ledger.usd.unwrap_or(0.0) + ledger.in_doubt_usd.unwrap_or(0.0);
        if !args.replay {
            journal.append(Entry::Run {
                time: std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                version: file.version.clone(),
                endpoint: file.endpoint.clone(),
                model: sampling.model.clone(),
                prompts: file.prompts.clone(),
            })?;
            // A run that is killed goes on with the same engine; of a set that is there it says how that was made.
            if read_pictures(&args.out).is_err() {
                file.write(&args.out)?;
            }
        }
        let caller = Caller {
            client: client.as_ref(),
            journal: &journal,
            budget: &Budget::new(args.budget, spent),
            prices: args.price,
            sampling,
        };
        Ok(self.go(Some((&caller, prompts))))
    }

    fn estimate(&self, sampling: &Sampling, prompts: &Prompts) -> Outcome {
        let (args, folder) = (self.args, &self.args.out);
        // A journal that is there counts; none is made.
        let empty;
        let journal = match folder.join(Journal::FILE).exists() {
            true => Journal::open_to_read(folder)?,
            false => {
                empty = tempfile::tempdir().map_err(|e| Failure::write(folder, &e))?;
                Journal::open(empty.path())?
            }
        };
        let caller = Caller {
            client: None,
            journal: &journal,
            budget: &Budget::new(None, 0.0),
            prices: args.price,
            sampling,
        };
        let estimate = Estimate::of(
            self.pictures,
            self.captions,
            self.reader,
            &caller,
            prompts,
            self.settings,
        )?;
        if args.json {
            return print_json(&estimate);
        }
        let mut text = format!(
            "{} pictures, {} of them unusable\n{} requests to send, {} captions answered already\n\
             about {} tokens of requests and {} of answers\n",
            estimate.pictures,
            estimate.unusable,
            estimate.requests,
            estimate.answered,
            estimate.prompt_tokens,
            estimate.completion_tokens
        );
        match (estimate.usd, estimate.most_usd) {
            (Some(usd), Some(most)) => {
                text += &format!(
                    "about {usd:.2} USD; at most {most:.2} USD if every step needs {} requests\n",
                    args.attempts
                );
            }
            _ => text += "give --price for the price\n",
        }
        print(text)
    }
}
