//! Real servers under load by their own tools, every connection on the fast path: no error, and every byte as it was.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LOAD` | how many seconds each load lasts instead of ten |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use wormhole_tests::server::{Case, again, load_seconds, sha256};
use wormhole_tests::traffic::endless;
use wormhole_tests::{require, run, skip};

macro_rules! case {
    ($port:expr, $programs:expr) => {{
        require!(Box);
        require!(@ Case::new($port, $programs))
    }};
}

/// Writes a file of so many megabytes.
fn large(path: &Path, megabytes: usize) {
    let mut file = fs::File::create(path).unwrap();
    for number in 0..megabytes {
        file.write_all(endless(number << 20, 1 << 20)).unwrap();
    }
}

#[test]
fn redis() {
    let mut case = case!(6379, &["redis-check-rdb", "redis-benchmark", "redis-cli"]);
    // By its name it knows what it is to do.
    let (program, dir) = (case.dir.join("redis-server"), case.dir.display().to_string());
    symlink(run::find("redis-check-rdb").unwrap(), &program).unwrap();
    let mut server = case.there(&program.display().to_string());
    server.args(["--bind", "127.0.0.1", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", &dir]);
    case.start(server, Signal::TERM);

    let turns = again(|_| {
        // Requests one by one; many in one message; values of many messages; a client for each request.
        for args in [
            &["-c", "50", "-n", "20000", "-t", "ping,set,get,incr,lpush,lrange_100"][..],
            &["-c", "20", "-n", "200000", "-P", "64", "-t", "set,get"],
            &["-c", "8", "-n", "1000", "-d", "1000000", "-t", "set,get"],
            &["-c", "20", "-n", "2000", "-k", "0", "-t", "set,get"],
        ] {
            let said = case.client("redis-benchmark", &[args, &["--csv"]].concat());
            let rates = said.lines().filter(|line| line.starts_with('"')).count();
            assert!(rates > 2 && !said.contains("rror"), "redis-benchmark {args:?}: {said}");
        }
    });
    println!("{turns} turns");

    let (there, back) = (case.dir.join("there"), case.dir.join("back"));
    large(&there, 64);
    let (there, back) = (there.display(), back.display());
    case.client(
        "sh",
        &["-ec", &format!("redis-cli -x set large < {there}; redis-cli --raw get large | head -c 67108864 > {back}")],
    );
    assert_eq!(sha256(&case.dir.join("there")), sha256(&case.dir.join("back")));
    // When it has all its answers, the last of its loads closes clients that have just connected.
    case.finish(turns * 2 * 20);
}

#[test]
fn mariadb() {
    let mut case = case!(3306, &["mariadbd", "mariadb-install-db", "mariadb", "sysbench"]);
    let data = case.dir.join("data").display().to_string();
    let mut bake = run::command("mariadb-install-db", ["--no-defaults", "--user=root", "--skip-test-db"]);
    run::text(bake.args(["--auth-root-authentication-method=normal", &format!("--datadir={data}")])).unwrap();
    let mut server = case.there("mariadbd");
    server.args(["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-networking=0", "--skip-name-resolve"]);
    server.args(["--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M"]);
    let file = |name: &str, of: &str| format!("--{name}={}/{of}", case.dir.display());
    server.args([file("datadir", "data"), file("socket", "s"), file("pid-file", "pid")]);
    case.start(server, Signal::TERM);

    let sql = |text: &str| {
        case.client("mariadb", &["--no-defaults", "-h127.0.0.1", "-uroot", "-N", "--max-allowed-packet=64M", "-e", text])
    };
    sql("create database sbtest");
    let sysbench = |load: &str, words: &[&str]| {
        let to = ["--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-user=root", "--tables=2", "--table-size=5000"];
        case.client("sysbench", &[&[load], &to[..], words].concat())
    };
    sysbench("oltp_common", &["prepare"]);
    let seconds = format!("--time={}", (load_seconds() / 3).max(1));
    // Those in which no transaction stands in another one's way, which would be an error too.
    for load in ["oltp_read_only", "oltp_update_non_index", "oltp_point_select"] {
        let said = sysbench(load, &["--threads=16", &seconds, "run"]);
        println!("{load}: {}", said.lines().find(|line| line.contains("queries:")).unwrap_or_default().trim());
        for none in ["ignored errors:", "reconnects:"] {
            let line = said.lines().find(|line| line.contains(none)).unwrap_or_else(|| panic!("no {none} in {said}"));
            let count = line.split_once(':').and_then(|(_, rest)| rest.split_whitespace().next());
            assert_eq!(count, Some("0"), "{load}: {line}");
        }
    }
    let (text, long) = ("select md5('x')", sql("select repeat(md5('x'), 1000000)"));
    assert!(long == sql(text).repeat(1_000_000), "{} bytes of 32,000,000", long.len());
    case.finish(0);
}

/// nginx with a large file, which it sends by sendfile(2) or, as `/copied/large`, by write(2), and a place to put files.
fn nginx_started(listen: &str) -> Result<Case, String> {
    let mut case = Case::new(80, &["nginx", "curl", "sha256sum"])?;
    let (dir, srv) = (case.dir.display().to_string(), case.dir.join("srv"));
    fs::create_dir_all(srv.join("put")).unwrap();
    large(&srv.join("large"), 200);
    fs::write(srv.join("small"), endless(0, 500)).unwrap();
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {dir}/{kind};\n")).concat();
    let conf = format!(
        "daemon off; user root root; worker_processes 2; pid {dir}/pid; error_log stderr;\nevents {{}}\n\
         http {{ access_log off; client_max_body_size 0; keepalive_requests 1000000;\n{temporary}\
         server {{ listen 127.0.0.1:80 {listen}; root {dir}/srv; sendfile on;\n\
         location /copied/ {{ sendfile off; alias {dir}/srv/; }}\n location /put/ {{ dav_methods PUT DELETE; }} }} }}\n"
    );
    fs::write(case.dir.join("conf"), conf).unwrap();
    let mut server = case.there("nginx");
    server.args(["-p", &dir, "-c", &format!("{dir}/conf")]);
    case.start(server, Signal::TERM);
    Ok(case)
}

/// A transfer that all but stands still fails, and does not keep the whole run waiting.
const CURL: &str = "curl -fsS --speed-limit 1000000 --speed-time 10";

/// Gets the large file and gives its checksum.
fn get(case: &Case, path: &str) -> String {
    let said = case.client(
        "sh",
        &[
            "-ec",
            &format!("{CURL} -o {dir}/$$ http://127.0.0.1/{path}; sha256sum < {dir}/$$; rm {dir}/$$", dir = case.dir.display()),
        ],
    );
    said.split(' ').next().unwrap().to_owned()
}

#[test]
fn nginx() {
    require!(Box);
    let case = require!(@ nginx_started(""));
    let (dir, srv) = (case.dir.display().to_string(), case.dir.join("srv"));
    let sum = &sha256(&srv.join("large"));
    let shell = &|script: &str| case.client("sh", &["-ec", script]);
    let turns = again(|_| {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(&get(&case, "copied/large"), sum, "GET"));
            }
            scope.spawn(|| {
                shell(&format!("{CURL} -T {dir}/srv/large http://127.0.0.1/put/up"));
                assert_eq!(&sha256(&srv.join("put/up")), sum, "PUT");
                shell("curl -fsS -X DELETE http://127.0.0.1/put/up");
            });
            scope.spawn(|| {
                let got = shell("curl -fsS 'http://127.0.0.1/small?[1-5000]' | wc -c");
                assert_eq!(got, "2500000", "5000 small ones over one connection");
            });
        });
    });
    println!("{turns} turns");
    case.finish(0);
}

