//! The in-process cable.

use std::sync::atomic::{AtomicU64, Ordering};

use anyport::Registry;
use anyport_loopback::Cable;

use super::{Rig, Wires};
use crate::case::{Power, Verdict};
use crate::ctx::End;

/// The rig `loop`: both ends of an in-process cable. It needs no privilege.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopRig {
    offloads: bool,
}

impl LoopRig {
    /// The rig.
    pub fn new() -> LoopRig {
        LoopRig::default()
    }

    /// The rig `loop-offloads`: the cable's ends do offloads themselves, as cards do, so that what the common layer leaves
    /// to devices is shown, too.
    pub fn with_offloads() -> LoopRig {
        LoopRig { offloads: true }
    }
}

impl Rig for LoopRig {
    fn name(&self) -> String {
        if self.offloads { "loop-offloads" } else { "loop" }.into()
    }

    fn about(&self) -> String {
        match self.offloads {
            false => "an in-process cable".into(),
            true => "an in-process cable whose ends do offloads themselves".into(),
        }
    }

    fn registry(&self) -> Registry {
        anyport_backends::registry()
    }

    fn powers(&self) -> Vec<Power> {
        vec![
            Power::Cable,
            Power::Pause,
            Power::Remove,
            Power::EndInput,
            Power::LongFrames,
            Power::Direct,
        ]
    }

    fn wires(&self, _: usize) -> Verdict<Box<dyn Wires>> {
        Ok(Box::new(LoopWires { cable: Cable::named(&name()), offloads: self.offloads }))
    }
}

/// A name that no other cable has: other rigs and suites of the same process must not meet on one.
fn name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

struct LoopWires {
    cable: Cable,
    offloads: bool,
}

impl Wires for LoopWires {
    fn spec(&self, end: End) -> String {
        let keys = if self.offloads { ",device_offloads=true" } else { "" };
        format!("loop:{}.{}{keys}", self.cable.name(), end.index())
    }

    fn set_link(&self, up: bool) -> Verdict {
        self.cable.set_link(up);
        Ok(())
    }

    fn pause(&self, on: bool) -> Verdict {
        self.cable.pause(on);
        Ok(())
    }

    fn remove(&self, end: End) -> Verdict {
        self.cable.remove(end.index(), true);
        Ok(())
    }

    fn came_out(&self, _: End) -> Verdict<Option<u64>> {
        // The cable looks at no length.
        Ok(None)
    }

    fn end_input(&self, end: End) -> Verdict {
        self.cable.end_input(end.index());
        Ok(())
    }
}
