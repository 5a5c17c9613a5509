//! The traffic of the demonstration: ping, TCP and UDP by iperf3, anyport's own stamped frames.
//!
//! Traps: `iperf3 -J` ends with status 0 even when it could not connect (the JSON then has `error`), and counts a
//! UDP loss only if a later datagram arrives; so the loss is also taken from what the kernels count at the IP
//! layer. (Not at the UDP layer: Linux counts a datagram there when a program reads it, and iperf3 ends with some
//! unread.)

use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::forwarder::counter;
use super::topology::{ADDRESS_B, Topology};
use super::{Backend, Stage};
use crate::proc::{self, Child, Stream};
use crate::term::{bit_rate, count};

/// A minute is far more than any of it takes; this only ends what hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest standstill of a TCP connection; retransmissions take a fraction of it.
const STALL: Duration = Duration::from_secs(15);
const IPERF_PORT: u16 = 5201;
/// Payload of one datagram: small, so that iperf3's own socket holds many while it waits for the processor.
const DATAGRAM: u32 = 200;
/// The socket buffer that iperf3 asks for: the most that a kernel gives unless it was told otherwise.
const SOCKET_BUFFER: &str = "212992";

/// When the next echo request goes out.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// At a fixed distance.
    Seconds(f64),
    /// As soon as the last one is answered.
    Flood,
}

/// What `ping -q` says.
#[derive(Debug, PartialEq)]
pub struct Ping {
    /// Echo requests.
    pub sent: u64,
    /// Echo replies.
    pub received: u64,
    /// Milliseconds from the first request to the end.
    pub time_ms: u64,
    /// Least, mean and greatest round trip in milliseconds; absent if nothing came back.
    pub round_trip_ms: Option<[f64; 3]>,
}

impl Ping {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|l| l.contains(" packets transmitted"))?;
        let number = |part: &str| part.split_whitespace().next()?.parse().ok();
        let parts: Vec<&str> = line.split(", ").collect();
        let time = parts.iter().find_map(|p| p.trim().strip_prefix("time ")?.strip_suffix("ms"));
        let round_trip_ms = text.lines().find_map(|l| {
            let (_, values) = l.strip_prefix("rtt ")?.split_once(" = ")?;
            let mut values = values.split('/').map(|v| v.trim().parse::<f64>());
            Some([values.next()?.ok()?, values.next()?.ok()?, values.next()?.ok()?])
        });
        Some(Self {
            sent: number(parts.first()?)?,
            received: number(parts.iter().find(|p| p.contains(" received"))?)?,
            time_ms: time?.parse().ok()?,
            round_trip_ms,
        })
    }
}

impl fmt::Display for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} answered", count(self.sent), count(self.received))?;
        if let Some(rate) = (self.sent * 1000).checked_div(self.time_ms) {
            write!(f, " ({}/s)", count(rate))?;
        }
        if let Some([min, avg, max]) = self.round_trip_ms {
            write!(f, ", round trip min/avg/max {min:.3}/{avg:.3}/{max:.3} ms")?;
        }
        Ok(())
    }
}

/// Pings B from A.
pub fn ping(net: &Topology, requests: u32, pace: Pace) -> Result<Ping> {
    let mut ping = net.a.command("ping");
    ping.args(["-q", "-c", &requests.to_string()]);
    // A lost reply must not hold up the rest for long; the deadline bounds it all.
    ping.args(["-W", "2", "-w", "30"]);
    match pace {
        Pace::Seconds(seconds) => ping.args(["-i", &seconds.to_string()]),
        Pace::Flood => ping.arg("-f"),
    };
    ping.arg(ADDRESS_B);
    // Its status is 1 when replies are missing, which is for the caller to judge.
    let out = proc::capture(&mut ping, LIMIT)?;
    Ping::parse(&out.stdout).with_context(|| format!("ping said: {}{}", out.stdout, out.stderr))
}

