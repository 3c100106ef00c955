//! One HTTP exchange.

use std::{
    io::Read,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use ureq::{
    Agent, Timeout,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{ApiKey, ClientError, classify, http_date::retry_after};

/// Limits of one exchange.
#[derive(Debug, Clone)]
pub struct TimeOuts {
    /// Name look-up, connection and TLS.
    pub connect: Duration,
    /// From the end of the request to the head of the answer: a model thinks for minutes.
    pub answer: Duration,
    /// From the head of the answer to its end, which follows at once as answers are not streamed.
    pub body: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(300),
            body: Duration::from_secs(120),
        }
    }
}

/// A connection pool with settings.
#[derive(Debug)]
pub(crate) struct Transport {
    agent: Agent,
    max_body: usize,
}

impl Transport {
    /// Proxies come from `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
    pub(crate) fn new(
        times: &TimeOuts,
        max_body: usize,
        certificates: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let mut config = Agent::config_builder()
            .user_agent(concat!("llavar/", env!("CARGO_PKG_VERSION")))
            // A status is for us to read, and a redirected POST is a wrong endpoint.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(times.connect))
            .timeout_connect(Some(times.connect))
            .timeout_send_request(Some(times.connect))
            .timeout_send_body(Some(times.answer))
            .timeout_recv_response(Some(times.answer))
            .timeout_recv_body(Some(times.body));
        if let Some(path) = certificates {
            let tls = TlsConfig::builder().root_certs(certificates_of(path)?);
            config = config.tls_config(tls.build());
        }
        Ok(Self {
            agent: config.build().new_agent(),
            max_body,
        })
    }

    /// Sends a body, or asks by GET without one; the answer is JSON. No error holds the key.
    pub(crate) fn exchange(
        &self,
        url: &str,
        key: Option<&ApiKey>,
        idempotency_key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        // Servers quote what they were sent.
        let clean = |text: String| match key {
            Some(key) => key.redact(&text),
            None => text,
        };
        let authorization = key.map(|key| format!("Bearer {}", key.reveal()));
        let fail = |error| of_transport(error, url);
        let mut response = match body {
            Some(body) => {
                let mut request = self
                    .agent
                    .post(url)
                    .header("Content-Type", "application/json");
                if let Some(value) = &authorization {
                    request = request.header("Authorization", value);
                }
                if let Some(value) = idempotency_key {
                    request = request.header("Idempotency-Key", value);
                }
                request.send(body.to_string()).map_err(fail)?
            }
            None => {
                let mut request = self.agent.get(url);
                if let Some(value) = &authorization {
                    request = request.header("Authorization", value);
                }
                request.call().map_err(fail)?
            }
        };
        let status = response.status().as_u16();
        let header = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let wait = match header("retry-after-ms").and_then(|ms| ms.trim().parse::<u64>().ok()) {
            Some(ms) => Some(Duration::from_millis(ms.min(86_400_000))),
            None => header("retry-after").and_then(|v| retry_after(&v, SystemTime::now())),
        };
        let location = header("location");
        let text = self.read(response.body_mut(), url);
        if !(200..300).contains(&status) {
            // What it says about the error may be cut off; the status is what counts.
            let text = clean(text.unwrap_or_default());
            return Err(classify::of_status(
                status,
                url,
                wait,
                location.map(clean).as_deref(),
                &text,
            ));
        }
        let text = text?;
        serde_json::from_str(&text).map_err(|error: serde_json::Error| {
            let reason = match error.is_eof() {
                true => "JSON that ends too early".to_owned(),
                false => format!(
                    "no JSON at line {}, column {}",
                    error.line(),
                    error.column()
                ),
            };
            classify::malformed(reason, &clean(text))
        })
    }

    fn read(&self, body: &mut ureq::Body, url: &str) -> Result<String, ClientError> {
        let mut bytes = Vec::new();
        let mut reader = body.as_reader();
        let mut chunk = [0; 16 * 1024];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) if bytes.len() + n > self.max_body => {
                    return Err(ClientError::TooLarge {
                        limit: self.max_body,
                    });
                }
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match ureq::Error::from(error) {
                        late @ ureq::Error::Timeout(_) => of_transport(late, url),
                        _ => ClientError::CutBody {
                            received: bytes.len(),
                        },
                    });
                }
            }
        }
        String::from_utf8(bytes).map_err(|error| {
            classify::malformed(
                "it is not UTF-8",
                &String::from_utf8_lossy(error.as_bytes()),
            )
        })
    }
}

fn certificates_of(path: &Path) -> Result<RootCerts, ClientError> {
    let bad = |reason: String| ClientError::Certificates {
        path: path.to_path_buf(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let mut found: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| bad(e.to_string()))? {
            found.push(certificate);
        }
    }
    match found.is_empty() {
        true => Err(bad("it has no certificate in PEM form".into())),
        false => Ok(RootCerts::new_with_certs(&found)),
    }
}

fn of_transport(error: ureq::Error, url: &str) -> ClientError {
    use std::io::ErrorKind as K;
    let connect = |reason: String| ClientError::Connect {
        url: url.to_owned(),
        reason,
    };
    match error {
        ureq::Error::Timeout(which) => ClientError::TimeOut {
            what: match which {
                Timeout::Resolve => "the host's name",
                Timeout::Connect => "a connection",
                Timeout::SendRequest | Timeout::SendBody => "the request to be taken",
                Timeout::RecvResponse => "the beginning of the answer",
                Timeout::RecvBody => "the rest of the answer",
                _ => "the answer",
            },
        },
        // The request was sent and the connection ended: the server may have done the work.
        ureq::Error::Io(error)
            if matches!(
                error.kind(),
                K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe
            ) =>
        {
            ClientError::CutBody { received: 0 }
        }
        ureq::Error::Io(error) => connect(error.to_string()),
        ureq::Error::Protocol(error) => {
            classify::malformed(format!("no HTTP answer ({error})"), "")
        }
        other => connect(other.to_string()),
    }
}
