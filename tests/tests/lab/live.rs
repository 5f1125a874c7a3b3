//! `cargo xtask run` on a terminal: its keys take a node's power and give it back, and no client notices.

use std::process::Command;
use std::time::Duration;

use lb_tests::LabError;

use crate::terminal::Terminal;
use crate::traces;

const SOON: Duration = Duration::from_secs(30);
/// From the death until the router had moved the traffic; an unoptimised build on a busy machine gets more time.
const MOVED_WITHIN_MS: u64 = if cfg!(debug_assertions) { 200 } else { 50 };

/// The number before a word, in the last line that has both.
fn before(screen: &str, word: &str) -> Option<u64> {
    let lines = screen.lines().rev();
    let texts = lines.filter_map(|line| Some(line.split_once(word)?.0));
    texts
        .filter_map(|text| text.split_whitespace().last()?.parse().ok())
        .next()
}

fn requests(screen: &str) -> u64 {
    before(screen, " requests  ").unwrap_or(0)
}

/// Packets in a node's row.
fn packets(screen: &str, node: &str) -> Option<u64> {
    let mut rows = screen
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.len() == 3 && row[0] == node)?;
    row[2].parse().ok()
}

/// Waits until so many more requests have ended.
fn more(terminal: &Terminal, count: u64) -> Result<String, LabError> {
    let so_far = requests(&terminal.text());
    terminal.wait(SOON, "more requests", |screen| requests(screen) >= so_far + count)
}

/// Takes a node's power by its key.
fn kill(terminal: &mut Terminal, key: &str) -> Result<(), LabError> {
    terminal.press(key);
    let news = format!("lb{key} has lost its power; the router had moved its traffic after ");
    let screen = terminal.wait(SOON, &news, |screen| screen.contains(&news))?;
    let (_, rest) = screen.split_once(&news).expect("it was there");
    let ms: u64 = rest
        .split_whitespace()
        .next()
        .and_then(|ms| ms.parse().ok())
        .expect("a number");
    println!("live: lb{key}'s traffic was moved after {ms} ms");
    assert!(ms <= MOVED_WITHIN_MS, "{ms} ms");
    Ok(())
}

/// Command lines of processes that name a file of the lab, as its agents do.
fn agents(id: &str) -> Vec<String> {
    let folder = format!("/run/tandem-lab/{id}/");
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let lines = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&folder)).collect()
}

#[test]
fn keys_take_power_and_give_it_back_and_no_request_fails() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-lab"));
    command.args(["--rate", "300"]);
    let mut terminal = Terminal::start(&command, 100, 130);
    let id = terminal.id().to_string();
    let play = |terminal: &mut Terminal| {
        terminal.wait(SOON, "traffic of both nodes", |screen| {
            let both = ["lb1", "lb2"].map(|node| packets(screen, node).unwrap_or(0));
            requests(screen) > 300
                && before(screen, " long-lived connections") == Some(200)
                && both.iter().all(|packets| *packets > 300)
        })?;
        assert_eq!(agents(&id).len(), 2);
        // Other keys do nothing.
        terminal.press("x03");
        kill(terminal, "1")?;
        terminal.press("2");
        terminal.wait(SOON, "the last one stays", |screen| {
            screen.contains("lb2 is the last one: it stays") && packets(screen, "lb1") == Some(0)
        })?;
        more(terminal, 600)?;

        terminal.press("1");
        // That it joins may be over before the screen is drawn again.
        let news = "lb1 is ready and gets traffic";
        terminal.wait(SOON, news, |screen| screen.contains(news))?;
        terminal.wait(SOON, "traffic of lb1 again", |screen| {
            packets(screen, "lb1") > Some(300)
        })?;
        // Now all of it.
        kill(terminal, "2")?;
        more(terminal, 600)?;

        terminal.press("\x03");
        let end = terminal.ended(SOON)?;
        assert_eq!(end.code(), Some(0));
        Ok::<(), LabError>(())
    };
    let played = play(&mut terminal);
    let screen = terminal.text();
    played.unwrap_or_else(|error| panic!("{error}:\n{screen}"));
    // The summary at the end.
    assert!(requests(&screen) > 1500, "{screen}");
    for (word, wanted) in [
        (" failed", 0),
        (" long-lived connections", 200),
        (" broken", 0),
        (" moved", 0),
    ] {
        assert_eq!(before(&screen, word), Some(wanted), "{word}:\n{screen}");
    }
    assert_eq!(traces::of(&id), Vec::<String>::new());
    assert_eq!(agents(&id), Vec::<String>::new());
}
