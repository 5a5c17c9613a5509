//! What the tests open, and what is logged meanwhile.

use std::io::Write;
use std::sync::{Arc, Mutex};

use anyport::Registry;
pub use anyport_netdev::testing::end::{End, frame, number, tagged, until};

pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_pcap::Pcap::default()).unwrap();
    registry
}

pub fn open(spec: &str) -> End {
    open_with(spec, 8192)
}

/// With a pool whose frames are of that size.
pub fn open_with(spec: &str, frame_size: u32) -> End {
    End::open(&registry(), spec, frame_size)
}

/// Runs something, and returns the warnings that this thread gave meanwhile.
pub fn warnings<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    logged(tracing::Level::WARN, run)
}

/// The same with all that is of that level or above.
pub fn logged<T>(level: tracing::Level, run: impl FnOnce() -> T) -> (T, Vec<String>) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (result, text.lines().map(str::to_owned).collect())
}
