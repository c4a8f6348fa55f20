"""Faults and attacks of clients: they do not read, vanish, flood, come in crowds."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from tests.bed import UPGRADE
from tests.daemon import LOOPBACK, ROOT, environment
from tests.faults.actors import Client, frame
from tests.faults.oracle import Row
from tests.faults.proxy import Proxy
from tests.faults.stage import POLL, Daemon, Stage, sqlite_rows, until
from tests.faults.traffic import Crowd, Probe, crowd

_OUTBOUND = 256 * 1024  # limits.outbound_bytes, the default
_SMALL = 4096  # bytes of a receive buffer, so that the kernel takes little
_LONG = "y" * 1000
_READING = 300.0  # seconds in which all of them read all of it: some GB in a full run
_CALM = 2.0  # how much longer others may wait beside a fault, on a noisy machine,
_NOISE = 0.05  # and by how many seconds at least


def _rows(daemon: Daemon) -> list[Row]:
    return sqlite_rows(daemon.state / "chatd.db")


async def _say(
    stage: Stage, speakers: Sequence[Client], to: str, count: int, rate: int, long: bool = False
) -> None:
    """So many messages, at a steady rate (a second); fewer where answers come late."""
    started = time.monotonic()
    for number in range(count):
        client = speakers[number % len(speakers)]
        while client.pending >= 64 or number > (time.monotonic() - started) * rate + 1:
            await asyncio.sleep(POLL / 2)
        client.say(to, f"{client.name} {number} {_LONG}" if long else "")


async def slow_readers(stage: Stage) -> None:
    """Many clients stop reading while their group goes on talking."""
    slow, count, rate = (200, 20_000, 500) if stage.full else (60, 3000, 600)
    daemon = await stage.started(heartbeat={"interval": 600})
    speakers = await stage.crowd(daemon, 10)
    others = [stage.client(daemon, f"slow{n}", receive_buffer=_SMALL) for n in range(slow)]
    await asyncio.gather(*(client.enter() for client in others))
    idle = stage.client(daemon, "idle")
    await idle.enter()
    await stage.group("#alone", speakers)
    await stage.group("#all", [*speakers, *others])
    alone = Probe(stage, idle)
    alone.start()
    await _say(stage, speakers, "#alone", min(count, 3000), rate)
    await stage.settled()
    before = alone.stop()
    resident = daemon.resident()
    for client in others:
        client.stop_reading()
    beside = Probe(stage, idle)
    beside.start()
    await _say(stage, speakers, "#all", count, rate, long=True)
    await stage.settled()
    after = beside.stop()
    growth = (daemon.resident() - resident) / slow
    stage.note(f"{slow} slow readers, {growth / 1024:.0f} KiB of the daemon's memory for each")
    stage.expect(growth <= 1.5 * _OUTBOUND, f"each slow reader takes {growth / 1024:.0f} KiB")
    limit = _CALM * before + _NOISE
    stage.expect(after <= limit, f"others wait {after:.3f} s beside them, {before:.3f} s without")
    for client in others:
        client.read_again()
    reading = time.monotonic()
    await stage.judge(partial(_rows, daemon), _READING)
    stage.recovered(time.monotonic() - reading)
    stage.outcome.runs = slow
    drops = sum(client.drops for client in stage.clients)
    stage.expect(not drops, f"{drops} connections were dropped")
    stage.calm()


async def never_reads(stage: Stage) -> None:
    """Clients, frames and lines, that never read again: dropped by the heartbeat, and at the next
    login they get what they missed."""
    count = 20_000 if stage.full else 6000
    daemon = await stage.started(
        heartbeat={"interval": 1, "timeout": 1}, limits={"outbound_bytes": 32_768}
    )
    speakers = await stage.crowd(daemon, 4)
    without = daemon.sockets()  # who does not read does not see that it is dropped
    deaf = [
        stage.client(daemon, f"deaf{n}", receive_buffer=_SMALL, lines=n % 2 == 1) for n in range(6)
    ]
    await asyncio.gather(*(client.enter() for client in deaf))
    await stage.group("#all", [*speakers, *deaf])
    for client in deaf:
        client.stop_reading()
    stopped = time.monotonic()
    for number in range(count):
        speaker = speakers[number % len(speakers)]
        while speaker.pending >= 64:
            await asyncio.sleep(POLL / 2)
        speaker.say("#all", f"{speaker.name} {number} {_LONG}")
        if daemon.sockets() <= without:
            break
    await until(lambda: daemon.sockets() <= without, "the deaf are dropped")
    stage.note(f"dropped after {time.monotonic() - stopped:.1f} s")
    for client in deaf:
        client.read_again()
        client.vanish()
    await stage.judge(partial(_rows, daemon))
    stage.outcome.runs = len(deaf)
    stage.calm()


async def half_open(stage: Stage) -> None:
    """Connections whose network is gone without a FIN, and clients that stand still, while
    there is more to tell them."""
    interval, timeout = 2, 2
    daemon = await stage.started(heartbeat={"interval": interval, "timeout": timeout})
    proxy = Proxy(lambda: daemon.web)
    await proxy.start()
    stage.at_end(proxy.close)
    speakers = await stage.crowd(daemon, 2, lines=False)
    cut_off = [stage.client(daemon, f"far{n}", port=lambda: proxy.port) for n in range(10)]
    await asyncio.gather(*(client.enter() for client in cut_off))
    await stage.group("#all", [*speakers, *cut_off])
    talking = stage.background(_say(stage, speakers, "#all", 100_000, 100))
    await until(lambda: len(stage.ledger.acknowledged) > 50, "messages flow")
    stage.outcome.runs = 0
    for _ in range(3 if stage.full else 1):
        left = daemon.sockets() - len(cut_off)
        proxy.blackhole(up=True, down=True)
        lost = time.monotonic()
        await until(partial(_fewer_sockets, daemon, left), "they are missed")
        took = time.monotonic() - lost
        stage.recovered(took)
        stage.expect(took <= interval + timeout + 1.5, f"they were missed after {took:.1f} s")
        stage.outcome.runs += len(cut_off)
        for client in cut_off:
            client.vanish()
        await until(lambda: all(c.ready.is_set() for c in cut_off), "all are back")
    await _standing_still(stage, daemon, interval + timeout)
    talking.cancel()
    await stage.judge(partial(_rows, daemon))
    stage.calm()


def _fewer_sockets(daemon: Daemon, most: int) -> bool:
    return daemon.sockets() <= most


_READER = """
import socket, sys
from tests.daemon import Browser
browser = Browser(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
assert browser.ask("login", name="still", api_key=sys.argv[2])["ok"]
print("in", flush=True)
while True:
    browser.next()
"""


async def _standing_still(stage: Stage, daemon: Daemon, limit: float) -> None:
    """A client's process is stopped (SIGSTOP); its kernel goes on to acknowledge."""
    before = daemon.sockets()
    words = [sys.executable, "-c", _READER, str(daemon.web), stage.kits.api_key]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    stage.at_end(process.kill)
    assert process.stdout is not None
    told = await asyncio.to_thread(process.stdout.readline)
    stage.expect(told == b"in\n", "the client did not log in")
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    stage.expect(daemon.sockets() > before, "the client is not connected")
    await until(lambda: daemon.sockets() <= before, "the stopped client is missed")
    took = time.monotonic() - stopped
    stage.recovered(took)
    stage.expect(took <= limit + 1.5, f"a stopped client was missed after {took:.1f} s")
    stage.outcome.runs += 1
    process.kill()
    process.wait()
    process.stdout.close()


async def networks(stage: Stage) -> None:
    """Connections are reset, closed, cut amid a frame, stalled and throttled.

    Lines have no pings, and behind a proxy no other proof of what has arrived but their word.
    """
    daemon = await stage.started(heartbeat={"interval": 2, "timeout": 2})
    web, lines = Proxy(lambda: daemon.web), Proxy(lambda: daemon.lines)
    for proxy in (web, lines):
        await proxy.start()
        stage.at_end(proxy.close)
    clients = []
    for number in range(20):
        on_lines = number % 4 == 3
        proxy = lines if on_lines else web
        clients.append(
            stage.client(daemon, port=partial(getattr, proxy, "port"), lines=on_lines, ack=on_lines)
        )
    await asyncio.gather(*(client.enter() for client in clients))
    talkers = Crowd(stage, clients)
    await talkers.gather()
    talkers.talk()
    acts = (
        lambda proxy: proxy.reset(),
        lambda proxy: proxy.cut(),
        lambda proxy: proxy.truncate(stage.rng.randrange(20_000)),
        lambda proxy: proxy.throttle(50_000),
    )
    stage.outcome.runs = 100 if stage.full else 8
    for number in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(0.05, 0.4))
        for proxy in (web, lines):
            if number % 5 == 4:
                proxy.stall()
                await asyncio.sleep(stage.rng.uniform(0.1, 0.5))
                proxy.go_on()
            else:
                acts[number % 5](proxy)
    talkers.hush()
    for proxy in (web, lines):
        proxy.reset()
    await stage.judge(partial(_rows, daemon))
    stage.calm()


