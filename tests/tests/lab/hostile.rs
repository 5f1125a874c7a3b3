//! A place of the group that is hostile, with a certificate of the group or with a wrong one: the other nodes go on as if it
//! were not there.

mod ground;
mod member;
mod outside;

use std::time::Duration;

use lb_tests::LabError;

use ground::Ground;
use member::Member;

#[test]
fn a_member_that_talks_nonsense_changes_nothing() {
    Ground::run("hostile-member", |ground| {
        let member = Member::new(ground)?;
        ground.block_on(async {
            for good in ground.good() {
                member.nonsense(ground, good).await;
                member.broken_frames(good).await;
                member.records_that_are_none(good).await;
                member.old_orders(good).await;
                member.half_open(good).await;
            }
        });
        ground.block_on(member.replayed(ground));
        for good in ground.good() {
            let refused = ground.refused(good)?;
            for (reason, least) in [("oversize", 2), ("protocol", 3), ("records", 6)] {
                assert!(refused(reason) >= least, "{reason}: {}", refused(reason));
            }
            assert!(ground.log(good).contains("messages that are none"));
        }
        Ok::<(), LabError>(())
    });
}

#[test]
fn a_member_that_floods_holds_nobody_up() {
    Ground::run("hostile-flood", |ground| {
        let member = Member::new(ground)?;
        ground.block_on(async {
            for good in ground.good() {
                member.datagrams(ground, good).await;
                member.messages(good).await;
                member.fences(good).await;
                member.streams(good).await;
            }
        });
        for good in ground.good() {
            let refused = ground.refused(good)?;
            assert!(refused("heartbeat") > 20, "{}", refused("heartbeat"));
        }
        Ok::<(), LabError>(())
    });
}

#[test]
fn whoever_has_no_certificate_of_the_group_gets_nothing() {
    Ground::run("hostile-outside", |ground| {
        ground.block_on(outside::wrong_certificates(ground))?;
        ground.block_on(outside::handshakes(ground))?;
        outside::datagrams(ground)?;
        for good in ground.good() {
            let refused = ground.refused(good)?;
            for (reason, least) in [
                ("authority", 10),
                ("name", 2),
                ("expired", 1),
                ("no_certificate", 1),
                ("stranger", 1),
            ] {
                assert!(refused(reason) >= least, "{reason}: {}", refused(reason));
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok::<(), LabError>(())
    });
}
