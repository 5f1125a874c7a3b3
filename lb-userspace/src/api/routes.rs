//! The routes, and the OpenAPI document that is made of them.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::call::{self, About, Calls, Command, Text, Verb, Who};
use super::dto::{
    Applied, Backends, Drain, Events, History, LONGEST_MS, Naming, Ordered, Plain, Planned, Problem, Ramp,
    Rollback, Running, STEPS_MAX, Since, Weight,
};
use super::group::{Done, Readiness};
use super::health::{self, Health, Whose};
use super::peers::{self, Peers};
use super::refusal::Refusal;
use super::sync::{self, Sync};
use super::tracked::{self, Tracked, Wanted};
use crate::config::FILE_MAX;
use crate::doctor::{Report, examine};
use crate::health::task::Reader;
use crate::journal;
use crate::peer;

/// The longest body of an order, in bytes.
const ORDER_MAX: usize = 4096;

/// The longest name of a file, in bytes.
const NAME_MAX: usize = 4096;

/// The most records in one answer.
const EVENTS_MAX: usize = 10_000;

/// What is given without being asked for.
const EVENTS_DEFAULT: usize = 100;

#[derive(OpenApi)]
#[openapi(info(
    title = "Tandem agent",
    version = "1",
    description = "Commands for one node's agent, over its Unix socket. Every answer that is not 200 is a `Problem`.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Document;

/// What the handlers need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The way to the agent.
    pub calls: Calls,
    /// The folder of the journal.
    pub state_dir: Arc<PathBuf>,
    /// The way to the health checks.
    pub checks: Reader,
    /// What is known of the other nodes.
    pub peers: peer::Reader,
    /// What flow records are doing.
    pub records: sync::Reader,
}

fn documented() -> OpenApiRouter<Api> {
    let orders = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(backends))
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(down))
        .routes(routes!(up))
        .routes(routes!(weight))
        .routes(routes!(ramp))
        .routes(routes!(health_of))
        .routes(routes!(peers_of))
        .routes(routes!(sync_of))
        .routes(routes!(tracked_slots))
        .routes(routes!(doctor))
        .routes(routes!(running))
        .routes(routes!(history))
        .routes(routes!(rollback))
        .routes(routes!(ready))
        .routes(routes!(leave))
        .routes(routes!(forget))
        .routes(routes!(events))
        .layer(DefaultBodyLimit::max(ORDER_MAX));
    let files = OpenApiRouter::new()
        .routes(routes!(plan))
        .routes(routes!(apply))
        .layer(DefaultBodyLimit::max(
            usize::try_from(FILE_MAX).unwrap_or(usize::MAX),
        ));
    orders.merge(files)
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// All routes. Requests need a [`Who`] among their extensions.
pub fn router(context: Api) -> Router {
    let (router, document) = documented().split_for_parts();
    let document = get(move || std::future::ready(Json(document.clone())));
    router
        .route("/v1/openapi.json", document)
        .fallback(|| std::future::ready((StatusCode::NOT_FOUND, "no such route")))
        .with_state(context)
        .layer(map_response(as_problem))
}

/// Answers of the framework itself, such as 405 or 413, become a [`Problem`] too.
async fn as_problem(response: Response) -> Response {
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if response.status().is_success() || is_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, ORDER_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let error = if text.is_empty() {
        parts
            .status
            .canonical_reason()
            .unwrap_or("refused")
            .to_lowercase()
    } else {
        text
    };
    let hint = Some("GET /v1/openapi.json says what there is".to_owned());
    let (made, body) = Json(Problem { error, hint }).into_response().into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(made.headers);
    Response::from_parts(parts, Body::new(body))
}

/// The body of an order; nothing is as good as `{}`.
fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let bytes = bytes.map_err(|e| unread(&e))?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|e| Refusal::Malformed(e.to_string()))
}

fn unread(rejection: &BytesRejection) -> Refusal {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::TooLarge,
        _ => Refusal::Malformed(rejection.body_text()),
    }
}

async fn order(
    context: Api,
    who: Who,
    (pool, backend): (String, String),
    verb: Verb,
) -> Result<Json<Ordered>, Refusal> {
    let about = About { pool, backend, verb };
    context.calls.ask(who, Command::Order, about).await.map(Json)
}

type Named = Path<(String, String)>;
type Raw = Result<Bytes, BytesRejection>;
type Answer<T> = Result<Json<T>, Refusal>;

/// What holds for each backend.
#[utoipa::path(get, path = "/v1/backends", tag = "backends", responses((status = 200, body = Backends)))]
async fn backends(State(context): State<Api>, Extension(who): Extension<Who>) -> Answer<Backends> {
    context.calls.ask(who, Command::Backends, ()).await.map(Json)
}

/// Gives a backend no new flows; from the deadline on it counts as down.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/drain", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)), request_body = Drain,
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn drain(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Named,
    raw: Raw,
) -> Answer<Ordered> {
    let drain: Drain = body(raw)?;
    if drain.deadline_ms.is_some_and(|ms| ms > LONGEST_MS) {
        return Err(Refusal::Range {
            field: "deadline_ms",
            range: "at most 31 days",
        });
    }
    order(c, who, name, Verb::Drain(drain)).await
}

