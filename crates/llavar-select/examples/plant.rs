//! A data set in which some samples are faulty, for experiments with selection.
//!
//! `cargo run --release -p llavar-select --example plant -- DATA.json SHARE SEED OUT.json`
//!
//! SHARE (0 to 1) of the samples get one of the four faults each, in turn; their ids end in the fault's
//! number, so that a script can count what a selection has kept.

use std::{error::Error, path::Path};

use llavar_data::{Dataset, Sample, SampleId, write::write_llava_json};
use llavar_select::faults::{Fault, plant};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, share, seed, out] = args.as_slice() else {
        return Err("give DATA.json SHARE SEED OUT.json".into());
    };
    let (share, seed): (f64, u64) = (share.parse()?, seed.parse()?);
    let data = Dataset::open(Path::new(data), None)?;
    let mut samples: Vec<Sample> = data.iter().collect::<Result<_, _>>()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.shuffle(&mut rng);
    order.truncate((share * samples.len() as f64).round() as usize);
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let own: Vec<usize> = order.iter().copied().skip(number).step_by(4).collect();
        // Answers are taken from samples of the same part, which are many.
        let part: Vec<Sample> = own.iter().map(|at| samples[*at].clone()).collect();
        for mut faulty in plant(&part, fault, seed + number as u64) {
            let at = own.iter().find(|at| samples[**at].id == faulty.id);
            let at = *at.ok_or("two samples have one id")?;
            faulty.id = SampleId::Text(format!("{}#fault{number}", faulty.id));
            samples[at] = faulty;
        }
    }
    write_llava_json(Path::new(out), &samples)?;
    println!(
        "{}: {} samples, {} of them with a fault",
        out,
        samples.len(),
        order.len()
    );
    Ok(())
}
