//! Internet checksums (RFC 1071) of IPv4 headers, TCP and UDP: [`verify`] (contract O1), [`fill`] (O2) and
//! [`finish`] (R3).
//!
//! Each comes in two forms: over a frame in one slice, and `*_segments` over a chain, whose first segment must
//! hold all headers. The latter only read, and answer with [`Patch`]es for the first segment.
//!
//! The arithmetic and its traps are in [`sum`](super::sum).

use super::crc32c::Crc32c;
use super::parse::{Headers, Network, TCP, Transport, UDP, be16, chunk};
pub use super::sum::{Accumulator, checksum, pseudo_ipv4, pseudo_ipv6};
use super::sum::{fold, pseudo_ipv6_bytes};
use super::tunnel;

/// Where the checksum field is, from the start of the header.
const IPV4_FIELD: usize = 10;
const TCP_FIELD: usize = 16;
const UDP_FIELD: usize = 6;
const SCTP_FIELD: usize = 8;

/// Tunnels in tunnels that [`finish`] looks into.
const MAX_TUNNELS: usize = 3;

/// Bytes that belong into a frame's first segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Where, from the start of the segment.
    pub offset: usize,
    bytes: [u8; 4],
    len: u8,
}

impl Patch {
    #[inline]
    fn word(offset: usize, value: u16) -> Patch {
        let [a, b] = value.to_be_bytes();
        Patch { offset, bytes: [a, b, 0, 0], len: 2 }
    }

    /// The bytes: two, or four for SCTP.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// What stands where the patch goes, to be put back with.
    fn undo(&self, first: &[u8]) -> Patch {
        let mut undo = *self;
        let there = first.get(self.offset..).and_then(|rest| rest.get(..self.bytes().len()));
        if let Some(there) = there {
            undo.bytes[..there.len()].copy_from_slice(there);
        }
        undo
    }

    /// Writes the bytes into the segment that the patch was made for; nothing where it does not fit.
    #[inline]
    pub fn apply(&self, first: &mut [u8]) {
        let target =
            first.get_mut(self.offset..).and_then(|rest| rest.get_mut(..self.bytes().len()));
        if let Some(target) = target {
            target.copy_from_slice(self.bytes());
        }
    }
}

/// What is known of one checksum: never wrong, but possibly unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Status {
    /// It cannot be told.
    #[default]
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

impl Status {
    #[inline]
    fn of(good: bool) -> Status {
        if good { Status::Good } else { Status::Bad }
    }
}

/// What [`verify`] finds; each is judged by the bytes as they stand, so a bad IPv4 header checksum says nothing
/// about the transport's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Verified {
    /// The IPv4 header checksum. Unknown for IPv6, which has none, and for what is not IP.
    pub ip: Status,
    /// The TCP or UDP checksum. Unknown for fragments, for other protocols, for a packet that is cut short or whose
    /// lengths contradict each other, for UDP without a checksum (a field of 0, over IPv4 or IPv6), and for IPv6
    /// whose pseudo header cannot be told ([`Headers::rerouted`]).
    pub l4: Status,
}

/// Verifies a frame's checksums (contract O1).
#[inline]
pub fn verify(frame: &[u8]) -> Verified {
    verify_parts(frame, frame.len(), std::iter::empty())
}

/// As [`verify`], for a chain.
pub fn verify_segments<'a>(segments: impl Iterator<Item = &'a [u8]> + Clone) -> Verified {
    match split(segments) {
        Some((first, len, rest)) => verify_parts(first, len, rest),
        None => Verified::default(),
    }
}

#[inline]
fn verify_parts<'a>(
    first: &'a [u8],
    frame_len: usize,
    rest: impl Iterator<Item = &'a [u8]>,
) -> Verified {
    let Some(headers) = Headers::parse_first(first, frame_len) else { return Verified::default() };
    let ip = match headers.network {
        Network::Ipv4 { header_len } => {
            let header = first.get(headers.l3_offset..headers.l3_offset + header_len);
            header.map_or(Status::Unknown, |header| Status::of(checksum(header) == 0))
        }
        _ => Status::Unknown,
    };
    let l4 = match L4::find(first, &headers) {
        // Over IPv6 it is an error except for some tunnels (RFC 6935), so it cannot be told there either.
        Some(l4) if l4.udp && l4.field == 0 => Status::Unknown,
        Some(l4) => match l4_sum(first, &headers, rest, l4.pseudo) {
            Some(sum) => Status::of(sum == 0xffff),
            None => Status::Unknown,
        },
        None => Status::Unknown,
    };
    Verified { ip, l4 }
}