/// What sendfile(2) has given to TCP may wait for more to follow; the send buffer must have room for that.
#[test]
fn nginx_with_sendfile() {
    require!(Box);
    let case = require!(@ nginx_started(""));
    let sum = sha256(&case.dir.join("srv/large"));
    let turns = again(|_| {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(get(&case, "large"), sum, "GET"));
            }
        });
    });
    println!("{turns} turns");
    case.finish(0);
}

/// Its socket is there only with the first bytes, and what comes goes by TCP. It asks FIONREAD whether more is there before it waits
/// for an edge.
#[test]
fn nginx_deferred() {
    require!(Box);
    let case = require!(@ nginx_started("deferred"));
    let (dir, srv) = (case.dir.display().to_string(), case.dir.join("srv"));
    let sum = sha256(&srv.join("large"));
    let turns = again(|_| {
        case.client("sh", &["-ec", &format!("{CURL} -T {dir}/srv/large http://127.0.0.1/put/up")]);
        assert_eq!(sha256(&srv.join("put/up")), sum, "PUT");
        case.client("sh", &["-ec", "curl -fsS -X DELETE http://127.0.0.1/put/up"]);
        assert_eq!(get(&case, "large"), sum, "GET");
    });
    println!("{turns} turns");
    case.finish_relayed("server-late");
}

