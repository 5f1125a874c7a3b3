//! The model → one frame.

use lb_common::stop::Action;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::model::{Backend, Model, Stopped, View, Vip};
use crate::ctl::name::{self, figure};
use crate::ctl::sample::Sample;
use crate::rate::{Rate, Rates};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Between two columns.
const GAP: u16 = 2;

/// Draws everything; what doesn't fit is left out, from the right and from below.
pub(super) fn draw(frame: &mut Frame, model: &Model) {
    let [head, tabs, body, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    match &model.shown {
        Ok((sample, rates)) => frame.render_widget(Paragraph::new(header(sample, rates)), head),
        Err(error) => frame.render_widget(Paragraph::new(Line::styled(error.clone(), ALARM)), head),
    }
    frame.render_widget(tab_line(model), tabs);
    let sections = match model.view {
        View::Overview => vec![vips(model), backends(model), stops(model)],
        View::Vips => vec![vips(model)],
        View::Backends => vec![backends(model)],
        View::Stops => vec![stops(model)],
    };
    let wanted: Vec<u16> = sections.iter().map(Section::height).collect();
    let mut top = body.y;
    for (section, height) in sections.iter().zip(heights(&wanted, body.height)) {
        let area = Rect {
            y: top,
            height,
            ..body
        };
        section.draw(frame, area, model.offset);
        top += height;
    }
    frame.render_widget(key_line(model), keys);
}

fn header(sample: &Sample, rates: &Rates) -> Vec<Line<'static>> {
    let agent = if sample.agent {
        Span::raw("agent alive")
    } else {
        Span::styled("agent dead", ALARM)
    };
    let attached = if sample.interfaces.is_empty() {
        Span::styled("attached to nothing", ALARM)
    } else {
        Span::raw(format!("on {}", sample.interfaces.join(", ")))
    };
    let node = Line::from(vec![
        Span::styled(sample.node.clone(), BOLD),
        Span::raw("  "),
        agent,
        Span::raw("  "),
        attached,
        Span::raw(format!(
            "  generation {}  tracked slots {} of {}",
            sample.generation, sample.tracked, sample.slots
        )),
    ]);
    if rates.over.is_zero() {
        return vec![node, Line::raw("the first rates come with the second look")];
    }
    let (forwarded, dropped) = (rates.forwarded(), rates.stopped(Action::Drop));
    let text = format!(
        "{} packets/s {}bit/s forwarded, ",
        figure(forwarded.packets),
        bits(forwarded)
    );
    let passed = format!("{} passed, ", figure(rates.stopped(Action::Pass).packets));
    let style = if dropped.packets > 0.0 {
        ALARM
    } else {
        Style::new()
    };
    let mut traffic = vec![
        Span::raw(text),
        Span::raw(passed),
        Span::styled(format!("{} dropped", figure(dropped.packets)), style),
    ];
    if rates.renewed {
        traffic.push(Span::raw(" (the maps were made anew)"));
    }
    vec![node, Line::from(traffic)]
}

/// A figure and the unit's prefix, to be followed by `bit/s`.
fn bits(rate: Rate) -> String {
    let figure = figure(rate.bits());
    if figure.contains(' ') {
        figure
    } else {
        figure + " "
    }
}

fn tab_line(model: &Model) -> Line<'static> {
    let tab = |view: View| {
        let style = if view == model.view {
            BOLD.add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        [Span::styled(format!(" {} ", view.title()), style), Span::raw(" ")]
    };
    Line::from(View::ALL.into_iter().flat_map(tab).collect::<Vec<_>>())
}

fn key_line(model: &Model) -> Line<'static> {
    let mut spans = vec![Span::styled(
        format!(
            "q quit  tab view  s sort ({})  p {}  arrows scroll",
            model.sort.title(),
            if model.paused { "go on" } else { "pause" }
        ),
        DIM,
    )];
    if model.paused {
        spans.insert(0, Span::styled("PAUSED  ", ALARM));
    }
    Line::from(spans)
}

