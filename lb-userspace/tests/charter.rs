//! Real configurations, cut into what a group shares and what is a node's own.

use std::fs;
use std::path::{Path, PathBuf};

use lb_userspace::charter::text::{merge, split};
use lb_userspace::config;

/// Every valid configuration of the project's own is cut right, or refused.
#[test]
fn real_files_say_the_same_when_they_are_put_together_again() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("tests/fixtures/config/accepted"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.push(root.join("../dist/lb.example.yaml"));
    let mut cut = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let path = Path::new("/nowhere/lb.yaml");
        let Ok(model) = config::parse(&text, path) else {
            continue;
        };
        let Ok(parts) = split(&text, model.group.key.as_ref()) else {
            continue;
        };
        let merged = merge(&parts.shared, &parts.local).unwrap();
        let again = config::parse(&merged, path).unwrap();
        assert_eq!(again, model, "{}", file.display());
        cut.push(file.file_name().unwrap().to_string_lossy().into_owned());
    }
    assert!(
        cut.contains(&"lb.example.yaml".to_owned()) && cut.len() > 3,
        "{cut:?}"
    );
}
