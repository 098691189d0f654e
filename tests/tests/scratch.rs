#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::io::Write;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::traffic::endless;
#[test]
fn scratch() {
    let lane = Lane::open(Way::Fast).unwrap();
    let (client, server) = lane.pair();
    client.set_nonblocking(true).unwrap();
    let look = |what: &str| {
        let out = lane.far().run(&["sh", "-c", "ss -tmnaH sport = :700 | grep -A1 ESTAB"]).unwrap();
        println!("{what}: fionread {} {}", rustix::io::ioctl_fionread(&server).unwrap(), out.replace('\n', " "));
    };
    look("before");
    let mut at = 0;
    std::thread::sleep(std::time::Duration::from_secs(2)); for step in 0..200 {
        match (&client).write(endless(at, 1 << 16)) {
            Ok(n) => at += n,
            Err(e) => println!("{step}: {e}"),
        }
        if step % 20 == 0 {
            look(&format!("{step}: {at}"));
        }
    }
    println!("{}\n{}", lane.view(), lane.room.as_ref().unwrap().daemon.log());
}
