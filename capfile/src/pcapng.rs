//! Reading pcapng: blocks, sections, interfaces.
//!
//! `pcap-parser` reads the blocks that matter here; their bounds are checked before it sees them, and what it gets
//! wrong in 0.17 is done here: binary time resolutions, options of big-endian sections (both are taken from the raw
//! option), and trailing lengths, which it does not compare in all blocks.

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapNGOption,
    parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock, parse_simplepacketblock_be,
    parse_simplepacketblock_le,
};

use crate::error::Problem;
use crate::input::Input;
use crate::linktype::ETHERNET;
use crate::reader::{Found, word};
use crate::{Direction, MAX_FRAME, Resolution};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The obsolete packet block.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The largest block that is looked into: a frame and as much again of options. Others may have any size.
const MAX_BLOCK: usize = 2 * MAX_FRAME;

/// So that a file of nothing but interfaces does not fill the memory.
const MAX_INTERFACES: usize = 65536;

/// The section that is being read.
pub(crate) struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// Of the last record.
    resolution: Resolution,
}

struct Interface {
    link: u32,
    snap_len: usize,
    /// Units of time in a second; `None` for more than can be counted.
    units: Option<u128>,
    offset_seconds: i64,
    /// Bytes of frame check sequence at the end of each frame.
    fcs: usize,
}

/// What a block was.
enum Block {
    Packet(Found),
    Other,
}

impl Section {
    /// Reads the first section's header.
    pub fn open(input: &mut Input) -> Result<Section, Problem> {
        let mut section =
            Section { big_endian: false, interfaces: Vec::new(), resolution: Resolution::Micro };
        section.block(input)?;
        Ok(section)
    }

    pub fn resolution(&self) -> Resolution {
        self.resolution
    }

    pub fn next(&mut self, input: &mut Input) -> Result<Option<Found>, Problem> {
        loop {
            if !input.fill(1)? {
                return Ok(None);
            }
            if let Block::Packet(found) = self.block(input)? {
                return Ok(Some(found));
            }
        }
    }

    /// Reads one block. A packet's stays in the input, any other is consumed.
    fn block(&mut self, input: &mut Input) -> Result<Block, Problem> {
        if !input.fill(12)? {
            return Err(Problem::Truncated);
        }
        // A section may be of the other byte order; its header's type reads the same in both.
        if word(input.data(), 0, false) == SECTION {
            self.big_endian = match word(input.data(), 8, false) {
                0x1a2b_3c4d => false,
                0x4d3c_2b1a => true,
                other => {
                    let reason =
                        format!("a section header with {other:08x} where its byte order stands");
                    return Err(Problem::Corrupt(reason));
                }
            };
        }
        let kind = word(input.data(), 0, self.big_endian);
        let length = word(input.data(), 4, self.big_endian) as usize;
        let corrupt = |what: &str| {
            Err(Problem::Corrupt(format!("a block of type {kind:#x} and {length} bytes: {what}")))
        };
        if length < 12 || !length.is_multiple_of(4) {
            return corrupt("no block has that length");
        }
        let known = [SECTION, INTERFACE, PACKET, SIMPLE_PACKET, ENHANCED_PACKET].contains(&kind);
        if known && length > MAX_BLOCK {
            return corrupt(&format!("{MAX_BLOCK} are the most"));
        }
        // What is looked into has to be there whole, of others only the length at their end.
        let present = match known {
            true => input.fill(length)?,
            false => input.skip(length - 4)? && input.fill(4)?,
        };
        if !present {
            return Err(Problem::Truncated);
        }
        let trailer = if known { length - 4 } else { 0 };
        if word(input.data(), trailer, self.big_endian) as usize != length {
            return corrupt("the length at its end is another");
        }
        let data = &mut input.data_mut()[..trailer + 4];
        let found = match kind {
            SECTION => self.section(data)?,
            INTERFACE => self.interface(data)?,
            SIMPLE_PACKET => self.simple_packet(data)?,
            ENHANCED_PACKET => self.packet(data)?,
            PACKET => {
                upgrade(data, self.big_endian);
                self.packet(data)?
            }
            _ => Block::Other,
        };
        if matches!(found, Block::Other) {
            input.consume(trailer + 4);
        }
        Ok(found)
    }

    fn section(&mut self, data: &[u8]) -> Result<Block, Problem> {
        let (_, block) =
            parse_sectionheaderblock(data).map_err(|_| unreadable("section header"))?;
        if block.major_version != 1 {
            let reason = format!(
                "a section of version {}.{}; only 1 is known",
                block.major_version, block.minor_version
            );
            return Err(Problem::Corrupt(reason));
        }
        self.interfaces.clear();
        Ok(Block::Other)
    }

    fn interface(&mut self, data: &[u8]) -> Result<Block, Problem> {
        let parse = match self.big_endian {
            true => parse_interfacedescriptionblock_be,
            false => parse_interfacedescriptionblock_le,
        };
        let (_, block) = parse(data).map_err(|_| unreadable("interface description"))?;
        if self.interfaces.len() >= MAX_INTERFACES {
            let reason = format!("a section of more than {MAX_INTERFACES} interfaces");
            return Err(Problem::Corrupt(reason));
        }
        self.interfaces.push(Interface::new(&block, self.big_endian));
        Ok(Block::Other)
    }

