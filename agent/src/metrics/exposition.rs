//! Prometheus' text format, version 0.0.4: what kube-proxy serves, and what every scraper reads.
//!
//! prometheus-client writes OpenMetrics, where a counter's family has no `_total`, a name with that suffix cannot be a
//! gauge, and so some of kube-proxy's names cannot be said. Samples are the same in both formats; comments differ.

use std::fmt::{self, Write as _};

use prometheus_client::{encoding::text::encode_registry, registry::Registry};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The registry's content.
pub(super) fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut metrics = String::new();
    encode_registry(&mut metrics, registry)?;
    from_open_metrics(&metrics)
}

fn from_open_metrics(metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(metrics.len());
    let mut lines = metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((family, help)) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
        else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        // The type follows the help, and a family without samples is left out.
        let kind = lines
            .next()
            .and_then(|line| line.rsplit_once(' '))
            .map_or("untyped", |(_, kind)| kind);
        if lines.peek().is_none_or(|next| next.starts_with('#')) {
            continue;
        }
        let total = if kind == "counter" { "_total" } else { "" };
        writeln!(text, "# HELP {family}{total} {help}")?;
        writeln!(text, "# TYPE {family}{total} {kind}")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_full_name_and_empty_families_vanish() {
        let open_metrics = "# HELP a A counter.\n# TYPE a counter\na_total{x=\"# HELP\"} 1\n\
                            # HELP empty Nothing.\n# TYPE empty gauge\n\
                            # HELP b_total A gauge.\n# TYPE b_total gauge\nb_total 2\n\
                            # HELP none Nothing.\n# TYPE none counter\n";
        assert_eq!(
            from_open_metrics(open_metrics).unwrap(),
            "# HELP a_total A counter.\n# TYPE a_total counter\na_total{x=\"# HELP\"} 1\n\
             # HELP b_total A gauge.\n# TYPE b_total gauge\nb_total 2\n"
        );
    }
}
