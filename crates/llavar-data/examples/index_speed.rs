//! How fast a large JSONL file opens, first without and then with its index, and what that takes.
//!
//! `cargo run --release -p llavar-data --example index_speed -- FOLDER ROWS` writes the file into FOLDER
//! and deletes it at the end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufWriter, Write},
    path::PathBuf,
    time::Instant,
};

use llavar_data::{Cache, Dataset};

/// Resident memory of this process, MiB; Linux only.
fn resident_mib(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("FOLDER ROWS"));
    let rows: usize = args
        .next()
        .expect("ROWS")
        .parse()
        .expect("ROWS is a number");
    let path = folder.join("index_speed.jsonl");
    let mut out = BufWriter::new(fs::File::create(&path).unwrap());
    for i in 0..rows {
        writeln!(
            out,
            "{{\"id\": \"{i}\", \"image\": \"img/{}/{i}.jpg\", \"conversations\": [{{\"from\": \"human\", \
             \"value\": \"<image>\\nwhat is the total amount of this invoice?\"}}, {{\"from\": \"gpt\", \"value\": \
             \"The total amount is {}.{:02} ringgit.\"}}]}}",
            i % 1000,
            i % 977,
            i % 100
        )
        .unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    let mib = fs::metadata(&path).unwrap().len() as f64 / 1048576.0;
    let cache = Cache {
        folder: Some(folder.join("index_speed_cache")),
        ..Cache::none()
    };
    for what in ["without index", "with index"] {
        let start = Instant::now();
        let data = Dataset::open_with(&path, None, &cache).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let (mut place, reads) = (1usize, 100_000);
        for _ in 0..reads {
            // A walk over the whole file that no cache foresees.
            place = place
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let index = (place >> 20) % rows;
            assert_eq!(data.get(index).unwrap().id.to_string(), index.to_string());
        }
        let each = start.elapsed().as_secs_f64() / f64::from(reads);
        println!(
            "{what}: {} rows, {mib:.0} MiB, opened in {:.1} ms, a random sample in {:.1} us, \
             peak memory {:.0} MiB",
            data.len(),
            1e3 * seconds,
            1e6 * each,
            resident_mib("VmHWM").unwrap_or(f64::NAN)
        );
    }
    fs::remove_file(&path).unwrap();
    fs::remove_dir_all(folder.join("index_speed_cache")).unwrap();
}
