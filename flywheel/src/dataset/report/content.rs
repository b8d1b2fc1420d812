//! What a data set is made of, as it was counted when it was made.

use labeler::crowd::FEWEST_PERSONS;
use trainer_orchestrator::data_set::composition::{Composition, Reason, SetStatistics};
use trainer_orchestrator::data_set::groups::GroupCount;

use super::{language, percent, spoken};
use crate::dataset::text::{largest_weight_text, persons_text, stage_rows};
use crate::report::{Bars, Block, Section, Table, Tone};

/// Where the counts of this part come from.
const SOURCE: &str = "the counts that were stored with the data set when it was made";

/// The sets of a composition, by name.
fn sets(composition: &Composition) -> [(&'static str, &SetStatistics); 3] {
    [
        ("training", &composition.training),
        ("adapt (benefit)", &composition.adapt),
        ("general (harm)", &composition.general),
    ]
}

pub(super) fn sections(composition: &Composition) -> Vec<Section> {
    vec![
        stages(composition),
        duplicates(composition),
        no_edit(composition),
        told_apart(
            "Languages",
            "the language that the editor named for the file of each pair",
            sets(composition).map(|(name, set)| (name, set.pairs, named(&set.groups.languages, language))),
        ),
        told_apart(
            "Patterns",
            "what the wanted actions do to the text (of a rejection alone, what the rejected ones would have done): \
             they insert, delete or replace in one place, or change several places, or want no edit",
            sets(composition).map(|(name, set)| (name, set.pairs, named(&set.groups.patterns, |name| name))),
        ),
        lengths(composition),
        weights(composition),
    ]
}

pub(super) fn not_counted() -> Section {
    Section {
        title: "What it is made of",
        source: "the rows of the data set".to_owned(),
        blocks: vec![Block::Note(
            "An earlier release made this data set and counted no stage; make it anew to see what it is made of."
                .to_owned(),
        )],
    }
}

fn stages(composition: &Composition) -> Section {
    let kept = composition
        .stages
        .iter()
        .zip(stage_rows(composition))
        .map(|(count, row)| (row.into_iter().next().unwrap_or_default(), count.kept));
    Section {
        title: "From the lake to the sets",
        source: format!("{SOURCE}; {} pairs were read from the lake", composition.read),
        blocks: vec![
            Block::Table(Table::new(&["stage", "entered", "kept", "left out"], stage_rows(composition))),
            Block::Bars(Bars::plain("pairs kept by each stage", kept)),
        ],
    }
}

fn duplicates(composition: &Composition) -> Section {
    let [repeated, merged] = [Reason::Duplicate, Reason::Merged].map(|reason| composition.left_out(reason));
    let rows = sets(composition).map(|(name, set)| {
        let most = usize::try_from(set.most_support_people).unwrap_or(usize::MAX);
        vec![
            name.to_owned(),
            set.pairs.to_string(),
            set.merged.to_string(),
            if set.merged == 0 { "-".to_owned() } else { persons_text(most) },
        ]
    });
    let header = ["set", "pairs", "pairs that several persons stand behind", "most persons behind one"];
    Section {
        title: "Duplicates and merged pairs",
        source: format!("{SOURCE}; equal corrections turn the same lines of the same language into the same lines"),
        blocks: vec![
            Block::Note(format!(
                "{repeated} pairs repeat what the same person corrected on the same day, and {merged} were merged into \
                 the equal correction of another person or of another day."
            )),
            Block::Table(Table::new(&header, rows.to_vec())),
            Block::Bars(Bars::plain(
                "pairs left out as equal to another",
                [("of the same person and day".to_owned(), repeated), ("of other persons or days".to_owned(), merged)],
            )),
        ],
    }
}

fn no_edit(composition: &Composition) -> Section {
    let share = |part: usize, set: &SetStatistics| match set.pairs {
        0 => "-".to_owned(),
        pairs => percent(part as f64 / pairs as f64),
    };
    let rows = sets(composition).map(|(name, set)| {
        vec![
            name.to_owned(),
            set.pairs.to_string(),
            set.choosing_no_edit.to_string(),
            share(set.choosing_no_edit, set),
            set.rejecting_no_edit.to_string(),
            share(set.rejecting_no_edit, set),
        ]
    });
    let bars = sets(composition).map(|(name, set)| {
        let others = set.pairs.saturating_sub(set.choosing_no_edit + set.rejecting_no_edit);
        let parts = [set.choosing_no_edit, set.rejecting_no_edit, others];
        (name.to_owned(), parts.map(|count| count as f64).to_vec())
    });
    let header = ["set", "pairs", "choose NO_EDIT", "share", "reject NO_EDIT", "share"];
    let parts = [
        ("choose NO_EDIT", Tone::For),
        ("reject NO_EDIT", Tone::Against),
        ("two edits, or one side only", Tone::Neither),
    ];
    Section {
        title: "NO_EDIT",
        source: format!("{SOURCE}; in training, pairs that choose NO_EDIT never outnumber those that reject it"),
        blocks: vec![
            Block::Table(Table::new(&header, rows.to_vec())),
            Block::Bars(Bars {
                title: "pairs by what they say of NO_EDIT".to_owned(),
                parts: parts.map(|(name, tone)| (name.to_owned(), tone)).to_vec(),
                rows: bars.to_vec(),
            }),
        ],
    }
}

fn by_reason(group: &GroupCount) -> String {
    let reasons: Vec<String> =
        group.by_reason.iter().map(|(reason, count)| format!("{count} {}", spoken(reason))).collect();
    reasons.join(", ")
}

/// Groups with their names as they are shown.
type NamedGroups<'a> = Vec<(String, &'a GroupCount)>;

