//! What belongs to an epoll event, in the 64 bits that the kernel carries for us.

use super::conn::Side;
use rustix::event::epoll::EventData;

/// What an epoll event belongs to, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The thread's mailbox.
    Wake,
    /// A listener, by its id.
    Listener(u64),
    /// One socket of a connection.
    Conn {
        /// Where the connection is kept.
        slot: u32,
        /// Tells it from an earlier one there; [`GENERATIONS`] at most.
        generation: u32,
        /// Which socket.
        side: Side,
    },
}

impl Token {
    /// For `epoll_ctl`.
    pub fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Self::Wake => 0,
            Self::Listener(id) => (id << 2) | 1,
            Self::Conn { slot, generation, side } => {
                let side = if side == Side::Head { 2 } else { 3 };
                (u64::from(slot) << 32) | (u64::from(generation & GENERATIONS) << 2) | side
            }
        })
    }

    /// From `epoll_wait`.
    pub fn unpack(data: EventData) -> Self {
        let raw = data.u64();
        match raw & 3 {
            0 => Self::Wake,
            1 => Self::Listener(raw >> 2),
            side => Self::Conn {
                slot: u32::try_from(raw >> 32).unwrap_or(u32::MAX),
                generation: u32::try_from((raw >> 2) & u64::from(GENERATIONS)).unwrap_or_default(),
                side: if side == 2 { Side::Head } else { Side::Tail },
            },
        }
    }
}

/// Generations fit into 30 bits.
pub const GENERATIONS: u32 = (1 << 30) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_come_back_as_they_went(slot: u32, generation in 0..=GENERATIONS, head: bool, id in 0..(1u64 << 62)) {
            let side = if head { Side::Head } else { Side::Tail };
            for token in [Token::Wake, Token::Listener(id), Token::Conn { slot, generation, side }] {
                prop_assert_eq!(Token::unpack(token.pack()), token);
            }
        }
    }
}
