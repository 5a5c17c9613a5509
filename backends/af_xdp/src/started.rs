//! What there is between start and stop, and how it comes about; how it goes is in [`closing`](crate::closing).
//!
//! ```text
//!   start   rings and frames ─► bind ─► sockets into the map ─► program attached: frames arrive
//!   stop    program detached ─► sockets closed ─► what they had lent goes back to the pool
//! ```
//!
//! Traps:
//! - The kernel lets a queue, and the memory, go a moment after the socket was closed. Binding is tried again for a while; where
//!   the device can still reach frames, they are held until the queue can be taken up again, which proves that it has let go
//!   of them (contract L6): in zero-copy mode any, in copy mode those that were not sent yet (some drivers attach their pages
//!   to the kernel's own packets).
//! - All queues of a port are sockets on one registration of the pool's memory, the first one's; so that one closes last.
//! - Whatever puts frames together before the program sees them is switched off before it is attached (contract R2). In the
//!   driver the program comes before the kernel's GRO, behind it after.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyport::driver::{DriverQueues, RxDriver, Setup, TxDriver};
use anyport::{Error, Pool, Result};
use anyport_netdev::bpf::{Link as Attachment, Sockets, XdpMode};
use anyport_netdev::segments::{MERGING, MERGING_HARDWARE};
use anyport_netdev::xdp_attached::xdp_attached;
use anyport_netdev::{LinkWatch, Membership, open, packet_socket, vlans};

use crate::closing::Witness;
use crate::device::{Device, Ways};
use crate::keys::{Attach, Mode};
use crate::locked::Registration;
use crate::port::{KERNEL_HEADROOM, LEAST_CHUNK, XdpPort};
use crate::preflight;
use crate::program::Place;
use crate::rx::XdpRx;
use crate::socket::{Binding, Socket, Statistics};
use crate::tx::{Limits, XdpTx};

/// How long a queue may stay taken after the socket that had it was closed.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// Frames beyond the receive ring's that the kernel is given, to fill while the ring is full.
const SPARE: u32 = 64;

/// A started port's sockets and program.
pub(crate) struct Started {
    pub device: Arc<Device>,
    /// By queue, from before it was taken up; the first has the memory.
    pub sockets: Vec<Arc<Socket>>,
    /// Those that only send, of queues that receive as well: nobody polls them (see [`tx`](crate::tx)). They share everything with
    /// their queue's.
    pub senders: Vec<Option<Arc<Socket>>>,
    pub witness: Witness,
    /// How many of the first sockets may receive.
    pub receiving: usize,
    pub ways: Ways,
    /// None where somebody else's program hands frames over.
    pub map: Option<Sockets>,
    /// What the attached program was made for.
    pub place: Place,
    pub attachment: Option<Attachment>,
    /// Memberships live as long as it. None for a port on what was handed over, if this process may not have any.
    pub members: Option<OwnedFd>,
    /// How many frames the kernel is to have for each receive queue.
    fill_target: usize,
    _pool: Pool,
    /// For as long as the memory is registered.
    registration: Registration,
}