/// The directory of PostgreSQL's own programs; those in PATH are wrappers that look for clusters.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    versions.filter(|bin| ["initdb", "postgres", "pgbench", "psql"].iter().all(|name| bin.join(name).exists())).max()
}

#[test]
fn postgres() {
    let mut case = case!(5432, &["setpriv"]);
    let Some(bin) = postgres_programs() else { skip!("postgres is not installed (cargo xtask setup)") };
    let program = |name: &str| bin.join(name).display().to_string();
    // It refuses to be root. Debian's nobody owns nothing else.
    std::os::unix::fs::chown(&case.dir, Some(65_534), Some(65_534)).unwrap();
    let data = case.dir.join("data").display().to_string();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let mut init = run::command("setpriv", nobody);
    init.args([&program("initdb"), "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", &data]);
    run::text(init.current_dir(&case.dir)).unwrap();
    let mut server = case.there("setpriv");
    server.args(nobody).args([&program("postgres"), "-D", &data, "-p", "5432", "-c", "listen_addresses=127.0.0.1"]);
    server.args(["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=32MB"]).current_dir(&case.dir);
    // SIGTERM would wait for clients.
    case.start(server, Signal::INT);

    let to = ["-h", "127.0.0.1", "-U", "postgres"];
    let pgbench = |words: &[&str]| case.client(&program("pgbench"), &[&to[..], words, &["postgres"]].concat());
    let sql = |text: &str| case.client(&program("psql"), &[&to[..], &["-AtXc", text, "postgres"]].concat());
    pgbench(&["-i", "-q", "-s", "2"]);
    let seconds = (load_seconds() / 3).max(1).to_string();
    for mode in ["simple", "extended", "prepared"] {
        let said = pgbench(&["-n", "-c", "16", "-j", "2", "-M", mode, "-T", &seconds]);
        println!("{mode}: {}", said.lines().last().unwrap_or_default());
        assert!(said.contains("number of failed transactions: 0 "), "{mode}: {said}");
    }
    // A client for each transaction.
    let said = pgbench(&["-n", "-S", "-C", "-c", "8", "-t", "50"]);
    assert!(said.contains("number of transactions actually processed: 400/400"), "{said}");
    // Every transaction that a client was told of is in there, once.
    let sums = sql("select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
                    (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history)");
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.len() == 4 && sums.iter().all(|one| *one == sums[0]), "{sums:?}");
    let long = sql("select repeat(md5('x'), 1000000)");
    assert!(long == sql("select md5('x')").repeat(1_000_000), "{} bytes of 32,000,000", long.len());
    case.finish(0);
}
