//! What a process tells of itself, under the names that every Prometheus client library uses, read from `/proc` when
//! somebody scrapes.
//!
//! Rendered here and not through the recorder, whose counters are whole numbers: a second of CPU is too coarse.
//! Where there is no `/proc`, the build alone is told.

use std::fmt::Write as _;
use std::io;

use rustix::process::{Resource, getrlimit};

/// What the system says of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time in user and system mode since the start.
    pub cpu_seconds: f64,
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Files, sockets and pipes that are open.
    pub open_fds: u64,
    /// How many may be, when there is a limit.
    pub max_fds: Option<u64>,
    /// When the process started, as seconds since 1970.
    pub start_seconds: f64,
}

/// Units of the running system that `/proc` speaks in.
#[derive(Clone, Copy, Debug)]
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
}

/// The process's part of a scrape, in Prometheus' text format; `component` is `broker` or `gateway`.
#[must_use]
pub fn render(component: &str, version: &str) -> String {
    let mut text = String::new();
    let build = format!("{{component=\"{component}\",version=\"{version}\"}} 1");
    metric(&mut text, "evenkeel_build_info", "gauge", "The program, always 1.", &build);
    if let Ok(usage) = Usage::now() {
        render_usage(&mut text, &usage);
    }
    text
}

fn render_usage(text: &mut String, usage: &Usage) {
    let mut gauge =
        |name: &str, help: &str, value: f64| metric(text, name, "gauge", help, &format!(" {value}"));
    gauge(
        "process_resident_memory_bytes",
        "Memory of the process that is in RAM.",
        usage.resident_bytes as f64,
    );
    gauge("process_virtual_memory_bytes", "Address space of the process.", usage.virtual_bytes as f64);
    gauge("process_threads", "Threads of the process.", usage.threads as f64);
    gauge("process_open_fds", "Files, sockets and pipes that are open.", usage.open_fds as f64);
    if let Some(max) = usage.max_fds {
        gauge("process_max_fds", "Files, sockets and pipes that may be open.", max as f64);
    }
    gauge("process_start_time_seconds", "When the process started, since 1970.", usage.start_seconds);
    let cpu = format!(" {}", usage.cpu_seconds);
    metric(text, "process_cpu_seconds_total", "counter", "CPU time in user and system mode.", &cpu);
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, sample: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{sample}\n\n");
}

impl Usage {
    /// As it is now.
    ///
    /// # Errors
    /// When there is no `/proc`, or it is not Linux's.
    pub fn now() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let boot = std::fs::read_to_string("/proc/stat")?;
        let units = Units {
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            page_bytes: rustix::param::page_size() as u64,
        };
        // One of them is the listing's own.
        let open_fds = (std::fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1);
        let max_fds = getrlimit(Resource::Nofile).current;
        parse(&stat, &boot, units)
            .map(|usage| Self { open_fds, max_fds, ..usage })
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/stat is {stat}")))
    }
}

/// `proc_pid_stat(5)` numbers the fields from 1; what follows the program's name in brackets begins with the third.
fn parse(stat: &str, boot: &str, units: Units) -> Option<Usage> {
    const FIRST_AFTER_NAME: usize = 3;
    let after_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| fields.get(number - FIRST_AFTER_NAME)?.parse::<u64>().ok();
    let booted: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let seconds = |ticks: u64| ticks as f64 / units.ticks_per_second as f64;
    Some(Usage {
        cpu_seconds: seconds(field(14)? + field(15)?),
        threads: field(20)?,
        start_seconds: booted as f64 + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * units.page_bytes,
        open_fds: 0,
        max_fds: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "42 (an odd) name) S 1 42 42 0 -1 4194560 900 0 3 0 150 50 0 0 20 0 7 0 1000 123456789 250 \
                    18446744073709551615 1 1 0 0";
        let boot = "cpu 1 2 3\nbtime 1700000000\nprocesses 9\n";
        let usage = parse(stat, boot, Units { ticks_per_second: 100, page_bytes: 4096 }).unwrap();
        let expected = Usage {
            cpu_seconds: 2.0,
            resident_bytes: 250 * 4096,
            virtual_bytes: 123_456_789,
            threads: 7,
            open_fds: 0,
            max_fds: None,
            start_seconds: 1_700_000_010.0,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn what_is_not_a_stat_line_is_no_usage() {
        let units = Units { ticks_per_second: 100, page_bytes: 4096 };
        for stat in ["", "42 name S 1", "42 (name) S 1 42"] {
            assert_eq!(parse(stat, "btime 1\n", units), None, "{stat:?}");
        }
    }

    #[test]
    fn this_process_uses_what_it_uses() {
        let before = Usage::now().unwrap();
        let files: Vec<_> = (0..5).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let memory = vec![1u8; 64 << 20];
        let after = Usage::now().unwrap();
        // Other tests of this process open and close files as well.
        assert!(after.open_fds + 3 >= before.open_fds + files.len() as u64, "{before:?} {after:?}");
        assert!(
            after.resident_bytes >= before.resident_bytes + (memory.len() as u64) / 2,
            "{before:?} {after:?}"
        );
        assert!(after.cpu_seconds >= before.cpu_seconds);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        // The kernel's idea of when it booted may be a second off.
        assert!((now - 3600.0..now + 2.0).contains(&after.start_seconds), "{after:?} at {now}");
    }

    #[test]
    fn every_sample_has_its_help_and_its_type() {
        let text = render("broker", "1.2.3");
        assert!(text.contains("evenkeel_build_info{component=\"broker\",version=\"1.2.3\"} 1\n"), "{text}");
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")));
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{text}");
        }
    }
}
