"""Tests of the configuration: every mistake is told, at once and usefully; secrets are not."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from chatd.config import (
    Config,
    ConfigError,
    create_state_directory,
    endpoint,
    jwt_key,
    load,
    settings,
    state_directory,
    store_url,
    warnings,
)

DEFAULTS = Path(__file__).parent.parent / "etc" / "chatd.toml"
STRONG = "q7Zr0kV2nX5sYb8cLd1eFg4hJm6pTu9w"
ENDPOINT_TYPES = ("tcp:", "ssl:", "tls:", "unix:", "systemd:", "haproxy:")

# What stands in the file; then what the message must hold: key, value found, what is allowed.
MISTAKES: list[tuple[str, Sequence[str]]] = [
    ("state = 5", ("state", "5", "a string")),
    ("[listen]\nhttp = 'tcp:1'", ("listen.http", '"tcp:1"', "an array of")),
    ("[listen]\nhttp = [8080]", ("listen.http", "[8080]", "an array of")),
    ("[listen]\nhttp = ['tcp']", ("listen.http", '"tcp"', "'port'", *ENDPOINT_TYPES)),
    ("[listen]\ntcp = ['tcp:seven']", ("listen.tcp", '"tcp:seven"', "not a number: 'seven'")),
    ("[listen]\ntcp = ['tcp:70000:interface=::1']", ("listen.tcp", "tcp:70000", "PORT")),
    ("[listen]\ntcp = ['tcp:70000']", ("listen.tcp", "tcp:70000", "from 0 to 65535")),
    ("[listen]\ntcp = ['udp:7000']", ("listen.tcp", "udp:", *ENDPOINT_TYPES)),
    ("[listen]\ntcp = ['haproxy:udp:7']", ("listen.tcp", "haproxy:udp:7", *ENDPOINT_TYPES)),
    ("[listen]\ntcp = ['tcp:7:iface=lo']", ("listen.tcp", "'iface'", "tcp:PORT:interface=")),
    ("[listen]\ntcp = ['unix:']", ("listen.tcp", "unix:", "the path is missing")),
    ("[listen]\ntcp = ['tls:/nowhere:1']", ("listen.tcp", "/nowhere", "tls:DIRECTORY:PORT")),
    ("[listen]\ntcp = ['ssl:1:privateKey=/no.pem']", ("listen.tcp", "/no.pem", "ssl:PORT")),
    ("[listen]\ntcp = ['systemd:domain=IP:index=0']", ("listen.tcp", "domain=IP", "INET6 or UNIX")),
    ("[listen]\ntcp = ['systemd:domain=INET']", ("listen.tcp", "systemd:", "index and name")),
    ("[listen]\nproxy = 'yes'", ("listen.proxy", '"yes"', "true or false")),
    ("[listen]\norigins = ['chat.example.org']", ("listen.origins", "no scheme", "https://")),
    ("[listen]\norigins = ['null']", ("listen.origins", '"null"', "no scheme", '"*"')),
    ("[listen]\norigins = ['https://x/']", ("listen.origins", '"https://x/"', "a browser sends")),
    ("[listen]\norigins = ['https://x/app']", ("listen.origins", "a browser sends")),
    ("[listen]\norigins = ['https://x?a']", ("listen.origins", "a browser sends")),
    ("[listen]\norigins = ['https://u@x']", ("listen.origins", "a browser sends")),
    ("[listen]\norigins = ['https://x:443']", ("listen.origins", "a browser sends")),
    ("[listen]\norigins = ['https://Example.org']", ("listen.origins", "a browser sends")),
    ("[listen]\norigins = ['https://例.org']", ("listen.origins", "in ASCII")),
    ("[listen]\nhttp = []\ntcp = []", ("listen.http", "[]", "one address or more")),
    (
        "[limits]\ntext_chars = 8193",
        ("limits.text_chars", "8193", "at most limits.line_bytes, 8192"),
    ),
    (
        "[listen]\ntcp = []\n[limits]\ntext_chars = 8193\nframe_bytes = 8192",
        ("limits.text_chars", "8193", "at most limits.frame_bytes, 8192"),
    ),
    (
        "[listen]\ntcp = []\n[limits]\ntext_chars = 8193\nbody_bytes = 8192",
        ("limits.text_chars", "8193", "at most limits.body_bytes, 8192"),
    ),
    ("[store]\nconnections = 0", ("store.connections", "0", "an integer from 1 to 64")),
    ("[store]\nconnections = 65", ("store.connections", "65", "an integer from 1 to 64")),
    ("[store]\nconnections = true", ("store.connections", "true", "an integer from 1 to 64")),
    ("[store]\nurl = 'postgres://h/db'", ("store.url", "postgres", "mysql://", "sqlite://")),
    ("[store]\nurl = 'mysql://h/'", ("store.url", "mysql", "database name is missing")),
    ("[store]\nurl = 'mysql://h:x/db'", ("store.url", "mysql", "host:port")),
    ("[store]\nurl = 'mysql://h/db?ssl=1'", ("store.url", "mysql", "unix_socket")),
    ("[store]\nurl = 'sqlite://x.db'", ("store.url", "sqlite://x.db", "three slashes")),
    ("[store]\nurl = 'sqlite:///:memory:'", ("store.url", ":memory:", "sqlite:///relative/path")),
    (
        "[accounts]\nregistration = 'none'",
        ("accounts.registration", '"none"', '"open" or "invitation" or "closed"'),
    ),
    ("[accounts]\ntoken_days = 1.5", ("accounts.token_days", "1.5", "an integer from 1 to 3650")),
    ("[jwt]\nalgorithm = 'none'", ("jwt.algorithm", '"none"', '"HS256" or "RS256"')),
    ("[jwt]\nclaim = ''", ("jwt.claim", '""', "not empty")),
    ("[jwt]\nkey_file = '/no/key'", ("jwt.key_file", "/no/key", "readable file")),
    ("[limits]\nline_bytes = 12", ("limits.line_bytes", "12", "an integer from 512 to 1048576")),
    ("[limits]\nline_bytes = '8k'", ("limits.line_bytes", '"8k"', "an integer from 512 to")),
    ("[heartbeat]\ninterval = 0", ("heartbeat.interval", "0", "a number from 0.1 to 3600")),
    ("[heartbeat]\ntimeout = nan", ("heartbeat.timeout", "NaN", "a number from 0.1 to 3600")),
    ("[log]\nformat = 'xml'", ("log.format", '"xml"', '"text" or "json"')),
    ("[log]\nlevel = 3", ("log.level", "3", '"debug" or "info" or "warn" or "error"')),
    ("[limits]\nline_byte = 1", ("limits.line_byte ", "did you mean limits.line_bytes?")),
    ("line_bytes = 1", ("line_bytes", "did you mean limits.line_bytes?")),
    ("[log]\nrotate = true", ("log.rotate", "allowed: log.format, log.level")),
    ("[limit]\nline_bytes = 1024", ("[limit]", "no such section", "did you mean limits?")),
    (
        "[zebra]",
        ("[zebra]", "allowed: listen, store, accounts, presence, jwt, limits, messages,"),
    ),
    ("limits = 5", ("limits", "int", "a table, [limits]")),
]

HIDDEN = "hunter2-s3cr3t"
# Each holds HIDDEN as a secret somewhere and is wrong.
SECRETS: list[tuple[str, str]] = [
    ("jwt.key", HIDDEN),
    ("jwt.key", f"-----BEGIN PRIVATE KEY-----{HIDDEN}{STRONG}"),
    ("store.url", f"mysql://chatd:{HIDDEN}@host/"),
    ("store.url", f"mysql://chatd:{HIDDEN}@host:port/db"),
    ("store.url", f"mysql://chatd:{HIDDEN}"),
    ("store.url", f"mysql://chatd:a/{HIDDEN}@host/db"),
    ("store.url", f"mysql://chatd:a@{HIDDEN}@host/"),
    ("store.url", f"mysql://chatd:a?{HIDDEN}@host/db"),
    ("store.url", f"mysql://chatd:a#{HIDDEN}@host/db"),
    ("store.url", f"mysql://chatd@host/db?password={HIDDEN}"),
    ("store.url", f"mysql://[chatd:{HIDDEN}@host/db"),
    ("store.url", f"postgres://chatd:{HIDDEN}@host/db"),
    ("store.url", f"sqlite://chatd:{HIDDEN}@host"),
    ("store.url", HIDDEN),
]

PRIVATE = [
    "tcp:8080:interface=127.0.0.1",
    "tcp:8080:127.9.9.9",
    "tcp:port=8080:interface=localhost",
    r"tcp:8080:interface=\:\:1",
    r"tcp:8080:interface=\:\:ffff\:127.0.0.1",
    "haproxy:tcp:8080:interface=127.0.0.1",
    "unix:/run/chatd.sock:mode=660",
    "systemd:domain=UNIX:index=0",
]
PUBLIC = [
    "tcp:8080",
    "tcp:0",
    "tcp:8080:interface=0.0.0.0",
    "tcp:8080:interface=192.168.1.2",
    "tcp:8080:interface=chat.example.org",
    "tcp:8080:interface=127.0.0.1:interface=10.0.0.1",
    r"tcp:8080:interface=\:\:",
    r"tcp:8080:interface=\:\:ffff\:10.0.0.1",
    "systemd:domain=INET:index=0",
    "systemd:domain=INET6:name=http",
]


class ConfigTestCase(SynchronousTestCase):
    """A place for files, and a way to look at mistakes."""

    def path(self) -> str:
        """Give a path where nothing is yet."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return os.path.join(directory.name, "it")

    def write(self, text: str | bytes) -> str:
        path = self.path()
        Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def read(self, text: str, environ: Mapping[str, str] | None = None, **options: Any) -> Config:
        return load(self.write(text), environ or {}, options)

    def mistakes(
        self, text: str, environ: Mapping[str, str] | None = None, **options: Any
    ) -> list[str]:
        error: ConfigError = self.assertRaises(ConfigError, self.read, text, environ, **options)
        self.assertEqual(str(error).split("\n"), error.mistakes)
        return error.mistakes

    def mistake(self, text: str, environ: Mapping[str, str] | None = None, **options: Any) -> str:
        mistakes = self.mistakes(text, environ, **options)
        self.assertEqual(len(mistakes), 1, mistakes)
        return mistakes[0]

    def rsa_pem(self, bits: int = 2048) -> str:
        return _public_pem(rsa.generate_private_key(public_exponent=65537, key_size=bits))


