// What went into a burst that was sent is the port's (contract P2).

fn after(tx: &mut anyport::TxQueue, packet: anyport::Packet) -> usize {
    let mut burst = anyport::Burst::new();
    burst.push(packet).unwrap();
    tx.send(&mut burst).unwrap();
    packet.len()
}

fn main() {}
