//! What a port has counted (contract S): exact, monotonic, one cause per lost frame.
//!
//! The common layer keeps what it can see (delivered, accepted, refused by length, filtered by it, copied);
//! the backend adds what only the device knows. A counter that nobody can keep is `None`, never 0 (S2).

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none", default)] pub $field: Option<u64>,)*
        }

        impl $name {
            /// Names and values, in a fixed order; absent counters are left out.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field)),*]
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
            }

            /// Adds each counter that `other` has; one that is absent on both sides stays absent.
            pub fn add(&mut self, other: &$name) {
                $(if let Some(value) = other.$field {
                    // A broken device may say anything (contract F8).
                    let sum = self.$field.get_or_insert(0);
                    *sum = sum.saturating_add(value);
                })*
            }
        }
    };
}

counters! {
    /// The counters of a port or of one of its queues. Bytes are frame bytes: padding included, FCS not.
    Counters {
        /// Frames that the application got.
        rx_packets,
        /// Bytes of those.
        rx_bytes,
        /// Dropped on receive: longer than the maximum frame, or cut short below (contract R4).
        rx_too_long,
        /// Dropped on receive: under 14 bytes.
        rx_too_short,
        /// Dropped on receive: the pool had no frame (contract R7).
        rx_no_buffer,
        /// Dropped on receive: the application was too slow and the ring was full (contract R8).
        rx_ring_full,
        /// Dropped on receive: damaged (bad FCS, device error, fault injection).
        rx_errors,
        /// Not for this port, by its MAC filter: no drop (contract R6).
        rx_filtered,
        /// Frames accepted for transmission, less those in `tx_dropped` (contract S1), to which frames move when they turn
        /// out not to have been sent (contract S3).
        tx_packets,
        /// Bytes of those.
        tx_bytes,
        /// Bytes of the frames in `tx_dropped`.
        tx_dropped_bytes,
        /// Accepted, but reported as not sent by the device or the kernel, or discarded by stop.
        tx_dropped,
        /// Sent by copy because the packet's pool is not attached (contract T7).
        tx_copied,
        /// Frames given up because the device could not prove that it no longer touches them (contract L6).
        lost,
        /// Records that the port's capture could not take (contract: a tap never slows the port).
        capture_dropped,
    }
}

impl Counters {
    /// Everything that was lost on receive, by all causes that are known; filtered frames are no loss.
    pub fn rx_dropped(&self) -> u64 {
        [self.rx_too_long, self.rx_too_short, self.rx_no_buffer, self.rx_ring_full, self.rx_errors]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }
}

/// A port's counters and those of its queues, read at one moment. The queues' add up to the port's, but for
/// what the device counts for the port alone (contract S3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PortCounters {
    /// The whole port.
    pub port: Counters,
    /// Per receive queue.
    pub rx_queues: Vec<Counters>,
    /// Per transmit queue.
    pub tx_queues: Vec<Counters>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_stays_absent() {
        let mut sum = Counters { rx_packets: Some(1), ..Counters::default() };
        sum.add(&Counters { rx_packets: Some(2), rx_ring_full: Some(3), ..Counters::default() });
        assert_eq!(sum.iter().collect::<Vec<_>>(), [("rx_packets", 3), ("rx_ring_full", 3)]);
        assert_eq!(sum.tx_packets, None);
        assert_eq!(sum.rx_dropped(), 3);
        let ones =
            Counters { rx_errors: Some(u64::MAX), rx_ring_full: Some(1), ..Counters::default() };
        assert_eq!(ones.rx_dropped(), u64::MAX);
        assert_eq!(serde_json::to_string(&sum).unwrap(), r#"{"rx_packets":3,"rx_ring_full":3}"#);
    }
}
