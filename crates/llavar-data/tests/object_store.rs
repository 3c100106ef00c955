//! Data sets in object stores: `s3://`, `gs://` and `az://` read what lies on disk, from a server on this machine.
//!
//! Addresses and keys come from the environment, so each store is read by a process of this test's own program.
#![cfg(all(feature = "object-store", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs, os::unix::fs::symlink, path::Path, process::Command, sync::atomic::Ordering::Relaxed,
};

use common::server::{Fault, Server, bytes_of, open, world};
use llavar_data::remote::{RemoteError, RemoteFile, Retry, fetch};

const FOLDER: &str = "LLAVAR_DATA_TEST_FOLDER";
const ADDRESS: &str = "LLAVAR_DATA_TEST_ADDRESS";

/// Not a test of its own: reads the set at an address and compares it with the folder.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let folder = std::env::var(FOLDER).expect("started by other tests");
    let address = std::env::var(ADDRESS).unwrap();
    let quick = Retry {
        attempts: 1,
        ..Retry::default()
    };
    let here = |name: &str| Path::new(&folder).join(name).to_str().unwrap().to_owned();
    for name in ["data.jsonl", "data.json", "data.tar", "many.parquet"] {
        let images = name.starts_with("data.json");
        let local = open(&here(name), images.then_some(folder.as_str())).unwrap();
        let remote = open(&format!("{address}/{name}"), images.then_some(&address)).unwrap();
        assert_eq!(remote.len(), local.len(), "{name}");
        for i in [0, local.len() - 1, 1, 2] {
            let sample = remote.get(i).unwrap();
            assert_eq!(sample, local.get(i).unwrap(), "{name} {i}");
            if !sample.images.is_empty() && i < 3 {
                let [a, b] = [&remote, &local].map(|d| bytes_of(d.image(i, &sample, 0).unwrap()));
                assert!(a == b, "{name} {i}");
            }
        }
    }
    let picture = format!("{address}/a b/1.png");
    assert_eq!(fetch(&picture, 5000, &quick).unwrap(), vec![1; 5000]);
    let error = fetch(&picture, 4999, &quick).unwrap_err();
    assert!(
        matches!(error, RemoteError::TooLarge { limit: 4999 }),
        "{error}"
    );
    let error = RemoteFile::open(&format!("{address}/gone.jsonl"), quick.clone()).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    let empty = RemoteFile::open(&format!("{address}/empty"), quick).unwrap();
    assert!(empty.is_empty());
}

/// Starts [`child`] with these variables; what it printed where it failed.
fn read(folder: &Path, address: &str, variables: &[(&str, &str)]) -> Result<(), String> {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .env(ADDRESS, address)
        // What other programs leave in the environment is none of ours.
        .envs([
            ("TOKEN", "x"),
            ("REGION", "nowhere"),
            ("ENDPOINT", "http://127.0.0.1:1"),
        ])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    match out.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

/// A world whose server has it as `place`.
fn served_as(place: &str) -> (tempfile::TempDir, tempfile::TempDir, Server) {
    let (dir, _) = world();
    fs::write(dir.path().join("empty"), "").unwrap();
    let outer = tempfile::tempdir().unwrap();
    let place = outer.path().join(place);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    symlink(dir.path(), place).unwrap();
    let server = Server::start(outer.path());
    (dir, outer, server)
}

#[test]
fn sets_in_s3_are_those_on_disk_and_faults_are_named() {
    let (dir, _outer, server) = served_as("bucket");
    let variables = [
        ("AWS_ENDPOINT_URL", server.address.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let read = || read(dir.path(), "s3://bucket", &variables);
    assert_eq!(read(), Ok(()));
    server.set(Some(Fault::Busy(2)));
    assert_eq!(read(), Ok(()));
    assert!(server.requests.load(Relaxed) > 2);
    server.set(Some(Fault::Forbidden));
    let error = read().unwrap_err();
    assert!(
        error.contains("403") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn sets_in_google_cloud_storage_are_those_on_disk() {
    let (dir, _outer, server) = served_as("bucket");
    let key = format!(
        r#"{{"gcs_base_url":"{}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#,
        server.address
    );
    let variables = [
        ("GOOGLE_SERVICE_ACCOUNT_KEY", key.as_str()),
        ("GOOGLE_ALLOW_HTTP", "true"),
    ];
    assert_eq!(read(dir.path(), "gs://bucket", &variables), Ok(()));
}

#[test]
fn sets_in_azure_are_those_on_disk() {
    let (dir, _outer, server) = served_as("devstoreaccount1/container");
    let variables = [
        ("AZURE_STORAGE_USE_EMULATOR", "true"),
        ("AZURITE_BLOB_STORAGE_URL", server.address.as_str()),
    ];
    assert_eq!(read(dir.path(), "az://container", &variables), Ok(()));
}
