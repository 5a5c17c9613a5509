// A port does not receive; its queues do, and `start` hands them out (contract L4).

fn early(port: &mut anyport::Port, burst: &mut anyport::Burst) {
    port.recv(burst).unwrap();
}

fn main() {}
