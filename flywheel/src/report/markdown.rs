//! A report as Markdown: tables, and plots drawn with characters.

use labeler::statistics::Estimate;

use super::page::{Bars, Block, Curves, Intervals, Page, Tone};
use crate::table::markdown_text;

/// Characters that a plot is wide.
const WIDTH: usize = 40;

pub(super) fn written(page: &Page) -> String {
    let mut text = format!("# {}\n", escaped(&page.title));
    for paragraph in &page.lead {
        text.push_str(&format!("\n{}\n", escaped(paragraph)));
    }
    for section in &page.sections {
        text.push_str(&format!("\n## {}\n\nComputed from {}.\n", escaped(section.title), escaped(&section.source)));
        for block in &section.blocks {
            text.push('\n');
            text.push_str(&block_text(block));
            text.push('\n');
        }
    }
    text
}

fn block_text(block: &Block) -> String {
    match block {
        Block::Note(note) => escaped(note),
        Block::Table(table) => {
            let header: Vec<String> = table.header.iter().map(|name| escaped(name)).collect();
            let rows = table.rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
            markdown_text(&header, rows)
        }
        Block::Bars(bars) => drawn(&bars.title, bars_text(bars)),
        Block::Intervals(intervals) => drawn(&intervals.title, intervals_text(intervals)),
        Block::Curves(curves) => drawn(&curves.title, curves_text(curves)),
    }
}

/// Text that is no markup, whatever it says.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Lines as they stand, under what they show. Nothing that comes from outside ends them early.
fn drawn(title: &str, lines: Vec<String>) -> String {
    let plain = |line: &str| line.replace('`', "'").replace(|character: char| character.is_control(), " ");
    let lines: Vec<String> = lines.iter().map(|line| plain(line).trim_end().to_owned()).collect();
    format!("{}:\n\n```text\n{}\n```", escaped(title), lines.join("\n"))
}

/// Names, all as wide as the widest.
fn aligned<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let width = names.clone().map(|name| name.chars().count()).max().unwrap_or(0);
    names.map(|name| format!("{name}{}", " ".repeat(width - name.chars().count()))).collect()
}

/// The column of a share of the whole width.
fn column(share: f64) -> usize {
    (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize
}

/// What a part is drawn with: the denser, the more it is for; what says nothing is hardly there.
fn part(tone: Tone) -> char {
    match tone {
        Tone::For => '█',
        Tone::PartlyFor => '▓',
        Tone::Against => '▒',
        Tone::WeaklyAgainst => '░',
        Tone::Neither => '·',
        Tone::Absent => '○',
        Tone::Unknown => '?',
    }
}

fn bars_text(bars: &Bars) -> Vec<String> {
    let longest = bars.longest();
    let names = aligned(bars.rows.iter().map(|(name, _)| name.as_str()));
    let mut lines: Vec<String> = names
        .iter()
        .zip(&bars.rows)
        .map(|(name, (_, values))| {
            let (mut bar, mut sum, mut drawn) = (String::new(), 0.0, 0);
            for (value, (_, tone)) in values.iter().zip(&bars.parts) {
                sum += value;
                let end = column(sum / longest);
                bar.extend(std::iter::repeat_n(part(*tone), end - drawn));
                drawn = end;
            }
            format!("{name}  {bar} {sum:.0}")
        })
        .collect();
    if bars.parts.len() > 1 {
        let legend: Vec<String> = bars.parts.iter().map(|(name, tone)| format!("{} {name}", part(*tone))).collect();
        lines.push(String::new());
        lines.push(legend.join("   "));
    }
    lines
}

fn intervals_text(intervals: &Intervals) -> Vec<String> {
    let (low, high) = intervals.range();
    let place = |value: f64| column((value - low) / (high - low));
    let names = aligned(intervals.rows.iter().map(|(name, _)| name.as_str()));
    let mut lines: Vec<String> = names
        .iter()
        .zip(&intervals.rows)
        .map(|(name, (_, estimate))| {
            let Estimate { value, low, high } = *estimate;
            let mut line = [' '; WIDTH + 1];
            line[place(0.0)] = '|';
            if low.is_finite() && high.is_finite() {
                line[place(low)..=place(high)].fill('-');
            }
            line[place(value)] = 'o';
            format!("{name}  {} {value:+.3}", line.iter().collect::<String>())
        })
        .collect();
    lines.push(String::new());
    lines.push(format!("from {low:+.3} to {high:+.3}; | is zero, o the estimate, - its 95% interval"));
    lines
}

fn curves_text(curves: &Curves) -> Vec<String> {
    let mut lines = Vec::new();
    let names = aligned(curves.at.iter().map(String::as_str));
    for (curve, values) in &curves.lines {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(curve.clone());
        for (name, value) in names.iter().zip(values) {
            let bar: String = std::iter::repeat_n(part(Tone::For), column(*value)).collect();
            lines.push(format!("  {name}  {bar} {:.1}%", value * 100.0));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_lengths_of_their_counts() {
        let rows = vec![("one".to_owned(), vec![30.0, 10.0]), ("three".to_owned(), vec![10.0, 0.0])];
        let parts = vec![("a".to_owned(), Tone::For), ("b".to_owned(), Tone::Against)];
        let lines = bars_text(&Bars { title: "pairs".to_owned(), parts, rows });
        assert_eq!(lines[0], format!("one    {}{} 40", "█".repeat(30), "▒".repeat(10)));
        assert_eq!(lines[1], format!("three  {} 10", "█".repeat(10)));
        assert_eq!(lines[3], "█ a   ▒ b");
    }

    #[test]
    fn intervals_and_curves_stand_where_their_values_are() {
        let estimate = Estimate { value: 0.25, low: 0.0, high: 0.5 };
        let lines = intervals_text(&Intervals { title: String::new(), rows: vec![("a".to_owned(), estimate)] });
        assert_eq!(lines[0], format!("a  {}o{} +0.250", "-".repeat(20), "-".repeat(20)));
        let unbounded = Estimate { value: 1.0, low: f64::NEG_INFINITY, high: f64::INFINITY };
        let lines = intervals_text(&Intervals { title: String::new(), rows: vec![("a".to_owned(), unbounded)] });
        assert_eq!(lines[0], format!("a  |{}o +1.000", " ".repeat(39)));
        let at = vec!["30 s".to_owned(), "300 s".to_owned()];
        let curves = Curves { title: String::new(), at, lines: vec![("all".to_owned(), vec![1.0, 0.5])] };
        let expected = [
            "all".to_owned(),
            format!("  30 s   {} 100.0%", "█".repeat(40)),
            format!("  300 s  {} 50.0%", "█".repeat(20)),
        ];
        assert_eq!(curves_text(&curves), expected);
    }

    #[test]
    fn what_comes_from_outside_is_no_markup() {
        assert_eq!(escaped("[a](b)<c>|`d`\n"), "\\[a\\](b)\\<c\\>\\|\\`d\\` ");
        let text = drawn("t", vec!["```".to_owned(), "a\u{7}".to_owned()]);
        assert_eq!(text, "t:\n\n```text\n'''\na\n```");
    }
}
