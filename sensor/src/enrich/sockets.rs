//! Sockets whose connection began and has not ended.
//!
//! In: tokens of sockets, who connected or accepted and which way. Out: the same when the socket is closed. Bounded: over the
//! bound the oldest goes, counted. A token means nothing once its socket has gone, and may come back as another socket's.

use std::collections::{HashMap, VecDeque};

use crate::event::network::Direction;

/// Most sockets remembered.
const SOCKETS_MAX: usize = 65_536;

/// What is remembered of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) direction: Direction,
    /// tgid and start time of the process that connected or accepted.
    pub(super) owner: (u32, u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// With the turn each was remembered at.
    by_token: HashMap<u64, (u64, Socket)>,
    /// Turn and token, oldest first; those of sockets forgotten or remembered anew since are skipped.
    order: VecDeque<(u64, u64)>,
    turn: u64,
    evicted: u64,
}

impl Sockets {
    /// Remembers a socket, in place of an earlier one of this token.
    pub(super) fn insert(&mut self, token: u64, socket: Socket) {
        self.turn += 1;
        self.by_token.insert(token, (self.turn, socket));
        self.order.push_back((self.turn, token));
        if self.order.len() > 2 * SOCKETS_MAX {
            let by_token = &self.by_token;
            self.order
                .retain(|(turn, token)| by_token.get(token).is_some_and(|(of, _)| of == turn));
        }
        while self.by_token.len() > SOCKETS_MAX {
            let Some((turn, token)) = self.order.pop_front() else {
                break;
            };
            if self.by_token.get(&token).is_some_and(|(of, _)| *of == turn) {
                self.by_token.remove(&token);
                self.evicted += 1;
            }
        }
    }

    /// Forgets a socket and says what was known of it.
    pub(super) fn remove(&mut self, token: u64) -> Option<Socket> {
        self.by_token.remove(&token).map(|(_, socket)| socket)
    }

    /// All of them, the one remembered longest first.
    pub(super) fn save(&self) -> Vec<(u64, Socket)> {
        let known = self.order.iter().filter_map(|(turn, token)| {
            let (of, socket) = self.by_token.get(token)?;
            (of == turn).then_some((*token, *socket))
        });
        known.collect()
    }

    /// Sockets forgotten for want of room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(tgid: u32) -> Socket {
        Socket {
            direction: Direction::Egress,
            owner: (tgid, 1),
        }
    }

    #[test]
    fn a_token_is_good_once_and_means_the_latest_socket() {
        let mut sockets = Sockets::default();
        sockets.insert(7, socket(1));
        sockets.insert(7, socket(2));
        assert_eq!(sockets.remove(7), Some(socket(2)));
        assert_eq!(sockets.remove(7), None);
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut sockets = Sockets::default();
        let max = u64::try_from(SOCKETS_MAX).unwrap();
        for token in 0..max + 10 {
            sockets.insert(token, socket(1));
        }
        assert_eq!(
            (sockets.by_token.len(), sockets.evicted()),
            (SOCKETS_MAX, 10)
        );
        assert_eq!(sockets.remove(9), None);
        assert_eq!(sockets.remove(10), Some(socket(1)));
    }

    #[test]
    fn short_connections_push_no_long_one_out() {
        let mut sockets = Sockets::default();
        sockets.insert(0, socket(9));
        let max = u64::try_from(SOCKETS_MAX).unwrap();
        for token in 1..3 * max {
            sockets.insert(token, socket(1));
            sockets.remove(token);
        }
        assert_eq!((sockets.by_token.len(), sockets.evicted()), (1, 0));
        assert!(sockets.order.len() <= 2 * SOCKETS_MAX);
        assert_eq!(sockets.remove(0), Some(socket(9)));
    }
}
