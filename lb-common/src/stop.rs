//! Why a packet left the pipeline early: at once the counter's index, its label and the text for people.

/// What becomes of a packet that stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// To the host's stack, untouched.
    Pass,
    /// Nowhere.
    Drop,
}

/// One row of a table of reasons.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The label in metrics and in `lbctl`.
    pub name: &'static str,
    /// What becomes of the packet.
    pub action: Action,
    /// For people.
    pub text: &'static str,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $enum:ident, $table:ident: $($variant:ident $action:ident $name:literal $text:literal)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $enum {
            $(#[doc = $text] $variant,)*
        }

        impl $enum {
            /// All of them, in the order of their numbers.
            pub const ALL: &[$enum] = &[$($enum::$variant),*];

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $($enum::$variant => Action::$action,)* }
            }

            /// Label, action and text.
            pub const fn row(self) -> Row {
                $table[self as usize]
            }
        }

        const $table: &[Row] = &[
            $(Row { name: $name, action: Action::$action, text: $text },)*
        ];
    };
}

reasons! {
    /// Reasons of `lb_xdp`.
    Stop, STOPS:
    NotIp        Pass "not_ip"        "neither IPv4 nor IPv6 (ARP, LLDP, ...)"
    VlanStacked  Pass "vlan_stacked"  "more than one VLAN tag, or a service tag (802.1ad)"
    Malformed    Pass "malformed"     "shorter than its headers say, or a wrong IP version or length"
    OtherProto   Pass "other_proto"   "neither TCP nor UDP (ICMP, IGMP, ...)"
    NotVip       Pass "not_vip"       "the destination is no VIP address"
    Unserved     Pass "unserved"      "a VIP address, but no VIP has this port and protocol"
    Fragment     Pass "fragment"      "an IP fragment to a VIP address"
    Extension    Pass "extension"     "an IPv6 extension header to a VIP address"
    NoBackend    Drop "no_backend"    "the pool has no backend with a next hop"
    NotReady     Drop "not_ready"     "the slot names a backend that is not programmed"
    TooBig       Drop "too_big"       "does not fit the next hop's MTU after encapsulation"
    NoRoom       Drop "no_room"       "the driver left no headroom for the outer header"
    NoDevice     Drop "no_device"     "the backend's interface is not in the device map"
    NoEntry      Drop "no_entry"      "a new flow that can't be entered while its slot retires"
    Dead         Drop "dead"          "the backend is dead by the group's verdict, and the slot still names it"
}

reasons! {
    /// Reasons of `lb_decap`.
    DecapStop, DECAP_STOPS:
    NotTunnel    Pass "not_tunnel"    "neither IP in IP nor UDP to the port of GUE"
    Malformed    Pass "malformed"     "shorter than its headers say, or a wrong IP version or length"
    NotAllowed   Pass "not_allowed"   "a tunnel's packet from a source that is not allowed"
    Fragment     Pass "fragment"      "a fragment of an outer packet"
    EcnDrop      Drop "ecn_drop"      "congestion was signalled to a flow that doesn't know ECN (RFC 6040)"
    NoRoom       Drop "no_room"       "the outer header could not be removed"
    Gue          Pass "gue"           "GUE of another variant, with extension fields, or not around an IP packet"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_numbers_agree() {
        for (i, stop) in Stop::ALL.iter().enumerate() {
            assert_eq!(*stop as usize, i);
            assert_eq!(stop.row().action, stop.action());
        }
        for (i, stop) in DecapStop::ALL.iter().enumerate() {
            assert_eq!(*stop as usize, i);
        }
    }
}
