//! Inserting and stripping a VLAN tag (contract O3).
//!
//! Both move the twelve address bytes and leave the rest where it is, so they cost the same for every frame
//! length and need only the first segment of a chain. The outermost tag is meant throughout. A tag with VLAN
//! identifier 0 (it carries only a priority) is a tag like any other. A service tag (0x88a8) is never stripped,
//! and neither is an 802.1Q tag behind one.

use super::parse::{ETHERTYPE_VLAN, be16, chunk};

/// Bytes of a tag.
pub const TAG_LEN: usize = 4;

/// Inserts an 802.1Q tag with this tag control word (priority, DEI and VLAN identifier, as on the wire).
///
/// `buffer` is four bytes of head room and then the frame; afterwards it is the frame, tag included. `false`, and
/// nothing changed, if that is fewer than 4 + 14 bytes.
///
/// ```
/// let mut buffer = [0u8; 64]; // 4 of head room, 60 of frame
/// buffer[4..10].copy_from_slice(&[0xff; 6]);
/// assert!(anyport::offload::vlan::insert(&mut buffer, 5));
/// assert_eq!(buffer[..6], [0xff; 6]);
/// assert_eq!(buffer[12..16], [0x81, 0x00, 0, 5]);
/// ```
#[inline]
pub fn insert(buffer: &mut [u8], tci: u16) -> bool {
    if buffer.len() < TAG_LEN + 14 {
        return false;
    }
    buffer.copy_within(TAG_LEN..TAG_LEN + 12, 0);
    buffer[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
    buffer[14..16].copy_from_slice(&tci.to_be_bytes());
    true
}

/// The tag control word of the frame's 802.1Q tag, if that is what [`strip`] would strip.
#[inline]
pub fn outer_tci(frame: &[u8]) -> Option<u16> {
    // The EtherType behind the tag must be there, too: what is left is to be a frame.
    let [t0, t1, c0, c1, _, _] = *chunk::<6>(frame, 12)?;
    (u16::from_be_bytes([t0, t1]) == ETHERTYPE_VLAN).then_some(u16::from_be_bytes([c0, c1]))
}

/// Strips the outermost 802.1Q tag and gives its tag control word.
///
/// Afterwards the frame is `frame[4..]`: the first four bytes have become head room. `None`, and nothing changed,
/// if there is no such tag or nothing behind it.
#[inline]
pub fn strip(frame: &mut [u8]) -> Option<u16> {
    let tci = outer_tci(frame)?;
    frame.copy_within(..12, TAG_LEN);
    Some(tci)
}

/// Whether the frame's outermost EtherType is 802.1Q's (contract M2: such a frame may be 4 bytes longer).
#[inline]
pub fn is_tagged(frame: &[u8]) -> bool {
    be16(frame, 12) == Some(ETHERTYPE_VLAN)
}
