//! Linux network devices: addresses, link state, memberships and tcx programs, for backends that sit on one