impl XdpPort {
    /// Makes sockets and queues, and lets frames come. After an error [`end`](XdpPort::end) takes away what was made.
    pub fn begin(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let pool = &setup.pools[0];
        self.check_pool(pool, setup)?;
        if self.handed.is_none() {
            preflight::check_free(&self.title, self.settings.interface().index())?;
        }
        let registration = Registration::new(&self.title, pool)?;
        let witness = Witness::new().map_err(|error| self.explain("making an epoll set", error))?;
        let members = match packet_socket::idle() {
            Ok(members) => Some(members),
            Err(_) if self.handed.is_some() => None,
            Err(error) => return Err(self.explain("opening a packet socket", error)),
        };
        let watch = LinkWatch::new().map_err(|error| self.explain("watching the link", error))?;
        open::check_namespace(self.settings.interface(), &self.title, watch.as_raw_fd())?;
        let interface = self.settings.interface().try_clone();
        let interface = interface.map_err(|error| self.explain("opening the interface", error))?;
        let device = Arc::new(Device::new(&self.title, interface, self.settings.info().prompt));
        let count = usize::from(setup.rx_queues.max(setup.tx_queues));
        while self.counts.len() < count {
            self.counts.push(Arc::default());
        }
        let (map, mut given) = match &mut self.handed {
            None => {
                let map = Sockets::new(self.queues.0.max(count as u32));
                let map = map.map_err(|error| self.explain("making the map of sockets", error))?;
                (Some(map), Vec::new())
            }
            Some(handed) => (None, handed.sockets()?),
        };
        // One that was handed over may be in a map, whatever this port does with it.
        let receiving = if self.handed.is_some() { count } else { setup.rx_queues.into() };
        given.reverse();
        let mut started = Started {
            device,
            sockets: Vec::new(),
            senders: Vec::new(),
            witness,
            receiving,
            ways: Ways {
                zero_copy: false,
                busy_poll: self.keys.busy_poll > 0,
                segments: setup.max_segments > 1,
            },
            map,
            place: Place { segments: self.segments, tags: None },
            attachment: None,
            members,
            fill_target: self.fill_target(pool, setup),
            _pool: pool.clone(),
            registration,
        };
        let mut queues = DriverQueues { rx: Vec::new(), tx: Vec::new() };
        let mut result = Ok(());
        for queue in 0..count {
            result = self.add_queue(setup, queue, given.pop(), &mut started, &mut queues);
            if result.is_err() {
                break;
            }
        }
        // From here on it is taken away by `end`.
        self.ways = started.ways;
        self.started = Some(started);
        result?;
        self.let_frames_come()?;
        Ok(queues)
    }

