//! Faults planted in clean duos score clearly worse.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use llavar_assistant::Assistant;
use llavar_data::{Dataset, Sample};
use llavar_select::{
    ScoreOf, ScoreOptions, ScoreRow, Scorer, SeenPictures,
    faults::{Fault, auc, plant},
};

#[test]
#[ignore = "needs a trained model, half an hour of work: LLAVAR_QUICKSTART names a folder of `llavar quickstart \
            --set-synth self_explain=1.0` with the output of the example whole_texts as `reader`"]
fn faults_rank_worse_than_what_they_were_made_of() {
    let folder = std::env::var("LLAVAR_QUICKSTART").map(PathBuf::from);
    let folder = folder.expect("LLAVAR_QUICKSTART names the folder of a quickstart");
    let assistant = Assistant::load(&folder.join("reader"), None).unwrap();
    let held_out = folder.join("data/held_out");
    let data = Dataset::open(&held_out.join("data.json"), Some(&held_out)).unwrap();
    let samples: Vec<Sample> = data.iter().map(Result::unwrap).collect();
    let scorer = Scorer::new(&assistant, ScoreOptions::default()).unwrap();
    let mut seen = SeenPictures::default();
    let mut score = |samples: &[Sample]| {
        let prepared = samples.iter().enumerate();
        let prepared = prepared.map(|(i, s)| scorer.prepare(s, i, 0, |nth| data.image(i, s, nth)));
        scorer.score(prepared.collect(), &mut seen).unwrap()
    };
    let clean = score(&samples);
    let mifd: ScoreOf = |row| row.mifd;
    let ffd: ScoreOf = |row| row.ffd;
    for (fault, get, least) in [
        (Fault::SwappedAnswers, mifd, 0.95),
        (Fault::IgnoresPicture, mifd, 0.95),
        (Fault::ShuffledWords, mifd, 0.95),
        (Fault::ContradictingExplanation, ffd, 0.95),
    ] {
        let faulty = score(&plant(&samples, fault, 1));
        let of = |rows: &[ScoreRow]| -> Vec<f64> {
            let touched = rows.iter().filter(|row| fault.touches(row.kind));
            touched.filter_map(get).collect()
        };
        let auc = auc(&of(&faulty), &of(&clean)).unwrap();
        assert!(auc > least, "{}: {auc}", fault.name());
    }
}
