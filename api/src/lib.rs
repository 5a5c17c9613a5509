//! Vendor-neutral packet I/O: one API, backends chosen at run time, one contract.
