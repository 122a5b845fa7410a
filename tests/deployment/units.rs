//! The systemd units.

use std::path::PathBuf;

use crate::chart::PRE_STOP_EXTRA_SECONDS;
use crate::tools::{at_root, command, installed, output};

const UNITS: [&str; 2] = ["evenkeel-broker.service", "evenkeel-gateway.service"];
/// In tenths, as systemd-analyze counts them with --threshold.
const EXPOSURE_TENTHS_MAX: u32 = 15;
/// How long a broker takes at most until it ends itself.
const STOP_SECONDS_MIN: u64 = 20;

fn analyzer() -> bool {
    installed("systemd-analyze", &["--version"], "install Debian's package `systemd`")
}

fn unit(name: &str) -> PathBuf {
    at_root("deploy").join(name)
}

/// The value of a key that is there once.
fn value(name: &str, key: &str) -> String {
    let text = std::fs::read_to_string(unit(name)).unwrap();
    let prefix = format!("{key}=");
    let values: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect();
    assert_eq!(values.len(), 1, "{name}: {key} = {values:?}");
    values[0].to_owned()
}

#[test]
fn units_leave_little_to_gain_from_breaking_in() {
    if !analyzer() {
        return;
    }
    for name in UNITS {
        let mut analysis = command("systemd-analyze", ["security", "--no-pager", "--offline=true"]);
        analysis.arg(format!("--threshold={EXPOSURE_TENTHS_MAX}")).arg(unit(name));
        let output = output(&mut analysis);
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && table.contains("Overall exposure level"), "{name}: {table}");
    }
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    if !analyzer() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in UNITS {
        // What it runs must be there.
        let text = std::fs::read_to_string(unit(name)).unwrap();
        let copy = folder.path().join(name);
        std::fs::write(&copy, text.replace("/usr/bin/evenkeel", env!("CARGO_BIN_EXE_evenkeel"))).unwrap();
        let output = output(command("systemd-analyze", ["verify", "--man=no"]).arg(&copy));
        let told = String::from_utf8_lossy(&output.stderr);
        let about_it: Vec<&str> = told.lines().filter(|line| line.contains(name)).collect();
        assert!(output.status.success() && about_it.is_empty(), "{told}");
    }
}

#[test]
fn the_units_supervise_what_the_processes_tell() {
    for name in UNITS {
        assert_eq!(value(name, "Type"), "notify");
        assert!(value(name, "WatchdogSec").parse::<u64>().unwrap() > 2 * stalled_seconds());
        assert!(value(name, "TimeoutStopSec").parse::<u64>().unwrap() > STOP_SECONDS_MIN);
        assert_eq!(value(name, "RestartPreventExitStatus"), "2");
    }
    // The log may be long.
    assert_eq!(value(UNITS[0], "TimeoutStartSec"), "infinity");
}

/// The drop-in that `deploy/README.md` shows gives the broker the time that it asks for.
#[test]
fn the_drop_in_that_asks_for_the_restart_risk_leaves_time_to_stop() {
    let readme = std::fs::read_to_string(at_root("deploy/README.md")).unwrap();
    let drop_in = readme.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
    let line = |key: &str| drop_in.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let words: Vec<&str> = line("ExecStop=-/usr/bin/evenkeel ").split_whitespace().collect();
    let ["pre-stop", "--for-at-most", given] = words[..] else { panic!("{words:?}") };
    let given = humantime::parse_duration(given).unwrap().as_secs();
    let stop = line("TimeoutStopSec=").parse::<u64>().unwrap();
    assert!(stop > given + PRE_STOP_EXTRA_SECONDS + STOP_SECONDS_MIN, "{stop} s for {given} s");
}

fn stalled_seconds() -> u64 {
    evenkeel_supervision::STALLED_AFTER.as_secs()
}
