//! Score files in DuckDB. Needs Python with `duckdb` (`LLAVAR_PYTHON`, else `python3`), or a package index
//! from which a folder of its own can be filled; otherwise it says that it was skipped.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use llavar_select::{ScoreRow, ScoreTable};
use serde_json::{Value, json};

/// A Python that can import `duckdb`.
fn python(dir: &Path) -> Option<PathBuf> {
    let runs = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let given = std::env::var_os("LLAVAR_PYTHON").map_or("python3".into(), PathBuf::from);
    if runs(&given, &["-c", "import duckdb"]) {
        return Some(given);
    }
    let own = dir.join("venv");
    let program = own.join("bin/python");
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--retries",
        "0",
        "--timeout",
        "10",
        "--only-binary",
        ":all:",
        "duckdb",
    ];
    let made = runs(&given, &["-m", "venv", &own.display().to_string()])
        && runs(&program, &install)
        && runs(&program, &["-c", "import duckdb"]);
    made.then_some(program)
}

fn row(number: u32, ifd: Option<f64>, reason: Option<&str>) -> ScoreRow {
    let row = json!({
        "record": number, "id": format!("café \"{number}\", 日本"), "occurrence": 0, "qa_id": 2 * number,
        "kind": "single", "image": null, "source": "s", "question": "Was?\nWo?", "answer": "Da.",
        "content": "c", "n_answer": ifd.map(|_| 7), "ifd": ifd, "reason": reason,
    });
    serde_json::from_value(row).unwrap()
}

#[test]
fn duckdb_reads_names_types_nulls_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = python(dir.path()) else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED score files in DuckDB: no Python with duckdb, and it could not be installed"
        );
        return;
    };
    let mut rows: Vec<ScoreRow> = (0..1000)
        .map(|i| row(i, Some(f64::from(i) / 1000.0 + 0.1), None))
        .collect();
    rows.push(row(1000, None, Some("picture x.png: not found")));
    let table = ScoreTable {
        rows,
        info: None,
        part: None,
    };
    let path = dir.path().join("scores.parquet");
    std::fs::write(&path, table.to_parquet(&path).unwrap()).unwrap();
    let script = "
import duckdb, json, sys
file = sys.argv[1]
one = lambda sql: duckdb.execute(sql, [file]).fetchall()
print(json.dumps({
    'columns': [[name, kind] for name, kind, *_ in one('DESCRIBE SELECT * FROM read_parquet(?)')],
    'counts': one('SELECT count(*), count(ifd), count(image), sum(n_answer) FROM read_parquet(?)')[0],
    'mean': one('SELECT avg(ifd) FROM read_parquet(?)')[0][0],
    'best': one('SELECT id, question FROM read_parquet(?) ORDER BY ifd DESC NULLS LAST LIMIT 1')[0],
    'reason': one('SELECT reason FROM read_parquet(?) WHERE ifd IS NULL')[0][0],
}))";
    let output = Command::new(python)
        .args(["-c", script])
        .arg(&path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kind = |name: &str| {
        let columns = got["columns"].as_array().unwrap();
        let found = columns.iter().find(|column| column[0] == name);
        found.map(|column| column[1].as_str().unwrap().to_owned())
    };
    for (name, want) in [
        ("id", "VARCHAR"),
        ("qa_id", "BIGINT"),
        ("ifd", "DOUBLE"),
        ("s_duo_given_image_and_extractive", "DOUBLE"),
        ("reason", "VARCHAR"),
    ] {
        assert_eq!(kind(name).as_deref(), Some(want), "{name}");
    }
    assert_eq!(got["counts"], json!([1001, 1000, 0, 7000]));
    assert!((got["mean"].as_f64().unwrap() - 0.5995).abs() < 1e-12);
    assert_eq!(got["best"], json!(["café \"999\", 日本", "Was?\nWo?"]));
    assert_eq!(got["reason"], "picture x.png: not found");
}
