//! What a packet carries besides its bytes, and what it may ask of the transmit path.

use super::Packet;

/// Bits of [`Packet::flags`]: which of a packet's fields are valid.
pub(crate) mod flags {
    pub const TIMESTAMP: u16 = 1 << 0;
    /// Two bits: the timestamp's source.
    pub const SOURCE_SHIFT: u16 = 1;
    /// Two bits: the timestamp's clock.
    pub const CLOCK_SHIFT: u16 = 3;
    pub const HASH: u16 = 1 << 5;
    pub const VLAN: u16 = 1 << 6;
    /// Two bits each: good, bad; neither is unknown.
    pub const IP_SHIFT: u16 = 7;
    pub const L4_SHIFT: u16 = 9;
    pub const CHAIN: u16 = 1 << 11;
    pub const MARK: u16 = 1 << 12;
    pub const REQUESTS: u16 = 1 << 13;
}

/// The side table's record of one frame; valid only where a packet's flags say so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameMeta {
    /// The next segment's frame + 1, or 0. With `flags::CHAIN`.
    pub next: u32,
    /// Bytes of all segments. With `flags::CHAIN`, in the head's record.
    pub total: u32,
    /// The last segment's frame. With `flags::CHAIN`, in the head's record.
    pub tail: u32,
    /// Segments. With `flags::CHAIN`, in the head's record.
    pub segments: u16,
    /// Where this segment's bytes are; for all but the head, which has them in the packet.
    pub offset: u16,
    pub len: u16,
    /// With `flags::REQUESTS`.
    pub requests: TxRequests,
    /// With `flags::MARK`.
    pub mark: u32,
}

/// Who took a timestamp (contract O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampSource {
    /// The device.
    Hardware,
    /// The kernel's network stack.
    Kernel,
    /// This process, when the frame was received from below.
    Software,
    /// Whoever captured the frame: it was read from a file.
    Recorded,
}

/// What a timestamp's nanoseconds count from (contract O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The Unix epoch (`CLOCK_REALTIME`).
    RealTime,
    /// Boot (`CLOCK_MONOTONIC`).
    Monotonic,
    /// Whatever the device's clock counts from.
    Device,
}

/// When a frame was received or sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Timestamp {
    /// Nanoseconds of the clock.
    pub ns: u64,
    /// Who took it.
    pub source: TimestampSource,
    /// Which clock it was.
    pub clock: Clock,
}

/// What is known of a received checksum (contract O1): never wrong, but possibly unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumStatus {
    /// Not looked at, or it cannot be told (a fragment, no IP).
    #[default]
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

/// Which transport checksum a packet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum L4Checksum {
    /// None.
    #[default]
    None,
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

/// The checksums that a packet asks the transmit path to fill in (contract O2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksums {
    /// The IPv4 header's.
    pub ipv4: bool,
    /// The transport's.
    pub l4: L4Checksum,
}

/// Everything that a packet asks the transmit path for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TxRequests {
    /// Checksums to fill in (needs `tx_checksum`).
    pub checksums: Checksums,
    /// An 802.1Q tag control word to insert (needs `vlan_insert`).
    pub vlan: Option<u16>,
    /// A transmit timestamp (needs `tx_timestamp`).
    pub timestamp: bool,
}

impl TxRequests {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == TxRequests::default()
    }
}

impl Packet {
    /// Forgets all metadata and requests: what a backend does with a packet that becomes a received one
    /// (contract R9). The bytes and a chain stay.
    #[inline]
    pub fn reset_metadata(&mut self) {
        self.flags &= flags::CHAIN;
        self.queue = 0;
        self.padding = 0;
    }

