"""Runs the catalogue: each fault in a process of its own, told in a line, summed up in a table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom

import msgspec

from tests.faults.catalogue import FAULTS, Fault
from tests.faults.stage import Kits, Outcome, Stage, make_kits

_ROOT = Path(__file__).resolve().parent.parent.parent
_WORKERS = 6  # of faults that mostly wait
_SECONDS_ONCE, _SECONDS_FULL = 90, 600  # deadlines of one fault
_PACKAGES = ("Twisted", "autobahn", "msgspec", "PyMySQL")


Job = tuple[Fault, int]


class Result(msgspec.Struct):
    """A fault, the seed it was run with, how it went and the seconds that it took."""

    fault: Fault
    seed: int
    outcome: Outcome
    seconds: float


def main() -> int:
    """Runs what the command line names; 1 if anything went wrong."""
    options = _options()
    if options.play:
        return _play(options)
    chosen = _chosen(options.faults)
    if options.list:
        for fault in chosen:
            print(f"{fault.row:3} {fault.name:24} {fault.how}")
        return 0
    # Private, and short: sockets live in it, and their paths are bounded.
    directory = Path(tempfile.mkdtemp(prefix="chatd-faults-"))
    try:
        return asyncio.run(_run(options, chosen, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="names or rows; all by default")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**9))
    parser.add_argument("--runs", type=int, default=200, help="kills of the seeded crash runs")
    parser.add_argument("--once", action="store_true", help="each fault once, and short")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--list", action="store_true", help="tell what there is")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(names: Sequence[str]) -> list[Fault]:
    unknown = [n for n in names if not any(n in (f.name, str(f.row)) for f in FAULTS)]
    if unknown:
        raise SystemExit(f"There is no fault {unknown[0]}; --list tells them.")
    return [f for f in FAULTS if not names or f.name in names or str(f.row) in names]


# -- one fault, in a process of its own


def _play(options: argparse.Namespace) -> int:
    fault = next(f for f in FAULTS if f.name == options.faults[0])
    kits = msgspec.json.decode((options.directory.parent / "kits.json").read_bytes(), type=Kits)
    stage = Stage(options.directory, kits, options.seed, not options.once)
    asyncio.run(_played(fault, stage))
    sys.stdout.buffer.write(msgspec.json.encode(stage.outcome))
    return 0


async def _played(fault: Fault, stage: Stage) -> None:
    assert fault.play is not None
    try:
        await fault.play(stage)
    except AssertionError as error:
        stage.expect(False, str(error))
    except Exception:  # whatever it is, the other faults are to be run and this one told
        stage.expect(False, traceback.format_exc())
    finally:
        stage.clear()


# -- all of them


async def _run(options: argparse.Namespace, chosen: Sequence[Fault], directory: Path) -> int:
    started = time.monotonic()
    kits = await asyncio.to_thread(make_kits, directory / "kits")
    (directory / "kits.json").write_bytes(msgspec.json.encode(kits))
    jobs = [job for fault in chosen for job in _jobs(fault, options)]
    results: list[Result] = []
    alone = [job for job in jobs if job[0].alone and not options.once]
    together = [job for job in jobs if job not in alone]

    async def work(waiting: Iterator[Job]) -> None:
        for job in waiting:
            result = await _one(*job, options, directory)
            _tell(result)
            results.append(result)

    await work(iter(alone))
    waiting = iter(together)
    await asyncio.gather(*(work(waiting) for _ in range(_WORKERS)))
    bad = [result for result in results if not result.outcome.good]
    messages = sum(result.outcome.messages for result in results)
    seconds = time.monotonic() - started
    print(
        f"{len({r.fault.row for r in results})} rows, {_kills(results)} kills, {messages} messages,"
        f" {len(bad)} failed, {seconds:.0f} s, seed {options.seed}"
    )
    if options.report:
        options.report.write_text(_report(results, seconds, options.seed))
    return 1 if bad else 0


def _jobs(fault: Fault, options: argparse.Namespace) -> list[Job]:
    """The fault, with as many seeds as it is to be run with."""
    if options.once:
        return [(fault, options.seed)] if fault.play else []
    if not fault.dice:
        return [(fault, options.seed)]
    dice = sum(fault.dice for fault in FAULTS)
    times = -(-options.runs // (dice * Stage.KILLS))
    return [(fault, options.seed + number) for number in range(times)]


async def _one(fault: Fault, seed: int, options: argparse.Namespace, directory: Path) -> Result:
    started = time.monotonic()
    if fault.play is None:
        outcome = await _tested(fault)
    else:
        outcome = await _in_a_process(fault, seed, options.once, directory)
    return Result(fault, seed, outcome, time.monotonic() - started)


async def _in_a_process(fault: Fault, seed: int, once: bool, directory: Path) -> Outcome:
    place = directory / f"{fault.name}-{seed}"
    place.mkdir()
    words = [sys.executable, "-m", "tests.faults", "--play", fault.name, f"--seed={seed}"]
    words += [f"--directory={place}", *(["--once"] if once else [])]
    output, code = await _output(
        _namespace(fault) + words, _SECONDS_ONCE if once else _SECONDS_FULL
    )
    try:
        return msgspec.json.decode(output.rpartition(b"\n")[2], type=Outcome)
    except msgspec.MsgspecError:
        text = output.decode(errors="replace")[-3000:]
        return Outcome(complaints=[f"the run ended with {code}: {text}"])
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _namespace(fault: Fault) -> list[str]:
    """Mounts of its own vanish with the process."""
    if not fault.mounts:
        return []
    return (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    )


async def _tested(fault: Fault) -> Outcome:
    """Runs the ordinary tests that cover a fault."""
    with tempfile.TemporaryDirectory(prefix="chatd-trial-") as directory:
        where = f"--temp-directory={directory}/trial"
        words = [sys.executable, "-m", "twisted.trial", "--reporter=text", where, *fault.tests]
        output, code = await _output(words, _SECONDS_FULL)
    if code:
        return Outcome(complaints=[output.decode(errors="replace")[-3000:]])
    return Outcome(notes=f"{len(fault.tests)} of the ordinary tests")


async def _output(words: Sequence[str], seconds: float) -> tuple[bytes, int | None]:
    """What a program writes, and its exit code; it does not outlive this process."""
    process = await asyncio.create_subprocess_exec(
        "setpriv",
        "--pdeathsig=KILL",
        *words,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"no end within {seconds} s".encode(), None
    return output, process.returncode


def _tell(result: Result) -> None:
    fault, out = result.fault, result.outcome
    words = [f"{'ok  ' if out.good else 'FAIL'} {fault.row:2} {fault.name:22}"]
    if fault.play is not None:
        words.append(f"{out.messages:7} messages  {_losses(out)}")
    if out.recovery is not None:
        words.append(f"recovery {out.recovery:.1f} s")
    words.append(f"({result.seconds:.1f} s)")
    if out.notes:
        words.append(out.notes)
    if not out.good:
        words.append(f"seed {result.seed}")
    print("  ".join(words), flush=True)
    for complaint in out.complaints:
        print("        " + complaint.replace("\n", "\n        "), flush=True)


def _losses(out: Outcome) -> str:
    return f"lost {out.lost} doubled {out.doubled} reordered {out.reordered}"


# -- the report

_ABOUT = """\
# Reliability

