//! Names of link types (`www.tcpdump.org/linktypes.html`), for errors.

/// The only type that is read.
pub(crate) const ETHERNET: u32 = 1;

/// The name of a type, and what to do about it where that is known.
pub(crate) fn name(number: u32) -> &'static str {
    match number {
        0 => "NULL, BSD loopback",
        1 => "Ethernet",
        6 => "IEEE 802.5, token ring",
        9 => "PPP",
        10 => "FDDI",
        101 => "RAW, bare IP packets of a tunnel",
        104 => "Cisco HDLC",
        105 => "IEEE 802.11, wireless",
        107 => "frame relay",
        108 => "OpenBSD loopback",
        113 | 276 => "Linux cooked, from the device `any`; capture on one interface instead",
        127 => "IEEE 802.11 with radiotap, wireless in monitor mode",
        187 | 201 | 251 | 254 | 256 => "Bluetooth",
        189 | 220 => "USB",
        195 | 215 | 230 => "IEEE 802.15.4",
        227 => "CAN",
        228 => "bare IPv4 packets",
        229 => "bare IPv6 packets",
        239 => "NFLOG",
        247 => "InfiniBand",
        253 => "netlink",
        _ => "unknown here",
    }
}
