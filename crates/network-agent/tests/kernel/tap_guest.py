"""A guest on a tap, as QEMU is one: it sends and gets whole frames, with the tags of VLANs in them (0: none).

    tap_guest.py TAP

Answers ARP and pings. Commands on the standard input, a line each, and what is answered:

    have VLAN MAC IP                        -             take an address
    ping VLAN FROM TO SECONDS               yes or no     whether an answer comes
    shout VLAN FROM                         -             a ping to everybody
    heard SECONDS VLAN                      VLANs         of shouts, until one comes in this VLAN
"""

import fcntl
import os
import select
import socket
import struct
import sys
import time

TUNSETIFF, TAP_WITHOUT_INFO = 0x400454CA, 0x1002
EVERYBODY = b"\xff" * 6
VLAN, IP, ARP = 0x8100, 0x0800, 0x0806
REQUEST, REPLY = 8, 0


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def echo(kind, source, to, rest=b"\0\7\0\1" + b"ping" * 8):
    """`rest` is what the answer has from the question."""
    icmp = bytes((kind, 0, 0, 0)) + rest
    icmp = icmp[:2] + checksum(icmp) + icmp[4:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0) + source + to
    return header[:10] + checksum(header) + header[12:] + icmp


def arp(operation, source_mac, source, to_mac, to):
    return struct.pack("!HHBBH", 1, IP, 6, 4, operation) + source_mac + source + to_mac + to


class Guest:
    def __init__(self, tap):
        self.tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.tap, TUNSETIFF, struct.pack("16sH22x", tap.encode(), TAP_WITHOUT_INFO))
        self.own, self.known, self.answers, self.shouts = {}, {}, set(), []

    def send(self, vlan, to, source, kind, body):
        tag = struct.pack("!HH", VLAN, vlan) if vlan else b""
        os.write(self.tap, to + source + tag + struct.pack("!H", kind) + body.ljust(46, b"\0"))

    def take(self, frame):
        vlan, at = 0, 12
        if frame[12:14] == struct.pack("!H", VLAN):
            vlan, at = struct.unpack("!H", frame[14:16])[0] & 0xFFF, 16
        kind, body = struct.unpack("!H", frame[at : at + 2])[0], frame[at + 2 :]
        if kind == ARP:
            operation, mac, source, to = body[7], body[8:14], body[14:18], body[24:28]
            own = self.own.get((vlan, to))
            if operation == 2:
                self.known[vlan, source] = mac
            elif own:
                self.send(vlan, mac, own, ARP, arp(2, own, to, mac, source))
        elif kind == IP and body[0] == 0x45 and body[9] == 1:
            source, to, what = body[12:16], body[16:20], body[20]
            rest = body[24 : struct.unpack("!H", body[2:4])[0]]
            own = self.own.get((vlan, to))
            if what == REPLY:
                self.answers.add((vlan, source))
            elif frame[:6] == EVERYBODY:
                self.shouts.append(vlan)
            elif own:
                self.send(vlan, frame[6:12], own, IP, echo(REPLY, to, source, rest))

    def listen(self, seconds, done=lambda: False):
        """Takes frames until `done`, and says whether it is."""
        end = time.monotonic() + seconds
        while not done() and (left := end - time.monotonic()) > 0:
            if select.select([self.tap], [], [], left)[0]:
                self.take(os.read(self.tap, 65536))
        return done()

    def ping(self, vlan, source, to, seconds):
        mac, end = self.own[vlan, source], time.monotonic() + seconds
        self.known.pop((vlan, to), None)
        self.answers.clear()
        while (vlan, to) not in self.known and time.monotonic() < end:
            self.send(vlan, EVERYBODY, mac, ARP, arp(1, mac, source, bytes(6), to))
            self.listen(0.2, lambda: (vlan, to) in self.known)
        while (vlan, to) in self.known and time.monotonic() < end:
            self.send(vlan, self.known[vlan, to], mac, IP, echo(REQUEST, source, to))
            if self.listen(0.2, lambda: (vlan, to) in self.answers):
                return "yes"
        return "no"

    def command(self, name, *words):
        address = socket.inet_aton
        if name == "have":
            self.own[int(words[0]), address(words[2])] = bytes.fromhex(words[1].replace(":", ""))
        elif name == "ping":
            print(self.ping(int(words[0]), address(words[1]), address(words[2]), float(words[3])), flush=True)
        elif name == "shout":
            vlan, source = int(words[0]), address(words[1])
            body = echo(REQUEST, source, source[:3] + b"\xff")
            # Its own address, whatever VLAN it shouts in.
            mac = next(mac for (_, ip), mac in self.own.items() if ip == source)
            self.send(vlan, EVERYBODY, mac, IP, body)
        elif name == "heard":
            self.listen(float(words[0]), lambda: int(words[1]) in self.shouts)
            print(*self.shouts, flush=True)


def main():
    guest = Guest(sys.argv[1])
    print("here", flush=True)
    while True:
        for ready in select.select([guest.tap, 0], [], [])[0]:
            if ready == guest.tap:
                guest.take(os.read(guest.tap, 65536))
            elif line := os.read(0, 4096).decode():
                for one in line.splitlines():
                    guest.command(*one.split())
            else:
                return


main()
