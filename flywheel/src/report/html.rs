//! A report as one HTML file: no script, nothing that is fetched, no link. Plots are drawn in it.

use labeler::statistics::Estimate;

use super::page::{Bars, Block, Curves, Intervals, Page, Table, Tone};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:60rem;\
                     margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}\
                     th,td{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;\
                     border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}.source{color:#666}\
                     figure{margin:1rem 0}figcaption{font-weight:600}svg{max-width:100%;height:auto}";

/// Lines that differ in nothing but their names, in colours that eyes of every kind tell apart (Okabe and Ito, "Color
/// Universal Design"; without yellow, which is hardly seen on white, and black, which text has). Where there are more
/// lines than colours, those of the next round are dashed.
const LINE_COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// What shows where values are, and says nothing itself.
const RULE: &str = "#ddd";
const ZERO: &str = "#999";

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

fn line(from: (f64, f64), to: (f64, f64), stroke: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke-width=\"2\" {stroke}/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn plain(colour: &str) -> String {
    format!("stroke=\"{colour}\"")
}

/// How the line of a number is drawn.
fn stroke(number: usize) -> String {
    match number / LINE_COLOURS.len() {
        0 => plain(line_colour(number)),
        round => format!("{} stroke-dasharray=\"{} 4\"", plain(line_colour(number)), 8 / round.min(4)),
    }
}

fn circle(x: f64, y: f64, colour: &str, says: &str) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>\n", escaped(says))
}

fn line_colour(number: usize) -> &'static str {
    LINE_COLOURS[number % LINE_COLOURS.len()]
}

/// Blue is for, red against, and paler for less of either; what says neither is grey.
fn colour(tone: Tone) -> &'static str {
    match tone {
        Tone::For => "#0072b2",
        Tone::PartlyFor => "#56b4e9",
        Tone::Against => "#d55e00",
        Tone::WeaklyAgainst => "#e69f00",
        Tone::Neither => "#777777",
        Tone::Absent => "#aaaaaa",
        Tone::Unknown => "#dddddd",
    }
}

/// Names behind what stands for them, one beneath the other, from `top` on.
fn legend<'a>(entries: impl Iterator<Item = (String, &'a str)>, top: f64) -> String {
    let entry = |(number, (sign, name)): (usize, (String, &str))| {
        sign + &label(NAMES + 30.0, top + LINE * number as f64 + 12.0, "start", name)
    };
    entries.enumerate().map(entry).collect()
}

fn bars_svg(bars: &Bars) -> String {
    let longest = bars.longest();
    let mut inside = String::new();
    for (number, (name, values)) in bars.rows.iter().enumerate() {
        let y = LINE * number as f64;
        inside.push_str(&label(NAMES - 10.0, y + 12.0, "end", name));
        let mut sum = 0.0;
        for (value, (part_name, tone)) in values.iter().zip(&bars.parts) {
            let says = format!("{name}: {value:.0} {part_name}");
            let (x, width) = (NAMES + PLOT * sum / longest, PLOT * value / longest);
            inside.push_str(&rectangle(x, y, width, colour(*tone), &says));
            sum += value;
        }
        inside.push_str(&label(NAMES + PLOT * sum / longest + 6.0, y + 12.0, "start", &format!("{sum:.0}")));
    }
    let mut height = LINE * bars.rows.len() as f64;
    if bars.parts.len() > 1 {
        let top = height + 8.0;
        let entries = bars.parts.iter().enumerate().map(|(number, (name, tone))| {
            (rectangle(NAMES, top + LINE * number as f64, 22.0, colour(*tone), name), name.as_str())
        });
        inside.push_str(&legend(entries, top));
        height += LINE * bars.parts.len() as f64 + 8.0;
    }
    svg(&bars.title, height, &inside)
}

fn intervals_svg(intervals: &Intervals) -> String {
    let (least, greatest) = intervals.range();
    let place = |value: f64| NAMES + PLOT * (value - least) / (greatest - least);
    let bottom = LINE * intervals.rows.len() as f64;
    let mut inside = line((place(0.0), 0.0), (place(0.0), bottom), &plain(ZERO));
    for (number, (name, estimate)) in intervals.rows.iter().enumerate() {
        let Estimate { value, low, high } = *estimate;
        let y = LINE * number as f64 + 8.0;
        inside.push_str(&label(NAMES - 10.0, y + 4.0, "end", name));
        if low.is_finite() && high.is_finite() {
            inside.push_str(&line((place(low), y), (place(high), y), &stroke(0)));
        }
        inside.push_str(&circle(
            place(value),
            y,
            line_colour(0),
            &format!("{name}: {value:+.3} [{low:+.3}, {high:+.3}]"),
        ));
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
        inside.push_str(&line((NAMES, y(share)), (NAMES + PLOT, y(share)), &plain(RULE)));
        inside.push_str(&label(NAMES - 10.0, y(share) + 4.0, "end", &format!("{:.0}%", share * 100.0)));
    }
    for (number, name) in curves.at.iter().enumerate() {
        inside.push_str(&label(x(number), TOP + HEIGHT + 20.0, "middle", name));
    }
    for (number, (name, values)) in curves.lines.iter().enumerate() {
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(at, value)| (x(at), y(*value))).collect();
        for pair in points.windows(2) {
            inside.push_str(&line(pair[0], pair[1], &stroke(number)));
        }
        for (point, value) in points.iter().zip(values) {
            inside.push_str(&circle(point.0, point.1, line_colour(number), &format!("{name}: {:.1}%", value * 100.0)));
        }
    }
    let below = TOP + HEIGHT + 34.0;
    let entries = curves.lines.iter().enumerate().map(|(number, (name, _))| {
        let y = below + LINE * number as f64 + 7.0;
        (line((NAMES, y), (NAMES + 22.0, y), &stroke(number)), name.as_str())
    });
    inside.push_str(&legend(entries, below));
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
    fn a_part_has_its_colour_whichever_others_there_are() {
        let svg_of = |parts: &[(&str, Tone)]| {
            let parts: Vec<(String, Tone)> = parts.iter().map(|(name, tone)| ((*name).to_owned(), *tone)).collect();
            let rows = vec![("all".to_owned(), vec![1.0; parts.len()])];
            bars_svg(&Bars { title: "signals".to_owned(), parts, rows })
        };
        let rejected = |svg: &str| svg.matches(&format!("fill=\"{}\"", colour(Tone::Against))).count();
        let both = svg_of(&[("accepted", Tone::For), ("rejected", Tone::Against)]);
        let alone = svg_of(&[("rejected", Tone::Against), ("not shown", Tone::Absent)]);
        // A bar and its entry in the legend.
        assert_eq!((rejected(&both), rejected(&alone)), (2, 2), "{both}{alone}");
    }

    #[test]
    fn lines_beyond_the_colours_are_drawn_otherwise() {
        let strokes: std::collections::BTreeSet<String> = (0..3 * LINE_COLOURS.len()).map(stroke).collect();
        assert_eq!(strokes.len(), 3 * LINE_COLOURS.len(), "{strokes:?}");
        let lines = (0..8).map(|number| (format!("language {number}"), vec![1.0, 0.5])).collect();
        let at = vec!["30 s".to_owned(), "120 s".to_owned()];
        let svg = curves_svg(&Curves { title: "kept".to_owned(), at, lines });
        // Two lines, each in the plot and in the legend.
        assert_eq!(svg.matches("stroke-dasharray").count(), 4, "{svg}");
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
