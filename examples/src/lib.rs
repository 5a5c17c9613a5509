//! Portable example programs: each runs on any backend.