/// Which transport checksum [`fill`] is to fill in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FillL4 {
    /// None.
    #[default]
    None,
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

/// What [`fill`] is to fill in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fill {
    /// The IPv4 header checksum.
    pub ipv4: bool,
    /// The transport checksum.
    pub l4: FillL4,
}

/// Why a checksum could not be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// There is no complete IPv4 header in the first segment.
    #[error(
        "an IPv4 header checksum is asked for, and the frame has no complete IPv4 header in its first segment"
    )]
    NotIpv4,
    /// There is no complete TCP segment.
    #[error(
        "a TCP checksum is asked for, and the frame has no complete TCP segment that is no fragment, with its headers \
         in the frame's first segment and lengths that agree"
    )]
    NotTcp,
    /// There is no complete UDP datagram.
    #[error(
        "a UDP checksum is asked for, and the frame has no complete UDP datagram that is no fragment, with its headers \
         in the frame's first segment and lengths that agree"
    )]
    NotUdp,
}

/// What [`fill_segments`] wants written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filled {
    /// The IPv4 header checksum.
    pub ipv4: Option<Patch>,
    /// The transport checksum.
    pub l4: Option<Patch>,
}

impl Filled {
    /// What stands now where the checksums go: applied later, it takes them back.
    pub fn undo(&self, first: &[u8]) -> Filled {
        let undo = |patch: Option<Patch>| patch.map(|patch| patch.undo(first));
        Filled { ipv4: undo(self.ipv4), l4: undo(self.l4) }
    }

    /// Writes the checksums into the frame's first segment.
    #[inline]
    pub fn apply(&self, first: &mut [u8]) {
        for patch in [self.ipv4, self.l4].iter().flatten() {
            patch.apply(first);
        }
    }
}

/// Fills in a frame's checksums (contract O2), whatever the fields hold. The outermost headers are meant; addresses
/// and lengths must be right already.
///
/// # Errors
/// [`FillError`] if the frame has not what is asked for; nothing is changed.
#[inline]
pub fn fill(frame: &mut [u8], request: Fill) -> Result<(), FillError> {
    fill_parts(frame, frame.len(), std::iter::empty(), request)?.apply(frame);
    Ok(())
}

/// As [`fill`], for a chain.
///
/// # Errors
/// As [`fill`].
pub fn fill_segments<'a>(
    segments: impl Iterator<Item = &'a [u8]> + Clone,
    request: Fill,
) -> Result<Filled, FillError> {
    let nothing: &[u8] = &[];
    match split(segments.clone()) {
        Some((first, len, rest)) => fill_parts(first, len, rest, request),
        None => fill_parts(nothing, 0, segments, request),
    }
}

#[inline]
fn fill_parts<'a>(
    first: &[u8],
    frame_len: usize,
    rest: impl Iterator<Item = &'a [u8]>,
    request: Fill,
) -> Result<Filled, FillError> {
    let headers = Headers::parse_first(first, frame_len);
    let mut filled = Filled::default();
    if request.ipv4 {
        let header = headers.and_then(|headers| match headers.network {
            Network::Ipv4 { header_len } => {
                Some((headers.l3_offset, first.get(headers.l3_offset..)?.get(..header_len)?))
            }
            _ => None,
        });
        let (offset, header) = header.ok_or(FillError::NotIpv4)?;
        let mut sum = Accumulator::default();
        sum.add(&header[..IPV4_FIELD]);
        sum.add(&header[IPV4_FIELD + 2..]);
        filled.ipv4 = Some(Patch::word(offset + IPV4_FIELD, !sum.fold()));
    }
    let (transport, error) = match request.l4 {
        FillL4::None => return Ok(filled),
        FillL4::Tcp => (Transport::Tcp, FillError::NotTcp),
        FillL4::Udp => (Transport::Udp, FillError::NotUdp),
    };
    let headers = headers.filter(|headers| headers.transport == transport).ok_or(error)?;
    let l4 = L4::find(first, &headers).ok_or(error)?;
    // Adding the complement takes the field's old value out of the sum.
    let start = fold(u64::from(l4.pseudo) + u64::from(!l4.field));
    let sum = l4_sum(first, &headers, rest, start).ok_or(error)?;
    filled.l4 = Some(Patch::word(l4.offset, l4.value(sum)));
    Ok(filled)
}