    /// Makes a queue's socket, unless one was given, and its drivers, and takes the device's queue up.
    fn add_queue(
        &self,
        setup: &Setup<'_>,
        queue: usize,
        given: Option<Socket>,
        started: &mut Started,
        queues: &mut DriverQueues,
    ) -> Result<()> {
        let pool = &setup.pools[0];
        let (rx_count, tx_count) = (setup.rx_queues as usize, setup.tx_queues as usize);
        let (rx_ring, tx_ring) =
            (setup.rx_ring.next_power_of_two(), setup.tx_ring.next_power_of_two());
        let failed = |error| self.explain("making the rings", error);
        let may_have_frames = given.is_some();
        let socket = Arc::new(given.map_or_else(Socket::new, Ok).map_err(failed)?);
        if queue == 0 {
            // SAFETY: the port keeps the pool until `end` has closed its sockets, and what somebody else has open writes to pages that
            // the kernel keeps, into frames that are never used again. The drivers give the rings what is lent.
            unsafe { started.registration.register(&self.title, &socket, pool, chunk(pool))? };
        }
        let fill = socket.fill_ring((rx_ring + SPARE).next_power_of_two()).map_err(failed)?;
        let completion = socket.completion_ring(tx_ring).map_err(failed)?;
        let rx_rings = match queue < rx_count {
            true => Some((socket.receive_ring(rx_ring).map_err(failed)?, fill)),
            false => {
                if may_have_frames {
                    // It may be in a map: what comes is dropped, for it has nowhere to go.
                    socket.receive_ring(1).map_err(failed)?;
                }
                None
            }
        };
        // One that was handed over does both.
        let sender = match queue < rx_count.min(tx_count) && !may_have_frames {
            true => Some(Arc::new(Socket::new().map_err(failed)?)),
            false => None,
        };
        let sending = sender.as_ref().unwrap_or(&socket).clone();
        let tx_rings = match queue < tx_count {
            true => Some((sending.transmit_ring(tx_ring).map_err(failed)?, completion)),
            false => None,
        };
        for socket in [Some(&socket), sender.as_ref()].into_iter().flatten() {
            if !started.ways.busy_poll {
                break;
            }
            let (micros, budget) = (self.keys.busy_poll, self.keys.busy_poll_budget.into());
            socket.busy_poll(micros, budget).map_err(|error| match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => {
                    self.unsupported("busy_poll", micros.to_string(), "0, before Linux 5.11")
                }
                _ => self.explain("asking for busy polling", error),
            })?;
        }
        if let Some(rings) = rx_rings {
            let watch =
                LinkWatch::new().map_err(|error| self.explain("watching the link", error))?;
            let target = started.fill_target;
            let (device, ways) = (started.device.clone(), started.ways);
            let mut driver = XdpRx::new(device, socket.clone(), rings, pool, target, ways, watch);
            // The kernel wants frames before it takes the queue up.
            let filled = driver.refill(&mut setup.queue_cache(pool));
            queues.rx.push(Box::new(driver) as Box<dyn RxDriver>);
            filled?;
        }
        let first = started.sockets.first().cloned();
        // Whatever becomes of them: from here on the kernel may have the queue's frames.
        started.sockets.push(socket.clone());
        started.senders.push(sender.clone());
        self.bind(&socket, queue as u32, started.ways.segments, first.as_deref())?;
        if queue == 0 {
            started.ways.zero_copy = socket.is_zero_copy().map_err(failed)?;
        }
        if let Some(sender) = &sender {
            self.bind(sender, queue as u32, started.ways.segments, Some(&socket))?;
        }
        if let Some(rings) = tx_rings {
            // Copies that are on their way are charged to the socket.
            let bytes = (tx_ring as usize * 2 * (setup.max_frame + 512)).min(1 << 28);
            sending.set_send_buffer(bytes as libc::c_int);
            let budget = sending.raise_tx_budget(tx_ring) as usize;
            let chunk = chunk(pool);
            let whole = chunk == pool.frame_size();
            let limits = Limits { most: tx_ring as usize, budget, chunk, whole };
            let (device, counts) = (started.device.clone(), self.counts[queue].clone());
            let driver = XdpTx::new(device, sending, rings, pool, limits, started.ways, counts);
            queues.tx.push(Box::new(driver) as Box<dyn TxDriver>);
        }
        if queue < rx_count {
            match (&started.map, &self.handed) {
                (Some(map), _) => map
                    .set(queue as u32, socket.as_raw_fd())
                    .map_err(|error| self.explain("putting a socket into the map", error))?,
                (None, Some(handed)) => handed.add(queue as u32, &socket)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Binds a queue; tries again while the kernel still has it from a socket that was closed.
    fn bind(
        &self,
        socket: &Socket,
        queue: u32,
        segments: bool,
        share: Option<&Socket>,
    ) -> Result<()> {
        let zero_copy = match self.keys.mode {
            Mode::Auto => None,
            Mode::ZeroCopy => Some(true),
            Mode::Copy => Some(false),
        };
        let interface = self.settings.interface().index();
        let binding = Binding { interface, queue, zero_copy, segments };
        let deadline = Instant::now() + SETTLE;
        loop {
            let error = match socket.bind(&binding, share) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EBUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Some(libc::EBUSY) => {
                    return Err(Error::Backend {
                        device: self.title.clone(),
                        reason: format!(
                            "its queue {queue} is taken by another AF_XDP socket; `ss --xdp -p` shows whose"
                        ),
                    });
                }
                Some(libc::EOPNOTSUPP) if zero_copy == Some(true) => {
                    let driver = self.settings.interface().driver().unwrap_or_default();
                    return Err(preflight::no_zero_copy(&self.title, &driver));
                }
                _ => return Err(self.explain(&format!("binding queue {queue}"), error)),
            }
        }
    }

    /// Prepares the interface, and attaches the program.
    fn let_frames_come(&mut self) -> Result<()> {
        let Some(mut started) = self.started.take() else { return Ok(()) };
        let result = match &self.handed {
            None => self.attach(&mut started),
            Some(_) => self.rely_on_theirs(&started),
        };
        self.started = Some(started);
        result
    }

    /// Somebody else has attached the program, and prepared the interface.
    fn rely_on_theirs(&self, started: &Started) -> Result<()> {
        self.members(&started.members, Membership::AllMulticast, true)?;
        if xdp_attached(self.settings.interface().index()).is_ok_and(|found| found.is_none()) {
            tracing::warn!(
                "{}: no XDP program is attached to it, so nothing will be received",
                self.title
            );
        }
        Ok(())
    }

    fn attach(&mut self, started: &mut Started) -> Result<()> {
        let mut switched = self.tags.leave_in(&mut self.settings, &self.title)?;
        let (filters, all_vlans) = vlans::receive_all(&mut self.settings, &self.title, true)?;
        switched.extend(filters);
        switched.extend(self.settings.switch_off(MERGING_HARDWARE)?);
        self.members(&started.members, Membership::AllMulticast, true)?;
        if self.filter.promiscuous {
            self.members(&started.members, Membership::Promiscuous, true)?;
        }
        if all_vlans {
            // For this alone drivers let all VLAN identifiers through; the program sorts the addresses.
            self.members(&started.members, Membership::Promiscuous, true)?;
        }
        let mut refused = None;
        if self.keys.attach != Attach::Generic {
            let function = self.ask_for_tags;
            let index = self.settings.interface().index();
            started.place.tags = function.map(|function| (index, function));
            self.tags.check(&self.title, self.settings.info(), function.is_some())?;
            refused = self.attach_as(started, XdpMode::Native)?;
        }
        if started.attachment.is_none() {
            if self.keys.attach == Attach::Native
                && let Some(error) = &refused
            {
                let interface = self.settings.interface();
                return Err(preflight::refused_native(&self.title, interface, error));
            }
            started.place.tags = None;
            self.tags.check(&self.title, self.settings.info(), false)?;
            switched.extend(self.settings.switch_off(MERGING)?);
            if let Some(error) = self.attach_as(started, XdpMode::Generic)? {
                return Err(preflight::nowhere(&self.title, error));
            }
        }
        self.say(&switched, started, refused);
        Ok(())
    }

    /// Says, once, how the port works, and what was switched off.
    fn say(&mut self, switched: &[&str], started: &Started, refused: Option<io::Error>) {
        if std::mem::replace(&mut self.said, true) {
            return;
        }
        let title = &self.title;
        if let Some(error) = refused {
            let why = preflight::refusal(self.settings.interface(), &error);
            tracing::info!(
                "{title}: {why}. So the program runs behind the driver, which is slower; attach=native insists"
            );
        }
        let (opened, there) = (started.receiving, self.queues.0 as usize);
        if opened > 0 && opened < there {
            tracing::warn!(
                "{title}: it has {there} receive queues, of which {opened} are opened: what arrives on the others goes to the host's \
                 stack. rx_queues={there} opens all, `ethtool -L {} rx {opened}` leaves it as many as are opened",
                self.settings.info().name
            );
        }
        let mode = if started.ways.zero_copy { "zero-copy" } else { "copy" };
        tracing::debug!("{title}: {mode} mode, {} queues", started.sockets.len());
        if !switched.is_empty() {
            tracing::info!(
                "{title}: switched off until the port is stopped, so that it receives the frames that were sent, all of them: {}",
                switched.join(", ")
            );
        }
    }

    /// Attaches the program; the driver's refusal, if it is one.
    fn attach_as(&self, started: &mut Started, mode: XdpMode) -> Result<Option<io::Error>> {
        let Some(map) = &started.map else { return Ok(None) };
        let program = match self.filter.load(map, &started.place) {
            Ok(program) => program,
            Err(error) if started.place.tags.is_some() && !preflight::is_denied(&error) => {
                return Ok(Some(preflight::no_tags(&error)));
            }
            Err(error) => return Err(self.explain("loading the program", error)),
        };
        let error = match program.attach_xdp(self.settings.interface().index(), mode) {
            Ok(attachment) => {
                started.attachment = Some(attachment);
                return Ok(None);
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOSPC) => Err(preflight::unequal_queues(&self.title)),
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG) => Ok(Some(error)),
            Some(libc::EBUSY | libc::EEXIST) => {
                Err(preflight::taken(&self.title, self.settings.interface(), error))
            }
            _ => Err(self.explain("attaching the program", error)),
        }
    }

