//! A segment of a daemon of the bench, and what the daemon says about it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where a segment is.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The `wormhole` command.
    pub wormhole: PathBuf,
    /// The daemon's socket, as `-H` takes it.
    pub host: String,
    /// The segment's id.
    pub id: String,
}

/// Bytes of a segment both ways, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// All.
    pub all: u64,
    /// From socket to socket, without the daemon.
    pub direct: u64,
    /// Put into the receiver's queue by the relay.
    pub injected: u64,
}

impl Segment {
    /// What `wormhole ARGS -o json` says.
    fn ask(&self, args: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.wormhole);
        command.args(["-H", &self.host]).args(args).args(["-o", "json"]);
        let output = command.output().context("run wormhole")?;
        if !output.status.success() {
            bail!("wormhole {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("read what wormhole says")
    }

    /// The bytes so far, once no connection is open any more: then all are counted.
    pub fn settled(&self) -> Result<Flow> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let view = self.inspect()?;
            if view["connections"]["open"] == 0 || Instant::now() > end {
                return Ok(flow(&view));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn inspect(&self) -> Result<Value> {
        let view = self.ask(&["inspect", &self.id])?;
        // One view, or a list of one.
        Ok(view.get(0).cloned().unwrap_or(view))
    }

    /// What became of the connections, and whether the daemon has a fast path: a line for the reader.
    pub fn summary(&self) -> Result<String> {
        Ok(summarise(&self.ask(&["status"])?, &self.inspect()?))
    }
}

impl Flow {
    /// How much of what came since `before` went direct, between 0 and 1.
    pub fn direct_share_since(&self, before: &Self) -> f64 {
        match self.all - before.all {
            0 => 0.0,
            all => (self.direct - before.direct) as f64 / all as f64,
        }
    }
}

fn flow(view: &Value) -> Flow {
    // A daemon without a fast path counts everything under `bytes` and nothing elsewhere.
    let both = |name: &str| ["to_tail", "to_head"].iter().filter_map(|way| view[name][way].as_u64()).sum();
    Flow { all: both("bytes"), direct: both("direct"), injected: both("injected") }
}

fn summarise(status: &Value, view: &Value) -> String {
    let fastpath = match &status["fastpath"] {
        Value::String(line) => line.clone(),
        object => {
            let word = if object["active"] == true { "active" } else { "not active" };
            format!("{word}, {}", object["summary"].as_str().unwrap_or_default())
        }
    };
    let (flow, total) = (flow(view), view["connections"]["total"].as_u64().unwrap_or(0));
    let percent = |part: u64| if flow.all == 0 { 0.0 } else { 100.0 * part as f64 / flow.all as f64 };
    let fallbacks = match view["fallbacks"].as_object() {
        Some(reasons) if !reasons.is_empty() => {
            let each: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
            format!("; relayed: {}", each.join(", "))
        }
        _ => String::new(),
    };
    let (direct, injected) = (percent(flow.direct), percent(flow.injected));
    format!("fast path {fastpath}; {total} connections, {direct:.1} % of the bytes direct, {injected:.1} % injected{fallbacks}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares() {
        let view = json!({ "bytes": { "to_tail": 90, "to_head": 10 }, "direct": { "to_tail": 25, "to_head": 0 } });
        let now = flow(&view);
        assert_eq!(now, Flow { all: 100, direct: 25, injected: 0 });
        assert!((now.direct_share_since(&Flow::default()) - 0.25).abs() < 1e-9);
        assert!(now.direct_share_since(&now) < f64::EPSILON);
    }

    #[test]
    fn summaries_of_daemons_with_and_without() {
        let view = json!({ "connections": { "total": 7 }, "bytes": { "to_tail": 4, "to_head": 0 },
            "direct": { "to_tail": 3, "to_head": 0 }, "injected": { "to_tail": 1, "to_head": 0 }, "fallbacks": { "remote": 2 } });
        let with = summarise(&json!({ "fastpath": { "active": true, "summary": "all probes passed" } }), &view);
        assert_eq!(
            with,
            "fast path active, all probes passed; 7 connections, 75.0 % of the bytes direct, 25.0 % injected; relayed: 2 remote"
        );
        let without = summarise(&json!({ "fastpath": "not in this build" }), &json!({ "connections": { "total": 1 } }));
        assert!(without.starts_with("fast path not in this build; 1 connections, 0.0 %"));
    }
}