async def duplicates(stage: Stage) -> None:
    """The same keys at the same moment over two connections of a user."""
    daemon = await stage.started()
    users = 10
    one = [stage.client(daemon, f"u{n}", window=64) for n in range(users)]
    other = [stage.client(daemon, f"u{n}", window=64, lines=True) for n in range(users)]
    await asyncio.gather(*(client.enter() for client in (*one, *other)))
    await stage.group("#all", one)
    keys = 1000 if stage.full else 100
    fresh = doubled = 0
    for number in range(0, keys, 50):
        asked = []
        for first, second in zip(one, other, strict=True):
            for client in (first, second):
                asked += [
                    client.ask("say", to="#all", text=f"{first.name} {n}", key=f"{first.name}-{n}")
                    for n in range(number, number + 50)
                ]
        answers = await asyncio.gather(*asked)
        half = [answers[n : n + 50] for n in range(0, len(answers), 50)]
        for mine, yours in zip(half[::2], half[1::2], strict=True):
            for a, b in zip(mine, yours, strict=True):
                stage.expect(a.ok and b.ok and a.seq == b.seq, f"{a} and {b}")
                fresh += (not a.duplicate) + (not b.duplicate)
                doubled += a.duplicate and b.duplicate
    stage.expect(fresh == users * keys and not doubled, f"{fresh} were new, {doubled} were not")
    stage.outcome.runs = users * keys
    rows = [row for row in _rows(daemon) if row.text]
    stage.outcome.messages = stage.outcome.acknowledged = users * keys
    stage.outcome.doubled = len(rows) - len({row.key for row in rows})
    stage.outcome.lost = users * keys - len({row.key for row in rows})
    stage.calm()


