//! A whole backend: `udp:LOCAL-REMOTE`, a port whose wire is UDP, a frame per datagram. The program registers it and
//! forwards between two ports, so two machines can join their networks (`docs/guide/writing-a-backend.md` explains it):
//!
//! ```text
//! cargo run --release -p anyport-examples --bin backend -- pcap:eth1 udp:192.0.2.1:4789-192.0.2.2:4789
//! ```

#[allow(dead_code, reason = "its `main` is not ours")]
#[path = "forward.rs"]
mod forward;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyport::config::Table;
use anyport::{Burst, Capability, Counters, Error, MacAddr, PoolCache, PortCounters, Result};
use anyport::{capability::RingSizes, driver::*};

fn main() -> anyhow::Result<()> {
    let mut registry = anyport_backends::registry();
    registry.register(Udp)?;
    forward::run(&registry)
}

/// The kind of device: what stands before the first colon of a spec.
pub struct Udp;

fn parse(device: &str) -> Result<(SocketAddr, SocketAddr)> {
    let pair = device.split_once('-').and_then(|(l, r)| Some((l.parse().ok()?, r.parse().ok()?)));
    pair.filter(|(local, remote)| local != remote).ok_or_else(|| Error::UnknownDevice {
        backend: "udp".into(),
        device: device.into(),
        hint: "it is LOCAL-REMOTE, two different addresses such as 127.0.0.1:4789".into(),
    })
}

impl Backend for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        vec![DeviceInfo::new("udp:LOCAL-REMOTE", "frames in UDP datagrams between two addresses")]
    }
    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        Ok(Some(format!("udp/{}", parse(device)?.0)))
    }
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let (local, remote) = parse(request.device)?;
        let title = format!("udp:{}", request.device);
        let opened = UdpSocket::bind(local).and_then(|s| s.set_nonblocking(true).map(|()| s));
        let socket = opened.map_err(|error| Error::os(&title, "binding the socket", error))?;
        let (no_buffer, too_long) = Default::default();
        Ok(Box::new(UdpPort(Arc::new(Wire { title, local, remote, socket, no_buffer, too_long }))))
    }
}

/// What a port and its queues share. Dropping the last of them closes the socket.
struct Wire {
    title: String,
    local: SocketAddr,
    remote: SocketAddr,
    socket: UdpSocket,
    /// Received frames that were lost here, by cause.
    no_buffer: AtomicU64,
    too_long: AtomicU64,
}

struct UdpPort(Arc<Wire>);

impl PortDriver for UdpPort {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.rx_ring = RingSizes::new(64, 64, 64); // what the kernel's buffer always holds
        capability.max_pools = 8;
        (capability.exclusive, capability.promiscuous) = (true, true);
        capability
    }
    fn mac(&self) -> MacAddr {
        // A locally administered one, another than the other end's.
        let hash = |h: u32, b: u8| h.wrapping_mul(31).wrapping_add(b.into());
        let [a, b, c, d] = self.0.local.to_string().bytes().fold(0, hash).to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }
    fn start(&mut self, _: &Setup<'_>) -> Result<DriverQueues> {
        // What came before is not delivered (contract L7). The kernel's buffer holds far fewer.
        let _ = (0..65536).take_while(|_| self.0.socket.recv(&mut [0]).is_ok()).count();
        let rx = UdpRx { wire: self.0.clone(), datagram: vec![0; 65536] };
        let tx = UdpTx(self.0.clone());
        Ok(DriverQueues { rx: vec![Box::new(rx)], tx: vec![Box::new(tx)] })
    }
    fn counters(&mut self) -> PortCounters {
        let (mut all, mut queue) = (PortCounters::default(), Counters::default());
        queue.rx_no_buffer = Some(self.0.no_buffer.load(Relaxed));
        queue.rx_too_long = Some(self.0.too_long.load(Relaxed));
        all.rx_queues.push(queue);
        all
    }
}

struct UdpRx {
    wire: Arc<Wire>,
    /// Room for the longest datagram: no frame is cut short (contract R4).
    datagram: Vec<u8>,
}

impl RxDriver for UdpRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let wire = &*self.wire;
        // So many tries and no more, also if strangers send (contract R1).
        for _ in 0..burst.room() {
            let frame = match wire.socket.recv_from(&mut self.datagram) {
                Ok((length, sender)) if sender == wire.remote => &self.datagram[..length],
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Error::os(&wire.title, "receiving", error)),
            };
            match pool.take() {
                None => _ = wire.no_buffer.fetch_add(1, Relaxed),
                Some(mut packet) => match packet.fill(frame) {
                    Ok(()) => _ = burst.push(packet),
                    Err(_) => _ = wire.too_long.fetch_add(1, Relaxed), // longer than a packet
                },
            }
        }
        Ok(())
    }
    // Readable as long as a datagram is there, so there is nothing to arm.
    fn descriptor(&self) -> Option<RawFd> {
        Some(self.wire.socket.as_raw_fd())
    }
}

struct UdpTx(Arc<Wire>);

impl TxDriver for UdpTx {
    fn send(&mut self, burst: &mut Burst, count: usize, _: &mut [PoolCache]) -> Result<()> {
        for sent in 0..count {
            match self.0.socket.send_to(burst[0].data(), self.0.remote) {
                Ok(_) => drop(burst.pop_front()), // back to its pool
                Err(error) if error.kind() == ErrorKind::WouldBlock || sent > 0 => break,
                Err(error) => return Err(Error::os(&self.0.title, "sending", error)),
            }
        }
        Ok(())
    }
}
