//! Guests on taps, which see the tags of VLANs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use network_agent::machine::{Machine, Space};
use types::network_wanted::{Mac, Port, tap_name};

/// Someone who sends and gets whole frames on a tap, with VLANs (0: none); `tap_guest.py`.
pub struct TapGuest {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl TapGuest {
    /// A guest with the addresses of a port, whose tap is there.
    pub fn start(host: &Machine, port: &Port) -> Self {
        let tap = tap_name(&port.id);
        let spawned = host.within(&Space::Host, || {
            Command::new("python3")
                .args(["-c", include_str!("tap_guest.py"), &tap])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut process = spawned.unwrap().unwrap();
        let mut guest = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        };
        assert_eq!(guest.answer(), "here");
        guest.have(0, port);
        guest
    }

    fn tell(&mut self, line: &str) {
        // In one piece, for the guest reads what is there.
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Takes the addresses of a port in a VLAN.
    pub fn have(&mut self, vlan: u16, port: &Port) {
        self.have_address(vlan, port.mac, &port.fixed_ips[0].to_string());
    }

    pub fn have_address(&mut self, vlan: u16, mac: Mac, ip: &str) {
        self.tell(&format!("have {vlan} {mac} {ip}"));
    }

    /// Whether an answer comes.
    pub fn ping(&mut self, vlan: u16, from: &str, to: &str, patience: Duration) -> bool {
        let seconds = patience.as_secs_f64();
        self.tell(&format!("ping {vlan} {from} {to} {seconds}"));
        self.answer() == "yes"
    }

    /// Pings everybody.
    pub fn shout(&mut self, vlan: u16, from: &str) {
        self.tell(&format!("shout {vlan} {from}"));
    }

    /// The VLANs in which there were shouts, until one comes in this one.
    pub fn heard(&mut self, patience: Duration, vlan: u16) -> String {
        let seconds = patience.as_secs_f64();
        self.tell(&format!("heard {seconds} {vlan}"));
        self.answer()
    }
}

impl Drop for TapGuest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