def _public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class MistakeTests(ConfigTestCase):
    def test_each(self) -> None:
        """A mistake is told in one line with its key, the file, the value and what is allowed."""
        for text, parts in MISTAKES:
            path = self.write(text)
            error = self.assertRaises(ConfigError, load, path, {}, {})
            found = [line for line in error.mistakes if all(part in line for part in parts)]
            self.assertEqual(len(found), 1, (text, error.mistakes))
            self.assertTrue(found[0].startswith(f"{parts[0].strip()} ({path}): "), found[0])

    def test_all_at_once(self) -> None:
        """Mistakes of the file, the environment, the command line and the rules come together."""
        mistakes = self.mistakes(
            "colour = 1\n[limits]\nline_bytes = 1\ntext_chars = 0\n[log]\nlevel = 'loud'",
            {"CHATD_STORE_CONNECTIONS": "many", "CHATD_JWT_KEY": "short"},
            http=["tcp:8080", "foo:1"],
        )
        keys = [mistake.split(" ")[0] for mistake in mistakes]
        self.assertEqual(
            sorted(keys),
            [
                "accounts.registration",
                "colour",
                "jwt.key",
                "limits.line_bytes",
                "limits.text_chars",
                "listen.http",
                "listen.http",
                "log.level",
                "store.connections",
            ],
        )

    def test_no_follow_up_mistakes(self) -> None:
        """What hangs on a value that is wrong is not called wrong as well."""
        self.assertIn(
            "listen.proxy",
            self.mistake("[listen]\nproxy=1\n[accounts]\npublic=true", http=["tcp:8080"]),
        )
        self.assertIn("is not TOML", self.mistake("[", http=["tcp:8080"]))

    def test_origin(self) -> None:
        """A mistake names the variable, the variable's file or the option it came from."""
        self.assertIn("(CHATD_LOG_LEVEL): ", self.mistake("", {"CHATD_LOG_LEVEL": "loud"}))
        named = {"CHATD_LOG_LEVEL_FILE": self.write("loud\n")}
        self.assertIn('(CHATD_LOG_LEVEL_FILE): found "loud"', self.mistake("", named))
        self.assertIn('listen.tcp (--tcp): found "foo:"', self.mistake("", tcp=["foo:"]))
        self.assertIn("store.url (--store): ", self.mistake("", store="mysql://"))

    def test_syntax(self) -> None:
        """A syntax error is told with its line and column."""
        self.assertIn("line 2, column 6", self.mistake("[log]\nlevel\n"))

    def test_unreadable(self) -> None:
        """A named file that is missing, a directory or not UTF-8 is a mistake."""
        missing = self.path()
        error = self.assertRaises(ConfigError, load, missing, {}, {})
        self.assertIn(f"{missing} (the file): cannot be read: No such file", str(error))
        error = self.assertRaises(ConfigError, load, "/", {}, {})
        self.assertIn("Is a directory", str(error))
        error = self.assertRaises(ConfigError, load, self.write(b"state = '\xff'"), {}, {})
        self.assertIn("not UTF-8 at byte 9", str(error))

    def test_one_line(self) -> None:
        """A value with line ends does not break its mistake into lines, nor does a long one."""
        self.assertIn(r"a\nb", self.mistake('[log]\nlevel = "a\\nb"'))
        self.assertLess(len(self.mistake(f"[log]\nlevel = '{'x' * 5000}'")), 300)

    def test_undecodable(self) -> None:
        """Bytes that are not UTF-8, and a path with a NUL, are mistakes that can be printed."""
        for variable in ("CHATD_STATE", "CHATD_JWT_KEY", "CHATD_LISTEN_HTTP", "CHATD_STORE_URL"):
            self.mistake("", {variable: f"{STRONG}\udcff"}).encode()
        self.assertIn("readable file", self.mistake('[jwt]\nkey_file = "/a\\u0000"'))


