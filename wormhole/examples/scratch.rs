use std::sync::Arc;
use wormhole::relay::*;
use wormhole::netns::Namespace;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let e = stream::Engine::start(a.get(3).map_or(2, |w| w.parse().unwrap()), 100000).unwrap();
    let opts = RelayOptions::default();
    let route = Route::new("x".into(), opts.clone());
    route.set_tail(Tail::Ready(Target { namespace: Namespace::own().unwrap(), addr: TargetAddr::Inet(vec![a[2].parse().unwrap()]) }));
    let l = std::net::TcpListener::bind(&a[1]).unwrap();
    l.set_nonblocking(true).unwrap();
    use std::os::fd::AsFd;
    stream::prepare_tcp(l.as_fd(), &opts).unwrap();
    rustix::net::listen(&l, 4096).unwrap();
    e.listen(l.into(), &route, false);
    let _ = Arc::clone(&route);
    loop { std::thread::sleep(std::time::Duration::from_secs(5)); eprintln!("{:?}", route.counters); }
}