/// Finishes a checksum that a sending kernel left unfinished (contract R3); whether the frame was changed.
///
/// On a software link (veth, tap) the kernel leaves TCP's and UDP's checksum to the device: the field then
/// holds the folded sum of the pseudo header, not complemented. Such a field is recognised by that value and
/// completed; also inside the tunnels that [`tunnel`] knows, whose innermost checksum it is that a kernel leaves.
/// SCTP's field (a CRC-32C, not a sum) then holds 0. Everything else stays as it is: IPv4 header checksums and
/// those of fragments, UDP-Lite, DCCP and ICMP are always finished by the kernel itself.
///
/// A finished frame costs the way to its headers, the sum of its pseudo header and one comparison; its payload
/// is not touched.
///
/// # A right checksum stays
/// A right checksum may happen to equal the pseudo header's sum P. Modulo 65,535, with R the sum of segment and
/// payload without the field: the field F is right if and only if P + F + R = 0. If F = P, then
/// completing it gives -(P + R) = F: the same number. The same number has two forms only if it is 0, so it is
/// written only if the number differs, and a right frame stays as it is, byte for byte. So does a finished one,
/// for finishing makes it right. SCTP: a right CRC of 0 is computed to be 0 again.
///
/// # What it cannot know
/// A checksum that was damaged on its way and has just this value (one of 65,535) is made right; there is
/// hardly any damage on a software link. SCTP whose peers agreed on zero checksums (RFC 9653) gets the right
/// one, which its receiver must accept. IPv6 whose pseudo header cannot be told ([`Headers::rerouted`]) stays
/// unfinished. And segments that the kernel has not cut (TSO, UDP GSO), if all of them together are no longer than the
/// port's maximum, look like one unfinished frame and become one finished frame: only switching that offload
/// off at the sender helps.
#[inline]
pub fn finish(frame: &mut [u8]) -> bool {
    match unfinished(frame, frame.len(), std::iter::empty()) {
        Some(patch) => {
            patch.apply(frame);
            true
        }
        None => false,
    }
}

/// As [`finish`], for a chain: what is to be written into the first segment, if the frame is unfinished.
pub fn finish_segments<'a>(segments: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Patch> {
    let (first, len, rest) = split(segments)?;
    unfinished(first, len, rest)
}

/// Headers go by value to what is out of line, so that they stay in registers for all frames that need nothing.
#[inline]
fn unfinished<'a>(
    first: &[u8],
    frame_len: usize,
    rest: impl Iterator<Item = &'a [u8]>,
) -> Option<Patch> {
    let headers = Headers::parse_first(first, frame_len)?;
    match look(first, &headers) {
        Look::Nothing => None,
        Look::Sum(l4) => complete(first, headers, rest, l4),
        Look::Crc => complete_sctp(first, headers, rest),
        Look::Inside => unfinished_inside(first, headers, rest),
    }
}

/// What may be unfinished at one level of headers.
enum Look {
    Nothing,
    /// TCP's or UDP's checksum.
    Sum(L4),
    /// SCTP's, perhaps.
    Crc,
    /// What a tunnel carries.
    Inside,
}

#[inline]
fn look(first: &[u8], headers: &Headers) -> Look {
    match L4::find(first, headers) {
        Some(l4) if l4.field == l4.pseudo => Look::Sum(l4),
        _ if headers.transport == Transport::Sctp => Look::Crc,
        _ if tunnel::may_carry(first, headers) => Look::Inside,
        _ => Look::Nothing,
    }
}

#[cold]
fn unfinished_inside<'a>(
    first: &[u8],
    mut headers: Headers,
    rest: impl Iterator<Item = &'a [u8]>,
) -> Option<Patch> {
    for _ in 0..MAX_TUNNELS {
        headers = tunnel::inner(first, &headers)?;
        match look(first, &headers) {
            Look::Nothing => return None,
            Look::Sum(l4) => return complete(first, headers, rest, l4),
            Look::Crc => return complete_sctp(first, headers, rest),
            Look::Inside => {}
        }
    }
    None
}

