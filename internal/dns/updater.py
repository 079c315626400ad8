#!/usr/bin/python3 -I
# Keeps one DNS record pointing at the primary of a Patroni cluster, or at its replicas. One
# runs on each node for each record; only the one on the primary writes (RFC 2136, TSIG).
#
# Beside the record there is a mark, a TXT that says who wrote it and in which timeline.
# Each write requires the very mark that was read before, and nobody replaces the mark of
# a newer timeline. So whoever comes late, its update is refused by the DNS server.
#
#   updater.py run DIR      keeps the record of DIR/record.json
#   updater.py once DIR     does that once, now, and prints what came of it
#   updater.py look DIR     prints what each server says of the record
#   updater.py remove DIR   removes the record, if it is ours
import base64
import hashlib
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections import namedtuple
from ipaddress import ip_address

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdata
    import dns.tsig
    import dns.update
    from dns.rdataclass import IN
    from dns.rdatatype import A, AAAA, CNAME, SOA, TXT
    from dns.rdtypes.ANY.TXT import TXT as Text
except ImportError as e:
    sys.exit(f"updater.py: python3-dnspython is missing: {e}")

# Patroni is asked this often. A change of roles waits half of it on the average, which is
# little beside the time that resolvers keep the old answer.
INTERVAL = 1
# After a change of roles, and while PostgreSQL is about to be promoted, the next one is
# near: for SETTLING, Patroni is asked more often.
SOON, SETTLING = 0.25, 5
# All that is asked of Patroni in one go takes no longer.
TIMEOUT = 2
# Only so young a word of Patroni's lets the updater write.
YOUNG = 2
# For how long people are told that this node is primary when Patroni says nothing. More
# than INTERVAL + TIMEOUT, so that one late answer is no news.
GRACE = 5
# A question to the DNS server takes no longer, an update neither.
EXCHANGE = 3
# After so long without an answer by UDP, the same is asked by TCP: either was lost, or
# something lets only TCP pass. Less than EXCHANGE by what TCP takes if its first packet is lost.
DATAGRAM = 1
# What is as it should be is looked at again after this: somebody else may have changed it.
REFRESH = 15
# After what failed, the next attempt is this much later, doubled each time.
RETRY, RETRY_MOST = 0.5, 10
# How often one attempt reads anew because somebody else has written in between.
ROUNDS = 3
# When Patroni was not asked for so long, systemd may end the updater: something in it
# hangs. An attempt takes some EXCHANGEs, in which systemd hears nothing: its WatchdogSec
# must be 60 s or more.
STUCK = 10

MARK = re.compile(r"pgha uid=(\S+) epoch=(\d+)\.(\d+)\.(\d+) node=(\S+)")
# Somebody else has written since we have read.
LOST = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.YXDOMAIN)
WHY = {
    "REFUSED": "its policy does not let the key do this",
    "NOTAUTH": "it is not a primary server of the zone",
    "NOTZONE": "the name is not in the zone",
    "BADKEY": "it has no key of this name and algorithm",
    "BADSIG": "its secret of the key is another one",
    "BADTIME": "its clock and this host's are more than five minutes apart",
}
TSIG = {
    dns.tsig.PeerBadKey: "BADKEY", dns.tsig.BadKey: "BADKEY", dns.tsig.BadAlgorithm: "BADKEY",
    dns.tsig.PeerBadSignature: "BADSIG", dns.tsig.BadSignature: "BADSIG",
    dns.tsig.PeerBadTime: "BADTIME", dns.tsig.BadTime: "BADTIME",
}
ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")

Config = namedtuple("Config", "zone name cname ttl follow servers key patroni cafile uid generation targets member text")
# What Patroni said: as of when this node is primary (None if it is not), a sentence, and the
# names of the healthy replicas (None if they are not known).
Known = namedtuple("Known", "as_of said timeline name replicas", defaults=(0, "", None))
Mark = namedtuple("Mark", "text uid epoch n node")
Seen = namedtuple("Seen", "mark sets")


