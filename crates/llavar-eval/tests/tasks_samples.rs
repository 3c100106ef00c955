//! The store of answers under kills, torn files, several processes and merges.
#![allow(clippy::unwrap_used)]

use llavar_eval::samples::{
    LineFault, MergeLock, SampleError, SampleKey, SampleRow, SampleStore, Shard, merge,
    write_merged,
};
use llavar_eval::tasks::{Item, Missing, Task};
use std::path::Path;
use std::process::{Command, Stdio};

const QUESTIONS: usize = 60;

fn task() -> Task {
    let items = (0..QUESTIONS).map(|i| Item {
        // Numbers and texts, as data sets have both.
        id: if i % 2 == 0 {
            (1000 + i).to_string()
        } else {
            format!("form/{i}")
        },
        source_id: String::new(),
        image: format!("{i}.png"),
        image_path: None,
        question: format!("Wie heißt \"{i}\"?"),
        answers: vec![format!("gold {i}"), "第二".into()],
        category: None,
        extra: Default::default(),
    });
    Task {
        name: "docvqa".into(),
        split: "val".into(),
        folder: "".into(),
        sources: Vec::new(),
        metrics: &["anls"],
        prompt_suffix: "\nShort.",
        max_new_tokens: 8,
        items: items.collect(),
        missing: Missing::default(),
        note: None,
    }
}

/// A model whose answer depends on the question only; some answers are long, empty or hostile.
fn answer(task: &Task, item: &Item) -> SampleRow {
    let n = item.image.len() + item.id.bytes().map(usize::from).sum::<usize>();
    let text = match n % 4 {
        0 => String::new(),
        1 => "line\nbreak \"quoted\" \u{0}".into(),
        2 => "語".repeat(n),
        _ => format!("answer {n}"),
    };
    SampleRow::new(task, item, text, "tiny", "run-1")
}

/// Answers what is left, at most `most` questions.
fn answer_some(path: &Path, shard: Shard, most: usize) -> usize {
    let task = task();
    let (mut store, _) = SampleStore::open(path, "run-1").unwrap();
    let rows: Vec<SampleRow> = {
        let left = store.left(&task, shard.of(&task.items));
        left.into_iter()
            .take(most)
            .map(|item| answer(&task, item))
            .collect()
    };
    let n = rows.len();
    for row in rows {
        store.append(row).unwrap();
    }
    n
}

fn keys() -> Vec<SampleKey> {
    let task = task();
    task.items
        .iter()
        .map(|item| (task.name.clone(), item.id.clone()))
        .collect()
}

/// The file that an unbroken run writes.
fn unbroken() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    assert_eq!(answer_some(&path, Shard::default(), usize::MAX), QUESTIONS);
    let bytes = std::fs::read(&path).unwrap();
    (dir, bytes)
}

/// A small generator, so that the cut places are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

#[test]
fn two_hundred_cuts_at_random_bytes_end_in_the_same_file() {
    let (_dir, whole) = unbroken();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let (mut torn, mut kept) = (0, 0);
    for round in 0..200 {
        // Every tenth cut takes the line break alone, which a random cut seldom does.
        let cut = if round % 10 == 0 {
            let ends: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] == b'\n').collect();
            ends[random.below(ends.len())]
        } else {
            random.below(whole.len() + 1)
        };
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (store, recovery) = SampleStore::open(&path, "run-1").unwrap();
        if let Some(end) = recovery.torn {
            torn += 1;
            kept += usize::from(end.kept);
        }
        assert!(recovery.duplicates.is_empty() && recovery.bad_lines.is_empty());
        let complete = whole[..cut].iter().filter(|&&b| b == b'\n').count();
        assert_eq!(
            store.rows().len(),
            complete + usize::from(recovery.torn.is_some_and(|t| t.kept))
        );
        drop(store);
        // The rest in two runs, the first of which is cut again.
        answer_some(&path, Shard::default(), random.below(QUESTIONS));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(
            &path,
            &bytes[..bytes.len() - random.below(bytes.len().min(200) + 1)],
        )
        .unwrap();
        answer_some(&path, Shard::default(), usize::MAX);
        assert!(
            std::fs::read(&path).unwrap() == whole,
            "round {round}, cut at {cut}"
        );
    }
    assert!(torn > 150 && kept >= 20, "torn {torn}, kept {kept}");
}

/// Run by `a_process_killed_twenty_times_...` as a process of its own; does nothing otherwise.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os("LLAVAR_TEST_WRITER") else {
        return;
    };
    let task = task();
    let (mut store, _) = SampleStore::open(Path::new(&path), "run-1").unwrap();
    let left: Vec<Item> = store
        .left(&task, &task.items)
        .into_iter()
        .cloned()
        .collect();
    for item in left {
        std::thread::sleep(std::time::Duration::from_millis(3));
        store.append(answer(&task, &item)).unwrap();
    }
}

