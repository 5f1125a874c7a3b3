//! What exists of a lab on this machine.

use lb_tests::claim::BPFFS;

/// The namespaces, pin folders and files of the lab.
pub(crate) fn of(id: &str) -> Vec<String> {
    let entries = |dir: &str, prefix: &str| -> Vec<String> {
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = names.filter_map(|e| e.file_name().into_string().ok());
        names
            .filter(|n| n == prefix || n.starts_with(&format!("{prefix}.")))
            .collect()
    };
    let mut found = entries("/run/netns", &format!("tandem.{id}"));
    found.extend(entries(BPFFS, &format!("tandem-lab-{id}")));
    found.extend(entries("/run/tandem-lab", id));
    found
}
