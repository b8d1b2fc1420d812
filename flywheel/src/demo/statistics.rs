//! Intervals for ratios whose units come in clusters: opportunities of the same person are not independent.
//!
//! A rate is R = sum(Y) / sum(N) over persons. Its variance is the linearised cluster variance
//! k/(k-1) * sum((Y_i - R N_i)^2) / (sum N)^2 (Cochran, "Sampling Techniques", 3rd ed., section 6.3), with Student's t
//! on k-1 degrees of freedom; a difference of two groups of persons adds variances with Welch's degrees of freedom.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// One person's share of a rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cluster {
    /// Sum of the numerator.
    pub(crate) sum: f64,
    /// Sum of the denominator.
    pub(crate) count: f64,
}

/// A rate with its 95% interval. `null` bounds mean that fewer than two persons stand behind it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rate {
    pub(crate) value: f64,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Estimate {
    value: f64,
    variance: Option<f64>,
    persons: f64,
}

fn estimate(clusters: &[Cluster]) -> Option<Estimate> {
    let used: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.count > 0.0).collect();
    let count: f64 = used.iter().map(|cluster| cluster.count).sum();
    if count <= 0.0 {
        return None;
    }
    let value = used.iter().map(|cluster| cluster.sum).sum::<f64>() / count;
    let persons = used.len() as f64;
    let squares: f64 = used.iter().map(|cluster| (cluster.sum - value * cluster.count).powi(2)).sum();
    let variance = (used.len() >= 2).then(|| persons / (persons - 1.0) * squares / (count * count));
    Some(Estimate { value, variance, persons })
}

/// Half the width of a 95% interval.
fn half_width(variance: f64, degrees_of_freedom: f64) -> f64 {
    let quantile =
        StudentsT::new(0.0, 1.0, degrees_of_freedom.max(1.0)).map_or(f64::INFINITY, |t| t.inverse_cdf(0.975));
    quantile * variance.sqrt()
}

/// The rate over all clusters; zero without any unit.
pub(crate) fn rate(clusters: &[Cluster]) -> Rate {
    let Some(estimate) = estimate(clusters) else { return Rate { value: 0.0, low: None, high: None } };
    let half = estimate.variance.map(|variance| half_width(variance, estimate.persons - 1.0));
    Rate {
        value: estimate.value,
        low: half.map(|half| estimate.value - half),
        high: half.map(|half| estimate.value + half),
    }
}

/// `treated` minus `control`, for disjoint groups of persons.
pub(crate) fn difference(treated: &[Cluster], control: &[Cluster]) -> Rate {
    let (Some(a), Some(b)) = (estimate(treated), estimate(control)) else {
        return Rate { value: 0.0, low: None, high: None };
    };
    let value = a.value - b.value;
    let half = a.variance.zip(b.variance).map(|(left, right)| {
        let total = left + right;
        let welch = left * left / (a.persons - 1.0) + right * right / (b.persons - 1.0);
        half_width(total, if welch > 0.0 { total * total / welch } else { a.persons + b.persons - 2.0 })
    });
    Rate { value, low: half.map(|half| value - half), high: half.map(|half| value + half) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persons(values: &[(f64, f64)]) -> Vec<Cluster> {
        values.iter().map(|&(sum, count)| Cluster { sum, count }).collect()
    }

    #[test]
    fn equal_clusters_give_the_t_interval_of_a_mean() {
        // Mean of 1, 2, 3, 4 with one unit each: 2.5 +- 3.182446 * sqrt(5/3/4).
        let rate = rate(&persons(&[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0)]));
        assert!((rate.value - 2.5).abs() < 1e-12);
        assert!((rate.high.unwrap() - (2.5 + 3.182_446_305 * (5.0_f64 / 12.0).sqrt())).abs() < 1e-6);
    }

    #[test]
    fn repeating_a_persons_units_does_not_narrow_the_interval() {
        let few = rate(&persons(&[(1.0, 2.0), (0.0, 2.0), (2.0, 2.0)]));
        let many = rate(&persons(&[(10.0, 20.0), (0.0, 20.0), (20.0, 20.0)]));
        assert!((few.high.unwrap() - many.high.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn a_difference_is_antisymmetric_and_one_person_has_no_interval() {
        let a = persons(&[(1.0, 2.0), (0.0, 3.0), (2.0, 2.0)]);
        let b = persons(&[(2.0, 2.0), (3.0, 3.0)]);
        let (forth, back) = (difference(&a, &b), difference(&b, &a));
        assert!((forth.value + back.value).abs() < 1e-12);
        assert!((forth.low.unwrap() + back.high.unwrap()).abs() < 1e-12);
        assert_eq!(difference(&a, &persons(&[(1.0, 1.0)])).low, None);
        assert_eq!(rate(&[]).value, 0.0);
    }
}
