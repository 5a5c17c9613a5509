//! The `anyport` tool.
fn main() {}
