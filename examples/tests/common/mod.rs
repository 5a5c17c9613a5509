//! What the tests of the examples share: frames, ports at the far end, and a network namespace of their own.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyport::{Burst, MacAddr, Pool, Port, Registry, RxQueue, TxQueue, Wake};

/// A wait that is far longer than anything takes, so that a test that hangs ends.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A numbered frame of an experimental EtherType.
pub fn frame(to: MacAddr, number: u32, length: usize) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 0x77, 0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

/// The frame with source and destination exchanged.
pub fn swapped(mut frame: Vec<u8>) -> Vec<u8> {
    let (destination, source) = frame[..12].split_at_mut(6);
    destination.swap_with_slice(source);
    frame
}

/// A started port that a test sends and receives by.
pub struct End {
    pub port: Port,
    pub rx: RxQueue,
    pub tx: TxQueue,
    pub pool: Pool,
}

impl End {
    pub fn open(registry: &Registry, spec: &str) -> End {
        let pool = Pool::builder().frames(4096).build().unwrap();
        let mut port = registry.open_with(spec, &pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        End { port, rx, tx, pool }
    }

    pub fn mac(&self) -> MacAddr {
        self.port.control().mac().unwrap()
    }

    /// Sends all frames.
    pub fn send(&mut self, frames: &[Vec<u8>]) {
        let mut burst = Burst::new();
        for frame in frames {
            burst.push(self.pool.packet(frame).expect("the pool is dry")).unwrap();
            if burst.is_full() {
                self.send_burst(&mut burst);
            }
        }
        self.send_burst(&mut burst);
    }

    fn send_burst(&mut self, burst: &mut Burst) {
        for _ in 0..1_000_000 {
            self.tx.send(burst).unwrap();
            if burst.is_empty() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("the queue stays full");
    }

    /// The next `count` frames, and whatever comes with them; fewer if nothing comes for five seconds.
    pub fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut burst = Burst::new();
        while frames.len() < count {
            match self.rx.wait(Duration::from_secs(5)).unwrap() {
                Wake::Ready => {}
                Wake::Timeout => break,
                _ => continue,
            }
            self.rx.recv(&mut burst).unwrap();
            frames.extend(burst.drain().map(|packet| packet.data().to_vec()));
        }
        frames
    }

    /// Sends frames a batch at a time, and takes back what comes for each batch: no ring on the way has to hold more than
    /// one.
    pub fn exchange(&mut self, frames: &[Vec<u8>], batch: usize) -> Vec<Vec<u8>> {
        let mut back = Vec::new();
        for batch in frames.chunks(batch) {
            self.send(batch);
            back.extend(self.receive(batch.len()));
        }
        back
    }

    /// Sends probes until one comes back, or out at `far`, so that a program that was just started is known to run; how
    /// many came in all. A last one is sent then, and with it all are through: what comes afterwards is no probe.
    pub fn probe(&mut self, mut far: Option<&mut End>) -> u64 {
        let (probe, last) =
            (frame(MacAddr::BROADCAST, 0, 60), frame(MacAddr::BROADCAST, u32::MAX, 60));
        let mut came = 0;
        for _ in 0..2000 {
            self.send(std::slice::from_ref(if came == 0 { &probe } else { &last }));
            let end = match &mut far {
                Some(far) => far,
                None => &mut *self,
            };
            let patience = if came == 0 { Duration::from_millis(10) } else { PATIENCE };
            while end.rx.wait(patience).unwrap() == Wake::Ready {
                let mut burst = Burst::new();
                came += end.rx.recv(&mut burst).unwrap() as u64;
                if burst.iter().any(|packet| packet.data()[14..18] == last[14..18]) {
                    return came;
                }
            }
        }
        panic!("the program does not run");
    }

    /// What is there and was not expected.
    pub fn leftover(&mut self) -> usize {
        let mut burst = Burst::new();
        self.rx.recv(&mut burst).unwrap()
    }
}

/// Runs a test in a network namespace of its own with a veth pair `a0`, `a1` for each letter; says so and does nothing
/// where that needs more privilege.
pub fn in_namespace(pairs: &[&str], test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; it changes this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                assert!(
                    std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_none(),
                    "root is required"
                );
                eprintln!("skipped: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            ip("link set lo up");
            for pair in pairs {
                ip(&format!("link add {pair}0 type veth peer name {pair}1"));
                for end in [0, 1] {
                    ip(&format!("link set {pair}{end} addrgenmode none"));
                    ip(&format!("link set {pair}{end} up"));
                }
            }
            test();
        });
        thread.join().unwrap();
    });
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.is_ok_and(|status| status.success()), "ip {arguments}");
}

/// A program that is killed if the test ends before it does.
pub struct Program(Option<Child>);

impl Program {
    /// Starts one of the examples, in the calling thread's network namespace.
    pub fn start(path: &str, arguments: &[&str]) -> Program {
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        Program(Some(command.spawn().unwrap()))
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) {
        let pid = self.child().id() as libc::pid_t;
        // SAFETY: no pointers; the child has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    }

    /// Waits for its end: whether it succeeded, and what it wrote that was not read before.
    pub fn finish(mut self) -> (bool, String) {
        let mut child = self.0.take().unwrap();
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The next line that a program writes.
pub fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte, so that the rest is still there to be read.
    while std::io::Read::read(stdout, &mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}
