//! The cable's own offload engines, for `device_offloads=true`: then the *device* does what the common layer otherwise does
//! in software, so that `required` can be had, and both ways can be tested against each other, on any machine.

use anyport::Packet;
use anyport::capability::DeviceOffloads;
use anyport::offload::packets;
use anyport::offload::toeplitz::Toeplitz;

/// What the engines can do, all switched off until a port asks for it.
pub(crate) fn declare(device: bool, capability: &mut DeviceOffloads) {
    // The clock is there in any case.
    (capability.rx_timestamp, capability.tx_timestamp) = (true, true);
    capability.rx_checksum = device;
    capability.tx_checksum = device;
    capability.vlan_strip = device;
    capability.vlan_insert = device;
    capability.rss_hash = device;
}

/// The receiving engine of a queue.
pub(crate) struct Receive {
    pub offloads: DeviceOffloads,
    pub table: Toeplitz,
}

impl Receive {
    /// `None` if nothing is switched on.
    pub fn new(offloads: DeviceOffloads, key: &[u8; 40]) -> Option<Receive> {
        let any = offloads.rx_checksum || offloads.vlan_strip || offloads.rss_hash;
        any.then(|| Receive { offloads, table: Toeplitz::new(key) })
    }

    pub fn apply(&self, packet: &mut Packet) {
        if self.offloads.rx_checksum {
            packets::set_checksum_status(packet);
        }
        if self.offloads.rss_hash {
            packets::set_hash(packet, &self.table);
        }
        if self.offloads.vlan_strip {
            packets::strip_vlan(packet);
        }
    }
}

/// The sending engine of a queue: does what packets ask for and the port has switched on. It runs when frames leave, so one
/// that was not taken is unchanged (contract T1).
pub(crate) struct Transmit {
    offloads: DeviceOffloads,
    /// A frame on its way into another one; as large as any, so that sending allocates nothing.
    scratch: Vec<u8>,
}

impl Transmit {
    /// `None` if nothing is switched on; for frames of at most `longest` bytes on the wire.
    pub fn new(offloads: DeviceOffloads, longest: usize) -> Option<Transmit> {
        let any = offloads.tx_checksum || offloads.vlan_insert;
        any.then(|| Transmit { offloads, scratch: Vec::with_capacity(longest) })
    }

    /// False if the pool has no frame now for a tag that needs one; the packet then still asks for it.
    pub fn apply(&mut self, packet: &mut Packet) -> bool {
        let requests = packet.requests();
        if self.offloads.tx_checksum && packets::wants_checksums(&requests) {
            // A frame without the headers that it asks checksums for leaves as it is, as from a card.
            let _ = packets::fill_checksums(packet, &requests);
        }
        match requests.vlan.filter(|_| self.offloads.vlan_insert) {
            Some(tci) => {
                packets::insert_vlan(packet, tci).is_ok() || self.insert_by_copy(packet, tci)
            }
            None => true,
        }
    }

    /// Inserts a tag where there is no head room for it.
    fn insert_by_copy(&mut self, packet: &mut Packet, tci: u16) -> bool {
        let [high, low] = tci.to_be_bytes();
        self.scratch.clear();
        packet.segments().for_each(|segment| self.scratch.extend_from_slice(segment));
        // The common layer lets no frame without both addresses through.
        drop(self.scratch.splice(12..12, [0x81, 0x00, high, low]));
        match packet.pool().packet(&self.scratch) {
            Some(copy) => *packet = copy,
            None => return false,
        }
        true
    }

    /// The bytes of a packet on the wire, which are those that count (contract S1).
    pub fn wire_length(&self, packet: &Packet) -> u64 {
        let tagged = self.offloads.vlan_insert && packet.requests().vlan.is_some();
        (packet.len() + if tagged { 4 } else { 0 }).max(60) as u64
    }
}