An acknowledged message is never lost, never doubled and never out of order, whatever dies, and
no client can hurt another. `make faults` tries to show the contrary, on real daemons, databases
and sockets: the table says what was done, how often, and what came of it. Clients keep sending,
come back, and say again under the same keys what was not acknowledged; in the end all that was
acknowledged is compared with the database and with what each of them saw. *Recovery* is the
longest time until all were served again. Lines without messages are faults that ordinary tests
cover; there the runs are theirs. `python -m tests.faults NAME --seed SEED` runs one again.
"""


def _report(results: Sequence[Result], seconds: float, seed: int) -> str:
    lines = [
        _ABOUT,
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}. `make faults`, {seconds / 60:.0f} minutes,"
        f" seed {seed}.",
        "",
        "| row | fault | how | observed | runs | messages | lost | doubled | reordered |"
        " recovery | |",
        "|--:|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for fault in FAULTS:
        found = [result.outcome for result in results if result.fault is fault]
        if found:
            lines.append(_line(fault, found))
    total = [result.outcome for result in results]
    lines += [
        "",
        f"In all {len({r.fault.row for r in results})} rows, {_kills(results)} kills under load"
        f" (row 1), {sum(o.messages for o in total):,} messages: lost {sum(o.lost for o in total)},"
        f" doubled {sum(o.doubled for o in total)}, reordered {sum(o.reordered for o in total)}.",
    ]
    return "\n".join(lines) + "\n"


def _kills(results: Sequence[Result]) -> int:
    return sum(result.outcome.runs for result in results if result.fault.dice)


def _line(fault: Fault, found: Sequence[Outcome]) -> str:
    recoveries = [out.recovery for out in found if out.recovery is not None]
    good = "good" if all(out.good for out in found) else "FAILED"
    cells = [
        str(fault.row),
        fault.name,
        fault.how,
        fault.observed,
        str(sum(out.runs for out in found)),
        *(
            [""] * 4
            if fault.play is None
            else [
                f"{sum(out.messages for out in found):,}",
                str(sum(out.lost for out in found)),
                str(sum(out.doubled for out in found)),
                str(sum(out.reordered for out in found)),
            ]
        ),
        f"{max(recoveries):.1f} s" if recoveries else "",
        "; ".join(filter(None, (good, found[0].notes))),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return (
        f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}, {packages},"
        f" {_mariadb_version()}"
    )


def _mariadb_version() -> str:
    found = subprocess.run(["mariadbd", "--version"], capture_output=True, text=True, check=False)
    return f"MariaDB {found.stdout.partition('Ver ')[2].partition(' ')[0]}"
