//! The socket that Prometheus asks: plain HTTP, `GET /metrics` and nothing else, on a thread of its own.

use std::future::ready;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as Bound};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::collect::{Collector, Sources};
use super::render::render;

/// So many connections are served at once, others wait in the kernel.
const CONNECTIONS: usize = 8;

/// A connection ends after so long, whatever it does; each serves one request.
const CONNECTION_MAX: Duration = Duration::from_secs(5);

/// The least that hyper takes: a scraper's request is a few hundred bytes.
const HEAD_MAX: usize = 8192;

/// Scrapes within this time share an answer, so that no number of them is more work.
const SHARED_FOR: Duration = Duration::from_millis(200);

/// Pause after an error of `accept`, such as no free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Prometheus's text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The endpoint can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error(
        "`metrics.listen`: {0} is taken by another process (`ss -ltnp 'sport = :{port}'` names it): stop that, or choose another \
         port",
        port = .0.port()
    )]
    Taken(SocketAddr),
    /// This host has no such address.
    #[error("`metrics.listen`: this host has no address {}", .0.ip())]
    NoAddress(SocketAddr),
    /// Something else that the kernel said.
    #[error("`metrics.listen`: can't listen on {address}: {why}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// No thread, or no runtime for it.
    #[error("no thread for metrics: {0}")]
    Thread(io::Error),
}

/// What the endpoint is to become; nothing has changed yet, except that what is listened on is taken.
#[derive(Debug)]
pub enum Next {
    /// What it is.
    Same,
    /// Off.
    Off,
    /// On another address, or on one at all.
    On(SocketAddr, Bound),
}

/// Takes an address, or none.
///
/// # Errors
/// [`Error`]: taken, not ours, no rights.
pub fn bind(wanted: Option<SocketAddr>) -> Result<Next, Error> {
    let Some(address) = wanted else {
        return Ok(Next::Off);
    };
    let bound = Bound::bind(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    match bound {
        Ok(socket) => Ok(Next::On(address, socket)),
        Err(e) if e.kind() == ErrorKind::AddrInUse => Err(Error::Taken(address)),
        Err(e) if e.kind() == ErrorKind::AddrNotAvailable => Err(Error::NoAddress(address)),
        Err(why) => Err(Error::Socket { address, why }),
    }
}

enum Order {
    Serve(Bound),
    /// Answered when the address is free.
    Stop(oneshot::Sender<()>),
}

/// The running endpoint. Its thread ends with it.
#[derive(Debug)]
pub struct Endpoint {
    orders: mpsc::UnboundedSender<Order>,
    /// What the configuration in force says.
    address: Option<SocketAddr>,
    /// Nobody listens there, though it should be so: a new address was tried that needs the old one's port.
    released: bool,
}

impl Endpoint {
    /// Starts the thread; it listens nowhere yet.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(sources: Sources) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let (orders, inbox) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || runtime.block_on(run(sources, inbox)))
            .map_err(Error::Thread)?;
        Ok(Self {
            orders,
            address: None,
            released: false,
        })
    }

    /// Whether a configuration with this address could come into force. Nothing stays taken.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn check(&self, wanted: Option<SocketAddr>) -> Result<(), Error> {
        if wanted == self.address {
            return Ok(());
        }
        let ports = (self.address.map(|a| a.port()), wanted.map(|a| a.port()));
        match bind(wanted) {
            // It may be we who hold the port.
            Err(Error::Taken(_)) if ports.0 == ports.1 => Ok(()),
            bound => bound.map(drop),
        }
    }

    /// Takes the address of a configuration that may come into force. What comes of it goes to [`Endpoint::put`] or to
    /// [`Endpoint::give_up`].
    ///
    /// # Errors
    /// As [`bind`]; then the old address is served as before.
    pub async fn prepare(&mut self, wanted: Option<SocketAddr>) -> Result<Next, Error> {
        if wanted == self.address {
            return Ok(Next::Same);
        }
        let first = bind(wanted);
        let ports = (self.address.map(|a| a.port()), wanted.map(|a| a.port()));
        if !matches!(first, Err(Error::Taken(_))) || ports.0 != ports.1 {
            return first;
        }
        // It may be we who hold the port: 0.0.0.0 after 127.0.0.1, say.
        self.stop().await;
        self.released = true;
        let again = bind(wanted);
        if again.is_err() {
            self.restore();
        }
        again
    }

    /// Puts into force what was prepared.
    pub async fn put(&mut self, next: Next) {
        match next {
            Next::Same => {}
            Next::Off => {
                self.stop().await;
                if self.address.take().is_some() {
                    info!("metrics are off");
                }
            }
            Next::On(address, socket) => {
                self.serve(socket);
                self.address = Some(address);
                info!("metrics on http://{address}/metrics");
                if !address.ip().is_loopback() {
                    warn!(
                        "metrics are open to whoever reaches {address}: there is no password, so a firewall should say who may"
                    );
                }
            }
        }
        self.released = false;
    }

    /// Goes on as before: what was prepared is not to be.
    pub fn give_up(&mut self, next: Next) {
        drop(next);
        self.restore();
    }

    fn restore(&mut self) {
        if !std::mem::take(&mut self.released) {
            return;
        }
        match bind(self.address) {
            Ok(Next::On(_, socket)) => self.serve(socket),
            Ok(_) => {}
            Err(e) => error!("metrics are off until the next configuration: {e}"),
        }
    }

    fn serve(&self, socket: Bound) {
        if self.orders.send(Order::Serve(socket)).is_err() {
            error!("metrics are off: their thread has ended");
        }
    }

    async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).is_ok() {
            // An error is the thread's end, and then nobody listens either.
            let _ = stopped.await;
        }
    }
}