class PrecedenceTests(ConfigTestCase):
    def test_defaults(self) -> None:
        """Without anything given the defaults hold, and no file is read."""
        self.assertEqual(load(None, {}, {}), Config())

    def test_order(self) -> None:
        """Options override the environment, which overrides the file, which overrides defaults."""
        text = "state = '/file'\n[store]\nurl = 'sqlite:///file'\n[log]\nlevel = 'warn'"
        environ = {"CHATD_STATE": "/env", "CHATD_STORE_URL": "sqlite:///env"}
        config = self.read(text, environ, state="/option")
        self.assertEqual(
            (config.state, config.store.url, config.log.level, config.log.format),
            ("/option", "sqlite:///env", "warn", "text"),
        )

    def test_options_not_given(self) -> None:
        """None and an empty list leave the setting alone; names of other options are passed by."""
        config = load(None, {}, {"http": [], "state": None, "config": "x", "check": 1})
        self.assertEqual(config, Config())
        given = load(None, {}, {"http": ["unix:/a", "unix:/b"]})
        self.assertEqual(given.listen.http, ("unix:/a", "unix:/b"))

    def test_overridden_mistake(self) -> None:
        """A wrong value that is overridden does no harm."""
        self.assertEqual(self.read("[log]\nlevel=1", {"CHATD_LOG_LEVEL": "warn"}).log.level, "warn")


