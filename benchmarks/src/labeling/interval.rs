//! Intervals over what is independent: what one person does is alike, and what the persons of a seed do shares a model.

use statrs::distribution::{Beta, ContinuousCDF as _, StudentsT};

/// A share with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Of how many.
    pub(crate) of: usize,
}

/// A mean with half of its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    pub(crate) value: f64,
    pub(crate) half: f64,
}

fn t_quantile(freedom: f64) -> f64 {
    if freedom < 1.0 {
        return f64::INFINITY;
    }
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(0.975))
}

fn beta_quantile(a: f64, b: f64, quantile: f64) -> f64 {
    Beta::new(a, b).map_or(f64::NAN, |beta| beta.inverse_cdf(quantile))
}

/// The share of `right` among `of`, each person one entry (right, of); none when there is nothing to judge.
///
/// Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
/// from survey data" (1998): the exact binomial interval for as many independent observations as these are worth. Where
/// all persons have the same share nothing says how alike they are inside, so each counts once.
pub(crate) fn clustered_share(persons: &[(usize, usize)]) -> Option<Share> {
    let seen: Vec<(f64, f64)> =
        persons.iter().filter(|(_, of)| *of > 0).map(|(right, of)| (*right as f64, *of as f64)).collect();
    let (right, of) = seen.iter().fold((0.0, 0.0), |(right, of), one| (right + one.0, of + one.1));
    if of == 0.0 {
        return None;
    }
    let (clusters, value) = (seen.len() as f64, right / of);
    let spread: f64 = seen.iter().map(|(right, of)| (right - value * of).powi(2)).sum();
    let variance = if clusters > 1.0 { clusters / (clusters - 1.0) * spread / (of * of) } else { 0.0 };
    let plain = value * (1.0 - value);
    let worth = if variance > 0.0 && plain > 0.0 { (plain / variance).min(of) } else { clusters };
    // Few persons know their own spread badly.
    let ratio = t_quantile(of - 1.0) / t_quantile(clusters - 1.0);
    let worth = if ratio.is_finite() { worth * ratio.min(1.0).powi(2) } else { worth };
    let hits = value * worth;
    let low = if hits > 0.0 { beta_quantile(hits, worth - hits + 1.0, 0.025) } else { 0.0 };
    let high = if hits < worth { beta_quantile(hits + 1.0, worth - hits, 0.975) } else { 1.0 };
    Some(Share { value, low: low.clamp(0.0, value), high: high.clamp(value, 1.0), of: of as usize })
}

/// The mean over independent units, each with one value; Student's t on one less degree of freedom.
pub(crate) fn mean_of_units(values: &[f64]) -> Mean {
    let count = values.len() as f64;
    let value = values.iter().sum::<f64>() / count.max(1.0);
    if values.len() < 2 {
        return Mean { value, half: f64::INFINITY };
    }
    let variance = values.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (count - 1.0);
    Mean { value, half: t_quantile(count - 1.0) * (variance / count).sqrt() }
}

/// Fewer units than this say nothing of what differs between them.
pub(crate) const LEAST_UNITS: usize = 3;

/// Both ends of the 95% interval of [`mean_of_units`]; none of too few units.
pub(crate) fn bounds(values: &[f64]) -> Option<(f64, f64)> {
    let mean = mean_of_units(values);
    (values.len() >= LEAST_UNITS).then_some((mean.value - mean.half, mean.value + mean.half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_persons_are_worth_less_than_their_opportunities() {
        // Twenty of forty either way; in the second case each person is always right or always wrong.
        let mixed: Vec<(usize, usize)> = (0..10).map(|_| (2, 4)).collect();
        let alike: Vec<(usize, usize)> = (0..10).map(|number| (if number % 2 == 0 { 4 } else { 0 }, 4)).collect();
        let (mixed, alike) = (clustered_share(&mixed).unwrap(), clustered_share(&alike).unwrap());
        assert_eq!((mixed.value, alike.value), (0.5, 0.5));
        assert!(alike.high - alike.low > 0.5, "{alike:?}");
        assert!(alike.low < mixed.low + 0.2 && mixed.low < 0.5 && mixed.high > 0.5, "{mixed:?}");
    }

    #[test]
    fn a_share_of_one_is_not_certain() {
        let share = clustered_share(&[(5, 5), (5, 5), (5, 5)]).unwrap();
        assert_eq!((share.value, share.high, share.of), (1.0, 1.0, 15));
        assert!(share.low < 0.8, "{share:?}");
        assert_eq!(clustered_share(&[(0, 0)]), None);
    }

    #[test]
    fn a_mean_of_one_unit_says_nothing() {
        assert_eq!(mean_of_units(&[0.3]).half, f64::INFINITY);
        let two = mean_of_units(&[0.0, 1.0]);
        assert!((two.value - 0.5).abs() < 1e-12 && (two.half - 12.706_2 * 0.5).abs() < 1e-3, "{two:?}");
    }
}
