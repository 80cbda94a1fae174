//! Classifies IP addresses for the SSRF filter: public, internal or never allowed. A plugin may connect to public
//! addresses and to the networks that its grant adds (`http.networks`). Internal addresses belong to the machine, its
//! network or its cloud's metadata service.
//!
//! Knows addresses only, never names, and connects to nothing. The lists are IANA's special-purpose registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…/iana-ipv6-special-registry`, RFC 6890), read
//! strictly: an address that they do not call globally reachable is not public. Of IPv6 only 2000::/3 can be public,
//! because IANA has allocated nothing else (<https://www.iana.org/assignments/ipv6-address-space>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, third: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), prefix)
}

/// Networks that no grant can allow: no TCP peer has such an address, and Linux treats 0.0.0.0 as loopback.
const NEVER_ALLOWED_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "of this network (RFC 791)"),
    (v4(224, 0, 0, 0, 4), "multicast (RFC 5771)"),
    (v4(255, 255, 255, 255, 32), "broadcast (RFC 919)"),
];

const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(10, 0, 0, 0, 8), "private (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier's customers (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "loopback (RFC 1122)"),
    // Clouds have their metadata service here.
    (v4(169, 254, 0, 0, 16), "link-local (RFC 3927)"),
    (v4(172, 16, 0, 0, 12), "private (RFC 1918)"),
    (v4(192, 0, 0, 0, 24), "for protocols (RFC 6890)"),
    (v4(192, 0, 2, 0, 24), "for documentation (RFC 5737)"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay (RFC 7526)"),
    (v4(192, 168, 0, 0, 16), "private (RFC 1918)"),
    (v4(198, 18, 0, 0, 15), "for benchmarks (RFC 2544)"),
    (v4(198, 51, 100, 0, 24), "for documentation (RFC 5737)"),
    (v4(203, 0, 113, 0, 24), "for documentation (RFC 5737)"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112)"),
    // Not in the registry: an address of Microsoft's that no customer gets; an Azure machine asks it for its secrets.
    (v4(168, 63, 129, 16, 32), "the cloud's own (Azure's wire server)"),
];

/// Special networks within 2000::/3.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    // Teredo, ORCHID, benchmarks and other protocols.
    (v6(0x2001, 0, 0, 23), "for protocols (RFC 2928)"),
    (v6(0x2001, 0xdb8, 0, 32), "for documentation (RFC 3849)"),
    // Contains an IPv4 address that any relay forwards to.
    (v6(0x2002, 0, 0, 16), "6to4 (RFC 3056)"),
    (v6(0x3fff, 0, 0, 20), "for documentation (RFC 9637)"),
];

/// The only part of IPv6 that IANA has allocated.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);
/// NAT64 (RFC 6052): as public as the IPv4 address in the last 32 bits. Networks without IPv4 reach IPv4 servers this
/// way.
const TRANSLATED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The class of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// On the internet; allowed.
    Public,
    /// Not public; allowed only where a grant names its network. Holds the reason.
    Internal(&'static str),
    /// Not allowed by any grant. Holds the reason.
    NeverAllowed(&'static str),
}

/// Classifies an address by its canonical form: one that the kernel connects to over IPv4 is an IPv4 address.
pub fn classify(address: IpAddr) -> AddressClass {
    match address.to_canonical() {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    let among = |list: &[(Ipv4Net, &'static str)]| list.iter().find(|(net, _)| net.contains(&address)).map(|it| it.1);
    match (among(NEVER_ALLOWED_V4), among(SPECIAL_V4)) {
        (Some(reason), _) => AddressClass::NeverAllowed(reason),
        (None, Some(reason)) => AddressClass::Internal(reason),
        (None, None) => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if address.is_unspecified() {
        return AddressClass::NeverAllowed("unspecified (RFC 4291)");
    }
    if address.is_multicast() {
        return AddressClass::NeverAllowed("multicast (RFC 4291)");
    }
    if TRANSLATED.contains(&address) {
        let [.., a, b, c, d] = address.octets();
        return match classify_v4(Ipv4Addr::new(a, b, c, d)) {
            AddressClass::Public => AddressClass::Public,
            AddressClass::Internal(_) | AddressClass::NeverAllowed(_) => {
                AddressClass::Internal("a translated IPv4 address that is not public (RFC 6052)")
            }
        };
    }
    if GLOBAL_UNICAST.contains(&address) {
        let special = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address));
        return special.map_or(AddressClass::Public, |(_, reason)| AddressClass::Internal(reason));
    }
    AddressClass::Internal(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback (RFC 4291)",
        [0, 0, 0, 0, 0, 0, ..] => "a deprecated form of an IPv4 address (RFC 4291)",
        [first, ..] if first & 0xfe00 == 0xfc00 => "private (RFC 4193)",
        [first, ..] if first & 0xffc0 == 0xfe80 => "link-local (RFC 4291)",
        _ => "outside the space that IANA has allocated",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_iana_calls_globally_reachable_are_public() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::",
            "2400::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert_eq!(classify(public.parse().unwrap()), AddressClass::Public, "{public}");
        }
        for internal in [
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "240.0.0.1",
            "255.255.255.254",
            "168.63.129.16",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::0.0.0.0",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:a9fe:a9fe::",
            "2002:0101:0101::",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "fec0::1",
        ] {
            assert!(matches!(classify(internal.parse().unwrap()), AddressClass::Internal(_)), "{internal}");
        }
        for denied in
            ["0.0.0.0", "0.1.2.3", "::ffff:0.0.0.0", "224.0.0.1", "239.1.1.1", "255.255.255.255", "::", "ff02::1"]
        {
            assert!(matches!(classify(denied.parse().unwrap()), AddressClass::NeverAllowed(_)), "{denied}");
        }
    }
}
