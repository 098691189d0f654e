//! The daemon from start to end: the order in which relay, segments, control API and watcher come up and go down.

use crate::api::{Server, ServerConfig, ServerError, plan};
use crate::daemon::config::{Config, DEFAULT_MAX_CONNECTIONS, LogFormat};
use crate::daemon::{Daemon, Settings, StartError};
use crate::model::Control;
use crate::relay::RelayOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Descriptors that the daemon needs besides those of connections.
const OWN_FDS: u64 = 128;

/// Fewer connections than this surprise somebody.
const FEW: usize = 4096;

/// Why the daemon did not start, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Relay, records, engine address.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control API.
    #[error(transparent)]
    Api(#[from] ServerError),
    /// Signals or threads.
    #[error("cannot set up the process: {0}")]
    Process(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT, then ends in good order: accepts nothing more, lets open connections finish for
/// `--drain`, resets the rest, removes everything from the kernel. A second signal ends the wait.
///
/// # Errors
/// [`ServiceError`]; what had been set up is undone.
pub fn run(config: &Config) -> Result<(), ServiceError> {
    init_log(config);
    let fds = raise_fd_limit();
    // The controller waits most of its time; bytes have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()?;
    runtime.block_on(serve(config, fds))
}

async fn serve(config: &Config, fds: u64) -> Result<(), ServiceError> {
    // Before anything is there to be undone, so that no signal is missed.
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let plan = plan(&config.hosts, config.keyfile.as_deref())?;
    let mut notes = config.notes.clone();
    notes.extend(plan.notes);
    let by_fds = usize::try_from(fds.saturating_sub(OWN_FDS) / 2).unwrap_or(usize::MAX).max(1);
    let wanted = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
    // The default asks for more than most limits allow; that alone is not worth a word.
    if by_fds < wanted && (by_fds < FEW || config.max_connections != DEFAULT_MAX_CONNECTIONS) {
        notes.push(format!("{fds} descriptors allow {by_fds} connections at once; raise `ulimit -n` for more"));
    }
    for note in &notes {
        tracing::info!("{note}");
    }
    let daemon = Daemon::start(Settings {
        state_dir: config.state_dir.clone(),
        docker: config.docker.clone(),
        workers: config.workers,
        max_connections: wanted.min(by_fds),
        max_udp_sessions: by_fds,
        fastpath_pairs: config.fastpath_pairs,
        fastpath_gather: config.fastpath_gather,
        fastpath_except: config.fastpath_except.clone(),
        defaults: RelayOptions {
            connect_timeout: config.connect_timeout,
            idle_timeout: config.idle_timeout,
            keepalive: config.keepalive,
            user_timeout: config.user_timeout,
            fastpath: config.fastpath,
            udp_timeout: config.udp_timeout,
            udp_sessions: config.max_udp_sessions,
        },
    })
    .await?;
    let control: Arc<dyn Control> = Arc::clone(&daemon) as Arc<dyn Control>;
    let server = match Server::start(ServerConfig { listeners: plan.listeners, key: plan.key, control }).await {
        Ok(server) => server,
        Err(error) => {
            daemon.stop(std::time::Duration::ZERO, std::future::pending()).await;
            return Err(error.into());
        }
    };
    daemon.set_api(server.bound().iter().map(ToString::to_string).collect(), notes);
    let follower = tokio::spawn(crate::daemon::follow(Arc::clone(&daemon)));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");

    either(&mut term, &mut interrupt).await;
    tracing::info!("stopping");
    daemon.stop(config.drain, either(&mut term, &mut interrupt)).await;
    follower.abort();
    server.close().await?;
    tracing::info!("stopped");
    Ok(())
}

async fn either(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn init_log(config: &Config) {
    // The filter was checked when the configuration was read.
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // Fails only when a log is set up already, as in a test.
    let _ = match config.log_format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Plain => log.with_target(false).try_init(),
    };
}

/// Raises the soft limit of descriptors to the hard one and returns it.
fn raise_fd_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if let Some(hard) = limit.maximum {
        // A limit that may not be raised is still a limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
