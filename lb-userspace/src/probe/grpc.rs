//! `grpc.health.v1.Health/Check` over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
//!
//! Two messages of one field each: not worth a code generator.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{AGENT, beside};
use super::tls::Connector;
use super::{Outcome, Way, excerpt, failed, spoke_badly};
use crate::model::health::Grpc;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// More than any answer.
const ANSWER_MAX: usize = 4096;
/// A byte for compression and four for the length stand before each message.
const PREFIX: usize = 5;
/// `HealthCheckResponse.ServingStatus`.
const STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

pub(super) async fn ask(
    way: &Way,
    to: SocketAddr,
    grpc: &Grpc,
    tls: Option<&Connector>,
) -> Result<(), Outcome> {
    let stream = way.connect(to).await.map_err(|error| failed(&error))?;
    match tls {
        Some(tls) => exchange(tls.connect(stream, to).await?, to, grpc).await,
        None => exchange(stream, to, grpc).await,
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    to: SocketAddr,
    grpc: &Grpc,
) -> Result<(), Outcome> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| spoke_badly(&error))?;
    let scheme = if grpc.tls.is_some() { "https" } else { "http" };
    let authority = grpc.host.clone().unwrap_or_else(|| to.to_string());
    let request = Request::post(format!("{scheme}://{authority}{METHOD}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(question(&grpc.service))))
        .map_err(|error| Outcome::Unasked(error.to_string()))?;
    let talk = async {
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| spoke_badly(&error))?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Outcome::Refuses(format!("HTTP status {}", head.status.as_u16())));
        }
        // An error may come with the headers alone.
        refused(&head.headers)?;
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| Outcome::Refuses(format!("spoke no gRPC: {error}")))?;
        if let Some(trailers) = body.trailers() {
            refused(trailers)?;
        }
        judge(&body.to_bytes())
    };
    beside(connection, talk).await
}

/// `grpc-status` other than 0, with its message.
fn refused(headers: &HeaderMap) -> Result<(), Outcome> {
    let text = |name| headers.get(name).map(|value| excerpt(value.as_bytes()));
    match text("grpc-status") {
        None => Ok(()),
        Some(status) if status == "0" => Ok(()),
        Some(status) => {
            let message = text("grpc-message")
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            Err(Outcome::Refuses(format!("gRPC status {status}{message}")))
        }
    }
}

/// `HealthCheckRequest { string service = 1; }` with its prefix.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut rest = service.len();
        while rest >= 0x80 {
            message.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut message);
    framed
}

/// Whether `HealthCheckResponse { ServingStatus status = 1; }` says SERVING.
fn judge(answer: &[u8]) -> Result<(), Outcome> {
    let none = || Outcome::Refuses(format!("spoke no gRPC: `{}`", excerpt(answer)));
    let [0, _, _, _, _, ..] = answer else {
        return Err(none());
    };
    match status(&answer[PREFIX..]).ok_or_else(none)? {
        SERVING => Ok(()),
        other => {
            let name = usize::try_from(other).ok().and_then(|other| STATUS.get(other));
            Err(Outcome::Refuses(format!("gRPC health {}", name.unwrap_or(&"?"))))
        }
    }
}

/// Field 1 of a message, 0 where it is left out; nothing where the bytes are no message.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn answers() {
        let refuses = |text: &str| Err(Outcome::Refuses(text.to_owned()));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 8, 2]), refuses("gRPC health NOT_SERVING"));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 8, 99]), refuses("gRPC health ?"));
        assert_eq!(judge(&[0, 0, 0, 0, 0]), refuses("gRPC health UNKNOWN"));
        // Fields that a later version may add.
        assert_eq!(judge(&[0, 0, 0, 0, 9, 0x12, 3, 1, 2, 3, 0x18, 5, 8, 1]), Ok(()));
        for none in [
            &[][..],
            &[1, 0, 0, 0, 0],
            b"hello",
            &[0, 0, 0, 0, 2, 8],
            &[0, 0, 0, 0, 1, 0x12, 9],
        ] {
            assert!(matches!(judge(none), Err(Outcome::Refuses(_))), "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = judge(&bytes);
        }
    }
}
