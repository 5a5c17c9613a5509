// One frame, one name: nobody else sees it while it is changed (contract P2).

fn both(packet: &mut anyport::Packet) {
    let one = packet.data_mut();
    let other = packet.data_mut();
    one.swap_with_slice(other);
}

fn main() {}
