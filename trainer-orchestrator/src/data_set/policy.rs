//! `[orchestrator.data_set]`: what a data set is made by. Part of its digest, and so in names and whole numbers only.

use events::licence::{ALLOWED, Licence};
use serde::{Deserialize, Serialize};

/// How pairs are capped, held out and weighted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSetPolicy {
    /// Most pairs of one person, in thousandths of all; but always three times the mean of all persons. Pairs that
    /// several persons stand behind are none's own here; for the limits below they are of where they were taken from.
    pub most_of_person_permille: u32,
    /// Most pairs of one team (what repositories have before their first `/`), in the same way.
    pub most_of_team_permille: u32,
    /// Most pairs of one repository, in the same way.
    pub most_of_repository_permille: u32,
    /// Most pairs of one file, in the same way.
    pub most_of_file_permille: u32,
    /// Whether pairs of files are left out whose first lines say that they are under a licence that is not allowed.
    pub refuse_header_licences: bool,
    /// Licences that are allowed beside those that allow everybody to use their text, separated by commas.
    pub also_allowed_licences: String,
    /// From which Jaccard similarity on, in thousandths, what trains and what judges are near-duplicates. 0: none are.
    pub near_duplicate_permille: u32,
    /// Share of repositories that are held out for the set *general*, by their names, in thousandths. Where that would
    /// cost more than three times this share of all pairs, there is none.
    pub general_permille: u32,
    /// Opportunities without which there is no set *general*. 0: there is never one.
    pub general_opportunities: usize,
    /// Whether nothing is rolled out without a set *general*. Off: while too few repositories train for one, old skills
    /// alone say whether a candidate does harm.
    pub require_general: bool,
    /// Whether pairs are weighted by how unlikely their decision to show or to stay silent was. Refused unless all of
    /// these decisions were left to chance.
    pub inverse_p_show: bool,
    /// Largest such weight.
    pub most_inverse_p_show: u32,
}

impl Default for DataSetPolicy {
    fn default() -> Self {
        Self {
            most_of_person_permille: 10,
            most_of_team_permille: 250,
            most_of_repository_permille: 100,
            most_of_file_permille: 20,
            refuse_header_licences: true,
            also_allowed_licences: String::new(),
            near_duplicate_permille: 700,
            general_permille: 100,
            general_opportunities: 100,
            require_general: false,
            inverse_p_show: false,
            most_inverse_p_show: 20,
        }
    }
}

impl DataSetPolicy {
    /// The policy as a data set's digest covers it.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        // Numbers and truth values always become JSON.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What of it a data set of the first formula can be made by: that one knows no set *general*, and leaves weights to
    /// the labels.
    #[must_use]
    pub(crate) fn of_the_first_formula(&self) -> Self {
        Self { general_opportunities: 0, inverse_p_show: false, ..self.clone() }
    }

    /// Licences that a file may name.
    pub(crate) fn allowed_licences(&self) -> Vec<String> {
        let also = self.also_allowed().filter_map(|text| Some(Licence::parse(text).ok()?.one()?.to_owned()));
        ALLOWED.iter().map(|id| (*id).to_owned()).chain(also).collect()
    }

    fn also_allowed(&self) -> impl Iterator<Item = &str> {
        self.also_allowed_licences.split(',').map(str::trim).filter(|text| !text.is_empty())
    }

    /// Whether every setting is usable.
    ///
    /// # Errors
    /// The first key that is not, and why.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        let permille = "expected 0 to 1000";
        let checks = [
            (self.most_of_person_permille <= 1000, "data_set.most_of_person_permille", permille),
            (self.most_of_team_permille <= 1000, "data_set.most_of_team_permille", permille),
            (self.most_of_repository_permille <= 1000, "data_set.most_of_repository_permille", permille),
            (self.most_of_file_permille <= 1000, "data_set.most_of_file_permille", permille),
            (self.near_duplicate_permille <= 1000, "data_set.near_duplicate_permille", permille),
            (
                self.also_allowed().all(|text| Licence::parse(text).is_ok_and(|licence| licence.one().is_some())),
                "data_set.also_allowed_licences",
                "expected licences as SPDX names them, separated by commas",
            ),
            (self.general_permille <= 500, "data_set.general_permille", "expected 0 to 500"),
            (
                !self.require_general || self.general_opportunities > 0,
                "data_set.require_general",
                "expected false while data_set.general_opportunities is 0",
            ),
            (self.most_inverse_p_show > 0, "data_set.most_inverse_p_show", "expected at least 1"),
        ];
        match checks.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, key, reason)) => Err((key, reason)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_what_does_not_is_named() {
        DataSetPolicy::default().validate().unwrap();
        let named = |policy: DataSetPolicy| policy.validate().unwrap_err().0;
        let policy = DataSetPolicy::default;
        assert_eq!(named(DataSetPolicy { most_of_file_permille: 1001, ..policy() }), "data_set.most_of_file_permille");
        assert_eq!(named(DataSetPolicy { most_inverse_p_show: 0, ..policy() }), "data_set.most_inverse_p_show");
        let impossible = DataSetPolicy { require_general: true, general_opportunities: 0, ..policy() };
        assert_eq!(named(impossible), "data_set.require_general");
        for text in ["ours", "MPL-2.0", " MPL-2.0 , Apache-2.0 WITH Swift-exception,"] {
            DataSetPolicy { also_allowed_licences: text.to_owned(), ..policy() }.validate().unwrap();
        }
        for text in ["MIT OR MPL-2.0", "see LICENSE"] {
            let unknown = DataSetPolicy { also_allowed_licences: text.to_owned(), ..policy() };
            assert_eq!(named(unknown), "data_set.also_allowed_licences");
        }
    }

    #[test]
    fn only_names_whole_numbers_and_truth_values_enter_the_digest() {
        let value = DataSetPolicy::default().value();
        let fields = value.as_object().unwrap();
        assert_eq!(fields.len(), 12);
        assert!(fields.values().all(|field| field.is_u64() || field.is_boolean() || field.is_string()));
        assert_eq!(serde_json::from_value::<DataSetPolicy>(value).unwrap(), DataSetPolicy::default());
    }
}
