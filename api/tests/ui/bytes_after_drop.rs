// Bytes do not outlive the packet that owns them (contract P2).

fn after(packet: anyport::Packet) -> u8 {
    let bytes = packet.data();
    drop(packet);
    bytes[0]
}

fn main() {}
