//! The values of some rounds: their median and their spread.

/// The values of one measurement, one for each round.
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Returns the median, or 0 without values.
    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// Returns half the distance between the least and the greatest value, as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        let (Some(least), Some(greatest)) = (self.0.first(), self.0.last()) else { return 0.0 };
        if self.median() > 0.0 { (greatest - least) / 2.0 / self.median() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_a_part_of_the_median() {
        let series = Series::new([12.0, 8.0, 10.0]);
        assert!((series.median() - 10.0).abs() < f64::EPSILON);
        assert!((series.spread() - 0.2).abs() < f64::EPSILON);
        assert!(Series::new([]).median().abs() < f64::EPSILON);
    }
}
