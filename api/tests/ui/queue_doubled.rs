// Nor can a queue (contract Q2).

fn doubles<T: Clone>() {}

fn main() {
    doubles::<anyport::RxQueue>();
    doubles::<anyport::TxQueue>();
}
