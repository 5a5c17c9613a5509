//! Offloads in software, packet by packet: adapters between [`Packet`] and the functions of
//! [`offload`](crate::offload).

use crate::error::{Error, Result};
use crate::offload::{checksum, vlan};
use crate::packet::{ChecksumStatus, L4Checksum, Packet, TxRequests};

pub(super) fn wants_checksums(requests: &TxRequests) -> bool {
    requests.checksums.ipv4 || requests.checksums.l4 != L4Checksum::None
}

/// Statuses of the IPv4 header's and the transport's checksum (contract O1).
pub(super) fn verify(packet: &Packet) -> (ChecksumStatus, ChecksumStatus) {
    let found = match packet.is_chain() {
        false => checksum::verify(packet.data()),
        true => checksum::verify_segments(packet.segments()),
    };
    (status(found.ip), status(found.l4))
}

fn status(status: checksum::Status) -> ChecksumStatus {
    match status {
        checksum::Status::Unknown => ChecksumStatus::Unknown,
        checksum::Status::Good => ChecksumStatus::Good,
        checksum::Status::Bad => ChecksumStatus::Bad,
    }
}

/// Finishes a checksum that a sending kernel left unfinished (contract R3).
pub(super) fn finish(packet: &mut Packet) {
    if !packet.is_chain() {
        checksum::finish(packet.data_mut());
    } else if let Some(patch) = checksum::finish_segments(packet.segments()) {
        patch.apply(packet.data_mut());
    }
}

/// Takes an outermost 802.1Q tag out of the frame and into the metadata (contract O3).
pub(super) fn strip_vlan(packet: &mut Packet) {
    if let Some(tci) = vlan::strip(packet.data_mut()) {
        // Cannot fail: `strip` has seen 18 bytes.
        let _ = packet.shrink_head(vlan::TAG_LEN);
        packet.set_vlan(tci);
    }
}

/// Takes back what [`insert_vlan`] did.
pub(super) fn remove_vlan(packet: &mut Packet) {
    if vlan::strip(packet.data_mut()).is_some() {
        let _ = packet.shrink_head(vlan::TAG_LEN);
    }
}

pub(super) fn insert_vlan(packet: &mut Packet, tci: u16) -> Result<()> {
    packet.grow_head(vlan::TAG_LEN)?;
    vlan::insert(packet.data_mut(), tci);
    Ok(())
}

/// Fills in what the packet asks for (contract O2).
///
/// # Errors
/// [`Error::Unsendable`] if the frame has not what is asked for; nothing is changed.
pub(super) fn fill_checksums(packet: &mut Packet, requests: &TxRequests) -> Result<()> {
    let request = checksum::Fill {
        ipv4: requests.checksums.ipv4,
        l4: match requests.checksums.l4 {
            L4Checksum::None => checksum::FillL4::None,
            L4Checksum::Tcp => checksum::FillL4::Tcp,
            L4Checksum::Udp => checksum::FillL4::Udp,
        },
    };
    let filled = checksum::fill_segments(packet.segments(), request)
        .map_err(|error| Error::Unsendable { reason: error.to_string() })?;
    filled.apply(packet.data_mut());
    Ok(())
}