/// A table with the columns that fit.
struct Section {
    title: &'static str,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// A column; the first of a table is always shown.
struct Column {
    title: &'static str,
    /// Figures stand to the right.
    right: bool,
    /// Of those that don't fit the least important goes first.
    importance: u8,
}

const fn left(title: &'static str, importance: u8) -> Column {
    Column {
        title,
        right: false,
        importance,
    }
}

const fn right(title: &'static str, importance: u8) -> Column {
    Column {
        title,
        right: true,
        importance,
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn vips(model: &Model) -> Section {
    let row = |vip: Vip| {
        vec![
            vip.name,
            vip.pool,
            figure(vip.rate.packets),
            figure(vip.rate.bits()),
            percent(vip.share),
        ]
    };
    Section {
        title: "VIP",
        columns: vec![
            left("VIP", 9),
            left("POOL", 1),
            right("PACKETS/S", 4),
            right("BITS/S", 3),
            right("SHARE", 2),
        ],
        rows: model.vips().into_iter().map(row).collect(),
    }
}

fn backends(model: &Model) -> Section {
    let row = |backend: Backend| {
        vec![
            backend.name,
            backend.next_hop.to_owned(),
            figure(backend.rate.packets),
            figure(backend.rate.bits()),
            percent(backend.share),
            percent(backend.by_weight),
            percent(backend.by_slots),
        ]
    };
    Section {
        title: "BACKEND",
        columns: vec![
            left("BACKEND", 9),
            left("NEXT HOP", 1),
            right("PACKETS/S", 6),
            right("BITS/S", 3),
            right("SHARE", 5),
            right("BY WEIGHT", 4),
            right("BY SLOTS", 2),
        ],
        rows: model.backends().into_iter().map(row).collect(),
    }
}

fn stops(model: &Model) -> Section {
    let row = |stop: Stopped| {
        vec![
            stop.name.to_owned(),
            name::action(stop.action).to_owned(),
            figure(stop.rate.packets),
            figure(stop.rate.bits()),
            stop.total.to_string(),
            stop.text.to_owned(),
        ]
    };
    Section {
        title: "STOP REASON",
        columns: vec![
            left("STOP REASON", 9),
            left("ACTION", 5),
            right("PACKETS/S", 6),
            right("BITS/S", 3),
            right("PACKETS", 4),
            left("MEANING", 1),
        ],
        rows: model.stops().into_iter().map(row).collect(),
    }
}

impl Section {
    /// With its titles and an empty line before them.
    fn height(&self) -> u16 {
        u16::try_from(self.rows.len() + 2).unwrap_or(u16::MAX)
    }

    fn draw(&self, frame: &mut Frame, area: Rect, offset: usize) {
        let Some(visible) = usize::from(area.height).checked_sub(2).filter(|&rows| rows > 0) else {
            return;
        };
        let area = Rect {
            y: area.y + 1,
            height: area.height - 1,
            ..area
        };
        let first = offset.min(self.rows.len().saturating_sub(visible));
        let last = (first + visible).min(self.rows.len());
        let shown = self.fitting(area.width);
        let title = |&(column, _): &(usize, u16)| {
            let about = &self.columns[column];
            let hidden = self.rows.len() > last - first && column == 0;
            let text = if hidden {
                format!("{} {}-{last} of {}", self.title, first + 1, self.rows.len())
            } else {
                about.title.to_owned()
            };
            cell(text, about.right)
        };
        let row = |row: &Vec<String>| {
            let cells = shown
                .iter()
                .map(|&(column, _)| cell(row[column].clone(), self.columns[column].right));
            Row::new(cells.collect::<Vec<_>>())
        };
        let table = Table::new(
            self.rows[first..last].iter().map(row),
            shown.iter().map(|&(_, width)| Constraint::Length(width)),
        );
        let header = Row::new(shown.iter().map(title).collect::<Vec<_>>()).style(BOLD);
        frame.render_widget(table.header(header).column_spacing(GAP), area);
    }

    /// Columns that fit, with their widths. The first one gives way when nothing else is left.
    fn fitting(&self, width: u16) -> Vec<(usize, u16)> {
        let wide = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].as_str());
            let widest = cells
                .chain([self.columns[column].title])
                .map(|text| text.chars().count())
                .max();
            let widest = u16::try_from(widest.unwrap_or(0)).unwrap_or(u16::MAX);
            // Room for the numbers of the rows that are shown.
            if column == 0 { widest.max(24) } else { widest }
        };
        let mut shown: Vec<(usize, u16)> = (0..self.columns.len()).map(|i| (i, wide(i))).collect();
        let total = |shown: &[(usize, u16)]| {
            let widths: u32 = shown.iter().map(|(_, width)| u32::from(width + GAP)).sum();
            widths - u32::from(GAP)
        };
        while shown.len() > 1 && total(&shown) > u32::from(width) {
            let least = shown
                .iter()
                .skip(1)
                .min_by_key(|(column, _)| self.columns[*column].importance);
            let least = least.map(|(column, _)| *column);
            shown.retain(|(column, _)| Some(*column) != least);
        }
        shown[0].1 = shown[0].1.min(width);
        shown
    }
}

