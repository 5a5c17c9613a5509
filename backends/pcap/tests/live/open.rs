//! Opening: what cannot be a port and why, privileges, the listing of devices (contract L1 to L3, F6).

use anyport::driver::DeviceInfo;
use anyport::{Error, MacAddr};
use anyport_netdev::privilege::Privilege;
use anyport_netdev::testing::{in_namespace, ip, run};

use crate::common::{frame, open, registry, warnings};

#[test]
fn what_is_not_there_or_no_ethernet_is_refused_with_what_there_is() {
    in_namespace(|| {
        let error = registry().open("pcap:eth7").unwrap_err();
        assert!(matches!(error, Error::UnknownDevice { .. }));
        assert!(error.to_string().contains("the interfaces here are: lo, a1, a0"), "{error}");
        let long = registry().open("pcap:a-name-that-no-interface-can-have").unwrap_err();
        assert!(matches!(long, Error::UnknownDevice { .. }), "{long}");
        let lo = registry().open("pcap:lo").unwrap_err().to_string();
        assert!(lo.contains("loop:NAME.0") && lo.contains("type veth"), "{lo}");
        ip("tuntap add dev t0 mode tun");
        let tun = registry().open("pcap:t0").unwrap_err().to_string();
        assert!(
            tun.contains("no Ethernet interface but") && tun.contains("Ethernet header"),
            "{tun}"
        );
    });
}

#[test]
fn limits_are_the_devices_and_refused_before_anything_is_applied() {
    in_namespace(|| {
        ip("link add b0 type bridge");
        ip("link set b0 up");
        let capability = open("pcap:b0").port.capability().clone();
        assert_eq!((capability.min_max_frame, capability.default_max_frame), (82, 1514));
        assert_eq!(open("pcap:a0").port.capability().max_frame, 65531);
        let error = registry().open("pcap:a0,max_frame=65532,mac=02:00:00:00:00:77").unwrap_err();
        assert!(
            matches!(error, Error::Unsupported { .. }) && error.to_string().contains("82 to 65531"),
            "{error}"
        );
        assert!(!run("ip", "link show a0").contains("00:77"));
        assert!(capability.software_link && capability.exact_drops);
    });
}

/// Takes effective capabilities from the calling thread, but for those that are named.
fn keep_only(kept: &[Privilege]) {
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [[0u32; 3]; 2];
    for privilege in kept {
        let bit = *privilege as usize;
        data[bit / 32][0] |= 1 << (bit % 32);
        data[bit / 32][1] |= 1 << (bit % 32);
    }
    // SAFETY: both are as version 3 of the call demands; it changes this thread alone.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0);
}

#[test]
fn without_privilege_the_error_names_it_and_the_command_that_grants_it() {
    in_namespace(|| {
        keep_only(&[]);
        let error = registry().open("pcap:a0").unwrap_err();
        let Error::Permission { device, doing, needs, remedy } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((device.as_str(), doing.as_str()), ("pcap:a0", "open a packet socket"));
        assert_eq!(needs, "CAP_NET_RAW");
        let program = std::env::current_exe().unwrap();
        let command =
            format!("sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep {}", program.display());
        assert!(remedy.contains(&command), "{remedy}");
    });
}

#[test]
fn with_some_privileges_the_port_does_what_they_allow_and_says_what_not() {
    in_namespace(|| {
        let mut asker = open("pcap:a1");
        run("ethtool", "-K a0 gro on");
        keep_only(&[Privilege::NetRaw]);
        let (mut port, said) = warnings(|| open("pcap:a0"));
        assert!(!port.port.capability().exclusive);
        assert_eq!(said.len(), 1, "{said:?}");
        for word in
            ["pcap:a0", "host's stack", "CAP_NET_ADMIN and CAP_BPF", "setcap", "shared=true"]
        {
            assert!(said[0].contains(word), "{word}: {said:?}");
        }
        let to = port.mac();
        asker.send([frame(to, 1, 60)]);
        assert_eq!(port.receive(1), [frame(to, 1, 60)]);
        port.port.control().set_promiscuous(true).unwrap();
        asker.send([frame(MacAddr([2; 6]), 2, 60)]);
        assert_eq!(port.receive(1), [frame(MacAddr([2; 6]), 2, 60)]);
        let error = port.port.control().set_mac(MacAddr([2, 0, 0, 0, 0, 7])).unwrap_err();
        assert!(
            matches!(&error, Error::Permission { needs, .. } if needs == "CAP_NET_ADMIN"),
            "{error:?}"
        );
        drop(port);
        let error = registry().open("pcap:a0,to_kernel=arp").unwrap_err();
        assert!(
            matches!(&error, Error::Permission { needs, .. } if needs == "CAP_NET_ADMIN and CAP_BPF"),
            "{error:?}"
        );
        let error = registry().open("pcap:a0,max_frame=4014").unwrap_err();
        assert!(
            matches!(&error, Error::Permission { needs, .. } if needs == "CAP_NET_ADMIN"),
            "{error:?}"
        );
        let (_, said) = warnings(|| open("pcap:a0,shared=true"));
        assert_eq!(said, [] as [String; 0]);
    });
}

fn device(name: &str) -> DeviceInfo {
    let spec = format!("pcap:{name}");
    registry().devices().into_iter().find(|device| device.spec == spec).unwrap()
}

#[test]
fn the_listing_says_what_there_is_and_what_stands_in_the_way() {
    in_namespace(|| {
        let mac = run("ip", "-br link show a0").split_whitespace().nth(2).unwrap().to_owned();
        let a0 = device("a0");
        assert_eq!(
            a0.description,
            format!(
                "kernel interface through libpcap, veth, {mac}, up, 10000 Mbit/s full duplex, MTU 1500"
            )
        );
        assert_eq!(a0.obstacle, None);
        assert!(device("lo").obstacle.unwrap().contains("no Ethernet interface"));
        let held = open("pcap:a0");
        assert_eq!(
            device("a0").obstacle,
            Some(format!("it is in use by process {}", std::process::id()))
        );
        // The holder was not disturbed, and neither is a second opener's error.
        assert!(
            matches!(registry().open("pcap:a0"), Err(Error::Busy { pid, .. }) if pid == std::process::id())
        );
        drop(held);
        ip("addr add 192.0.2.1/24 dev a0");
        ip("route add default via 192.0.2.2");
        assert!(
            device("a0")
                .obstacle
                .unwrap()
                .contains("the host's default route: open it with takeover=true")
        );
        ip("link set a1 down");
        assert_eq!(device("a1").obstacle.as_deref(), Some("it is down: `ip link set a1 up`"));
        assert!(device("a1").description.contains(", down, "), "{:?}", device("a1"));
        assert!(device("a0").description.contains(", no carrier, "), "{:?}", device("a0"));
        ip("link set a1 up");
        keep_only(&[]);
        let obstacle = device("a1").obstacle.unwrap();
        assert!(obstacle.contains("CAP_NET_RAW") && obstacle.contains("setcap"), "{obstacle}");
    });
}
