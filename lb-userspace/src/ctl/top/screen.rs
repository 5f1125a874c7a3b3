//! The terminal, the keys and the clock.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::time::{MissedTickBehavior, interval_at};

use super::draw::draw;
use super::model::{Command, Model};
use crate::ctl::args::Format;
use crate::ctl::out::Output;
use crate::ctl::sample::Sample;
use crate::ctl::signal::Ended;
use crate::dataplane::Error;
use crate::dataplane::pin::Root;

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// Shows what happens until somebody ends it.
pub(in crate::ctl) fn run(root: &Root, every: Duration, format: Format) -> Result<Output> {
    if format == Format::Json || !io::stdout().is_terminal() {
        bail!(
            "top draws on a terminal, and stdout is to be something else: for machines and files there is \
             `lbctl stats --watch`"
        );
    }
    let start = Instant::now();
    // Before the terminal is taken over, so that errors are told as by every command.
    let first = match Sample::read(root, start) {
        Err(e @ Error::NotLoaded(_)) => return Ok(Output::not_loaded(&e)),
        sample => sample?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut ended = Ended::listen()?;
        // This also sees to it that a panic restores the terminal before it is told.
        let mut terminal = ratatui::try_init().context("taking over the terminal")?;
        let shown = show(&mut terminal, &mut ended, root, Model::new(first), start, every).await;
        let restored = ratatui::try_restore().context("giving the terminal back");
        shown.and(restored)
    })?;
    Ok(Output::written())
}

async fn show(
    terminal: &mut DefaultTerminal,
    ended: &mut Ended,
    root: &Root,
    mut model: Model,
    start: Instant,
    every: Duration,
) -> Result<()> {
    let mut events = EventStream::new();
    let mut ticks = interval_at(tokio::time::Instant::from_std(start) + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| draw(frame, &model))?;
        tokio::select! {
            _ = ticks.tick() => {
                let sample = Sample::read(root, start);
                model.take(sample.map_err(|e| format!("{:#}", anyhow::Error::from(e))));
            }
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    if let Some(command) = command(key) && !model.handle(command) {
                        return Ok(());
                    }
                }
                // Another size, for one: to be drawn anew.
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e).context("reading keys"),
                // The terminal is gone.
                None => return Ok(()),
            },
            () = ended.wait() => return Ok(()),
        }
    }
}

fn command(key: KeyEvent) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Command::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Command::Quit,
        KeyCode::Tab | KeyCode::Right => Command::NextView,
        KeyCode::BackTab | KeyCode::Left => Command::PreviousView,
        KeyCode::Up => Command::Up(1),
        KeyCode::Down => Command::Down(1),
        KeyCode::PageUp => Command::Up(PAGE),
        KeyCode::PageDown => Command::Down(PAGE),
        KeyCode::Home => Command::Up(usize::MAX),
        KeyCode::Char('p' | ' ') => Command::Pause,
        KeyCode::Char('s') => Command::Sort,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let plain = |code| command(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('q')), Some(Command::Quit));
        assert_eq!(plain(KeyCode::Tab), Some(Command::NextView));
        assert_eq!(plain(KeyCode::Left), Some(Command::PreviousView));
        assert_eq!(plain(KeyCode::Char('c')), None);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(command(control), Some(Command::Quit));
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(command(released), None);
    }
}
