//! `docs/STOP-REASONS.md`.

use lb_common::stop::{Action, DecapStop, Row, Stop};

use super::{head, table};

pub(super) fn page() -> String {
    let mut page = head("Stop reasons", "`lb_common::stop`");
    page.push_str(
        "Why a packet left a program early. The label is the same in `lbctl stats`, `lbctl decap status` and here;\n\
         the number is the index in the map of counters. *Pass*: to the host's stack, untouched. *Drop*: nowhere.\n\
         A packet that goes through is counted elsewhere, by VIP and backend.\n\n",
    );
    page.push_str("## The balancer: `lb_xdp`\n\nCounted in `lb_stops`.\n\n");
    page.push_str(&reasons(Stop::ALL.iter().map(|stop| stop.row())));
    page.push_str("\n## The decapsulator: `lb_decap`\n\nCounted in `lb_decap_stops`.\n\n");
    page.push_str(&reasons(DecapStop::ALL.iter().map(|stop| stop.row())));
    page
}

fn reasons(rows: impl Iterator<Item = Row>) -> String {
    let rows = rows.enumerate().map(|(number, row)| {
        let action = match row.action {
            Action::Pass => "pass",
            Action::Drop => "drop",
        };
        [
            number.to_string(),
            format!("`{}`", row.name),
            action.to_owned(),
            row.text.to_owned(),
        ]
    });
    table(["no.", "label", "action", "meaning"], rows)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_tables_are_there() {
        let page = super::page();
        assert!(page.contains("| 4 | `not_vip` | pass | the destination is no VIP address |"));
        assert!(page.contains("| 4 | `ecn_drop` | drop |"));
    }
}