class EnvironmentTests(ConfigTestCase):
    def test_types(self) -> None:
        """Numbers and booleans are read as TOML reads them, arrays are separated by commas."""
        environ = {
            "CHATD_LIMITS_LINE_BYTES": "16_384",
            "CHATD_HEARTBEAT_INTERVAL": "2.5",
            "CHATD_HEARTBEAT_TIMEOUT": "7",
            "CHATD_LISTEN_PROXY": "true",
            "CHATD_LISTEN_HTTP": "unix:/a, unix:/b",
            "CHATD_LISTEN_TCP": "",
            "CHATD_JWT_ISSUER": "5",
        }
        config = load(None, environ, {})
        self.assertEqual(config.limits.line_bytes, 16384)
        self.assertEqual((config.heartbeat.interval, config.heartbeat.timeout), (2.5, 7))
        self.assertEqual(config.listen.proxy, True)
        self.assertEqual(config.listen.http, ("unix:/a", "unix:/b"))
        self.assertEqual(config.listen.tcp, ())
        self.assertEqual(config.jwt.issuer, "5")

    def test_wrong_types(self) -> None:
        """What TOML would not read as a number or boolean is a mistake, with the text found."""
        for text, found in (
            ("True", '"True"'),
            ("1", "1"),
            ("yes", '"yes"'),
            ("", '""'),
            ("true\nx = 1", r'"true\nx = 1"'),
        ):
            mistake = self.mistake("", {"CHATD_LISTEN_PROXY": text})
            self.assertIn(f"found {found}, allowed: true or false", mistake)

    def test_every_setting(self) -> None:
        """Each setting has a variable of its own."""
        self.assertEqual(len({setting.variable for setting in settings()}), len(settings()))
        for setting in settings():
            mistake = str(
                self.assertRaises(ConfigError, load, None, {setting.variable + "_FILE": "/no"}, {})
            )
            self.assertIn(setting.key, mistake)

    def test_file(self) -> None:
        """CHATD_…_FILE names a file with the value, less one newline at its end."""
        config = load(None, {"CHATD_STORE_URL_FILE": self.write("sqlite:///a \n")}, {})
        self.assertEqual(config.store.url, "sqlite:///a ")
        config = load(None, {"CHATD_LISTEN_PROXY_FILE": self.write("true")}, {})
        self.assertEqual(config.listen.proxy, True)

    def test_file_and_value(self) -> None:
        """A variable and its _FILE exclude each other."""
        environ = {"CHATD_STATE": "/a", "CHATD_STATE_FILE": self.write("/b")}
        self.assertIn("found CHATD_STATE_FILE too", self.mistake("", environ))

    def test_jwt_key_file(self) -> None:
        """CHATD_JWT_KEY_FILE is the setting jwt.key_file, which comes to the same."""
        path = self.write(STRONG + "\n")
        config = load(None, {"CHATD_JWT_KEY_FILE": path}, {})
        self.assertEqual((config.jwt.key_file, jwt_key(config.jwt)), (path, STRONG))

    def test_unknown(self) -> None:
        """An unknown CHATD_ variable is warned of without its value; it stops nothing."""
        environ = {"CHATD_LOG_LEVLE": "secret", "CHATD_LOG_LEVEL": "warn", "PATH": "/bin"}
        self.assertEqual(load(None, environ, {}).log.level, "warn")
        self.assertEqual(
            warnings(environ),
            ["CHATD_LOG_LEVLE is ignored: no such setting, did you mean CHATD_LOG_LEVEL?"],
        )
        self.assertEqual(warnings({"CHATD_ZZZ": ""}), ["CHATD_ZZZ is ignored: no such setting"])


