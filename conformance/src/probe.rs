//! Before the cases, on two ports that somebody else connected: are they connected to each other, both ways, and is nobody
//! else sending? Cases count exactly, and on a wrong or busy wire each of them would fail in words of its own.
//!
//! ```text
//!   A ── probe frames to B ──►      a few tries, each with a bounded wait
//!     ◄── probe frames to A ── B
//!   A, B listen for a moment        whatever else comes is a stranger's
//! ```
//!
//! Trap: kernels send by themselves for some seconds after a link came up (IPv6 neighbour discovery), and later only now
//! and then; that nothing was heard is no proof of silence.

use std::time::{Duration, Instant};

use anyport::{Burst, Capability, MacAddr, Registry, Wake, wait_any};

use crate::case::{Failure, Verdict};
use crate::ctx::{Ctx, End, PATIENCE};
use crate::frames;
use crate::rig::Wires;
use crate::side::{Side, bytes};

/// How often a frame is sent each way until one has arrived.
const TRIES: u32 = 6;

/// How long each try waits.
const TRY: Duration = Duration::from_millis(500);

/// How long it is listened afterwards: neighbour discovery that a link's coming up has set off begins within a second.
const LISTEN: Duration = Duration::from_secs(1);

/// The number of the first probe frame; those of the other direction follow.
const FIRST: u32 = 0xfeed_1000;

/// Finds out whether the two ports are connected and quiet. Where one only receives or only transmits there is nothing to find
/// out.
///
/// # Errors
/// A text that says what is wrong, and what to do about it.
pub(crate) fn probe(registry: Registry, wires: Box<dyn Wires>) -> Verdict {
    let read = |end| Ok::<_, Failure>(registry.open(&wires.spec(end))?.capability().clone());
    let capabilities = [read(End::A)?, read(End::B)?];
    if capabilities.iter().any(|capability| !capability.receives || !capability.transmits) {
        return Ok(());
    }
    let ctx = Ctx::new(registry, wires, capabilities, None);
    let probe = Probe::start(&ctx)?;
    probe.run(&ctx)
}

/// Both ends, and what has been heard of them.
struct Probe {
    sides: [Side; 2],
    /// The frames that each end sends.
    sent: [Vec<Vec<u8>>; 2],
    /// Whether one of the other end's has arrived at each end.
    reached: [bool; 2],
    /// The first frame that nobody here sent, and where it arrived.
    foreign: Option<(End, Vec<u8>)>,
}

impl Probe {
    fn start(ctx: &Ctx) -> Verdict<Probe> {
        let start = |end| {
            let capability: &Capability = ctx.capability(end);
            let mut port = ctx.open(end, "")?;
            let mut config = port.config();
            // Some cases listen to everything, too.
            config.promiscuous |= capability.promiscuous;
            port.configure(config)?;
            let pool = ctx.pool(4096)?;
            port.attach(&pool)?;
            Side::start(port, pool)
        };
        let sides = [start(End::A)?, start(End::B)?];
        for side in &sides {
            side.port().control().wait_link_up(PATIENCE).map_err(|error| {
                format!("{error}: is the cable in, and the interface at the other end up?")
            })?;
        }
        let to = |end: End, first| -> Vec<_> {
            let mac = sides[end.other().index()].mac();
            (first..first + TRIES).map(|number| frames::numbered(mac, number, 60)).collect()
        };
        let sent = [to(End::A, FIRST), to(End::B, FIRST + TRIES)];
        Ok(Probe { sides, sent, reached: [false; 2], foreign: None })
    }

    fn run(mut self, ctx: &Ctx) -> Verdict {
        for number in 0..TRIES as usize {
            for end in End::BOTH {
                let frame = self.sent[end.index()][number].clone();
                self.sides[end.index()].send(&[frame])?;
            }
            self.listen(TRY, |probe| probe.reached == [true; 2])?;
            if self.reached == [true; 2] {
                break;
            }
        }
        let connected = self.reached == [true; 2];
        if connected {
            self.listen(LISTEN, |probe| probe.foreign.is_some())?;
        }
        let specs = End::BOTH.map(|end| ctx.spec(end));
        let foreign = self.foreign.as_ref().map(|(end, frame)| stranger(*end, frame, ctx));
        match (connected, foreign) {
            (true, None) => {
                let [a, b] = self.sides;
                a.close()?;
                b.close()
            }
            (true, Some(foreign)) => Err(Failure(foreign)),
            (false, foreign) => {
                let apart = apart(&specs, self.reached);
                Err(Failure(
                    foreign.map_or(apart.clone(), |more| format!("{apart}; besides, {more}")),
                ))
            }
        }
    }

