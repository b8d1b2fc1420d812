//! Groups that are told apart only where no person can be told from them: what fewer than five persons did is merged
//! with what others did, and where there are no others it is not told.

/// Fewer persons are not told apart from others.
pub const FEWEST_PERSONS: usize = 5;

/// Name of several groups that have no order.
pub const MERGED: &str = "(smaller groups, merged)";

/// Persons, and what they have in common.
pub trait Crowd {
    /// How many there are.
    fn persons(&self) -> usize;
    /// Takes in others. Who is in both counts once.
    fn merge(&mut self, others: Self);
}

/// One group of enough persons, or several that are only together.
#[derive(Debug, Clone, PartialEq)]
pub struct Told<C> {
    names: Vec<String>,
    /// The persons.
    pub crowd: C,
}

impl<C: Crowd> Told<C> {
    fn merge(&mut self, others: Self) {
        self.names.extend(others.names);
        self.crowd.merge(others.crowd);
    }

    fn may_be_told(&self) -> bool {
        self.crowd.persons() >= FEWEST_PERSONS
    }

    /// Its name among groups that have no order.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.names.as_slice() {
            [only] => only,
            _ => MERGED,
        }
    }

    /// Its name among groups that follow each other.
    #[must_use]
    pub fn span(&self) -> String {
        match self.names.as_slice() {
            [] => String::new(),
            [only] => only.clone(),
            [first, .., last] => format!("{first} to {last}"),
        }
    }
}

fn each<C>(groups: impl IntoIterator<Item = (String, C)>) -> impl Iterator<Item = Told<C>> {
    groups.into_iter().map(|(name, crowd)| Told { names: vec![name], crowd })
}

/// Groups that have no order: small ones become one, with the smallest of the others where that is small, too. Nothing
/// when all together are too few.
#[must_use]
pub fn apart<C: Crowd>(groups: impl IntoIterator<Item = (String, C)>) -> Vec<Told<C>> {
    let (mut told, small): (Vec<Told<C>>, Vec<Told<C>>) = each(groups).partition(Told::may_be_told);
    let merged = small.into_iter().reduce(|mut merged, group| {
        merged.merge(group);
        merged
    });
    let Some(mut merged) = merged else { return told };
    while !merged.may_be_told() {
        let Some(smallest) = (0..told.len()).min_by_key(|index| told[*index].crowd.persons()) else {
            return Vec::new();
        };
        merged.merge(told.remove(smallest));
    }
    told.push(merged);
    told
}

/// Groups that follow each other: neighbours become one until there are enough persons in each. Nothing when all
/// together are too few.
#[must_use]
pub fn along<C: Crowd>(groups: impl IntoIterator<Item = (String, C)>) -> Vec<Told<C>> {
    let mut told: Vec<Told<C>> = Vec::new();
    let mut open: Option<Told<C>> = None;
    for group in each(groups) {
        let grown = match open.take() {
            Some(mut known) => {
                known.merge(group);
                known
            }
            None => group,
        };
        if grown.may_be_told() {
            told.push(grown);
        } else {
            open = Some(grown);
        }
    }
    if let Some(rest) = open {
        match told.last_mut() {
            Some(last) => last.merge(rest),
            None => return Vec::new(),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Default)]
    struct Persons(BTreeSet<u8>, usize);

    impl Crowd for Persons {
        fn persons(&self) -> usize {
            self.0.len()
        }

        fn merge(&mut self, others: Self) {
            self.0.extend(others.0);
            self.1 += others.1;
        }
    }

    fn group(name: &str, persons: impl IntoIterator<Item = u8>) -> (String, Persons) {
        let persons: BTreeSet<u8> = persons.into_iter().collect();
        let count = persons.len();
        (name.to_owned(), Persons(persons, count))
    }

    #[test]
    fn small_groups_are_one_and_take_a_larger_one_in_where_they_must() {
        let names = |groups: Vec<(String, Persons)>| -> Vec<String> {
            apart(groups).iter().map(|told| told.name().to_owned()).collect()
        };
        assert_eq!(names(vec![group("a", 0..5), group("b", 0..6)]), ["a", "b"]);
        assert_eq!(names(vec![group("a", 0..3), group("b", 0..6), group("c", 3..6)]), ["b", MERGED]);
        // The same four persons twice are four.
        let twice = vec![group("a", 0..4), group("b", 0..9), group("c", 0..4), group("d", 0..7)];
        assert_eq!(names(twice), ["b", MERGED]);
        assert_eq!(names(vec![group("a", 0..4), group("b", 0..2)]), [""; 0]);
        assert_eq!(names(Vec::new()), [""; 0]);
    }

    #[test]
    fn neighbours_are_merged_until_they_are_enough() {
        let spans = |groups: Vec<(String, Persons)>| -> Vec<String> { along(groups).iter().map(Told::span).collect() };
        let groups = vec![group("1", 0..2), group("2", 2..6), group("3", 0..5), group("4", 0..1)];
        assert_eq!(spans(groups), ["1 to 2", "3 to 4"]);
        assert_eq!(spans(vec![group("1", 0..2), group("2", 0..4)]), [""; 0]);
    }

    proptest! {
        #[test]
        fn nobody_is_told_apart_and_nothing_is_lost(
            groups in prop::collection::vec(prop::collection::btree_set(0..12_u8, 1..8), 0..8),
        ) {
            let all: BTreeSet<u8> = groups.iter().flatten().copied().collect();
            let count: usize = groups.iter().map(BTreeSet::len).sum();
            let named = || groups.iter().map(|persons| group("a", persons.iter().copied())).collect::<Vec<_>>();
            for told in [apart(named()), along(named())] {
                prop_assert!(told.iter().all(|told| told.crowd.persons() >= FEWEST_PERSONS));
                let kept: usize = told.iter().map(|told| told.crowd.1).sum();
                prop_assert_eq!(kept, if all.len() < FEWEST_PERSONS { 0 } else { count });
            }
        }
    }
}
