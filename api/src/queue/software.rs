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
pub(super) fn remove_vlan(_packet: &mut Packet) {}
pub(super) fn insert_vlan(_packet: &mut Packet, _tci: u16) -> Result<()> {
    Ok(())
}
pub(super) fn fill_checksums(_packet: &mut Packet, _requests: &TxRequests) {}
