//! How ratios change with the number of services: a small plot for each row that was measured with every number.

use weir_world::Wiring;

use super::{
    panel::{self, Height, Series},
    svg::{Anchor, Style, Svg},
};
use crate::{
    contender::Contender,
    report::{Figure, Line, Report, Table},
};

const COLUMNS: usize = 2;
const TOP: f64 = 78.0;

/// Of the lines of which more is better. None if there is but one number of services.
pub(super) fn plot(report: &Report) -> Option<String> {
    let of_wiring = |table: &&Table| table.wiring == Wiring::Routed;
    let tables: Vec<&Table> = report.traffic.iter().filter(of_wiring).collect();
    let sizes: Vec<u32> = tables.iter().map(|table| table.services).collect();
    if sizes.len() < 2 {
        return None;
    }
    let everywhere = |line: &&Line| {
        line.group.more_is_better() && tables.iter().all(|table| find(table, line).is_some())
    };
    let lines: Vec<&Line> = tables[0].lines.iter().filter(everywhere).collect();
    let rows = lines.len().div_ceil(COLUMNS);
    let (width, height) = panel::SIZE;
    let mut svg = Svg::new(width * COLUMNS as f64, TOP + height * rows as f64 + 10.0);
    let title = "Traffic by number of services, as ratios to direct (more is better)";
    svg.text(24.0, 32.0, Anchor::Start, Style::Title, title);
    svg.legend(24.0, 58.0, &Contender::PROXIES, "direct = 1");
    for (number, line) in lines.iter().enumerate() {
        let series = Contender::PROXIES.map(|contender| Series {
            contender,
            points: tables
                .iter()
                .filter_map(|table| {
                    let mut cells = find(table, line)?.contenders.iter();
                    let ratio = cells.find(|cell| cell.contender == contender)?.ratio?;
                    Some((table.services, ratio))
                })
                .collect(),
        });
        let what = match line.group {
            Figure::Connects => "Connections",
            Figure::Datagrams => "UDP packets",
            _ => "Throughput",
        };
        let at = (
            width * (number % COLUMNS) as f64,
            TOP + height * (number / COLUMNS) as f64,
        );
        let title = format!("{what}, {}", line.title);
        panel::draw(&mut svg, at, &title, &sizes, &series, Height::Ratio);
    }
    Some(svg.finish())
}

fn find<'a>(table: &'a Table, line: &Line) -> Option<&'a Line> {
    let mut lines = table.lines.iter();
    lines.find(|other| other.group == line.group && other.title == line.title)
}