    /// Takes what arrives until the time is over or enough is known.
    fn listen(&mut self, time: Duration, enough: impl Fn(&Probe) -> bool) -> Verdict {
        let deadline = Instant::now() + time;
        loop {
            for end in End::BOTH {
                self.take(end)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if enough(self) || left.is_zero() {
                return Ok(());
            }
            let mut queues: Vec<_> = self.sides.iter_mut().flat_map(|side| &mut side.rx).collect();
            let mut wakes = vec![Wake::Timeout; queues.len()];
            wait_any(&mut queues, &mut wakes, left)?;
        }
    }

    /// Takes what is there at an end, from all queues.
    fn take(&mut self, end: End) -> Verdict {
        let mut burst = Burst::new();
        for queue in &mut self.sides[end.index()].rx {
            while queue.recv(&mut burst)? > 0 {
                for packet in burst.drain() {
                    let frame = bytes(&packet);
                    if self.sent[end.other().index()].contains(&frame) {
                        self.reached[end.index()] = true;
                    } else if !self.sent[end.index()].contains(&frame) && self.foreign.is_none() {
                        // A port that hears itself is for the cases to find.
                        self.foreign = Some((end, frame));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What to say of two ports between which frames do not pass.
fn apart([a, b]: &[String; 2], [at_a, at_b]: [bool; 2]) -> String {
    let one_way = |from, to| {
        format!(
            "frames pass from {from} to {to}, but none of {TRIES} came the other way: the ports must be connected both ways \
             (or {to} does not send, or {from} does not receive)"
        )
    };
    match (at_a, at_b) {
        (false, true) => one_way(a, b),
        (true, false) => one_way(b, a),
        _ => format!(
            "{a} and {b} are not connected to each other: none of {TRIES} frames arrived, either way; the suite needs two \
             ports that a cable, or whatever stands for one, connects"
        ),
    }
}

/// What to say of a frame that arrived at an end and that nobody here sent.
fn stranger(at: End, frame: &[u8], ctx: &Ctx) -> String {
    // Ports deliver no frame that has no whole Ethernet header.
    let address = |at| {
        frame.get(at..).and_then(|rest| rest.first_chunk()).map_or(MacAddr([0; 6]), |b| MacAddr(*b))
    };
    let ethertype = frame.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let remedy = match ethertype {
        0x86dd => {
            let switches = End::BOTH.map(|end| ctx.parsed(end).device).map(switch);
            let known: Vec<String> = switches.into_iter().flatten().collect();
            let switches = match known.is_empty() {
                true => "net.ipv6.conf.IFACE.disable_ipv6=1".to_owned(),
                false => known.join(" "),
            };
            format!(
                "A kernel with IPv6 sends by itself: `sysctl -w {switches}` keeps it quiet; or somebody else sends here"
            )
        }
        _ => "Somebody else sends here: a program or the kernel of a host on this link, or a switch in it".into(),
    };
    format!(
        "{}: a frame arrived that the suite did not send, from {} to {}, EtherType 0x{ethertype:04x}, {} bytes; cases \
         count exactly, so the link must be quiet. {remedy}",
        ctx.spec(at),
        address(6),
        address(0),
        frame.len(),
    )
}

/// The switch that keeps an interface of this host quiet, if the device is one that is not.
fn switch(device: String) -> Option<String> {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    let is_name = !device.is_empty() && !device.contains('/');
    // In a `sysctl` key a dot of the name is a slash.
    let key = device.replace('.', "/");
    // Where it is quiet already, it was another.
    let sends = is_name && std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
    sends.then(|| format!("net.ipv6.conf.{key}.disable_ipv6=1"))
}
