//! L3: capabilities come first, and a configuration beyond them is refused whole.

use anyport::{Error, MacAddr, Pool, Port, PortConfig};

use crate::case::{Case, Verdict, refusal, tells};
use crate::ctx::{Ctx, End};
use crate::{Failure, ensure, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.capabilities_come_first",
        clauses: &["L3"],
        about: "Reads the capabilities of a port that was just opened, and again while it is started.",
        why: "A program sizes its pools and queues by them before it starts anything.",
        needs: &[],
        run: capabilities_first,
    },
    Case {
        name: "life.queues_beyond_the_limit",
        clauses: &["L3"],
        about: "Asks for no queue, and for one more than there are, each way.",
        why: "A port with fewer queues than threads leaves a thread without work, silently.",
        needs: &[],
        run: queues_beyond,
    },
    Case {
        name: "life.rings_beyond_the_limit",
        clauses: &["L3"],
        about: "Asks for rings one smaller than the least and one larger than the most.",
        why: "A ring of another size than asked for loses bursts that it was sized for.",
        needs: &[],
        run: rings_beyond,
    },
    Case {
        name: "life.max_frame_beyond_the_limit",
        clauses: &["L3", "M2"],
        about: "Asks for a maximum frame below the least, above the most, or other than the one that cannot be changed.",
        why: "A maximum frame that is not in force loses exactly the large frames.",
        needs: &[],
        run: max_frame_beyond,
    },
    Case {
        name: "life.segments_and_pools_beyond_the_limit",
        clauses: &["L3", "T7"],
        about: "Asks for no segment and for one too many, and attaches one pool too many.",
        why: "The limit is the device's; who passes it learns it at once and not by lost frames.",
        needs: &[],
        run: segments_and_pools_beyond,
    },
    Case {
        name: "life.required_offloads_are_refused",
        clauses: &["L3", "O2"],
        about: "Requires each offload: the device has it or the configuration is refused.",
        why: "`required` is for those who must not pay for software.",
        needs: &[],
        run: required_offloads,
    },
    Case {
        name: "life.settings_that_cannot_be_set",
        clauses: &["L3", "M1", "R6", "R13"],
        about: "Sets address and promiscuous mode by key, and shares with the host; without the capability that is refused.",
        why: "A setting that is taken and not kept is worse than none.",
        needs: &[],
        run: settings_that_cannot,
    },
    Case {
        name: "life.limits_themselves_are_accepted",
        clauses: &["L3"],
        about: "Starts a port with every limit at its least and at its most.",
        why: "A declared capability that does not work is found at the customer's.",
        needs: &[],
        run: limits_accepted,
    },
    Case {
        name: "life.refused_configuration_changes_nothing",
        clauses: &["L3"],
        about: "Configures a port with good settings and one impossible one, and compares everything before and after.",
        why: "Half a configuration is a state that nobody asked for.",
        needs: &[],
        run: refused_changes_nothing,
    },
    Case {
        name: "life.refused_open_changes_nothing",
        clauses: &["L3", "L1", "L8"],
        about: "Opens a device with good settings and one impossible one, and looks at the device.",
        why: "A typing error must not change a machine's interfaces.",
        needs: &[],
        run: refused_open_changes_nothing,
    },
];

const OTHER: MacAddr = MacAddr([2, 0, 0, 0x11, 0x22, 0x33]);

/// Checks that a port with this key is refused, with field, value and limits named, and that the device is free then.
fn beyond(ctx: &Ctx, key: &str, value: impl ToString, limits: &[usize]) -> Verdict {
    let value = value.to_string();
    let error = refusal(ctx.open(End::A, &format!("{key}={value}")), &format!("{key}={value}"))?;
    check_unsupported(&error, key, &value, limits)?;
    Ok(ctx.open(End::A, "")?.close()?)
}

fn check_unsupported(error: &Error, key: &str, value: &str, limits: &[usize]) -> Verdict {
    let Error::Unsupported { field, asked, limit, .. } = error else {
        return Err(Failure(format!("{key}={value}: {error}")));
    };
    same!((&**field, &**asked), (key, value), "field and value that the error names");
    for number in limits {
        ensure!(limit.contains(&number.to_string()), "{key}: the limit is {number}, not {limit}");
    }
    tells(error, &[key, value, limit])
}

