#!/usr/bin/python3 -IS
# Guards one virtual address of a Patroni cluster on one node. It is the only one who adds
# the address to the interface, renews it and takes it away.
#
# The address is a lease in the kernel: it has a lifetime of a few seconds, which each
# answer of Patroni's by which this node is primary begins anew. Whoever is killed, hangs
# or stands still, the kernel takes it away. So where the address is, Patroni was primary a
# moment ago.
#
#   guard.py run DIR        guards the address of DIR/vip.json, with vip-manager as its child
#   guard.py remove DIR     takes the address off the interface
#   guard.py probe ADDRESS INTERFACE|- [STATUS]
#                           prints what this host and others have to do with the address
#   ip addr add|delete ...  as vip-manager calls it: asks the guard to do that
import os
import socket
import sys

# Where vip-manager's ip finds the guard. vip-manager takes what begins with VIP_ for its own.
SOCKET = "PGHA_GUARD_SOCKET"


def shim(words):
    """Is the ip that vip-manager calls: the guard decides, and does it."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(os.environ[SOCKET])
            s.sendall(b"\0".join(os.fsencode(word) for word in words))
            s.shutdown(socket.SHUT_WR)
            verdict = s.recv(4096).decode()
    except (OSError, KeyError) as e:
        verdict = f"the guard cannot be asked: {e}"
    if verdict != "ok":
        print(verdict or "the guard gave no answer", file=sys.stderr)
    return verdict != "ok"


# Before the rest is loaded, which takes longer than all that the shim does. What takes
# longest is loaded where it is used: a guard that replaces itself has little time.
if __name__ == "__main__" and os.path.basename(sys.argv[0]) == "ip":
    sys.exit(shim(sys.argv[1:]))

import errno
import json
import math
import select
import signal
import struct
import threading
import time
from collections import namedtuple
from ipaddress import ip_address, ip_interface

# The lifetime of the address. The kernel counts whole seconds, and takes it away up to a
# second later: shorter than this, a busy host would lose an address that it should have.
LEASE = 4
# For how long Patroni's last word counts when it gives no other. Less than LEASE, so that a
# guard that works lets go before the kernel does.
GRACE = 3
# Patroni is asked this often: what a change of roles costs on the average is half of it.
INTERVAL = 0.25
# Longer than Patroni takes under load, shorter than GRACE.
TIMEOUT = 2
# Only so young a word of Patroni's lets the guard take the address.
YOUNG = 1
# Others are asked for the address at these times, and are listened to for LISTEN.
ASK = (0, 0.08, 0.16)
LISTEN = 0.25
# How long an address that nobody had counts as free. While vip-manager is waited for,
# others are asked again when two thirds of it are over.
FREE = 1.5
# After what failed, the next attempt is this much later.
RETRY = 0.25
# How long vip-manager may take for what the guard has told it.
PATIENCE = 2
# When the others are told who has it: soon, and again for whoever missed that.
ANNOUNCE = (0, 0.3, 1, 3)
# While it has the address, the guard looks this often for others who answer for it too.
WATCH = 2
# When Patroni was not asked for so long, systemd may end the guard: something in it hangs.
STUCK = 5

# rtnetlink, from linux/netlink.h, linux/rtnetlink.h and linux/if_addr.h.
REQUEST, ACK, DUMP, REPLACE, CREATE, INTERRUPTED = 0x1, 0x4, 0x300, 0x100, 0x400, 0x10
ERROR, DONE, GETLINK, NEWADDR, DELADDR, GETADDR = 2, 3, 18, 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFLA_ADDRESS = 1, 2, 6, 8, 1
NODAD, PERMANENT, NOPREFIXROUTE, TENTATIVE = 0x2, 0x80, 0x200, 0x40
# From linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
SOCK_DIAG, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY, TIME_WAIT, LISTENING = 4, 20, 21, 6, 10
ARP = 0x0806
SOLICITATION, ADVERTISEMENT = 135, 136

POSITIVE = "Patroni answers 200"
# What a guard that replaces itself knew: the last positive answer, and since when it holds.
KNEW = "PGHA_GUARD_KNEW"

Address = namedtuple("Address", "ip prefix index flags peer")
Config = namedtuple("Config", "vip prefix interface patroni cafile endpoint command text")


def now():
    """The time by a clock that nobody sets, and that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def reason(e):
    return getattr(e, "strerror", None) or str(e)


def log(text):
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens, which is no reason to let go of anything


