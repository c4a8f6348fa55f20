"""chatctl, verb by verb and mistake by mistake, on SQLite and on a real MariaDB."""

import importlib
import io
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import argon2
from twisted.trial.unittest import SynchronousTestCase

from chatd.client.chatctl import main
from chatd.config import StoreURL, store_url
from chatd.errors import Refused
from chatd.store import accounts
from chatd.store.accounts import Account, Login, Registration, digest, new_secret
from chatd.store.connection import Connection, Row
from chatd.store.dialects import dialect
from tests import mariadb

NOW = 1_763_622_149_123  # ms since 1970
END_OF_INPUT, INTERRUPT = b"\x04", b"\x03"
SECRET = re.compile(r"[\w-]{43}\n", re.ASCII)
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
SECRET_TABLES = ("users", "tokens", "api_keys", "invitations")
ROOT = Path(__file__).parent.parent
TIMEOUT = 60  # seconds, far more than a process needs


class Outcome(NamedTuple):
    """What a run came to."""

    status: int
    out: str
    err: str


class Runs(SynchronousTestCase):
    """Runs chatctl in this process or in one of its own, away from the machine's settings."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("CHATD_")}
        self.patch(os, "environ", clean)
        self.where: Sequence[str] = ("--state", str(self.directory / "state"))

    def chatctl(self, *args: str, stdin: bytes = b"") -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main([*self.where, *args])
            except SystemExit as usage:
                status = int(usage.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "chatd.client.chatctl", *self.where, *args],
            cwd=ROOT,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self.addCleanup(process.kill)  # does nothing once it has ended and been waited for
        return process

    def run_process(self, *args: str, stdin: bytes = b"", **options: Any) -> Outcome:
        with self.start(*args, stdin=subprocess.PIPE, **options) as process:
            out, err = process.communicate(stdin, TIMEOUT)
        return Outcome(process.returncode, (out or b"").decode(), err.decode())

    def done(self, *args: str, stdin: bytes = b"") -> str:
        """Standard output of a run that must succeed."""
        outcome = self.chatctl(*args, stdin=stdin)
        self.assertEqual(outcome.status, 0, outcome.err)
        return outcome.out

    def found(self, *args: str) -> Any:
        return json.loads(self.done("--json", *args))

    def refused(self, status: int, pattern: str, *args: str, stdin: bytes = b"") -> None:
        """The run ends with this status and one sentence, which the pattern finds."""
        outcome = self.chatctl(*args, stdin=stdin)
        self.assertEqual((outcome.status, outcome.out), (status, ""), outcome.err)
        self.assertRegex(outcome.err, pattern)
        self.assertEqual(outcome.err.count("\n"), 1)


class Contract(Runs):
    """What holds on both databases; `prepare` gives the URL of an empty one."""

    def prepare(self) -> str:
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        text = self.prepare()
        self.where = ("--store", text)
        self.url: StoreURL = store_url(text, "")
        self.done("db", "upgrade")
        spoken = dialect(self.url)
        raw = importlib.import_module(spoken.module).connect(**spoken.connect)
        self.enterContext(closing(raw))
        spoken.opened(raw)
        self.connection = Connection(raw, spoken)

    def log_in(self, **proof: Any) -> Account | Refused:
        proof = {"now": NOW, "issue": digest(new_secret()), "expires": NOW + 1000, **proof}
        return accounts.log_in(self.connection, [Login(**proof)])[0]

    def token(self, name: str) -> bytes:
        """The digest of a fresh token of this user."""
        issued = digest(new_secret())
        self.assertIsInstance(self.log_in(name=name, issue=issued), Account)
        return issued

    def everything(self) -> str:
        rows: list[Row] = []
        for table in SECRET_TABLES:
            rows += self.connection.all(f"SELECT * FROM {table}")
        return repr(rows)

    def test_user_add_hashes_the_password(self) -> None:
        """An account's password is kept as argon2id, and nowhere in the clear."""
        self.done("user", "add", "alice", "--password-stdin", stdin="påss w0rd\r\n".encode())
        found = accounts.password_of(self.connection, "alice")
        assert found
        self.assertTrue(found[1].startswith("$argon2id$"))
        self.assertTrue(argon2.PasswordHasher().verify(found[1], "påss w0rd"))
        self.assertNotIn("w0rd", self.everything())

    def test_user_without_password(self) -> None:
        """An account made with --no-password has none, and a JWT's login finds it."""
        self.done("user", "add", "alice", "--no-password", "--display", "Alice A.")
        self.assertIsNone(accounts.password_of(self.connection, "alice"))
        self.assertIsInstance(self.log_in(name="alice"), Account)
        self.assertEqual(
            self.connection.all("SELECT name, display, password FROM users"),
            [("alice", "Alice A.", None)],
        )

    def test_names(self) -> None:
        """A name is normalised; what cannot be one is refused before a password is read."""
        self.assertIn("刘备 has", self.done("user", "add", "刘备", "--no-password"))
        self.assertIn("Bob has", self.done("user", "add", "Ｂｏｂ", "--no-password"))
        for name in ("", "a b", "a\x1b[31m", "x" * 33, "\udcff", "@alice"):
            self.refused(1, "A name is 1 to 32 letters", "user", "add", name, "--password-stdin")
            self.refused(1, "A name is 1 to 32 letters", "user", "enable", name)

    def test_name_taken(self) -> None:
        """A taken name, in whatever case, is told before a password is asked for."""
        self.done("user", "add", "alice", "--no-password")
        self.refused(1, "The name ALICE is taken.", "user", "add", "ALICE")

    def test_unknown_user(self) -> None:
        """Every verb about a user tells that there is none of that name."""
        for verb in ("password", "disable", "enable", "logout"):
            self.refused(1, "There is no user bob; `chatctl user list`", "user", verb, "bob")

    def test_display_names(self) -> None:
        """A display name is a line of up to 64 characters."""
        for display in ("x" * 65, "a\nb", "\x1b[2J", "\udcff"):
            wrong = ("user", "add", "alice", "--no-password", "--display", display)
            self.refused(1, "A display name is one line", *wrong)
        self.assertEqual(self.found("user", "list"), [])

    def test_passwords(self) -> None:
        """What cannot be a password, or cannot be read, is refused, and nothing is stored."""
        for wrong in (b"", b"\n", b"\r\n", b"x" * 257, b"x" * 5000, b"\xff\n"):
            sentence = "A password is one line of 1 to 256 characters"
            self.refused(1, sentence, "user", "add", "alice", "--password-stdin", stdin=wrong)
        self.refused(1, "no terminal.*--password-stdin", "user", "add", "alice", stdin=b"x\n")
        self.assertEqual(self.found("user", "list"), [])

    def test_user_password(self) -> None:
        """A new password takes the old one's place, whatever the case of the name."""
        self.done("user", "add", "alice", "--password-stdin", stdin=b"old\n")
        told = self.done("user", "password", "ALICE", "--password-stdin", stdin=b"new")
        self.assertIn("alice has a new password", told)
        found = accounts.password_of(self.connection, "alice")
        assert found
        self.assertTrue(argon2.PasswordHasher().verify(found[1], "new"))

    def test_disable_and_enable(self) -> None:
        """A disabled user has no tokens and gets none; an enabled one logs in again."""
        for name in ("alice", "bob"):
            self.done("user", "add", name, "--no-password")
        alice, bob = self.token("alice"), self.token("bob")
        self.done("user", "disable", "alice")
        left = self.connection.all("SELECT hash FROM tokens")
        self.assertEqual([bytes(row[0]) for row in left], [bob])
        refused = self.log_in(name="alice")
        assert isinstance(refused, Refused)
        self.assertEqual(refused.code, "forbidden")
        self.assertRegex(self.done("user", "list"), rf"(?m)^alice  -  +{TIME}  {TIME}$")
        self.done("user", "enable", "alice")
        self.assertIsInstance(self.log_in(token=alice), Refused)
        self.assertIsInstance(self.log_in(name="alice"), Account)
        self.assertIsNone(self.found("user", "list")[0]["disabled"])

    def test_logout(self) -> None:
        """A logout revokes all tokens of the user, and nobody else's."""
        tokens = [self.token("alice"), self.token("alice"), self.token("bob")]
        self.done("user", "logout", "alice")
        accepted = [isinstance(self.log_in(token=token), Account) for token in tokens]
        self.assertEqual(accepted, [False, False, True])

    def test_user_list(self) -> None:
        """The table is aligned, wide characters counted; what is not printable is escaped."""
        accounts.add_user(self.connection, "刘备", "\x1b[31m\u202e王", "hash", NOW)
        accounts.add_user(self.connection, "alice", "", "hash", NOW)
        self.assertEqual(
            self.done("user", "list").splitlines(),
            [
                "NAME   DISPLAY           CREATED               DISABLED",
                "alice  -                 2025-11-20T07:02:29Z  -",
                "刘备   \\x1b[31m\\u202e王  2025-11-20T07:02:29Z  -",
            ],
        )
        as_json = self.done("user", "list", "--json")
        self.assertTrue(as_json.rstrip("\n").isprintable() and as_json.isascii())
        alice = {"name": "alice", "display": "", "created": NOW, "disabled": None}
        other = {**alice, "name": "刘备", "display": "\x1b[31m\u202e王"}
        self.assertEqual(json.loads(as_json), [alice, other])

    def test_key_add(self) -> None:
        """The key stands alone on standard output, logs users in, and is kept as a hash."""
        added = self.chatctl("key", "add", "site", "--scope", "push", "--scope", "login-as")
        self.assertEqual(added.status, 0)
        self.assertRegex(added.out, rf"\A{SECRET.pattern}\Z")
        self.assertRegex(added.err, r"\AThe key site \(login-as, push\).*\n\Z")
        key = added.out.strip()
        self.assertIsInstance(self.log_in(name="alice", api_key=digest(key)), Account)
        stored = accounts.find_api_key(self.connection, digest(key))
        assert stored
        self.assertEqual(stored.scopes, {"login-as", "push"})
        self.assertNotIn(key, self.everything())
        self.assertNotIn(key, self.done("key", "list"))

    def test_key_scopes(self) -> None:
        """A key for pushing logs nobody in; a key needs a scope, and one that exists."""
        key = self.done("key", "add", "pusher", "--scope", "push").strip()
        self.assertIsInstance(self.log_in(name="alice", api_key=digest(key)), Refused)
        for wrong in ([], ["--scope", "root"], ["--scope"]):
            outcome = self.chatctl("key", "add", "other", *wrong)
            self.assertEqual((outcome.status, outcome.out), (2, ""))
            self.assertIn("--scope", outcome.err)

    def test_key_list_and_revoke(self) -> None:
        """Keys are listed by name with their scopes; a revoked one logs nobody in."""
        key = self.done("key", "add", "site", "--scope", "login-as").strip()
        self.done("key", "add", "a back end", "--scope", "login-as", "--scope", "push")
        table = rf"\A.*\na back end  login-as push  {TIME}\nsite +login-as +{TIME}\n\Z"
        self.assertRegex(self.done("key", "list"), table)
        listed = [(row["name"], row["scopes"]) for row in self.found("key", "list")]
        self.assertEqual(listed, [("a back end", ["login-as", "push"]), ("site", ["login-as"])])
        self.assertEqual(self.done("key", "revoke", "site"), "The key site is revoked.\n")
        self.assertIsInstance(self.log_in(name="alice", api_key=digest(key)), Refused)
        self.refused(1, "There is no key site; `chatctl key list`", "key", "revoke", "site")

    def test_key_names(self) -> None:
        """A key's name is free, and a line of up to 64 characters."""
        self.done("key", "add", "site", "--scope", "push")
        again = ("key", "add", "site", "--scope", "login-as")
        self.refused(1, "There is a key site already: revoke it, or", *again)
        for name in ("", "x" * 65, "a\nb", "\x1b", "\udcff"):
            self.refused(1, "A key's name is one line", "key", "add", name, "--scope", "push")
            self.refused(1, "A key's name is one line", "key", "revoke", name)

    def test_invite_add(self) -> None:
        """An invitation lets as many register as it says, and is kept as a hash."""
        token = self.done("invite", "add", "--uses", "2", "--days", "3").strip()
        self.assertNotIn(token, self.everything())
        row = self.found("invite", "list")[0]
        self.assertEqual(row["expires"] - row["created"], 3 * 86_400_000)
        names = ("alice", "bob", "carl")
        news = [Registration(name, "", "hash", digest(token)) for name in names]
        answers = [self.log_in(registration=new, now=row["created"]) for new in news]
        self.assertEqual([isinstance(answer, Account) for answer in answers], [True, True, False])

    def test_invite_list_and_revoke(self) -> None:
        """Invitations are revoked by token or by the id listed; others stay."""
        tokens = [self.done("invite", "add").strip() for _ in range(3)]
        ids = [accounts.token_id(digest(token)) for token in tokens]
        self.assertRegex(
            self.done("invite", "list"),
            rf"\AID +CREATED +EXPIRES +USES LEFT\n([0-9a-f]{{16}}  {TIME}  {TIME}  1\n){{3}}\Z",
        )
        self.done("invite", "revoke", ids[0])
        self.done("invite", "revoke", tokens[1])
        self.assertEqual([row["id"] for row in self.found("invite", "list")], [ids[2]])
        for unknown in (tokens[1], ids[0], "", "\udcff"):
            self.refused(1, "no such invitation; `chatctl invite", "invite", "revoke", unknown)

    def test_invitation_with_a_dash(self) -> None:
        """A token that begins with a dash, as one of 64 does, is not taken for an option."""
        token = "-" + new_secret()[1:]
        sql = "INSERT INTO invitations (hash, created_at, expires_at, uses_left) VALUES (?,?,?,?)"
        self.connection.run(sql, (digest(token), NOW, NOW, 1))
        self.assertEqual(self.found("invite", "revoke", token, "--json"), {"revoked": True})
        self.assertEqual(self.found("invite", "list"), [])

    def test_invitation_bounds(self) -> None:
        """Uses and days are numbers from 1, within reason; else it is wrong usage."""
        for option in ("--uses", "--days"):
            for wrong in ("0", "-1", "1.5", "many", "9999999", "9" * 30, "\x1b"):
                outcome = self.chatctl("invite", "add", f"{option}={wrong}")
                self.assertEqual((outcome.status, outcome.out), (2, ""))
                self.assertIn("is not a number from 1 to", outcome.err)
                self.assertNotIn("\x1b", outcome.err)

    def test_json_answers(self) -> None:
        """With --json, before or after the verb, one result is one object."""
        self.assertEqual(
            self.found("user", "add", "alice", "--no-password", "--display", "A"),
            {"name": "alice", "display": "A"},
        )
        key = self.found("key", "add", "site", "--scope", "push")
        self.assertEqual((key["name"], key["scopes"]), ("site", ["push"]))
        self.assertTrue(accounts.find_api_key(self.connection, digest(key["key"])))
        invitation = json.loads(self.done("invite", "add", "--json"))
        self.assertEqual(invitation["uses_left"], 1)
        self.assertEqual(invitation["id"], accounts.token_id(digest(invitation["token"])))
        self.assertEqual(self.found("user", "enable", "alice"), {"name": "alice", "disabled": None})

    def test_db(self) -> None:
        """The schema's state is told; upgrading a current one changes nothing."""
        status = self.found("db", "status")
        self.assertEqual((status["state"], status["revision"]), ("current", status["head"]))
        self.assertIn("which is current", self.done("db", "upgrade"))
        self.assertIn("which is current", self.done("db", "status"))

    def test_newer_schema(self) -> None:
        """A schema of a newer release is left alone by every verb."""
        self.connection.run("UPDATE alembic_version SET version_num = '9999'")
        self.assertEqual(self.found("db", "status")["state"], "newer")
        for verb in (["user", "list"], ["db", "upgrade"]):
            self.refused(78, "run a newer chatd", *verb)

    def test_process(self) -> None:
        """It runs as a program, with the password on its standard input."""
        added = self.run_process("user", "add", "alice", "--password-stdin", stdin=b"secret\n")
        self.assertEqual(added, (0, "alice has an account now.\n", ""))
        again = self.run_process("user", "add", "alice", "--password-stdin", stdin=b"secret\n")
        self.assertEqual((again.status, again.out), (1, ""))
        self.assertRegex(again.err, r"\AThe name alice is taken.*\n\Z")
        self.assertEqual(self.run_process("user").status, 2)


