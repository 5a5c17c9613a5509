//! The interface as it was found (contract L8), one opener (L2).

use anyport::{Error, MacAddr};
use anyport_netdev::Interface;
use anyport_netdev::privilege::Privilege;
use anyport_netdev::testing::{in_namespace, keep_only, may_load_programs, run};

use crate::common::{open, registry};

/// All that `ip` and `ethtool` show of an interface, but for its counters.
fn shown(name: &str) -> String {
    run("ip", &format!("-d -j link show {name}")) + &run("ethtool", &format!("-k {name}"))
}

#[test]
fn the_device_is_exclusive_and_found_as_it_was() {
    in_namespace(|| {
        run("ethtool", "-K a0 gro on");
        let before = shown("a0");
        let a = open("pcap:a0,max_frame=4014,mac=02:00:00:00:00:77,promiscuous=true");
        assert!(matches!(registry().open("pcap:a0"), Err(Error::Busy { .. })));
        assert_eq!(a.mac().to_string(), "02:00:00:00:00:77");
        let during = shown("a0");
        assert!(
            during.contains("\"mtu\":4000") && during.contains("02:00:00:00:00:77"),
            "{during}"
        );
        drop(a);
        assert_eq!(shown("a0"), before);
        open("pcap:a0");
    });
}

#[test]
fn a_panic_leaves_the_device_as_it_was_too() {
    in_namespace(|| {
        let before = shown("a0");
        let result = std::panic::catch_unwind(|| {
            let _a = open("pcap:a0,max_frame=4014,mac=02:00:00:00:00:77,promiscuous=true");
            std::panic::resume_unwind(Box::new("as if"));
        });
        assert!(result.is_err());
        assert_eq!(shown("a0"), before);
    });
}

#[test]
fn a_refused_configuration_leaves_it_as_it_was() {
    in_namespace(|| {
        let before = shown("a0");
        // The last of them cannot be had.
        let spec = "pcap:a0,mac=02:00:00:00:00:77,promiscuous=true,max_frame=65532";
        assert!(matches!(registry().open(spec), Err(Error::Unsupported { .. })));
        // A ring that cannot be had is seen at start.
        let pool = anyport::Pool::builder().frames(64).frame_size(16384).build().unwrap();
        let keys = "rx_ring=65536,max_frame=65531,max_segments=5";
        let mut port = registry().open_with(&format!("pcap:a0,{keys}"), &pool).unwrap();
        let error = port.start().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`rx_ring` = 65536") && error.contains("are the most"), "{error}");
        drop(port);
        assert_eq!(shown("a0"), before);
    });
}

#[test]
fn an_address_that_the_filter_cannot_have_is_not_the_interfaces_either() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        // What names something to stay with the kernel is a program, which takes CAP_BPF each time.
        let a = open("pcap:a0,to_kernel=arp");
        let before = a.mac();
        keep_only(&[Privilege::NetAdmin]);
        let error = a.port.control().set_mac(MacAddr([2, 0, 0, 0, 0, 0x77])).unwrap_err();
        assert!(matches!(error, Error::Permission { .. }), "{error:?}");
        assert_eq!((a.mac(), Interface::open("a0").unwrap().mac().unwrap()), (before, before));
    });
}
