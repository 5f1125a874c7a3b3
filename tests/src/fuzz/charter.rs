//! What a peer says about the group's configuration, and any text cut in two.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_userspace::charter::fsm::{Input, Kept, Machine, Output, Save};
use lb_userspace::charter::message::Message;
use lb_userspace::charter::text;
use lb_userspace::health::Mono;

/// Any bytes are a message or an error, and no message of one peer makes a machine say yes to what only another may ask.
/// As text they are cut into parts that say together what the whole says, or are refused.
///
/// # Panics
/// Where that is not so.
pub fn charter(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(
            Message::decode(&message.encode()).as_ref(),
            Ok(&message),
            "another message comes back"
        );
        hear(&message);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        cut(text);
    }
}

/// Peer 1 says it, twice, to a machine that proposes something itself.
fn hear(message: &Message) {
    let members = BTreeSet::from([0, 1, 2]);
    let (mut machine, _) = Machine::new(0, members, Kept::default(), 0, Mono::default());
    let mut now = Mono::default();
    let mut inputs = vec![
        Input::Message {
            from: 1,
            message: message.clone(),
        },
        Input::Tick,
        Input::Message {
            from: 1,
            message: message.clone(),
        },
        Input::Up(1),
    ];
    let mut steps = 0;
    while let Some(input) = inputs.pop() {
        now = now + Duration::from_millis(700);
        steps += 1;
        assert!(steps < 100, "it never comes to rest");
        for output in machine.handle(now, input) {
            match output {
                Output::Validate(held) => {
                    assert_eq!(held.generation.node, 1, "only its proposer may ask");
                    inputs.push(Input::Validated {
                        generation: held.generation,
                        verdict: Ok(()),
                    });
                }
                Output::Persist(Save::Pending(held)) => inputs.push(Input::Persisted {
                    generation: held.generation,
                    committed: false,
                    done: Ok(()),
                }),
                Output::Send { to, .. } => assert_eq!(to, 1, "nobody else is there"),
                _ => {}
            }
        }
    }
}

fn cut(whole: &str) {
    let Ok(parts) = text::split(whole, None) else {
        return;
    };
    let merged = text::merge(&parts.shared, &parts.local).expect("it was cut, so it can be put together");
    let again = text::split(&merged, None).expect("what was put together can be cut");
    assert_eq!(
        text::digest(&again.shared),
        text::digest(&parts.shared),
        "the shared part changes"
    );
}
