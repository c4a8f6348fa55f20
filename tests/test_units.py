"""systemd's own judgement of the unit files."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

UNITS = Path(__file__).parents[1] / "systemd"
SERVICES = ("chatd.service", "chatd@.service")
EXPOSURE = 1.5  # "OK" ends at 4.0; an unprotected service has 9.2


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        raise RuntimeError("systemd-analyze is not installed: sudo apt-get install systemd")
    return subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
    )


class UnitTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Copies whose programs exist on every machine."""
        temporary = tempfile.TemporaryDirectory(prefix="chatd-")
        self.addCleanup(temporary.cleanup)
        self.units = Path(temporary.name)
        for unit in UNITS.iterdir():
            text = re.sub(r"(?m)^(Exec\w+=)\S+", r"\1/bin/sh", unit.read_text())
            (self.units / unit.name).write_text(text)

    def test_all_are_here(self) -> None:
        """The service, its instances and its sockets."""
        self.assertEqual({unit.name for unit in UNITS.iterdir()}, {*SERVICES, "chatd.socket"})

    def test_verify(self) -> None:
        """systemd finds nothing to complain about."""
        for name in ("chatd.service", "chatd@a.service", "chatd.socket"):
            verified = analyze("verify", "--man=no", str(self.units / name))
            complaints = [line for line in verified.stdout.splitlines() if "chatd" in line]
            self.assertEqual(complaints, [], name)
            self.assertEqual(verified.returncode, 0, verified.stdout)

    def test_exposure(self) -> None:
        """The sandbox is as tight as a daemon on the network can have it."""
        for name in SERVICES:
            rated = analyze("security", "--offline=yes", str(self.units / name))
            found = re.search(r"exposure level for \S+ (\d+\.\d+)", rated.stdout)
            assert found is not None, rated.stdout
            self.assertLessEqual(float(found[1]), EXPOSURE, name)

    def test_instances_differ_in_their_paths_alone(self) -> None:
        """The two services are the same but for the instance's name."""
        service, instance = (self.settings(name) for name in SERVICES)
        swapped = {
            line.replace("chatd/%i", "chatd/chatd").replace(" (%i)", "") for line in instance
        }
        self.assertEqual(service ^ swapped, {"StateDirectory=chatd", "StateDirectory=chatd/chatd"})

    def settings(self, name: str) -> set[str]:
        lines = (UNITS / name).read_text().splitlines()
        return {line for line in lines if line and not line.startswith("#")}
