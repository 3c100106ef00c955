//! The reader of requests against bytes in any pieces.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    body::Budget,
    connection::{Connection, Wire},
    exchange::Exchange,
    *,
};

/// Bytes in given pieces; then the client has no more to say.
struct Script {
    pieces: VecDeque<Vec<u8>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Wire for Script {
    fn read_by(&mut self, into: &mut [u8], _by: Instant) -> io::Result<usize> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return Ok(0);
        };
        let count = piece.len().min(into.len());
        into[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.pieces.push_front(piece.split_off(count));
        }
        Ok(count)
    }

    fn write_by(&mut self, bytes: &[u8], _by: Instant) -> io::Result<()> {
        self.written.lock().unwrap().extend(bytes);
        Ok(())
    }

    fn is_gone(&mut self) -> bool {
        self.pieces.is_empty()
    }

    fn end(&mut self) {}
}

fn small() -> HttpLimits {
    HttpLimits {
        head_bytes: 400,
        body_bytes: 300,
        all_body_bytes: 1000,
        ..HttpLimits::default()
    }
}

/// What is read of a connection: method, path and body of each request, the status that ends it, and what was
/// written meanwhile.
type Seen = (Vec<Read>, Option<u16>, String);
type Read = (String, String, Vec<u8>);

fn read(bytes: &[u8], cuts: &[usize]) -> Seen {
    let mut pieces = VecDeque::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, later) = rest.split_at((*cut).clamp(1, rest.len().max(1)).min(rest.len()));
        pieces.push_back(piece.to_vec());
        rest = later;
    }
    pieces.push_back(rest.to_vec());
    pieces.retain(|piece| !piece.is_empty());
    let written = Arc::new(Mutex::new(Vec::new()));
    let wire = Script {
        pieces,
        written: written.clone(),
    };
    let (mut connection, limits) = (Connection::new(wire, Arc::default()), small());
    let budget = Budget::new(limits.all_body_bytes);
    let (mut requests, mut status) = (Vec::new(), None);
    let far = Instant::now() + limits.idle;
    while connection.has_begun(far).unwrap() {
        let read = connection.head(&limits).and_then(|head| {
            let mut exchange = Exchange::new(&mut connection, &head, (&limits, &budget), 1, false);
            let body = exchange.body()?.into_parts().0;
            Ok((head.method.clone(), head.path.clone(), body))
        });
        match read {
            Ok(request) => requests.push(request),
            Err(ReadFault::Refused { status: told, .. }) => {
                status = Some(told);
                break;
            }
            Err(ReadFault::Gone) => break,
        }
    }
    let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    (requests, status, written)
}

const HOST: &str = "Host: x\r\n";

#[test]
fn requests_that_could_be_understood_in_two_ways_are_refused() {
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{HOST}{headers}\r\n{body}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{HOST}{HOST}\r\n"), 400),
        (format!("GET / HTTP/2.0\r\n{HOST}\r\n"), 505),
        ("\x16\x03\x01\x02\x00\x01\x00".to_owned(), 400),
        (
            post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"),
            400,
        ),
        (post("Content-Length: +1\r\n", "a"), 400),
        (post("Content-Length: 1 \r\n", "a"), 0),
        (post("Content-Length: 99999999999999999999\r\n", ""), 400),
        (post("Content-Length: 301\r\n", ""), 413),
        (post("Content-Length: 5\r\n", "abc"), 400),
        (
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", ""),
            400,
        ),
        (post("Transfer-Encoding: gzip, chunked\r\n", ""), 501),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            400,
        ),
        (post("Transfer-Encoding: chunked\r\n", "x\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n"), 400),
        (
            post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"),
            400,
        ),
        (
            post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n"),
            413,
        ),
        (post("Transfer-Encoding: chunked\r\n", "100\r\n"), 400),
        (post(&format!("X: {}\r\n", "a".repeat(500)), ""), 431),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(500)), 431),
        (
            format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "A:\r\n".repeat(101)),
            431,
        ),
        (format!("GET / HTTP/1.1\r\n{HOST}"), 400),
    ] {
        let (requests, told, _) = read(request.as_bytes(), &[]);
        match status {
            0 => assert_eq!((requests.len(), told), (1, None), "{request:?}"),
            status => assert_eq!((requests.len(), told), (0, Some(status)), "{request:?}"),
        }
    }
}

