//! Native where the driver has it, generic where it has not, and never silently.

use lb_tests::{Family, Lab, LabError};

/// A macvlan has no native XDP.
fn with_macvlan(lab: &mut Lab, attach: &str) -> Result<String, LabError> {
    let lines = [
        "link add link eth0 name mv0 type macvlan mode bridge",
        "link set dev mv0 up",
    ];
    lab.node(0).namespace().ip(&lines.map(str::to_owned))?;
    let mut config = lab.node(0).config().clone();
    config.node.interfaces.push("mv0".to_owned());
    config.node.attach = attach.to_owned();
    config.to_yaml()
}

#[test]
fn auto_falls_back_to_generic_and_says_so() {
    Lab::builder("attach-auto")
        .nodes(1)
        .run(|lab| {
            let yaml = with_macvlan(lab, "auto")?;
            lab.node(0).stop()?;
            lab.node(0).write_config(&yaml)?;
            lab.node(0).start()?;
            let status = lab.node(0).lbctl_json(&["status"])?;
            assert_eq!(status["interfaces"][0]["mode"], "native", "{status}");
            assert_eq!(status["interfaces"][1]["mode"], "generic", "{status}");
            assert!(
                lab.node(0).log().contains("generic mode"),
                "{}",
                lab.node(0).log()
            );
            let report = lab.client().http(50, Family::V4)?;
            assert_eq!(report.failed(), 0, "{:?}", report.errors());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn native_refuses_a_driver_without_it() {
    Lab::builder("attach-native")
        .nodes(1)
        .run(|lab| {
            let yaml = with_macvlan(lab, "native")?;
            lab.node(0).stop()?;
            lab.node(0).write_config(&yaml)?;
            assert!(lab.node(0).start().is_err());
            assert!(
                lab.node(0).log().contains("mv0: the driver has no native XDP"),
                "{}",
                lab.node(0).log()
            );
            // The data plane of before goes on.
            let report = lab.client().http(50, Family::V4)?;
            assert_eq!(report.failed(), 0, "{:?}", report.errors());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
