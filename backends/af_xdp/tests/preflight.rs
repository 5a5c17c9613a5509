//! What is missing, or in the way, is said at open or at start, with the command that mends it (contract F6, L1, L3).
//!
//! ```text
//!  thread: unshare(CLONE_NEWNET)     a0 ◄── veth ──► a1     and what a test adds
//! ```

use anyport::driver::DeviceInfo;
use anyport::{Error, Pool, Registry};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::Assembler;
use anyport_netdev::bpf::{Kind, Program, XdpMode};
use anyport_netdev::privilege::Privilege;
use anyport_netdev::testing::{
    attach_by_netlink, in_namespace, ip, keep_only, may_load_programs, run,
};
use anyport_netdev::xdp_features::xdp_features;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
    registry
}

fn pool(frame_size: u32) -> Pool {
    Pool::builder().frames(512).frame_size(frame_size).build().unwrap()
}

/// Why it does not open.
fn refused(spec: &str) -> Error {
    match registry().open_with(spec, &pool(2048)) {
        Err(error) => error,
        Ok(_) => panic!("{spec} opens"),
    }
}

/// Why it opens and does not start.
/// The error of a port that does not open, or does not start.
fn opened_or_started(spec: &str) -> String {
    let pool = Pool::builder().frames(512).build().unwrap();
    match registry().open_with(spec, &pool) {
        Ok(mut port) => port.start().map(drop).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn not_started(spec: &str, frame_size: u32) -> Error {
    let mut port = registry().open_with(spec, &pool(frame_size)).unwrap();
    match port.start() {
        Err(error) => error,
        Ok(_) => panic!("{spec} starts"),
    }
}

/// Opens, starts and closes.
fn works(spec: &str) {
    let mut port = registry().open_with(spec, &pool(2048)).unwrap();
    port.start().unwrap();
}

/// Checks what an [`Error::Unsupported`] is about, and for words of its limit.
fn unsupported(error: &Error, about: [&str; 2], words: &[&str]) {
    let Error::Unsupported { field, asked, limit, .. } = error else { panic!("{error:?}") };
    assert_eq!([field.as_str(), asked.as_str()], about, "{error}");
    for word in words {
        assert!(limit.contains(word), "{word}: {limit}");
    }
}

fn index(name: &str) -> u32 {
    Interface::open(name).unwrap().index()
}

fn foreign(name: &str) -> Program {
    const XDP_PASS: i32 = 2;
    let mut code = Assembler::new();
    code.exit(XDP_PASS);
    Program::load(Kind::Xdp, name, &code.finish().unwrap()).unwrap()
}

fn device(name: &str) -> DeviceInfo {
    let spec = format!("af_xdp:{name}");
    registry().devices().into_iter().find(|device| device.spec == spec).unwrap()
}

/// The first command in a text: it stands between backquotes, and has arguments.
fn command_in(text: &str) -> String {
    let mut quoted = text.split('`').skip(1).step_by(2);
    let command = quoted.find(|quoted| quoted.contains(' '));
    command.unwrap_or_else(|| panic!("no command in: {text}")).to_owned()
}

/// Runs that command.
fn obey(command: &str) {
    let (program, arguments) = command.split_once(' ').unwrap();
    run(program, arguments);
}

#[test]
fn what_is_not_there_or_no_ethernet_is_refused_also_without_privilege() {
    in_namespace(|| {
        keep_only(&[]);
        let error = refused("af_xdp:eth7");
        assert!(matches!(error, Error::UnknownDevice { .. }), "{error:?}");
        assert!(error.to_string().contains("the interfaces here are: lo, a1, a0"), "{error}");
        let lo = refused("af_xdp:lo").to_string();
        assert!(lo.contains("loop:NAME.0") && lo.contains("type veth"), "{lo}");
    });
}

#[test]
fn without_privilege_the_error_names_it_and_the_command_that_grants_it() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let grants = |error: &Error, missing: &str| {
            let Error::Permission { device, doing, needs, remedy } = error else {
                panic!("{error:?}")
            };
            let doing = [device.as_str(), doing.as_str(), needs.as_str()];
            let expected = ["af_xdp:a0", "open AF_XDP sockets and load their program", missing];
            assert_eq!(doing, expected);
            let program = std::env::current_exe().unwrap();
            let command =
                format!("sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep {}", program.display());
            assert!(remedy.contains(&command), "{remedy}");
        };
        let all = [Privilege::NetRaw, Privilege::NetAdmin, Privilege::Bpf];
        keep_only(&all);
        works("af_xdp:a0");
        assert_eq!(device("a0").obstacle, None);
        // What was given up does not come back, so each has a thread.
        for (kept, missing) in [
            (&[][..], "CAP_NET_ADMIN and CAP_NET_RAW and CAP_BPF"),
            (&[Privilege::NetAdmin, Privilege::Bpf], "CAP_NET_RAW"),
            (&[Privilege::NetRaw, Privilege::NetAdmin], "CAP_BPF"),
            (&[Privilege::NetRaw, Privilege::Bpf], "CAP_NET_ADMIN"),
        ] {
            let within = || {
                keep_only(kept);
                grants(&refused("af_xdp:a0"), missing);
                let obstacle = device("a0").obstacle.unwrap();
                let said = format!("no privilege: it needs {missing}; run it with sudo");
                assert!(obstacle.starts_with(&said), "{obstacle}");
            };
            std::thread::scope(|scope| scope.spawn(within).join().unwrap());
        }
    });
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let attached = || run("ip", "-d link show a0");
        for (flags, place) in [(1 << 2, "in the driver"), (1 << 1, "generic mode")] {
            attach_by_netlink(&foreign("somebodys"), index("a0"), flags);
            let before = attached();
            let error = refused("af_xdp:a0").to_string();
            for word in ["\"somebodys\"", place, "attached by netlink", "left alone"] {
                assert!(error.contains(word), "{word}: {error}");
            }
            assert_eq!(attached(), before);
            let obstacle = device("a0").obstacle.unwrap();
            assert!(error.ends_with(&obstacle), "{obstacle}");
            // The command that it names is the one that helps.
            obey(&command_in(&error));
            assert_eq!(device("a0").obstacle, None);
            works("af_xdp:a0");
        }
        // Attached between open and start, by a link, which `ip` cannot take away.
        let mut port = registry().open_with("af_xdp:a0", &pool(2048)).unwrap();
        let link = foreign("late").attach_xdp(index("a0"), XdpMode::Native).unwrap();
        let before = attached();
        let error = port.start().unwrap_err().to_string();
        for word in ["\"late\"", "in the driver", "attached by a link"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(command_in(&error), format!("kill {}", std::process::id()));
        assert_eq!(attached(), before);
        // Who may not ask for the name and the link learns the rest.
        drop(port);
        let unnamed = || {
            keep_only(&[Privilege::NetRaw, Privilege::NetAdmin, Privilege::Bpf]);
            let error = refused("af_xdp:a0").to_string();
            assert!(error.contains("XDP program ") && !error.contains("\"late\""), "{error}");
            assert_eq!(command_in(&error), format!("kill {}", std::process::id()));
        };
        std::thread::scope(|scope| scope.spawn(unnamed).join().unwrap());
        link.detach();
        works("af_xdp:a0");
    });
}

