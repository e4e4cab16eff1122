//! What this process has served and asked, for its metrics and its readiness.

use http::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was asked of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Requests that had an answer.
    pub answered: u64,
    /// Requests that had none.
    pub failed: u64,
    /// When there was an answer last.
    last: Option<Instant>,
}

impl Asked {
    /// How long ago there was an answer.
    pub fn since_answer(&self) -> Option<Duration> {
        self.last.map(|at| at.elapsed())
    }
}

#[derive(Default)]
struct Figures {
    served: BTreeMap<u16, u64>,
    asked: BTreeMap<&'static str, Asked>,
}

static FIGURES: Mutex<Figures> = Mutex::new(Figures {
    served: BTreeMap::new(),
    asked: BTreeMap::new(),
});

fn figures() -> MutexGuard<'static, Figures> {
    // Counters are whole at any time.
    FIGURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a request that was served.
pub(crate) fn served(status: StatusCode) {
    *figures().served.entry(status.as_u16()).or_default() += 1;
}

/// Counts a request to a service.
pub(crate) fn asked(service: &'static str, answered: bool) {
    let mut figures = figures();
    let asked = figures.asked.entry(service).or_default();
    if answered {
        asked.answered += 1;
        asked.last = Some(Instant::now());
    } else {
        asked.failed += 1;
    }
}

/// Requests served so far, by status.
pub fn all_served() -> Vec<(u16, u64)> {
    let figures = figures();
    figures
        .served
        .iter()
        .map(|(code, count)| (*code, *count))
        .collect()
}

/// What was asked so far, by service.
pub fn all_asked() -> Vec<(&'static str, Asked)> {
    let figures = figures();
    figures
        .asked
        .iter()
        .map(|(service, asked)| (*service, *asked))
        .collect()
}

/// Units of time in `/proc`: USER_HZ, 100 on every Linux that programs see.
const TICKS: f64 = 100.0;

/// The figures of this process in Prometheus' text format 0.0.4, under the names that its client libraries use.
pub fn page(role: &str) -> String {
    let mut page = String::with_capacity(2048);
    // Writing to a String cannot fail.
    let _ = write_page(&mut page, role);
    page
}

fn write_page(page: &mut String, role: &str) -> std::fmt::Result {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        page,
        "# HELP kilonova_build_info What runs.\n# TYPE kilonova_build_info gauge"
    )?;
    writeln!(
        page,
        "kilonova_build_info{{version=\"{version}\",role=\"{role}\"}} 1"
    )?;
    let kind = |page: &mut String, name: &str, kind: &str, help: &str| {
        writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
    };
    let process = Process::read();
    for (name, shape, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Seconds of CPU, in user and in kernel.",
            process.cpu_seconds,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            process.resident,
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory.",
            process.virtual_size,
        ),
        ("process_threads", "gauge", "Threads.", process.threads),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            process.open_files,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process began, since 1970.",
            began(),
        ),
    ] {
        if let Some(value) = value {
            kind(page, name, shape, help)?;
            writeln!(page, "{name} {value}")?;
        }
    }
    kind(
        page,
        "kilonova_http_requests_total",
        "counter",
        "Requests that this process has answered.",
    )?;
    for (status, count) in all_served() {
        writeln!(
            page,
            "kilonova_http_requests_total{{status=\"{status}\"}} {count}"
        )?;
    }
    kind(
        page,
        "kilonova_client_requests_total",
        "counter",
        "Requests of this process to other services.",
    )?;
    for (service, asked) in all_asked() {
        for (result, count) in [("answered", asked.answered), ("failed", asked.failed)] {
            writeln!(
                page,
                "kilonova_client_requests_total{{service=\"{service}\",result=\"{result}\"}} {count}"
            )?;
        }
    }
    Ok(())
}

/// What the kernel says of this process; each is missing where it does not.
#[derive(Default)]
struct Process {
    cpu_seconds: Option<f64>,
    resident: Option<f64>,
    virtual_size: Option<f64>,
    threads: Option<f64>,
    open_files: Option<f64>,
}

impl Process {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        let files = std::fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu_seconds: cpu_seconds(),
            resident: of("VmRSS").map(|kib| kib * 1024.0),
            virtual_size: of("VmSize").map(|kib| kib * 1024.0),
            threads: of("Threads"),
            open_files: files.map(|files| files.count() as f64),
        }
    }
}

/// The fields of `/proc/self/stat` from the third on (proc(5)).
fn stat() -> Option<Vec<f64>> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may have spaces and brackets.
    let (_, rest) = text.rsplit_once(')')?;
    Some(
        rest.split_whitespace()
            .map(|text| text.parse().unwrap_or(0.0))
            .collect(),
    )
}

/// Time in user and in kernel.
fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    Some((stat.get(11)? + stat.get(12)?) / TICKS)
}

/// When the process began, since 1970.
fn began() -> Option<f64> {
    let stat = stat()?;
    let kernel = std::fs::read_to_string("/proc/stat").ok()?;
    let booted = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    Some(booted.trim().parse::<f64>().ok()? + stat.get(19)? / TICKS)
}
