//! The registry: which backends a program has, and how a spec or a configured name becomes a port.

use std::sync::Arc;

use crate::config::{ConfigFile, PortConfig, Spec, Table};
use crate::driver::{Backend, DeviceInfo, INTERFACE_VERSION, OpenRequest};
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::port::{DeviceLock, Port};

/// A set of backends, and optionally a configuration file with names for ports.
///
/// `anyport_backends::registry()` has the built-in ones; a backend from another crate is added with
/// [`register`](Registry::register).
#[derive(Clone, Default)]
pub struct Registry {
    backends: Vec<Arc<dyn Backend>>,
    file: Option<ConfigFile>,
}

impl Registry {
    /// A registry without backends.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a backend.
    ///
    /// # Errors
    /// [`Error::Config`] if one of that name is there, or if it was built against another version of the driver
    /// interface.
    pub fn register(&mut self, backend: impl Backend + 'static) -> Result<()> {
        let (name, version) = (backend.name(), backend.interface_version());
        let refuse = |reason| Err(Error::Config { context: format!("backend `{name}`"), reason });
        if version != INTERFACE_VERSION {
            return refuse(format!(
                "it was built against driver interface {version}, this is {INTERFACE_VERSION}; build it again"
            ));
        }
        if self.backends.iter().any(|known| known.name() == name) {
            return refuse("a backend of that name is registered already".into());
        }
        self.backends.push(Arc::new(backend));
        Ok(())
    }

    /// The backends, in the order of registration.
    pub fn backends(&self) -> impl Iterator<Item = &dyn Backend> {
        self.backends.iter().map(|backend| &**backend)
    }

    /// Takes names for ports from a configuration file.
    pub fn use_file(&mut self, file: ConfigFile) {
        self.file = Some(file);
    }

    /// The configuration file, if one is used.
    pub fn file(&self) -> Option<&ConfigFile> {
        self.file.as_ref()
    }

    /// The JSON schema of a configuration file for these backends.
    pub fn schema(&self) -> serde_json::Value {
        ConfigFile::schema(self.backends())
    }

    /// All devices that the backends know of, with what stands in the way of opening them.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.backends().flat_map(|backend| backend.devices()).collect()
    }

    /// What a text names: a port of the configuration file, or else a spec (contract L1).
    ///
    /// # Errors
    /// [`Error::Config`] for what is neither.
    pub fn resolve(&self, text: &str) -> Result<Spec> {
        if let Some(file) = &self.file
            && (file.names().any(|name| name == text) || !text.contains(':'))
        {
            return file.port(text).cloned();
        }
        if !text.contains(':') {
            let reason = "neither a spec (backend:device[,key=value]...) nor, without a configuration file, a name";
            return Err(Error::Config { context: format!("`{text}`"), reason: reason.into() });
        }
        text.parse()
    }

    /// Opens a port by spec or configured name, stopped, no pool attached (contract L1 to L4).
    ///
    /// # Errors
    /// Whatever stands in the way; nothing is left open then.
    pub fn open(&self, text: &str) -> Result<Port> {
        self.open_spec(self.resolve(text)?)
    }

    /// Opens a port by spec or configured name and attaches the pool.
    ///
    /// # Errors
    /// As [`open`](Registry::open).
    pub fn open_with(&self, text: &str, pool: &Pool) -> Result<Port> {
        let mut port = self.open(text)?;
        port.attach(pool)?;
        Ok(port)
    }

    /// Opens a port by spec.
    ///
    /// # Errors
    /// As [`open`](Registry::open).
    pub fn open_spec(&self, spec: Spec) -> Result<Port> {
        let (backend, config, options) = self.parts(&spec)?;
        let lock = match backend.lock_key(&spec.device, &options)? {
            Some(key) => Some(DeviceLock::take(&key, &spec.title())?),
            None => None,
        };
        let request = OpenRequest::new(&spec.device, &options, &config);
        let driver = backend.open(&request)?;
        Port::new(spec, config, lock, driver)
    }

    /// Checks a spec without opening anything: backend, keys and values, as far as they can be told wrong without a device.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], [`Error::UnknownKey`], [`Error::InvalidValue`].
    pub fn check(&self, spec: &Spec) -> Result<()> {
        let (_, config, _) = self.parts(spec)?;
        config.check(&spec.title())
    }

    /// What a spec means: backend, common keys, the backend's own keys.
    fn parts(&self, spec: &Spec) -> Result<(&dyn Backend, PortConfig, Table)> {
        let backend = self.backends().find(|backend| backend.name() == spec.backend);
        let backend = backend.ok_or_else(|| Error::UnknownBackend {
            backend: spec.backend.clone(),
            known: self.backends().map(|backend| backend.name().to_owned()).collect(),
        })?;
        let (config, options) = spec.resolve(backend)?;
        backend.check(&OpenRequest::new(&spec.device, &options, &config))?;
        Ok((backend, config, options))
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.backends().map(|backend| backend.name())).finish()
    }
}
