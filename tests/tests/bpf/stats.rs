//! Counters add up: frames as they arrived, Ethernet header, tag and padding included.

use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_tests::model::Arrival;

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, request};
use crate::frame::{Ip, TCP, UDP, ethernet, ip};
use crate::kernel::HEADROOM;

#[test]
fn packets_and_bytes_add_up() {
    let fixture = Fixture::new();
    let run = |frame: &[u8], times: u64| {
        for _ in 0..times {
            fixture.kernel.program.run(&Arrival {
                frame,
                ingress: fixture.ingress,
                headroom: HEADROOM,
            });
        }
        Counter {
            packets: times,
            bytes: times * frame.len() as u64,
        }
    };
    let mut both = run(&request(false, TCP).frame(), 5);
    both += run(&request(false, TCP).tagged(9), 3);
    let padded = [request(false, UDP).frame(), vec![0; 10]].concat();
    let udp = run(&padded, 4);
    let v6 = run(&request(true, TCP).frame(), 7);
    let arp = run(&ethernet(0x0806, &[0; 28]), 11);
    let elsewhere = Ip {
        dst: ip("192.0.2.99"),
        ..request(false, TCP)
    };
    let elsewhere = run(&elsewhere.frame(), 13);

    let mut expected = fixture.kernel.counters();
    for counter in [&mut expected.vips, &mut expected.backends, &mut expected.stops] {
        counter.fill(Counter::default());
    }
    expected.vips[0] = both;
    expected.vips[1] = udp;
    expected.vips[2] = v6;
    expected.backends[usize::from(BACKEND_V4)] = both;
    expected.backends[usize::from(BACKEND_V4)] += udp;
    expected.backends[usize::from(BACKEND_V6)] = v6;
    expected.stops[Stop::NotIp as usize] = arp;
    expected.stops[Stop::NotVip as usize] = elsewhere;
    fixture.kernel.counters().assert_equals(&expected, "sums");
}

#[test]
fn counting_is_per_cpu_and_summed() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let fixture = Fixture::new();
    let before = sched_getaffinity(None).expect("affinity");
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&c| before.is_set(c)).collect();
    let frame = request(false, TCP).frame();
    for &cpu in &cpus {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).expect("move to a CPU");
        fixture.kernel.program.run(&Arrival {
            frame: &frame,
            ingress: fixture.ingress,
            headroom: HEADROOM,
        });
    }
    sched_setaffinity(None, &before).expect("move back");
    let packets = cpus.len() as u64;
    let want = Counter {
        packets,
        bytes: packets * frame.len() as u64,
    };
    assert_eq!(fixture.kernel.maps.vip_counter(0).expect("it is valid"), want);
    assert_eq!(
        fixture
            .kernel
            .maps
            .backend_counter(BACKEND_V4)
            .expect("it is valid"),
        want
    );
}