class SecretTests(ConfigTestCase):
    def test_messages(self) -> None:
        """No mistake shows a secret, wherever it came from."""
        names = {setting.key: setting for setting in settings()}
        for key, value in SECRETS:
            variable = names[key].variable
            error = self.assertRaises(ConfigError, load, None, {variable: value}, {})
            self.assertIn(key, str(error))
            self.assertNotIn(HIDDEN, str(error), value)

    def test_wrong_shape(self) -> None:
        """A secret of the wrong type, under a wrong name or without its section is not shown."""
        for text in (
            f"[jwt]\nkey = ['{HIDDEN}']",
            f"[jwt]\nkye = '{HIDDEN}'",
            f"jwt = '{HIDDEN}'",
            f"[store]\nurl = ['mysql://u:{HIDDEN}@h/d']",
            f"[stor]\nurl = 'mysql://u:{HIDDEN}@h/d'",
            f"[jwt]\nkey = {HIDDEN}",
        ):
            self.assertNotIn(HIDDEN, self.mistake(text))

    def test_repr(self) -> None:
        """Neither the configuration nor the parsed URL shows a secret in its repr."""
        url = "mysql://chatd:hunter2@host/db"
        config = load(None, {"CHATD_STORE_URL": url, "CHATD_JWT_KEY": STRONG}, {})
        self.assertNotIn("hunter2", repr(config) + repr(store_url(url, "")))
        self.assertNotIn(STRONG, repr(config))
        self.assertIn("mysql://***@host/db", repr(config))


