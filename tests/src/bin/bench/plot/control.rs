//! The control planes: what they take, by number of services.

use super::{
    panel::{self, Height, Series},
    svg::{Anchor, Style, Svg},
};
use crate::{contender::Contender, ratio::Summary, report::Report, standing::Standing};

const TOP: f64 = 78.0;

type Pick = fn(&Standing) -> Option<Summary>;

/// None if none was measured.
pub(super) fn plot(report: &Report) -> Option<String> {
    let mut sizes: Vec<u32> = report.control.iter().map(|one| one.services).collect();
    sizes.dedup();
    if sizes.len() < 2 {
        return None;
    }
    let panels: [(&str, Height, Pick); 5] = [
        ("Until all is programmed", Height::Seconds, |one| {
            single(one.ready?)
        }),
        ("CPU time of it", Height::Seconds, |one| {
            single(one.ready_cpu?)
        }),
        (
            "One endpoint changes: until connections notice",
            Height::Seconds,
            |one| one.change,
        ),
        ("CPU time of it", Height::Seconds, |one| one.change_cpu),
        ("Anonymous memory", Height::Bytes, |one| {
            single(one.anonymous? as f64)
        }),
    ];
    let (width, height) = panel::SIZE;
    let mut svg = Svg::new(width * 2.0, TOP + height * 3.0 + 10.0);
    let title = "Control planes by number of services, on one node (less is better)";
    svg.text(24.0, 32.0, Anchor::Start, Style::Title, title);
    svg.legend(24.0, 58.0, &Contender::PROXIES, "");
    for (number, (title, scale, pick)) in panels.into_iter().enumerate() {
        let series = Contender::PROXIES.map(|contender| Series {
            contender,
            points: report
                .control
                .iter()
                .filter(|one| one.contender == contender)
                .filter_map(|one| Some((one.services, pick(one)?)))
                .collect(),
        });
        let at = (
            width * (number % 2) as f64,
            TOP + height * (number / 2) as f64,
        );
        panel::draw(&mut svg, at, title, &sizes, &series, scale);
    }
    Some(svg.finish())
}

fn single(value: f64) -> Option<Summary> {
    Summary::of([value])
}
