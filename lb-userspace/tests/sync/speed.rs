//! How fast one core decodes and merges into tables in memory.

use std::time::{Duration, Instant};

use lb_common::tick::Tick;
use lb_userspace::sync::{Flow, Hello, Inbound, Limits, Merger, Outbox, Plan, Receiver, Sender};

use crate::node::{Knows, Maps};

pub(crate) fn receive(flows: &[Flow], now: Tick) {
    let mut outbox = Outbox::default();
    let limits = Limits {
        bytes: usize::MAX,
        batches: usize::MAX,
    };
    let hello = Hello {
        place: 1,
        joins: false,
        connected: Vec::new(),
    };
    let mut sender = Sender::new(&hello, outbox.declarations(), limits);
    let mut all = flows.iter().map(|flow| Flow {
        backend: 101,
        ..*flow
    });
    while let Some(batch) = outbox.snapshot(&mut all, now, Duration::ZERO) {
        sender.enqueue(&batch);
    }
    let stream: Vec<bytes::Bytes> = std::iter::from_fn(|| sender.poll_transmit()).collect();
    let (mut receiver, mut plan, mut maps) = (Receiver::new(1), Plan::default(), Maps::default());
    let knows = Knows::new(0);
    let (mut merged, mut written) = (0, 0);
    let begin = Instant::now();
    for bytes in &stream {
        for piece in bytes.chunks(1_200) {
            receiver.handle(piece);
            while let Some(inbound) = receiver.poll(now).expect("good bytes") {
                if let Inbound::Records { records, sent, .. } = inbound {
                    plan.clear();
                    Merger::new(0, 1).merge(
                        &records,
                        sent,
                        receiver.names(),
                        &knows,
                        &mut maps,
                        now,
                        &mut plan,
                    );
                    (merged, written) = (merged + records.len(), written + plan.upserts.len());
                }
            }
        }
    }
    let took = begin.elapsed().as_secs_f64();
    assert_eq!((merged, written), (flows.len(), flows.len()));
    println!(
        "receiver, decoded and merged: {:.0} records/s",
        merged as f64 / took
    );
}
