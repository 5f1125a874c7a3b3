//! An HTTP/1.1 request, over TLS or not.

use std::future::Future;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::tls::Connector;
use super::udp::holds;
use super::{Outcome, Way, excerpt, failed, spoke_badly};
use crate::model::health::Http;

/// So much of a body is looked at, in bytes.
const BODY_MAX: usize = 64 << 10;

/// How the agent calls itself.
pub(super) const AGENT: &str = concat!("tandem/", env!("CARGO_PKG_VERSION"));

pub(super) async fn ask(
    way: &Way,
    to: SocketAddr,
    http: &Http,
    tls: Option<&Connector>,
) -> Result<(), Outcome> {
    let stream = way.connect(to).await.map_err(|error| failed(&error))?;
    match tls {
        Some(tls) => exchange(tls.connect(stream, to).await?, to, http).await,
        None => exchange(stream, to, http).await,
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    to: SocketAddr,
    http: &Http,
) -> Result<(), Outcome> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| spoke_badly(&error))?;
    let request = Request::builder()
        .method(http.method.to_string().as_str())
        .uri(&http.path)
        .header(header::HOST, host(http, to))
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Outcome::Unasked(error.to_string()))?;
    let talk = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| spoke_badly(&error))?;
        let status = answer.status().as_u16();
        if !http.status.iter().any(|range| range.contains(&status)) {
            return Err(Outcome::Refuses(format!("HTTP status {status}")));
        }
        match &http.body {
            Some(wanted) => matches(answer.into_body(), wanted).await,
            None => Ok(()),
        }
    };
    beside(connection, talk).await
}

fn host(http: &Http, to: SocketAddr) -> String {
    let usual = if http.tls.is_some() { 443 } else { 80 };
    match &http.host {
        Some(host) => host.clone(),
        None if to.port() != usual => to.to_string(),
        None if to.is_ipv6() => format!("[{}]", to.ip()),
        None => to.ip().to_string(),
    }
}

async fn matches(mut body: Incoming, wanted: &str) -> Result<(), Outcome> {
    let mut text = Vec::new();
    while text.len() < BODY_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| spoke_badly(&error))?;
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
    }
    text.truncate(BODY_MAX);
    if holds(&text, wanted.as_bytes()) {
        return Ok(());
    }
    Err(Outcome::Refuses(format!("wrong body `{}`", excerpt(&text))))
}

/// Runs `talk` with its connection beside it. A connection that has ended may have left an answer to be read.
pub(super) async fn beside<T>(connection: impl Future, talk: impl Future<Output = T>) -> T {
    tokio::pin!(connection, talk);
    tokio::select! {
        result = &mut talk => result,
        _ = &mut connection => talk.await,
    }
}
