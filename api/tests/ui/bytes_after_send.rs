// Nor can its bytes be held across a send (contract P2).

fn after(tx: &mut anyport::TxQueue, burst: &mut anyport::Burst) -> u8 {
    let first = burst[0].data();
    tx.send(burst).unwrap();
    first[0]
}

fn main() {}
