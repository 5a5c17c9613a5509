//! L1: how a port is named, and what is said when that goes wrong.

use anyport::config::{ConfigFile, schema_of};
use anyport::{Error, PortConfig, Spec};

use crate::case::{Case, Verdict, refusal, tells};
use crate::ctx::{Ctx, End};
use crate::{ensure, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.unknown_backend_is_named",
        clauses: &["L1"],
        about: "Opens a port of a backend that does not exist.",
        why: "Whoever mistypes a backend has to learn which ones this program was built with.",
        needs: &[],
        run: unknown_backend,
    },
    Case {
        name: "life.unknown_device_is_named",
        clauses: &["L1"],
        about: "Opens a device that does not exist.",
        why: "Whoever mistypes a device has to learn what there is, or what a device name looks like.",
        needs: &[],
        run: unknown_device,
    },
    Case {
        name: "life.unknown_key_is_named",
        clauses: &["L1"],
        about: "Opens a port with a key that neither the port nor the backend knows.",
        why: "A misspelt key that is ignored is a setting that silently does not hold.",
        needs: &[],
        run: unknown_key,
    },
    Case {
        name: "life.bad_value_is_named",
        clauses: &["L1"],
        about: "Gives keys, the backend's own ones included, values that they do not take.",
        why: "A value that is misread or rounded is a setting that silently does not hold.",
        needs: &[],
        run: bad_value,
    },
    Case {
        name: "life.unreadable_spec_shows_the_form",
        clauses: &["L1"],
        about: "Opens texts that are no specs: without a colon, with a key twice, with an empty key.",
        why: "A program's user types specs by hand.",
        needs: &[],
        run: unreadable_spec,
    },
    Case {
        name: "life.configured_name_is_a_spec",
        clauses: &["L1"],
        about: "Opens a device by its name from a configuration file, and by a name that is not in it.",
        why: "A program is moved to other devices by editing a file, not its code.",
        needs: &[],
        run: configured_name,
    },
];

fn unknown_backend(ctx: &Ctx) -> Verdict {
    let error = refusal(ctx.registry().open("no-such-backend:x"), "a backend that does not exist")?;
    let Error::UnknownBackend { backend, known } = &error else { return Err(error.into()) };
    let registered: Vec<String> =
        ctx.registry().backends().map(|backend| backend.name().to_owned()).collect();
    same!(backend, "no-such-backend", "the backend that the error names");
    same!(*known, registered, "the backends that the error lists");
    let words: Vec<&str> = known.iter().map(String::as_str).chain(["no-such-backend"]).collect();
    tells(&error, &words)
}

fn unknown_device(ctx: &Ctx) -> Verdict {
    let spec = format!("{}:no-such-device", ctx.parsed(End::A).backend);
    let error = refusal(ctx.registry().open(&spec), "a device that does not exist")?;
    let Error::UnknownDevice { device, hint, .. } = &error else { return Err(error.into()) };
    same!(device, "no-such-device", "the device that the error names");
    ensure!(!hint.is_empty(), "the error gives no hint");
    tells(&error, &["no-such-device", hint])
}

fn unknown_key(ctx: &Ctx) -> Verdict {
    let error = refusal(ctx.open(End::A, "rx_rings=64"), "a key that does not exist")?;
    let Error::UnknownKey { key, accepted, .. } = &error else { return Err(error.into()) };
    same!(key, "rx_rings", "the key that the error names");
    let schema = schema_of::<PortConfig>();
    let keys = schema.get("properties").and_then(|keys| keys.as_object());
    for key in keys.into_iter().flatten().map(|(key, _)| key) {
        ensure!(accepted.contains(key), "the error does not list `{key}`");
    }
    tells(&error, &["rx_rings", "rx_ring,", "promiscuous"])?;
    // Nothing was left open.
    Ok(ctx.open(End::A, "")?.close()?)
}

fn bad_value(ctx: &Ctx) -> Verdict {
    let mut bad: Vec<(String, &str, &str)> = [
        ("rx_queues", "many", ""),
        ("rx_queues", "70000", ""),
        ("tx_ring", "-1", ""),
        ("max_frame", "1514.5", ""),
        ("promiscuous", "perhaps", ""),
        ("rx_checksum", "sometimes", "required"),
        ("finish_checksums", "never", "off"),
        ("mac", "02:00:00:00:00", "02:00:00:00:00:01"),
        ("rss_key", "0123", "80 hexadecimal digits"),
    ]
    .map(|(key, value, expected)| (key.to_owned(), value, expected))
    .into();
    let spec = ctx.parsed(End::A);
    let backend = ctx.registry().backends().find(|backend| backend.name() == spec.backend);
    let options = backend.map(|backend| backend.options());
    let own = options.as_ref().and_then(|o| o.get("properties")).and_then(|o| o.as_object());
    // A key that the rig's own spec has would stand twice.
    for (key, schema) in
        own.into_iter().flatten().filter(|(key, _)| !spec.options.contains_key(*key))
    {
        // Any text is a fine name or path, but not a number or a switch.
        if matches!(schema["type"].as_str(), Some("integer" | "number" | "boolean")) {
            bad.push((key.clone(), "perhaps", ""));
        }
    }
    for (key, value, expected) in &bad {
        let what = format!("{key}={value}");
        let error = refusal(ctx.open(End::A, &what), &what)?;
        let Error::InvalidValue { key: named, value: shown, .. } = &error else {
            return Err(error.into());
        };
        same!((&**named, &**shown), (&**key, *value), "what the error names");
        tells(&error, &[key, value, expected])?;
    }
    Ok(ctx.open(End::A, "")?.close()?)
}

fn unreadable_spec(ctx: &Ctx) -> Verdict {
    let spec = ctx.spec(End::A);
    let Spec { backend, device, .. } = ctx.parsed(End::A);
    let twice = format!("{spec},rx_queues=1,rx_queues=1");
    // Behind a key it would be more of that key's value.
    let (no_key, no_value) = (format!("{spec},=1"), format!("{backend}:{device},promiscuous"));
    let no_backend = format!(":{device}");
    for text in ["", "x", &no_backend, &twice, &no_key, &no_value] {
        let error = refusal(ctx.registry().open(text), text)?;
        ensure!(matches!(error, Error::Config { .. }), "`{text}`: {error}");
        tells(&error, &[text, "backend:device[,key=value]..."])?;
    }
    Ok(ctx.open(End::A, "")?.close()?)
}

fn configured_name(ctx: &Ctx) -> Verdict {
    let spec = ctx.parsed(End::A);
    let file = format!(
        "[ports.left]\nbackend = '{0}'\ndevice = '{1}'\nmax_segments = 1\n\
         [ports.wrong]\nbackend = '{0}'\ndevice = '{1}'\nmax_segment = 1\n",
        spec.backend, spec.device
    );
    let mut registry = ctx.registry().clone();
    registry.use_file(ConfigFile::parse("ports.toml", &file)?);
    let port = registry.open("left")?;
    same!((port.title(), port.config().max_segments), (&*spec.title(), 1), "the port by its name");
    port.close()?;
    let error = refusal(registry.open("right"), "a name that is not in the file")?;
    tells(&error, &["ports.toml", "right", "left"])?;
    refused!(registry.open("wrong"), Error::UnknownKey { key, .. } if key == "max_segment",
        "an unknown key in the file");
    // A spec is a spec with a file, too.
    Ok(registry.open(&ctx.spec(End::A))?.close()?)
}
