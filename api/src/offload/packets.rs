//! The same on whole packets, chains included: what the queues call, and a backend whose device has no such engine may.

use crate::error::{Error, Result};
use crate::offload::toeplitz::Toeplitz;
use crate::offload::{checksum, parse, vlan};
use crate::packet::{ChecksumStatus, L4Checksum, Packet, TxRequests};

/// Whether a packet asks for any checksum.
pub fn wants_checksums(requests: &TxRequests) -> bool {
    requests.checksums.ipv4 || requests.checksums.l4 != L4Checksum::None
}

/// Statuses of the IPv4 header's and the transport's checksum (contract O1).
pub fn verify(packet: &Packet) -> (ChecksumStatus, ChecksumStatus) {
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

/// Sets the statuses of both checksums (contract O1).
pub fn set_checksum_status(packet: &mut Packet) {
    let (ip, l4) = verify(packet);
    packet.set_checksum_status(ip, l4);
}

/// Sets the hash of the packet's flow, if it has one (contract O5).
pub fn set_hash(packet: &mut Packet, table: &Toeplitz) {
    if let Some(hash) = table.hash_frame(packet.data()) {
        packet.set_rss_hash(hash);
    }
}

/// Whether a frame has an EtherType behind which an unfinished checksum can be: IP, or a tag.
#[inline]
pub(crate) fn may_be_unfinished(frame: &[u8]) -> bool {
    // In the order of memory, so that nothing is turned round.
    const LOOKED_INTO: [u16; 4] = [
        parse::ETHERTYPE_IPV4.to_be(),
        parse::ETHERTYPE_IPV6.to_be(),
        parse::ETHERTYPE_VLAN.to_be(),
        parse::ETHERTYPE_QINQ.to_be(),
    ];
    match frame.get(12..14) {
        Some(&[high, low]) => LOOKED_INTO.contains(&u16::from_ne_bytes([high, low])),
        _ => false,
    }
}

/// Finishes a checksum that a sending kernel left unfinished (contract R3).
pub fn finish(packet: &mut Packet) {
    if !packet.is_chain() {
        checksum::finish(packet.data_mut());
    } else if let Some(patch) = checksum::finish_segments(packet.segments()) {
        patch.apply(packet.data_mut());
    }
}

/// Takes an outermost 802.1Q tag out of the frame and into the metadata (contract O3).
pub fn strip_vlan(packet: &mut Packet) {
    if let Some(tci) = vlan::strip(packet.data_mut()) {
        // Cannot fail: `strip` has seen 18 bytes.
        let _ = packet.shrink_head(vlan::TAG_LEN);
        packet.set_vlan(tci);
    }
}

/// Takes back what [`insert_vlan`] did.
pub(crate) fn remove_vlan(packet: &mut Packet) {
    if vlan::strip(packet.data_mut()).is_some() {
        let _ = packet.shrink_head(vlan::TAG_LEN);
    }
}

/// Puts a tag in (contract O3).
///
/// # Errors
/// [`Error::NoRoom`] without 4 bytes of head room; nothing is changed.
pub fn insert_vlan(packet: &mut Packet, tci: u16) -> Result<()> {
    packet.grow_head(vlan::TAG_LEN)?;
    vlan::insert(packet.data_mut(), tci);
    Ok(())
}

/// Fills in what the packet asks for (contract O2); what stood there before, to be put back if the packet is not sent
/// after all (T1).
///
/// # Errors
/// [`Error::Unsendable`] if the frame has not what is asked for; nothing is changed.
pub fn fill_checksums(packet: &mut Packet, requests: &TxRequests) -> Result<checksum::Filled> {
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
    let undo = filled.undo(packet.data());
    filled.apply(packet.data_mut());
    Ok(undo)
}
