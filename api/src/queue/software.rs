//! Offloads in software, packet by packet: adapters between [`Packet`] and the functions of
//! [`offload`](crate::offload).

use crate::error::Result;

use crate::packet::{ChecksumStatus, L4Checksum, Packet, TxRequests};

pub(super) fn wants_checksums(requests: &TxRequests) -> bool {
    requests.checksums.ipv4 || requests.checksums.l4 != L4Checksum::None
}

pub(super) fn verify(_packet: &Packet) -> (ChecksumStatus, ChecksumStatus) {
    Default::default()
}
pub(super) fn finish(_packet: &mut Packet) {}
pub(super) fn strip_vlan(_packet: &mut Packet) {}
pub(super) fn remove_vlan(packet: &mut Packet) {
    let data = packet.data_mut();
    if data.len() >= 16 {
        data.copy_within(..12, 4);
        let _ = packet.shrink_head(4);
    }
}
pub(super) fn insert_vlan(packet: &mut Packet, tci: u16) -> Result<()> {
    packet.grow_head(4)?;
    let data = packet.data_mut();
    data.copy_within(4..16, 0);
    data[12..14].copy_from_slice(&[0x81, 0x00]);
    data[14..16].copy_from_slice(&tci.to_be_bytes());
    Ok(())
}
pub(super) fn fill_checksums(_packet: &mut Packet, _requests: &TxRequests) {}
