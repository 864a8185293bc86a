//! Ratios with their spread.

use std::fmt;

/// The ratios of some rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ratios(Vec<f64>);

impl Ratios {
    /// One more round.
    pub(crate) fn push(&mut self, measured: f64, reference: f64) {
        if reference > 0.0 {
            self.0.push(measured / reference);
        }
    }

    /// The median, the least and the greatest.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Summary {
            median,
            least,
            greatest,
        })
    }
}

/// The median of some ratios, and their spread.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} ({:.2} .. {:.2})",
            self.median, self.least, self.greatest
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut ratios = Ratios::default();
        assert_eq!(ratios.summary(), None);
        for measured in [3.0, 1.0, 2.0, 4.0] {
            ratios.push(measured, 1.0);
        }
        ratios.push(1.0, 0.0);
        let summary = ratios.summary().expect("there are rounds");
        assert_eq!(
            summary,
            Summary {
                median: 2.5,
                least: 1.0,
                greatest: 4.0
            }
        );
        assert_eq!(summary.to_string(), "2.50 (1.00 .. 4.00)");
    }
}
