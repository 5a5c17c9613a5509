//! What `ethtool` shows and sets, by the same ioctl: driver, link, speed, offload switches ("features").
//!
//! Traps:
//! - These calls take the kernel's lock on all network configuration, so they may wait for whoever holds it. Nothing here
//!   belongs on a path that is taken per burst.
//! - A switch may be fixed, and switching one may switch others: read after setting.

use std::io;

use crate::interface::Interface;

const GDRVINFO: u32 = 0x03;
const GLINK: u32 = 0x0a;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;
const GLINKSETTINGS: u32 = 0x4c;

/// The string set that names the features.
const SS_FEATURES: u32 = 4;
const STRING: usize = 32;

/// Speed and duplex, as far as the device knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Speed {
    /// Megabits per second.
    pub mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: Option<bool>,
}

/// One offload switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// On.
    pub active: bool,
    /// It can be switched.
    pub changeable: bool,
}

/// Channels: an interrupt with its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Channels {
    /// With a receive queue alone.
    pub rx: u32,
    /// With a transmit queue alone.
    pub tx: u32,
    /// With one of each.
    pub combined: u32,
    /// The most of the first kind.
    pub max_rx: u32,
    /// The most of the second kind.
    pub max_tx: u32,
    /// The most of the third kind.
    pub max_combined: u32,
}

impl Channels {
    /// The command that gives the interface called `name` so many queues each way, if it can have them.
    pub fn command(&self, name: &str, queues: u32) -> Option<String> {
        if self.max_combined >= queues {
            Some(format!("ethtool -L {name} combined {queues}"))
        } else if self.max_rx >= queues && self.max_tx >= queues {
            Some(format!("ethtool -L {name} rx {queues} tx {queues}"))
        } else {
            None
        }
    }
}

#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LinkSettings {
    command: u32,
    speed: u32,
    duplex: u8,
    others: [u8; 6],
    mask_words: i8,
    more: [u8; 4],
    reserved: [u32; 7],
    /// Three masks of at most 127 words.
    masks: [u32; 3 * 127],
}

impl Interface {
    /// The driver's name: `igb`, `veth`, `tun`, `virtio_net`, ...; empty if the device has none.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn driver(&self) -> io::Result<String> {
        let mut info = DriverInfo { command: GDRVINFO, driver: [0; 32], rest: [0; 160] };
        match self.ethtool(&mut info) {
            Ok(_) => Ok(text(&info.driver)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a carrier now, `None` if the device cannot tell.
    ///
    /// The interface's flags may be up to a second late ([`Interface::flags`]); this is not, but it takes the lock that the
    /// module's documentation speaks of.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn carrier(&self) -> io::Result<Option<bool>> {
        let mut value = [GLINK, 0];
        match self.ethtool(&mut value) {
            Ok(_) => Ok(Some(value[1] != 0)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Speed and duplex.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's. A device that does not know is none.
    pub fn speed(&self) -> io::Result<Speed> {
        let mut settings = LinkSettings {
            command: GLINKSETTINGS,
            speed: 0,
            duplex: 0,
            others: [0; 6],
            mask_words: 0,
            more: [0; 4],
            reserved: [0; 7],
            masks: [0; 3 * 127],
        };
        // The first call answers with the size of the masks, negative, and nothing else; the second with everything.
        for _ in 0..2 {
            match self.ethtool(&mut settings) {
                Ok(_) if settings.mask_words >= 0 => break,
                Ok(_) => {
                    settings.mask_words = -settings.mask_words;
                    settings.command = GLINKSETTINGS;
                }
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Ok(Speed::default());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Speed {
            mbps: (!matches!(settings.speed, 0 | u32::MAX)).then_some(settings.speed),
            full_duplex: match settings.duplex {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
        })
    }

    /// How many receive and transmit queues are in use now; one of each for a device that has no setting for it.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn queues(&self) -> io::Result<(u32, u32)> {
        let Some(now) = self.channels()? else { return Ok((1, 1)) };
        Ok(((now.rx + now.combined).max(1), (now.tx + now.combined).max(1)))
    }

    /// The channels that there are, and the most that there can be; `None` for a device that has no setting for it.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn channels(&self) -> io::Result<Option<Channels>> {
        // The most receive, transmit, other and combined channels, then how many of each there are.
        let mut answer = [GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
        match self.ethtool(&mut answer) {
            Ok(_) => {
                let [_, max_rx, max_tx, _, max_combined, rx, tx, _, combined] = answer;
                Ok(Some(Channels { rx, tx, combined, max_rx, max_tx, max_combined }))
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state of the offload switches of these names (as `ethtool -k` calls them); `None` for one that this kernel does
    /// not know.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn features<const N: usize>(&self, names: [&str; N]) -> io::Result<[Option<Feature>; N]> {
        let known = self.feature_names()?;
        let blocks = self.feature_blocks(known.len())?;
        Ok(names.map(|name| {
            let bit = known.iter().position(|known| known == name)?;
            let [available, _, active, never] = blocks[bit / 32];
            let mask = 1 << (bit % 32);
            Some(Feature {
                active: active & mask != 0,
                changeable: available & mask != 0 && never & mask == 0,
            })
        }))
    }

    /// Switches one of them.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a switch that is unknown, or stays as it is; `EPERM` without CAP_NET_ADMIN; `ENODEV` if the
    /// interface is gone; the system's.
    pub fn set_feature(&self, name: &str, on: bool) -> io::Result<()> {
        let unsupported = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let known = self.feature_names()?;
        let bit = known.iter().position(|known| known == name).ok_or_else(unsupported)?;
        let blocks = known.len().div_ceil(32);
        let mut request = vec![0u32; 2 + 2 * blocks];
        (request[0], request[1]) = (SFEATURES, blocks as u32);
        let mask = 1 << (bit % 32);
        request[2 + 2 * (bit / 32)] = mask;
        request[3 + 2 * (bit / 32)] = if on { mask } else { 0 };
        self.ethtool(&mut request[..])?;
        let active = self.feature_blocks(known.len())?[bit / 32][2] & mask != 0;
        if active == on { Ok(()) } else { Err(unsupported()) }
    }

    /// The names of the features, in the order of their bits.
    fn feature_names(&self) -> io::Result<Vec<String>> {
        // Command, padding, and a mask of the sets of 64 bits; then a count per set.
        let mut info = [GSSET_INFO, 0, 1 << SS_FEATURES, 0, 0];
        self.ethtool(&mut info)?;
        // What the kernel says here is not what the next call fills in if a number were to change in between.
        let count = (info[4] as usize).min(1024);
        let mut request = vec![0u32; 3 + count * STRING / 4];
        (request[0], request[1], request[2]) = (GSTRINGS, SS_FEATURES, count as u32);
        self.ethtool(&mut request[..])?;
        let bytes: Vec<u8> = request[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bytes.chunks(STRING).map(text).collect())
    }

    /// Available, requested, active and never changed, per 32 features.
    fn feature_blocks(&self, count: usize) -> io::Result<Vec<[u32; 4]>> {
        let blocks = count.div_ceil(32);
        let mut request = vec![0u32; 2 + 4 * blocks];
        (request[0], request[1]) = (GFEATURES, blocks as u32);
        self.ethtool(&mut request[..])?;
        Ok(request[2..].chunks(4).map(|block| std::array::from_fn(|at| block[at])).collect())
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
