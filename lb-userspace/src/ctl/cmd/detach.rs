//! `lbctl detach`: takes the balancer off the host.

use anyhow::{Result, bail};
use serde_json::json;

use crate::ctl::out::Output;
use crate::dataplane::attach;
use crate::dataplane::pin::Root;

pub(super) fn run(root: &Root, force: bool) -> Result<Output> {
    if !root.path().try_exists()?
        || (!root.map(lb_common::abi::map::META).exists() && root.linked()?.is_empty())
    {
        let text = format!("nothing is loaded under {}", root.path().display());
        return Ok(Output::no(json!({ "detached": [], "loaded": false }), text));
    }
    // Held while we remove, so that no agent starts over a half of it.
    let lock = match root.lock() {
        Ok(lock) => Some(lock),
        Err(crate::dataplane::Error::Locked(_)) if force => None,
        Err(crate::dataplane::Error::Locked(_)) => {
            bail!(
                "lbd is running over {}; stop it first, or say --force",
                root.path().display()
            )
        }
        Err(e) => return Err(e.into()),
    };
    let interfaces = attach::detach(root, lock.is_none())?;
    let from = if interfaces.is_empty() {
        "no interface".to_owned()
    } else {
        interfaces.join(", ")
    };
    Ok(Output::yes(
        json!({ "detached": interfaces, "loaded": false }),
        if lock.is_some() {
            format!("detached from {from}; all pins removed")
        } else {
            format!("detached from {from}; all pins removed: restart lbd, which still runs")
        },
    ))
}