    /// How many frames the kernel is to have for each receive queue. Says so, once, if the rings cannot be full.
    fn fill_target(&mut self, pool: &Pool, setup: &Setup<'_>) -> usize {
        let (ring, queues) = (setup.rx_ring.next_power_of_two(), usize::from(setup.rx_queues));
        let target = fill_target(pool.capacity(), pool.free(), ring, queues);
        if let Some(words) = too_few(target, ring, queues)
            && queues > 0
            && !self.said
        {
            tracing::warn!("{}: {words}", self.title);
        }
        target
    }

    /// Refuses a pool that the kernel does not take, or whose frames are too small.
    fn check_pool(&self, pool: &Pool, setup: &Setup<'_>) -> Result<()> {
        let size = chunk(pool);
        if size < LEAST_CHUNK {
            let limit = format!(
                "{LEAST_CHUNK}: the kernel takes no smaller frames of a pool; make it with frame_size {LEAST_CHUNK} or 4096"
            );
            return Err(self.unsupported("frame_size", size.to_string(), limit));
        }
        let room = (size - KERNEL_HEADROOM) * usize::from(setup.max_segments);
        if setup.max_frame + 4 > room {
            let needed = (setup.max_frame + 4).div_ceil(size - KERNEL_HEADROOM);
            let limit = format!(
                "{} bytes: with a tag that is what {} of the pool's frames have room for, behind {KERNEL_HEADROOM} bytes that \
                 the kernel keeps; `max_segments={needed}` takes it (Linux 6.6), or an MTU of {} at most does without",
                room - 4,
                setup.max_segments,
                room - 4 - 14
            );
            return Err(self.unsupported("max_frame", setup.max_frame.to_string(), limit));
        }
        Ok(())
    }
}