class SafetyTests(ConfigTestCase):
    def safe(self, *endpoints: str, **environ: str) -> list[str]:
        """Give the keys that are refused."""
        listen = {"http": ["unix:/x"], "tcp": list(endpoints)}
        try:
            load(None, {f"CHATD_{name}": value for name, value in environ.items()}, listen)
        except ConfigError as error:
            return [mistake.split(" ")[0] for mistake in error.mistakes]
        return []

    def test_public(self) -> None:
        """Loopback, and UNIX sockets, are not public; everything else is, as far as is known."""
        self.assertEqual([text for text in PRIVATE if endpoint(text).public], [])
        self.assertEqual([text for text in PUBLIC if not endpoint(text).public], [])

    def test_defaults_are_private(self) -> None:
        """The defaults listen on loopback alone."""
        for text in (*Config().listen.http, *Config().listen.tcp):
            self.assertFalse(endpoint(text).public)

    def test_tls(self) -> None:
        """ssl: and tls: are TLS and follow the same rules for their interface."""
        pem = self.write(_certificate())
        directory = os.path.dirname(pem)
        for start in (f"ssl:443:privateKey={pem}", f"tls:{directory}:443"):
            at = endpoint(start)
            self.assertEqual((at.text, at.public, at.tls, at.proxy), (start, True, True, False))
            self.assertFalse(endpoint(f"{start}:interface=127.0.0.1").public)
            self.assertEqual(self.safe(start), ["accounts.registration"])
            self.assertEqual(self.safe(start, ACCOUNTS_REGISTRATION="closed"), [])

    def test_haproxy(self) -> None:
        """haproxy: is what it wraps, with the proxy stated."""
        for text in (*PRIVATE, *PUBLIC):
            if text.startswith("haproxy:"):
                continue
            inner, outer = endpoint(text), endpoint(f"haproxy:{text}")
            self.assertEqual((outer.public, outer.proxy), (inner.public, True))
            self.assertFalse(inner.proxy)

    def test_same_address_twice(self) -> None:
        """An address is listened on once, however it is written; a free port is any number."""
        for texts in (
            ("unix:/x",),
            ("tcp:7:interface=127.0.0.1", "tcp:port=7:interface=127.0.0.1"),
            ("tcp:7:interface=127.0.0.1", "haproxy:tcp:7:interface=127.0.0.1"),
            ("systemd:domain=UNIX:index=0", "systemd:domain=UNIX:index=0"),
            ("systemd:domain=UNIX:name=a", "haproxy:systemd:domain=UNIX:name=a"),
        ):
            self.assertEqual(self.safe(*texts), ["listen.tcp"], texts)
        for texts in (
            ("tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"),
            ("tcp:7:interface=127.0.0.1", "tcp:8:interface=127.0.0.1"),
            ("tcp:7:interface=127.0.0.1", "tcp:7:interface=127.0.0.2"),
            ("systemd:domain=UNIX:index=0", "systemd:domain=UNIX:index=1"),
        ):
            self.assertEqual(self.safe(*texts), [], texts)
        (twice,) = self.mistakes("", http=["unix:/x", "unix:/x"], tcp=[])
        self.assertIn('listen.http (--http): found "unix:/x", an address that is', twice)

    def test_origins(self) -> None:
        """What browsers send as an origin is let in."""
        said = ["*", "https://x.org", "http://x:8080", "https://x:80", "capacitor://localhost"]
        origins = [*said, "http://[::1]:3000", "https://xn--fsqu00a.example", "app://obsidian.md"]
        config = load(None, {"CHATD_LISTEN_ORIGINS": ",".join(origins)}, {})
        self.assertEqual(config.listen.origins, tuple(origins))

    def test_private_is_free(self) -> None:
        """On an address that is not public, registration is open and text is plain."""
        for text in PRIVATE:
            self.assertEqual(self.safe(text), [], text)

    def test_matrix(self) -> None:
        """On a public address each rule is kept by itself, whatever the other settings are."""
        for text in PUBLIC:
            for registration in ("open", "invitation", "closed"):
                for public in ("true", "false"):
                    for proxy in ("true", "false"):
                        expected = []
                        if registration == "open" and public == "false":
                            expected.append("accounts.registration")
                        if proxy == "false":
                            expected.append("listen.tcp")
                        refused = self.safe(
                            text,
                            ACCOUNTS_REGISTRATION=registration,
                            ACCOUNTS_PUBLIC=public,
                            LISTEN_PROXY=proxy,
                        )
                        self.assertEqual(refused, expected)

    def test_sentences(self) -> None:
        """Each refusal says which address is public and what to set."""
        registration, plain = self.mistakes("", tcp=["tcp:7000"])
        self.assertIn('found "open" with a public address, "tcp:7000"', registration)
        self.assertIn("set accounts.public = true", registration)
        self.assertIn('found "tcp:7000"', plain)
        self.assertIn("listen.proxy = true", plain)
        self.assertIn("ssl: or tls:", plain)
        self.assertIn("listen.http (--http)", self.mistakes("", http=["tcp:80"])[1])

    def test_store_password(self) -> None:
        """A sample password for the database is refused with a public address alone."""
        stated = {"ACCOUNTS_REGISTRATION": "closed", "LISTEN_PROXY": "true"}
        for password, refused in (
            ("secret", True),
            ("Password", True),
            ("change-me", True),
            ("chang%65me", True),
            ("k3jH8dfQ2z", False),
            ("", False),
        ):
            url = f"mysql://chatd:{password}@host/db"
            expected = ["store.url"] if refused else []
            self.assertEqual(self.safe("tcp:7000", STORE_URL=url, **stated), expected, password)
            self.assertEqual(self.safe("unix:/y", STORE_URL=url, **stated), [])


