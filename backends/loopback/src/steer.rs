//! Which receive queue a frame goes to: the Toeplitz hash of its flow (contract Q1, O5).

use anyport::offload::toeplitz::Toeplitz;

pub(crate) struct Steer {
    table: Toeplitz,
}

impl Steer {
    pub fn new(key: &[u8; 40]) -> Steer {
        Steer { table: Toeplitz::new(key) }
    }

    pub fn hash(&self, frame: &[u8]) -> Option<u32> {
        self.table.hash_frame(frame)
    }

    /// Queue 0 for what has no flow.
    pub fn queue_of(&self, frame: &[u8], queues: u16) -> u16 {
        // As NICs do it: the low seven bits select an entry of a table in which the queues take turns.
        self.hash(frame).map_or(0, |hash| (hash & 127) as u16 % queues)
    }
}