/// Ends a drain.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/undrain", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)),
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn undrain(State(c): State<Api>, Extension(who): Extension<Who>, Path(name): Named) -> Answer<Ordered> {
    order(c, who, name, Verb::Undrain).await
}

/// Treats a backend as dead at once.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/down", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)), request_body = Plain,
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn down(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Named,
    raw: Raw,
) -> Answer<Ordered> {
    order(c, who, name, Verb::Down(body(raw)?)).await
}

/// Ends that.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/up", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)),
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn up(State(c): State<Api>, Extension(who): Extension<Who>, Path(name): Named) -> Answer<Ordered> {
    order(c, who, name, Verb::Up).await
}

/// Sets a backend's weight, or gives it back to the configuration. Ends a ramp.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/weight", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)), request_body = Weight,
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn weight(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Named,
    raw: Raw,
) -> Answer<Ordered> {
    order(c, who, name, Verb::Weight(body(raw)?)).await
}

/// Lets a backend's weight grow in even steps to the configured one. Ends a weight that was set.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/ramp", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)), request_body = Ramp,
    responses((status = 200, body = Ordered), (status = "default", body = Problem)))]
async fn ramp(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Named,
    raw: Raw,
) -> Answer<Ordered> {
    let ramp: Ramp = body(raw)?;
    if !(2..=STEPS_MAX).contains(&ramp.steps) {
        return Err(Refusal::Range {
            field: "steps",
            range: "2 to 1000",
        });
    }
    if !(1..=LONGEST_MS).contains(&ramp.over_ms) {
        return Err(Refusal::Range {
            field: "over_ms",
            range: "1 ms to 31 days",
        });
    }
    order(c, who, name, Verb::Ramp(ramp)).await
}

/// What the health checks know.
#[utoipa::path(get, path = "/v1/health", tag = "backends", params(Whose),
    responses((status = 200, body = Health), (status = "default", body = Problem)))]
async fn health_of(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Answer<Health> {
    let Query(Whose { pool }) = whose.map_err(|e| Refusal::Malformed(e.body_text()))?;
    let snapshot = c.checks.snapshot().await.ok_or(Refusal::NoAnswer)?;
    let health = health::health(&snapshot, pool.as_deref());
    match pool {
        // Not checked, or not there at all.
        Some(pool) if health.pools.is_empty() => {
            let wanted = Wanted {
                pool: Some(pool),
                limit: Some(0),
            };
            c.calls.ask(who, Command::Tracked, wanted).await?;
        }
        _ => {}
    }
    Ok(Json(health))
}

/// The other nodes of the group; none where the nodes don't talk.
#[utoipa::path(get, path = "/v1/peers", tag = "group", responses((status = 200, body = Peers)))]
async fn peers_of(State(context): State<Api>) -> Json<Peers> {
    Json(peers::peers(&context.peers.view()))
}

/// Flow records between this node and the others; none where the nodes don't talk.
#[utoipa::path(get, path = "/v1/sync", tag = "group", responses((status = 200, body = Sync)))]
async fn sync_of(State(context): State<Api>) -> Json<Sync> {
    Json(sync::sync(&context.records))
}

/// The tracked slots, and what holds each.
#[utoipa::path(get, path = "/v1/tracked", tag = "slots", params(Wanted),
    responses((status = 200, body = Tracked), (status = "default", body = Problem)))]
async fn tracked_slots(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Tracked> {
    let Query(wanted) = wanted.map_err(|e| Refusal::Malformed(e.body_text()))?;
    if wanted.limit.is_some_and(|limit| limit > tracked::LIMIT_MAX) {
        return Err(Refusal::Range {
            field: "limit",
            range: "0 to 131,072",
        });
    }
    c.calls.ask(who, Command::Tracked, wanted).await.map(Json)
}

/// Examines a backend from this node: what is wrong with it, by what evidence, and what to do. Takes some seconds.
#[utoipa::path(post, path = "/v1/backends/{pool}/{backend}/doctor", tag = "backends",
    params(("pool" = String, Path), ("backend" = String, Path)),
    responses((status = 200, body = Report), (status = "default", body = Problem)))]
async fn doctor(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    Path((pool, backend)): Named,
) -> Answer<Report> {
    let named = call::Named { pool, backend };
    let ready = c.calls.ask(who, Command::Doctor, named).await?;
    // Here and not by the agent's loop, which has more to do than to wait.
    Ok(Json(examine(&ready.patient, ready.wrap.as_ref()).await))
}

/// The running configuration.
#[utoipa::path(get, path = "/v1/config", tag = "config", responses((status = 200, body = Running)))]
async fn running(State(context): State<Api>, Extension(who): Extension<Who>) -> Answer<Running> {
    context.calls.ask(who, Command::Running, ()).await.map(Json)
}