fn named(groups: &[GroupCount], name: fn(&str) -> &str) -> NamedGroups<'_> {
    groups.iter().map(|group| (spoken(name(&group.name)), group)).collect()
}

/// A section about groups: of each set its name, its pairs and its groups, those that train first.
fn told_apart(title: &'static str, what: &str, sets: [(&'static str, usize, NamedGroups<'_>); 3]) -> Section {
    let mut rows = Vec::new();
    for (set_name, pairs, groups) in &sets {
        for (name, group) in groups {
            let share = percent(group.pairs as f64 / (*pairs).max(1) as f64);
            rows.push(vec![(*set_name).to_owned(), name.clone(), group.pairs.to_string(), share, by_reason(group)]);
        }
    }
    let mut blocks = vec![table_or_note(&["set", "group", "pairs", "share", "rows of the label table"], rows)];
    let [(_, _, training), _, _] = sets;
    if !training.is_empty() {
        let bars = training.into_iter().map(|(name, group)| (name, group.pairs));
        blocks.push(Block::Bars(Bars::plain("pairs that train", bars)));
    }
    Section { title, source: format!("{SOURCE}: {what}"), blocks }
}

fn lengths(composition: &Composition) -> Section {
    let groups = &composition.training.groups;
    let mut blocks = Vec::new();
    for (title, lengths) in [
        ("pairs that train, by characters of the chosen side", &groups.chosen_characters),
        ("pairs that train, by characters of the rejected side", &groups.rejected_characters),
    ] {
        if !lengths.is_empty() {
            let bars = lengths.iter().map(|group| (group.name.clone(), group.pairs));
            blocks.push(Block::Bars(Bars::plain(title, bars)));
        }
    }
    let mut rows = Vec::new();
    for (set_name, set) in sets(composition) {
        let sides = [("chosen", &set.groups.chosen_characters), ("rejected", &set.groups.rejected_characters)];
        for (side, lengths) in sides {
            for group in lengths {
                let cells = [set_name.to_owned(), side.to_owned(), group.name.clone(), group.pairs.to_string()];
                rows.push(cells.to_vec());
            }
        }
    }
    blocks.insert(0, table_or_note(&["set", "side", "characters", "pairs"], rows));
    Section {
        title: "Lengths",
        source: format!(
            "{SOURCE}: the characters that a side's actions write from the divergence on; 0 is NO_EDIT or a deletion"
        ),
        blocks,
    }
}

fn table_or_note(header: &[&str], rows: Vec<Vec<String>>) -> Block {
    if rows.is_empty() {
        Block::Note(format!(
            "Nothing to tell: fewer than {FEWEST_PERSONS} persons stand behind each set, or an earlier release made it."
        ))
    } else {
        Block::Table(Table::new(header, rows))
    }
}

fn weights(composition: &Composition) -> Section {
    let weights = composition.weights;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    Section {
        title: "Weights",
        source: format!("{SOURCE}; as many pairs of equal weight as the effective sample size would say as much"),
        blocks: vec![Block::Table(Table::new(
            &["weights of the pairs that train", ""],
            vec![
                row("sum", format!("{:.1}", weights.sum)),
                row("largest", largest_weight_text(composition)),
                row("effective sample size", format!("{:.1}", weights.effective_sample_size)),
                row("clipped", weights.clipped.to_string()),
                row(
                    "of adapt, the developer wrote only names that training pairs write",
                    format!("{} of {}", composition.adapt_identifiers_seen, composition.adapt.pairs),
                ),
            ],
        ))],
    }
}