#[cold]
fn complete<'a>(
    first: &[u8],
    headers: Headers,
    rest: impl Iterator<Item = &'a [u8]>,
    l4: L4,
) -> Option<Patch> {
    // The field holds the pseudo header's sum and stands among the bytes summed up: nothing to be added.
    let value = l4.value(l4_sum(first, &headers, rest, 0)?);
    // Equal modulo 65,535: right already (see `finish`).
    (value % 0xffff != l4.field % 0xffff).then(|| Patch::word(l4.offset, value))
}

#[cold]
fn complete_sctp<'a>(
    first: &[u8],
    headers: Headers,
    rest: impl Iterator<Item = &'a [u8]>,
) -> Option<Patch> {
    let offset = headers.l4_offset + SCTP_FIELD;
    if chunk::<4>(first, offset)? != &[0; 4] {
        return None;
    }
    let mut crc = Crc32c::default();
    let whole = pieces(first, &headers, rest, |piece| crc.add(piece));
    let crc = crc.finish();
    (whole && crc != 0).then(|| Patch { offset, bytes: crc.to_le_bytes(), len: 4 })
}

/// A TCP or UDP checksum.
struct L4 {
    udp: bool,
    /// Where the field is, and what it holds.
    offset: usize,
    field: u16,
    /// The folded sum of the pseudo header: 1..=0xffff, since protocol and length are not 0.
    pseudo: u16,
}

impl L4 {
    #[inline]
    fn find(first: &[u8], headers: &Headers) -> Option<L4> {
        let (udp, protocol, field) = match headers.transport {
            Transport::Tcp => (false, TCP, TCP_FIELD),
            Transport::Udp => (true, UDP, UDP_FIELD),
            _ => return None,
        };
        let offset = headers.l4_offset + field;
        let pseudo = match headers.network {
            Network::Ipv4 { .. } => {
                let [a, b, c, d, e, f, g, h] = *chunk::<8>(first, headers.l3_offset + 12)?;
                pseudo_ipv4([a, b, c, d], [e, f, g, h], protocol, headers.l4_len as u16)
            }
            Network::Ipv6 if !headers.rerouted => {
                let addresses = chunk::<32>(first, headers.l3_offset + 8)?;
                pseudo_ipv6_bytes(addresses, protocol, headers.l4_len as u32)
            }
            _ => return None,
        };
        Some(L4 { udp, offset, field: be16(first, offset)?, pseudo })
    }

    /// The checksum that belongs to a folded sum.
    #[inline]
    fn value(&self, sum: u16) -> u16 {
        match !sum {
            // 0 would say that there is none; the same number has another form.
            0 if self.udp => 0xffff,
            value => value,
        }
    }
}

/// The folded sum of the transport's header and payload, and of what it starts with. `None` if the frame's
/// segments end before the packet does.
#[inline]
fn l4_sum<'a>(
    first: &[u8],
    headers: &Headers,
    rest: impl Iterator<Item = &'a [u8]>,
    start: u16,
) -> Option<u16> {
    let mut sum = Accumulator::with(start);
    pieces(first, headers, rest, |piece| sum.add(piece)).then(|| sum.fold())
}

/// Calls with each piece of the transport's header and payload; whether all of it was there.
#[inline]
fn pieces<'a>(
    first: &[u8],
    headers: &Headers,
    rest: impl Iterator<Item = &'a [u8]>,
    mut call: impl FnMut(&[u8]),
) -> bool {
    let mut left = headers.l4_len;
    let here = first.get(headers.l4_offset..).unwrap_or_default();
    let here = &here[..here.len().min(left)];
    call(here);
    left -= here.len();
    if left == 0 {
        return true;
    }
    for segment in rest {
        let piece = &segment[..segment.len().min(left)];
        call(piece);
        left -= piece.len();
        if left == 0 {
            return true;
        }
    }
    false
}

/// A chain's first segment, its length, and its other segments.
#[inline]
fn split<'a, I: Iterator<Item = &'a [u8]> + Clone>(
    mut segments: I,
) -> Option<(&'a [u8], usize, I)> {
    let first = segments.next()?;
    let len = segments.clone().map(<[u8]>::len).fold(first.len(), usize::saturating_add);
    Some((first, len, segments))
}
