//! The lab kit itself: what it makes works, and nothing of it stays.

use std::time::Duration;

use lb_tests::{Family, Job, Lab, LabError};

use crate::traces;

#[test]
fn the_lab_without_nodes_answers_everything() {
    // The floor: what fails here is the lab's own fault, not Tandem's.
    Lab::builder("floor")
        .nodes(0)
        .run(|lab| {
            let mut held = lab
                .client()
                .load(vec![Job::lines(Family::V6, 20, Duration::from_millis(20))])?;
            for family in Family::BOTH {
                let (web, echo) = (lab.client().http(300, family)?, lab.client().udp(300, family)?);
                assert_eq!((web.requests(), web.failed()), (300, 0), "{:?}", web.errors());
                assert_eq!((echo.requests(), echo.failed()), (300, 0), "{:?}", echo.errors());
                assert!(
                    lab.backends().iter().all(|b| web.answered_by(b.name()) > 0),
                    "{web:?}"
                );
            }
            held.wait_requests(200, Duration::from_secs(10))?;
            let held = held.stop()?;
            assert_eq!(held.failed(), 0, "{:?}", held.errors());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_dead_backend_shows_as_failures() {
    Lab::builder("dead-backend")
        .nodes(0)
        .weights(&[1, 1])
        .run(|lab| {
            let mut held = lab
                .client()
                .load(vec![Job::lines(Family::V4, 30, Duration::from_millis(20))])?;
            held.wait_requests(100, Duration::from_secs(10))?;
            lab.backend(1).kill9()?;
            let web = lab.client().http(100, Family::V4)?;
            assert!(
                web.failures().connect > 10 && web.answered_by("be1") > 10,
                "{web:?}"
            );
            assert_eq!(web.answered_by("be2"), 0);
            let held = held.stop()?;
            assert!((1..30).contains(&held.failures().reset), "{held:?}");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_dropped_lab_leaves_no_trace() {
    let lab = Lab::builder("no-trace").nodes(0).build().expect("a lab");
    let id = lab.id().to_string();
    // client, router, three backends; pins; files.
    assert_eq!(traces::of(&id).len(), 7, "{:?}", traces::of(&id));
    drop(lab);
    assert_eq!(traces::of(&id), Vec::<String>::new());
}

#[test]
fn two_labs_stand_side_by_side() {
    let first = Lab::builder("first")
        .nodes(0)
        .weights(&[1])
        .build()
        .expect("a lab");
    let second = Lab::builder("second")
        .nodes(0)
        .weights(&[1])
        .build()
        .expect("another");
    assert_ne!(first.id(), second.id());
    drop(second);
    let report = first.client().http(20, Family::V4).expect("still there");
    assert_eq!(
        (report.requests(), report.failed()),
        (20, 0),
        "{:?}",
        report.errors()
    );
}