#[test]
fn a_process_killed_twenty_times_ends_in_the_same_file() {
    let (_dir, whole) = unbroken();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process"])
            .env("LLAVAR_TEST_WRITER", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut random = Random(88_172_645_463_325_252);
    let mut killed_at_work = 0;
    for _ in 0..20 {
        let mut child = start();
        std::thread::sleep(std::time::Duration::from_millis(
            5 + random.below(25) as u64,
        ));
        killed_at_work += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let rows = std::fs::read(&path).map_or(0, |b| b.iter().filter(|&&b| b == b'\n').count());
    eprintln!(
        "{killed_at_work} of 20 kills hit a running process; {rows} of {QUESTIONS} rows by then"
    );
    assert!(start().wait().unwrap().success());
    assert!(std::fs::read(&path).unwrap() == whole);
    let lines = String::from_utf8(whole).unwrap();
    let ids: std::collections::BTreeSet<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<SampleRow>(line).unwrap().question_id)
        .collect();
    assert_eq!(ids.len(), QUESTIONS);
}

/// A limit on the size of files stands for a full disk: the write that meets it is cut short.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_whole_rows() {
    let (_dir, whole) = unbroken();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    for blocks in [1, 2, 4, 8] {
        let exe = std::env::current_exe().unwrap();
        let limited =
            format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$0\" --exact writer_process");
        let status = Command::new("bash")
            .args(["-c", &limited])
            .arg(exe)
            .env("LLAVAR_TEST_WRITER", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "the writer must meet the limit");
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() <= 1024 * blocks && bytes == whole[..bytes.len()]);
        assert_eq!(bytes.last(), Some(&b'\n'));
        let (_, recovery) = SampleStore::open(&path, "run-1").unwrap();
        assert!(recovery.is_clean(), "{recovery}");
    }
    answer_some(&path, Shard::default(), usize::MAX);
    assert!(std::fs::read(&path).unwrap() == whole);
}

#[test]
fn chunks_merge_into_the_unbroken_file() {
    let (_dir, whole) = unbroken();
    for num_chunks in [1, 2, 3, 7, 59, 61] {
        let dir = tempfile::tempdir().unwrap();
        let samples = dir.path().join("samples.jsonl");
        let files = Shard::new(num_chunks, 0).unwrap().files(&samples);
        // Last chunk first: the order of the processes does not matter.
        for chunk_idx in (0..num_chunks).rev() {
            let shard = Shard::new(num_chunks, chunk_idx).unwrap();
            answer_some(&shard.file(&samples), shard, usize::MAX);
        }
        let out = dir.path().join("merged.jsonl");
        let merged = merge(&files, &keys()).unwrap();
        write_merged(&merged, &out, &MergeLock::take(&out).unwrap()).unwrap();
        assert_eq!(merged.rows.len(), QUESTIONS);
        assert!(
            merged.missing.is_empty() && merged.repeated.is_empty() && merged.recoveries.is_empty()
        );
        assert!(std::fs::read(&out).unwrap() == whole, "{num_chunks} chunks");
    }
}

#[test]
fn a_merge_names_what_is_missing_repeated_and_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let task = task();
    let row =
        |i: usize, text: &str| SampleRow::new(&task, &task.items[i], text.into(), "tiny", "run-1");
    let write = |name: &str, rows: Vec<SampleRow>| {
        SampleStore::open(&at(name), "run-1")
            .unwrap()
            .0
            .append_all(rows)
            .unwrap();
    };
    let mut foreign = row(9, "x");
    foreign.question_id = "elsewhere".into();
    write("a", vec![row(0, "zero"), row(1, "one")]);
    write("b", vec![row(1, "uno"), row(0, "zero"), foreign]);
    std::fs::write(
        at("c"),
        [
            &std::fs::read(at("a")).unwrap()[..],
            b"{\"question_id\": 5, \"pro",
        ]
        .concat(),
    )
    .unwrap();
    let before = std::fs::read(at("c")).unwrap();
    let files = [at("a"), at("b"), at("c"), at("none")];
    let merged = merge(&files, &keys()[..3]).unwrap();
    write_merged(&merged, &at("out"), &MergeLock::take(&at("out")).unwrap()).unwrap();
    let merged_again = merged.clone();
    let key = |i: usize| keys()[i].clone();
    assert_eq!((merged.rows.len(), merged.missing), (2, vec![key(2)]));
    assert_eq!(merged.repeated, [key(1), key(0), key(0), key(1)]);
    assert_eq!(merged.different, [key(1)]);
    let unknown: Vec<_> = merged.unknown.iter().map(|row| &*row.question_id).collect();
    assert_eq!(unknown, ["elsewhere"]);
    assert_eq!(merged.absent, [at("none")]);
    assert_eq!(merged.recoveries.len(), 1);
    assert_eq!(
        std::fs::read(at("c")).unwrap(),
        before,
        "a merge leaves its sources alone"
    );
    let text = std::fs::read_to_string(at("out")).unwrap();
    assert!(text.contains("\"one\"") && !text.contains("uno"));
    assert!(text.contains("elsewhere"), "an answer is kept");
    // A run that appends to the file keeps it.
    let (running, _) = SampleStore::open(&at("out"), "run-1").unwrap();
    assert!(matches!(
        MergeLock::take(&at("out")),
        Err(SampleError::Locked { .. })
    ));
    drop(running);
    let lock = MergeLock::take(&at("out")).unwrap();
    assert!(SampleStore::open(&at("out"), "run-1").is_err());
    write_merged(&merged_again, &at("out"), &lock).unwrap();
    assert_eq!(std::fs::read_to_string(at("out")).unwrap(), text);
    // Files of two runs are not one result.
    let mut other = row(3, "x");
    other.run = "run-2".into();
    SampleStore::open(&at("d"), "run-2")
        .unwrap()
        .0
        .append(other)
        .unwrap();
    assert!(matches!(
        merge(&[at("a"), at("d")], &keys()),
        Err(SampleError::OtherRun { .. })
    ));
}