/// What iperf3 says about a TCP stream.
#[derive(Debug, PartialEq)]
pub struct Tcp {
    /// Bytes that B had received when the time was up.
    pub received: u64,
    bits_per_second: f64,
    retransmits: u64,
}

impl Tcp {
    fn parse(json: &Value) -> Option<Self> {
        let end = &json["end"];
        Some(Self {
            received: end["sum_received"]["bytes"].as_u64()?,
            bits_per_second: end["sum_received"]["bits_per_second"].as_f64()?,
            retransmits: end["sum_sent"]["retransmits"].as_u64()?,
        })
    }
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, {}, {} retransmits",
            count(self.received),
            bit_rate(self.bits_per_second),
            count(self.retransmits)
        )
    }
}

/// A TCP stream from A to B for some seconds.
pub fn tcp(net: &Topology, seconds: u32) -> Result<Tcp> {
    let json = iperf(net, &["-t".to_owned(), seconds.to_string()])?;
    Tcp::parse(&json).with_context(|| format!("iperf3 said: {json}"))
}

/// What became of bytes that were sent through TCP and compared at the other end.
#[derive(Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that A wrote.
    pub sent: u64,
    /// Bytes that B read, each the one that was expected at its place.
    pub right: u64,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes written in A, {} right in B", count(self.sent), count(self.right))
    }
}

/// Sends bytes from A to B through TCP and compares every one of them in B.
pub fn transfer(net: &Topology, bytes: u64) -> Result<Transfer> {
    const PORT: u16 = 7777;
    let listener = net
        .b
        .inside(|| TcpListener::bind((ADDRESS_B, PORT)).context("listening in namespace B"))?;
    listener.set_nonblocking(true)?;
    let right = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            net.a.inside(|| {
                let address = SocketAddr::from((ADDRESS_B.parse::<Ipv4Addr>()?, PORT));
                let mut stream = TcpStream::connect_timeout(&address, STALL)
                    .context("connecting from A to B")?;
                stream.set_write_timeout(Some(STALL))?;
                io::copy(&mut Pattern::default().take(bytes), &mut stream)
                    .context("sending from A to B")
            })
        });
        let accept = || match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("accepting in B"),
        };
        let stream = proc::poll_for("a TCP connection from A to B", STALL, accept)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(STALL))?;
        let right = Pattern::default().compare(stream)?;
        let sent = writer.join().map_err(|_| anyhow!("the writing thread panicked"))??;
        Ok::<_, anyhow::Error>(Transfer { sent, right })
    })?;
    Ok(right)
}

/// An endless stream of bytes that repeats only after a long time, so that a lost, doubled or changed piece shows.
#[derive(Default)]
struct Pattern {
    position: u64,
}

impl Pattern {
    fn next(&mut self) -> u8 {
        // A multiplicative hash of the position, of which the high bits are well mixed.
        let byte = (self.position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        self.position += 1;
        byte
    }

    /// How many bytes of a stream, up to its end or the first wrong one, are those expected.
    fn compare(mut self, mut stream: impl Read) -> Result<u64> {
        let mut chunk = [0u8; 16 << 10];
        loop {
            let n = stream.read(&mut chunk).context("receiving in B")?;
            if n == 0 {
                return Ok(self.position);
            }
            for byte in &chunk[..n] {
                let at = self.position;
                if *byte != self.next() {
                    return Ok(at);
                }
            }
        }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill_with(|| self.next());
        Ok(buffer.len())
    }
}

/// What became of a UDP flood.
#[derive(Debug, PartialEq)]
pub struct Udp {
    /// IP packets that A's kernel sent during the flood (the datagrams, and iperf3's own connection).
    pub left_a: u64,
    /// IP packets that B's kernel received and found right.
    pub reached_b: u64,
    /// Datagrams that iperf3 misses at B.
    pub lost: u64,
    /// Datagrams that reached B while iperf3's own socket had no room: it did not read in time.
    pub unread: u64,
    seconds: f64,
    packets: u64,
}

impl fmt::Display for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.packets as f64 / self.seconds) as u64;
        write!(f, "{} datagrams in {:.2} s", count(self.packets), self.seconds)?;
        write!(f, " ({}/s), {} lost", count(rate), count(self.lost))?;
        if self.unread > 0 {
            write!(f, " ({} because iperf3 did not read in time)", count(self.unread))?;
        }
        Ok(())
    }
}

