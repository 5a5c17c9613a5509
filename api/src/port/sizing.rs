//! How large a pool has to be for the ports that share it.

use super::Port;
use crate::pool::PoolConfig;

/// The largest pool frame in bytes.
const LARGEST_FRAME: u32 = 32768;

/// The most frames that are worked out; who wants more says how many.
const MOST_FRAMES: u64 = 1 << 20;

impl PoolConfig {
    /// A pool for these ports as they are configured now: frames for all their rings to be full and half as many again to be
    /// under way, at least twice as many as the receive rings hold (a backend may give its ring no more than a share of the pool)
    /// and at least the default, and each large enough for the longest frame of any port with a VLAN tag.
    ///
    /// Beyond the largest pool frame (32,768 bytes) a longer frame takes a chain; see
    /// [`max_segments`](crate::PortConfig::max_segments).
    ///
    /// ```
    /// # use anyport::pool::PoolConfig;
    /// # fn forward(registry: &anyport::Registry) -> anyport::Result<()> {
    /// let mut ports = [registry.open("pcap:eth0")?, registry.open("pcap:eth1,rx_ring=8192")?];
    /// let pool = PoolConfig::for_ports(&ports).build()?;
    /// for port in &mut ports {
    ///     port.attach(&pool)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_ports<'a>(ports: impl IntoIterator<Item = &'a Port>) -> PoolConfig {
        let mut config = PoolConfig::default();
        let (mut rings, mut receiving, mut longest) = (0u64, 0u64, 0usize);
        for port in ports {
            let (asked, can) = (port.config(), port.capability());
            let ring = |asked: Option<u32>, default| u64::from(asked.unwrap_or(default));
            receiving +=
                u64::from(asked.rx_queue_count()) * ring(asked.rx_ring, can.rx_ring.default);
            rings += u64::from(asked.tx_queue_count()) * ring(asked.tx_ring, can.tx_ring.default);
            longest = longest.max(port.control().max_frame());
        }
        let all = (rings + receiving).saturating_mul(3) / 2;
        let frames = all.max(receiving.saturating_mul(2)).min(MOST_FRAMES).next_power_of_two();
        config.frames = config.frames.max(u32::try_from(frames).unwrap_or(u32::MAX));
        let tagged = u32::try_from(longest + 4).unwrap_or(u32::MAX);
        let bytes = tagged.saturating_add(config.headroom.into());
        config.frame_size = bytes.clamp(config.frame_size, LARGEST_FRAME).next_power_of_two();
        config
    }
}
