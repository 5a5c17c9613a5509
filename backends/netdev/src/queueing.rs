//! What stands in an interface's queueing discipline: whether a frame that the kernel refused found a queue full, or would be
//! refused by an empty one, too (contract T3).
//!
//! A packet socket hears the same error of both. The kernel's own figures tell them apart: a queue that is full has frames in
//! it, and counts each frame that it turns away.
//!
//! - What hands its frames on (a VLAN, a macvlan, a bridge, a bond) has no queue of its own as a rule: those of the interfaces
//!   beneath count, as far as they are in the same network namespace.
//! - The figures are the root's, which are the sums over its classes and children.
//!
//! Trap: the question takes the kernel's lock on all network configuration. It is for a queue that has refused for a while,
//! not for every refusal.

use std::collections::BTreeMap;
use std::io;

use crate::links::{beneath, links_by};
use crate::netlink::{Netlink, attributes, read};

/// `struct tcmsg`: family and padding, interface, handle, parent, information.
const HEADER: usize = 20;
const INTERFACE: usize = 4;
const PARENT: usize = 12;
const ROOT: u32 = u32::MAX;

const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;

/// What the queues on the way out of an interface say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Frames stand there.
    pub waiting: bool,
    /// How many were turned away so far, in 32 bits that wrap.
    pub dropped: u32,
}

/// A question to the kernel about the queues of one interface, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Queueing {
    netlink: Netlink,
    index: u32,
}

impl Queueing {
    /// For the interface of that index in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn new(index: u32) -> io::Result<Queueing> {
        Ok(Queueing { netlink: Netlink::open()?, index })
    }

    /// What stands there now. An interface without a queue, or one that is gone, has nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn look(&mut self) -> io::Result<Standing> {
        let all = links_by(&mut self.netlink)?;
        let ours = beneath(&all, self.index);
        // By interface, for a dump may be begun anew. The kernel answers to a question about a single one by telling everybody.
        let mut found = BTreeMap::new();
        self.netlink.dump(libc::RTM_GETQDISC, &[0; HEADER], |_, body| {
            if let Some((index, standing)) = parse(body).filter(|(index, _)| ours.contains(index)) {
                found.insert(index, standing);
            }
        })?;
        Ok(found.values().fold(Standing::default(), |sum, one| Standing {
            waiting: sum.waiting | one.waiting,
            dropped: sum.dropped.wrapping_add(one.dropped),
        }))
    }
}

/// An interface's index and its root's `struct gnet_stats_queue` (length, backlog, drops); nothing for what is not a root.
fn parse(body: &[u8]) -> Option<(u32, Standing)> {
    if read::<u32>(body.get(PARENT..)?)? != ROOT {
        return None;
    }
    let stats = find(body.get(HEADER..)?, TCA_STATS2)?;
    let queue = find(stats, TCA_STATS_QUEUE)?;
    let word = |at: usize| read::<u32>(queue.get(4 * at..)?);
    let standing = Standing { waiting: word(0)? > 0 || word(1)? > 0, dropped: word(2)? };
    Some((read(&body[INTERFACE..])?, standing))
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, content)| content)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::Interface;
    use crate::testing::{in_namespace, ip, privileged, run, try_run};

    #[test]
    fn what_stands_and_what_was_turned_away_is_known() {
        in_namespace(|| {
            let index = |name: &str| Interface::open(name).unwrap().index();
            let mut queueing = Queueing::new(index("a0")).unwrap();
            // A veth has no queue.
            assert_eq!(queueing.look().unwrap(), Standing::default());
            // One byte a second, after 1,600 of them: 16 frames of 100 bytes leave, eleven stand, and no more.
            let shaper = try_run("tc", "qdisc add dev a0 root tbf rate 8bit burst 1600 limit 1100");
            if !privileged(shaper.status.success(), "a kernel with the token bucket filter") {
                return;
            }
            assert_eq!(queueing.look().unwrap(), Standing::default());
            ip("addr add 192.0.2.1/24 dev a0");
            ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:0a dev a0");
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            for _ in 0..40 {
                // What is turned away is an error of the socket's, or none.
                let _ = socket.send_to(&[0; 58], "192.0.2.2:9");
            }
            let full = Standing { waiting: true, dropped: 40 - 16 - 11 };
            assert_eq!(queueing.look().unwrap(), full);
            // Through a bridge, too; the other end of the pair has nothing to do with it.
            ip("link add b0 type bridge");
            ip("link set a0 master b0");
            assert_eq!(Queueing::new(index("b0")).unwrap().look().unwrap(), full);
            assert_eq!(Queueing::new(index("a1")).unwrap().look().unwrap(), Standing::default());
            run("tc", "qdisc del dev a0 root");
            assert_eq!(queueing.look().unwrap(), Standing::default());
            ip("link del a0");
            assert_eq!(queueing.look().unwrap(), Standing::default());
        });
    }

    #[test]
    fn an_answer_that_is_cut_short_says_nothing() {
        use crate::netlink::attribute;
        let words = [0u32, 60, 7, 0, 0];
        let queue: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut body = vec![0; HEADER];
        body[INTERFACE] = 9;
        let child = body.clone();
        body[PARENT..PARENT + 4].fill(0xff);
        body.extend(attribute(1, b"tbf\0"));
        body.extend(attribute(TCA_STATS2, &attribute(TCA_STATS_QUEUE, &queue)));
        assert_eq!(parse(&body), Some((9, Standing { waiting: true, dropped: 7 })));
        assert_eq!(parse(&[&child, &body[HEADER..]].concat()), None, "it is no root");
        for cut in 0..body.len() {
            assert_eq!(parse(&body[..cut]), None, "{cut}");
        }
    }
}