/// A flood of datagrams from A to B at a fixed rate.
pub fn udp(net: &Topology, per_second: u32, datagrams: u32) -> Result<Udp> {
    let left = || net.a.snmp("Ip", "OutRequests");
    let reached = || net.b.snmp("Ip", "InDelivers");
    let unread = || net.b.snmp("Udp", "RcvbufErrors");
    let (left_before, reached_before, unread_before) = (left()?, reached()?, unread()?);
    // iperf3 paces a little below the rate that it is asked for.
    let bits = u64::from(per_second) * u64::from(DATAGRAM) * 8 * 102 / 100;
    let args = [
        "-u".to_owned(),
        "-b".to_owned(),
        bits.to_string(),
        "-l".to_owned(),
        DATAGRAM.to_string(),
        "-k".to_owned(),
        datagrams.to_string(),
        "-w".to_owned(),
        SOCKET_BUFFER.to_owned(),
    ];
    let json = iperf(net, &args)?;
    net.quiet_stats()?;
    let sum = &json["end"]["sum"];
    let number = |key: &str| sum[key].as_u64().with_context(|| format!("iperf3 said: {json}"));
    Ok(Udp {
        left_a: left()? - left_before,
        reached_b: reached()? - reached_before,
        lost: number("lost_packets")?,
        unread: unread()? - unread_before,
        packets: number("packets")?,
        seconds: sum["seconds"].as_f64().with_context(|| format!("iperf3 said: {json}"))?,
    })
}

/// One iperf3 run from A to a server in B that serves just this client.
fn iperf(net: &Topology, args: &[String]) -> Result<Value> {
    let mut server = net.b.command("iperf3");
    server.args(["-s", "-1", "-p", &IPERF_PORT.to_string()]);
    let mut server = Child::spawn(&mut server, Stream::Keep, Stream::Keep)?;
    net.b.wait_tcp_listener(IPERF_PORT)?;
    let mut client = net.a.command("iperf3");
    client.args([
        "-c",
        ADDRESS_B,
        "-p",
        &IPERF_PORT.to_string(),
        "-J",
        "--connect-timeout",
        "5000",
    ]);
    client.args(args);
    let out = proc::capture(&mut client, LIMIT)?;
    let json: Value = serde_json::from_str(&out.stdout)
        .with_context(|| format!("iperf3 said: {}{}", out.stdout, out.stderr))?;
    if let Some(error) = json["error"].as_str() {
        bail!("iperf3: {error}; the server said: {}{}", server.stdout(), server.stderr());
    }
    server.wait(LIMIT)?;
    Ok(json)
}

/// What became of frames that `anyport gen` numbered.
#[derive(Debug, PartialEq)]
pub struct Stamped {
    /// Sent by the generator.
    pub sent: u64,
    /// Seen by the sink.
    pub received: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came again.
    pub duplicated: u64,
    /// Numbers that came late.
    pub reordered: u64,
    seconds: f64,
}

impl fmt::Display for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.sent as f64 / self.seconds.max(1e-9)) as u64;
        write!(f, "{} frames sent ({}/s), ", count(self.sent), count(rate))?;
        write!(f, "{} received, {} lost", count(self.received), count(self.lost))?;
        write!(f, ", {} duplicates, {} reordered", count(self.duplicated), count(self.reordered))
    }
}

