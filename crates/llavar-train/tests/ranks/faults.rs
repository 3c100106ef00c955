//! Gradients that are not finite, spikes, and ranks that die.

use std::{
    fs,
    time::{Duration, Instant},
};

use llavar_train::Resume;

use crate::{alone, common::World, curve, has_mpirun, job, mpirun, note, run_on, same_curve};

#[test]
fn a_gradient_that_is_not_finite_on_one_rank_is_skipped_by_all() {
    if !has_mpirun("a_gradient_that_is_not_finite_on_one_rank_is_skipped_by_all") {
        return;
    }
    let world = World::new(12);
    // The projector alone trains, and its first real step throws it out of all range: ranks whose samples have
    // pictures get no finite gradient from then on, the one without gets none at all.
    let sets = |stage| {
        [
            "per_device_train_batch_size=1",
            "gradient_accumulation_steps=1",
            "shuffle=false",
            "learning_rate=1e30",
            r#"freeze=["model.layers.*","model.embed_tokens.*","lm_head.*","model.norm.*","model.vision_tower.*"]"#,
            stage,
        ]
    };
    let stages = [
        "zero_stage=0",
        "zero_stage=1",
        "zero_stage=2",
        "zero_stage=3",
    ];
    let jobs: Vec<_> = stages
        .iter()
        .map(|stage| job(stage, &sets(stage), None))
        .collect();
    run_on(&world, 3, &jobs);
    for stage in stages {
        let notes: Vec<_> = (0..3).map(|rank| note(&world.path(stage), rank)).collect();
        for note in &notes {
            assert_eq!(note["updates"], notes[0]["updates"], "{stage}");
            assert_eq!(note["skipped"], notes[0]["skipped"], "{stage}");
        }
        assert!(
            notes[0]["skipped"].as_u64().unwrap() >= 4,
            "{stage}: {}",
            notes[0]
        );
        assert!(
            notes[0]["updates"].as_u64().unwrap() >= 2,
            "{stage}: {}",
            notes[0]
        );
    }
}

/// The whole of it: all ranks see the same spike, go back together, and learn what one rank learns.
#[test]
fn all_ranks_go_back_together() {
    if !has_mpirun("all_ranks_go_back_together") {
        return;
    }
    let world = World::new(3);
    let records: Vec<_> = (0..60)
        .map(|at| {
            let odd = (28..30).contains(&at);
            let answer = if odd {
                "nine nine seven green"
            } else {
                "the total is red"
            };
            serde_json::json!({"id": format!("s{at}"), "conversations": [
                {"from": "human", "value": "what is seven"}, {"from": "gpt", "value": answer},
            ]})
        })
        .collect();
    fs::write(
        world.path("data.json"),
        serde_json::to_string(&records).unwrap(),
    )
    .unwrap();
    let common = [
        "per_device_train_batch_size=1",
        "shuffle=false",
        "group_by_modality_length=false",
        "max_steps=20",
        "learning_rate=2e-2",
        "lr_scheduler_type=constant",
        "save_steps=10",
        "spike_window=6",
        "spike_z_loss=8",
        "on_spike=rollback",
    ];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let want = alone(
        &world,
        "alone",
        &with(&["gradient_accumulation_steps=2"]),
        Resume::No,
    );
    let stages = [
        "zero_stage=0",
        "zero_stage=1",
        "zero_stage=2",
        "zero_stage=3",
    ];
    let jobs: Vec<_> = stages
        .iter()
        .map(|stage| {
            job(
                stage,
                &with(&["gradient_accumulation_steps=1", stage]),
                None,
            )
        })
        .collect();
    run_on(&world, 2, &jobs);
    for stage in stages {
        let run = world.path(stage);
        same_curve(&curve(&run), &want, stage);
        for rank in 0..2 {
            let guard = &note(&run, rank)["guard"];
            assert_eq!(guard["rollbacks"], 1, "{stage}: {guard}");
            assert_eq!(guard["passed_steps"], 5, "{stage}: {guard}");
        }
    }
}

#[test]
fn a_rank_that_dies_or_falls_silent_ends_all_and_is_named() {
    if !has_mpirun("a_rank_that_dies_or_falls_silent_ends_all_and_is_named") {
        return;
    }
    for (harm, words) in [("stop", "no sign of life"), ("abort", "rank 1")] {
        let world = World::new(12);
        let sets = [
            "per_device_train_batch_size=1",
            "num_train_epochs=200",
            "zero_stage=2",
        ];
        let begun = Instant::now();
        let output = mpirun(&world, 3, &[job("run", &sets, None)], harm);
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success());
        assert!(
            said.contains("rank 1") && said.contains(words),
            "{harm}: {said}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{harm}: {:?}",
            begun.elapsed()
        );
    }
}
