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

/// The sending engine: what the packet asks for and the port has switched on. Runs when the frame leaves, so a frame
/// that was not taken is unchanged (contract T1). False if the pool has no frame for a tag that needs one: the frame is
/// lost, and counted where it would have arrived.
pub(crate) fn transmit(packet: &mut Packet, offloads: &DeviceOffloads) -> bool {
    let requests = packet.requests();
    if offloads.tx_checksum && packets::wants_checksums(&requests) {
        // A frame without the headers that it asks checksums for leaves as it is, as from a card.
        let _ = packets::fill_checksums(packet, &requests);
    }
    match requests.vlan.filter(|_| offloads.vlan_insert) {
        Some(tci) => packets::insert_vlan(packet, tci).is_ok() || insert_by_copy(packet, tci),
        None => true,
    }
}

/// Inserts a tag where there is no head room for it.
fn insert_by_copy(packet: &mut Packet, tci: u16) -> bool {
    let mut bytes: Vec<u8> = packet.segments().flatten().copied().collect();
    let [high, low] = tci.to_be_bytes();
    // The common layer lets no frame without both addresses through.
    bytes.splice(12..12, [0x81, 0x00, high, low]);
    match packet.pool().packet(&bytes) {
        Some(copy) => *packet = copy,
        None => return false,
    }
    true
}