#[test]
fn more_queues_than_there_are_is_refused_with_the_command_that_makes_more() {
    in_namespace(|| {
        let made = "ip link add q0 numrxqueues 1 numtxqueues 1 type veth peer name q1";
        obey(made);
        let error = refused("af_xdp:q0,queues=2");
        unsupported(&error, ["queues", "2"], &["has 1", "numrxqueues 2 numtxqueues 2 type veth"]);
        ip("link del q0");
        obey(&command_in(&error.to_string()).replace("PEER", "q1"));
        for end in ["q0", "q1"] {
            ip(&format!("link set {end} up"));
        }
        // The same where the channels are there, and not in use. (They cannot be given up a moment after a port has had them.)
        run("ethtool", "-L q0 rx 1 tx 1");
        let error = refused("af_xdp:q0,rx_queues=1,tx_queues=2");
        unsupported(&error, ["tx_queues", "2"], &["has 1", "`ethtool -L q0 rx 2 tx 2` gives it 2"]);
        obey(&command_in(&error.to_string()));
        works("af_xdp:q0,rx_queues=1,tx_queues=2");
        works("af_xdp:q0,queues=2,attach=generic,tags_in_frames=true");
        ip("link add b0 type bridge");
        let error = refused("af_xdp:b0,queues=2");
        unsupported(&error, ["queues", "2"], &["has 1; it can have no more"]);
    });
}

