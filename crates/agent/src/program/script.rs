//! A fleet's faults from a TOML file.

use std::path::Path;

use anyhow::{Context, bail};
use muster_agent::settings::{Span, read_bounded};
use muster_agent::{FaultFigures, FaultRule, Who};
use serde::Deserialize;

/// Largest script that is read.
const MAX_SCRIPT_BYTES: u64 = 256 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    slow_delay: Option<Span>,
    away: Option<Span>,
    clock_skew: Option<Span>,
    #[serde(default)]
    fault: Vec<Line>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    share: Option<String>,
    devices: Option<Vec<usize>>,
}

/// Reads a script; its figures go over those given.
pub(super) fn read(path: &Path, figures: &mut FaultFigures) -> anyhow::Result<Vec<FaultRule>> {
    parse(&read_bounded("fault script", path, MAX_SCRIPT_BYTES)?, figures).with_context(|| format!("fault script {}", path.display()))
}

fn parse(text: &str, figures: &mut FaultFigures) -> anyhow::Result<Vec<FaultRule>> {
    let script: Script = toml::from_str(text)?;
    for (value, figure) in
        [(script.slow_delay, &mut figures.slow_delay), (script.away, &mut figures.away), (script.clock_skew, &mut figures.clock_skew)]
    {
        if let Some(Span(value)) = value {
            *figure = value;
        }
    }
    let rule = |line: Line| match (line.share, line.devices) {
        (Some(share), None) => format!("{}={share}", line.name).parse().map_err(anyhow::Error::msg),
        (None, Some(devices)) => Ok(FaultRule { fault: line.name.parse().map_err(anyhow::Error::msg)?, who: Who::Numbers(devices) }),
        _ => bail!("fault {}: write either share = \"2%\" or devices = [3, 7]", line.name),
    };
    script.fault.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_agent::Fault;
    use std::time::Duration;

    #[test]
    fn scripts_are_read_or_refused_with_the_reason() {
        let mut figures = FaultFigures::default();
        let rules =
            parse("away = \"1s\"\n[[fault]]\nname = \"deaf\"\nshare = \"2%\"\n[[fault]]\nname = \"liar\"\ndevices = [3, 7]", &mut figures)
                .expect("rules");
        assert_eq!(
            rules,
            [FaultRule { fault: Fault::Deaf, who: Who::Share(0.02) }, FaultRule { fault: Fault::Liar, who: Who::Numbers(vec![3, 7]) }]
        );
        assert_eq!(figures, FaultFigures { away: Duration::from_secs(1), ..FaultFigures::default() });
        for (text, expected) in [
            ("[[fault]]\nname = \"deaf\"", "either share"),
            ("[[fault]]\nname = \"lazy\"\ndevices = [1]", "known are"),
            ("[[fault]]\nname = \"deaf\"\nshare = \"2\"\nurk = 1", "urk"),
            ("[[fault", "TOML"),
        ] {
            let error = format!("{:#}", parse(text, &mut figures).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
