//! Ratios to direct, a row for each line of a table: a dot at the median, whiskers at the quarters.

use super::{
    colour,
    svg::{Anchor, QUIET, Style, Svg},
};
use crate::{
    contender::Contender,
    report::{Cell, Figure, Line, Table},
};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = WIDTH - 180.0;
const TOP: f64 = 78.0;
const HEADING: f64 = 34.0;
const AXIS: f64 = 30.0;
/// Between the rows of two contenders.
const STEP: f64 = 11.0;

/// A scale of ratios, from the left edge to the right.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> f64 {
        LEFT + (ratio.clamp(self.low, self.high) - self.low) / (self.high - self.low)
            * (RIGHT - LEFT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(|tick| self.low + f64::from(tick) * self.step)
    }
}

/// More is better up to 1.4; of what should be little, more may be shown.
const GAINS: Scale = Scale {
    low: 0.4,
    high: 1.4,
    step: 0.1,
};
const COSTS: Scale = Scale {
    low: 0.6,
    high: 2.0,
    step: 0.2,
};

pub(super) fn plot(table: &Table) -> String {
    let contenders: Vec<Contender> = Contender::PROXIES
        .into_iter()
        .filter(|&contender| {
            let mut cells = table.lines.iter().flat_map(|line| &line.contenders);
            cells.any(|cell| cell.contender == contender && cell.ratio.is_some())
        })
        .collect();
    let row = STEP * contenders.len() as f64 + 9.0;
    let figures: Vec<(Figure, Vec<&Line>)> = Figure::ALL
        .into_iter()
        .map(|figure| {
            let lines = table.lines.iter().filter(|line| line.group == figure);
            (figure, lines.collect::<Vec<_>>())
        })
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let rows: usize = figures.iter().map(|(_, lines)| lines.len()).sum();
    let height = TOP + rows as f64 * row + figures.len() as f64 * (HEADING + AXIS) + 10.0;

    let mut svg = Svg::new(WIDTH, height);
    svg.text(24.0, 32.0, Anchor::Start, Style::Title, &table.title());
    svg.legend(
        24.0,
        58.0,
        &contenders,
        "direct = 1: the same pods, no services",
    );
    let mut y = TOP;
    for (figure, lines) in figures {
        y = panel(&mut svg, y, row, figure, &lines, &contenders);
    }
    svg.finish()
}

/// One figure's rows, from `top` on; where the next may begin.
fn panel(
    svg: &mut Svg,
    top: f64,
    row: f64,
    figure: Figure,
    lines: &[&Line],
    contenders: &[Contender],
) -> f64 {
    let scale = if figure.more_is_better() {
        &GAINS
    } else {
        &COSTS
    };
    let sense = if figure.more_is_better() {
        "more is better \u{2192}"
    } else {
        "\u{2190} less is better"
    };
    let first = top + HEADING;
    let bottom = first + row * lines.len() as f64;
    svg.text(
        24.0,
        first - 10.0,
        Anchor::Start,
        Style::Heading,
        figure.title(),
    );
    svg.text(RIGHT, first - 10.0, Anchor::End, Style::Small(QUIET), sense);
    for number in (0..lines.len()).step_by(2) {
        svg.band(24.0, first + row * number as f64, WIDTH - 48.0, row);
    }
    for tick in scale.ticks() {
        let x = scale.x(tick);
        svg.grid((x, first), (x, bottom));
        let label = format!("{tick:.1}");
        svg.text(
            x,
            bottom + 15.0,
            Anchor::Middle,
            Style::Small(QUIET),
            &label,
        );
    }
    svg.reference((scale.x(1.0), first), (scale.x(1.0), bottom));
    for (number, line) in lines.iter().enumerate() {
        let middle = first + row * (number as f64 + 0.5);
        svg.text(36.0, middle + 4.0, Anchor::Start, Style::Plain, &line.title);
        for (place, contender) in contenders.iter().enumerate() {
            let offset = place as f64 - (contenders.len() as f64 - 1.0) / 2.0;
            let cell = line
                .contenders
                .iter()
                .find(|cell| cell.contender == *contender);
            if let Some(cell) = cell {
                mark(svg, scale, cell, middle + offset * STEP);
            }
        }
        let values: Vec<(Contender, String)> = contenders
            .iter()
            .filter_map(|contender| {
                let cell = line
                    .contenders
                    .iter()
                    .find(|cell| cell.contender == *contender)?;
                let ratio = cell
                    .ratio
                    .map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median));
                Some((*contender, ratio))
            })
            .collect();
        for (place, (contender, value)) in values.iter().enumerate() {
            let x = RIGHT + 48.0 + 46.0 * place as f64;
            let style = Style::Small(colour(*contender));
            svg.text(x, middle + 4.0, Anchor::Middle, style, value);
        }
    }
    bottom + AXIS
}

fn mark(svg: &mut Svg, scale: &Scale, cell: &Cell, y: f64) {
    let Some(ratio) = cell.ratio else {
        return;
    };
    let colour = colour(cell.contender);
    svg.line(
        (scale.x(ratio.low), y),
        (scale.x(ratio.high), y),
        colour,
        2.0,
    );
    if ratio.median > scale.high || ratio.median < scale.low {
        svg.beyond(scale.x(ratio.median), y, ratio.median > scale.high, colour);
    } else {
        svg.dot(scale.x(ratio.median), y, 4.5, colour);
    }
}
