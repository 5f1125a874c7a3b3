//! What only this process counts: requests to its API, delays of its loop, what the kernel says of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};
use tokio::time::{Instant, sleep_until};

use super::table::{API_REQUESTS, LOOP_DELAY};

/// How often the loop's delay is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Seconds. A change of all rings takes some hundredths, so what lies above a tenth is worth a look.
const DELAYS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Counters that belong to no one else; copies count into the same.
#[derive(Clone, Debug)]
pub struct Meters {
    requests: IntCounterVec,
    delay: Histogram,
    process: Arc<ProcessCollector>,
}

impl Default for Meters {
    fn default() -> Self {
        let requests = Opts::new(API_REQUESTS.name, API_REQUESTS.help);
        let delay = HistogramOpts::new(LOOP_DELAY.name, LOOP_DELAY.help).buckets(DELAYS.to_vec());
        Self {
            requests: IntCounterVec::new(requests, &API_REQUESTS.labels)
                .expect("the table's names are legal"),
            delay: Histogram::with_opts(delay).expect("the table's names are legal"),
            process: Arc::new(ProcessCollector::for_self()),
        }
    }
}

impl Meters {
    /// The same routes, with every request counted.
    pub fn count(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), counted))
    }

    /// Looks for ever how late the runtime that it is spawned on wakes it up.
    pub async fn watch_loop(self) {
        loop {
            let due = Instant::now() + LOOK_EVERY;
            sleep_until(due).await;
            self.delay.observe(due.elapsed().as_secs_f64());
        }
    }

    /// All of it.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.requests.collect();
        families.extend(self.delay.collect());
        families.extend(self.process.collect());
        // One without samples can't be written.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

async fn counted(State(meters): State<Meters>, request: Request, next: Next) -> Response {
    // Only what there is: a path that somebody made up is no label.
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let answer = next.run(request).await;
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let method = known
        .into_iter()
        .find(|m| *m == method.as_str())
        .unwrap_or("other");
    let path = path.as_ref().map_or("other", MatchedPath::as_str);
    let code = answer.status();
    let labels = [method, path, code.as_str()];
    meters.requests.with_label_values(&labels).inc();
    answer
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use hyper::StatusCode;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::metrics::rows;

    #[tokio::test]
    async fn requests_are_counted_by_route() {
        let meters = Meters::default();
        let routes = Router::new().route("/v1/backends/{name}", get(|| async { StatusCode::NO_CONTENT }));
        let service = TowerToHyperService::new(meters.count(routes));
        for path in ["/v1/backends/a", "/v1/backends/b", "/made/up", "/made/up/too"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            service.call(request).await.unwrap();
        }
        let counts = |path, code| meters.requests.with_label_values(&["GET", path, code]).get();
        assert_eq!(counts("/v1/backends/{name}", "204"), 2);
        assert_eq!(counts("other", "404"), 2);
    }

    #[tokio::test]
    async fn a_loop_that_is_held_up_is_seen() {
        let meters = Meters::default();
        let watch = tokio::spawn(meters.clone().watch_loop());
        tokio::task::yield_now().await;
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(300));
        while meters.delay.get_sample_count() == 0 {
            tokio::task::yield_now().await;
        }
        watch.abort();
        assert!(
            meters.delay.get_sample_sum() >= 0.3,
            "{}",
            meters.delay.get_sample_sum()
        );
    }

    #[test]
    fn all_that_is_counted_is_in_the_table() {
        let meters = Meters::default();
        meters.requests.with_label_values(&["GET", "other", "404"]).inc();
        let families = meters.collect();
        assert_eq!(families.len(), 9, "API, loop, and seven of the process");
        for family in families {
            let row = rows().find(|row| row.name == family.name());
            let row = row.unwrap_or_else(|| panic!("{} is not in the table", family.name()));
            assert_eq!(row.help, family.help());
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            assert_eq!(row.kind.name(), kind, "{}", row.name);
        }
    }
}