    /// When the frame was received, if `rx_timestamp` is on.
    #[inline]
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.has(flags::TIMESTAMP).then_some(Timestamp {
            ns: self.timestamp,
            source: match self.flags >> flags::SOURCE_SHIFT & 3 {
                0 => TimestampSource::Hardware,
                1 => TimestampSource::Kernel,
                2 => TimestampSource::Software,
                _ => TimestampSource::Recorded,
            },
            clock: match self.flags >> flags::CLOCK_SHIFT & 3 {
                0 => Clock::RealTime,
                1 => Clock::Monotonic,
                _ => Clock::Device,
            },
        })
    }

    /// Sets the receive timestamp; for backends.
    #[inline]
    pub fn set_timestamp(&mut self, timestamp: Timestamp) {
        self.timestamp = timestamp.ns;
        let source = match timestamp.source {
            TimestampSource::Hardware => 0,
            TimestampSource::Kernel => 1,
            TimestampSource::Software => 2,
            TimestampSource::Recorded => 3,
        };
        let clock = match timestamp.clock {
            Clock::RealTime => 0,
            Clock::Monotonic => 1,
            Clock::Device => 2,
        };
        self.flags &= !(3 << flags::SOURCE_SHIFT | 3 << flags::CLOCK_SHIFT);
        self.flags |=
            flags::TIMESTAMP | source << flags::SOURCE_SHIFT | clock << flags::CLOCK_SHIFT;
    }

    /// The tag control word of the 802.1Q tag that was stripped from the frame, if `vlan_strip` is on.
    #[inline]
    pub fn vlan(&self) -> Option<u16> {
        self.has(flags::VLAN).then_some(self.tci)
    }

    /// Sets the stripped tag; for backends.
    #[inline]
    pub fn set_vlan(&mut self, tci: u16) {
        self.tci = tci;
        self.flags |= flags::VLAN;
    }

    /// The status of the IPv4 header checksum, if `rx_checksum` is on.
    #[inline]
    pub fn ip_checksum(&self) -> ChecksumStatus {
        status(self.flags >> flags::IP_SHIFT)
    }

    /// The status of the transport checksum, if `rx_checksum` is on.
    #[inline]
    pub fn l4_checksum(&self) -> ChecksumStatus {
        status(self.flags >> flags::L4_SHIFT)
    }

    /// Sets the status of the checksums; for backends.
    #[inline]
    pub fn set_checksum_status(&mut self, ip: ChecksumStatus, l4: ChecksumStatus) {
        self.flags &= !(3 << flags::IP_SHIFT | 3 << flags::L4_SHIFT);
        self.flags |= bits(ip) << flags::IP_SHIFT | bits(l4) << flags::L4_SHIFT;
    }

    /// The Toeplitz hash, if `rss_hash` is on (contract O5).
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        self.has(flags::HASH).then_some(self.hash)
    }

    /// Sets the hash; for backends.
    #[inline]
    pub fn set_rss_hash(&mut self, hash: u32) {
        self.hash = hash;
        self.flags |= flags::HASH;
    }

    /// The receive queue that the packet came by.
    #[inline]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    #[inline]
    pub(crate) fn set_queue(&mut self, queue: u16) {
        self.queue = queue;
    }

    /// The application's own mark, if it set one; it does not go on the wire.
    #[inline]
    pub fn mark(&self) -> Option<u32> {
        self.has(flags::MARK).then(|| self.meta().mark)
    }

    /// Sets the application's mark.
    pub fn set_mark(&mut self, mark: u32) {
        self.meta_mut().mark = mark;
        self.flags |= flags::MARK;
    }

    /// What the packet asks the transmit path for.
    #[inline]
    pub fn requests(&self) -> TxRequests {
        if self.has(flags::REQUESTS) { self.meta().requests } else { TxRequests::default() }
    }

    /// Asks the transmit path for checksums, a tag or a timestamp; the default asks for nothing. A port that
    /// is not configured for what is asked refuses the packet ([`Error::OffloadOff`](crate::Error::OffloadOff)).
    pub fn set_requests(&mut self, requests: TxRequests) {
        if requests.is_empty() {
            self.flags &= !flags::REQUESTS;
        } else {
            self.meta_mut().requests = requests;
            self.flags |= flags::REQUESTS;
        }
    }
}

fn status(bits: u16) -> ChecksumStatus {
    match bits & 3 {
        1 => ChecksumStatus::Good,
        2 => ChecksumStatus::Bad,
        _ => ChecksumStatus::Unknown,
    }
}

fn bits(status: ChecksumStatus) -> u16 {
    match status {
        ChecksumStatus::Unknown => 0,
        ChecksumStatus::Good => 1,
        ChecksumStatus::Bad => 2,
    }
}