class SQLiteTests(Contract):
    """On SQLite."""

    def prepare(self) -> str:
        return f"sqlite:///{self.directory / 'chatd.db'}"

    def test_database_is_busy(self) -> None:
        """While another process writes for long, the sentence says so, with status 69."""
        self.connection.run("BEGIN IMMEDIATE")
        self.refused(69, "is locked", "user", "add", "alice", "--no-password")


class MariaDBTests(Contract):
    """On MariaDB."""

    def prepare(self) -> str:
        return mariadb.fresh_database()

    def test_schema_is_the_operators(self) -> None:
        """Only `db upgrade` changes the schema; till then every verb says to run it."""
        self.where = ("--store", mariadb.fresh_database())
        upgrade = "is empty: run `chatctl db upgrade`"
        self.refused(78, upgrade, "user", "list")
        self.refused(78, upgrade, "key", "add", "site", "--scope", "push")
        self.assertEqual(self.found("db", "status")["state"], "empty")
        self.assertEqual(self.found("db", "upgrade")["state"], "current")
        self.done("user", "list")

    def test_wrong_url(self) -> None:
        """A wrong password, host or database is told without the password, with status 78."""
        socket = mariadb.shared().socket
        for wrong, pattern in (
            (f"mysql://root:Tr0ub4dor@localhost/x?unix_socket={socket}", "Access denied"),
            (f"mysql://root@localhost/nothing?unix_socket={socket}", "Unknown database"),
            ("mysql://root:Tr0ub4dor@a..b/x", "a..b:3306"),
        ):
            self.where = ("--store", wrong)
            for verb in (["user", "list"], ["db", "upgrade"], ["db", "status"]):
                self.refused(78, f"{pattern}.*mend store.url", *verb)
                self.assertNotIn("Tr0ub4dor", self.chatctl(*verb).err)

    def test_unreachable(self) -> None:
        """A server that does not answer is told, with status 69."""
        url = f"mysql://root:Tr0ub4dor@localhost/x?unix_socket={self.directory}/none"
        self.where = ("--store", url)
        for verb in (["user", "list"], ["db", "upgrade"], ["db", "status"]):
            self.refused(69, "x at .*/none cannot be reached: .*see that it runs", *verb)
        outcome = self.run_process("user", "list")
        self.assertEqual((outcome.status, outcome.err.count("\n")), (69, 1))
        self.assertNotIn("Tr0ub4dor", outcome.err)

    def test_foreign_tables(self) -> None:
        """A database of somebody else's is not touched."""
        name = self.url.database
        mariadb.shared().execute(f"CREATE TABLE `{name}`.posts (id INT)")
        mariadb.shared().execute(f"DROP TABLE `{name}`.alembic_version")
        self.refused(78, "give chatd a database of its own", "db", "upgrade")


