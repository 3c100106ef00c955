//! A large file is indexed in constant memory. Alone in its file, since it looks at the whole process.
#![allow(clippy::unwrap_used)]

use llavar_data::Dataset;
use std::io::Write;
use std::time::Instant;

/// Largest resident set of this process so far, in KiB; Linux only.
fn peak_kib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn opening_does_not_slurp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.json");
    let count = 60_000;
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for i in 0..count {
        let words = "word ".repeat(180);
        let open = if i == 0 { '[' } else { ',' };
        writeln!(
            out,
            "{open}{{\"id\": {i}, \"conversations\": [{{\"from\": \"human\", \"value\": \"q\"}}, \
             {{\"from\": \"gpt\", \"value\": \"{words}\"}}]}}"
        )
        .unwrap();
    }
    writeln!(out, "]").unwrap();
    drop(out);
    let bytes = std::fs::metadata(&path).unwrap().len();
    let before = peak_kib();
    let start = Instant::now();
    let data = Dataset::open(&path, None).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    for i in (0..count).step_by(97) {
        assert_eq!(data.get(i).unwrap().words(), 181);
    }
    let mib = bytes as f64 / 1048576.0;
    eprintln!(
        "{mib:.0} MiB indexed in {seconds:.2} s, {:.0} MiB/s",
        mib / seconds
    );
    assert_eq!(data.len(), count);
    assert!(mib > 50.0);
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        let grown = (after - before) as f64 / 1024.0;
        eprintln!("peak memory grew by {grown:.1} MiB");
        assert!(
            grown < 8.0,
            "{grown} MiB for an index of {} KiB",
            count * 16 / 1024
        );
    }
}
