//! An in-process cable: the reference implementation of anyport's contract
