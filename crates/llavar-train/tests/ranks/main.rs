//! Runs on several ranks, which `mpirun` starts: they learn what one rank learns, whatever is sharded.
//!
//! The ranks are processes of this test's own program that do a list of jobs, because MPI starts once in a
//! process. Without `mpirun` (OpenMPI; `check.sh` installs it where it can) these tests are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod parts;
mod zero;

use std::io::Write as _;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::AtomicBool,
};

use common::{World, recipe};
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
        let _ = writeln!(
            std::io::stderr(),
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