def notify(text):
    """Tells systemd, if it has started us."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.setblocking(False)
                s.sendto(text.encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError:
            pass  # it is not waited for


def read_config(folder):
    path = os.path.join(folder, "vip.json")
    with open(path, "rb") as f:
        text = f.read()
    try:
        c = json.loads(text)
        vip = ip_interface(f"{c['address']}/{c['prefix']:d}")
        return Config(vip.ip, vip.network.prefixlen, c["interface"], split(c["patroni"]), c.get("cafile", ""),
                      c.get("endpoint", 0), c["vip_manager"], text)
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} cannot be used: {e!r}") from e


def program():
    with open(__file__, "rb") as f:
        return f.read()


def split(url):
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    host, _, port = place.rpartition(":")
    if scheme not in ("http", "https") or not host or not port.isdigit():
        raise ValueError(f"{url!r} is no address of a Patroni, such as https://127.0.0.1:8008/primary")
    return scheme == "https", host.strip("[]"), int(port), "/" + path


# The kernel's addresses.

def netlink(kind, flags, body, protocol=socket.NETLINK_ROUTE):
    """Sends the kernel a message, and returns the payloads of what it answers."""
    answers = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as s:
        s.settimeout(1)
        s.send(struct.pack("=IHHII", 16 + len(body), kind, flags | REQUEST, 1, 0) + body)
        while True:
            data = s.recv(1 << 16)
            while len(data) >= 16:
                length, kind, flags = struct.unpack_from("=IHH", data)
                payload, data = data[16:length], data[length + 3 & ~3:]
                if kind == ERROR and (code := -struct.unpack_from("=i", payload)[0]):
                    raise OSError(code, os.strerror(code))
                if flags & INTERRUPTED:
                    raise InterruptedError(errno.EINTR, "the addresses changed while they were read")
                if kind in (ERROR, DONE):
                    return answers
                answers.append(payload)


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value


def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[max(length, 4) + 3 & ~3:]
    return found


def addresses(interface=None):
    """All addresses of this host, or of an interface, which need not exist."""
    found = []
    for attempt in range(10):
        try:
            answers = netlink(GETADDR, DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0))
            break
        except InterruptedError:
            if attempt == 9:
                raise
    names = dict(socket.if_nameindex())
    for payload in answers:
        kind, prefix, flags, _, index = struct.unpack_from("=BBBBI", payload)
        a = attributes(payload[8:])
        raw = a.get(IFA_LOCAL, a.get(IFA_ADDRESS))
        if kind in (socket.AF_INET, socket.AF_INET6) and raw and interface in (None, names.get(index)):
            if IFA_FLAGS in a:
                flags = struct.unpack("=I", a[IFA_FLAGS])[0]
            found.append(Address(ip_address(raw), prefix, index, flags, a.get(IFA_ADDRESS, raw)))
    return found


def hardware():
    """The MACs of this host, by the number of the interface."""
    answers = netlink(GETLINK, DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
    links = ((struct.unpack_from("=BxHi", p)[2], attributes(p[16:]).get(IFLA_ADDRESS, b"")) for p in answers)
    return {index: mac.hex(":") for index, mac in links if mac}


def family(ip):
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def lend(ip, prefix, index, life):
    """Adds an address for some seconds, or begins the time of one that is there anew."""
    body = struct.pack("=BBBBI", family(ip), prefix, 0, 0, index) + attribute(IFA_LOCAL, ip.packed)
    preferred = life
    if ip.version == 6:
        # Others were asked already. A route that goes with the address would shorten the life
        # of the one that a router has announced for the subnet. And a preferred address
        # would be what this host's own connections come from, which break when it moves.
        body += attribute(IFA_FLAGS, struct.pack("=I", NODAD | NOPREFIXROUTE))
        preferred = 0
    body += attribute(IFA_CACHEINFO, struct.pack("=IIII", preferred, life, 0, 0))
    netlink(NEWADDR, ACK | CREATE | REPLACE, body)


def delete(a):
    body = struct.pack("=BBBBI", family(a.ip), a.prefix, 0, 0, a.index)
    try:
        netlink(DELADDR, ACK, body + attribute(IFA_LOCAL, a.ip.packed) + attribute(IFA_ADDRESS, a.peer))
    except OSError as e:
        if e.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def hang_up(ip):
    """Ends the TCP connections that an address has, and tells their other ends.

    Without the address nothing that PostgreSQL says reaches them any more: they would wait
    until they send something again that is long overdue.
    """
    states = 0xFFF & ~(1 << LISTENING | 1 << TIME_WAIT)
    ours = {family(ip): ip.packed}
    if ip.version == 4:
        ours[socket.AF_INET6] = bytes(10) + b"\xff\xff" + ip.packed  # at a socket for both families
    for kind, own in ours.items():
        request = struct.pack("=BBBBI48x", kind, socket.IPPROTO_TCP, 0, 0, states)
        for payload in netlink(SOCK_DIAG_BY_FAMILY, DUMP, request, SOCK_DIAG):
            # Ports, then this end's address, the other's, and what tells it from a later one.
            ends = payload[4:52]
            if ends[4:4 + len(own)] == own:
                try:
                    netlink(SOCK_DESTROY, ACK, request[:4] + struct.pack("=I", 0xFFF) + ends, SOCK_DIAG)
                except OSError as e:
                    if e.errno != errno.ENOENT:
                        raise


# The others in the subnet.

class Neighbours4:
    """Asks by ARP who has an address, and tells that we have (RFC 5227)."""

    def __init__(self, vip, interface):
        self.vip, self.interface = vip.packed, interface
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            self.socket.bind((interface, ARP))
            *_, kind, self.mac = self.socket.getsockname()
            if kind != 1 or len(self.mac) != 6:
                raise OSError(f"{interface} is no Ethernet")
            self.own = set(hardware().values())
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def send(self, operation, sender, target):
        packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + self.mac + sender + target + self.vip
        self.socket.sendto(packet, (self.interface, ARP, 0, 0, b"\xff" * 6))

    def ask(self):
        self.send(1, bytes(4), bytes(6))

    def announce(self):
        # Some heed only requests, some only replies.
        self.send(1, self.vip, bytes(6))
        self.send(2, self.vip, self.mac)

    def heard(self):
        """Yields the MACs of others, and whether they have the address or ask for it as we do."""
        while packet := received(self.socket):
            if len(packet[0]) >= 28 and packet[0][:6] == struct.pack("!HHBB", 1, 0x0800, 6, 4):
                operation, mac, sender, _, target = struct.unpack_from("!H6s4s6s4s", packet[0], 6)
                mac = mac.hex(":")
                if mac not in self.own and (sender == self.vip or (operation, sender, target) == (1, bytes(4), self.vip)):
                    yield mac, sender == self.vip


class Neighbours6:
    """The same by neighbour discovery (RFC 4861).

    Clients solicit an address, too, when they look for it. What asks in order to take it is
    known by its nonce (RFC 7527), which Linux sends as well.
    """

    def __init__(self, vip, interface):
        self.vip = vip.packed
        self.group = bytes.fromhex("ff0200000000000000000001ff") + self.vip[13:]
        own = [a for a in addresses(interface) if a.ip.version == 6 and a.ip.is_link_local and not a.flags & TENTATIVE]
        if not own:
            raise OSError(f"{interface} has no link-local address to ask from")
        self.index = own[0].index
        macs = hardware()
        self.own = set(macs.values())
        self.mac = bytes.fromhex(macs.get(self.index, "").replace(":", ""))
        if len(self.mac) != 6:
            raise OSError(f"{interface} is no Ethernet")
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            block = [0xFFFFFFFF] * 8
            block[SOLICITATION // 32] ^= 1 << SOLICITATION % 32 | 1 << ADVERTISEMENT % 32
            self.socket.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("=8I", *block))  # ICMP6_FILTER
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self.index)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self.group + struct.pack("=I", self.index))
            self.socket.bind((str(own[0].ip), 0, 0, self.index))
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def send(self, kind, flags, options, to):
        # The kernel puts the checksum in.
        packet = struct.pack("!BBHI", kind, 0, 0, flags) + self.vip + options
        self.socket.sendto(packet, (str(ip_address(to)), 0, 0, self.index))

    def ask(self):
        self.send(SOLICITATION, 0, b"\1\1" + self.mac + b"\x0e\1" + os.urandom(6), self.group)

    def announce(self):
        self.send(ADVERTISEMENT, 0x20000000, b"\2\1" + self.mac, "ff02::1")

    def heard(self):
        while packet := received(self.socket):
            data, (source, *_) = packet
            options = {data[at]: data[at + 2:at + 8] for at in range(24, len(data) - 7, 8)}
            has = data[0] == ADVERTISEMENT
            mac = options[2 if has else 1].hex(":") if (2 if has else 1) in options else source
            if data[8:24] == self.vip and mac not in self.own and (has or 14 in options):
                yield mac, has


def received(s):
    try:
        return s.recvfrom(2048)
    except BlockingIOError:
        return None


def neighbours(vip, interface):
    return (Neighbours4 if vip.version == 4 else Neighbours6)(vip, interface)


class Search:
    """Asks the others for the address at some times, and listens until it is closed."""

    def __init__(self, vip, interface, times, listen):
        self.others = neighbours(vip, interface)
        self.owners, self.askers = set(), set()
        self.again(times, listen)

    def again(self, times, listen):
        began = now()
        self.due = [began + offset for offset in times]
        self.end = began + listen
        self.pause = listen - times[-1]

    def over(self, t):
        while self.due and t >= self.due[0]:
            self.others.ask()
            self.due.pop(0)
            # It may be late; the others get their time to answer.
            self.end = max(self.end, now() + self.pause)
        self.contested()
        return t >= self.end

    def contested(self):
        """Says whether somebody was heard so far."""
        for mac, has in self.others.heard():
            (self.owners if has else self.askers).add(mac)
        return bool(self.owners or self.askers)

    def next(self, t):
        """When there is something to do."""
        return self.due[0] if self.due else self.end if t < self.end else math.inf

    def close(self):
        self.others.socket.close()


# What the guard has to do with.

class Patroni(threading.Thread):
    """Asks Patroni again and again, one question at a time."""

    def __init__(self, config, as_of, wake):
        super().__init__(daemon=True)
        self.config, self.wake = config, wake
        self.began = now()
        self.answered = False
        # As of when it is primary, and what to tell people. One value, so that whoever reads
        # it has what belongs together.
        self.known = as_of, POSITIVE  # which nobody hears if it is not so
        self.context, self.authority = None, None

    def run(self):
        while True:
            self.began = began = now()
            try:
                status = self.ask(began + TIMEOUT)
            except (OSError, ValueError) as e:
                self.known = self.known[0], f"Patroni does not answer ({reason(e)})"
            else:
                # An answer may have been on its way for long. It is true of when it was asked for.
                self.known = began if status == 200 else None, f"Patroni answers {status}"
            self.answered = True
            self.wake()
            time.sleep(max(0, began + INTERVAL - now()))

    def ask(self, end):
        tls, host, port, path = self.config.patroni
        with socket.create_connection((host, port), timeout=TIMEOUT) as plain:
            hurry(plain, end)
            with self.secured(plain, host) if tls else plain as s:
                name = f"[{host}]" if ":" in host else host
                s.sendall(f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
                line = self.read(s, end).partition(b"\r\n")
        words = line[0].split(b" ")
        if not line[1] or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
            raise ValueError("what it says is not HTTP")
        return int(words[1])

    def read(self, s, end):
        # All of it: Patroni logs an error when somebody does not listen to the end.
        got = b""
        try:
            while len(got) < 1 << 16:
                hurry(s, end)
                part = s.recv(4096)
                if not part:
                    break
                got += part
        except OSError:
            if b"\r\n" not in got:
                raise
        return got

    def secured(self, plain, host):
        import ssl
        authority = self.config.cafile
        state = os.stat(authority) if authority else None
        state = state and (state.st_ino, state.st_mtime_ns, state.st_size)
        if self.context is None or state != self.authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if authority:
                context.load_verify_locations(authority)
            else:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.context, self.authority = context, state
        return self.context.wrap_socket(plain, server_hostname=host)


def hurry(s, end):
    """Gives a socket only the time that is left."""
    left = end - now()
    if left <= 0:
        raise TimeoutError("timed out")
    s.settimeout(left)


class Endpoint(threading.Thread):
    """Is Patroni to vip-manager: says 200 when it is to ask for the address, else 204.

    That is no less a no than 503, of which vip-manager 5.0.0 would log each.
    """

    def __init__(self, port):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", port))
        self.offer = False
        self.denied = False  # no was said since this was set to False

    def run(self):
        while True:
            try:
                s, _ = self.socket.accept()
                with s:
                    s.settimeout(0.5)
                    self.answer(s, s.recv(4096).split(b" "))
            except OSError:
                time.sleep(0.02)

    def answer(self, s, words):
        offer = self.offer
        status = b"404 Not Found" if words[1:2] != [b"/vip"] else b"200 OK" if offer else b"204 No Content"
        s.sendall(b"HTTP/1.0 " + status + b"\r\nConnection: close\r\n\r\n")
        self.denied = self.denied or status.startswith(b"204")


class Child:
    """Keeps vip-manager running."""

    def __init__(self, command, environment):
        self.command, self.environment = command, environment
        self.process, self.begun, self.at, self.pause, self.said = None, 0, 0, 1, ""
        self.kill_at = None
        self.looked, self.runs = 0, None  # when it was looked, and which file it is

    def tend(self, t):
        if self.process is not None and (status := self.process.poll()) is not None:
            self.process = None
            if self.kill_at is None:
                self.again(t, f"vip-manager has ended with {status}" if status >= 0 else f"vip-manager was ended by signal {-status}")
        if self.kill_at is not None:
            if self.process is not None and t >= self.kill_at:
                self.process.kill()
        elif self.process is None and t >= self.at:
            self.start(t)
        elif self.process is not None and t >= self.looked + 1:
            self.looked = t
            if self.program() != self.runs:
                log("vip-manager was exchanged, and is started again")
                self.process.terminate()
                self.runs = self.program()

    def program(self):
        try:
            state = os.stat(self.command[0])
        except OSError:
            return self.runs  # it is being exchanged
        return state.st_ino, state.st_mtime_ns

    def start(self, t):
        import subprocess
        self.begun = t
        self.runs = self.program()
        try:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env=self.environment)
        except OSError as e:
            self.again(t, f"vip-manager cannot be started: {reason(e)}")

    def again(self, t, why):
        if t - self.begun > 60:
            self.pause = 1
        if (why, self.pause) != self.said:
            log(f"{why}; it is started again after {self.pause} s")
        self.at, self.said, self.pause = t + self.pause, (why, self.pause), min(30, self.pause * 2)

    def end(self, t):
        self.kill_at = t + 2
        if self.process is not None:
            self.process.terminate()

    def revive(self):
        self.kill_at, self.at = None, 0


class Guard:
    def __init__(self, folder):
        self.folder, self.config = folder, read_config(folder)
        self.runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        if not self.runtime:
            raise ValueError("RUNTIME_DIRECTORY is not set")
        c = self.config
        self.digest = None
        self.name = f"{c.vip}/{c.prefix}"
        knew = os.environ.pop(KNEW, "").split()
        self.wake, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        self.patroni = Patroni(c, float(knew[0]) if knew else None, self.awake)
        self.endpoint = Endpoint(c.endpoint)
        self.listener = self.listen()
        self.child = Child([c.command, "--config=" + self.child_config()], self.child_environment())

        self.here, self.exact, self.settled = [], [], False  # what is on the interface
        self.as_of, self.said = self.patroni.known           # what Patroni said
        self.primary = False
        self.new = True          # nothing was decided yet; what is there may be from a guard before
        self.holding = False
        self.renewed = self.until = 0  # the answer that the lease is from, and when it ends
        self.search = None
        self.free_at = None      # when it was known that nobody has it
        self.retry = 0
        self.denying = 0         # the endpoint says no once, at most until then
        self.offered = None      # since when it has said 200, as long as nobody else has the address
        self.announcements = []
        self.watched = 0
        self.rivals, self.complained = set(), 0
        self.status, self.since = None, float(knew[1]) if knew else time.time()
        self.ready, self.pinged = False, 0
        self.signals, self.ending, self.wanted = set(), "", None

    def awake(self):
        try:
            self.waker.send(b"\0")
        except BlockingIOError:
            pass

    def listen(self):
        path = os.path.join(self.runtime, "guard.sock")
        if os.path.lexists(path):
            os.unlink(path)
        s = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        s.bind(path)
        os.umask(before)
        s.listen(16)
        s.setblocking(False)
        return s

    def child_config(self):
        path = os.path.join(self.folder, "vip-manager.yml")
        if os.path.exists(path):
            return path
        c = self.config
        path = os.path.join(self.runtime, "vip-manager.yml")
        # JSON is YAML.
        write(path, {
            "ip": str(c.vip), "netmask": c.prefix, "interface": c.interface, "manager-type": "basic", "dcs-type": "patroni",
            "dcs-endpoints": ["http://127.0.0.1:%d" % self.endpoint.socket.getsockname()[1]],
            "trigger-key": "/vip", "trigger-value": "200", "interval": 250, "retry-num": 2, "retry-after": 250,
        })
        return path

    def child_environment(self):
        """Nothing but what leads vip-manager to our ip: what begins with VIP_ would change its settings."""
        folder = os.path.join(self.runtime, "bin")
        os.makedirs(folder, exist_ok=True)
        path, ours = os.path.join(folder, "ip"), os.path.realpath(__file__)
        if os.path.lexists(path):
            os.unlink(path)
        # Not a copy: nothing can be executed below /run on many hosts.
        os.symlink(ours, path)
        if not os.access(ours, os.X_OK):
            log(f"{ours} is not executable: vip-manager cannot ask for the address, and each time the guard takes it {PATIENCE} s later")
        return {"PATH": folder + ":/usr/sbin:/usr/bin:/sbin:/bin", SOCKET: os.path.join(self.runtime, "guard.sock")}

    def run(self):
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in handled:
            signal.signal(number, lambda number, _: self.signals.add(number))
        # A guard that replaces itself blocks them while nobody would handle them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        # What is there must not end before the slow rest is loaded.
        self.step()
        self.patroni.start()
        self.endpoint.start()
        while not self.step():
            self.wait()
        self.listener.close()

    def wait(self):
        t = now()
        due = [t + INTERVAL]
        if self.search is not None:
            due.append(self.search.next(t))
        elif not self.holding and self.primary and self.retry > t:
            due.append(self.retry)
        if self.holding:
            due += self.announcements[:1]
        if self.as_of is not None:
            due.append(max(t, self.as_of + GRACE))
        sockets = [self.wake, self.listener] + ([self.search.others.socket] if self.search else [])
        readable = select.select(sockets, [], [], max(0, min(due) - t))[0]
        if self.wake in readable:
            self.wake.recv(4096)
        if self.listener in readable:
            self.serve()

    def step(self):
        """Does what is to be done now, and says whether that was all."""
        t = now()
        for number in sorted(self.signals):
            self.signals.discard(number)
            self.signalled(t, number)
        try:
            self.decide(t)
        except OSError as e:
            if not self.holding:
                self.give_up()
            self.retry = t + RETRY
            self.say(f"{reason(e)}; {self.said}")
        if not self.new or self.ending:
            self.child.tend(t)
        self.tell_systemd(t)
        if self.ending and self.child.process is None:
            if self.ending == "exit":
                return True
            self.become()
        return False

    def signalled(self, t, number):
        if number != signal.SIGHUP:
            self.ending = "exit"
            self.child.end(t)
        elif not self.ending:
            try:
                self.wanted = read_config(self.folder)
                compile(program(), __file__, "exec")
            except (OSError, ValueError, SyntaxError) as e:
                log(f"what it should read anew is unusable, and it goes on with what it has: {e}")
                return
            self.ending = "exec"
            self.child.end(t)

    def become(self):
        """Becomes the program that is there now. The kernel keeps the address meanwhile."""
        if (self.wanted.vip, self.wanted.interface) != (self.config.vip, self.config.interface):
            self.let_go("it is to guard another address")
        elif self.holding and self.as_of:
            os.environ[KNEW] = f"{self.as_of} {self.since}"
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        try:
            os.execv(sys.executable, sys.orig_argv)
        except OSError as e:
            log(f"it cannot become the program that is there now, and goes on: {e}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self.ending = ""
        self.child.revive()

    def look(self, t):
        c = self.config
        found = [a for a in addresses(c.interface) if a.ip.version == c.vip.version]
        self.here = [a for a in found if a.ip == c.vip]
        self.exact = [a for a in self.here if a.prefix == c.prefix]
        self.settled = len(found) > len(self.here)
        self.as_of, self.said = self.patroni.known
        self.primary = self.as_of is not None and t - self.as_of < GRACE

    def decide(self, t):
        # First what there is: there is no knowing for how long nobody has looked.
        self.look(t)
        if self.ending == "exit":
            self.let_go("the guard ends")
        elif not self.patroni.answered and not self.primary:
            # A guard before may have put it there: the lease goes on, or ends.
            return self.say("Patroni was not asked yet")
        elif not self.primary:
            self.let_go(self.said)
        elif self.holding and not self.exact:
            self.lost(t)
        elif self.holding or self.new and self.here:
            self.hold(t)
        else:
            self.pursue(t)
        self.new = False

    def let_go(self, because):
        if self.holding:
            self.deny()
        self.holding = False
        self.give_up()
        self.rivals = set()
        if self.here:
            try:
                hang_up(self.config.vip)
            except OSError as e:
                log(f"connections to {self.name} could not be ended: {reason(e)}")
        for a in self.here:
            delete(a)
        self.say(because)

    def give_up(self):
        """Ends what was begun to take the address."""
        self.drop_search()
        self.endpoint.offer, self.free_at, self.offered = False, None, None

    def drop_search(self):
        if self.search is not None:
            self.search.close()
        self.search = None

    def lost(self, t):
        self.holding = False
        self.give_up()
        self.deny()
        self.say("somebody has removed it" if t < self.until else "it was not renewed in time")

    def deny(self):
        """Has vip-manager hear no before it hears yes: it acts on changes only."""
        self.endpoint.offer = self.endpoint.denied = False
        self.denying = now() + PATIENCE

    def hold(self, t):
        if not self.holding:
            self.until, self.watched = t + YOUNG, t
        self.holding = self.endpoint.offer = True
        if self.as_of > self.renewed:
            self.lease(self.until)
        for a in self.here:
            if a not in self.exact:
                delete(a)
        while self.announcements and t >= self.announcements[0]:
            self.announcements.pop(0)
            self.announce()
        self.watch(t)
        rivals = f", but {', '.join(sorted(self.rivals))} answers for it too" if self.rivals else ""
        self.say((self.said if self.said == POSITIVE else f"{self.said}, and was primary a moment ago") + rivals)

    def lease(self, limit):
        """Adds the address or renews it, which the kernel does not tell apart."""
        began = now()
        life = math.ceil(LEASE - (began - self.as_of))
        lend(self.config.vip, self.config.prefix, socket.if_nametoindex(self.config.interface), max(1, life))
        self.renewed, self.until = self.as_of, began + life
        if now() > limit:
            # It stood still before the kernel heard of it: what it knew is too old by now.
            self.look(now())
            self.let_go("the guard stood still for too long")
            raise TimeoutError("the guard stood still")

    def announce(self):
        try:
            others = neighbours(self.config.vip, self.config.interface)
            with others.socket:
                others.announce()
        except OSError as e:
            log(f"{self.name} cannot be announced: {reason(e)}")

    def watch(self, t):
        """Looks for others who answer for an address that this node has."""
        try:
            if self.search is None and t >= self.watched + WATCH:
                self.watched = t
                self.search = Search(self.config.vip, self.config.interface, (0,), LISTEN)
            if self.search is None or not self.search.over(t):
                return
            self.rivals = self.search.owners
        except OSError:
            pass  # the interface is down, and nobody hears us either
        self.drop_search()
        if self.rivals and t - self.complained > 60:
            self.complained = t
            log(f"TWO HOLDERS: {', '.join(sorted(self.rivals))} answers for {self.name} too, which is here rightly")

    def pursue(self, t):
        """Looks whether others have the address, and if not, has vip-manager ask for it."""
        for a in self.here:
            log(f"somebody has put {a.ip}/{a.prefix} on {self.config.interface}; it is removed, and taken properly")
            delete(a)
        if self.config.vip.version == 4 and not self.settled:
            # Were it the first of its subnet, the host's own would go with it.
            raise OSError(f"{self.config.interface} has no address of its own")
        # It listens from the first question until it has the address. Whoever asks meanwhile
        # finds nobody who has it, and is yielded to: so of two nodes that both believe that
        # they are to have it, never both take it.
        if self.search is None and t >= self.retry:
            self.search = Search(self.config.vip, self.config.interface, ASK, LISTEN)
            if not self.rivals:
                self.say("others are asked whether they have it")
        if self.search is not None:
            over = self.search.over(t)
            if self.search.contested():
                self.give_way(t)
            elif over and (self.free_at is None or self.free_at < self.search.end):
                self.free_at, self.rivals = self.search.end, set()
            elif over and t - self.free_at > FREE * 2 / 3:
                self.search.again(ASK, LISTEN)
        free = self.free_at is not None and t - self.free_at < FREE
        offer = free and (t > self.denying or self.endpoint.denied)
        self.endpoint.offer = offer
        if offer and self.offered is None:
            self.offered = t
        if free:
            self.say("nobody else has it, and vip-manager is about to ask for it")
        # On a host that is that busy, it may have asked, and too late each time.
        if offer and t - self.offered > PATIENCE:
            self.take(t, "without vip-manager, which did not ask for it in time")

    def give_way(self, t):
        """Lets others have the address, and tries again later."""
        owners, askers = self.search.owners, self.search.askers
        self.give_up()
        self.rivals = owners | askers
        # Two that ask in turns would hinder each other for ever.
        self.retry = t + RETRY + os.urandom(1)[0] / (2000 if owners else 200)
        verb = "has it" if owners else "is about to take it"
        self.say(f"{self.said}, but {', '.join(sorted(self.rivals))} {verb}")

    def barred(self, t):
        """Why the address must not be taken now; empty if nothing speaks against it."""
        if self.new or self.ending:
            return "the guard is not ready"
        if not self.primary or t - self.as_of >= YOUNG:
            return f"this node was not primary in the last {YOUNG} s: {self.said}"
        if self.search is None or self.free_at is None or t - self.free_at >= FREE:
            return "others may have it"
        return ""

    def take(self, t, how):
        if self.barred(t):
            return False
        if self.search.contested():
            self.give_way(t)
            return False
        self.lease(self.free_at + FREE + YOUNG)
        if self.search.contested():
            # Whoever asked in this moment may not have had an answer.
            self.look(now())
            for a in self.here:
                delete(a)
            self.give_way(t)
            return False
        self.drop_search()
        self.holding, self.watched = True, t
        self.announcements = [t + offset for offset in ANNOUNCE[1:]]
        self.announce()
        log(f"{self.name} is on {self.config.interface} now, {how}")
        self.say(self.said)
        return True

    def serve(self):
        """Hears a request of vip-manager's ip."""
        try:
            s, _ = self.listener.accept()
            with s:
                s.settimeout(0.3)
                words = b""
                while part := s.recv(4096):
                    words += part
                    if len(words) > 4096:
                        return
                s.sendall(self.verdict(os.fsdecode(words).split("\0")).encode())
        except OSError as e:
            log(f"a request of vip-manager's was not heard: {e}")

    def verdict(self, words):
        c, t = self.config, now()
        try:
            wanted = ip_interface(words[2]) == ip_interface(self.name) and words[3:] == ["dev", c.interface]
        except (ValueError, IndexError):
            wanted = False
        if words[0] != "addr" or words[1:2] not in (["add"], ["delete"], ["del"]) or not wanted:
            log(f"refused: ip {' '.join(words)}")
            return f"the guard adds and deletes only {self.name} on {c.interface}"
        try:
            self.look(t)
            if words[1] == "add":
                return self.add(t)
            if self.new or self.primary and self.holding and self.ending != "exit":
                return f"{self.name} stays: {self.said}"
            self.let_go("vip-manager asked for its removal")
            return "ok"
        except OSError as e:
            self.deny()
            return f"{self.name}: {reason(e)}"

    def add(self, t):
        if self.holding and self.exact:
            return "ok"
        if self.take(t, "since vip-manager asked for it"):
            return "ok"
        self.deny()
        return f"{self.name} is not given: {self.barred(t)}"

    def say(self, because):
        """Has people know, if it is something new."""
        if self.digest is None:
            import hashlib
            self.digest = hashlib.sha256(program() + self.config.text).hexdigest()
        status = {"holding": self.holding, "primary": self.primary, "because": because, "digest": self.digest}
        if status == self.status:
            return
        if self.status is not None and status["holding"] != self.status["holding"]:
            self.since = time.time()
        self.status = status
        sentence = f"{self.name} is {'' if self.holding else 'not '}here: {because}"
        log(sentence)
        notify("STATUS=" + sentence)
        try:
            write(os.path.join(self.runtime, "status.json"), {**status, "since": self.since})
        except OSError as e:
            log(f"the status cannot be written: {e}")

    def tell_systemd(self, t):
        if self.patroni.answered and not self.ready:
            self.ready = True
            notify("READY=1")
        if t - self.pinged >= 0.5 and t - self.patroni.began <= STUCK:
            self.pinged = t
            notify("WATCHDOG=1")


