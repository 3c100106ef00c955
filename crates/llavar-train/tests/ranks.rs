//! Runs on several ranks, which `mpirun` starts: they learn what one rank learns, whatever is sharded.
//!
//! The ranks are processes of this test's own program that do a list of jobs, because MPI starts once in a
//! process. Without `mpirun` (OpenMPI; `check.sh` installs it where it can) these tests are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use common::{World, recipe, weights};
use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_tensor::collective::Launch;
use llavar_train::{Observer, Outcome, Resume, StepReport, Trainer, join_ranks};

const JOBS: &str = "LLAVAR_TRAIN_TEST_JOBS";

/// One run: its folder, the settings, and where it goes on from.
fn job(run: &str, sets: &[&str], from: Option<&Path>) -> serde_json::Value {
    serde_json::json!({"run": run, "sets": sets, "from": from})
}

/// Keeps the largest peak, and comes to harm where it is told.
struct Witness {
    rank: usize,
    peak: usize,
    harm: String,
}

impl Observer for Witness {
    fn on_step(&mut self, report: &StepReport) {
        self.peak = self.peak.max(report.tensor_peak_bytes);
        if self.rank != 1 || report.step != 2 {
            return;
        }
        match self.harm.as_str() {
            "abort" => std::process::abort(),
            "stop" => {
                let own = std::process::id().to_string();
                Command::new("kill").args(["-STOP", &own]).status().unwrap();
            }
            _ => {}
        }
    }
}

/// Not a test of its own: one rank of the tests below.
#[test]
#[ignore = "started by other tests"]
fn rank() {
    let text = std::env::var(JOBS).expect("started by other tests");
    let jobs: serde_json::Value = serde_json::from_str(&text).unwrap();
    let dir = PathBuf::from(jobs["dir"].as_str().unwrap());
    let group = join_ranks(&recipe(&dir, &[]), &Launch::from_env().unwrap()).unwrap();
    for job in jobs["jobs"].as_array().unwrap() {
        let sets: Vec<&str> = job["sets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s.as_str().unwrap())
            .collect();
        let run = dir.join(job["run"].as_str().unwrap());
        let resume = match job["from"].as_str() {
            Some(path) => Resume::From(path.into()),
            None => Resume::No,
        };
        let mut witness = Witness {
            rank: group.rank(),
            peak: 0,
            harm: jobs["harm"].as_str().unwrap_or_default().to_owned(),
        };
        let never = AtomicBool::new(false);
        let done = Trainer::on_ranks(recipe(&dir, &sets), &run, resume, group.clone()).and_then(
            |mut trainer| {
                trainer.run(&mut witness, &never)?;
                let state = trainer.state().clone();
                Ok((state, trainer.info().ranks))
            },
        );
        match done {
            Ok((state, ranks)) => {
                assert_eq!(ranks, group.size());
                let note = serde_json::json!({
                    "ranks": ranks, "peak": witness.peak, "updates": state.updates, "skipped": state.skipped_steps,
                    "guard": state.guard,
                });
                let name = format!("rank-{}.json", group.rank());
                fs::write(run.join(name), note.to_string()).unwrap();
            }
            Err(error) => {
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                eprintln!("rank {} ends: {text}", group.rank());
                std::process::exit(1);
            }
        }
    }
    group.leave(None).unwrap();
    std::process::exit(0);
}

/// Whether there is an OpenMPI to start ranks with.
fn has_mpirun(test: &str) -> bool {
    let version = Command::new("mpirun").arg("--version").output();
    let found = version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("Open MPI"));
    if !found {
        println!(
            "SKIPPED {test}: there is no mpirun of OpenMPI (Debian: openmpi-bin, libopenmpi3)"
        );
    }
    found
}

fn mpirun(world: &World, ranks: usize, jobs: &[serde_json::Value], harm: &str) -> Output {
    let jobs = serde_json::json!({"dir": world.dir.path(), "jobs": jobs, "harm": harm});
    Command::new("mpirun")
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
            "-n",
        ])
        .arg(ranks.to_string())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "rank"])
        .env(JOBS, jobs.to_string())
        .env(
            "LLAVAR_RANK_TIMEOUT",
            if harm.is_empty() { "60" } else { "2" },
        )
        .env("RAYON_NUM_THREADS", "1")
        // Containers often forbid one process to read another's memory; MPI would only warn of it.
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .output()
        .unwrap()
}

