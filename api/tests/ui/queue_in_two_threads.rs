// A queue belongs to one thread at a time (contract Q2).

fn threads(_one: &mut anyport::RxQueue, _other: &mut anyport::RxQueue) {}

fn both(rx: &mut anyport::RxQueue) {
    threads(&mut *rx, &mut *rx);
}

fn main() {}