async def slow_handshakes(stage: Stage) -> None:
    """500 connections that send the head of their request byte by byte, for ever."""
    seconds = 2
    daemon = await stage.started(limits={"handshake_seconds": seconds})
    idle = stage.client(daemon, "idle")
    await idle.enter()
    probe = Probe(stage, idle)
    before = daemon.sockets()
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.web)))
            for _ in range(500)
        ]
        probe.start()
        started = time.monotonic()
        position = 0
        while (took := time.monotonic() - started) < seconds + 5:
            for sock in sockets:
                with suppress(OSError):
                    sock.send(UPGRADE[position : position + 1])
            position = min(position + 1, len(UPGRADE) - 3)
            if daemon.sockets() <= before:
                break
            await asyncio.sleep(0.1)
        stage.expect(daemon.sockets() <= before, "some are still connected")
    stage.note(f"all closed after {took:.1f} s")
    late = probe.stop()
    stage.expect(late <= 5 * _NOISE, f"p99 of an idle client's round trips is {late:.3f} s")
    stage.outcome.runs = 500
    stage.calm()


async def ping_flood(stage: Stage) -> None:
    """Pings without end, and pongs that nobody asked for; answers are not read."""
    pings = 200_000 if stage.full else 40_000
    daemon = await stage.started()
    idle = stage.client(daemon, "idle")
    await idle.enter()
    resident = daemon.resident()
    probe = Probe(stage, idle)
    probe.start()
    before = daemon.sockets()
    for opcode in (9, 10):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.web)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        with suppress(OSError, TimeoutError):
            for _ in range(pings // 100):
                writer.write(frame(b"x" * 100, opcode) * 100)
                await asyncio.wait_for(writer.drain(), 2)
        writer.transport.abort()
    await until(lambda: daemon.sockets() <= before, "the flood is over")
    growth = daemon.resident() - resident
    late = probe.stop()
    stage.note(f"{growth / 2**20:.1f} MiB more")
    stage.expect(growth <= 8 * 2**20, f"the daemon took {growth / 2**20:.1f} MiB")
    stage.expect(late <= 5 * _NOISE, f"p99 of an idle client's round trips is {late:.3f} s")
    stage.outcome.runs = 2 * pings
    stage.calm()


async def many_in_one(stage: Stage) -> None:
    """One request that would be thousands: an array, rooms to catch up with, groups."""
    daemon = await stage.started()
    client = stage.client(daemon, "many")
    await client.enter()
    await client.join("#one", make=True)
    too_many = await client.ask("sync", since={f"#g{n}": 0 for n in range(1001)})
    stage.expect(too_many.error == "bad-request", f"sync: {too_many}")
    too_long = await client.ask("history", to="#one", limit=100_000)
    stage.expect(too_long.error == "bad-request", f"history: {too_long}")
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.lines)
    writer.write(b"[" + b",".join([b'{"cmd":"ping"}'] * 500) + b"]\n")
    answer = await asyncio.wait_for(reader.readline(), 10)
    stage.expect(answer.startswith(b"-ERR"), f"an array: {answer!r}")
    writer.close()
    stage.outcome.runs = 3
    stage.calm()


