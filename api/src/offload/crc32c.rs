//! CRC-32C (Castagnoli), SCTP's checksum (RFC 9260 appendix A), eight bytes at a step.
//!
//! Only frames that a kernel left unfinished come here, and few of those are SCTP: tables do, without the
//! processor's instruction and the unsafe code that it takes.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: what byte `b` contributes when `k` more bytes follow in the step.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// A checksum being taken over several pieces.
#[derive(Debug, Clone, Copy)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c(!0)
    }
}

impl Crc32c {
    /// Takes more bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        let (steps, rest) = bytes.as_chunks::<8>();
        for step in steps {
            let [a, b, c, d, e, f, g, h] = *step;
            let [i, j, k, l] = (self.0 ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
            let mut crc = 0;
            for (table, byte) in TABLES.iter().rev().zip([i, j, k, l, e, f, g, h]) {
                crc ^= table[usize::from(byte)];
            }
            self.0 = crc;
        }
        for byte in rest {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = self.0 >> 8 ^ TABLES[0][usize::from(low ^ byte)];
        }
    }

    /// The checksum; SCTP carries it with the least significant byte first.
    pub fn finish(self) -> u32 {
        !self.0
    }
}
