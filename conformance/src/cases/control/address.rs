//! M1: the MAC address.

use anyport::{Error, MacAddr};

use crate::case::{Case, Need, Power, Verdict, refusal, tells};
use crate::ctx::{Ctx, End};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "control.address_is_a_ports_own",
        clauses: &["M1"],
        about: "Reads the addresses of both ends, stopped and started.",
        why: "Every frame that an application sends begins with two addresses.",
        needs: &[],
        run: address_is_own,
    },
    Case {
        name: "control.address_is_the_devices",
        clauses: &["M1"],
        about: "Compares the address that a port says with the one that the device has, before and after setting it.",
        why: "The host's other tools, and the switch, go by what the device has.",
        needs: &[Need::SetMac, Need::Rig(Power::Settings)],
        run: address_is_the_devices,
    },
    Case {
        name: "control.set_address_is_in_force",
        clauses: &["M1", "R6"],
        about: "Sets the address of a running port and sends frames to the new one, the old one, and the new one again.",
        why: "A router that takes over an address must get its frames from then on, and no others.",
        needs: &[Need::TwoWay, Need::SetMac],
        run: set_address_is_in_force,
    },
    Case {
        name: "control.configured_address_is_in_force",
        clauses: &["M1", "R6", "L5"],
        about: "Opens a port with an address, changes it while stopped, and goes back to the device's own.",
        why: "As above, for those who configure before they start.",
        needs: &[Need::TwoWay, Need::SetMac],
        run: configured_address,
    },
    Case {
        name: "control.address_survives_stop_and_start",
        clauses: &["M1", "L5"],
        about: "Sets the address of a running port, stops and starts it, and sends frames to it.",
        why: "A restart is no close: what was set stays set.",
        needs: &[Need::TwoWay, Need::SetMac],
        run: address_survives,
    },
    Case {
        name: "control.group_and_zero_addresses_are_refused",
        clauses: &["M1"],
        about: "Sets group addresses, broadcast and zero: by handle, by key and by configuration.",
        why: "A port with a group address for its own breaks the whole segment.",
        needs: &[],
        run: bad_addresses,
    },
];

const OTHER: MacAddr = MacAddr([2, 0, 0, 0x11, 0x22, 0x33]);

fn address_is_own(ctx: &Ctx) -> Verdict {
    let (a, b) = (ctx.open(End::A, "")?, ctx.open(End::B, "")?);
    let (of_a, of_b) = (a.control().mac()?, b.control().mac()?);
    for mac in [of_a, of_b] {
        ensure!(mac.is_unicast() && mac != MacAddr::default(), "{mac} cannot be a port's own");
    }
    ensure!(of_a != of_b, "both ends have the address {of_a}");
    a.close()?;
    same!(ctx.start(End::A, "")?.port().control().mac()?, of_a, "the address when started");
    Ok(())
}

fn address_is_the_devices(ctx: &Ctx) -> Verdict {
    let side = ctx.start(End::A, "")?;
    let shows = |mac: MacAddr| -> Verdict {
        let settings = ctx.wires().settings(End::A)?;
        ensure!(settings.contains(&mac.to_string()), "the port says {mac}, the device: {settings}");
        Ok(())
    };
    shows(side.mac())?;
    side.port().control().set_mac(OTHER)?;
    same!(side.port().control().mac()?, OTHER, "the address that the port says");
    shows(OTHER)
}

fn set_address_is_in_force(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let old = b.mac();
    let control = b.port().control();
    for (mac, other) in [(OTHER, old), (old, OTHER), (OTHER, old)] {
        control.set_mac(mac)?;
        same!(control.mac()?, mac, "the address");
        let (mine, others) = (frames::run(mac, 5, 60), frames::run(other, 5, 60));
        let all = frames::run(frames::GROUP, 1, 60);
        let arrived = a.pass_to(&mut b, &[mine.clone(), others, all.clone()].concat())?;
        ensure!(arrived == [mine, all].concat(), "with {mac}, {} frames came", arrived.len());
    }
    Ok(())
}

fn configured_address(ctx: &Ctx) -> Verdict {
    let found = ctx.open(End::B, "")?.control().mac()?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start(End::B, &format!("mac={OTHER}"))?;
    let third = MacAddr([2, 0, 0, 0x77, 0x88, 0x99]);
    for (wanted, mac) in [(Some(OTHER), OTHER), (Some(third), third), (None, found)] {
        b.port_mut().stop()?;
        let mut config = b.port().config();
        config.mac = wanted;
        b.port_mut().configure(config)?;
        b.restart()?;
        ctx.settle(&a, &b)?;
        same!(b.port().control().mac()?, mac, "the address");
        let sent: Vec<_> =
            [found, OTHER, third].into_iter().map(|to| frames::numbered(to, 1, 60)).collect();
        let arrived = a.pass_to(&mut b, &sent)?;
        same!(arrived, [frames::numbered(mac, 1, 60)], "what arrived of one frame to each address");
    }
    Ok(())
}

fn address_survives(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    b.port().control().set_mac(OTHER)?;
    for _ in 0..2 {
        b.restart()?;
        ctx.settle(&a, &b)?;
        same!(b.port().control().mac()?, OTHER, "the address");
        same!(b.port().config().mac, Some(OTHER), "the address in the configuration in force");
        let frames = frames::run(OTHER, 5, 60);
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames to the address did not come");
    }
    Ok(())
}

fn bad_addresses(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::A, "")?;
    let (found, control) = (port.control().mac()?, port.control());
    for bad in [MacAddr([0; 6]), MacAddr::BROADCAST, frames::GROUP, MacAddr([3, 0, 0, 0, 0, 1])] {
        let error = refusal(control.set_mac(bad), "such an address")?;
        ensure!(matches!(error, Error::InvalidMac { address, .. } if address == bad), "{error}");
        tells(&error, &[&bad.to_string()])?;
        let mut config = port.config();
        config.mac = Some(bad);
        refused!(port.configure(config), Error::InvalidMac { .. }, "configuring {bad}");
        same!(control.mac()?, found, "the address");
    }
    port.close()?;
    for bad in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:01:02:03"] {
        refused!(
            ctx.open(End::A, &format!("mac={bad}")),
            Error::InvalidMac { .. },
            "opening {bad}"
        );
    }
    same!(ctx.open(End::A, "")?.control().mac()?, found, "the address after all that");
    Ok(())
}
