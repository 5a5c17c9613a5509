//! A small assembler for the kernel's eBPF (`bpf(2)`, RFC 9669): the dozen instructions that filters need, and labels.
//!
//! Programs are made in this process and loaded as they are: no compiler, no object file, no library.
//!
//! Trap: the verifier wants every path to end, so jumps go forward only; [`Assembler::finish`] refuses others.

use std::os::fd::AsRawFd;

use super::btf::Function;

/// A register. `R0` returns, `R1` to `R5` are a call's arguments and lost in it, `R6` to `R9` stay, `R10` is the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    /// What a call or the program returns.
    R0,
    /// First argument; the context at entry.
    R1,
    /// Second argument.
    R2,
    /// Third argument.
    R3,
    /// Fourth argument.
    R4,
    /// Fifth argument.
    R5,
    /// Kept across calls.
    R6,
    /// Kept across calls.
    R7,
    /// Kept across calls.
    R8,
    /// Kept across calls.
    R9,
    /// The end of the stack, 512 bytes; read only.
    R10,
}

/// How much a load takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
}

/// What a jump tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cond {
    /// Equal.
    Eq = 0x10,
    /// Any of the bits set.
    Set = 0x40,
    /// Greater, unsigned.
    Gt = 0x20,
    /// Not equal.
    Ne = 0x50,
    /// Less, unsigned.
    Lt = 0xa0,
}

/// An operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Addition.
    Add = 0x00,
    /// Bitwise and.
    And = 0x50,
    /// Shift to the left.
    Shl = 0x60,
    /// Copy.
    Mov = 0xb0,
}

/// A place that jumps go to; it is placed once, after all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<u64>,
    /// Where each label was placed.
    labels: Vec<Option<usize>>,
    /// Which instructions jump to which label.
    jumps: Vec<(usize, Label)>,
}

