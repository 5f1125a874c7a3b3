//! The trivial XDP program that lets frames of an `XDP_TX` or a redirect arrive: the veth driver wakes the far
//! end's queue only if a program is attached there.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use lb_common::abi::LAB_PASS;
use lb_userspace::dataplane::object;

use crate::error::{IoContext, LabError};
use crate::netns::Netns;

/// Attaches the program natively to the interfaces of the namespace and pins the links below `pins`:
/// they stay until the pins or the interfaces go.
pub(crate) fn attach(namespace: &Netns, interfaces: &[&str], pins: &Path) -> Result<(), LabError> {
    if interfaces.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(pins).context(|| format!("make {}", pins.display()))?;
    namespace.within(|| {
        let mut object = Ebpf::load(object::LAB_PASS).map_err(error("load"))?;
        let program = object
            .program_mut(LAB_PASS)
            .expect("the object holds this program");
        let program: &mut Xdp = program.try_into().map_err(error("load"))?;
        program.load().map_err(error("load"))?;
        interfaces
            .iter()
            .try_for_each(|interface| attach_one(program, interface, pins))
    })?
}

fn attach_one(program: &mut Xdp, interface: &str, pins: &Path) -> Result<(), LabError> {
    let id = program
        .attach(interface, XdpMode::Driver)
        .map_err(error(interface))?;
    let link = program.take_link(id).map_err(error(interface))?;
    let link = FdLink::try_from(link).map_err(error(interface))?;
    link.pin(pins.join(format!("pass-{interface}")))
        .map_err(error(interface))?;
    Ok(())
}

fn error<E>(interface: &str) -> impl FnOnce(E) -> LabError + use<'_, E>
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| LabError::Pass {
        interface: interface.to_owned(),
        source: Box::new(source),
    }
}
