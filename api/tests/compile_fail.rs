//! Programs that must not compile, and for the right reason: the compiler's answer stands beside each of them in
//! `tests/ui`.
//!
//! A newer compiler may word an answer differently: look at the difference, and write it with `TRYBUILD=overwrite`.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
