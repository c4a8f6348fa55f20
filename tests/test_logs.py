"""What stands in the log, and that `twistd` writes it once."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.application.service import Application, MultiService, Service
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from chatd import logs

CHECKOUT = Path(logs.__file__).parents[1]
MOMENT = 1763622149.123  # 2025-11-20T07:02:29.123Z


def failure(message: str) -> Failure:
    try:
        raise LookupError(message)
    except LookupError:
        return Failure()


class TextTests(SynchronousTestCase):
    def lines(self, **event: object) -> list[str]:
        whole = {"log_level": LogLevel.info, "log_namespace": "chatd.tap", "log_time": MOMENT}
        return logs.as_text({**whole, **event}).decode().splitlines()

    def test_sentence(self) -> None:
        """Time with its offset, level, namespace, and the sentence with its fields."""
        (line,) = self.lines(log_format="{count} sessions for {name}", count=2, name="刘备")
        self.assertRegex(line, r"^2025-11-2\dT\d\d:\d\d:29[+-]\d{4} \[info\] chatd\.tap: ")
        self.assertTrue(line.endswith(": 2 sessions for 刘备"))

    def test_nothing_forges_a_line(self) -> None:
        """What ends a line anywhere or steers a terminal is shown as an escape."""
        hostile = "a\r\n2026 [info] x: y\x1b[2J\x9b1m\u2028\u2029\x85\x0b\x0c\x1c\u202e\ud800b\x7f"
        (line,) = self.lines(log_format="{name}", name=hostile)
        self.assertIn("a\\r\\n2026 [info] x: y\\x1b[2J\\x9b1m\\u2028", line)
        self.assertTrue(line.isprintable(), line)

    def test_traceback_is_indented(self) -> None:
        """A traceback follows its line, indented, even where the error's text has newlines."""
        first, *rest = self.lines(log_format="Lost.", log_failure=failure("a\n2026 [info] forged"))
        self.assertTrue(first.endswith("chatd.tap: Lost."))
        self.assertTrue(all(line.startswith("    ") for line in rest), rest)
        self.assertIn("LookupError", "".join(rest))

    def test_unusual_events(self) -> None:
        """An event without time, level or text, or with a broken format, is still one line."""
        for event in (
            {"log_time": None},
            {"log_level": None},
            {"log_format": "{missing} {"},
            {"log_format": "{x.y}", "x": 1},
        ):
            self.assertEqual(len(self.lines(**event)), 1, event)


class JSONTests(SynchronousTestCase):
    def record(self, **event: object) -> dict[str, str]:
        encoded = logs.as_json({"log_namespace": "chatd.tap", "log_time": MOMENT, **event})
        self.assertEqual(len(encoded.decode("ascii").splitlines()), 1)
        record: dict[str, str] = json.loads(encoded)
        return record

    def test_fields(self) -> None:
        """An object with time, level, namespace and text."""
        self.assertEqual(
            self.record(log_format="Hello {name}\n", name="刘备\ud800", log_level=LogLevel.warn),
            {
                "time": "2025-11-20T07:02:29.123+00:00",
                "level": "warn",
                "namespace": "chatd.tap",
                "text": "Hello 刘备\ud800\n",
            },
        )

    def test_failure(self) -> None:
        """A failure's traceback is a field of its own."""
        record = self.record(log_format="Lost.", log_failure=failure("why"))
        self.assertEqual(record["text"], "Lost.")
        self.assertIn("LookupError: why", record["failure"])

    def test_nothing_but_a_failure(self) -> None:
        """A failure without a sentence is described by its error."""
        self.assertEqual(self.record(log_failure=failure("why"))["text"], "LookupError: why")


class Disk:
    """A destination that can be full."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.full = False

    def write(self, record: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.records.append(record)


class ObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = Disk()

    def test_level(self) -> None:
        """Events below the level are left out."""
        log = Logger("test", observer=logs.Observer("text", "warn", self.disk.write))
        log.info("no")
        log.warn("yes")
        log.critical("yes")
        self.assertEqual(
            [record.split()[1] for record in self.disk.records], [b"[warn]", b"[critical]"]
        )

    def test_full_disk(self) -> None:
        """Events that cannot be written are lost, counted, and reported when they can be again."""
        log = Logger("test", observer=logs.Observer("json", "info", self.disk.write))
        self.disk.full = True
        log.info("one")
        log.info("two")
        self.disk.full = False
        log.info("three")
        texts = [json.loads(record)["text"] for record in self.disk.records]
        self.assertEqual(texts, ["2 log events could not be written.", "three"])

    def test_closed_file(self) -> None:
        """A closed file is no reason to raise either."""
        stream = io.BytesIO()
        stream.close()
        Logger("test", observer=logs.Observer("text", "info", stream.write)).info("one")

    def test_error_logged_the_old_way(self) -> None:
        """`twisted.python.log.err` gives one line and one traceback."""
        publisher = legacy.LogPublisher(publishPublisher=LogPublisher())
        publisher._publishPublisher.addObserver(logs.Observer("text", "info", self.disk.write))
        publisher.msg(failure=failure("why"), why="Lost it.", isError=1, system="-")
        (record,) = self.disk.records
        self.assertEqual(record.count(b"Traceback"), 1)
        self.assertIn(b"[critical] twisted: Lost it.\n    Traceback", record)


class DescriptorTests(SynchronousTestCase):
    def test_torn_record_is_ended(self) -> None:
        """After a record that went out in part, the next begins on a line of its own."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.set_blocking(writer, False)
        log = Logger("test", observer=logs.Observer("text", "info", logs._Descriptor(writer)))
        log.info("{text}", text="x" * 1_000_000)
        received = b""
        while not received.endswith(b"end\n"):
            received += os.read(reader, 1_000_000)
            log.info("end")
        torn, loss, *_ = received.splitlines()
        self.assertTrue(torn.endswith(b"xxx"))
        self.assertTrue(loss.endswith(b" log events could not be written."), loss)

    def test_nobody_reads(self) -> None:
        """A full pipe is not waited for; what did not go into it is counted."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # a write that waits ends so
        self.addCleanup(signal.signal, signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        self.addCleanup(signal.alarm, 0)
        log = Logger("test", observer=logs.Observer("text", "info", logs._Descriptor(writer)))
        for _ in range(200):
            log.info("{text}", text="x" * 1000)
        os.read(reader, 1_000_000)
        log.info("end")
        *_, loss, end = os.read(reader, 1_000_000).splitlines()
        self.assertRegex(loss.decode(), r" \d+ log events could not be written\.$")
        self.assertTrue(end.endswith(b"end"))


class StartTests(SynchronousTestCase):
    def started(self, **twistd: object) -> object:
        service = MultiService()
        application = Application("test")
        options = {"logger": None, "syslog": 0, "logfile": None, "nodaemon": 1, **twistd}
        logs.start(service, logs.observing("text", "info", options)).setServiceParent(application)
        return application.getComponent(ILogObserver)

    def test_component(self) -> None:
        """The application gets the observer with its service."""
        self.assertTrue(ILogObserver.providedBy(self.started()))

    def test_twistd_decides(self) -> None:
        """With --logger or --syslog, or where twistd will refuse, nothing is set."""
        for options in ({"logger": print}, {"syslog": 1}, {"logfile": "-", "nodaemon": 0}):
            self.assertIsNone(self.started(**options))

    def test_without_twistd(self) -> None:
        """Another program's service is left alone."""
        service = Service()
        self.assertIs(logs.start(service, logs.observing("text", "info", None)), service)


