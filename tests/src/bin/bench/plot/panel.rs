//! A small plot over the number of services.

use super::{
    colour,
    svg::{Anchor, QUIET, Style, Svg},
};
use crate::{contender::Contender, ratio::Summary, report::grouped};

/// Width and height of one, its labels included.
pub(super) const SIZE: (f64, f64) = (480.0, 240.0);
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const ABOVE: f64 = 36.0;
const BELOW: f64 = 36.0;

/// What is drawn of one contender, by number of services.
pub(super) struct Series {
    pub(super) contender: Contender,
    pub(super) points: Vec<(u32, Summary)>,
}

/// What the heights are.
#[derive(Clone, Copy)]
pub(super) enum Height {
    /// Ratios to direct.
    Ratio,
    /// Seconds, on a logarithmic scale.
    Seconds,
    /// Bytes, on a logarithmic scale.
    Bytes,
}

impl Height {
    /// The scale's ends and ticks.
    fn scale(self, series: &[Series]) -> (f64, f64, Vec<f64>) {
        let values = series.iter().flat_map(|series| &series.points);
        let values: Vec<f64> = values
            .flat_map(|(_, value)| [value.low, value.high])
            .collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self {
            Self::Ratio => {
                // What is beyond is drawn at the edge.
                let low = (least.clamp(0.0, 0.7) * 5.0).floor() / 5.0;
                let high = (most.clamp(1.1, 1.6) * 5.0).ceil() / 5.0;
                let count = ((high - low) / 0.2).round() as u32;
                let ticks = (0..=count).map(|tick| low + 0.2 * f64::from(tick));
                (low, high, ticks.collect())
            }
            Self::Seconds | Self::Bytes => {
                let low = least.max(1e-6).log10().floor() as i32;
                let high = (most.max(1e-6).log10().ceil() as i32).max(low + 1);
                let ticks = (low..=high).map(|power| 10_f64.powi(power)).collect();
                (10_f64.powi(low), 10_f64.powi(high), ticks)
            }
        }
    }

    /// How high up a value is, from 0 to 1.
    fn share(self, value: f64, (low, high): (f64, f64)) -> f64 {
        let share = match self {
            Self::Ratio => (value - low) / (high - low),
            Self::Seconds | Self::Bytes => {
                (value.max(low).log10() - low.log10()) / (high.log10() - low.log10())
            }
        };
        share.clamp(0.0, 1.0)
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.1}"),
            Self::Seconds if value >= 1.0 => format!("{value:.0} s"),
            Self::Seconds if value >= 0.001 => format!("{:.0} ms", value * 1e3),
            Self::Seconds => format!("{:.0} us", value * 1e6),
            Self::Bytes => format!("{:.0} MB", value / 1e6),
        }
    }
}

/// Draws one with its upper left corner at `at`. `sizes` are all numbers of services of the plot.
pub(super) fn draw(
    svg: &mut Svg,
    at: (f64, f64),
    title: &str,
    sizes: &[u32],
    series: &[Series],
    height: Height,
) {
    let (left, right) = (at.0 + LEFT, at.0 + SIZE.0 - RIGHT);
    let (top, bottom) = (at.1 + ABOVE, at.1 + SIZE.1 - BELOW);
    let (low, high, ticks) = height.scale(series);
    let y = |value: f64| bottom - height.share(value, (low, high)) * (bottom - top);
    let (Some(&fewest), Some(&most)) = (sizes.first(), sizes.last()) else {
        return;
    };
    let logarithm = |size: u32| f64::from(size.max(1)).log10();
    let span = (logarithm(most) - logarithm(fewest)).max(f64::MIN_POSITIVE);
    let x = |size: u32| left + (logarithm(size) - logarithm(fewest)) / span * (right - left);

    svg.text(left, at.1 + 22.0, Anchor::Start, Style::Heading, title);
    for tick in ticks {
        svg.grid((left, y(tick)), (right, y(tick)));
        let label = height.label(tick);
        svg.text(
            left - 8.0,
            y(tick) + 4.0,
            Anchor::End,
            Style::Small(QUIET),
            &label,
        );
    }
    if matches!(height, Height::Ratio) {
        svg.reference((left, y(1.0)), (right, y(1.0)));
    }
    for &size in sizes {
        svg.text(
            x(size),
            bottom + 18.0,
            Anchor::Middle,
            Style::Small(QUIET),
            &grouped(size),
        );
    }
    for series in series {
        let colour = colour(series.contender);
        let points: Vec<(f64, f64)> = series
            .points
            .iter()
            .map(|(size, value)| (x(*size), y(value.median)))
            .collect();
        svg.path(&points, colour);
        for (size, value) in &series.points {
            svg.line(
                (x(*size), y(value.low)),
                (x(*size), y(value.high)),
                colour,
                1.5,
            );
            svg.dot(x(*size), y(value.median), 4.5, colour);
        }
    }
}
