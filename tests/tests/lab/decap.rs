//! `lbctl decap` on a host: attach, change, refuse, detach, and the exit codes of all that.

use lb_tests::host::Node;
use lb_tests::{Lab, LabError, binary, command};

/// Runs `lbctl decap ...` in the node's namespace; its exit code must be `code`.
fn decap(node: &Node, args: &[&str], code: i32) -> Result<String, LabError> {
    let mut lbctl = node.namespace().command(binary::find("lbctl")?);
    let out = command::output(
        lbctl
            .arg("--pin-root")
            .arg(node.pin_root())
            .arg("decap")
            .args(args),
    )?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    Ok(text)
}

fn allowed(node: &Node) -> Result<serde_json::Value, LabError> {
    Ok(node.lbctl_json(&["decap", "status"])?["allow"].clone())
}

#[test]
fn a_refused_attach_leaves_the_list_of_others_alone() {
    Lab::builder("decap")
        .nodes(1)
        .run(|lab| {
            let node = lab.node(0);
            node.namespace()
                .ip(&["link add v0 type veth peer name v1".to_owned()])?;
            decap(node, &["status"], 1)?;
            decap(node, &["detach", "--interface", "v0"], 1)?;

            let first = [
                "attach",
                "--interface",
                "v0",
                "--allow",
                "10.1.0.0/16",
                "fd00:1::7",
            ];
            assert!(decap(node, &first, 0)?.contains("native"));
            assert_eq!(
                allowed(node)?,
                serde_json::json!(["10.1.0.0/16", "fd00:1::7/128"])
            );

            let entries =
                |name: &str| Ok::<_, LabError>(node.lbctl_json(&["maps", name])?["entries"].clone());
            assert_eq!(
                entries("lb_decap_allow")?,
                serde_json::json!([
                    { "key": { "source": "10.1.0.0/16" }, "value": { "ip_version": 4 } },
                    { "key": { "source": "fd00:1::7/128" }, "value": { "ip_version": 6 } },
                ])
            );
            assert_eq!(entries("lb_decap_stops")?[1]["key"]["reason"], "malformed");
            assert_eq!(entries("lb_decap_stats")?[0]["value"]["packets"], 0);

            // No native XDP on loopback, and no such interface.
            let lo = [
                "attach",
                "--interface",
                "lo",
                "--attach",
                "native",
                "--allow",
                "192.0.2.7",
            ];
            assert!(decap(node, &lo, 2)?.contains("no native XDP"));
            decap(
                node,
                &["attach", "--interface", "nope0", "--allow", "192.0.2.7"],
                2,
            )?;
            decap(node, &["attach", "--interface", "v0", "--allow", "nonsense"], 2)?;
            assert_eq!(
                allowed(node)?,
                serde_json::json!(["10.1.0.0/16", "fd00:1::7/128"])
            );

            decap(
                node,
                &["attach", "--interface", "v0", "--allow", "10.2.0.0/16"],
                0,
            )?;
            assert_eq!(allowed(node)?, serde_json::json!(["10.2.0.0/16"]));

            decap(node, &["detach", "--interface", "v0"], 0)?;
            decap(node, &["status"], 1)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