class PlaceTests(Runs):
    """Where the database is taken from, and what can be wrong with the place."""

    def test_fresh_state_directory(self) -> None:
        """The first command makes the directory and database, its owner's alone, and says so."""
        outcome = self.chatctl("user", "list")
        self.assertEqual((outcome.status, outcome.out.count("\n")), (0, 1))
        state = self.directory / "state"
        self.assertEqual(outcome.err, f"There was no database: {state / 'chatd.db'} is new.\n")
        self.assertEqual(stat.S_IMODE(state.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((state / "chatd.db").stat().st_mode), 0o600)
        self.assertEqual(self.chatctl("user", "list").err, "")

    def test_status_changes_nothing(self) -> None:
        """The status of a database that is not there does not make it."""
        self.assertEqual(self.found("db", "status")["state"], "empty")
        self.assertFalse((self.directory / "state" / "chatd.db").exists())

    def test_order(self) -> None:
        """Options override the environment, which overrides the file; before or after the verb."""
        file = self.directory / "chatd.toml"
        paths = [self.directory / f"{name}.db" for name in ("file", "environment", "option")]
        urls = [f"sqlite:///{path}" for path in paths]
        file.write_text(f"[store]\nurl = '{urls[0]}'\n")
        self.where = ("--config", str(file))
        environment = {**os.environ, "CHATD_STORE_URL": urls[1]}
        runs: list[tuple[list[str], dict[str, str]]] = [
            ([], {**os.environ}),
            ([], environment),
            (["--store", urls[2]], environment),
        ]
        for count, (options, variables) in enumerate(runs, 1):
            outcome = self.run_process("user", "list", *options, env=variables)
            self.assertEqual(outcome.status, 0, outcome.err)
            self.assertEqual([path.exists() for path in paths], [n < count for n in range(3)])
        self.assertFalse((self.directory / "state").exists())

    def test_configuration_mistakes(self) -> None:
        """Each mistake in the configuration is a line, with status 78."""
        file = self.directory / "chatd.toml"
        self.refused(78, "cannot be read: No such file", "--config", str(file), "user", "list")
        self.refused(
            78, "cannot be read: Is a dir", "--config", str(self.directory), "db", "status"
        )
        file.write_text("[store]\nurl = 5\nconnections = 0\n[nothing]\n")
        outcome = self.chatctl("--config", str(file), "user", "list")
        self.assertEqual((outcome.status, outcome.out), (78, ""))
        self.assertEqual(outcome.err.count("\n"), 3)
        self.refused(78, "neither sqlite:// nor", "--store", "postgres://u:pw@h/d", "db", "status")

    def test_unknown_variable(self) -> None:
        """A variable that sets nothing is told, and the command is carried out."""
        os.environ["CHATD_STROE_URL"] = "mysql://"
        outcome = self.chatctl("db", "status")
        self.assertEqual(outcome.status, 0)
        self.assertRegex(outcome.err, r"\ACHATD_STROE_URL is ignored: .*\n\Z")

    def test_unusable_places(self) -> None:
        """A path that holds no database, or cannot hold one, is told with status 78."""
        file = self.directory / "file"
        file.write_text("This is not a database, though it is as long as one's header." * 20)
        for path, reason in (
            (file, "file is not a database"),
            (file / "chatd.db", f"{file}: File exists"),
            (self.directory, "unable to open"),
        ):
            wrong = ("--store", f"sqlite:///{path}", "user", "list")
            self.refused(78, f"{re.escape(str(path))} cannot be used: {reason}.*mend", *wrong)
        self.where = ("--state", str(file))
        self.refused(78, "state directory .* cannot", "user", "list")


class TerminalTests(Runs):
    """What passes between chatctl and a terminal, a pipe or a full disk."""

    def test_password_is_asked_for_twice(self) -> None:
        """On a terminal the password is typed twice, unseen, and has to be the same."""
        self.done("db", "upgrade")
        status, seen = self.type("user", "add", "alice", typed=(b"secret", b"sacred"))
        self.assertEqual(status, 1)
        self.assertIn(b"The two passwords differ; nothing was changed.", seen)
        status, more = self.type("user", "add", "alice", typed=(b"secret", b"secret"))
        self.assertEqual(status, 0, more)
        self.assertNotIn(b"secret", seen + more)
        self.assertEqual([row["name"] for row in self.found("user", "list")], ["alice"])

    def test_no_password_typed(self) -> None:
        """The end of input at the prompt is no password, an interrupt ends the program; neither
        shows a traceback or changes anything."""
        self.done("db", "upgrade")
        for key, status, sentence in (
            (END_OF_INPUT, 1, b"A password is one line"),
            (INTERRUPT, 130, b"Interrupted."),
        ):
            ended, seen = self.type("user", "add", "alice", typed=(key,))
            self.assertEqual(ended, status)
            self.assertIn(sentence, seen)
            self.assertNotIn(b"Traceback", seen)
        self.assertEqual(self.found("user", "list"), [])

    def type(self, *args: str, typed: Sequence[bytes]) -> tuple[int, bytes]:
        """Run on a terminal, answer each prompt; the status and what was to be seen."""
        keyboard, terminal = pty.openpty()
        self.addCleanup(os.close, keyboard)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        process = self.start(*args, start_new_session=True, **streams)
        os.close(terminal)
        seen = b""
        for line in typed:
            while not seen.endswith(b": "):
                seen += os.read(keyboard, 1024)
            if line == INTERRUPT:
                process.send_signal(signal.SIGINT)  # what a controlling terminal would do
            else:
                os.write(keyboard, line if line == END_OF_INPUT else line + b"\n")
            seen += os.read(keyboard, 1024)
        try:
            while chunk := os.read(keyboard, 1024):
                seen += chunk
        except OSError:  # so Linux tells that the other side is closed
            pass
        return process.wait(TIMEOUT), seen

    def test_narrow_encoding(self) -> None:
        """What the terminal's encoding lacks is escaped."""
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
        outcome = self.run_process("user", "add", "刘备", "--no-password", env=environment)
        self.assertEqual(outcome.out, "\\u5218\\u5907 has an account now.\n")

    def test_full_disk(self) -> None:
        """A result that cannot be written is told."""
        self.done("db", "upgrade")
        with open("/dev/full", "wb") as full:
            outcome = self.run_process("user", "list", stdout=full)
        self.assertEqual(outcome.status, 1)
        sentence = "It is done, but the result cannot be written: No space left on device.\n"
        self.assertEqual(outcome.err, sentence)

    def test_closed_pipe(self) -> None:
        """A reader that has gone away is no reason for a traceback."""
        self.done("db", "upgrade")
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as pipe:
            outcome = self.run_process("user", "list", stdout=pipe)
        self.assertEqual(outcome, (1, "", ""))

    def test_closed_input(self) -> None:
        """Without a standard input there is no password, and no traceback."""
        self.done("db", "upgrade")
        for option in ("", "--password-stdin"):
            program = [sys.executable, "-m", "chatd.client.chatctl", *self.where]
            ended = subprocess.run(
                ["sh", "-c", f'exec "$@" user add alice {option} <&-', "sh", *program],
                capture_output=True,
                cwd=ROOT,
                timeout=TIMEOUT,
            )
            self.assertEqual(ended.returncode, 1)
            self.assertEqual(ended.stderr.count(b"\n"), 1, ended.stderr)

    def test_usage(self) -> None:
        """Without noun or verb, or with a wrong one, usage is told with status 2, unprintable
        characters escaped; --help answers at each level."""
        for wrong in ([], ["user"], ["nobody"], ["user", "add"], ["db", "status", "\x1b[31m"]):
            outcome = self.chatctl(*wrong)
            self.assertEqual((outcome.status, outcome.out), (2, ""))
            self.assertIn("usage: chatctl", outcome.err)
            self.assertNotIn("\x1b", outcome.err)
        for level in ([], ["user"], ["user", "add"]):
            self.assertIn("--store URL", self.done(*level, "--help"))

    def test_both_ways_to_give_a_password(self) -> None:
        """--password-stdin and --no-password exclude each other."""
        wrong = ("user", "add", "alice", "--no-password", "--password-stdin")
        self.assertEqual(self.chatctl(*wrong).status, 2)

    def test_no_reactor(self) -> None:
        """Importing chatctl installs no reactor and loads no migration tool."""
        script = (
            "import sys, chatd.client.chatctl;"
            "sys.exit(sorted({'twisted.internet.reactor', 'alembic', 'sqlalchemy'}"
            " & set(sys.modules)) or 0)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            cwd=ROOT,
            timeout=TIMEOUT,
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, b""))


del Contract  # or the loader would run it by itself