fn capabilities_first(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::A, "")?;
    let capability = port.capability().clone();
    let queues = capability.max_rx_queues.min(capability.max_tx_queues);
    ensure!(queues >= 1 && capability.max_pools >= 1 && capability.max_segments >= 1, "none of it");
    let frames = capability.min_max_frame..=capability.max_frame;
    ensure!(frames.contains(&capability.default_max_frame), "the default is beyond the limits");
    for ring in [capability.rx_ring, capability.tx_ring] {
        let range = ring.min..=ring.max;
        ensure!(range.contains(&ring.default), "the default ring is beyond the limits");
    }
    same!(capability, *ctx.capability(End::A), "capabilities of the same device opened before");
    port.attach(&ctx.pool(64)?)?;
    let queues = port.start()?;
    same!(*port.capability(), capability, "capabilities of the started port");
    drop(queues);
    port.stop()?;
    same!(*port.capability(), capability, "capabilities of the stopped port");
    Ok(())
}

fn queues_beyond(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let (rx, tx) = (usize::from(capability.max_rx_queues), usize::from(capability.max_tx_queues));
    for (key, most) in [("rx_queues", rx), ("tx_queues", tx), ("queues", rx.min(tx))] {
        beyond(ctx, key, most + 1, &[most])?;
        beyond(ctx, key, 0, &[1])?;
    }
    Ok(())
}

fn rings_beyond(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    for (key, ring) in [("rx_ring", capability.rx_ring), ("tx_ring", capability.tx_ring)] {
        let limits = [ring.min as usize, ring.max as usize];
        beyond(ctx, key, ring.max + 1, &limits)?;
        if let Some(less) = ring.min.checked_sub(1) {
            beyond(ctx, key, less, &limits)?;
        }
    }
    Ok(())
}

fn max_frame_beyond(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let (least, most) = (capability.min_max_frame, capability.max_frame);
    beyond(ctx, "max_frame", most + 1, &[least, most])?;
    beyond(ctx, "max_frame", least - 1, &[least, most])?;
    beyond(ctx, "max_frame", 0, &[least, most])?;
    let now = capability.default_max_frame;
    if !capability.set_max_frame && now < most {
        beyond(ctx, "max_frame", now + 1, &[now])?;
    }
    Ok(())
}

fn segments_and_pools_beyond(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let most = usize::from(capability.max_segments);
    beyond(ctx, "max_segments", most + 1, &[most])?;
    beyond(ctx, "max_segments", 0, &[1])?;
    let mut port = ctx.open(End::A, "")?;
    let pools: Vec<Pool> =
        (0..=capability.max_pools).map(|_| ctx.pool(64)).collect::<Verdict<_>>()?;
    let (last, fitting) = pools.split_last().ok_or("no pool")?;
    for pool in fitting {
        port.attach(pool)?;
        // Twice is once.
        port.attach(pool)?;
    }
    let error = refusal(port.attach(last), "one pool too many")?;
    let (asked, most) = (pools.len().to_string(), capability.max_pools);
    check_unsupported(&error, "pools", &asked, &[most])?;
    same!(port.pools().len(), most, "attached pools");
    port.start()?;
    Ok(())
}

fn required_offloads(ctx: &Ctx) -> Verdict {
    let can = &ctx.capability(End::A).offloads;
    for (key, device) in [
        ("rx_checksum", can.rx_checksum),
        ("tx_checksum", can.tx_checksum),
        ("vlan_strip", can.vlan_strip),
        ("vlan_insert", can.vlan_insert),
        ("rx_timestamp", can.rx_timestamp),
        ("tx_timestamp", can.tx_timestamp),
        ("rss_hash", can.rss_hash),
    ] {
        match device {
            true => ctx.start(End::A, &format!("{key}=required"))?.close()?,
            false => beyond(ctx, key, "required", &[])?,
        }
        // Software stands in for all but transmit timestamps.
        match key == "tx_timestamp" && !device {
            true => beyond(ctx, key, "auto", &[])?,
            false => ctx.open(End::A, &format!("{key}=auto"))?.close()?,
        }
    }
    Ok(())
}