async def too_many_files(stage: Stage) -> None:
    """400 connections where the process may have 256 files open."""
    daemon = stage.daemon()
    daemon.before = ["prlimit", "--nofile=256:256"]
    await daemon.start()
    talkers = await crowd(stage, daemon, 10)
    talkers.talk(backlog=8, rate=100)
    with ExitStack() as stack:
        for _ in range(400):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(1)
            with suppress(OSError):
                sock.connect(("127.0.0.1", daemon.web))
        said = stage.ledger.acknowledged
        before = len(said)
        await until(lambda: len(said) > before + 100, "messages flow")
    late = stage.client(daemon, "late")
    started = time.monotonic()
    await late.enter()
    stage.recovered(time.monotonic() - started)
    drops = sum(client.drops for client in talkers.clients)
    stage.expect(not drops, f"{drops} connections were dropped")
    talkers.hush()
    stage.outcome.runs = 400
    await stage.judge(partial(_rows, daemon))
    stage.calm()


async def storm(stage: Stage) -> None:
    """kill -9, and everybody comes back at once."""
    size = 1000 if stage.full else 150
    daemon = await stage.started()
    clients: list[Client] = []
    for _ in range(size // 50):
        clients += await stage.crowd(daemon, 50)
    for number in range(0, size, 50):
        await stage.group(f"#g{number}", clients[number : number + 50])
    for client in clients:
        client.say(f"#g{clients.index(client) // 50 * 50}")
    await stage.settled()
    stage.outcome.runs = 3 if stage.full else 1
    for _ in range(stage.outcome.runs):
        daemon.kill()
        for client in clients:
            client.say(f"#g{clients.index(client) // 50 * 50}")
        await daemon.start()
        started = time.monotonic()
        await until(lambda: all(client.ready.is_set() for client in clients), "all are back")
        await stage.settled()
        took = time.monotonic() - started
        stage.recovered(took)
        stage.expect(took <= 30, f"all were back after {took:.1f} s")
    stage.note(f"{size} clients")
    await stage.judge(partial(_rows, daemon))
    stage.calm()


async def tls(stage: Stage) -> None:
    """Old versions of TLS, garbage, handshakes that do not go on."""
    certificate = _certificate(stage.directory)
    seconds = 2
    daemon = stage.daemon(limits={"handshake_seconds": seconds})
    where = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    daemon.listen = ["--http", where, "--tcp", LOOPBACK]
    await daemon.start()
    good = ssl.create_default_context(cafile=str(certificate))
    stage.expect(await _handshake(daemon.web, good), "TLS as of today is refused")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        stage.expect(not await _handshake(daemon.web, _old(version)), f"{version.name} is taken")
    before = daemon.sockets()
    begun = [
        b"",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 999,
    ]
    begun += [stage.rng.randbytes(1000) for _ in range(20)]
    with ExitStack() as stack:
        for data in begun:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.web)))
            with suppress(OSError):
                sock.sendall(data)
        await until(lambda: daemon.sockets() > before, "they are connected")
        started = time.monotonic()
        await until(lambda: daemon.sockets() <= before, "they are closed", seconds + 8)
        took = time.monotonic() - started
    stage.note(f"all closed after {took:.1f} s")
    stage.expect(took <= seconds + 2, f"they were closed after {took:.1f} s")
    stage.expect(await _handshake(daemon.web, good), "TLS is refused afterwards")
    stage.outcome.runs = len(begun) + 2
    stage.calm()


