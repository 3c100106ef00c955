//! Data sets on a web server: the same samples as from a local file, with faults on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, net::TcpListener, path::PathBuf, sync::atomic::Ordering::Relaxed, time::Duration};

use common::server::{Fault, bytes_of, open, world};
use llavar_data::{
    ImageSource,
    remote::{RemoteError, RemoteFile, Retry, fetch},
};

const QUICK: Retry = Retry {
    attempts: 4,
    base: Duration::from_millis(1),
    cap: Duration::from_millis(20),
};

#[test]
fn a_set_on_a_server_is_the_set_on_disk() {
    let (dir, server) = world();
    let images = format!("{}/", server.address);
    let here = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let local = open(&here("data.jsonl"), Some(dir.path().to_str().unwrap())).unwrap();
    let remote = open(&server.url("data.jsonl?signature=secret"), Some(&images)).unwrap();
    assert_eq!(remote.len(), 3000);
    assert_eq!(remote.stamp().bytes, local.stamp().bytes);
    for i in [0, 1, 2999, 1500, 7] {
        assert_eq!(remote.get(i).unwrap(), local.get(i).unwrap());
    }
    let sample = remote.get(2).unwrap();
    let ImageSource::Bytes { name, bytes } = remote.image(2, &sample, 0).unwrap() else {
        panic!("bytes");
    };
    assert_eq!(bytes, vec![2; 5000]);
    assert!(name.ends_with("a%20b/2.png"), "{}", name.display());
    // A picture that is not there is named, without what signs the address.
    let sample = remote.get(9).unwrap();
    let error = remote.image(9, &sample, 0).unwrap_err().to_string();
    assert!(
        error.contains("a b/9.png") && error.contains("404"),
        "{error}"
    );

    let local = open(&here("data.tar"), None).unwrap();
    let remote = open(&server.url("data.tar"), None).unwrap();
    for i in (0..40).rev() {
        let sample = remote.get(i).unwrap();
        assert_eq!(sample, local.get(i).unwrap());
        assert_eq!(
            remote.image(i, &sample, 0).map(bytes_of).unwrap(),
            local.image(i, &sample, 0).map(bytes_of).unwrap()
        );
    }
}

#[test]
fn json_and_parquet_on_a_server_are_those_on_disk() {
    let (dir, server) = world();
    for name in ["data.json", "one.parquet", "many.parquet"] {
        let local = dir.path().join(name).to_str().unwrap().to_owned();
        let images = Some(server.address.as_str()).filter(|_| name == "data.json");
        let local = open(&local, images).unwrap();
        server.set(None);
        let remote = open(&server.url(&format!("{name}?signature=secret")), images).unwrap();
        assert!(local.len() > 1, "{name}");
        assert_eq!(remote.len(), local.len());
        assert_eq!(remote.stamp().bytes, local.stamp().bytes);
        for i in [0, local.len() - 1, local.len() / 2, 1] {
            let sample = remote.get(i).unwrap();
            assert_eq!(sample, local.get(i).unwrap(), "{name} {i}");
            if name == "data.json" && i > 2 {
                continue;
            }
            for at in 0..sample.images.len() {
                let [a, b] = [&remote, &local].map(|d| bytes_of(d.image(i, &sample, at).unwrap()));
                assert!(a == b && !a.is_empty(), "{name} {i} {at}");
            }
        }
        // A fault on the way is an error of the set or its sample, never another sample.
        server.set(Some(Fault::Changes));
        let url = server.url(name);
        let read = open(&url, images).and_then(|set| {
            let samples: Result<Vec<_>, _> = (0..set.len().min(50)).map(|i| set.get(i)).collect();
            samples.map(|_| ())
        });
        if server.requests.load(Relaxed) > 2 {
            assert!(read.is_err(), "{name}");
        }
        server.set(Some(Fault::Forbidden));
        let error = open(&url, images).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("403"), "{name}: {cause}");
    }
}

#[test]
fn reading_through_takes_few_requests_and_one_sample_little() {
    let (_dir, server) = world();
    let remote = open(&server.url("data.jsonl"), None).unwrap();
    let size = remote.stamp().bytes as usize;
    assert!(size > 1 << 20, "{size}");
    let (requests, bytes) = (server.requests.load(Relaxed), server.bytes.load(Relaxed));
    assert!(requests <= 8, "{requests} requests for {size} bytes");
    assert!(bytes < size + (128 << 10), "{bytes} of {size}");
    // Twice the file's pages that are kept, read at random: never more than a page each.
    let big = RemoteFile::open(&server.url("data.jsonl"), QUICK).unwrap();
    server.set(None);
    let mut buffer = [0; 100];
    big.read_at(&mut buffer, 900_000).unwrap();
    assert_eq!(server.bytes.load(Relaxed), 64 << 10);
    assert_eq!(big.read_at(&mut buffer, size as u64).unwrap(), 0);
    assert_eq!(big.read_at(&mut buffer, size as u64 - 7).unwrap(), 7);
}

#[test]
fn faults_are_tried_again_or_named() {
    let (dir, server) = world();
    let whole = fs::read(dir.path().join("data.jsonl")).unwrap();
    let read = |retry| -> Result<Vec<u8>, RemoteError> {
        let file = RemoteFile::open(&server.url("data.jsonl"), retry)?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 10_000]);
        loop {
            match file.read_at(&mut buffer, all.len() as u64)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    };
    for fault in [None, Some(Fault::Busy(3)), Some(Fault::Cut(3))] {
        server.set(fault);
        assert!(read(QUICK).unwrap() == whole, "{fault:?}");
    }
    for (fault, word) in [
        (Fault::Busy(99), "503"),
        (Fault::Cut(99), "broke off"),
        (Fault::NoRanges, "range requests"),
        (Fault::Changes, "changed on the server"),
        (Fault::Forbidden, "403"),
    ] {
        server.set(Some(fault));
        let error = read(QUICK).unwrap_err().to_string();
        assert!(error.contains(word), "{fault:?}: {error}");
        if fault == Fault::Forbidden || fault == Fault::NoRanges {
            assert_eq!(
                server.requests.load(Relaxed),
                1,
                "{fault:?} is not tried again"
            );
        }
    }
    server.set(None);
    let error = open(&server.url("gone.jsonl"), None).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("404"), "{cause}");
    assert_eq!(
        fetch(&server.url("a%20b/1.png"), 5000, &QUICK).unwrap(),
        vec![1; 5000]
    );
    let error = fetch(&server.url("a%20b/1.png"), 4999, &QUICK).unwrap_err();
    assert!(
        matches!(error, RemoteError::TooLarge { limit: 4999 }),
        "{error}"
    );
    // Nobody listens there.
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert!(RemoteFile::open(&format!("http://{refused}/x"), QUICK).is_err());
    #[cfg(not(feature = "object-store"))]
    {
        let error = open("s3://bucket/data.jsonl", None).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("--features object-store"), "{cause}");
    }
}

#[test]
fn names_that_lead_out_are_refused_before_anything_is_fetched() {
    let (_dir, server) = world();
    let folder = llavar_data::ImageFolder::open(&PathBuf::from(&server.address)).unwrap();
    server.set(None);
    for name in ["../x.png", "/etc/passwd", "a/../../b", ""] {
        assert!(folder.fetch(name).is_err(), "{name}");
    }
    assert_eq!(server.requests.load(Relaxed), 0);
}