class Failed(Exception):
    """Ends an attempt, and says what came of it."""

    def __init__(self, outcome, detail, rcode="", tsig=""):
        super().__init__(detail)
        self.outcome, self.detail, self.rcode, self.tsig = outcome, detail, rcode, tsig


def now():
    """The time by a clock that nobody sets, and that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def reason(e):
    return getattr(e, "strerror", None) or str(e)


def log(text):
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens, which is no reason to end


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
    path = os.path.join(folder, "record.json")
    with open(path, "rb") as f:
        text = f.read()
    try:
        c = json.loads(text)
        cname, follow = {"address": False, "CNAME": True}[c["type"]], c["follow"]
        targets = {node: [rdata(value, cname) for value in values] for node, values in c["targets"].items()}
        if follow not in ("leader", "replicas", "all") or cname and follow != "leader":
            raise ValueError(f"a record of type {c['type']} cannot follow {follow!r}")
        if not all(targets.values()) or cname and any(len(values) > 1 for values in targets.values()):
            raise ValueError("a node has no target, or too many")
        if not re.fullmatch(r"\S+", c["uid"]) or not all(re.fullmatch(r"\S+", node) for node in targets):
            raise ValueError("the uid or the name of a node is empty or has a space")
        key = c["key"]
        if key["algorithm"].rstrip(".").lower() not in ALGORITHMS:
            raise ValueError(f"the algorithm {key['algorithm']!r} is none of {', '.join(ALGORITHMS)}")
        key = dns.tsig.Key(key["name"], base64.b64decode(key["secret"], validate=True), key["algorithm"].lower())
        split(c["patroni"])
        servers = [endpoint(server) for server in c["servers"]]
        servers[0]
        return Config(dns.name.from_text(c["zone"]), dns.name.from_text(c["name"]), cname, int(c["ttl"]), follow, servers, key,
                      c["patroni"].rstrip("/"), c.get("cafile", ""), c.get("mark") or c["uid"], int(c["generation"]), targets, c.get("member", ""), text)
    except (ValueError, LookupError, TypeError, AttributeError, dns.exception.DNSException) as e:
        raise ValueError(f"{path} cannot be used: {e!r}") from e


def rdata(value, cname):
    if cname:
        return dns.rdata.from_text(IN, CNAME, dns.name.from_text(value).to_text())
    ip = ip_address(value)
    return dns.rdata.from_text(IN, A if ip.version == 4 else AAAA, str(ip))


def shown(server):
    return "%s:%d" % (f"[{server[0]}]" if ":" in server[0] else server[0], server[1])


def endpoint(text):
    host, _, port = text.rpartition(":")
    return str(ip_address(host.strip("[]"))), int(port)


def program():
    with open(__file__, "rb") as f:
        return f.read()


def split(url):
    from urllib.parse import urlsplit
    u = urlsplit(url)
    if u.scheme not in ("http", "https") or not u.hostname:
        raise ValueError(f"{url!r} is no address of a Patroni")
    return u.scheme == "https", u.hostname, u.port or (443 if u.scheme == "https" else 80), u.path or "/"


def hurry(s, end):
    """Gives a socket only the time that is left."""
    left = end - now()
    if left <= 0:
        raise TimeoutError("timed out")
    s.settimeout(left)


# The DNS servers.

def converse(server, wire, stream):
    """Sends what a message is on the wire, and returns what the answer is."""
    began, family = now(), socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    if not stream:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                s.connect(server)
                s.send(wire)
                while True:
                    hurry(s, began + DATAGRAM)
                    got = s.recv(65535)
                    # Anybody may send us something, before the answer comes.
                    if len(got) >= 12 and got[:2] == wire[:2] and got[2] & 0x80:
                        break
                if not got[2] & 0x02:
                    return got
            except OSError:
                pass
    with socket.socket(family, socket.SOCK_STREAM) as s:
        hurry(s, began + EXCHANGE)
        s.connect(server)
        s.sendall(len(wire).to_bytes(2, "big") + wire)
        got = b""
        while len(got) < 2 or len(got) < 2 + int.from_bytes(got[:2], "big"):
            hurry(s, began + EXCHANGE)
            part = s.recv(65535)
            if not part:
                raise ConnectionError("it has ended the connection")
            got += part
    return got[2:]


def exchange(server, message, key=None, stream=False):
    """Returns the answer to a message. With a key both are signed, and an answer is verified."""
    name = shown(server)
    if key:
        message.use_tsig(key)
    wire = message.to_wire()
    try:
        got = converse(server, wire, stream)
    except OSError as e:
        # An update may have been made all the same. The next attempt begins with reading.
        raise Failed("unreachable", f"{name} does not answer: {reason(e)}") from e
    rcode = dns.rcode.to_text(got[3] & 15) if len(got) >= 12 else ""
    try:
        answer = dns.message.from_wire(got, keyring=key, request_mac=message.mac)
        if answer.id != message.id or not answer.flags & dns.flags.QR or answer.opcode() != message.opcode():
            raise Failed("unreachable", f"{name} answers something else", rcode)
    except (dns.exception.DNSException, ValueError, LookupError, NotImplementedError) as e:
        if tsig := TSIG.get(type(e), ""):
            raise Failed("refused", f"{name} and this host do not agree on the key: {WHY[tsig]}", rcode, tsig) from e
        raise Failed("refused", f"the answer of {name} cannot be used: {e!r}", rcode) from e
    if key and not answer.had_tsig:
        raise Failed("refused", f"the answer of {name} ({rcode}) is not signed, and not believed", rcode)
    return answer


def texts(rrset):
    return [b"".join(record.strings).decode("utf-8", "replace") for record in rrset or ()]


class Record:
    def __init__(self, config):
        self.config = config
        # There can be nothing beside a CNAME.
        self.place = dns.name.Name((b"_pgha",)) + config.name if config.cname else config.name
        self.kinds = (CNAME,) if config.cname else (A, AAAA)
        # The mark comes first: what was written while the rest was read is found out by it.
        self.questions = [(self.place, TXT)] + [(config.name, kind) for kind in self.kinds]
        self.server = config.servers[0]

    def ask(self, name, kind, server=None):
        """Asks a server, the primary one signed. Others need not have the key."""
        question = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        question.flags = 0
        return exchange(server or self.server, question, None if server else self.config.key)

    def sets(self, name, kind, answer):
        """What an answer has at a name: what was asked for, or the CNAME that is there instead."""
        kinds = (kind, CNAME) if name == self.config.name else (kind,)
        return {s.rdtype: s for s in answer.answer if s.name == name and s.rdtype in kinds}

    def read(self):
        c, sets = self.config, {}
        if not c.name.is_subdomain(c.zone):
            raise Failed("refused", f"{c.name} is not in the zone {c.zone}", "NOTZONE")
        for name, kind in self.questions:
            answer = self.ask(name, kind)
            rcode = answer.rcode()
            if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not answer.flags & dns.flags.AA:
                # An update that changes nothing says better what is wrong.
                self.send(dns.update.UpdateMessage(c.zone))
                rcode = dns.rcode.to_text(rcode)
                raise Failed("refused", f"the primary server answers {rcode} without authority when it is asked for {name}", rcode)
            sets.update(self.sets(name, kind, answer))
        marks = [m for m in map(MARK.fullmatch, texts(sets.get(TXT))) if m]
        if not marks:
            return Seen(None, sets)
        uid, generation, timeline, n, node = marks[0].groups()
        return Seen(Mark(marks[0][0], uid, (int(generation), int(timeline)), int(n), node), sets)

    def owned(self, seen):
        """Ends the attempt where there is a mark that is not ours, or not alone."""
        if seen.mark and seen.mark.uid != self.config.uid:
            raise Failed("foreign", f"{self.config.name} belongs to {seen.mark.uid}")
        if seen.mark and len(seen.sets[TXT]) > 1:
            raise Failed("foreign", f"{self.place} has {len(seen.sets[TXT])} TXT records, and only the mark is ours")

    def require(self, seen, removing=False):
        """Begins an update that is made only if all is as it was seen. Without a mark, there must be nothing."""
        c, update = self.config, dns.update.UpdateMessage(self.config.zone)
        if seen.mark:
            update.present(self.place, *seen.sets[TXT])
        else:
            update.absent(self.place, TXT)
        if c.cname:
            # A server says yes to a CNAME beside other records, and does not add it.
            if seen.mark and CNAME in seen.sets:
                update.present(c.name, *seen.sets[CNAME])
            elif not (seen.mark and removing):
                update.absent(c.name)
        elif not seen.mark:
            for kind in (A, AAAA, CNAME):
                update.absent(c.name, kind)
        return update

    def send(self, update):
        """Has an update made. Returns whether it was, or else somebody has written in between."""
        # By TCP, which loses nothing: whether it was made is not known if there is no answer.
        rcode = exchange(self.server, update, self.config.key, stream=True).rcode()
        if rcode in LOST or rcode == dns.rcode.NOERROR:
            return rcode == dns.rcode.NOERROR
        rcode = dns.rcode.to_text(rcode)
        raise Failed("refused", f"the primary server answers {rcode}: {WHY.get(rcode, 'it cannot make the update')}", rcode)

    def clear(self, update, seen, wanted=()):
        """Deletes what is there, and no more, since the key may have no right to more."""
        for kind in self.kinds:
            if kind in seen.sets or kind in wanted:
                update.delete(self.config.name, kind)
        if seen.mark:
            update.delete(self.place, TXT)

    def wanted(self, known):
        """The records that there should be, by their type, and a sentence about them."""
        c, nodes, why = self.config, [known.name], ""
        if c.follow != "leader":
            if known.replicas is None:
                raise Failed("unreachable", "Patroni does not say who its members are")
            replicas = [node for node in known.replicas if node in c.targets]
            nodes = replicas or nodes if c.follow == "replicas" else nodes + replicas
            if not replicas:
                why = ", the primary itself, since no replica is well"
        records = {}
        for node in nodes:
            if node not in c.targets:
                raise Failed("refused", f"record.json has no target for {node}")
            for record in c.targets[node]:
                records.setdefault(record.rdtype, set()).add(record)
        return records, f"{c.name} leads to {', '.join(values(records))}{why}"

    def matches(self, seen, records):
        kinds = [kind for kind in seen.sets if kind != TXT]
        return set(kinds) == set(records) and all(set(seen.sets[kind]) == records[kind] for kind in kinds) \
            and all(s.ttl == self.config.ttl for s in seen.sets.values())

    def settle(self, patroni):
        """Makes the record what it should be, if this node may, and returns what came of it."""
        c, lost, seen = self.config, None, None
        try:
            patroni.fresh()
            for _ in range(ROUNDS):
                seen = self.read()
                self.owned(seen)
                if seen == lost:
                    # Nobody has written in between: there is something that is not ours.
                    raise Failed("foreign", f"somebody else has made records at {c.name}, which have no mark")
                known = patroni.fresh()
                epoch, mark = (c.generation, known.timeline), seen.mark
                if mark and mark.epoch > epoch:
                    raise Failed("newer", f"somebody newer has it: {mark.node} in {mark.epoch[0]}.{mark.epoch[1]}, and this node is in {epoch[0]}.{epoch[1]}")
                # Two were promoted to the same timeline without knowing of each other. Only
                # the one that leads by etcd's word, too, is not the late one.
                if mark and mark.epoch == epoch and mark.node != known.name and patroni.leader() != known.name:
                    raise Failed("newer", f"{mark.node} has it in the same timeline, and Patroni does not say that {known.name} is the leader")
                records, sentence = self.wanted(known)
                if mark and mark.epoch == epoch and mark.node == known.name and self.matches(seen, records):
                    return outcome(self, "unchanged", sentence, seen, records)
                text = f"pgha uid={c.uid} epoch={epoch[0]}.{epoch[1]}.{mark.n + 1 if mark and mark.epoch == epoch else 1} node={known.name}"
                update = self.require(seen)
                self.clear(update, seen, records)
                for found in records.values():
                    update.add(c.name, c.ttl, *found)
                raw = text.encode()
                update.add(self.place, c.ttl, Text(IN, TXT, [raw[at:at + 255] for at in range(0, len(raw), 255)]))
                # All of this has taken its time.
                if patroni.fresh()[2:] != known[2:]:
                    continue
                if self.send(update):
                    return outcome(self, "written", sentence, Seen(Mark(text, c.uid, epoch, 0, known.name), {}), records)
                lost = seen
            raise Failed("refused", "it was changed again each time before it could be written", "NXRRSET" if seen.mark else "YXRRSET")
        except Failed as e:
            return failure(self, e, seen)

    def remove(self):
        seen = None
        try:
            seen = self.read()
            self.owned(seen)
            if seen.mark and seen.mark.epoch[0] > self.config.generation:
                raise Failed("newer", f"{seen.mark.node} has it in generation {seen.mark.epoch[0]}")
            update = self.require(seen, removing=True)
            if seen.mark:
                self.clear(update, seen)
            if not self.send(update):
                raise Failed(*("refused", "somebody has written in between") if seen.mark else ("foreign", "its records have no mark"))
            return outcome(self, "removed" if seen.mark else "absent", "", seen, {})
        except Failed as e:
            return failure(self, e, seen)

    def look(self, server):
        """What a server says of the record, for people and for the provider."""
        said = {"server": shown(server), "rcode": "", "authoritative": False, "serial": 0, "values": [], "ttl": 0, "mark": "", "error": ""}
        try:
            for name, kind in [(self.config.zone, SOA)] + self.questions:
                answer = self.ask(name, kind, None if server == self.server else server)
                sets = self.sets(name, kind, answer)
                said["rcode"], said["authoritative"] = dns.rcode.to_text(answer.rcode()), bool(answer.flags & dns.flags.AA)
                if kind == SOA:
                    said["serial"] = sets[SOA][0].serial if SOA in sets else 0
                elif kind == TXT:
                    said["mark"] = "; ".join(texts(sets.get(TXT)))
                else:
                    said["values"] += values(sets)
                    said["ttl"] = max([said["ttl"]] + [s.ttl for s in sets.values()])
                if said["rcode"] not in ("NOERROR", "NXDOMAIN"):
                    said["error"] = f"it answers {said['rcode']} when it is asked for {name}"
                    break
        except Failed as e:
            said["error"], said["rcode"], said["authoritative"] = e.detail, e.rcode, False
        return said


def values(sets):
    return [text for kind in (A, AAAA, CNAME) for text in sorted(record.to_text() for record in sets.get(kind, ()))]


def outcome(record, word, detail, seen, sets, rcode="NOERROR", tsig=""):
    return {"outcome": word, "rcode": rcode, "tsig": tsig, "detail": detail, "values": values(sets),
            "mark": seen.mark.text if seen and seen.mark else "", "server": shown(record.server)}


def failure(record, e, seen):
    return outcome(record, e.outcome, e.detail, seen, seen.sets if seen else {}, e.rcode, e.tsig)


# Patroni.

class Patroni(threading.Thread):
    """Asks Patroni again and again, one question at a time."""

    def __init__(self, config, wake):
        super().__init__(daemon=True)
        self.config, self.wake = config, wake
        self.began, self.changed = now(), 0
        self.answered, self.promoting = False, False
        # One value, so that whoever reads it has what belongs together.
        self.known = Known(None, "Patroni was not asked yet")
        self.member = config.member
        self.context, self.authority = None, None

    def run(self):
        while True:
            self.inquire()
            self.wake()
            near = self.promoting or now() - self.changed < SETTLING
            time.sleep(max(0, self.began + (SOON if near else INTERVAL) - now()))

    def inquire(self):
        before = self.known
        # An answer may have been on its way for long. It is true of when it was asked for.
        self.began = began = now()
        end = began + TIMEOUT
        self.promoting = False
        try:
            status, said = self.get("/primary", end)
            if status != 200:
                self.known = Known(None, f"Patroni answers {status}")
            else:
                # What it says with that is mostly what it would say next.
                self.primary(began, end, said if isinstance(said, dict) and "timeline" in said else self.get("/patroni", end)[1], before)
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as e:
            self.known = self.known._replace(said=f"Patroni does not answer ({reason(e)})")
        if (self.known.as_of is None) != (before.as_of is None) or self.known.timeline != before.timeline:
            self.changed = now()
        self.answered = True

    def primary(self, began, end, said, before):
        timeline, own = said.get("timeline"), said.get("patroni", {})
        self.promoting = said.get("role") not in ("primary", "master") or not isinstance(timeline, int) or timeline <= 0
        if self.promoting:
            # It has the leader's key, and PostgreSQL is still what it was.
            self.known = Known(None, "Patroni answers 200, and PostgreSQL is not promoted yet")
            return
        self.member = self.member or own.get("name", "")
        members = None
        if not self.member:
            # Patroni before 3.2 does not say how this node is called.
            members = self.members(end)
            self.member = next((m["name"] for m in members if m.get("role") == "leader" and m.get("timeline") == timeline), "")
            if not self.member:
                raise ValueError("it does not say how this node is called")
        # That this node is primary must not wait for who else there is. Who there was counts until then.
        self.known = Known(began, "Patroni answers 200", timeline, self.member, before.replicas if before.as_of is not None else None)
        if self.config.follow != "leader":
            version = tuple(map(int, re.findall(r"\d+", own.get("version", ""))[:3]))
            members = members or self.members(end)
            self.known = self.known._replace(replicas=tuple(sorted(m["name"] for m in members if well(m, timeline, version < (3, 0, 4)))))

    def fresh(self):
        """What Patroni has said so recently that one may act on it."""
        if not self.is_alive() and (self.known.as_of is None or now() - self.known.as_of >= YOUNG / 2):
            self.inquire()
        known = self.known
        if known.as_of is None or now() - known.as_of >= YOUNG:
            raise Failed("not primary", f"this node was not primary in the last {YOUNG} s: {known.said}")
        return known

    def leader(self):
        """Whom Patroni calls the leader, for which it must reach etcd."""
        try:
            return next((m["name"] for m in self.members(now() + TIMEOUT) if m.get("role") == "leader"), "")
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            return ""

    def members(self, end):
        status, said = self.get("/cluster", end)
        if status != 200:
            raise ValueError(f"it answers {status} when it is asked for its members")
        return said["members"]

    def get(self, path, end):
        tls, host, port, base = split(self.config.patroni + path)
        with socket.create_connection((host, port), timeout=max(0.01, end - now())) as plain:
            hurry(plain, end)
            with self.secured(plain, host) if tls else plain as s:
                name = f"[{host}]" if ":" in host else host
                s.sendall(f"GET {base} HTTP/1.0\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
                got = b""
                while len(got) < 1 << 20:
                    hurry(s, end)
                    part = s.recv(65536)
                    if not part:
                        break
                    got += part
        head, found, body = got.partition(b"\r\n\r\n")
        words = head.partition(b"\r\n")[0].split(b" ")
        if not found or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
            raise ValueError("what it says is not HTTP")
        status = int(words[1])
        return status, json.loads(body or b"{}") if status == 200 else None

    def secured(self, plain, host):
        # Not at the start, where there is no time for it: it takes long to load.
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


def well(member, timeline, old):
    """Whether a member is a replica that one may read from."""
    state = member.get("state")
    # Patroni before 3.0.4 calls all that run running, even a former primary that is no more,
    # but that one is in another timeline. Later ones call so what is not streaming.
    runs = state == "streaming" or old and state == "running" and member.get("timeline") in (None, timeline)
    return runs and member.get("role") in ("replica", "sync_standby", "quorum_standby") and not (member.get("tags") or {}).get("noloadbalance")


class Updater:
    def __init__(self, folder):
        self.folder, self.config = folder, read_config(folder)
        self.runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        if not self.runtime:
            raise ValueError("RUNTIME_DIRECTORY is not set")
        self.digest = hashlib.sha256(program() + self.config.text).hexdigest()
        self.wake, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        self.record, self.patroni = Record(self.config), Patroni(self.config, self.awake)
        self.goal, self.due, self.failures = None, 0, 0
        self.mark = ""
        self.status, self.said = None, None
        self.ready, self.pinged, self.hangup = False, 0, False

    def awake(self):
        try:
            self.waker.send(b"\0")
        except BlockingIOError:
            pass

    def hang_up(self, *_):
        self.hangup = True

    def run(self):
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        # What an update comes to that is on its way is the DNS server's business. The record
        # stays: whoever it leads to refuses to write, and the next primary replaces it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, self.hang_up)
        # An updater that replaces itself blocks it while nobody would handle it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
        self.patroni.start()
        while True:
            self.step()
            t = now()
            due = t + INTERVAL if self.goal is None or self.due <= t else min(self.due, t + INTERVAL)
            if select.select([self.wake], [], [], due - t)[0]:
                self.wake.recv(4096)

    def step(self):
        if self.hangup:
            self.hangup = False
            self.become()
        t, known = now(), self.patroni.known
        if self.patroni.answered:
            if known.as_of is None or t - known.as_of >= GRACE:
                self.goal = None
                self.say("not primary", f"this node is not primary: {known.said}")
            else:
                if self.goal != known[2:]:
                    self.goal, self.due, self.failures = known[2:], 0, 0
                if t >= self.due and t - known.as_of < YOUNG:
                    self.act()
        self.tell_systemd(t)

    def act(self):
        came = self.record.settle(self.patroni)
        if came["outcome"] == "not primary":
            return  # Patroni's next answer says how it goes on
        if came["outcome"] in ("written", "unchanged"):
            self.due, self.failures = now() + REFRESH, 0
        else:
            self.due = now() + min(RETRY_MOST, RETRY * 2 ** min(self.failures, 9))
            self.failures += 1
        if came["mark"] or came["outcome"] != "unreachable":
            self.mark = came["mark"]
        self.say(came["outcome"], came["detail"])

    def become(self):
        """Becomes the program that is there now."""
        try:
            read_config(self.folder)
            compile(program(), __file__, "exec")
        except (OSError, ValueError, SyntaxError) as e:
            log(f"what it should read anew is unusable, and it goes on with what it has: {e}")
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
        try:
            os.execv(sys.executable, sys.orig_argv)
        except OSError as e:
            log(f"it cannot become the program that is there now, and goes on: {e}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))

    def say(self, word, because):
        """Has people know, if it is something new."""
        status = {"primary": self.goal is not None, "outcome": word, "because": because, "mark": self.mark, "digest": self.digest}
        if status == self.status:
            return
        self.status = status
        # That it was written is told once, and not again as unchanged.
        sentence = because if word in ("written", "unchanged", "not primary") else f"{word}: {because}"
        if (sentence, self.mark) != self.said:
            self.said = sentence, self.mark
            log(f"{sentence} ({self.mark})" if word == "written" else sentence)
            notify("STATUS=" + sentence)
        try:
            write(os.path.join(self.runtime, "status.json"), status)
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


def main(words):
    match words:
        case ["run", folder]:
            Updater(folder).run()
        case ["once", folder]:
            config = read_config(folder)
            print(json.dumps(Record(config).settle(Patroni(config, None))))
        case ["look", folder]:
            from concurrent.futures import ThreadPoolExecutor
            record = Record(read_config(folder))
            with ThreadPoolExecutor(16) as pool:
                for said in pool.map(record.look, record.config.servers):
                    print(json.dumps(said))
        case ["remove", folder]:
            print(json.dumps(Record(read_config(folder)).remove()))
        case _:
            log("usage: updater.py run DIR | once DIR | look DIR | remove DIR")
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as e:
        log(f"updater.py: {e}")
        sys.exit(1)
