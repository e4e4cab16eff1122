//! A test in a process of its own, where the memory of the process is the test's.

use std::process::Command;

/// True in the process of the test; elsewhere that process is started, and must succeed.
pub fn alone(test: &str) -> bool {
    const NAMED: &str = "KILONOVA_TEST_ALONE";
    if std::env::var(NAMED).is_ok_and(|name| name == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    let output = command.env(NAMED, test).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
    false
}

/// What this process holds in memory, in MiB.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}
