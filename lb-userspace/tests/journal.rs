//! The journal on disk.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use lb_userspace::journal::{Cause, Event, FILES, Journal, NAME, Record, mark, read_after, read_last};
use lb_userspace::state::wall::Wall;

fn record(backend: u64) -> Record {
    Record {
        seq: 0,
        time: Wall(1_790_000_000_000),
        generation: 3,
        cause: Cause::Operator { uid: 0, pid: 7 },
        event: Event::MarkedUp {
            backend: format!("web/be{backend}"),
            slots_moved: 1,
        },
    }
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("it works");
    let mut names: Vec<String> = names
        .map(|entry| {
            entry
                .expect("it works")
                .file_name()
                .into_string()
                .expect("it works")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn records_come_back_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        (read_last(dir.path(), 9).unwrap(), mark(dir.path())),
        (vec![], None)
    );
    for start in 0..3 {
        let mut journal = Journal::open(dir.path()).unwrap();
        for backend in 0..4 {
            journal.append(record(start * 4 + backend)).unwrap();
        }
        journal.sync().unwrap();
    }
    let all = read_last(dir.path(), 100).unwrap();
    assert_eq!(seqs(&all), (1..=12).collect::<Vec<_>>());
    assert_eq!(
        (&all[11].cause, &all[11].event),
        (&record(11).cause, &record(11).event)
    );
    assert_eq!(seqs(&read_last(dir.path(), 2).unwrap()), [11, 12]);
    assert_eq!(seqs(&read_after(dir.path(), 10).unwrap()), [11, 12]);
    assert_eq!(seqs(&read_after(dir.path(), 12).unwrap()), [0; 0]);
}

#[test]
fn files_are_bounded_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let max = 1000;
    let mut journal = Journal::open_with(dir.path(), max).unwrap();
    for backend in 0..200 {
        let before = mark(dir.path());
        journal.append(record(backend)).unwrap();
        assert_ne!(mark(dir.path()), before);
    }
    assert_eq!(
        files(dir.path()),
        ["events.1.jsonl", "events.2.jsonl", "events.3.jsonl", NAME]
    );
    let lengths = files(dir.path())
        .into_iter()
        .map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
    assert!(
        lengths.clone().all(|len| len <= max),
        "{:?}",
        lengths.collect::<Vec<_>>()
    );
    let all = read_last(dir.path(), 1000).unwrap();
    let kept = seqs(&all);
    assert_eq!(kept, (kept[0]..=200).collect::<Vec<_>>());
    assert!(kept.len() > 3 * (FILES - 1) && kept.len() < 60, "{}", kept.len());
    assert_eq!(read_after(dir.path(), 0).unwrap(), all);
    // Across the border of files.
    assert_eq!(seqs(&read_after(dir.path(), kept[5]).unwrap()), kept[6..]);
    // A restart in the middle of a file.
    drop(journal);
    Journal::open_with(dir.path(), max)
        .unwrap()
        .append(record(0))
        .unwrap();
    assert_eq!(seqs(&read_last(dir.path(), 1).unwrap()), [201]);
}

#[test]
fn half_a_line_spoils_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(record(1)).unwrap();
    drop(journal);
    let path = dir.path().join(NAME);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"seq\": 2, \"ti").unwrap();
    assert_eq!(seqs(&read_last(dir.path(), 9).unwrap()), [1]);
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.append(record(2)).unwrap();
    assert_eq!(seqs(&read_last(dir.path(), 9).unwrap()), [1, 2]);
    // Nor does what was never a record.
    fs::write(
        &path,
        [b"\xff\x00\n[]\n{}\n".as_slice(), &fs::read(&path).unwrap()].concat(),
    )
    .unwrap();
    assert_eq!(seqs(&read_last(dir.path(), 9).unwrap()), [1, 2]);
}

#[test]
fn events_of_a_newer_version_are_read_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        r#"{"seq":5,"time":1,"generation":1,"cause":{"by":"moon","phase":3},"event":"eclipse","of":"sun"}"#;
    fs::write(dir.path().join(NAME), format!("{line}\n")).unwrap();
    let read = read_last(dir.path(), 1).unwrap();
    assert_eq!(
        (&read[0].cause, &read[0].event, read[0].seq),
        (&Cause::Unknown, &Event::Unknown, 5)
    );
}

#[test]
fn a_journal_that_cannot_be_had_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(NAME)).unwrap();
    assert!(Journal::open(dir.path()).is_err());
    assert!(read_last(dir.path(), 1).is_err());
    assert!(Journal::open(&dir.path().join("nowhere")).is_err());
}
