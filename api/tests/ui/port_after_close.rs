// A closed port is gone (contract L4).

fn after(mut port: anyport::Port) {
    port.close().unwrap();
    port.start().unwrap();
}

fn main() {}
