//! What several rounds measured.

/// Values of one figure, a value a round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn into_values(self) -> Vec<f64> {
        self.0
    }

    pub(crate) fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.0.extend(values);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value at a quantile, 0 to 1, one of those measured; 0 without any.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        simulator::driver::quantile_of(&sorted, quantile).unwrap_or_default()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn maximum(&self) -> f64 {
        self.quantile(1.0)
    }

    /// What a reader of the median would ask for.
    pub(crate) fn spread(&self) -> String {
        let places = if self.maximum() < 100.0 { 2 } else { 0 };
        format!("{:.places$} to {:.places$} in {} rounds", self.quantile(0.0), self.maximum(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values_and_the_spread_has_the_ends() {
        let mut series = Series::default();
        assert_eq!((series.median(), series.len()), (0.0, 0));
        series.extend([300.0, 100.0]);
        series.push(200.0);
        assert_eq!((series.median(), series.maximum()), (200.0, 300.0));
        assert_eq!(series.spread(), "100 to 300 in 3 rounds");
    }
}
