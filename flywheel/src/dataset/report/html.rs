//! A report as one HTML file: no script, nothing that is fetched, no link. Plots are drawn in it.

use labeler::statistics::Estimate;

use super::page::{Bars, Block, Curves, Intervals, Page, Table};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:60rem;\
                     margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}\
                     th,td{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;\
                     border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}.source{color:#666}\
                     figure{margin:1rem 0}figcaption{font-weight:600}svg{max-width:100%;height:auto}";

/// Told apart by eyes of every kind (Okabe and Ito, "Color Universal Design").
const COLOURS: [&str; 7] = ["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#999999", "#009e73"];

/// Sizes of plots in pixels: all of it, what names take on the left, a line, what values take on the right.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 230.0;
const LINE: f64 = 22.0;
const VALUES: f64 = 90.0;
/// What is left for what is drawn.
const PLOT: f64 = WIDTH - NAMES - VALUES;

pub(super) fn written(page: &Page) -> String {
    let title = escaped(&page.title);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for paragraph in &page.lead {
        html.push_str(&format!("<p>{}</p>\n", escaped(paragraph)));
    }
    for section in &page.sections {
        html.push_str(&format!(
            "<h2>{}</h2>\n<p class=\"source\">Computed from {}.</p>\n",
            escaped(section.title),
            escaped(&section.source)
        ));
        for block in &section.blocks {
            html.push_str(&block_html(block));
            html.push('\n');
        }
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

fn block_html(block: &Block) -> String {
    match block {
        Block::Note(note) => format!("<p>{}</p>", escaped(note)),
        Block::Table(table) => table_html(table),
        Block::Bars(bars) => figure(&bars.title, &bars_svg(bars)),
        Block::Intervals(intervals) => figure(&intervals.title, &intervals_svg(intervals)),
        Block::Curves(curves) => figure(&curves.title, &curves_svg(curves)),
    }
}

fn table_html(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: Vec<String> = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<table>\n<thead>{}</thead>\n<tbody>\n{}\n</tbody>\n</table>", row(&table.header, "th"), rows.join("\n"))
}

fn figure(title: &str, svg: &str) -> String {
    format!("<figure>\n<figcaption>{}</figcaption>\n{svg}\n</figure>", escaped(title))
}

fn svg(title: &str, height: f64, inside: &str) -> String {
    format!(
        "<svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" font-size=\"13\">\n{inside}</svg>",
        escaped(title)
    )
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(text))
}

fn rectangle(x: f64, y: f64, width: f64, colour: &str, says: &str) -> String {
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\">\
         <title>{}</title></rect>\n",
        escaped(says)
    )
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn circle(x: f64, y: f64, colour: &str, says: &str) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>\n", escaped(says))
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// Names with their colours, one beneath the other, from `top` on.
fn legend<'a>(names: impl Iterator<Item = &'a str>, top: f64) -> String {
    let entry = |(number, name): (usize, &str)| {
        let y = top + LINE * number as f64;
        rectangle(NAMES, y, 14.0, colour(number), name) + &label(NAMES + 22.0, y + 12.0, "start", name)
    };
    names.enumerate().map(entry).collect()
}

fn bars_svg(bars: &Bars) -> String {
    let longest = bars.longest();
    let mut inside = String::new();
    for (number, (name, values)) in bars.rows.iter().enumerate() {
        let y = LINE * number as f64;
        inside.push_str(&label(NAMES - 10.0, y + 12.0, "end", name));
        let mut sum = 0.0;
        for (part, (value, part_name)) in values.iter().zip(&bars.parts).enumerate() {
            let says = format!("{name}: {value:.0} {part_name}");
            let (x, width) = (NAMES + PLOT * sum / longest, PLOT * value / longest);
            inside.push_str(&rectangle(x, y, width, colour(part), &says));
            sum += value;
        }
        inside.push_str(&label(NAMES + PLOT * sum / longest + 6.0, y + 12.0, "start", &format!("{sum:.0}")));
    }
    let mut height = LINE * bars.rows.len() as f64;
    if bars.parts.len() > 1 {
        inside.push_str(&legend(bars.parts.iter().map(String::as_str), height + 8.0));
        height += LINE * bars.parts.len() as f64 + 8.0;
    }
    svg(&bars.title, height, &inside)
}

fn intervals_svg(intervals: &Intervals) -> String {
    let (least, greatest) = intervals.range();
    let place = |value: f64| NAMES + PLOT * (value - least) / (greatest - least);
    let bottom = LINE * intervals.rows.len() as f64;
    let mut inside = line((place(0.0), 0.0), (place(0.0), bottom), "#999");
    for (number, (name, estimate)) in intervals.rows.iter().enumerate() {
        let Estimate { value, low, high } = *estimate;
        let y = LINE * number as f64 + 8.0;
        inside.push_str(&label(NAMES - 10.0, y + 4.0, "end", name));
        if low.is_finite() && high.is_finite() {
            inside.push_str(&line((place(low), y), (place(high), y), colour(0)));
        }
        inside.push_str(&circle(place(value), y, colour(0), &format!("{name}: {value:+.3} [{low:+.3}, {high:+.3}]")));
        inside.push_str(&label(WIDTH - VALUES + 16.0, y + 4.0, "start", &format!("{value:+.3}")));
    }
    for (value, anchor) in [(least, "start"), (greatest, "end")] {
        inside.push_str(&label(place(value), bottom + 16.0, anchor, &format!("{value:+.3}")));
    }
    svg(&intervals.title, bottom + LINE, &inside)
}

fn curves_svg(curves: &Curves) -> String {
    const HEIGHT: f64 = 200.0;
    const TOP: f64 = 14.0;
    let steps = curves.at.len().saturating_sub(1).max(1) as f64;
    let x = |number: usize| NAMES + PLOT * number as f64 / steps;
    let y = |share: f64| TOP + HEIGHT * (1.0 - share);
    let mut inside = String::new();
    for share in [0.0, 0.5, 1.0] {
        inside.push_str(&line((NAMES, y(share)), (NAMES + PLOT, y(share)), "#ddd"));
        inside.push_str(&label(NAMES - 10.0, y(share) + 4.0, "end", &format!("{:.0}%", share * 100.0)));
    }
    for (number, name) in curves.at.iter().enumerate() {
        inside.push_str(&label(x(number), TOP + HEIGHT + 20.0, "middle", name));
    }
    for (number, (name, values)) in curves.lines.iter().enumerate() {
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(at, value)| (x(at), y(*value))).collect();
        for pair in points.windows(2) {
            inside.push_str(&line(pair[0], pair[1], colour(number)));
        }
        for (point, value) in points.iter().zip(values) {
            inside.push_str(&circle(point.0, point.1, colour(number), &format!("{name}: {:.1}%", value * 100.0)));
        }
    }
    let below = TOP + HEIGHT + 34.0;
    inside.push_str(&legend(curves.lines.iter().map(|(name, _)| name.as_str()), below));
    svg(&curves.title, below + LINE * curves.lines.len() as f64, &inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_lengths_of_their_counts_and_say_them() {
        let bars = Bars::plain("pairs", [("a".to_owned(), 40), ("<b>".to_owned(), 10)]);
        let svg = bars_svg(&bars);
        assert!(svg.contains(&format!("width=\"{PLOT:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", PLOT / 4.0)));
        assert!(svg.contains("&lt;b&gt;: 10 pairs") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn a_curve_goes_from_the_first_place_to_the_last() {
        let at = vec!["30 s".to_owned(), "120 s".to_owned(), "300 s".to_owned()];
        let lines = vec![("all".to_owned(), vec![1.0, 0.75, 0.5])];
        let svg = curves_svg(&Curves { title: "kept".to_owned(), at, lines });
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("all: 75.0%") && svg.contains(&format!("cx=\"{:.1}\"", NAMES + PLOT)), "{svg}");
    }
}
