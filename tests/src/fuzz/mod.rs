//! What must hold for any bytes at all: functions that panic where it doesn't.
//!
//! `cargo xtask fuzz` has libFuzzer look for bytes that break them; whatever it ever found, and a few good inputs to
//! start from, lie in `tests/fuzz/corpus/`, which the tests of this module run through them.

mod charter;
mod config;
mod frame;
mod sync;
mod group;
mod icmp;
mod peer;

pub use charter::charter;
pub use config::config;
pub use frame::{balance, decap};
pub use group::group;
pub use icmp::icmp;
pub use peer::peer;
pub use sync::sync;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// All files below `folder`, a path in the repository.
    fn files(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.is_file());
        files.sort();
        files
    }

    fn run(folder: &str, target: fn(&[u8])) {
        let files = files(folder);
        assert!(files.len() > 1, "{folder} is empty");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }

    #[test]
    fn configurations_of_the_corpus() {
        run("tests/fuzz/corpus/config", super::config);
        run("lb-userspace/tests/fixtures/config/accepted", super::config);
        run("lb-userspace/tests/fixtures/config/refused", super::config);
        super::config(include_bytes!("../../../dist/lb.example.yaml"));
    }

    #[test]
    fn messages_of_the_corpus() {
        run("tests/fuzz/corpus/charter", super::charter);
        run("lb-userspace/tests/fixtures/config/accepted", super::charter);
    }

    #[test]
    fn group_messages_of_the_corpus() {
        run("tests/fuzz/corpus/group", super::group);
    }

    #[test]
    fn frames_of_the_corpus() {
        run("tests/fuzz/corpus/balance", super::balance);
        run("tests/fuzz/corpus/decap", super::decap);
    }

    #[test]
    fn datagrams_heads_and_certificates_of_the_corpus() {
        run("tests/fuzz/corpus/peer", super::peer);
        run("tests/fuzz/corpus/icmp", super::icmp);
    }

    #[test]
    fn streams_of_the_corpus() {
        run("tests/fuzz/corpus/sync", super::sync);
    }
}
