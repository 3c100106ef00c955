//! The last filter of a run: what a model's scores leave of the duos.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use llavar_data::{Dataset, write::write_llava_json};
use llavar_eval::samples::Shard;
use llavar_instruct::{
    PictureResult,
    output::{Selection, candidates},
};
use llavar_select::{
    Compat, Duos, Journal, RunInfo, ScoreOptions, ScoreSet, ScoreTable, Scorer, pick, score_dataset,
};

use crate::{
    commands::write_file,
    device::DeviceFlags,
    failure::{Class, Failure, Outcome},
    progress::Progress,
};

/// Flags of selection.
#[derive(Debug, clap::Args)]
pub(crate) struct SelectFlags {
    /// Model folder whose IFD, VFD and FFD filter the duos last (see `llavar select score --help`).
    #[arg(long, value_name = "DIR")]
    pub(crate) select_model: Option<PathBuf>,
    /// Share of the pairs that selection keeps at most, the highest mIFD first.
    #[arg(long, value_name = "X", requires = "select_model")]
    select_fraction: Option<f64>,
    #[command(flatten)]
    device: DeviceFlags,
}

impl SelectFlags {
    /// Scores all duos of the run and picks; `None` where the user stopped it. Scores are kept, so the same
    /// command goes on.
    pub(crate) fn select(
        &self,
        model: &Path,
        run: &Path,
        images: &Path,
        pictures: &[PictureResult],
        stop: &AtomicBool,
    ) -> Outcome<Option<Selection>> {
        let (samples, ids) = candidates(pictures);
        if samples.is_empty() {
            return Ok(Some(Selection::default()));
        }
        if !model.is_dir() {
            let message = format!("there is no model folder {}", model.display());
            return Err(Failure::new(Class::Data, message)
                .hint("`llavar quickstart` makes one, `llavar train` another"));
        }
        let folder = run.join(Selection::FOLDER);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::write(&folder, &error))?;
        let path = folder.join("candidates.json");
        write_llava_json(&path, &samples)?;
        let data = Dataset::open(&path, Some(images))?;
        let assistant = self.device.load(model, None)?;
        let sees = assistant.model().image_size().is_some();
        let (batch_tokens, batch_images) = match assistant.model().device().is_cuda() {
            true => (32768, 16),
            false => (4096, 4),
        };
        let scorer = Scorer::new(
            &assistant,
            ScoreOptions {
                scores: if sees { ScoreSet::ALL } else { ScoreSet::TEXT },
                duos: Duos::Always,
                compat: Compat::Exact,
                max_length: None,
                batch_tokens,
                batch_images,
            },
        )?;
        let info = RunInfo::new(&scorer, model)?;
        let out = folder.join("scores.parquet");
        let mut journal = Journal::open(&Journal::path_of(&out), &info)?;
        let shard = Shard::new(1, 0).map_err(|e| Failure::new(Class::Failure, e))?;
        let mut bar = Progress::new("scoring", "pictures", data.len() as u64);
        let scored = score_dataset(&scorer, &data, shard, &mut journal, &mut |view| {
            bar.set(view.done as u64, format!("{} pairs", view.pairs));
            match stop.load(Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        bar.finish(&format!("{} pairs scored", scored.rows.len()));
        if scored.stopped {
            return Ok(None);
        }
        let options = pick::PickOptions {
            fraction: self.select_fraction,
            ..pick::PickOptions::default()
        };
        let verdicts = pick::pick(&scored.rows, &options, &mut |_| None)?;
        let mut dropped: BTreeMap<String, String> = BTreeMap::new();
        let mut kept: BTreeSet<String> = ids.iter().flatten().cloned().collect();
        for (row, verdict) in scored.rows.iter().zip(&verdicts) {
            let id = ids
                .get(row.record as usize)
                .and_then(|ids| ids.get(row.qa_id as usize / 4));
            if let (Some(id), Some(why)) = (id, verdict) {
                kept.remove(id);
                // Of the two pairs the one with a reason of its own says why.
                let reason = dropped
                    .entry(id.clone())
                    .or_insert_with(|| why.name().to_owned());
                if reason == "duo_partner" {
                    *reason = why.name().to_owned();
                }
            }
        }
        let table = ScoreTable {
            rows: scored.rows,
            info: Some(info),
            part: None,
        };
        write_file(&out, &table.to_parquet(&out)?)?;
        Ok(Some(Selection {
            model: model.display().to_string(),
            kept,
            dropped,
        }))
    }
}
