//! What is in each image.

use super::Image;
use super::stage::Stage;
use crate::run;
use anyhow::{Context, Result};
use std::process::Command;

/// How an image is made.
pub(super) struct Recipe {
    /// Packages that its files come from.
    pub(super) packages: &'static [&'static str],
    /// Dockerfile lines for `docker import -c`.
    pub(super) changes: &'static [&'static str],
    /// Puts the files there.
    pub(super) fill: fn(&Stage) -> Result<()>,
}

/// A first process that does nothing. It has no default for SIGTERM, and without a trap `docker stop` takes 10 s.
const WAIT: &str = r#"CMD ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]"#;

pub(super) fn of(image: Image) -> Recipe {
    match image {
        Image::Redis => Recipe {
            packages: &["busybox-static", "redis-tools"],
            changes: &[r#"CMD ["/usr/bin/redis-server", "/etc/redis.conf"]"#],
            fill: redis,
        },
        Image::Mysql => Recipe {
            packages: &["busybox-static", "mariadb-server-core", "mariadb-client-core"],
            changes: &[r#"CMD ["/usr/sbin/mariadbd", "--defaults-file=/etc/my.cnf"]"#],
            fill: mysql,
        },
        Image::Nginx => Recipe { packages: &["busybox-static", "nginx"], changes: &[r#"CMD ["/usr/sbin/nginx"]"#], fill: nginx },
        Image::Dns => Recipe {
            packages: &["busybox-static", "dnsmasq-base", "ldnsutils"],
            changes: &[r#"CMD ["/usr/sbin/dnsmasq", "--conf-file=/etc/dnsmasq.conf"]"#],
            fill: dns,
        },
        Image::Client => Recipe {
            packages: &["busybox-static", "redis-tools", "mariadb-client-core", "curl", "ldnsutils"],
            changes: &[WAIT],
            fill: client,
        },
        Image::Bench => {
            Recipe { packages: &["busybox-static", "redis-tools", "mariadb-server-core"], changes: &[WAIT], fill: bench }
        }
    }
}

fn redis(stage: &Stage) -> Result<()> {
    // Debian's redis-server is a link to this program, in a package that would also start a service.
    stage.program("redis-check-rdb", "usr/bin/redis-server")?;
    stage.program("redis-cli", "usr/bin/redis-cli")?;
    stage.dir("run/redis", 0o755)?;
    stage.write(
        "etc/redis.conf",
        "bind 127.0.0.1\nport 6379\nunixsocket /run/redis/redis.sock\nunixsocketperm 777\n\
         protected-mode no\nsave \"\"\nappendonly no\ndir /tmp\n",
    )
}

fn mysql(stage: &Stage) -> Result<()> {
    stage.program("mariadbd", "usr/sbin/mariadbd")?;
    stage.program("mariadb", "usr/bin/mariadb")?;
    stage.copy("/usr/share/mysql/english")?;
    stage.copy("/usr/share/mysql/charsets").or_else(|_| stage.dir("usr/share/mysql/charsets", 0o755).map(drop))?;
    stage.dir("run/mysqld", 0o755)?;
    stage.write(
        "etc/my.cnf",
        "[mariadbd]\nuser=root\ndatadir=/var/lib/mysql\nbind-address=127.0.0.1\nport=3306\n\
         socket=/run/mysqld/mysqld.sock\npid-file=/run/mysqld/mysqld.pid\nlc-messages-dir=/usr/share/mysql\n\
         init-file=/etc/init.sql\nskip-name-resolve\nskip-log-bin\ninnodb-log-file-size=4M\n\
         innodb-data-file-path=ibdata1:8M:autoextend\ninnodb-autoextend-increment=1\n\
         innodb-buffer-pool-size=16M\ninnodb-use-native-aio=0\nperformance-schema=0\n",
    )?;
    // Run at every start, before the first connection is accepted.
    let mut sql = String::new();
    for host in ["localhost", "127.0.0.1", "::1"] {
        sql.push_str(&format!("CREATE USER IF NOT EXISTS root@'{host}';\n"));
        sql.push_str(&format!("ALTER USER root@'{host}' IDENTIFIED BY '';\n"));
        sql.push_str(&format!("GRANT ALL ON *.* TO root@'{host}' WITH GRANT OPTION;\n"));
    }
    sql.push_str("CREATE DATABASE IF NOT EXISTS wormhole;\n");
    sql.push_str("CREATE TABLE IF NOT EXISTS wormhole.greeting (word VARCHAR(20) PRIMARY KEY);\n");
    sql.push_str("INSERT IGNORE INTO wormhole.greeting VALUES ('hello');\n");
    stage.write("etc/init.sql", sql)?;

    let data = stage.dir("var/lib/mysql", 0o755)?;
    let mut bake = Command::new("mariadb-install-db");
    bake.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    // Sizes as in my.cnf, or the server refuses the files; the default step of 64 MiB would be most of the image.
    bake.args(["--innodb-log-file-size=4M", "--innodb-use-native-aio=0"]);
    bake.args(["--innodb-data-file-path=ibdata1:8M:autoextend", "--innodb-autoextend-increment=1"]);
    bake.arg(format!("--datadir={}", data.display()));
    run::text(&mut bake).context("cannot make the data directory")?;
    // A scratch file that the server makes anew.
    let _ = std::fs::remove_file(data.join("ibtmp1"));
    Ok(())
}

fn nginx(stage: &Stage) -> Result<()> {
    stage.program("nginx", "usr/sbin/nginx")?;
    for dir in ["var/lib/nginx", "var/log/nginx", "run"] {
        stage.dir(dir, 0o755)?;
    }
    stage.write("srv/index.html", "wormhole nginx\n")?;
    let pattern: Vec<u8> = (0..1_048_576_u32).map(|i| b'a' + (i % 26) as u8).collect();
    stage.write("srv/1m", pattern)?;
    stage.write(
        "etc/nginx/nginx.conf",
        "daemon off;\nuser root root;\nworker_processes 1;\npid /tmp/nginx.pid;\nerror_log stderr;\nevents {}\n\
         http {\n access_log off;\n server { listen 127.0.0.1:80; root /srv; index index.html; }\n}\n",
    )
}

fn dns(stage: &Stage) -> Result<()> {
    stage.program("dnsmasq", "usr/sbin/dnsmasq")?;
    stage.program("drill", "usr/bin/drill")?;
    stage.dir("var/lib/misc", 0o755)?;
    // dnsmasq takes lines of at most 1 KiB.
    let big = format!("txt-record=big.wormhole.test{}\n", format!(",{}", "w".repeat(240)).repeat(4));
    stage.write(
        "etc/dnsmasq.conf",
        format!(
            "keep-in-foreground\nlog-facility=-\nuser=root\ngroup=root\npid-file=\nno-resolv\nno-hosts\n\
             listen-address=127.0.0.1\nbind-interfaces\nport=53\nedns-packet-max=4096\n\
             address=/wormhole.test/192.0.2.53\ntxt-record=wormhole.test,hello\n{big}"
        ),
    )
}

fn client(stage: &Stage) -> Result<()> {
    for program in ["redis-cli", "mariadb", "curl", "drill"] {
        stage.program(program, &format!("usr/bin/{program}"))?;
    }
    Ok(())
}

fn bench(stage: &Stage) -> Result<()> {
    stage.program("redis-check-rdb", "usr/bin/redis-server")?;
    stage.program("redis-benchmark", "usr/bin/redis-benchmark")?;
    stage.program("mariadbd", "usr/sbin/mariadbd")?;
    stage.copy("/usr/share/mysql/english")?;
    stage.copy("/usr/share/mysql/charsets").or_else(|_| stage.dir("usr/share/mysql/charsets", 0o755).map(drop))
}
