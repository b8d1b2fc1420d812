//! How each stands: every version on every later window, and over all windows what was served, what each newest version
//! would have done, and what it would have done from a threshold of its own on.

use std::collections::BTreeMap;

use simulator::baseline::{NgramCache, repeat_last_substitution};
use simulator::history::judgement::Judgement;

use super::answers::{Answer, Difference, Figures, Paired, best_threshold, difference, judged, remembered};
use super::report::{Calibrated, Kind, Score, Serving, Thresholds, Version};
use super::{BASE, Game, NGRAM_CACHE, Outcome, REPEAT_LAST, SERVED, name};

/// Everything that is said of who stands where.
pub(super) struct Standings {
    pub(super) versions: Vec<Version>,
    pub(super) served: Serving,
    pub(super) claims: Vec<Difference>,
    pub(super) calibrated_claims: Vec<Difference>,
}

/// How each was judged on each window, by name: of those who were asked there.
type Judged = BTreeMap<(String, usize), Vec<Judgement>>;

/// The first window that a version may have learned before.
const FIRST_LEARNED: usize = 2;

/// A version from the threshold on that was best where it was judged.
fn calibrated(version: usize) -> String {
    format!("{} calibrated", name(version))
}

/// The base from the threshold on that was best there.
fn base_beside(version: usize) -> String {
    format!("{BASE} calibrated as {}", name(version))
}

