//! The conformance suite: cases per contract clause, rigs, reports
