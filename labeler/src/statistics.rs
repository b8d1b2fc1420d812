//! Ratios with intervals that know persons: opportunities of one person are not independent, so the person is the unit.
//!
//! The variance is the cluster-robust one of a ratio estimator (linearisation; Cochran, "Sampling Techniques", 6.4),
//! with Student's t at (persons - 1) degrees of freedom.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// An estimate with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// What one person contributes to a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Sum of the numerator.
    pub numerator: f64,
    /// Sum of the denominator.
    pub denominator: f64,
}

/// Sum of numerators over sum of denominators with a 95% interval. None without a denominator. With a single person
/// nothing is known about the spread between persons, so the interval is unbounded.
#[must_use]
pub fn clustered_ratio(clusters: &[Cluster]) -> Option<Estimate> {
    let clusters: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.denominator != 0.0).collect();
    let denominator: f64 = clusters.iter().map(|cluster| cluster.denominator).sum();
    if denominator == 0.0 {
        return None;
    }
    let value = clusters.iter().map(|cluster| cluster.numerator).sum::<f64>() / denominator;
    if clusters.len() < 2 {
        return Some(Estimate { value, low: f64::NEG_INFINITY, high: f64::INFINITY });
    }
    let persons = count(clusters.len());
    let squares: f64 = clusters
        .iter()
        .map(|cluster| {
            let residual = cluster.numerator - value * cluster.denominator;
            residual * residual
        })
        .sum();
    let standard_error = (persons / (persons - 1.0) * squares).sqrt() / denominator;
    let reach = student_t_975(persons - 1.0) * standard_error;
    Some(Estimate { value, low: value - reach, high: value + reach })
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

/// The 97.5% quantile of Student's t with `degrees` degrees of freedom.
fn student_t_975(degrees: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees).map_or(f64::INFINITY, |distribution| distribution.inverse_cdf(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_student_t() {
        // Printed tables.
        for (degrees, expected) in
            [(1.0, 12.7062), (2.0, 4.3027), (5.0, 2.5706), (10.0, 2.2281), (30.0, 2.0423), (1000.0, 1.9623)]
        {
            assert!((student_t_975(degrees) - expected).abs() < 1e-4, "{degrees}: {}", student_t_975(degrees));
        }
        // From there on it falls to the quantile of the normal distribution.
        let quantiles: Vec<f64> = (1..2000).map(|degrees| student_t_975(f64::from(degrees))).collect();
        assert!(quantiles.is_sorted_by(|earlier, later| earlier > later));
        assert!((student_t_975(1e5) - 1.959_988).abs() < 1e-4);
    }

    #[test]
    fn a_ratio_of_equal_clusters_is_a_mean() {
        let clusters: Vec<Cluster> =
            [0.0, 1.0, 2.0, 3.0].map(|numerator| Cluster { numerator, denominator: 1.0 }).to_vec();
        let estimate = clustered_ratio(&clusters).unwrap();
        // Mean 1.5, standard deviation sqrt(5/3), t(3) = 3.1824.
        let reach = 3.182_446 * (5.0_f64 / 3.0).sqrt() / 2.0;
        assert!((estimate.value - 1.5).abs() < 1e-12);
        assert!((estimate.high - 1.5 - reach).abs() < 1e-5);
        assert!((1.5 - estimate.low - reach).abs() < 1e-5);
    }

    #[test]
    fn little_data_says_little() {
        assert_eq!(clustered_ratio(&[]), None);
        assert_eq!(clustered_ratio(&[Cluster { numerator: 0.0, denominator: 0.0 }]), None);
        let one = clustered_ratio(&[Cluster { numerator: 3.0, denominator: 4.0 }]).unwrap();
        assert_eq!((one.value, one.low, one.high), (0.75, f64::NEG_INFINITY, f64::INFINITY));
    }

    /// Persons that repeat themselves widen the interval; counting their opportunities as independent would not.
    #[test]
    fn intervals_cover_at_their_level() {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let uniform = |seed: (u32, u32, u32)| {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            f64::from(u32::try_from(hasher.finish() >> 32).unwrap()) / f64::from(u32::MAX)
        };
        let covered = (0..400_u32)
            .filter(|run| {
                let clusters: Vec<Cluster> = (0..30_u32)
                    .map(|person| {
                        let rate = if uniform((*run, person, 0)) < 0.5 { 0.2 } else { 0.6 };
                        let successes = (1..=20).filter(|trial| uniform((*run, person, *trial)) < rate).count();
                        Cluster { numerator: count(successes), denominator: 20.0 }
                    })
                    .collect();
                let estimate = clustered_ratio(&clusters).unwrap();
                estimate.low <= 0.4 && 0.4 <= estimate.high
            })
            .count();
        assert!((365..=395).contains(&covered), "{covered} of 400");
    }
}
