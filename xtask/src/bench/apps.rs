//! Real servers behind the variants: redis with its own benchmark, MariaDB with a point-select loop.

use super::launch::{Worker, get};
use super::measure::{Bench, Values, Variant, to};
use super::net::Endpoint;
use super::peers::find;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs GET and SET with so many clients, no pipeline. Nothing over a unix socket: it would compare servers.
pub fn redis(bench: &Bench, variant: &Variant, clients: u32) -> Result<Values> {
    let Endpoint::Tcp(head) = variant.running.head else { return Ok(Values::new()) };
    let dir = fresh(&bench.dir, "redis")?;
    let listen = address(variant)?;
    let (port, ip, dir_text) = (listen.port().to_string(), listen.ip().to_string(), dir.display().to_string());
    let args = ["--port", &port, "--bind", &ip, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", &dir_text];
    let server = Server::start(bench, variant, "redis-server", &args, &dir)?;
    let requests = bench.effort.requests * if clients == 1 { 1 } else { 5 };
    let (host, port) = (head.ip().to_string(), head.port().to_string());
    let args = ["-h", &host, "-p", &port, "-t", "get,set", "--csv", "-c", &clients.to_string(), "-n", &requests.to_string()];
    let output = beside_client(bench, variant, "redis-benchmark", &args)?.output().context("run redis-benchmark")?;
    server.stop()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name| {
        let said = String::from_utf8_lossy(&output.stderr);
        parse_redis(&text, name).with_context(|| format!("redis-benchmark gave no {name}: {text}{said}"))
    };
    let (get, set) = (value("GET")?, value("SET")?);
    Ok(if clients == 1 {
        vec![("redis_get1", get), ("redis_set1", set)]
    } else {
        vec![("redis_get50", get), ("redis_set50", set)]
    })
}

/// Requests per second of one test from `redis-benchmark --csv`: `"GET","12345.67",…`.
fn parse_redis(text: &str, test: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("\"{test}\",")))?;
    line.split(',').next()?.trim_matches('"').parse().ok()
}

/// Runs the point-select loop over one connection.
pub fn selects(bench: &Bench, variant: &Variant) -> Result<Values> {
    if matches!(variant.running.head, Endpoint::Unix(_)) {
        return Ok(Values::new());
    }
    let dir = bench.dir.join("mariadb");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let data = dir.join("data");
    // Made once a run: it takes longer than the measurement.
    if !data.join("mysql").is_dir() {
        make_database(&data)?;
    }
    let listen = address(variant)?;
    let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
    let own = [
        flag("bind-address", &listen.ip()),
        flag("port", &listen.port()),
        flag("datadir", &data.display()),
        flag("socket", &dir.join("s").display()),
        flag("pid-file", &dir.join("pid").display()),
    ];
    let mut args = vec!["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-networking=0", "--skip-name-resolve"];
    args.extend(own.iter().map(String::as_str));
    let server = Server::start(bench, variant, "mariadbd", &args, &dir)?;
    let seconds = bench.effort.app_seconds;
    let cpu = if bench.pin_apps { bench.apart().1 } else { None };
    let report = bench.client(variant, &to(variant, "selects", &["--seconds", &seconds.to_string()]), cpu, seconds);
    server.stop()?;
    Ok(vec![("mariadb", get(&report?, "per_s")?)])
}

fn make_database(data: &Path) -> Result<()> {
    let mut install = Command::new(find("mariadb-install-db").context("mariadb-install-db is not installed")?);
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"]);
    let output = install.arg(format!("--datadir={}", data.display())).stdin(Stdio::null()).output();
    let output = output.context("run mariadb-install-db")?;
    if !output.status.success() {
        bail!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
    }
    Ok(())
}

/// Where the server of `variant` has to listen.
fn address(variant: &Variant) -> Result<SocketAddr> {
    let tcp = |endpoint: &Endpoint| if let Endpoint::Tcp(address) = endpoint { Some(*address) } else { None };
    variant.running.listen.iter().find_map(tcp).context("the server has no TCP address")
}

fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = parent.join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// A program that makes load, where the clients of `variant` are; on the second cpu where apps are pinned.
fn beside_client(bench: &Bench, variant: &Variant, program: &str, args: &[&str]) -> Result<Command> {
    let site = &variant.running.client;
    let mut command = site.command(&bench.exe);
    command.arg("bench-worker");
    if let Some(cpu) = bench.apart().1.filter(|_| bench.pin_apps) {
        command.args(["--cpu", &cpu.to_string()]);
    }
    command.args(["exec", "--"]).arg(site.program(program)?).args(args).stdin(Stdio::null());
    Ok(command)
}

/// A real server, at the place of the bench's own.
struct Server(Worker);

impl Server {
    /// Starts it and waits until it listens; on the first cpu where apps are pinned.
    fn start(bench: &Bench, variant: &Variant, program: &str, args: &[&str], dir: &Path) -> Result<Self> {
        let site = &variant.running.server;
        let log = dir.join("log").display().to_string();
        let program = site.program(program)?.display().to_string();
        let hold = ["hold", "--log", &log, "--", &program];
        let words: Vec<String> = hold.iter().chain(args).map(|word| (*word).to_owned()).collect();
        let cpu = bench.apart().0.filter(|_| bench.pin_apps);
        let mut server = Worker::start(site, &bench.exe, &words, cpu)?;
        let end = Instant::now() + Duration::from_secs(30);
        while !site.is_listening(address(variant)?.port()) {
            let said = || fs::read_to_string(&log).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
            server.check_alive().with_context(|| format!("{program}: {}", said()))?;
            if Instant::now() > end {
                bail!("{program} is not listening after 30 s: {}", said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self(server))
    }

    /// Ends it; its port is free then.
    fn stop(self) -> Result<()> {
        self.0.finish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_csv() {
        let text = "\"test\",\"rps\",\"avg\"\n\"SET\",\"40000.00\",\"0.5\"\n\"GET\",\"41666.67\",\"0.4\"\n";
        assert_eq!(parse_redis(text, "GET"), Some(41666.67));
        assert_eq!(parse_redis(text, "SET"), Some(40000.0));
        assert_eq!(parse_redis(text, "INCR"), None);
    }
}