/// What the kernel has counted of a queue's sockets. Of what concerns receiving both say the same.
pub(crate) fn statistics(socket: &Socket, sender: Option<&Socket>) -> Statistics {
    let mut all = socket.statistics().unwrap_or_default();
    if let Some(sent) = sender.and_then(|sender| sender.statistics().ok()) {
        all.invalid_tx += sent.invalid_tx;
    }
    all
}

/// How many frames the kernel is to have for each of some receive queues: enough for the ring and some more, but of a small pool
/// no more than its queues' share of half of the free frames. So whoever shares the pool leaves something, to the next port and
/// to the application. A pool whose frames are out already is one of which the port may have a quarter, when they come back.
fn fill_target(capacity: usize, free: usize, ring: u32, queues: usize) -> usize {
    let share = (free / 2).max(capacity / 4) / queues.max(1);
    ((ring + SPARE) as usize).min(share).max(1)
}

/// What is to be said of a ring that the pool cannot fill.
fn too_few(target: usize, ring: u32, queues: usize) -> Option<String> {
    (target < ring as usize).then(|| {
        let each = ring as usize * queues * 2;
        format!(
            "its pool is too small to fill its receive rings of {ring} frames: they are given {target}. It takes a pool of {each} \
             frames, and as many more for every other such port that shares it"
        )
    })
}

/// Bytes of a pool frame that the kernel uses: it takes no more than a page, so of larger frames it is the first one.
pub(crate) fn chunk(pool: &Pool) -> usize {
    // SAFETY: no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
    pool.frame_size().min(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_what_it_can_hold_or_a_share_that_leaves_something() {
        assert_eq!(fill_target(65536, 65536, 8192, 1), 8192 + 64);
        // Two ports over one pool: half, and half of the rest.
        assert_eq!(fill_target(512, 512, 1024, 1), 256);
        assert_eq!(fill_target(512, 256, 1024, 1), 128);
        assert_eq!(fill_target(512, 512, 1024, 4), 64);
        // The application has them all, and gives them back some day.
        assert_eq!(fill_target(512, 0, 1024, 1), 128);
        assert_eq!(fill_target(2, 2, 1024, 4), 1);
    }

    #[test]
    fn what_a_ring_lacks_is_said_with_the_pool_that_has_it() {
        assert_eq!(too_few(1024, 1024, 1), None);
        let words = too_few(512, 8192, 2).unwrap();
        assert!(words.contains("given 512.") && words.contains("pool of 32768 frames"), "{words}");
        assert_eq!(fill_target(32768, 32768, 8192, 2), 8192);
    }
}