#[test]
fn lines_that_are_no_rows_cost_their_question_only() {
    let (_dir, whole) = unbroken();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let mut lines: Vec<Vec<u8>> = whole
        .split_inclusive(|&b| b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    lines[3] = b"{\"question_id\": \xFF}\n".to_vec();
    lines[4] = b"[1, 2]\n".to_vec();
    lines[5] = b"{\"question_id\": 1000, \"prompt\": \"q\", \"text\": \"other\", \"task\": \"docvqa\", \"run\": \"run-1\"}\n".to_vec();
    lines[6] = b"  \r\n".to_vec();
    let copy = lines[0].clone();
    lines.push(copy);
    let damaged = lines.concat();
    std::fs::write(&path, &damaged).unwrap();
    let (store, recovery) = SampleStore::open(&path, "run-1").unwrap();
    let bad: Vec<usize> = recovery.bad_lines.iter().map(|bad| bad.line).collect();
    assert_eq!(bad, [4, 5]);
    assert_eq!(recovery.bad_lines[0].fault, LineFault::NotUtf8);
    let again: Vec<(usize, usize, bool)> = recovery
        .duplicates
        .iter()
        .map(|d| (d.first_line, d.line, d.same))
        .collect();
    assert_eq!(again, [(1, 6, false), (1, QUESTIONS + 1, true)]);
    let text = recovery.to_string();
    assert!(
        text.contains("lines 1 and 6") && text.contains("line 4: not UTF-8"),
        "{text}"
    );
    let task = task();
    let left: Vec<&str> = store
        .left(&task, &task.items)
        .iter()
        .map(|item| &*item.id)
        .collect();
    let expected: Vec<&str> = task.items[3..7].iter().map(|item| &*item.id).collect();
    assert_eq!(left, expected);
    drop(store);
    answer_some(&path, Shard::default(), usize::MAX);
    // Append only: what was there is untouched.
    let after = std::fs::read(&path).unwrap();
    assert_eq!(&after[..damaged.len()], &damaged[..]);
    let out = dir.path().join("merged.jsonl");
    let merged = merge(&[path], &keys()).unwrap();
    write_merged(&merged, &out, &MergeLock::take(&out).unwrap()).unwrap();
    assert!(std::fs::read(out).unwrap() == whole);
}

#[test]
fn one_writer_one_run_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/folder/samples.jsonl");
    let task = task();
    let (mut store, recovery) = SampleStore::open(&path, "run-1").unwrap();
    assert!(recovery.is_clean() && recovery.to_string() == "in order");
    let row = answer(&task, &task.items[1]);
    store.append(row.clone()).unwrap();
    store.append(row.clone()).unwrap();
    assert_eq!(
        store.rows().len(),
        1,
        "the same answer again is no second row"
    );
    let other = SampleRow {
        text: "else".into(),
        ..row
    };
    let error = store.append(other).unwrap_err();
    assert!(
        matches!(&error, SampleError::AlreadyAnswered { question_id, .. } if question_id == "form/1"),
        "{error}"
    );
    let mut foreign = answer(&task, &task.items[2]);
    foreign.run = "run-2".into();
    assert!(matches!(
        store.append(foreign),
        Err(SampleError::RowOfOtherRun { .. })
    ));
    assert!(matches!(
        SampleStore::open(&path, "run-1"),
        Err(SampleError::Locked { .. })
    ));
    drop(store);
    let error = SampleStore::open(&path, "run-2").unwrap_err();
    assert!(
        matches!(error, SampleError::OtherRun { line: 1, .. }),
        "{error}"
    );
    assert_eq!(SampleStore::open(&path, "run-1").unwrap().0.rows().len(), 1);
    assert!(SampleStore::open(dir.path(), "run-1").is_err());
    // A power cut can leave a tail of zeros.
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes.extend([0; 100]);
    std::fs::write(&path, bytes).unwrap();
    let (_store, recovery) = SampleStore::open(&path, "run-1").unwrap();
    assert!(
        recovery
            .torn
            .is_some_and(|torn| !torn.kept && torn.bytes == 100)
    );
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}