impl Game<'_> {
    pub(super) fn standings(&self) -> Standings {
        let thresholds: BTreeMap<usize, Thresholds> =
            self.judges.keys().filter_map(|version| Some((*version, self.thresholds(*version)?))).collect();
        let judged = self.judgements(&thresholds);
        let newest = |window: usize| {
            let version = self.newest(window, |_| true);
            (version > 0 && self.is_decided(window)).then_some(version)
        };
        let plain = |against: &str, _: usize| against.to_owned();
        let beside = |against: &str, window: usize| match newest(window) {
            Some(version) if against == BASE => base_beside(version),
            _ => against.to_owned(),
        };
        let decided = (1..=self.stretches.len()).take_while(|window| self.is_decided(*window));
        Standings {
            versions: self.versions(&judged, &thresholds),
            served: Serving {
                versions: decided.map(|window| name(self.serving(window))).collect(),
                claims: self.claims(&judged, |_| Some(SERVED.to_owned()), plain),
            },
            claims: self.claims(&judged, |window| newest(window).map(name), plain),
            calibrated_claims: self.claims(&judged, |window| newest(window).map(calibrated), beside),
        }
    }

    /// From where on a version and the base should have spoken where the version was judged: nothing later is looked at.
    fn thresholds(&self, version: usize) -> Option<Thresholds> {
        let (judges, own) = self.judges.get(&version).zip(self.held_out_answers.get(&version))?;
        let points = self.points(&judges.held_out);
        let base: Option<Vec<Answer>> = (judges.held_out.iter())
            .map(|(window, number)| self.answers.get(&(0, *window))?.get(*number).cloned())
            .collect();
        let (own, base) = best_threshold(&points, own).zip(best_threshold(&points, &base?))?;
        Some(Thresholds { points: points.len(), own, base })
    }

    fn judgements(&self, thresholds: &BTreeMap<usize, Thresholds>) -> Judged {
        let mut all = Judged::new();
        for ((version, window), said) in &self.answers {
            let points = self.stretches[window - 1].points();
            all.insert((name(*version), *window), judged(&points, said, self.plan.threshold));
            let Some(found) = thresholds.get(version) else { continue };
            all.insert((calibrated(*version), *window), judged(&points, said, found.own.threshold));
            if let Some(base) = self.answers.get(&(0, *window)) {
                all.insert((base_beside(*version), *window), judged(&points, base, found.base.threshold));
            }
        }
        for window in (1..=self.stretches.len()).take_while(|window| self.is_decided(*window)) {
            let serving = all.get(&(name(self.serving(window)), window)).cloned();
            if let Some(judgements) = serving {
                all.insert((SERVED.to_owned(), window), judgements);
            }
        }
        let mut cache = NgramCache::default();
        for (stretch, window) in self.stretches.iter().zip(1..) {
            let points = stretch.points();
            let repeated: Vec<Answer> =
                points.iter().map(|point| Answer::certain(repeat_last_substitution(&point.context))).collect();
            all.insert((REPEAT_LAST.to_owned(), window), judged(&points, &repeated, self.plan.threshold));
            let remembered = remembered(&mut cache, &stretch.steps);
            all.insert((NGRAM_CACHE.to_owned(), window), judged(&points, &remembered, self.plan.threshold));
        }
        all
    }

    fn versions(&self, judged: &Judged, thresholds: &BTreeMap<usize, Thresholds>) -> Vec<Version> {
        let plain = |name: &str, kind, version: Option<usize>| Version {
            name: name.to_owned(),
            kind,
            trained_through: None,
            training_pairs: None,
            silent_pairs: None,
            training_seconds: None,
            model_digest: None,
            old_skills: None,
            gate: None,
            thresholds: None,
            failed: None,
            scores: self.scores(name, version, judged),
        };
        let mut versions = vec![
            plain(REPEAT_LAST, Kind::Baseline, None),
            plain(NGRAM_CACHE, Kind::Baseline, None),
            plain(BASE, Kind::Base, Some(0)),
            plain(SERVED, Kind::Served, None),
        ];
        for (number, outcome) in &self.trained {
            let version =
                Version { trained_through: Some(*number), ..plain(&name(*number), Kind::Trained, Some(*number)) };
            versions.push(match outcome {
                Outcome::Failed(reason) => Version { failed: Some(reason.clone()), ..version },
                Outcome::Trained(result, _) => Version {
                    training_pairs: Some(result.training_pairs),
                    silent_pairs: self.judges.get(number).map(|judges| judges.silences),
                    training_seconds: Some(result.training_seconds),
                    model_digest: Some(result.model_digest.clone()),
                    old_skills: Some((result.old_skills_candidate.exact, result.old_skills_parent.exact)),
                    gate: Some(result.gate.clone()),
                    thresholds: thresholds.get(number).copied(),
                    ..version
                },
            });
        }
        versions
    }

    /// How `name` stands on each window; `version` is its number where it is a model.
    fn scores(&self, name: &str, version: Option<usize>, judged: &Judged) -> Vec<Score> {
        let mut scores = Vec::new();
        for (stretch, window) in self.stretches.iter().zip(1..) {
            let Some(own) = judged.get(&(name.to_owned(), window)) else { continue };
            let points = stretch.points();
            let differences: Vec<Difference> = [BASE, REPEAT_LAST, NGRAM_CACHE]
                .into_iter()
                .filter(|other| *other != name)
                .filter_map(|other| self.over(judged, other, &[(window, name.to_owned(), other.to_owned())]))
                .collect();
            let best = version.and_then(|version| best_threshold(&points, self.answers.get(&(version, window))?));
            let calibrated = version.and_then(|version| {
                let names = (window, calibrated(version), base_beside(version));
                let figures = Figures::of(&points, judged.get(&(names.1.clone(), window))?);
                Some(Calibrated { figures, against_base: self.over(judged, BASE, &[names])? })
            });
            scores.push(Score { window, figures: Figures::of(&points, own), differences, calibrated, best });
        }
        scores
    }

    /// Over all windows that something can have been learned before, `own` at each of them against each who learns
    /// nothing, as `other` names it there.
    fn claims(
        &self,
        judged: &Judged,
        own: impl Fn(usize) -> Option<String>,
        other: impl Fn(&str, usize) -> String,
    ) -> Vec<Difference> {
        let claim = |against: &str| {
            let names: Vec<(usize, String, String)> = (FIRST_LEARNED..=self.stretches.len())
                .filter_map(|window| Some((window, own(window)?, other(against, window))))
                .collect();
            self.over(judged, against, &names)
        };
        [BASE, REPEAT_LAST, NGRAM_CACHE].into_iter().filter_map(claim).collect()
    }

    /// The difference over windows, each with the names of who is compared there; none where nobody is.
    fn over(&self, judged: &Judged, against: &str, names: &[(usize, String, String)]) -> Option<Difference> {
        let mut paired: Vec<Paired<'_>> = Vec::new();
        for (window, own, other) in names {
            let own = judged.get(&(own.clone(), *window));
            let Some((own, other)) = own.zip(judged.get(&(other.clone(), *window))) else { continue };
            let points = self.stretches[window - 1].points().into_iter();
            paired.extend(
                points.zip(own.iter().zip(other)).map(|(point, (own, other))| (point.change.as_str(), *own, *other)),
            );
        }
        (!paired.is_empty()).then(|| difference(against, &paired, self.plan.points.seed))
    }
}