/// `anyport gen` in A, `anyport sink` in B.
pub fn stamped(
    stage: &Stage,
    net: &Topology,
    backend: Backend,
    per_second: u32,
    frames: u32,
) -> Result<Stamped> {
    let mut sink = net.b.command(&stage.anyport);
    sink.args(["sink", &backend.port("b0"), "--json"]).args(backend.pool());
    let mut sink = Child::spawn(&mut sink, Stream::Keep, Stream::Keep)?;
    super::forwarder::wait_open(&net.b, backend, &["b0"], &mut sink)?;
    let mut gen_ = net.a.command(&stage.anyport);
    gen_.args(["gen", &backend.port("a0"), "--size", "60", "--json"]);
    gen_.args(["--rate", &per_second.to_string(), "--count", &frames.to_string()]);
    let started = Instant::now();
    let sent: Value = serde_json::from_str(&proc::output(&mut gen_, LIMIT)?)
        .context("anyport gen --json did not print JSON")?;
    let seconds = started.elapsed().as_secs_f64();
    net.quiet_stats()?;
    sink.signal(libc::SIGINT);
    let status = sink.wait(LIMIT)?;
    if !status.success() {
        bail!("anyport sink ended with {status}: {}", sink.stderr());
    }
    let got: Value = serde_json::from_str(&sink.stdout())
        .with_context(|| format!("anyport sink --json printed: {}", sink.stdout()))?;
    Ok(Stamped {
        sent: counter(&sent, "packets")?,
        received: counter(&got, "packets")?,
        lost: counter(&got, "lost")?,
        duplicated: counter(&got, "duplicates")?,
        reordered: counter(&got, "reordered")?,
        seconds: sent["seconds"].as_f64().unwrap_or(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_read() {
        let text = "PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.\n\n\
            --- 10.77.0.2 ping statistics ---\n\
            20000 packets transmitted, 19998 received, 0.01% packet loss, time 1940ms\n\
            rtt min/avg/max/mdev = 0.031/0.045/1.245/0.010 ms, ipg/ewma 0.097/0.044 ms\n";
        let ping = Ping::parse(text).unwrap();
        assert_eq!((ping.sent, ping.received, ping.time_ms), (20000, 19998, 1940));
        assert_eq!(ping.round_trip_ms, Some([0.031, 0.045, 1.245]));
        let shown = ping.to_string();
        assert!(shown.starts_with("20,000 sent, 19,998 answered (10,309/s)"), "{shown}");
    }

    #[test]
    fn ping_without_an_answer_is_read() {
        let text = "--- 10.77.0.2 ping statistics ---\n\
            3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2030ms\n";
        let ping = Ping::parse(text).unwrap();
        assert_eq!((ping.sent, ping.received), (3, 0));
        assert_eq!(ping.round_trip_ms, None);
        assert_eq!(Ping::parse("ping: unknown host"), None);
    }

    #[test]
    fn a_changed_or_missing_byte_ends_the_comparison() {
        let mut bytes = Vec::new();
        Pattern::default().take(100_000).read_to_end(&mut bytes).unwrap();
        assert_eq!(Pattern::default().compare(&bytes[..]).unwrap(), 100_000);
        bytes[77_777] ^= 1;
        assert_eq!(Pattern::default().compare(&bytes[..]).unwrap(), 77_777);
        bytes[77_777] ^= 1;
        // A TCP segment that is missing, and one that comes twice.
        let gap = [&bytes[..1448], &bytes[2 * 1448..]].concat();
        assert!(Pattern::default().compare(&gap[..]).unwrap() < 1448 + 16);
        let twice = [&bytes[..1448], &bytes[..]].concat();
        assert!(Pattern::default().compare(&twice[..]).unwrap() < 1448 + 16);
    }

    #[test]
    fn iperf_streams_are_read() {
        let json = serde_json::json!({"end": {
            "sum_sent": {"bytes": 2097152, "bits_per_second": 9.0e8, "retransmits": 3},
            "sum_received": {"bytes": 2097152, "bits_per_second": 8.0e8},
        }});
        let tcp = Tcp::parse(&json).unwrap();
        assert_eq!(tcp.to_string(), "2,097,152 bytes, 800 Mbit/s, 3 retransmits");
        assert_eq!(Tcp::parse(&serde_json::json!({"error": "refused", "end": {}})), None);
    }
}
