//! The capture of the demonstration, read by tshark as a second opinion.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::claims::Claims;
use super::forwarder::PortCounters;
use crate::proc;
use crate::term;

const LIMIT: Duration = Duration::from_secs(60);
/// Lines of the packet list that are shown.
const SHOWN: usize = 8;

/// Shows the capture of one port as tshark reads it, and holds it against the port's counters.
pub fn read(file: &Path, port: &PortCounters, claims: &mut Claims) -> Result<()> {
    term::header("the capture, as tshark reads it");
    // Numbers instead of names: no lookups, one column per field.
    let list = tshark(file, &["-n"])?;
    for line in list.lines().take(SHOWN) {
        println!("  {}", line.trim_end());
    }
    let frames = list.lines().count() as u64;
    println!("  ... {} frames in all, by protocol:", term::count(frames));
    let protocols = "_ws.col.Protocol";
    let columns = tshark(file, &["-n", "-T", "fields", "-e", protocols])?;
    for (protocol, number) in tally_lines(&columns) {
        println!("  {protocol:<8} {:>8}", term::count(number));
    }
    claims.equal(
        "the capture holds both directions of m0",
        "frames",
        frames,
        "received and sent",
        port.rx_packets + port.tx_packets,
    );
    // The kernels of both ends left their checksums unfinished; what the forwarder took in is finished.
    let checks = ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"];
    let mut args = vec!["-n".to_owned()];
    for check in checks {
        args.extend(["-o".to_owned(), format!("{check}:TRUE")]);
    }
    args.extend(["-T".to_owned(), "fields".to_owned()]);
    args.extend(["-e".to_owned(), "ip.checksum.status".to_owned()]);
    args.extend(["-e".to_owned(), "tcp.checksum.status".to_owned()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let verdicts = Verdicts::parse(&tshark(file, &args)?);
    claims.check(
        &format!("tshark checked the checksum of {} TCP segments", term::count(verdicts.tcp_good)),
        verdicts.tcp_good > 0,
    );
    claims.equal("wrong checksums in the capture", "found", verdicts.bad, "expected", 0);
    Ok(())
}

fn tshark(file: &Path, args: &[&str]) -> Result<String> {
    // An empty configuration: the user's columns, filters and decoders must not change what is counted.
    let configuration = file.with_file_name("tshark");
    std::fs::create_dir_all(&configuration)
        .with_context(|| format!("cannot make {}", configuration.display()))?;
    let mut command = proc::command("tshark");
    command.env("WIRESHARK_CONFIG_DIR", &configuration).env("HOME", &configuration);
    command.arg("-r").arg(file).args(args);
    proc::output(&mut command, LIMIT).context("tshark cannot read the capture")
}

/// How many checksums tshark found good and bad.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdicts {
    tcp_good: u64,
    bad: u64,
}

impl Verdicts {
    /// Reads lines of two fields, IPv4 and TCP: `1` is good, `0` bad (tshark may
    /// spell them out), anything else was not checked.
    fn parse(text: &str) -> Self {
        let mut verdicts = Self::default();
        for line in text.lines() {
            let (ip, tcp) = line.split_once('\t').unwrap_or((line, ""));
            let good = |status: &str| status == "1" || status == "Good";
            let bad = |status: &str| status == "0" || status == "Bad";
            verdicts.tcp_good += u64::from(good(tcp));
            verdicts.bad += u64::from(bad(ip)) + u64::from(bad(tcp));
        }
        verdicts
    }
}

/// How often each line occurs, most frequent first.
fn tally_lines(text: &str) -> Vec<(&str, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_counted() {
        let text = "1\t1\n1\t0\n\t\n1\t\n0\t1\nGood\tUnverified\n";
        assert_eq!(Verdicts::parse(text), Verdicts { tcp_good: 2, bad: 2 });
    }

    #[test]
    fn lines_are_counted_most_frequent_first() {
        assert_eq!(tally_lines("ARP\nTCP\nTCP\n"), [("TCP", 2), ("ARP", 1)]);
    }
}
