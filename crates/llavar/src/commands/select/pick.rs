//! `llavar select pick`.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use llavar_data::{Dataset, write::write_llava_json};
use llavar_image::{DecodeLimits, decode_file};
use llavar_select::{
    ScoreTable,
    pick::{Card, Dropped, ImageHash, Limits, PickOptions, RankBy, kept_samples, pick},
    report::in_words,
};
use serde::Serialize;

use super::score::image_folder;
use crate::{
    commands::{no_pipe, not_over, not_over_other, print, print_json, write_file},
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Keep the pairs that help: by limits, rank, quotas and near-duplicates.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar select pick scores.parquet --data data.json --fraction 0.3 --out picked.json\n\
\n\
In this order: pairs without scores go; pairs outside the limits go (IFD, VFD and FFD of 1 and more by\n\
default: there the condition does not help); a duo goes if one of its pairs does; of near-duplicates the\n\
lower-ranked goes; quotas of sources; the best of the rest by --rank-by. The same input gives the same\n\
output. Beside OUT lie OUT.card.json (what was dropped and why, by reason, source and score) and\n\
OUT.dropped.jsonl (every dropped pair with its reason)."
)]
pub(crate) struct Args {
    /// Score file of `llavar select score`, as it is or filtered by another tool.
    scores: PathBuf,
    /// The LLaVA JSON that was scored.
    #[arg(long)]
    data: PathBuf,
    /// LLaVA JSON to write.
    #[arg(long, short)]
    out: PathBuf,
    /// Drop pairs with an IFD of this and more; `none` for no limit.
    #[arg(long, value_name = "X|none", default_value = "1", value_parser = limit)]
    max_ifd: Bound,
    /// Drop pairs with a VFD of this and more.
    #[arg(long, value_name = "X|none", default_value = "1", value_parser = limit)]
    max_vfd: Bound,
    /// Drop pairs with an mIFD of this and more.
    #[arg(long, value_name = "X|none", default_value = "none", value_parser = limit)]
    max_mifd: Bound,
    /// Drop duos with an FFD of this and more.
    #[arg(long, value_name = "X|none", default_value = "1", value_parser = limit)]
    max_ffd: Bound,
    /// Drop pairs with a lower IFD.
    #[arg(long, value_name = "X")]
    min_ifd: Option<f64>,
    /// Drop pairs with a lower VFD.
    #[arg(long, value_name = "X")]
    min_vfd: Option<f64>,
    /// Drop pairs with a lower mIFD.
    #[arg(long, value_name = "X")]
    min_mifd: Option<f64>,
    /// Drop duos with a lower FFD.
    #[arg(long, value_name = "X")]
    min_ffd: Option<f64>,
    /// Keep at most this share of all pairs of the score file.
    #[arg(long)]
    fraction: Option<f64>,
    /// Keep at most this many pairs.
    #[arg(long, short)]
    number: Option<usize>,
    /// What ranks: mifd (hard, but helped by question and picture), ifd, vfd, ffd or random.
    #[arg(long, value_enum, default_value = "mifd")]
    rank_by: Rank,
    /// Take the lowest first.
    #[arg(long)]
    lowest: bool,
    /// Seed of --rank-by random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// At most N pairs of this source (key `source` of a sample, or the first folder of its picture);
    /// may be repeated.
    #[arg(long = "quota", value_name = "SOURCE=N", value_parser = quota)]
    quotas: Vec<(String, usize)>,
    /// At most N pairs of every other source.
    #[arg(long, value_name = "N")]
    quota_each: Option<usize>,
    /// Judge the pairs of a duo one by one.
    #[arg(long)]
    no_duo_rule: bool,
    /// Drop texts that share this much of their word triples with a kept one, for example 0.8.
    #[arg(long, value_name = "SHARE")]
    near_text: Option<f64>,
    /// Drop pictures whose hash differs from a kept one's in at most this many of 256 bits, for example 10.
    #[arg(long, value_name = "BITS")]
    near_image: Option<u32>,
    /// Spread the pick over this many clusters of texts: the best of each are taken in turn. Needs
    /// --fraction or --number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    clusters: usize,
    /// Folder below which the pictures lie, for --near-image; that of --data by default.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Print the card as JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bound(Option<f64>);

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Rank {
    Mifd,
    Ifd,
    Vfd,
    Ffd,
    Random,
}

fn limit(text: &str) -> Result<Bound, String> {
    match text {
        "none" => Ok(Bound(None)),
        _ => {
            let number = text.parse::<f64>().ok().filter(|x| !x.is_nan());
            let number = number.ok_or("give a number or `none`")?;
            Ok(Bound(Some(number)))
        }
    }
}

fn quota(text: &str) -> Result<(String, usize), String> {
    let parsed = text.rsplit_once('=');
    let parsed = parsed.and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    parsed.ok_or_else(|| "give SOURCE=N, for example --quota receipts=500".to_owned())
}

impl Args {
    fn options(&self) -> PickOptions {
        let limits = |min: Option<f64>, max: Bound| Limits { min, max: max.0 };
        PickOptions {
            ifd: limits(self.min_ifd, self.max_ifd),
            vfd: limits(self.min_vfd, self.max_vfd),
            mifd: limits(self.min_mifd, self.max_mifd),
            ffd: limits(self.min_ffd, self.max_ffd),
            rank_by: match self.rank_by {
                Rank::Mifd => RankBy::Mifd,
                Rank::Ifd => RankBy::Ifd,
                Rank::Vfd => RankBy::Vfd,
                Rank::Ffd => RankBy::Ffd,
                Rank::Random => RankBy::Random(self.seed),
            },
            lowest_first: self.lowest,
            fraction: self.fraction,
            number: self.number,
            quotas: self.quotas.iter().cloned().collect::<BTreeMap<_, _>>(),
            quota_each: self.quota_each,
            duo_rule: !self.no_duo_rule,
            near_text: self.near_text,
            near_image: self.near_image,
            clusters: self.clusters,
        }
    }
}

/// One line of the list of dropped pairs.
#[derive(Debug, Serialize)]
struct DroppedLine<'a> {
    record: u64,
    id: &'a str,
    occurrence: u32,
    qa_id: u32,
    #[serde(flatten)]
    why: &'a Dropped,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    no_pipe(&args.scores)?;
    no_pipe(&args.data)?;
    not_over(
        "--out",
        &args.out,
        &[("--data", &args.data), ("the score file", &args.scores)],
    )?;
    not_over_other("--out", &args.out, |_| {
        beside(&args.out, "card.json").exists()
    })?;
    if args.clusters > 1 && args.fraction.is_none() && args.number.is_none() {
        return Err(
            Failure::usage("--clusters spreads what is taken, and all would be taken")
                .hint("add --fraction or --number"),
        );
    }
    let table = ScoreTable::read(&args.scores)?;
    let folder = image_folder(&args.data, args.image_folder.as_deref());
    let data = Dataset::open(&args.data, Some(&folder))?;
    let options = args.options();
    for source in options.quotas.keys() {
        if !table.rows.iter().any(|row| row.source == *source) {
            note(format!("--quota {source}: no pair is of this source"));
        }
    }
    let mut hashes = Hashes {
        data: &data,
        known: HashMap::new(),
    };
    let verdicts = pick(&table.rows, &options, &mut |name| hashes.of(name))?;
    let unreadable = hashes.known.values().filter(|hash| hash.is_none()).count();
    if unreadable > 0 {
        note(format!(
            "{unreadable} pictures cannot be read and count as unlike all others"
        ));
    }
    let samples = kept_samples(&data, &table.rows, &verdicts)?;
    let card = Card::new(&options, &table.rows, &verdicts);