#[test]
fn a_client_that_waits_is_told_to_go_on_unless_its_body_is_too_long() {
    let head = |length| {
        format!("POST / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    let (first, length) = (head(3), head(3).len());
    let (requests, _, written) = read(format!("{first}abc").as_bytes(), &[length]);
    assert_eq!(requests[0].2, b"abc");
    assert_eq!(written, "HTTP/1.1 100 Continue\r\n\r\n");
    let (_, status, written) = read(head(400).as_bytes(), &[]);
    assert_eq!((status, written.as_str()), (Some(413), ""));
}

/// Answers nothing, at `/slow` not before the client has gone.
struct Silent;

impl Handler for Silent {
    fn handle(&self, exchange: &mut Exchange<'_>) {
        while exchange.head.path == "/slow" && !exchange.client_is_gone() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn refusal(&self, status: u16, message: &str) -> Response {
        Response::text(status, message)
    }
}

#[test]
fn a_client_that_has_gone_is_told_of_no_failure() {
    let socket = Socket::bind("127.0.0.1", 0).unwrap();
    let listener = socket.listen(Arc::new(Silent), HttpLimits::default());
    let listener = listener.unwrap();
    let failed = Some("HTTP/1.1 500 Internal Server Error");
    for (path, told) in [("/", failed), ("/slow", None)] {
        let mut stream = TcpStream::connect(listener.address()).unwrap();
        let patience = Duration::from_secs(60);
        stream.set_read_timeout(Some(patience)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        // It reads on, which nobody can see.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.lines().next(), told, "{path}");
    }
}

/// Requests one behind the other, as bytes and as what they are.
fn pipelined() -> (Vec<u8>, Vec<Read>) {
    let chunked = "5;ext=1\r\nhello\r\nA\r\n, 12345678\r\n0\r\nTrailer: x\r\n\r\n";
    let bytes = [
        format!("GET /a?b=c HTTP/1.1\r\n{HOST}\r\n"),
        format!("POST /b HTTP/1.1\r\n{HOST}Content-Length: 11\r\n\r\nGET / HTTP/"),
        format!("POST /c HTTP/1.1\r\n{HOST}transfer-encoding: Chunked\r\n\r\n{chunked}"),
        format!("GET http://x/d HTTP/1.1\n{HOST}\n"),
        "HEAD / HTTP/1.0\r\n\r\n".to_owned(),
    ];
    let want = [
        ("GET", "/a", ""),
        ("POST", "/b", "GET / HTTP/"),
        ("POST", "/c", "hello, 12345678"),
        ("GET", "/d", ""),
        ("HEAD", "/", ""),
    ];
    let want = want.map(|(method, path, body)| (method.to_owned(), path.to_owned(), body.into()));
    (bytes.concat().into_bytes(), want.into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_pieces_are_the_same_requests(cuts in prop::collection::vec(1usize..40, 0..120)) {
        let (bytes, want) = pipelined();
        let (requests, status, _) = read(&bytes, &cuts);
        prop_assert_eq!(status, None);
        prop_assert_eq!(requests, want);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(1usize..40, 0..40),
    ) {
        read(&bytes, &cuts);
    }

    #[test]
    fn requests_with_a_fault_are_read_to_an_end(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..6),
        cuts in prop::collection::vec(1usize..40, 0..40),
    ) {
        let (mut bytes, _) = pipelined();
        let at = at.index(bytes.len());
        let end = (at + 2).min(bytes.len());
        bytes.splice(at..end, with);
        let (requests, ..) = read(&bytes, &cuts);
        prop_assert!(requests.len() <= 8);
    }
}
