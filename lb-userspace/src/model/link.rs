//! Names of interfaces and link-layer addresses.

/// The longest interface name, in bytes (`IFNAMSIZ` - 1).
pub const INTERFACE_MAX: usize = 15;

/// Why a string is not an interface's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// Nothing at all.
    #[error("an interface's name must not be empty")]
    Empty,
    /// More than [`INTERFACE_MAX`] bytes.
    #[error("an interface's name has at most {INTERFACE_MAX} bytes, this one has {0}")]
    Long(usize),
    /// `.` and `..` are folders in sysfs.
    #[error("an interface can't be called `.` or `..`")]
    Dots,
    /// A character that the kernel refuses, or that no terminal shows.
    #[error("an interface's name has only visible ASCII characters, without '/' and ':'; found {0:?}")]
    Character(char),
}

/// A name that the kernel takes for an interface (`dev_valid_name`), kept to visible ASCII.
pub fn interface(text: &str) -> Result<String, InterfaceError> {
    if text.is_empty() {
        return Err(InterfaceError::Empty);
    }
    if text.len() > INTERFACE_MAX {
        return Err(InterfaceError::Long(text.len()));
    }
    if matches!(text, "." | "..") {
        return Err(InterfaceError::Dots);
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':'))
    {
        Some(c) => Err(InterfaceError::Character(c)),
        None => Ok(text.to_owned()),
    }
}

/// Why a string is not a next hop's link-layer address; the messages follow the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hex digits with one kind of separator.
    #[error("is not a MAC address")]
    Form,
    /// All zero: no interface has it.
    #[error("is all zero, which is no interface's MAC address")]
    Zero,
    /// The group bit is set: multicast or broadcast.
    #[error("is a multicast or broadcast address, not the MAC address of one interface")]
    Group,
}

/// The Ethernet address of one station, written `02:00:00:00:00:13` or with `-`.
pub fn mac(text: &str) -> Result<[u8; 6], MacError> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    let mut address = [0; 6];
    for byte in &mut address {
        let part = parts.next().ok_or(MacError::Form)?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(MacError::Form);
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| MacError::Form)?;
    }
    match address {
        _ if parts.next().is_some() => Err(MacError::Form),
        [0, 0, 0, 0, 0, 0] => Err(MacError::Zero),
        [first, ..] if first & 1 == 1 => Err(MacError::Group),
        address => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        for (text, want) in [
            ("02:00:00:00:00:13", Ok([2, 0, 0, 0, 0, 0x13])),
            ("AA-bb-cc-DD-ee-0f", Ok([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f])),
            ("02:00:00:00:00", Err(MacError::Form)),
            ("02:00:00:00:00:13:14", Err(MacError::Form)),
            ("02:00:00:00:00-13", Err(MacError::Form)),
            ("2:0:0:0:0:13", Err(MacError::Form)),
            ("02:00:00:00:00:+3", Err(MacError::Form)),
            ("020000000013", Err(MacError::Form)),
            ("", Err(MacError::Form)),
            ("00:00:00:00:00:00", Err(MacError::Zero)),
            ("01:00:5e:00:00:01", Err(MacError::Group)),
            ("ff:ff:ff:ff:ff:ff", Err(MacError::Group)),
        ] {
            assert_eq!(mac(text), want, "{text}");
        }
    }

    #[test]
    fn interfaces() {
        for good in [
            "eth0",
            "e",
            "enp3s0f1np1",
            "abcdefghijklmno",
            "eth0.100",
            "br-lan",
            "veth@1",
        ] {
            assert_eq!(interface(good).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("", InterfaceError::Empty),
            ("abcdefghijklmnop", InterfaceError::Long(16)),
            (".", InterfaceError::Dots),
            ("..", InterfaceError::Dots),
            ("eth/0", InterfaceError::Character('/')),
            ("eth0:1", InterfaceError::Character(':')),
            ("eth 0", InterfaceError::Character(' ')),
            ("étage", InterfaceError::Character('é')),
        ] {
            assert_eq!(interface(bad), Err(why), "{bad}");
        }
    }
}