class JWTTests(ConfigTestCase):
    def wrong(self, key: str, algorithm: str = "HS256") -> str:
        environ = {"CHATD_JWT_KEY": key, "CHATD_JWT_ALGORITHM": algorithm}
        return self.mistake("", environ)

    def test_strong(self) -> None:
        """A random key of 32 bytes is good for HS256, and is what jwt_key gives."""
        config = load(None, {"CHATD_JWT_KEY": STRONG}, {})
        self.assertEqual(jwt_key(config.jwt), STRONG)
        self.assertEqual(jwt_key(Config().jwt), "")

    def test_short(self) -> None:
        """A key under 32 bytes is a mistake, on loopback as well; bytes count, not characters."""
        self.assertIn("of 31 bytes for HS256, allowed: for HS256", self.wrong(STRONG[:31]))
        load(None, {"CHATD_JWT_KEY": "密钥密码绝对安全不可猜测"}, {})

    def test_samples(self) -> None:
        """A sample is a mistake, however it is written or repeated."""
        for key in (
            "secret",
            "changeme",
            "CHANGE-ME-please-with-something-of-32-bytes",
            "a-string-secret-at-least-256-bits-long",
            "your-256-bit-secret" * 2,
            "password" * 5,
            "0" * 64,
        ):
            self.assertIn("jwt.key (CHATD_JWT_KEY): found a sample", self.wrong(key))

    def test_algorithm_confusion(self) -> None:
        """A PEM is no shared secret: anybody may know a public key."""
        self.assertIn("no shared secret", self.wrong(self.rsa_pem()))

    def test_public_key(self) -> None:
        """RS256 takes an RSA public key in PEM, given or in a file."""
        pem = self.rsa_pem()
        load(None, {"CHATD_JWT_KEY": pem, "CHATD_JWT_ALGORITHM": "RS256"}, {})
        path = self.write(pem)
        config = load(None, {"CHATD_JWT_KEY_FILE": path, "CHATD_JWT_ALGORITHM": "RS256"}, {})
        self.assertEqual(jwt_key(config.jwt), pem.removesuffix("\n"))

    def test_no_public_key(self) -> None:
        """RS256 takes neither a secret, a private key, another kind of key nor a short one."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.assertIn("not a public key in PEM", self.wrong(STRONG, "RS256"))
        self.assertIn("not a public key in PEM", self.wrong(private, "RS256"))
        self.assertIn("of another kind than RSA", self.wrong(_public_pem(key), "RS256"))
        self.assertIn("an RSA key of 1024 bits", self.wrong(self.rsa_pem(1024), "RS256"))

    def test_exclusive(self) -> None:
        """jwt.key and jwt.key_file exclude each other."""
        text = f"[jwt]\nkey = '{STRONG}'\nkey_file = '{self.write(STRONG)}'"
        self.assertIn("and jwt.key too, allowed: one of them", self.mistake(text))

    def test_file_contents(self) -> None:
        """The file's key is held to the same, and an empty file is no way to turn JWT off."""
        for content in ("short", ""):
            text = f"[jwt]\nkey_file = '{self.write(content)}'"
            self.assertIn("jwt.key_file", self.mistake(text))
        self.assertIn(
            "readable file", self.mistake(f"[jwt]\nkey_file='{self.write(bytes([255]))}'")
        )