def _certificate(directory: Path) -> Path:
    path = directory / "cert.pem"
    words = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    words += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        f"{path}.key",
        "-out",
        str(path),
    ]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


def _old(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # else it is the client that refuses
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    return context


async def _handshake(port: int, context: ssl.SSLContext) -> bool:
    try:
        connecting = asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        _, writer = await asyncio.wait_for(connecting, 10)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


async def pasted(stage: Stage) -> None:
    """A person pastes a megabyte into a terminal: as lines, and as one line."""
    daemon = await stage.started()
    talkers = await crowd(stage, daemon, 6)
    probe = Probe(stage, talkers.clients[0])
    resident = daemon.resident()
    probe.start()
    stored: list[int] = []
    for data in (b"hello there, this is pasted\n" * 37_450, b"x" * 2**20 + b"\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.lines, limit=16 * 2**20)
        writer.write(
            f"/login paster{len(stored)} api_key={stage.kits.api_key} replay=false\n".encode()
        )
        writer.write(b"/join #g0\n")
        await reader.readuntil(b"+OK seq=")
        writer.write(data)
        answers = b""
        with suppress(OSError, TimeoutError):
            writer.write_eof()  # the server may have had enough by now
            answers = await asyncio.wait_for(reader.read(), 60)
        stored.append(answers.count(b"+OK"))
        writer.close()
    stage.note(f"{stored[0]} lines were taken")
    growth = daemon.resident() - resident
    late = probe.stop()
    stage.expect(growth <= 48 * 2**20, f"the daemon took {growth / 2**20:.1f} MiB")
    stage.expect(late <= 5 * _NOISE, f"p99 of another client's round trips is {late:.3f} s")
    stage.outcome.runs = 2
    stage.calm()


async def password_flood(stage: Stage) -> None:
    """Hundreds of logins by password at once, all of other accounts."""
    daemon = await stage.started(limits={"passwords_at_once": 20})
    idle = stage.client(daemon, "idle")
    await idle.enter()
    flood = 500 if stage.full else 60
    probe = Probe(stage, idle)
    probe.start()
    outcomes: dict[bytes, int] = {}

    async def log_in(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.lines)
        writer.write(f"/login nobody{number} wrong-password\n".encode())
        code = (await asyncio.wait_for(reader.readline(), 60)).split(b" ")[1]
        outcomes[code] = outcomes.get(code, 0) + 1
        writer.close()

    await asyncio.gather(*(log_in(number) for number in range(flood)))
    late = probe.stop()
    stage.note(", ".join(f"{count} {code.decode()}" for code, count in sorted(outcomes.items())))
    refused = flood - outcomes.get(b"unauthorized", 0)
    stage.expect(refused, "all were taken, however many")
    stage.expect(set(outcomes) <= {b"unauthorized", b"unavailable", b"rate-limited"}, f"{outcomes}")
    stage.expect(late <= 5 * _NOISE, f"p99 of an idle client's round trips is {late:.3f} s")
    stage.outcome.runs = flood
    stage.calm()
