//! The registry of anyport's built-in backends
