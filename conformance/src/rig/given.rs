//! Two ports that somebody connected: a cable between two cards, two veth ends, two backends.

use anyport::Registry;

use super::{Rig, Wires};
use crate::case::{Power, Verdict};
use crate::ctx::End;
use crate::probe::probe;

/// The rig `given`: any two connected ports. The link must be quiet, because counts are exact; before the cases it is looked
/// whether frames pass both ways and nobody else's arrive.
pub struct Given {
    registry: Registry,
    specs: [String; 2],
}

impl Given {
    /// Two specs, or names from the registry's configuration file.
    ///
    /// # Errors
    /// If one is neither.
    pub fn new(registry: Registry, one: &str, other: &str) -> Verdict<Given> {
        // Cases add keys, which only a spec takes.
        let spec = |text| registry.resolve(text).map(|spec| spec.to_string());
        let specs = [spec(one)?, spec(other)?];
        Ok(Given { registry, specs })
    }
}

impl Rig for Given {
    fn name(&self) -> String {
        "given".into()
    }

    fn about(&self) -> String {
        format!("{} connected to {}", self.specs[0], self.specs[1])
    }

    fn registry(&self) -> Registry {
        self.registry.clone()
    }

    fn powers(&self) -> Vec<Power> {
        vec![Power::Direct]
    }

    fn check(&self) -> Verdict {
        probe(self.registry(), self.wires(0)?)
    }

    fn wires(&self, _: usize) -> Verdict<Box<dyn Wires>> {
        Ok(Box::new(GivenWires(self.specs.clone())))
    }
}

struct GivenWires([String; 2]);

impl Wires for GivenWires {
    fn spec(&self, end: End) -> String {
        self.0[end.index()].clone()
    }
}
