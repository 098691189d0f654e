//! Real servers behind the variants: redis with its own benchmark, MariaDB with a point-select loop.

use super::measure::{Bench, Values, Variant, get, to};
use super::net::{self, Endpoint};
use super::peers::find;
use super::proc::Group;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Requests of one redis-benchmark: about a second with one client, about three with fifty.
fn requests(bench: &Bench, clients: u32) -> u32 {
    let full = if clients == 1 { 20_000 } else { 100_000 };
    if bench.effort.long_ones { full } else { full / 10 }
}

/// Runs GET and SET with so many clients, no pipeline.
pub fn redis(bench: &Bench, variant: &Variant, clients: u32) -> Result<Values> {
    let port = tcp_port(variant)?;
    let dir = fresh(&bench.dir, "redis")?;
    let mut command = through_exec(bench, &program("redis-server")?, &dir)?;
    command.args(["--port", &bench.tail.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let mut server = Group::spawn("redis-server", &mut command)?;
    wait(&mut server, bench.tail)?;
    let mut command = Command::new(program("redis-benchmark")?);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "get,set", "--csv"]);
    command.args(["-c", &clients.to_string(), "-n", &requests(bench, clients).to_string()]);
    let output = command.stdin(Stdio::null()).output().context("run redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name| parse_redis(&text, name).with_context(|| format!("redis-benchmark gave no {name}: {text}"));
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
    tcp_port(variant)?;
    let dir = bench.dir.join("mariadb");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let data = dir.join("data");
    // Made once a run: it takes longer than the measurement.
    if !data.join("mysql").is_dir() {
        make_database(&data)?;
    }
    let mut command = through_exec(bench, &program("mariadbd")?, &dir)?;
    command.args(["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-networking=0", "--bind-address=127.0.0.1"]);
    command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", dir.join("s").display()));
    command.arg(format!("--port={}", bench.tail)).arg(format!("--pid-file={}", dir.join("pid").display()));
    let mut server = Group::spawn("mariadbd", &mut command)?;
    wait(&mut server, bench.tail)?;
    let seconds = bench.effort.app_seconds;
    let report = bench.client(&to(variant, "selects", &["--seconds", &seconds.to_string()]), None, seconds)?;
    Ok(vec![("mariadb", get(&report, "per_s")?)])
}

fn make_database(data: &Path) -> Result<()> {
    let mut install = Command::new(program("mariadb-install-db")?);
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"]);
    let output = install.arg(format!("--datadir={}", data.display())).stdin(Stdio::null()).output();
    let output = output.context("run mariadb-install-db")?;
    if !output.status.success() {
        bail!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
    }
    Ok(())
}

fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not installed"))
}

fn tcp_port(variant: &Variant) -> Result<u16> {
    match &variant.head {
        Endpoint::Tcp(address) => Ok(address.port()),
        Endpoint::Unix(_) => bail!("these servers are measured over TCP"),
    }
}

fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = parent.join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn through_exec(bench: &Bench, program: &Path, dir: &Path) -> Result<Command> {
    let log = File::create(dir.join("log")).context("create a log")?;
    let mut command = Command::new(&bench.exe);
    command.args(["bench-worker", "exec", "--"]).arg(program).current_dir(dir);
    command.stdout(log.try_clone().context("share a log")?).stderr(log);
    Ok(command)
}

fn wait(server: &mut Group, port: u16) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !net::is_listening(port) {
        server.check_alive()?;
        if Instant::now() > end {
            bail!("the server is not listening after 30 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
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
