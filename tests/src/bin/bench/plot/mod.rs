//! Plots, as SVG.

mod control;
mod panel;
mod ratios;
mod scaling;
mod svg;

use weir_world::Wiring;

use crate::{contender::Contender, report::Report};

/// All plots of a report, with the names of their files.
pub(crate) fn all(report: &Report) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for table in &report.traffic {
        let wiring = match table.wiring {
            Wiring::Routed => "routed",
            Wiring::Bridged => "bridged",
        };
        let name = format!("services-{wiring}-{}.svg", table.services);
        plots.push((name, ratios::plot(table)));
    }
    plots.extend(scaling::plot(report).map(|svg| ("services-scaling.svg".to_owned(), svg)));
    plots.extend(control::plot(report).map(|svg| ("services-control.svg".to_owned(), svg)));
    plots
}

/// The colour of a contender: apart for eyes that see fewer colours, too.
fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Direct => "#5b6470",
        Contender::Weir => "#0072b2",
        Contender::Nftables => "#d55e00",
        Contender::Iptables => "#b07aa1",
    }
}