type Answer = oneshot::Sender<Arc<str>>;

/// The thread's life.
async fn run(sources: Sources, mut orders: mpsc::UnboundedReceiver<Order>) {
    // Handlers wait here, not more than there are connections.
    let (ask, questions) = mpsc::channel(CONNECTIONS);
    tokio::spawn(answer(Collector::new(sources), questions));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut serving: Option<JoinHandle<()>> = None;
    while let Some(order) = orders.recv().await {
        if let Some(old) = serving.take() {
            old.abort();
            // The socket is closed when the task is gone.
            let _ = old.await;
        }
        match order {
            Order::Stop(done) => drop(done.send(())),
            Order::Serve(socket) => match TcpListener::from_std(socket) {
                Ok(socket) => serving = Some(tokio::spawn(accept(socket, routes(&ask), Arc::clone(&slots)))),
                Err(e) => error!("metrics: {e}"),
            },
        }
    }
}

/// Answers one after the other, those that come close together with the same text.
async fn answer(mut collector: Collector, mut questions: mpsc::Receiver<Answer>) {
    let mut last: Option<(Instant, Arc<str>)> = None;
    while let Some(question) = questions.recv().await {
        let text = match &last {
            Some((made, text)) if made.elapsed() < SHARED_FOR => Arc::clone(text),
            _ => {
                let text: Arc<str> = render(&collector.collect().await).into();
                last = Some((Instant::now(), Arc::clone(&text)));
                text
            }
        };
        // Who has hung up needs none.
        let _ = question.send(text);
    }
}

fn routes(ask: &mpsc::Sender<Answer>) -> Router {
    let ask = ask.clone();
    Router::new()
        .route("/metrics", get(move || metrics(ask.clone())))
        .fallback(|| ready((StatusCode::NOT_FOUND, "metrics are at /metrics\n")))
}

async fn metrics(ask: mpsc::Sender<Answer>) -> Response {
    let (reply, text) = oneshot::channel();
    let sent = ask.send(reply).await.is_ok();
    match text.await {
        Ok(text) if sent => ([(header::CONTENT_TYPE, FORMAT)], text.to_string()).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the collector has ended\n").into_response(),
    }
}

async fn accept(socket: TcpListener, router: Router, slots: Arc<Semaphore>) {
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        match socket.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(slot);
                });
            }
            Err(e) => {
                warn!("metrics: {e}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_MAX)
        .max_buf_size(HEAD_MAX)
        // A scraper comes again in many seconds; until then its place is for others.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_MAX, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => debug!("metrics: {e}"),
        Err(_) => debug!("metrics: a connection took too long"),
    }
}

#[cfg(test)]
mod tests;
