//! Ratios with their spread.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The median of some numbers, and their spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Half of them are no greater.
    pub(crate) median: f64,
    /// A quarter of them is no greater.
    pub(crate) low: f64,
    /// A quarter of them is no less.
    pub(crate) high: f64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Summary {
    /// Of some numbers; `None` if there are none.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
            count: sorted.len(),
        })
    }

    /// Of the ratios of two series, round by round. Rounds in which either was not measured do not count.
    pub(crate) fn of_ratios(measured: &[Option<f64>], reference: &[Option<f64>]) -> Option<Self> {
        let rounds = measured.iter().zip(reference);
        Self::of(
            rounds.filter_map(|(measured, reference)| match (measured, reference) {
                (Some(measured), Some(reference)) if *reference > 0.0 => Some(measured / reference),
                _ => None,
            }),
        )
    }
}

/// Between two numbers of a sorted series where the share falls between them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = share * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * at.fract())
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} ({:.2} .. {:.2})",
            self.median, self.low, self.high
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_the_quarters_around_it() {
        assert_eq!(Summary::of([]), None);
        let one = Summary::of([7.0]).expect("there is a number");
        assert_eq!((one.median, one.low, one.high), (7.0, 7.0, 7.0));
        let five = Summary::of([5.0, 1.0, 4.0, 2.0, 3.0]).expect("there are numbers");
        assert_eq!((five.median, five.low, five.high), (3.0, 2.0, 4.0));
        let four = Summary::of([1.0, 2.0, 3.0, 4.0]).expect("there are numbers");
        assert_eq!((four.median, four.low, four.high), (2.5, 1.75, 3.25));
        assert_eq!(four.to_string(), "2.50 (1.75 .. 3.25)");
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ratios = Summary::of_ratios(
            &[Some(1.0), None, Some(9.0), Some(4.0)],
            &[Some(2.0), Some(1.0), Some(3.0), Some(0.0)],
        )
        .expect("two rounds count");
        assert_eq!((ratios.median, ratios.count), (1.75, 2));
    }
}