fn cell(text: String, right: bool) -> Cell<'static> {
    let line = Line::raw(text);
    Cell::new(if right { line.right_aligned() } else { line })
}

/// Heights of sections one below the other: while they don't fit, the highest gives way.
fn heights(wanted: &[u16], room: u16) -> Vec<u16> {
    let mut heights: Vec<u16> = wanted.iter().map(|&height| height.min(room)).collect();
    while heights.iter().map(|&height| u32::from(height)).sum::<u32>() > u32::from(room) {
        let highest = heights.iter_mut().max();
        *highest.expect("sections that take room") -= 1;
    }
    heights
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::{Command, tests};
    use super::*;

    fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_overview_of_eighty_columns() {
        let want = "\
lb1  agent alive  on eth0  generation 3  tracked slots 7 of 131072
2.00 k packets/s 1.60 Mbit/s forwarded, 10.0 passed, 0 dropped
 overview   VIPs   backends   stops

VIP                       POOL  PACKETS/S  BITS/S    SHARE
10.0.0.1:80/tcp           web      2.00 k  1.60 M  100.0 %

BACKEND                   PACKETS/S  BITS/S   SHARE  BY WEIGHT  BY SLOTS
idle/be3                          0       0       -          -   100.0 %
web/be1                      1.00 k   800 k  50.0 %     25.0 %    25.0 %
web/be2                      1.00 k   800 k  50.0 %     75.0 %    75.0 %

STOP REASON               ACTION  PACKETS/S  BITS/S  PACKETS
not_vip                   pass         10.0  8.00 k       25


q quit  tab view  s sort (name)  p pause  arrows scroll";
        assert_eq!(lines(&tests::model(), 80, 17).join("\n"), want);
    }

    #[test]
    fn the_more_room_the_more_columns() {
        let columns = |width| {
            let mut model = tests::model();
            model.handle(Command::NextView);
            model.handle(Command::NextView);
            lines(&model, width, 10)[4]
                .split("  ")
                .filter(|t| !t.is_empty())
                .count()
        };
        assert_eq!([100, 80, 70, 56, 40, 30, 10].map(columns), [7, 6, 5, 4, 2, 1, 1]);
    }

    #[test]
    fn lists_that_are_too_long_say_so_and_scroll() {
        let mut model = tests::model();
        model.handle(Command::PreviousView);
        model.handle(Command::PreviousView);
        let shown = |model: &Model| lines(model, 60, 8)[4..7].join("\n");
        assert!(shown(&model).starts_with("BACKEND 1-2 of 3"), "{}", shown(&model));
        assert!(!shown(&model).contains("web/be2"));
        model.handle(Command::Down(5));
        assert!(shown(&model).starts_with("BACKEND 2-3 of 3"), "{}", shown(&model));
        assert!(shown(&model).contains("web/be2"));
    }

    #[test]
    fn every_size_is_drawn() {
        let model = tests::model();
        for (width, height) in (0..12).flat_map(|w| (0..9).map(move |h| (w * 11, h * 2))) {
            lines(&model, width, height);
        }
        assert!(lines(&model, 20, 3)[0].starts_with("lb1"));
    }

    #[test]
    fn pauses_and_troubles_are_told() {
        let mut model = tests::model();
        model.handle(Command::Pause);
        assert!(lines(&model, 80, 10)[9].starts_with("PAUSED  q quit"));
        model.handle(Command::Pause);
        model.take(Err("nothing is loaded".to_owned()));
        let lines = lines(&model, 80, 12);
        assert_eq!(lines[0], "nothing is loaded");
        assert!(!lines.join("").contains("web/be1"));
    }

    #[test]
    fn sections_that_give_way_keep_their_distance() {
        // One line less than all lists take.
        let want = ["web/be1", "", "STOP REASON", "not_vip", "q quit"];
        let shown = lines(&tests::model(), 80, 14);
        let first_words = shown[9..]
            .iter()
            .map(|line| line.split("  ").next().unwrap_or_default());
        assert_eq!(first_words.collect::<Vec<_>>(), want, "{shown:#?}");
    }

    #[test]
    fn heights_fit() {
        assert_eq!(heights(&[3, 5, 4], 20), [3, 5, 4]);
        assert_eq!(heights(&[3, 72, 4], 20), [3, 13, 4]);
        assert_eq!(heights(&[3, 5, 4], 2).iter().sum::<u16>(), 2);
        assert_eq!(heights(&[3, 5, 4], 0), [0, 0, 0]);
    }
}
