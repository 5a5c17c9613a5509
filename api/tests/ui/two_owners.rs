// A packet cannot be doubled (contract P2); `copy_to` makes another frame.

fn doubles<T: Clone>() {}

fn main() {
    doubles::<anyport::Packet>();
}