#[test]
fn what_the_driver_cannot_do_is_refused_by_the_key_that_insists() {
    in_namespace(|| {
        ip("link add b0 type bridge");
        if !may_load_programs() {
            return;
        }
        // Before Linux 6.3 it is known at start only.
        let early = xdp_features(index("a0")).unwrap().is_some();
        let refused = |spec: &str| match early {
            true => refused(spec),
            false => not_started(spec, 2048),
        };
        let error = refused("af_xdp:a0,mode=zero_copy");
        let words = ["its driver, veth, has no zero-copy", "mode=copy works everywhere"];
        unsupported(&error, ["mode", "zero_copy"], &words);
        let error = refused("af_xdp:b0,attach=native,tags_in_frames=true");
        let words = ["its driver, bridge, has no XDP", "attach=generic runs the program behind"];
        unsupported(&error, ["attach", "native"], &words);
        if early {
            let has = |name: &str, words: &str| device(name).description.ends_with(words);
            assert!(has("a0", ", native XDP"), "{}", device("a0").description);
            assert!(has("b0", ", generic XDP"), "{}", device("b0").description);
            ip(
                "link add q0 numrxqueues 4 numtxqueues 4 type veth peer name q1 numrxqueues 4 numtxqueues 4",
            );
            assert!(has("q0", ", 4 queues"), "{}", device("q0").description);
            // Fewer at one end: the other one's driver takes no program.
            run("ethtool", "-L q1 rx 2 tx 2");
            for attach in ["auto", "native"] {
                let refused = opened_or_started(&format!("af_xdp:q1,attach={attach}"));
                assert!(refused.contains("`ethtool -L IFACE rx N tx N`"), "{attach}: {refused}");
            }
        }
    });
}

#[test]
fn an_mtu_that_the_pools_frames_do_not_take_is_refused_with_what_would() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        for name in ["a0", "a1"] {
            ip(&format!("link set {name} mtu 9000"));
        }
        let error = not_started("af_xdp:a0", 2048);
        unsupported(&error, ["max_frame", "9014"], &["9018", "frame_size", "max_segments"]);
        works("af_xdp:a0,max_frame=1514");
    });
}

#[test]
fn frames_of_a_pool_that_the_kernel_does_not_take_are_refused() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let error = not_started("af_xdp:a0,max_frame=514", 1024);
        unsupported(&error, ["frame_size", "1024"], &["frame_size 2048 or 4096"]);
    });
}

#[test]
fn wrong_words_are_refused_before_anything_is_opened() {
    in_namespace(|| {
        keep_only(&[]);
        for (spec, words) in [
            ("af_xdp:a0,mode=fast", &["`zero_copy`", "`copy`", "`auto`"]),
            ("af_xdp:a0,attach=driver", &["`native`", "`generic`", "`auto`"]),
        ] {
            let error = refused(spec);
            assert!(matches!(error, Error::InvalidValue { .. }), "{error:?}");
            for word in words {
                assert!(error.to_string().contains(word), "{word}: {error}");
            }
        }
    });
}

#[test]
fn the_listing_names_the_holder_of_a_port_and_not_its_program() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut port = registry().open_with("af_xdp:a0", &pool(2048)).unwrap();
        port.start().unwrap();
        // The port's own program is none in the way: its holder is.
        let held = format!("it is in use by process {}", std::process::id());
        assert_eq!(device("a0").obstacle, Some(held));
        drop(port);
        ip("link set a1 down");
        assert_eq!(device("a1").obstacle.as_deref(), Some("it is down: `ip link set a1 up`"));
        // That is no reason to refuse it: it may come up.
        works("af_xdp:a1");
    });
}

#[test]
fn what_a_port_would_be_refused_for_is_listed() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        assert_eq!(device("a0").obstacle, None);
        ip("link add b0 type bridge");
        ip("link set b0 up");
        let listed = device("b0").obstacle.unwrap();
        let Error::Backend { reason, .. } = refused("af_xdp:b0") else { panic!("b0 opens") };
        assert_eq!(listed, reason);
        ip("link set a0 mtu 9000");
        let listed = device("a0").obstacle.unwrap();
        let error = not_started("af_xdp:a0", 4096);
        unsupported(&error, ["max_frame", "9014"], &["configure max_segments"]);
        // Either of the two that are named mends it.
        let named = |key: &str| {
            let behind = listed.split(key).nth(1).unwrap_or_else(|| panic!("{key}: {listed}"));
            let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
            format!("af_xdp:a0,{key}{}", &behind[..digits])
        };
        for key in ["max_segments=", "max_frame="] {
            let mut port = registry().open_with(&named(key), &pool(4096)).unwrap();
            port.start().unwrap();
        }
    });
}
