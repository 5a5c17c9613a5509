// A packet is freed once (contract P2).

fn twice(packet: anyport::Packet) {
    drop(packet);
    drop(packet);
}

fn main() {}