class StoreURLTests(SynchronousTestCase):
    def test_sqlite(self) -> None:
        """Three slashes are relative, four absolute, nothing is in the state directory."""
        self.assertEqual(store_url("sqlite:///a/b.db", "/s").path, "a/b.db")
        self.assertEqual(store_url("sqlite:////a/b.db", "/s").path, "/a/b.db")
        default = store_url("", "/s")
        self.assertEqual((default.kind, default.path), ("sqlite", "/s/chatd.db"))

    def test_mysql(self) -> None:
        """User, password, host, port and database are taken apart, percent-decoded."""
        url = store_url("mysql://us%40er:p%2Fa%3As+s%25@db.example:3307/chat", "/s")
        self.assertEqual(
            (url.kind, url.user, url.password, url.host, url.port, url.database, url.unix_socket),
            ("mysql", "us@er", "p/a:s+s%", "db.example", 3307, "chat", ""),
        )

    def test_mysql_defaults(self) -> None:
        """Host and port default to localhost and 3306; a socket's path may be given."""
        url = store_url("mysql:///chat?unix_socket=/run/my%20sql.sock", "/s")
        self.assertEqual(
            (url.host, url.port, url.unix_socket), ("localhost", 3306, "/run/my sql.sock")
        )
        self.assertEqual(store_url("mysql://[::1]/chat", "").host, "::1")


class StateDirectoryTests(ConfigTestCase):
    def test_order(self) -> None:
        """The setting, then systemd's directory, then XDG's, then the one below home."""
        environ = {"HOME": "/h", "XDG_STATE_HOME": "/x", "STATE_DIRECTORY": "/v/chatd:/v/two"}
        self.assertEqual(state_directory("/set", environ), "/set")
        self.assertEqual(state_directory("~/set", environ), "/h/set")
        self.assertEqual(state_directory("", environ), "/v/chatd")
        del environ["STATE_DIRECTORY"]
        self.assertEqual(state_directory("", environ), "/x/chatd")
        environ["XDG_STATE_HOME"] = "relative/is/ignored"
        self.assertEqual(state_directory("", environ), "/h/.local/state/chatd")

    def test_create(self) -> None:
        """It is made with its parents, for the owner alone; an existing one is left as it is."""
        path = os.path.join(self.path(), "a", "b")
        create_state_directory(path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o700)
        os.chmod(path, 0o750)
        create_state_directory(path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o750)

    def test_cannot_create(self) -> None:
        """Where it cannot be made, a sentence says so and what to set."""
        path = os.path.join(self.write("a file"), "state")
        error = self.assertRaises(ConfigError, create_state_directory, path)
        self.assertIn(f"{path} cannot be made: Not a directory; set state", str(error))


class FileTests(ConfigTestCase):
    def test_matches(self) -> None:
        """The default file has every setting once, commented out, at its default."""
        text = DEFAULTS.read_text("utf-8")
        self.assertEqual(load(str(DEFAULTS), {}, {}), Config())
        document = tomllib.loads(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
        found = {}
        for name, value in document.items():
            inner = value if isinstance(value, dict) else {"": value}
            found.update({f"{name}.{key}".rstrip("."): each for key, each in inner.items()})
        arrays = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
        self.assertEqual(arrays, {setting.key: setting.default for setting in settings()})

    def test_explains(self) -> None:
        """Above each line stands what the setting does and what is allowed."""
        text = DEFAULTS.read_text("utf-8")
        comments = re.findall(r"((?:^# .*\n)+)#([a-z_]+) = ", text, flags=re.MULTILINE)
        self.assertEqual(len(comments), len(settings()))
        for (comment, name), setting in zip(comments, settings(), strict=True):
            prose = " ".join(line.removeprefix("# ") for line in comment.splitlines())
            self.assertEqual(setting.key.rpartition(".")[2], name)
            self.assertIn(setting.description, prose)
            self.assertIn(f"Allowed: {setting.allowed}.", prose)

    def test_settings(self) -> None:
        """Every setting is described in a sentence and allows its own default."""
        for setting in settings():
            self.assertRegex(setting.description, r"^[A-Z].*\.$")
            self.assertTrue(setting.allowed)


class ImportTests(SynchronousTestCase):
    def test_no_reactor(self) -> None:
        """Reading a configuration installs no reactor."""
        program = (
            "import sys; from chatd.config import load; load(None, {'CHATD_LISTEN_TCP': "
            "'haproxy:tcp:0:interface=127.0.0.1,tls:/tmp:1:interface=127.0.0.1,"
            "unix:/x,systemd:domain=UNIX:index=0'}, {}); "
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        root = str(DEFAULTS.parent.parent)
        environ = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, "-c", program], env=environ, check=True)
