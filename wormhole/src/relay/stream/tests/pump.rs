//! One pump between socket pairs with tiny buffers, against all orders of reading and writing.

use super::super::pump::{Pump, Ready, Tools, Turn};
use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// The sender writes at most so much, and the pump is told.
    Send(usize),
    /// The receiver reads at most so much, and the pump is told.
    Receive(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![(1..30_000usize).prop_map(Act::Send), (1..30_000usize).prop_map(Act::Receive)];
    proptest::collection::vec(act, 0..60)
}

fn tiny_pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        SockRef::from(end).set_send_buffer_size(4096).unwrap();
        end.set_nonblocking(true).unwrap();
    }
    (a, b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_pump_delivers_the_same_bytes_and_the_end_last(
        acts in acts(),
        seed: u64,
        total in 0..200_000usize,
        scratch in prop_oneof![Just(1000usize), Just(64 * 1024), Just(256 * 1024)],
        // Which turns splice: none, all, or every third.
        splice in prop_oneof![Just(0usize), Just(1), Just(3)],
    ) {
        let (mut sender, source) = tiny_pair();
        let (drain, mut receiver) = tiny_pair();
        let sent = Random(seed).bytes(total);
        let mut left = sent.as_slice();
        let mut got = Vec::new();
        let mut tools = Tools::new(4);
        tools.scratch = vec![0; scratch].into();
        let mut pump = Pump::default();
        // Readiness is told only when something happened, as edge-triggered epoll does.
        let mut src = Ready { readable: false, writable: false, spliced: true, exact: true };
        let mut dst = Ready { readable: false, writable: true, spliced: true, exact: true };
        let mut counted = 0;
        let mut ended = false;
        let rest = std::iter::repeat_with(|| [Act::Send(50_000), Act::Receive(50_000)]).flatten();
        for (step, act) in acts.into_iter().chain(rest).enumerate() {
            prop_assert!(step < 5_000, "no progress: {} of {total}", got.len());
            match act {
                Act::Send(most) => {
                    let now = left.get(..most.min(left.len())).unwrap();
                    if let Ok(n) = sender.write(now) {
                        left = left.get(n..).unwrap();
                    }
                    if left.is_empty() {
                        sender.shutdown(Shutdown::Write).unwrap();
                    }
                    src.readable = true;
                }
                Act::Receive(most) => {
                    let mut block = vec![0; most];
                    match receiver.read(&mut block) {
                        Ok(0) => break,
                        Ok(n) => got.extend_from_slice(block.get(..n).unwrap()),
                        Err(e) => prop_assert_eq!(e.kind(), ErrorKind::WouldBlock),
                    }
                    dst.writable = true;
                }
            }
            if splice > 0 && step % splice == 0 {
                pump.stream();
            }
            loop {
                let (turn, moved) = pump.turn((source.as_fd(), &mut src), (drain.as_fd(), &mut dst), None, &mut tools);
                counted += moved;
                match turn {
                    Turn::Again => {}
                    Turn::Waiting => break,
                    Turn::Ended => {
                        prop_assert!(!pump.is_stuck() && left.is_empty());
                        ended = true;
                        if pump.end_to_hand_on() {
                            super::super::socket::hand_on_end(drain.as_fd()).unwrap();
                        }
                        break;
                    }
                    failed => prop_assert!(false, "{failed:?}"),
                }
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(counted, total);
        prop_assert!(got == sent);
    }
}
