"""The wheel: what is in it, and that twistd finds chatd where it was installed."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).parents[1]
SOURCES = (
    "LICENSE",
    "LICENSE.unicode",
    "README.md",
    "chatd",
    "pyproject.toml",
    "setup.cfg",
    "twisted",
)
TWISTD = "from twisted.scripts.twistd import run; run()"


def run(*command: str | Path, cwd: Path) -> str:
    completed = subprocess.run(
        command,
        cwd=cwd,
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
    )
    if completed.returncode:
        raise RuntimeError(f"{command} ended with {completed.returncode}:\n{completed.stdout}")
    return completed.stdout


class WheelTests(SynchronousTestCase):
    """Built from a copy: setuptools would leave its scraps, and find those of others."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="chatd-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        sources = self.directory / "sources"
        sources.mkdir()
        scraps = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for name in SOURCES:
            original = CHECKOUT / name
            if original.is_dir():
                shutil.copytree(original, sources / name, ignore=scraps)
            else:
                shutil.copy(original, sources)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "."]
        run(*build, str(sources), cwd=self.directory)
        (self.wheel,) = self.directory.glob("*.whl")

    def test_contents(self) -> None:
        """The plugin, every module, the migrations and the data are there; nothing of
        Twisted's is."""
        with zipfile.ZipFile(self.wheel) as archive:
            contents = set(archive.namelist())
        originals = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("chatd/**/*.py")}
        packed = {name for name in contents if ".dist-info/" not in name}
        self.assertEqual(originals - packed, set())
        self.assertEqual(
            {name for name in packed if not name.startswith("chatd/")},
            {"twisted/plugins/chatd_plugin.py"},
        )
        versions = [name for name in packed if name.startswith("chatd/store/migrations/versions/")]
        self.assertNotEqual(versions, [])
        for data in ("chatd/**/*.mo", "chatd/lookalikes.json"):
            originals = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob(data)}
            self.assertNotEqual(originals, set())
            self.assertEqual(originals - packed, set())

    def test_installed(self) -> None:
        """In another environment, `twistd chatd --help` and `chatctl --help` answer.

        The packages chatd needs come from this environment by a path that is searched last and
        whose own .pth files, such as that of an editable install, are not read.
        """
        home = self.directory / "installed"
        venv.create(home, with_pip=False)
        python = home / "bin" / "python"
        paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
        site = Path(paths["purelib"])
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        run(*install, "--no-deps", "--no-index", self.wheel, cwd=self.directory)
        (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")

        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        answering = run(python, "-c", "import chatd; print(*chatd.__path__)", cwd=elsewhere)
        self.assertEqual(answering.strip(), str(site / "chatd"))
        self.assertIn("--config", run(python, "-c", TWISTD, "chatd", "--help", cwd=elsewhere))
        self.assertIn("--store", run(home / "bin" / "chatctl", "--help", cwd=elsewhere))
