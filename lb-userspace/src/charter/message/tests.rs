use super::*;
use crate::state::operator::Order;

fn held() -> Held {
    let orders = Operator::default();
    let now = Wall(5);
    let orders = orders
        .with(
            7,
            "web/be1",
            1,
            Order::Drain {
                deadline: Some(Wall(9)),
            },
            now,
        )
        .unwrap();
    let orders = orders.with(8, "web/be2", 1, Order::Weight(Some(3)), now).unwrap();
    Held {
        generation: Generation { number: 3, node: 2 },
        base: Generation { number: 2, node: 0 },
        charter: Charter {
            text: "pools: []\n".to_owned(),
            orders: orders.with(9, "web/be3", 1, Order::Down, now).unwrap(),
            origin: Origin {
                node: "lb3".to_owned(),
                uid: 1000,
                at: now,
                kind: Kind::Order,
                what: "web/be3 marked down".to_owned(),
            },
        },
    }
}

fn all() -> Vec<Message> {
    let generation = held().generation;
    let rival = held().rival();
    vec![
        Message::Propose(held()),
        Message::Accept { generation },
        Message::Refuse {
            generation,
            why: No::Invalid("no".to_owned()),
        },
        Message::Refuse {
            generation,
            why: No::Busy(rival.clone()),
        },
        Message::Refuse {
            generation,
            why: No::Behind(rival.clone()),
        },
        Message::Later {
            generation,
            pending: rival,
        },
        Message::Commit {
            generation,
            sum: held().sum(),
        },
        Message::Abort { generation },
        Message::Tell(Status {
            committed: generation,
            pending: Some(generation),
            last: 9,
            digest: u64::MAX,
        }),
        Message::Ask,
        Message::Give(held()),
    ]
}

#[test]
fn every_message_comes_back_and_none_that_is_cut_or_too_long() {
    for message in all() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message.clone()));
        for end in 0..bytes.len() {
            assert!(
                Message::decode(&bytes[..end]).is_err(),
                "{message:?} cut to {end}"
            );
        }
        let longer = [bytes, vec![0]].concat();
        assert_eq!(Message::decode(&longer), Err(DecodeError::Behind(1)));
    }
    let long = vec![0; MESSAGE_MAX + 1];
    assert_eq!(Message::decode(&long), Err(DecodeError::Long(MESSAGE_MAX + 1)));
}

#[test]
fn orders_survive_both_forms() {
    let json = serde_json::to_string(&held()).unwrap();
    assert!(
        json.contains("\"state\":\"drain\""),
        "as in every other file: {json}"
    );
    assert_eq!(serde_json::from_str::<Held>(&json).unwrap(), held());
}

#[test]
fn values_that_no_node_sends_are_refused() {
    let none = Generation::default();
    let far = Generation {
        number: NUMBER_MAX + 1,
        node: 0,
    };
    let backwards = Held {
        base: held().generation,
        ..held()
    };
    let mut wordy = held();
    wordy.charter.origin.what = "x".repeat(WHY_MAX + 1);
    for message in [
        Message::Accept { generation: none },
        Message::Abort { generation: far },
        Message::Propose(backwards),
        Message::Give(wordy),
        Message::Tell(Status {
            last: u64::MAX,
            ..Status::default()
        }),
        Message::Tell(Status {
            pending: Some(none),
            ..Status::default()
        }),
        Message::Refuse {
            generation: held().generation,
            why: No::Invalid("x".repeat(WHY_MAX + 1)),
        },
    ] {
        assert_eq!(Message::decode(&message.encode()), Err(DecodeError::Range));
    }
}

#[test]
fn other_charters_have_other_sums() {
    let mut other = held();
    other.charter.text.push(' ');
    assert_ne!(held().sum(), other.sum());
}