/// What a configuration would change; nothing is touched. New backends' neighbours are asked for.
#[utoipa::path(post, path = "/v1/config/plan", tag = "config", params(Naming),
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = Planned), (status = "default", body = Problem)))]
async fn plan(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    naming: Result<Query<Naming>, QueryRejection>,
    raw: Raw,
) -> Answer<Planned> {
    let text = text(naming, raw)?;
    c.calls.ask(who, Command::Plan, text).await.map(Json)
}

/// Puts a configuration into effect as a whole, and writes it to the agent's file; or refuses it as a whole.
#[utoipa::path(post, path = "/v1/config/apply", tag = "config", params(Naming),
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = Applied), (status = "default", body = Problem)))]
async fn apply(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    naming: Result<Query<Naming>, QueryRejection>,
    raw: Raw,
) -> Answer<Applied> {
    let text = text(naming, raw)?;
    c.calls.ask(who, Command::Apply, text).await.map(Json)
}

/// The last generations of the group's configuration.
#[utoipa::path(get, path = "/v1/config/history", tag = "config",
    responses((status = 200, body = History), (status = "default", body = Problem)))]
async fn history(State(context): State<Api>, Extension(who): Extension<Who>) -> Answer<History> {
    context.calls.ask(who, Command::History, ()).await.map(Json)
}

/// Has the group go back to a text of its history, as a new generation. Orders stay as they are.
#[utoipa::path(post, path = "/v1/config/rollback", tag = "config", params(Rollback),
    responses((status = 200, body = Applied), (status = "default", body = Problem)))]
async fn rollback(
    State(c): State<Api>,
    Extension(who): Extension<Who>,
    wanted: Result<Query<Rollback>, QueryRejection>,
) -> Answer<Applied> {
    let Query(wanted) = wanted.map_err(|e| Refusal::Malformed(e.body_text()))?;
    c.calls.ask(who, Command::Rollback, wanted).await.map(Json)
}

/// Whether this node may attract traffic. Status 503 where it may not, with the same body.
#[utoipa::path(get, path = "/v1/ready", tag = "group",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness), (status = "default", body = Problem)))]
async fn ready(
    State(context): State<Api>,
    Extension(who): Extension<Who>,
) -> Result<(StatusCode, Json<Readiness>), Refusal> {
    let readiness = context.calls.ask(who, Command::Ready, ()).await?;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(readiness)))
}

/// Leaves the group: this node attracts no more traffic, hands its flows over, and its agent ends.
#[utoipa::path(post, path = "/v1/leave", tag = "group",
    responses((status = 200, body = Done), (status = "default", body = Problem)))]
async fn leave(State(context): State<Api>, Extension(who): Extension<Who>) -> Answer<Done> {
    context.calls.ask(who, Command::Leave, ()).await.map(Json)
}

/// Has the group count a silent node as one that forwards nothing: changes wait for it no longer.
#[utoipa::path(post, path = "/v1/peers/{node}/forget", tag = "group", params(("node" = String, Path, description = "Its name")),
    responses((status = 200, body = Done), (status = "default", body = Problem)))]
async fn forget(
    State(context): State<Api>,
    Extension(who): Extension<Who>,
    Path(node): Path<String>,
) -> Answer<Done> {
    context.calls.ask(who, Command::Forget, node).await.map(Json)
}

fn text(naming: Result<Query<Naming>, QueryRejection>, raw: Raw) -> Result<Text, Refusal> {
    let Query(naming) = naming.map_err(|e| Refusal::Malformed(e.body_text()))?;
    if naming.name.as_ref().is_some_and(|name| name.len() > NAME_MAX) {
        return Err(Refusal::Range {
            field: "name",
            range: "at most 4,096 bytes",
        });
    }
    let bytes = raw.map_err(|e| unread(&e))?;
    let text = String::from_utf8(bytes.into());
    let text = text.map_err(|_| Refusal::Malformed("the configuration is not UTF-8".to_owned()))?;
    Ok(Text { naming, text })
}

/// Records of the journal.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(Since),
    responses((status = 200, body = Events), (status = "default", body = Problem)))]
async fn events(State(c): State<Api>, since: Result<Query<Since>, QueryRejection>) -> Answer<Events> {
    let Query(since) = since.map_err(|e| Refusal::Malformed(e.body_text()))?;
    let limit = since.limit.unwrap_or(EVENTS_DEFAULT);
    if !(1..=EVENTS_MAX).contains(&limit) {
        return Err(Refusal::Range {
            field: "limit",
            range: "1 to 10,000",
        });
    }
    let read = move || match since.after {
        Some(seq) => journal::read_after(&c.state_dir, seq),
        None => journal::read_last(&c.state_dir, limit),
    };
    let read = tokio::task::spawn_blocking(read).await;
    let mut events = read
        .map_err(|e| Refusal::Failed(e.into()))?
        .map_err(|e| Refusal::Failed(e.into()))?;
    events.truncate(limit);
    Ok(Json(Events { events }))
}
