//! What a peer's machine may send.

use std::time::Duration;

use lb_userspace::group::{Action, Input, Machine, Settings, Start, decode};
use lb_userspace::health::Mono;

const NODES: u8 = 3;

/// Any bytes are refused or are a message; and whatever a peer sends, in any order, a node takes or ignores.
///
/// The first byte of each message is its length in eighths.
///
/// # Panics
/// Where that is not so.
pub fn group(bytes: &[u8]) {
    again(bytes);
    let settings = Settings {
        me: 0,
        nodes: NODES,
        key: 0,
        withdraw_after: Duration::from_secs(60),
        join_within: Duration::from_secs(60),
        pause: Duration::from_secs(1),
        leave_after: Duration::from_secs(1),
        max_tracked: Duration::from_hours(24),
    };
    let start = Start { epoch: 7, kept: true };
    let mut now = Mono::from_unix(Duration::from_secs(1));
    let mut machine = Machine::new(settings, start, now);
    machine.handle(Input::CharterEqual(true), now);
    for peer in 1..NODES {
        machine.handle(Input::Alive { peer }, now);
        machine.handle(Input::Up { peer, session: 1 }, now);
        machine.handle(Input::Synced { peer }, now);
    }
    let mut rest = bytes;
    while let Some((&length, tail)) = rest.split_first() {
        let (message, tail) = tail.split_at((usize::from(length) * 8).min(tail.len()));
        rest = tail;
        again(message);
        now = now + Duration::from_millis(u64::from(length));
        let input = Input::Message {
            peer: 1 + length % 2,
            session: 1,
            bytes: message.to_vec(),
        };
        machine.handle(input, now);
        while let Some(action) = machine.poll() {
            if let Action::Do { ticket, .. } = action {
                let answer = lb_userspace::group::Answer::Done;
                machine.handle(Input::Answered { ticket, answer }, now);
            }
        }
    }
}

/// What was understood is the same when it is said again.
fn again(bytes: &[u8]) {
    if let Ok(message) = decode(bytes, NODES) {
        let again = postcard::to_stdvec(&message).expect("plain values can be written");
        assert_eq!(decode(&again, NODES).as_ref(), Ok(&message));
    }
}