fn settings_that_cannot(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    match capability.set_mac {
        true => {
            let port = ctx.open(End::A, &format!("mac={OTHER}"))?;
            same!(port.control().mac()?, OTHER, "the address");
        }
        false => {
            beyond(ctx, "mac", OTHER, &[])?;
            refused!(ctx.open(End::A, "")?.control().set_mac(OTHER),
                Error::Unsupported { field, .. } if field == "mac", "setting the address");
        }
    }
    match capability.promiscuous {
        true => {
            let port = ctx.open(End::A, "promiscuous=true")?;
            same!(port.control().promiscuous(), true, "promiscuous mode");
        }
        false => {
            beyond(ctx, "promiscuous", true, &[])?;
            refused!(ctx.open(End::A, "")?.control().set_promiscuous(true),
                Error::Unsupported { field, .. } if field == "promiscuous", "the switch");
        }
    }
    match capability.shared {
        true => same!(ctx.open(End::A, "shared=true")?.config().shared, true, "shared"),
        false => beyond(ctx, "shared", true, &[])?,
    }
    Ok(())
}

fn limits_accepted(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let (rx, tx) = (capability.rx_ring, capability.tx_ring);
    let mut keys = vec![
        format!("rx_queues={}", capability.max_rx_queues),
        format!("tx_queues={}", capability.max_tx_queues),
        format!("rx_ring={},tx_ring={}", rx.min, tx.min),
        format!("tx_ring={}", tx.max),
        format!("max_segments={}", capability.max_segments),
    ];
    if capability.set_max_frame {
        keys.push(format!("max_frame={}", capability.min_max_frame));
        let most = capability.max_frame;
        // What a receive ring takes in memory grows with its frames.
        keys.push(format!(
            "max_frame={most},max_segments={},rx_ring={}",
            capability.max_segments, rx.min
        ));
    }
    let pool = Pool::builder().frames(256).frame_size(32768).build()?;
    for keys in keys {
        let told = |error: Failure| Failure(format!("{keys}: {error}"));
        ctx.start_with(End::A, &keys, &pool).and_then(|side| side.close()).map_err(told)?;
    }
    Ok(())
}

/// What a port says about itself.
fn state(port: &Port) -> Verdict<(PortConfig, MacAddr, usize, bool)> {
    let control = port.control();
    Ok((port.config(), control.mac()?, control.max_frame(), control.promiscuous()))
}

/// A change of all that the port can change, and a ring that it cannot have.
fn impossible(ctx: &Ctx, mut config: PortConfig) -> PortConfig {
    let capability = ctx.capability(End::A);
    config.promiscuous = capability.promiscuous;
    config.mac = capability.set_mac.then_some(OTHER);
    config.max_frame = capability.set_max_frame.then_some(capability.min_max_frame);
    config.rx_ring = Some(capability.rx_ring.max + 1);
    config
}

fn refused_changes_nothing(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::A, "")?;
    let (before, settings) = (state(&port)?, ctx.wires().settings(End::A).ok());
    let mut config = impossible(ctx, port.config());
    let error = refusal(port.configure(config.clone()), "an impossible ring")?;
    ensure!(matches!(error, Error::Unsupported { .. }), "an impossible ring: {error}");
    same!(state(&port)?, before, "what the port says");
    same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings");
    // The same without the impossible part is taken, so it was what stood in the way.
    config.rx_ring = None;
    port.configure(config.clone())?;
    same!(port.config(), config, "the configuration in force");
    config = before.0.clone();
    port.configure(config)?;
    same!(state(&port)?, before, "what the port says after going back");
    same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings after going back");
    Ok(())
}

fn refused_open_changes_nothing(ctx: &Ctx) -> Verdict {
    let port = ctx.open(End::A, "")?;
    let (before, settings) = (state(&port)?, ctx.wires().settings(End::A).ok());
    let config = impossible(ctx, port.config());
    port.close()?;
    let mut spec = ctx.parsed(End::A).with("promiscuous", config.promiscuous);
    if let Some(mac) = config.mac {
        spec = spec.with("mac", mac.to_string());
    }
    for (key, value) in
        [("max_frame", config.max_frame), ("rx_ring", config.rx_ring.map(|ring| ring as usize))]
    {
        if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
            spec = spec.with(key, value);
        }
    }
    let error = refusal(ctx.registry().open_spec(spec), "an impossible ring")?;
    ensure!(matches!(error, Error::Unsupported { .. }), "an impossible ring: {error}");
    same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings");
    same!(state(&ctx.open(End::A, "")?)?, before, "what the device says when it is opened again");
    Ok(())
}
