// A queue that moved to a thread is there, and nowhere else (contract Q2).

fn both(mut rx: anyport::RxQueue) {
    std::thread::spawn(move || rx.recv(&mut anyport::Burst::new()));
    std::thread::spawn(move || rx.recv(&mut anyport::Burst::new()));
}

fn main() {}