    let mut list = Vec::new();
    for (row, verdict) in table.rows.iter().zip(&verdicts) {
        let Some(why) = verdict else { continue };
        let line = DroppedLine {
            record: row.record,
            id: &row.id,
            occurrence: row.occurrence,
            qa_id: row.qa_id,
            why,
        };
        serde_json::to_writer(&mut list, &line).map_err(|e| Failure::new(Class::Failure, e))?;
        list.push(b'\n');
    }
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::write(folder, &error))?;
    }
    write_llava_json(&args.out, &samples).map_err(|error| match error {
        llavar_data::Error::Io { path, source } => Failure::write(path, &source),
        other => other.into(),
    })?;
    let text = serde_json::to_string_pretty(&card).map_err(|e| Failure::new(Class::Failure, e))?;
    write_file(&beside(&args.out, "card.json"), (text + "\n").as_bytes())?;
    write_file(&beside(&args.out, "dropped.jsonl"), &list)?;
    if args.json {
        return print_json(&card);
    }
    let mut text = format!(
        "{}: {} of {} pairs kept, {} of {} samples\n",
        args.out.display(),
        card.kept,
        card.pairs,
        card.samples_kept,
        card.samples
    );
    for (reason, count) in &card.dropped {
        text += &format!("  {count:>7} pairs dropped: {}\n", in_words(reason));
    }
    print(text)
}

/// `picked.json` has `picked.card.json` beside it.
pub(crate) fn beside(out: &Path, end: &str) -> PathBuf {
    out.with_extension(end)
}

/// Hashes of pictures, each computed once.
struct Hashes<'a> {
    data: &'a Dataset,
    known: HashMap<String, Option<ImageHash>>,
}

impl Hashes<'_> {
    fn of(&mut self, name: &str) -> Option<ImageHash> {
        let compute = || {
            let path = self.data.image_path(name).ok()?;
            let image = decode_file(&path, &DecodeLimits::default()).ok()?;
            ImageHash::of(&image).ok()
        };
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let hash = compute();
        self.known.insert(name.to_owned(), hash);
        hash
    }
}
