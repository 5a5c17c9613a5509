//! Sends back what several ports receive, with one asynchronous task per port on one thread.
//!
//! It shows a queue under an async runtime: tokio's `AsyncFd` watches the queue's descriptor; a task arms the queue,
//! awaits the descriptor, and receives. Ctrl-C stops the ports, which ends the tasks.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin async -- pcap:eth1 pcap:eth2
//! ```

use anyport::{Armed, Burst, Error, Pool, RxQueue, TxQueue};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let registry = anyport_backends::registry();
    let pool = Pool::builder().build()?;
    let (mut ports, mut tasks) = (Vec::new(), Vec::new());
    for spec in std::env::args().skip(1) {
        let mut port = registry.open_with(&spec, &pool)?;
        let (rx, tx) = port.start()?.into_pair();
        tasks.push(tokio::spawn(reflect(rx, tx)));
        ports.push(port);
    }
    tokio::signal::ctrl_c().await?;
    for (port, task) in ports.iter_mut().zip(tasks) {
        port.stop()?;
        println!("{}: {} frames sent back", port.title(), task.await??);
    }
    Ok(())
}

/// Sends back what a queue receives until its port is stopped or its input has ended; how many frames.
pub async fn reflect(rx: RxQueue, mut tx: TxQueue) -> anyport::Result<u64> {
    let watching = |source| Error::os("async", "watching the queue's descriptor", source);
    // SAFETY: a queue has one descriptor, and closes it only when it is dropped; it is not exchanged below.
    let rx = unsafe { AsyncFd::register_with_interest(rx, Interest::READABLE) };
    let mut rx = rx.map_err(|refused| watching(refused.into()))?;
    let (mut burst, mut reflected) = (Burst::new(), 0);
    loop {
        match rx.get_mut().arm() {
            Ok(Armed::Ready) => {}
            Ok(Armed::Armed) => {
                rx.readable_mut().await.map_err(watching)?.clear_ready();
                continue;
            }
            Err(Error::Closed) => return Ok(reflected),
            Err(error) => return Err(error),
        }
        match rx.get_mut().recv(&mut burst) {
            Ok(_) => {}
            Err(Error::Closed | Error::Ended) => return Ok(reflected),
            Err(error) => return Err(error),
        }
        for packet in &mut burst {
            let (destination, source) = packet.data_mut()[..12].split_at_mut(6);
            destination.swap_with_slice(source);
        }
        match tx.send(&mut burst) {
            Ok(sent) => reflected += sent as u64,
            Err(Error::Closed) => return Ok(reflected),
            Err(error) => return Err(error),
        }
        burst.clear(); // what the queue did not take goes back to the pool
        // Other tasks have their turn even if frames never stop coming.
        tokio::task::yield_now().await;
    }
}