    fn packet(&mut self, data: &[u8]) -> Result<Block, Problem> {
        let parse = match self.big_endian {
            true => parse_enhancedpacketblock_be,
            false => parse_enhancedpacketblock_le,
        };
        let (_, block) = parse(data).map_err(|_| unreadable("packet"))?;
        let EnhancedPacketBlock { if_id, ts_high, ts_low, caplen, origlen, .. } = block;
        let flags = options(&block.options)
            .find(|option| option.code.0 == 2 && option.len == 4)
            .map_or(0, |option| word(option.value(), 0, self.big_endian));
        let interface = self.of_packet(if_id)?;
        if caplen as usize > MAX_FRAME {
            let reason = format!("a frame of {caplen} bytes; {MAX_FRAME} are the most");
            return Err(Problem::Corrupt(reason));
        }
        let fcs = match (flags >> 5) & 15 {
            0 => interface.fcs,
            bytes => bytes as usize,
        };
        let mut found = Found {
            size: data.len(),
            frame: 0..0,
            original_len: 0,
            timestamp_ns: Some(interface.nanoseconds(u64::from(ts_high) << 32 | u64::from(ts_low))),
            direction: match flags & 3 {
                1 => Some(Direction::Received),
                2 => Some(Direction::Sent),
                _ => None,
            },
        };
        found.set_frame(28, caplen as usize, origlen as usize, fcs);
        self.resolution = interface.resolution();
        Ok(Block::Packet(found))
    }

    /// A packet of the first interface, without time or options.
    fn simple_packet(&mut self, data: &[u8]) -> Result<Block, Problem> {
        let parse = match self.big_endian {
            true => parse_simplepacketblock_be,
            false => parse_simplepacketblock_le,
        };
        let (_, block) = parse(data).map_err(|_| unreadable("simple packet"))?;
        let (original, room) = (block.origlen as usize, block.data.len());
        let interface = self.of_packet(0)?;
        let captured = original.min(interface.snap_len);
        if captured > room || captured > MAX_FRAME {
            let reason = format!("a frame of {captured} bytes in a block with {room}");
            return Err(Problem::Corrupt(reason));
        }
        let mut found = Found {
            size: data.len(),
            frame: 0..0,
            original_len: 0,
            timestamp_ns: None,
            direction: None,
        };
        found.set_frame(12, captured, original, interface.fcs);
        self.resolution = interface.resolution();
        Ok(Block::Packet(found))
    }

    fn of_packet(&self, id: u32) -> Result<&Interface, Problem> {
        let interface = self.interfaces.get(id as usize).ok_or_else(|| {
            let known = self.interfaces.len();
            Problem::Corrupt(format!("a packet of interface {id} in a section that has {known}"))
        })?;
        match interface.link {
            ETHERNET => Ok(interface),
            other => Err(Problem::LinkType(other)),
        }
    }
}

impl Interface {
    fn new(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Interface {
        let mut interface = Interface {
            link: block.linktype.0 as u32,
            snap_len: match block.snaplen {
                0 => usize::MAX,
                length => length as usize,
            },
            units: Some(1_000_000),
            offset_seconds: 0,
            fcs: 0,
        };
        for option in options(&block.options) {
            match (option.code.0, option.value()) {
                (9, [resolution, ..]) if option.len == 1 => {
                    interface.units = match resolution >> 7 {
                        0 => 10u128.checked_pow(u32::from(*resolution)),
                        _ => Some(1 << (resolution & 127)),
                    };
                }
                // The registry says bits, its example and what is written say bytes.
                (13, [length, ..]) if option.len == 1 => {
                    interface.fcs = usize::from(if *length >= 16 { *length / 8 } else { *length });
                }
                (14, value) if option.len == 8 => {
                    let (first, second) = (word(value, 0, big_endian), word(value, 4, big_endian));
                    let (high, low) = if big_endian { (first, second) } else { (second, first) };
                    interface.offset_seconds = (u64::from(high) << 32 | u64::from(low)) as i64;
                }
                _ => {}
            }
        }
        interface
    }

    /// A packet's time, from units of the interface.
    fn nanoseconds(&self, count: u64) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let within = match self.units {
            Some(SECOND) => u128::from(count),
            // A 64-bit number and 30 bits fit.
            Some(units) => u128::from(count) * SECOND / units,
            None => 0,
        };
        let offset = i128::from(self.offset_seconds) * SECOND as i128;
        let time = (within as i128).saturating_add(offset).max(0);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    fn resolution(&self) -> Resolution {
        match self.units {
            Some(..=1_000_000) => Resolution::Micro,
            _ => Resolution::Nano,
        }
    }
}

/// The options before the one that ends them.
fn options<'a>(all: &'a [PcapNGOption<'a>]) -> impl Iterator<Item = &'a PcapNGOption<'a>> {
    all.iter().take_while(|option| option.code != OptionCode::EndOfOpt)
}

fn unreadable(what: &str) -> Problem {
    Problem::Corrupt(format!("the {what} block's lengths contradict each other"))
}

/// Makes an enhanced packet block of an obsolete one, which begins with a 16-bit interface and a 16-bit count of drops
/// instead of a 32-bit interface.
fn upgrade(data: &mut [u8], big_endian: bool) {
    let put = |at: &mut [u8], value: u32| {
        at.copy_from_slice(&if big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    };
    if data.len() >= 12 {
        let both = word(data, 8, big_endian);
        put(&mut data[0..4], ENHANCED_PACKET);
        put(&mut data[8..12], if big_endian { both >> 16 } else { both & 0xffff });
    }
}
