//! The daemon's view of the Docker engine, against a real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use wormhole::docker::{ContainerEvent, DockerError, Engine};
use wormhole_tests::docker::Docker;
use wormhole_tests::images::Image;
use wormhole_tests::{engine, require};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn room(docker: &Docker) -> Engine {
    Engine::new(docker.host()).unwrap()
}

#[test]
fn a_container_is_found_by_id_prefix_and_name() {
    let docker = require!(Docker);
    let engine = room(docker);
    let redis = docker.container(Image::Redis, &[]).unwrap();
    let sharing = docker.container(Image::Client, &["--network", &format!("container:{}", redis.id)]).unwrap();
    runtime().block_on(async {
        assert_eq!(engine.version().await.unwrap(), docker.version().unwrap());
        let found = engine.resolve(&redis.id).await.unwrap();
        assert_eq!((&found.id, &found.name, found.running), (&redis.id, &redis.name, true));
        assert_eq!((found.pid, found.network_mode.as_str()), (Some(redis.pid().unwrap()), "none"));
        assert_eq!(engine.resolve(&redis.id[..12]).await.unwrap(), found);
        assert_eq!(engine.resolve(&redis.name).await.unwrap(), found);
        assert_eq!(engine.resolve(&format!("/{}", redis.name)).await.unwrap(), found);
        let shares = engine.resolve(&sharing.id).await.unwrap();
        assert_eq!(shares.network_mode, format!("container:{}", redis.id));

        let typo = format!("{}x", redis.name);
        let error = engine.resolve(&typo).await.unwrap_err();
        assert!(matches!(&error, DockerError::NotFound { nearest: Some(_), .. }), "{error:?}");

        redis.stop(5).unwrap();
        let stopped = engine.resolve(&redis.id).await.unwrap();
        assert_eq!((stopped.pid, stopped.running), (None, false));
        redis.start().unwrap();
        let again = engine.resolve(&redis.id).await.unwrap();
        assert!(again.pid.is_some() && again.started_at > found.started_at, "{again:?}");
    });
}

#[test]
fn an_ambiguous_prefix_is_refused_with_the_candidates() {
    let docker = require!(Docker);
    let engine = room(docker);
    // Sixteen digits: of seventeen containers two begin alike.
    let first = docker.container(Image::Client, &[]).unwrap();
    let mut ids = vec![first.id.clone()];
    let twice = loop {
        let id = docker.run(&["create", "--network", "none", Image::Client.tag()]).unwrap();
        let digit = id[..1].to_owned();
        let found = ids.iter().any(|other| other.starts_with(&digit));
        ids.push(id);
        if found {
            break digit;
        }
    };
    let error = runtime().block_on(engine.resolve(&twice)).unwrap_err();
    for id in ids.iter().skip(1) {
        docker.run(&["rm", id]).unwrap();
    }
    let DockerError::Ambiguous { prefix, candidates } = error else { panic!("{error:?}") };
    assert_eq!(prefix, twice);
    let fits = ids.iter().filter(|id| id.starts_with(&twice)).count();
    assert!(candidates.len() >= fits && candidates.iter().all(|c| c.starts_with(&twice)), "{candidates:?}");
}

/// The next event of `id`, or the next Resync.
async fn next(events: &mut Receiver<ContainerEvent>, id: &str) -> ContainerEvent {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(15), events.recv()).await.expect("no event").unwrap();
        match &event {
            ContainerEvent::Resync => return event,
            ContainerEvent::Started { id: of }
            | ContainerEvent::Died { id: of }
            | ContainerEvent::Destroyed { id: of }
            | ContainerEvent::Renamed { id: of } => {
                if of == id {
                    return event;
                }
            }
        }
    }
}

#[test]
fn the_life_of_a_container_is_followed() {
    let docker = require!(Docker);
    let mut redis = docker.container(Image::Redis, &[]).unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
    let id = redis.id.clone();
    runtime().block_on(async {
        let (mut events, _guard) = room(docker).watch();
        assert_eq!(next(&mut events, "").await, ContainerEvent::Resync);
        redis.restart().unwrap();
        // What happened in the second before the watch began may be told again.
        let mut event = next(&mut events, &id).await;
        while event != (ContainerEvent::Died { id: id.clone() }) {
            event = next(&mut events, &id).await;
        }
        assert_eq!(next(&mut events, &id).await, ContainerEvent::Started { id: id.clone() });
        redis.rename("another-name").unwrap();
        assert_eq!(next(&mut events, &id).await, ContainerEvent::Renamed { id: id.clone() });
        redis.remove().unwrap();
        let mut last = vec![next(&mut events, &id).await, next(&mut events, &id).await];
        last.sort_by_key(|e| matches!(e, ContainerEvent::Destroyed { .. }));
        assert_eq!(last, [ContainerEvent::Died { id: id.clone() }, ContainerEvent::Destroyed { id: id.clone() }]);
    });
}

#[test]
fn an_engine_that_restarts_is_followed_again() {
    require!(Docker);
    let mut own = engine::Engine::start_plain().unwrap();
    let container = own.docker().container(Image::Client, &[]).unwrap();
    let id = container.id.clone();
    let room = room(&own.docker());
    runtime().block_on(async {
        let (mut events, _guard) = room.watch();
        assert_eq!(next(&mut events, "").await, ContainerEvent::Resync);
        own.restart().unwrap();
        loop {
            // Died may or may not get through before the engine is down; the Resync has to come.
            if next(&mut events, &id).await == ContainerEvent::Resync {
                break;
            }
        }
        container.start().unwrap();
        assert_eq!(next(&mut events, &id).await, ContainerEvent::Started { id: id.clone() });
        drop(container);
        own.stop().unwrap();
        let error = room.version().await.unwrap_err();
        assert!(matches!(error, DockerError::Unreachable { .. }), "{error:?}");
    });
}