/// Does jobs on so many ranks, all of which must end well.
fn run_on(world: &World, ranks: usize, jobs: &[serde_json::Value]) {
    let output = mpirun(world, ranks, jobs, "");
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert!(output.status.success(), "{ranks} ranks: {said}");
    for job in jobs {
        let run = world.path(job["run"].as_str().unwrap());
        for rank in 0..ranks {
            assert_eq!(note(&run, rank)["ranks"], ranks, "{}", run.display());
        }
    }
}

/// What a rank has noted at the end of a run.
fn note(run: &Path, rank: usize) -> serde_json::Value {
    let text = fs::read_to_string(run.join(format!("rank-{rank}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Loss and gradient norm of every step.
fn curve(run: &Path) -> Vec<(f64, f64)> {
    let log = fs::read_to_string(run.join("train.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .map(|line: serde_json::Value| {
            (
                line["loss"].as_f64().unwrap_or(f64::NAN),
                line["grad_norm"].as_f64().unwrap_or(f64::NAN),
            )
        })
        .collect()
}

fn same_curve(got: &[(f64, f64)], want: &[(f64, f64)], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got.0 - want.0).abs();
        assert!(
            off < 1e-5,
            "{what}, step {}: loss {} and {}, off by {off:e}",
            step + 1,
            got.0,
            want.0
        );
        let off = (got.1 / want.1 - 1.0).abs();
        assert!(
            off < 1e-4,
            "{what}, step {}: norm {} and {}",
            step + 1,
            got.1,
            want.1
        );
    }
}

/// One rank alone.
fn alone(world: &World, run: &str, sets: &[&str], resume: Resume) -> Vec<(f64, f64)> {
    let path = world.path(run);
    let mut trainer = Trainer::new(world.recipe(sets), &path, resume).unwrap();
    let never = AtomicBool::new(false);
    let outcome = trainer.run(&mut llavar_train::Silent, &never).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    curve(&path)
}

#[test]
fn every_number_of_ranks_and_zero_stage_has_the_same_losses() {
    if !has_mpirun("every_number_of_ranks_and_zero_stage_has_the_same_losses") {
        return;
    }
    // Four micro-batches of one sample a step, every third of them without picture; an epoch of 14 does not
    // end with a step. Gradients are clipped.
    let world = World::new(14);
    let common = [
        "per_device_train_batch_size=1",
        "num_train_epochs=3",
        "max_grad_norm=0.5",
    ];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let want = alone(
        &world,
        "alone",
        &with(&["gradient_accumulation_steps=4"]),
        Resume::No,
    );
    assert_eq!(want.len(), 9);
    assert!(want.iter().any(|(_, norm)| *norm > 0.5) && want[8].0 < want[0].0);
    let model = LlavaModel::load(&world.path("alone/model")).unwrap();
    let stages = [
        "zero_stage=0",
        "zero_stage=1",
        "zero_stage=2",
        "zero_stage=3",
    ];
    for (ranks, share) in [
        (1, "gradient_accumulation_steps=4"),
        (2, "gradient_accumulation_steps=2"),
        (4, "gradient_accumulation_steps=1"),
    ] {
        let name = |stage: usize| format!("n{ranks}-z{stage}");
        let jobs: Vec<_> = stages
            .iter()
            .enumerate()
            .map(|(stage, set)| job(&name(stage), &with(&[share, *set]), None))
            .collect();
        run_on(&world, ranks, &jobs);
        for stage in 0..4 {
            let run = world.path(&name(stage));
            same_curve(&curve(&run), &want, &name(stage));
            // What rank 0 publishes is the whole model, and every weight has learned.
            let got = LlavaModel::load(&run.join("model")).unwrap();
            for (got, want) in got.params().iter().zip(model.params()) {
                assert_eq!(got.name(), want.name());
                let (a, b) = (
                    got.value().to_f32_vec().unwrap(),
                    want.value().to_f32_vec().unwrap(),
                );
                let far = a
                    .iter()
                    .zip(&b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(
                    far < 2e-3,
                    "{}: {} is off by {far}",
                    name(stage),
                    got.name()
                );
            }
        }
    }
}

#[test]
fn a_checkpoint_resumes_bit_by_bit_on_as_many_ranks_and_alike_on_others() {
    if !has_mpirun("a_checkpoint_resumes_bit_by_bit_on_as_many_ranks_and_alike_on_others") {
        return;
    }
    let world = World::new(14);
    let sets = |stage| {
        [
            "per_device_train_batch_size=1",
            "num_train_epochs=3",
            "gradient_accumulation_steps=2",
            "save_steps=3",
            "save_total_limit=0",
            stage,
        ]
    };
    let middle = |run: &str| world.path(run).join("checkpoints/step-00000003");
    let (z3, z1) = (sets("zero_stage=3"), sets("zero_stage=1"));
    run_on(
        &world,
        2,
        &[
            job("z3", &z3, None),
            job("z3-again", &z3, Some(&middle("z3"))),
            job("z1", &z1, None),
            job("z1-again", &z1, Some(&middle("z1"))),
        ],
    );
    for run in ["z3", "z1"] {
        let again = format!("{run}-again");
        assert!(
            weights(&world.path(run)) == weights(&world.path(&again)),
            "{run}"
        );
        assert_eq!(
            curve(&world.path(run))[3..],
            curve(&world.path(&again)),
            "{run}"
        );
    }
    let want = curve(&world.path("z3"));
    // On more ranks under another stage, and on one.
    run_on(
        &world,
        4,
        &[job("on-4", &sets("zero_stage=2"), Some(&middle("z3")))],
    );
    same_curve(&curve(&world.path("on-4")), &want[3..], "on 4 ranks");
    let one = alone(&world, "on-1", &z3, Resume::From(middle("z3")));
    same_curve(&one, &want[3..], "on one rank");
    // And from one rank to several.
    run_on(
        &world,
        2,
        &[job(
            "back-on-2",
            &z3,
            Some(&world.path("on-1/checkpoints/step-00000006")),
        )],
    );
    same_curve(
        &curve(&world.path("back-on-2")),
        &want[6..],
        "back on 2 ranks",
    );
}

#[test]
fn compact_checkpoints_resume_bit_by_bit_on_as_many_ranks_and_alike_on_others() {
    let test = "compact_checkpoints_resume_bit_by_bit_on_as_many_ranks_and_alike_on_others";
    if !has_mpirun(test) {
        return;
    }
    let world = World::wide(8, false);
    let sets = |stage, micro| {
        [
            "per_device_train_batch_size=1",
            "num_train_epochs=2",
            "save_steps=2",
            "save_total_limit=0",
            "compact_checkpoints=true",
            "max_shard_bytes=65536",
            micro,
            stage,
        ]
    };
    let middle = |run: &str| world.path(run).join("checkpoints/step-00000002");
    let mut jobs = Vec::new();
    for (run, stage) in [("z2", "zero_stage=2"), ("z3", "zero_stage=3")] {
        let sets = sets(stage, "gradient_accumulation_steps=2");
        jobs.push(job(run, &sets, None));
        jobs.push(job(&format!("{run}-again"), &sets, Some(&middle(run))));
    }
    run_on(&world, 2, &jobs);
    for run in ["z2", "z3"] {
        let (whole, again) = (world.path(run), world.path(&format!("{run}-again")));
        assert_eq!(curve(&whole)[2..], curve(&again), "{run}");
        let bits = |run: &Path| {
            let model = LlavaModel::load(&run.join("model")).unwrap();
            let values = model
                .params()
                .into_iter()
                .map(|p| p.value().to_f32_vec().unwrap());
            values.collect::<Vec<_>>()
        };
        assert!(bits(&whole) == bits(&again), "{run}");
    }
    let alone_sets = sets("zero_stage=3", "gradient_accumulation_steps=4");
    let from = Resume::From(middle("z3"));
    let one = alone(
        &world,
        "on-1",
        &[&alone_sets[..], &["allow_recipe_change=true"]].concat(),
        from,
    );
    let want = curve(&world.path("z3"));
    // What was packed in other blocks is read back as it was; later saves have other blocks.
    same_curve(&one[..2], &want[2..4], "on one rank");
}

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

/// Each rank keeps the average of its own parts; what is published is that of one rank alone.
#[test]
fn moving_averages_are_put_together_from_all_ranks() {
    if !has_mpirun("moving_averages_are_put_together_from_all_ranks") {
        return;
    }
    let world = World::new(8);
    let common = ["per_device_train_batch_size=1", "ema_decay=0.5"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let one = with(&["gradient_accumulation_steps=2"]);
    alone(&world, "alone", &one, Resume::No);
    let want = LlavaModel::load(&world.path("alone/model-ema")).unwrap();
    let stages = ["zero_stage=0", "zero_stage=1", "zero_stage=3"];
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
        let got = LlavaModel::load(&world.path(stage).join("model-ema")).unwrap();
        let trained = LlavaModel::load(&world.path(stage).join("model")).unwrap();
        let mut moved = 0;
        for ((got, want), trained) in got.params().iter().zip(want.params()).zip(trained.params()) {
            let values = |param: &llavar_tensor::Param| param.value().to_f32_vec().unwrap();
            let (a, b) = (values(got), values(&want));
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f32::max);
            assert!(far < 2e-3, "{stage}: {} is off by {far}", got.name());
            moved += usize::from(a != values(&trained));
        }
        assert!(moved > 20, "{stage}: {moved}");
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

#[test]
fn zero_3_keeps_its_share_of_the_states_and_no_more() {
    if !has_mpirun("zero_3_keeps_its_share_of_the_states_and_no_more") {
        return;
    }
    let world = World::new(8);
    let config = ModelConfig::read(&world.path("model")).unwrap();
    let deep = serde_json::json!({
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 40,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    });
    let changes: Vec<_> = deep.as_object().unwrap().clone().into_iter().collect();
    let model = LlavaModel::init(config.with(changes).unwrap(), 5).unwrap();
    let elements: usize = model.params().iter().map(|p| p.numel()).sum();
    model
        .save(&world.path("deep"), Some(&world.path("model")))
        .unwrap();
    let deep = format!("model_name_or_path={}", world.path("deep").display());
    let sets = |share, stage| {
        [
            deep.as_str(),
            "per_device_train_batch_size=1",
            "max_steps=2",
            "prefetch_bytes=100000",
            "gradient_checkpointing=true",
            share,
            stage,
        ]
    };
    // Weight, gradient and two moments.
    let states = 16.0 * elements as f64;
    let peak = |run: &str, rank| note(&world.path(run), rank)["peak"].as_f64().unwrap();
    let all = "gradient_accumulation_steps=4";
    run_on(&world, 1, &[job("one", &sets(all, "zero_stage=0"), None)]);
    let activations = peak("one", 0) - states;
    assert!(activations > 0.0);
    for (ranks, share) in [
        (2, "gradient_accumulation_steps=2"),
        (4, "gradient_accumulation_steps=1"),
    ] {
        let run = format!("z3-{ranks}");
        run_on(
            &world,
            ranks,
            &[job(&run, &sets(share, "zero_stage=3"), None)],
        );
        let allowed = states / ranks as f64 + activations;
        for rank in 0..ranks {
            let got = peak(&run, rank);
            println!(
                "rank {rank} of {ranks}: {:.2} MiB at most, states / {ranks} + activations are {:.2} MiB: {:+.1} %",
                got / f64::from(1 << 20),
                allowed / f64::from(1 << 20),
                100.0 * (got / allowed - 1.0),
            );
            assert!(
                got <= 1.15 * allowed,
                "rank {rank} of {ranks}: {got} bytes of {allowed}"
            );
        }
    }
}

#[test]
fn adapters_on_ranks_learn_and_drop_what_one_rank_does() {
    if !has_mpirun("adapters_on_ranks_learn_and_drop_what_one_rank_does") {
        return;
    }
    let world = World::new(10);
    let common = [
        "per_device_train_batch_size=1",
        "num_train_epochs=2",
        "lora_enable=true",
        "lora_r=4",
        "lora_dropout=0.2",
        "use_dora=true",
    ];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let want = alone(
        &world,
        "alone",
        &with(&["gradient_accumulation_steps=2"]),
        Resume::No,
    );
    let model = LlavaModel::load(&world.path("alone/model")).unwrap();
    let jobs: Vec<_> = ["zero_stage=0", "zero_stage=2", "zero_stage=3"]
        .iter()
        .map(|stage| {
            job(
                stage,
                &with(&["gradient_accumulation_steps=1", *stage]),
                None,
            )
        })
        .collect();
    // 4 bits stay whole on every rank: stage 3 is stage 2.
    let coded = ["bits=4", "use_dora=false"];
    let coded_alone = [&coded[..], &["gradient_accumulation_steps=2"]].concat();
    let coded_alone = alone(&world, "coded-alone", &with(&coded_alone), Resume::No);
    let share = ["gradient_accumulation_steps=1", "zero_stage=3"];
    let sharded = with(&[&coded[..], &share].concat());
    run_on(
        &world,
        2,
        &[&jobs[..], &[job("coded", &sharded, None)]].concat(),
    );
    same_curve(&curve(&world.path("coded")), &coded_alone, "4 bits");
    for stage in ["zero_stage=0", "zero_stage=2", "zero_stage=3"] {
        let run = world.path(stage);
        same_curve(&curve(&run), &want, stage);
        // The adapters of all ranks are in the folder, and what trains beside them.
        let got = LlavaModel::load(&run.join("model")).unwrap();
        for (got, want) in got.params().iter().zip(model.params()) {
            let (a, b) = (
                got.value().to_f32_vec().unwrap(),
                want.value().to_f32_vec().unwrap(),
            );
            let far = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(far < 5e-3, "{stage} {}: {far}", got.name());
        }
    }
}
