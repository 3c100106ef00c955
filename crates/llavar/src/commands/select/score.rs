//! `llavar select score` and `llavar select merge`.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use llavar_assistant::Assistant;
use llavar_data::{Dataset, TemplateName};
use llavar_eval::samples::Shard;
use llavar_select::{
    Compat, Duos, Journal, Part, RunInfo, ScoreOptions, ScoreSet, ScoreTable, Scorer, score_dataset,
};
use serde::Serialize;

use super::server::RemoteFlags;
use crate::{
    commands::{no_pipe, not_over, not_over_other, print, print_json, write_file},
    device::DeviceFlags,
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
};

/// Measure IFD, VFD, mIFD and FFD of every question-answer pair.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar select score data.json --model quickstart/runs/sft/model --image-folder images --out scores.parquet\n\
\n\
IFD = s(A|Q) / s(A): how little the question helps the answer.\n\
VFD = s(Q,A|picture) / s(Q,A): how little the picture helps.\n\
mIFD = IFD x VFD.\n\
FFD = s(Qs,As|picture,Qe,Ae) / s(Qs,As|picture): how little the fact helps the explanation of a duo.\n\
s is the mean loss in nats a token. Above 1 the condition hurts.\n\
\n\
Rows go to scores.journal.jsonl as they come; the same command again goes on where it was, and scores\n\
what was added or changed: texts, and picture files by size and time of change. Rows of a journal that was\n\
written before it knew those are kept; remove the journal to score them again. With RANK and WORLD_SIZE\n\
set (torchrun, Slurm) or --num-chunks and --chunk-idx every process writes scores-00000-of-00004.parquet and so\n\
on; `llavar select merge` joins them.\n\
\n\
A model on a server: llavar select score data.json --server http://localhost:8000 --conv-mode phi3_instruct\n\
--out scores.parquet"
)]
pub(crate) struct Args {
    /// LLaVA JSON or JSONL.
    data: PathBuf,
    /// Model folder: a trained LLaVAR-2 or LLaVA-HR model, or a plain language model for IFD.
    #[arg(long, short, required_unless_present = "server")]
    model: Option<PathBuf>,
    #[command(flatten)]
    server: RemoteFlags,
    /// Folder below which the pictures lie; that of DATA by default.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Any of ifd, vfd, mifd, ffd; all that the model can give by default.
    #[arg(long, value_name = "LIST")]
    scores: Option<String>,
    /// Parquet file to write.
    #[arg(long, short)]
    out: PathBuf,
    #[command(flatten)]
    how: How,
    /// Number of processes that share the data.
    #[arg(long, requires = "chunk_idx")]
    num_chunks: Option<usize>,
    /// Number of this process, from 0.
    #[arg(long, requires = "num_chunks")]
    chunk_idx: Option<usize>,
    /// Print a JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// Flags of the commands that score.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// Conversation template (v1, llava_v1, phi3_instruct, llama3); guessed from the model.
    #[arg(long)]
    conv_mode: Option<String>,
    /// Read conversations as duos: where the turns are a multiple of four (auto), always or never.
    #[arg(long, default_value = "auto")]
    duos: DuosName,
    /// exact, or llavar2 for the spans of the LLaVAR-2 release (IFD over all tokens, FFD one token early).
    #[arg(long, default_value = "exact")]
    compat: CompatName,
    /// Longest text, tokens; longer ones are rows with a reason. The model's context by default.
    #[arg(long)]
    max_length: Option<usize>,
    /// Tokens of one pass; 4096 on the CPU and 32768 on a GPU by default.
    #[arg(long)]
    batch_tokens: Option<usize>,
    #[command(flatten)]
    device: DeviceFlags,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DuosName {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CompatName {
    Exact,
    Llavar2,
}

impl How {
    fn template(&self) -> Outcome<Option<TemplateName>> {
        let parse = |name: &str| {
            name.parse()
                .map_err(|e: llavar_data::Error| Failure::new(Class::Usage, e))
        };
        self.conv_mode.as_deref().map(parse).transpose()
    }

    /// Opens the model.
    fn open(&self, model: &Path) -> Outcome<Assistant> {
        let template = self.template()?;
        if !model.is_dir() {
            let message = format!("there is no model folder {}", model.display());
            return Err(Failure::new(Class::Data, message)
                .hint("`llavar quickstart --train` makes quickstart/runs/sft/model, `llavar train` RUN/model"));
        }
        self.device.load(model, template)
    }

    /// The options; without a model here a server has it.
    fn options(&self, model: Option<&Assistant>, scores: Option<&str>) -> Outcome<ScoreOptions> {
        let scores: Option<ScoreSet> = scores.map(str::parse).transpose()?;
        let model = model.map(Assistant::model);
        let sees = model.is_some_and(|model| model.image_size().is_some());
        let usual = if sees { ScoreSet::ALL } else { ScoreSet::TEXT };
        let (tokens, images) = match model {
            Some(model) if model.device().is_cuda() => (32768, 16),
            _ => (4096, 1),
        };
        Ok(ScoreOptions {
            scores: scores.unwrap_or(usual),
            duos: match self.duos {
                DuosName::Auto => Duos::Auto,
                DuosName::Always => Duos::Always,
                DuosName::Never => Duos::Never,
            },
            compat: match self.compat {
                CompatName::Exact => Compat::Exact,
                CompatName::Llavar2 => Compat::Llavar2,
            },
            max_length: self.max_length,
            batch_tokens: self.batch_tokens.unwrap_or(tokens),
            batch_images: images,
        })
    }
}

#[derive(Debug, Serialize)]
struct Report {
    out: PathBuf,
    samples: usize,
    pairs: usize,
    scored_now: usize,
    taken_from_journal: usize,
    with_reason: usize,
    pictures_encoded: usize,
    seconds: f64,
    pairs_per_second: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    no_pipe(&args.data)?;
    let usage = |error| Failure::new(Class::Usage, error);
    let shard = match (args.num_chunks, args.chunk_idx) {
        (Some(n), Some(k)) => Shard::new(n, k).map_err(|e| usage(e.to_string()))?,
        _ => Shard::from_environment().map_err(|e| usage(e.to_string()))?,
    };
    let out = shard.file(&args.out);
    not_over("--out", &out, &[("the data", &args.data)])?;
    not_over_other("--out", &out, |head| head.starts_with(b"PAR1"))?;
    let folder = image_folder(&args.data, args.image_folder.as_deref());
    let data = Dataset::open(&args.data, Some(&folder))?;
    let (assistant, remote);
    let scores = args.scores.as_deref();
    let folder = args.model.clone().unwrap_or_default();
    let scorer = match &args.server.server {
        Some(url) => {
            let options = args.how.options(None, scores)?;
            remote = args.server.open(url, args.how.template()?)?;
            Scorer::remote(&remote, options)?
        }
        None => {
            assistant = args.how.open(&folder)?;
            let options = args.how.options(Some(&assistant), scores)?;
            Scorer::new(&assistant, options)?
        }
    };
    let info = RunInfo::new(&scorer, &folder)?;
    let mut journal = Journal::open(&Journal::path_of(&out), &info)?;

    let stop = interrupt::stop_flag()?;
    let begun = Instant::now();
    let samples = shard.range(data.len()).len();
    let mut bar = Progress::new("scoring", "samples", samples as u64);
    let run = score_dataset(&scorer, &data, shard, &mut journal, &mut |view| {
        let rate = view.pairs as f64 / begun.elapsed().as_secs_f64();
        bar.set(
            view.done as u64,
            format!("{} pairs, {rate:.1} pairs/s", view.pairs),
        );
        match stop.load(Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    let (view, seconds) = (run.view, begun.elapsed().as_secs_f64());
    let rate = view.pairs as f64 / seconds.max(1e-9);
    bar.finish(&format!(
        "{} pairs scored in {seconds:.1} s ({rate:.1} pairs/s), {} taken from the journal, {} with a reason",
        view.pairs, view.resumed, view.with_reason
    ));
    if run.stopped {
        return Err(Failure::interrupted(format!(
            "{} of {} samples are scored; the same command goes on",
            view.done, view.samples
        )));
    }
    let table = ScoreTable {
        rows: run.rows,
        info: Some(info),
        part: Some(Part {
            part: shard.chunk_idx(),
            of: shard.num_chunks(),
            samples: data.len(),
        }),
    };
    let mut reasons = std::collections::BTreeMap::new();
    for row in &table.rows {
        if let Some(reason) = &row.reason {
            let first = reasons.entry(reason.clone()).or_insert((0, &row.id));
            first.0 += 1;
        }
    }
    for (reason, (count, id)) in reasons.iter().take(5) {
        note(format!("{count} pairs, sample {id} first: {reason}"));
    }
    if reasons.len() > 5 {
        note(format!(
            "and {} other reasons, see column `reason`",
            reasons.len() - 5
        ));
    }
    write_file(&out, &table.to_parquet(&out)?)?;
    if args.json {
        return print_json(&Report {
            out,
            samples: view.samples,
            pairs: table.rows.len(),
            scored_now: view.pairs,
            taken_from_journal: view.resumed,
            with_reason: table.rows.iter().filter(|row| row.reason.is_some()).count(),
            pictures_encoded: view.pictures,
            seconds,
            pairs_per_second: rate,
        });
    }
    print(format!(
        "{}: {} pairs of {} samples\n",
        out.display(),
        table.rows.len(),
        view.samples
    ))
}

/// The folder given, or that of the data file.
pub(crate) fn image_folder(data: &Path, given: Option<&Path>) -> PathBuf {
    let beside = data.parent().filter(|p| !p.as_os_str().is_empty());
    given.or(beside).unwrap_or(Path::new(".")).to_path_buf()
}

/// Join the score files of several ranks.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar select merge scores-*-of-00004.parquet --out scores.parquet"
)]
pub(crate) struct MergeArgs {
    /// The files of all parts.
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Parquet file to write.
    #[arg(long, short)]
    out: PathBuf,
}

/// Runs `llavar select merge`.
pub(crate) fn merge(args: MergeArgs) -> Outcome {
    for part in &args.parts {
        no_pipe(part)?;
        not_over("--out", &args.out, &[("one of the parts", part)])?;
    }
    let table = llavar_select::merge(&args.parts)?;
    not_over_other("--out", &args.out, |head| head.starts_with(b"PAR1"))?;
    write_file(&args.out, &table.to_parquet(&args.out)?)?;
    print(format!(
        "{}: {} pairs\n",
        args.out.display(),
        table.rows.len()
    ))
}
