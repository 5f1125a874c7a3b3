//! `lb_xdp` of another revision, over the maps of this one.

use anyhow::{Context, Result, bail};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use lb_common::abi::map;
use lb_common::{abi, hash, vip};
use lb_userspace::dataplane::object::LB_XDP;
use lb_userspace::dataplane::pin::Root;
use zerocopy::IntoBytes;

use super::programs::program;
use super::world;

/// Maps that no program reads: the other revision gets new ones of its own shapes.
const UNREAD: [&str; 4] = [map::META, map::POOL_INFO, map::BACKEND_INFO, map::IFACE_INFO];

/// An object of another revision.
pub struct Other {
    /// The revision, as it was typed.
    pub revision: String,
    /// Its `lb-ebpf/obj/lb_xdp.o`.
    pub object: Vec<u8>,
}

/// Loads it over the pinned maps of `root`.
///
/// # Errors
/// When a map that it reads or writes has another shape than ours, or the kernel refuses it.
pub fn load(other: &Other, root: &Root, flow_key: &hash::Key) -> Result<Ebpf> {
    let revision = &other.revision;
    let differences = differences(LB_XDP, &other.object)?;
    if !differences.is_empty() {
        bail!(
            "lb_xdp of {revision} can't be measured beside this one, since it can't share its maps:\n  {}\n\
             Check {revision} out in another folder and run `cargo xtask bench xdp` there; compare the ratios.",
            differences.join("\n  ")
        );
    }
    let mut loader = EbpfLoader::new();
    for name in map::ALL.into_iter().filter(|name| !UNREAD.contains(name)) {
        loader.map_pin_path(name, root.map(name));
    }
    let vip_shift = vip::shift(vip::cells(world::CAPACITY.vips));
    let mut ebpf = loader
        .override_global(abi::FLOW_KEY, flow_key.as_bytes(), true)
        .override_global(abi::VIP_SHIFT, &vip_shift, true)
        .override_global(aya_log::LEVEL, &0u8, false)
        .load(&other.object)
        .with_context(|| format!("can't load lb_xdp of {revision}"))?;
    program(&mut ebpf, abi::LB_XDP)?
        .load()
        .with_context(|| format!("the kernel refused lb_xdp of {revision}"))?;
    Ok(ebpf)
}

/// In what the maps of `theirs` that programs use differ from those of `ours`. Sizes don't matter: they are set at load.
///
/// # Errors
/// When one of them is no eBPF object.
pub fn differences(ours: &[u8], theirs: &[u8]) -> Result<Vec<String>> {
    let ours = Object::parse(ours).context("our own object")?;
    let theirs = Object::parse(theirs).context("the other revision's object")?;
    let is_shared = |name: &str| name.starts_with("lb_") && !UNREAD.contains(&name);
    let mut names: Vec<&String> = theirs.maps.keys().filter(|name| is_shared(name)).collect();
    names.sort();
    let shape = |map: &aya_obj::Map| {
        format!(
            "type {}, {} → {} bytes, flags {:#x}",
            map.map_type(),
            map.key_size(),
            map.value_size(),
            map.map_flags()
        )
    };
    let difference = |name: &String| {
        let theirs = shape(&theirs.maps[name]);
        match ours.maps.get(name).map(shape) {
            None => Some(format!("{name}: {theirs} there, does not exist here")),
            Some(ours) if ours != theirs => Some(format!("{name}: {theirs} there, {ours} here")),
            Some(_) => None,
        }
    };
    Ok(names.into_iter().filter_map(difference).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_userspace::dataplane::object::LB_DECAP;

    #[test]
    fn an_object_agrees_with_itself_and_not_with_another_program() {
        assert_eq!(
            differences(LB_XDP, LB_XDP).expect("objects"),
            Vec::<String>::new()
        );
        let wrong = differences(LB_XDP, LB_DECAP).expect("objects");
        assert!(
            wrong.iter().any(|line| line.starts_with("lb_decap_allow: ")),
            "{wrong:?}"
        );
        assert!(differences(LB_XDP, b"no object").is_err());
    }
}
