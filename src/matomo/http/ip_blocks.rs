//! IP addresses: blocks, and reserved ones that no Matomo has but attackers aim at. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of addresses, in CIDR form; a single address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    first: IpAddr,
    /// Number of leading bits that all of them share.
    prefix: u32,
}

impl AddressBlock {
    /// Whether the block has an address, given in canonical form.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                self.network(address) == self.network(self.first)
            }
            _ => false,
        }
    }

    fn network(&self, address: IpAddr) -> Option<u128> {
        let (bits, width) = bits(address);
        bits.checked_shr(width - self.prefix)
    }
}

impl FromStr for AddressBlock {
    type Err = &'static str;

    /// `10.0.0.0/8`, `fd00::/8`, `192.0.2.7`, `2001:db8::7`, `[2001:db8::7]`.
    fn from_str(text: &str) -> Result<AddressBlock, &'static str> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let first: IpAddr = bare.unwrap_or(address).parse().map_err(|_| "it is no address")?;
        let (_, width) = bits(first);
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| "its mask is no number of bits")?
            }
            Some(_) => return Err("its mask is no number of bits"),
        };
        if prefix > width {
            return Err("its mask is longer than the address");
        }
        let block = AddressBlock { first, prefix };
        let (all, _) = bits(first);
        if block.network(first).unwrap_or(0).checked_shl(width - prefix).unwrap_or(0) != all {
            return Err("it has bits set to the right of the mask");
        }
        Ok(match (first, first.to_canonical()) {
            // IPv4 mapped into IPv6.
            (IpAddr::V6(_), canonical @ IpAddr::V4(_)) if prefix >= 96 => {
                AddressBlock { first: canonical, prefix: prefix - 96 }
            }
            _ => block,
        })
    }
}

/// The bits of an address, and their number.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// Whether an address is of this machine: `0.0.0.0` and `::` are, too.
pub fn is_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// The kind of a reserved address, to which no connection is allowed, in any of its forms.
pub fn reserved(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => reserved_v4(address),
        IpAddr::V6(address) => {
            reserved_v6(address).or_else(|| embedded(address).into_iter().find_map(reserved_v4))
        }
    }
}

const LINK_LOCAL: &str = "link-local";
const METADATA: &str = "that of a cloud's metadata service";

fn reserved_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [169, 254, ..] => Some(LINK_LOCAL),
        // Alibaba, Oracle (classic), Azure.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Some(METADATA),
        _ => None,
    }
}

fn reserved_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unicast_link_local() {
        return Some(LINK_LOCAL);
    }
    match address.segments() {
        // Amazon, Google, Oracle, Scaleway.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
        | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => Some(METADATA),
        _ => None,
    }
}

/// The IPv4 addresses to which a gateway or the kernel may translate an IPv6 address.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let all = address.to_bits();
    // 32 bits, `from_right` bits from the end.
    let slice = |from_right: u32| Ipv4Addr::from_bits((all >> from_right) as u32);
    match address.segments() {
        // Mapped, compatible, translated (RFC 2765) and NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0, 0, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![slice(0)],
        // Local NAT64: the last 32 bits, or those around the octet that RFC 6052 skips.
        [0x64, 0xff9b, 1, ..] => {
            let around = ((all >> 64) as u32) << 16 | ((all >> 40) as u32 & 0xffff);
            vec![slice(0), Ipv4Addr::from_bits(around)]
        }
        // 6to4.
        [0x2002, ..] => vec![slice(80)],
        // Teredo: the server, and the client inverted.
        [0x2001, 0, ..] => vec![slice(64), Ipv4Addr::from_bits(!slice(0).to_bits())],
        // ISATAP, on any network.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![slice(0)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_have_their_addresses_and_no_others() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("10.1.2.2/31", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::", "0.0.0.0"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("2001:db8::7", "2001:db8::7", "2001:db8::8"),
            ("[::1]", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ] {
            let parsed: AddressBlock = block.parse().unwrap();
            assert!(parsed.has(ip(inside)), "{block}");
            assert!(!parsed.has(ip(outside)), "{block}");
        }
    }

    #[test]
    fn what_is_no_block() {
        for (text, why) in [
            ("10.0.0.0/33", "longer"),
            ("::/129", "longer"),
            ("10.0.0.0/", "no number"),
            ("10.0.0.0/+8", "no number"),
            ("10.0.0.0/255.0.0.0", "no number"),
            ("10.0.0.1/8", "right of the mask"),
            ("::1/0", "right of the mask"),
            ("10.0.0", "no address"),
            ("010.0.0.0/8", "no address"),
            ("[10.0.0.0", "no address"),
            ("fe80::1%eth0", "no address"),
            ("", "no address"),
        ] {
            let error = text.parse::<AddressBlock>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn reserved_addresses_in_all_their_forms() {
        for text in [
            "169.254.169.254",
            "169.254.0.0",
            "169.254.255.255",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fe80::1",
            "febf:ffff::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:1234::5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "::ffff:100.100.100.200",
        ] {
            assert!(reserved(ip(text)).is_some(), "{text}");
        }
        for text in [
            "169.253.255.255",
            "169.255.0.0",
            "127.0.0.1",
            "10.0.0.1",
            "100.100.100.201",
            "0.0.0.0",
            "::",
            "::1",
            "fec0::1",
            "fd00::1",
            "fd00:ec2::255",
            "::ffff:127.0.0.1",
            "64:ff9b::8.8.8.8",
            "2001:db8::a9fe:a9fe",
            "2606:4700::1111",
        ] {
            assert_eq!(reserved(ip(text)), None, "{text}");
        }
    }

    #[test]
    fn this_machine() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(is_here(ip(text)), "{text}");
        }
        for text in ["128.0.0.1", "10.0.0.1", "::2", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!is_here(ip(text)), "{text}");
        }
    }
}