PLUGIN = """
from twisted.application.service import ServiceMaker

noisy = ServiceMaker("noisy", "noisy", "Logs and stops.", "noisy")
"""

NOISY = """
import os, sys
from twisted.application.service import Service
from twisted.internet.defer import fail
from twisted.logger import Logger
from twisted.python import log as legacy, usage
from chatd import logs

log = Logger()

class Options(usage.Options):
    optParameters = [["format", None, "text", ""], ["level", None, "info", ""]]

class Noisy(Service):
    def startService(self):
        from twisted.internet import reactor
        log.info("started {name}", name="a\\nb")
        log.debug("too quiet")
        print("printed")
        legacy.msg("the old way")
        fail(ValueError("forgotten"))
        reactor.callLater(0, reactor.stop)

    def stopService(self):
        log.info("stopped")

def makeService(options):
    log.info("made")
    observer = logs.observing(options["format"], options["level"], options.parent)
    return logs.start(Noisy(), observer)
"""


class TwistdTests(SynchronousTestCase):
    """A real `twistd` runs a plugin that logs through `chatd.logs`."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="chatd-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        plugins = self.directory / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "noisy_plugin.py").write_text(PLUGIN)
        (self.directory / "noisy.py").write_text(NOISY)

    def command(self, *arguments: str) -> list[str]:
        twistd = "from twisted.scripts.twistd import run; run()"
        return [sys.executable, "-c", twistd, "--pidfile=", *arguments]

    def twistd(self, *arguments: str, stdout: int = subprocess.PIPE) -> str:
        completed = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": f"{self.directory}{os.pathsep}{CHECKOUT}"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            encoding="utf-8",
        )
        self.assertEqual(completed.returncode, 0, completed.stderr)
        self.assertEqual(completed.stderr, "")
        return completed.stdout or ""

    def assert_once(self, texts: list[str]) -> None:
        """Each event is there exactly once, in order."""
        expected = ["made", "printed", "the old way", "stopped", "Server Shut Down."]
        self.assertEqual([text for text in texts if text in expected], expected)
        self.assertEqual(len([text for text in texts if text.startswith("started a")]), 1)
        self.assertEqual(len([text for text in texts if "starting up." in text]), 1)
        self.assertEqual(len([text for text in texts if "Unhandled error" in text]), 1)
        self.assertNotIn("too quiet", texts)

    def test_text(self) -> None:
        """One line per event on the standard output, all in our format."""
        lines = self.twistd("--nodaemon", "noisy").splitlines()
        heads = [line for line in lines if not line.startswith("    ")]
        for line in heads:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[\w+\] [\w.]+: ")
        self.assertIn("    Failure: builtins.ValueError: forgotten", lines)
        self.assert_once([line.split(": ", 1)[1] for line in heads])

    def test_json(self) -> None:
        """One object per event on the standard output, nothing between."""
        output = self.twistd("--nodaemon", "noisy", "--format", "json")
        records = [json.loads(line) for line in output.splitlines()]
        self.assert_once([record["text"] for record in records])
        (traceback,) = [record["failure"] for record in records if "failure" in record]
        self.assertIn("ValueError: forgotten", traceback)

    def test_file(self) -> None:
        """--logfile gets our format instead of the standard output."""
        name = "noisy.log"
        output = self.twistd("--nodaemon", "--logfile", name, "noisy", "--format", "json")
        self.assertEqual(output, "")
        written = (self.directory / name).read_text().splitlines()
        self.assert_once([json.loads(line)["text"] for line in written])

    def test_full_disk(self) -> None:
        """The daemon runs and ends well although no line can be written."""
        with open("/dev/full", "wb") as full:
            self.twistd("--nodaemon", "noisy", stdout=full.fileno())

    def test_reader_gone(self) -> None:
        """Nor does a closed pipe end it."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.twistd("--nodaemon", "noisy", stdout=writer)
