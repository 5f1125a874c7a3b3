//! Man pages of `lbd`, `lbctl` and every subcommand, from their command lines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use lb_userspace::{agent, ctl};

/// Programs for administrators.
const SECTION: &str = "8";

/// Writes all pages into `folder`.
pub(super) fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    for program in [agent::args::Args::command(), ctl::args::Args::command()] {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        pages(&program, folder)?;
    }
    Ok(())
}

fn pages(command: &Command, folder: &Path) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(inner, folder)?;
    }
    let page = Man::new(command.clone())
        .section(SECTION)
        .source(concat!("Tandem ", env!("CARGO_PKG_VERSION")))
        .manual("Tandem");
    let written = page.generate_to(folder);
    written.with_context(|| format!("can't write {} in {}", page.get_filename(), folder.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_and_subcommand_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("lbd.8").contains(".TH lbd 8"));
        let lbctl = read("lbctl.8");
        assert!(lbctl.contains("lbctl\\-ring(8)"), "{lbctl}");
        assert!(lbctl.contains("pin\\-root"), "{lbctl}");
        assert!(read("lbctl-ring.8").contains("The client of a flow"));
        assert!(read("lbctl-config-explain.8").contains("pools.backends.weight"));
        assert!(read("lbctl-decap-attach.8").contains("outer sources"));
        for entry in fs::read_dir(folder.path()).unwrap() {
            assert!(!entry.unwrap().file_name().to_string_lossy().contains("help"));
        }
    }
}