/// One instruction: code, registers, offset, immediate value.
fn instruction(code: u8, to: Reg, from: Reg, offset: i16, value: i32) -> u64 {
    let (to, from) = (to as u8, from as u8);
    // Two bit fields of one byte; compilers begin them at the end that the processor begins at.
    let registers = if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to };
    let ([o0, o1], [v0, v1, v2, v3]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    u64::from_ne_bytes([code, registers, o0, o1, v0, v1, v2, v3])
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Assembler {
        Assembler::default()
    }

    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, value: i32) -> &mut Self {
        self.code.push(instruction(code, to, from, offset, value));
        self
    }

    /// `to op= value`, 64 bits.
    pub fn op(&mut self, op: Op, to: Reg, value: i32) -> &mut Self {
        self.push(0x07 | op as u8, to, Reg::R0, 0, value)
    }

    /// `to op= from`, 64 bits.
    pub fn op_reg(&mut self, op: Op, to: Reg, from: Reg) -> &mut Self {
        self.push(0x0f | op as u8, to, from, 0, 0)
    }

    /// `to = memory at from + offset`, in the processor's byte order.
    pub fn load(&mut self, width: Width, to: Reg, from: Reg, offset: i16) -> &mut Self {
        self.push(0x61 | width as u8, to, from, offset, 0)
    }

    /// `memory at to + offset = from`, in the processor's byte order.
    pub fn store(&mut self, width: Width, to: Reg, offset: i16, from: Reg) -> &mut Self {
        self.push(0x63 | width as u8, to, from, offset, 0)
    }

    /// `memory at to + offset = value`.
    pub fn store_value(&mut self, width: Width, to: Reg, offset: i16, value: i32) -> &mut Self {
        self.push(0x62 | width as u8, to, Reg::R0, offset, value)
    }

    /// Puts the register's lower 16 bits into network order, and clears the others.
    pub fn to_network_order(&mut self, reg: Reg) -> &mut Self {
        self.push(0xdc, reg, Reg::R0, 0, 16)
    }

    /// Jumps to the label if the register's lower 32 bits and the value meet the condition.
    pub fn jump_if(&mut self, cond: Cond, reg: Reg, value: u32, label: Label) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x06 | cond as u8, reg, Reg::R0, 0, value as i32)
    }

    /// Jumps to the label if the two registers, all 64 bits of them, meet the condition.
    pub fn jump_if_reg(&mut self, cond: Cond, reg: Reg, other: Reg, label: Label) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x0d | cond as u8, reg, other, 0, 0)
    }

    /// Jumps to the label if the register, which has a pointer or nothing, has nothing.
    pub fn jump_if_null(&mut self, reg: Reg, label: Label) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x05 | Cond::Eq as u8, reg, Reg::R0, 0, 0)
    }

    /// `to = the map with that descriptor`. It takes two places.
    pub fn load_map(&mut self, to: Reg, map: &impl AsRawFd) -> &mut Self {
        // BPF_PSEUDO_MAP_FD stands where the other register would.
        self.push(0x18, to, Reg::R1, 0, map.as_raw_fd()).push(0, Reg::R0, Reg::R0, 0, 0)
    }

    /// Jumps to the label.
    pub fn jump(&mut self, label: Label) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x05, Reg::R0, Reg::R0, 0, 0)
    }

    /// Calls one of the kernel's helpers by its number.
    pub fn call(&mut self, helper: i32) -> &mut Self {
        self.push(0x85, Reg::R0, Reg::R0, 0, helper)
    }

    /// Calls a function of the kernel that programs may call.
    pub fn call_function(&mut self, function: Function) -> &mut Self {
        // BPF_PSEUDO_KFUNC_CALL stands where a register would.
        self.push(0x85, Reg::R0, Reg::R2, 0, function.0 as i32)
    }

    /// Ends the program with this verdict.
    pub fn exit(&mut self, verdict: i32) -> &mut Self {
        self.op(Op::Mov, Reg::R0, verdict).push(0x95, Reg::R0, Reg::R0, 0, 0)
    }

    /// Ends the program with what is in `R0`.
    pub fn exit_with_r0(&mut self) -> &mut Self {
        self.push(0x95, Reg::R0, Reg::R0, 0, 0)
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places the label here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        debug_assert!(self.labels[label.0].is_none(), "a label is placed once");
        self.labels[label.0] = Some(self.code.len());
        self
    }

    /// The program, with all jumps resolved; `None` if a label was not placed, lies before a jump to it, or too far away.
    pub fn finish(mut self) -> Option<Vec<u64>> {
        for (at, label) in &self.jumps {
            let distance = self.labels[label.0]?.checked_sub(at + 1)?;
            let offset = i16::try_from(distance).ok()?;
            let [code, registers, _, _, v0, v1, v2, v3] = self.code[*at].to_ne_bytes();
            let [o0, o1] = offset.to_ne_bytes();
            self.code[*at] = u64::from_ne_bytes([code, registers, o0, o1, v0, v1, v2, v3]);
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_the_kernels() {
        let mut a = Assembler::new();
        let end = a.label();
        a.op(Op::Mov, Reg::R6, -2).op_reg(Op::Add, Reg::R7, Reg::R10);
        a.load(Width::Half, Reg::R8, Reg::R10, -16).jump_if(Cond::Eq, Reg::R8, 0x0608, end);
        a.jump(end).call(26).place(end).exit(2);
        // As `bpftool prog dump xlated opcodes` writes them.
        let bytes: Vec<[u8; 8]> = a.finish().unwrap().iter().map(|i| i.to_le_bytes()).collect();
        assert_eq!(
            bytes,
            [
                [0xb7, 0x06, 0, 0, 0xfe, 0xff, 0xff, 0xff],
                [0x0f, 0xa7, 0, 0, 0, 0, 0, 0],
                [0x69, 0xa8, 0xf0, 0xff, 0, 0, 0, 0],
                [0x16, 0x08, 2, 0, 0x08, 0x06, 0, 0],
                [0x05, 0, 1, 0, 0, 0, 0, 0],
                [0x85, 0, 0, 0, 26, 0, 0, 0],
                [0xb7, 0, 0, 0, 2, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
        let mut a = Assembler::new();
        let end = a.label();
        a.store_value(Width::Word, Reg::R10, -4, 7).store(Width::Half, Reg::R2, 12, Reg::R4);
        a.to_network_order(Reg::R4).call_function(Function(258)).jump_if_null(Reg::R0, end);
        a.place(end).exit_with_r0();
        let bytes: Vec<[u8; 8]> = a.finish().unwrap().iter().map(|i| i.to_le_bytes()).collect();
        assert_eq!(
            bytes,
            [
                [0x62, 0x0a, 0xfc, 0xff, 7, 0, 0, 0],
                [0x6b, 0x42, 12, 0, 0, 0, 0, 0],
                [0xdc, 0x04, 0, 0, 16, 0, 0, 0],
                [0x85, 0x20, 0, 0, 2, 1, 0, 0],
                [0x15, 0, 0, 0, 0, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn jumps_that_lead_nowhere_or_back_are_refused() {
        let mut a = Assembler::new();
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish(), None);
        let mut a = Assembler::new();
        let back = a.label();
        a.place(back).jump(back);
        assert_eq!(a.finish(), None);
        let mut a = Assembler::new();
        let far = a.label();
        a.jump(far);
        for _ in 0..40_000 {
            a.call(1);
        }
        a.place(far).exit(0);
        assert_eq!(a.finish(), None);
    }
}
