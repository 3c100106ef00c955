//! How well each score tells planted faults from the clean pairs that they were made of.
//!
//! `cargo run --release -p llavar-select --example planted_faults -- MODEL DATA.json IMAGE_FOLDER [SAMPLES]`
//!
//! MODEL must know whole texts: a published one, or one of the example `whole_texts`. DATA holds duos. Printed is the AUC of every score: the share of (faulty, clean) pairs of which the
//! faulty one scores higher; 50 % is chance.

use std::{error::Error, path::Path};

use llavar_assistant::Assistant;
use llavar_data::{Dataset, Sample};
use llavar_select::{
    PairKind, SCORES, ScoreOptions, ScoreRow, Scorer, SeenPictures,
    faults::{Fault, auc, plant},
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, images, rest @ ..] = args.as_slice() else {
        return Err("give MODEL DATA.json IMAGE_FOLDER [SAMPLES]".into());
    };
    let assistant = Assistant::load(Path::new(model), None)?;
    let data = Dataset::open(Path::new(file), Some(Path::new(images)))?;
    let most = rest.first().map_or(Ok(usize::MAX), |n| n.parse())?;
    let samples: Vec<Sample> = data.iter().take(most).collect::<Result<_, _>>()?;
    let scorer = Scorer::new(&assistant, ScoreOptions::default())?;
    let mut seen = SeenPictures::default();
    let mut score = |samples: &[Sample]| -> Result<Vec<ScoreRow>, Box<dyn Error>> {
        let mut prepared = Vec::new();
        for (i, sample) in samples.iter().enumerate() {
            prepared.push(scorer.prepare(sample, i, 0, |nth| data.image(i, sample, nth)));
        }
        Ok(scorer.score(prepared, &mut seen)?)
    };
    let clean = score(&samples)?;
    let pairs = clean.iter().filter(|row| row.reason.is_none()).count();
    println!(
        "{} samples, {pairs} clean pairs; AUC of each score, %",
        samples.len()
    );
    println!(
        "{:32} {:>7} {:>7} {:>7} {:>7}",
        "fault", "ifd", "vfd", "mifd", "ffd"
    );
    for fault in Fault::ALL {
        let faulty = score(&plant(&samples, fault, 1))?;
        let mut line = format!("{:32}", fault.name());
        for (_, get) in SCORES {
            let of = |rows: &[ScoreRow]| -> Vec<f64> {
                let touched = rows.iter().filter(|row| fault.touches(row.kind));
                touched.filter_map(get).collect()
            };
            let auc = auc(&of(&faulty), &of(&clean));
            line += &auc.map_or("       -".to_owned(), |auc| format!(" {:7.1}", 100.0 * auc));
        }
        println!("{line}");
    }
    let mean = |kind: PairKind, get: fn(&ScoreRow) -> Option<f64>| {
        let of_kind = clean.iter().filter(|row| row.kind == kind);
        let values: Vec<f64> = of_kind.filter_map(get).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    for kind in [PairKind::Extractive, PairKind::SelfExplain] {
        let means: Vec<String> = SCORES
            .iter()
            .filter_map(|(name, get)| Some(format!("{name} {:.3}", mean(kind, *get)?)))
            .collect();
        println!("clean {}: mean {}", kind.as_str(), means.join(", "));
    }
    Ok(())
}