def write(path, content):
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(content, f)
    os.replace(path + ".new", path)


def remove(folder):
    c = read_config(folder)
    for a in addresses(c.interface):
        if a.ip == c.vip:
            delete(a)


def probe(address, interface, status=None):
    """Prints what there is to know about an address, without changing anything."""
    vip = ip_address(address)
    names, macs = dict(socket.if_nameindex()), hardware()
    known = addresses()
    own = [a for a in known if a.ip != vip and a.ip.version == vip.version and not a.ip.is_link_local
           and vip in ip_interface((a.ip, a.prefix)).network and interface in ("-", names.get(a.index)) and a.index in macs]
    print(json.dumps({"interface": names[own[0].index], "prefix": own[0].prefix, "mac": macs[own[0].index], "address": str(own[0].ip)}
                     if own else {}))
    for a in known:
        if a.ip == vip:
            print(json.dumps({"local": names.get(a.index, "?"), "prefix": a.prefix, "lease": not a.flags & PERMANENT}))
    if own or interface != "-":
        search = Search(vip, interface if interface != "-" else names[own[0].index], ASK, 0.4)
        while not search.over(now()):
            select.select([search.others.socket], [], [], min(0.1, max(0, search.next(now()) - now())))
        for mac in sorted(search.owners):
            print(json.dumps({"answer": mac}))
    if status:
        try:
            with open(status, encoding="utf-8") as f:
                print(json.dumps({"status": json.load(f)}))
        except (OSError, ValueError):
            pass  # no guard runs


def main(words):
    match words:
        case ["run", folder]:
            Guard(folder).run()
        case ["remove", folder]:
            remove(folder)
        case ["probe", address, interface, *status] if len(status) < 2:
            probe(address, interface, *status)
        case _:
            log("usage: guard.py run DIR | remove DIR | probe ADDRESS INTERFACE|- [STATUS]")
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as e:
        log(f"guard.py: {e}")
        sys.exit(1)
