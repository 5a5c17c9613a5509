//! The built-in backends, a cargo feature each.

use anyport::Registry;

/// A registry with all built-in backends that this program was built with.
///
/// ```
/// let registry = anyport_backends::registry();
/// assert!(registry.backends().any(|backend| backend.name() == "loop"));
/// ```
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    #[cfg(feature = "af_xdp")]
    add(&mut registry, anyport_af_xdp::AfXdp::default());
    #[cfg(feature = "loop")]
    add(&mut registry, anyport_loopback::Loopback::default());
    #[cfg(feature = "pcap")]
    add(&mut registry, anyport_pcap::Pcap::default());
    registry
}

/// The built-in backends have different names and are built with this very interface, so there is nothing to refuse.
fn add(registry: &mut Registry, backend: impl anyport::Backend + 'static) {
    if let Err(error) = registry.register(backend) {
        unreachable!("{error}");
    }
}
