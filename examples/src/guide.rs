//! The guides, as documentation tests see them: every block of Rust in them is a program.

#[doc = include_str!("../../docs/guide/first-application.md")]
pub mod first_application {}

#[doc = include_str!("../../docs/guide/configuration.md")]
pub mod configuration {}

#[doc = include_str!("../../docs/guide/af_xdp.md")]
pub mod af_xdp {}

#[doc = include_str!("../../docs/guide/metadata-and-offloads.md")]
pub mod metadata_and_offloads {}

#[doc = include_str!("../../docs/guide/writing-a-backend.md")]
pub mod writing_a_backend {}
