//! The program of the README: sends back every frame that it receives, with source and destination swapped, until
//! nothing has come for 10 seconds.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin hello -- pcap:eth1
//! ```

use std::time::Duration;

use anyport::{Burst, Pool, Wake};

fn main() -> anyport::Result<()> {
    let spec = std::env::args().nth(1).unwrap_or("pcap:eth0".into());
    let pool = Pool::builder().frames(4096).build()?;
    let mut port = anyport_backends::registry().open_with(&spec, &pool)?;
    let (mut rx, mut tx) = port.start()?.into_pair();
    let mut burst = Burst::new();
    while !matches!(rx.wait(Duration::from_secs(10))?, Wake::Timeout | Wake::Ended) {
        rx.recv(&mut burst)?;
        for packet in &mut burst {
            let (destination, source) = packet.data_mut()[..12].split_at_mut(6);
            destination.swap_with_slice(source); // send it back
        }
        tx.send(&mut burst)?;
        burst.clear(); // what the queue did not take goes back to the pool
    }
    port.close()
}
