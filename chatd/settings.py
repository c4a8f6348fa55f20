"""The settings: every name, default, bound and description, and what their strings stand for."""

import functools
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, inspect
from twisted.internet import endpoints
from twisted.internet.protocol import Factory

ENDPOINTS = (
    "tcp:PORT:interface=ADDRESS, ssl:PORT:privateKey=FILE:certKey=FILE, tls:DIRECTORY:PORT, "
    "unix:PATH, systemd:domain=INET:index=0, or haproxy: before one of these"
)
STORE_URLS = (
    '"", sqlite:///relative/path, sqlite:////absolute/path or '
    "mysql://user:password@host:port/database?unix_socket=/path"
)
JWT_KEYS = (
    "for HS256 a random string of 32 bytes or more (openssl rand -base64 48 makes one), "
    "for RS256 an RSA public key in PEM of 2048 bits or more"
)


class StoreURL(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is; strings are percent-decoded, "" where the URL says nothing."""

    kind: Literal["sqlite", "mysql"]
    path: str = ""
    user: str = ""
    password: str = ""
    host: str = ""
    port: int = 3306
    database: str = ""
    unix_socket: str = ""

    def __repr__(self) -> str:
        if self.kind == "sqlite":
            return f"StoreURL(sqlite, {self.path!r})"
        place = self.unix_socket or f"{self.host}:{self.port}"
        return f"StoreURL(mysql, {self.user!r} at {place!r}, {self.database!r})"

    def __str__(self) -> str:
        """Which it is, for a sentence."""
        if self.kind == "sqlite":
            return self.path
        return f"{self.database} at {self.unix_socket or self.host}"


def store_url(url: str, state: str) -> StoreURL:
    """Parse `store.url` with SQLAlchemy's meaning; "" is chatd.db in the directory `state`.

    ValueError says what is wrong without quoting the URL, which holds a password.
    """
    if not url:
        return StoreURL(kind="sqlite", path=os.path.join(state, "chatd.db"))
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return _sqlite(rest)
    if scheme == "mysql":
        return _mysql(url)
    raise ValueError("the scheme is neither sqlite:// nor mysql://")


def _sqlite(rest: str) -> StoreURL:
    path = rest.removeprefix("/")
    if path == rest:
        raise ValueError("the path is missing: three slashes stand before it")
    if "?" in path or path == ":memory:":
        raise ValueError("a file is needed, without parameters")
    return StoreURL(kind="sqlite", path=path)


def _mysql(url: str) -> StoreURL:
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError:
        reason = "the host or port is wrong (in user and password percent-encode / : @ ? # %)"
        raise ValueError(reason) from None
    parameter, _, unix_socket = parts.query.partition("=")
    database = unquote(parts.path[1:])
    if not database or "/" in database:
        raise ValueError("the database name is missing")
    if (parts.query and parameter != "unix_socket") or "&" in unix_socket or parts.fragment:
        raise ValueError("the only parameter is unix_socket")
    return StoreURL(
        kind="mysql",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        host=parts.hostname or "localhost",
        port=port,
        database=database,
        unix_socket=unquote(unix_socket),
    )


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint string says about who can connect and who can listen in; `address` is
    the same for what cannot be listened on twice, and "" where a free port is taken."""

    text: str
    address: str = ""
    public: bool = False
    tls: bool = False
    proxy: bool = False


_tokens: Callable[[str], tuple[list[str], dict[str, str]]] = endpoints._parse
_server: Callable[[object, str], Any] = endpoints.serverFromString


class _Listening:
    """Takes the reactor's place, to learn from Twisted's own parser where it would listen."""

    port = 0
    interface: str | None = None
    path = ""

    def listenTCP(self, port: int, factory: object, backlog: int, interface: str) -> None:
        self.port, self.interface = port, interface

    def listenSSL(
        self, port: int, factory: object, contextFactory: Any, backlog: int, interface: str
    ) -> None:
        contextFactory.getContext()  # a key that is not the certificate's shows here
        self.port, self.interface = port, interface

    def listenUNIX(self, address: str, *arguments: object, **options: object) -> None:
        self.path = address


def _by_twisted(text: str) -> Endpoint:
    listening = _Listening()
    _server(listening, text).listen(Factory())
    _check_port(listening.port)
    if listening.interface is None and not listening.path:
        raise ValueError("the path is missing")
    return Endpoint(
        text=text,
        address=listening.path or _address(listening.interface, listening.port),
        public=_is_public(listening.interface),
        tls=text.startswith("ssl:"),
    )


def _address(interface: str | None, port: int) -> str:
    return f"{interface or '0.0.0.0'} {port}" if port else ""


def _by_signature(read: Callable[..., Endpoint], text: str) -> Endpoint:
    # Twisted's parsers of these would import the reactor, or need systemd's sockets at hand.
    arguments, options = _tokens(text)
    return msgspec.structs.replace(read(*arguments[1:], **options), text=text)


def _tls(path: str, port: str = "443", backlog: str = "50", interface: str = "::") -> Endpoint:
    _check_port(int(port))
    int(backlog)
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a directory of certificates")
    address = _address(interface, int(port))
    return Endpoint(text="", address=address, public=_is_public(interface), tls=True)


def _systemd(domain: str, index: str = "", name: str = "") -> Endpoint:
    if domain not in ("INET", "INET6", "UNIX"):
        raise ValueError("domain is INET, INET6 or UNIX")
    if bool(index) == bool(name):
        raise ValueError("one of index and name is needed")
    int(index or 0)
    # Which address it is bound to is not told.
    return Endpoint(text="", address=f"systemd {index or name}", public=domain != "UNIX")


_ENDPOINT_TYPES: dict[str, Callable[[str], Endpoint]] = {
    "tcp": _by_twisted,
    "ssl": _by_twisted,
    "unix": _by_twisted,
    "tls": functools.partial(_by_signature, _tls),
    "systemd": functools.partial(_by_signature, _systemd),
}


def endpoint(text: str) -> Endpoint:
    """Parse a Twisted server endpoint string; ValueError says what is wrong with it."""
    kind, _, rest = text.partition(":")
    if kind == "haproxy":
        return msgspec.structs.replace(endpoint(rest), text=text, proxy=True)
    read = _ENDPOINT_TYPES.get(kind)
    if read is None:
        raise ValueError(f'there is no endpoint type "{kind}:"')
    try:
        return read(text)
    except Exception as error:  # Twisted's parser and OpenSSL let anything out
        raise ValueError(reason(error)) from error


def reason(error: Exception) -> str:
    """Why an endpoint cannot be used, from what Twisted or OpenSSL raised."""
    if error.args and isinstance(error.args[0], list):  # OpenSSL's: (library, function, reason)
        return ", ".join(found[-1] for found in error.args[0])
    without_function = re.sub(r"^\w+\(\) ", "", str(error))
    return re.sub(r"^invalid literal for int.*?: ", "not a number: ", without_function)


def _origin(text: str) -> None:
    """ValueError for what no browser sends as an Origin (RFC 6454 §6.2)."""
    if text == "*":
        return
    parts = urlsplit(text)
    if not parts.scheme or not parts.netloc:
        raise ValueError("it has no scheme and host")
    said = f"{parts.scheme}://{parts.netloc.lower()}"
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is not None:
        said = said.removesuffix(f":{default}")
    if text != said or "@" in said or not said.isascii():
        raise ValueError("a browser sends scheme, host (in ASCII) and a port that is unusual")


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port from 0 to 65535")


def _is_public(interface: str | None) -> bool:
    if interface in (None, "localhost"):
        return False
    try:
        address = ipaddress.ip_address(interface or "0.0.0.0")
    except ValueError:
        return True  # a host name: whatever it resolves to by then
    return not (getattr(address, "ipv4_mapped", None) or address).is_loopback


def shown(value: object) -> str:
    """Show a value as TOML would write it, on one line and not longer than 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    return text if len(text) <= 80 else text[:79] + "…"


def _without_password(value: object) -> str:
    # What a broken URL means by @, : and ? is unknown: keep what can be no part of a password.
    if not isinstance(value, str) or "://" not in value:
        return shown(value) if value == "" else "(hidden)"
    scheme, _, rest = value.partition("://")
    if scheme == "sqlite" and "@" not in rest:
        return shown(value)
    _, sign, place = rest.partition("?")[0].rpartition("@")
    return shown(f"{scheme}://***@{place}" if sign else f"{scheme}://***")


def _not_empty(text: str) -> None:
    if not text:
        raise ValueError("it is empty")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the file; its repr hides what is secret."""

    def __repr__(self) -> str:
        values = (
            f"{field.name}={_details(field.type).get('show', repr)(getattr(self, field.name))}"
            for field in msgspec.structs.fields(self)
        )
        return f"{type(self).__name__}({', '.join(values)})"


def _is(description: str, ge: float | None = None, le: float | None = None, **extra: Any) -> Meta:
    """Describe a setting: its bounds and, in `extra`, what the loader cannot read off its type.

    option: its name on the command line; check: raises ValueError for a string (each, in an
    array) that means nothing; allowed: what the check lets in; show: hides what is secret.
    """
    return Meta(description=description, ge=ge, le=le, extra=extra)


_ENDPOINT: dict[str, Any] = {"check": endpoint, "allowed": f"an array of {ENDPOINTS}"}
_URL: dict[str, Any] = {
    "check": lambda url: store_url(url, ""),
    "allowed": STORE_URLS,
    "show": _without_password,
}
_NAME: dict[str, Any] = {"check": _not_empty, "allowed": "a string that is not empty"}
_KEY: dict[str, Any] = {"allowed": JWT_KEYS, "show": lambda key: "(hidden)" if key else '""'}

_ORIGIN: dict[str, Any] = {
    "check": _origin,
    "allowed": 'an array of origins such as https://chat.example.org, or "*"',
}

Strings = tuple[str, ...]


class Listen(Section, frozen=True, kw_only=True):
    http: Annotated[
        Strings, _is("Where HTTP and WebSocket listen.", option="http", **_ENDPOINT)
    ] = ("tcp:8080:interface=127.0.0.1",)
    tcp: Annotated[Strings, _is("Where lines over TCP listen.", option="tcp", **_ENDPOINT)] = (
        "tcp:7000:interface=127.0.0.1",
    )
    proxy: Annotated[bool, _is("A proxy that ends TLS stands in front of every address.")] = False
    origins: Annotated[
        Strings, _is('Browser origins let in besides the own; "*": all.', **_ORIGIN)
    ] = ()
    deflate: Annotated[
        bool, _is("Browsers may compress: less traffic, more work (permessage-deflate).")
    ] = False


class Store(Section, frozen=True, kw_only=True):
    url: Annotated[str, _is('The database; "": STATE/chatd.db.', option="store", **_URL)] = ""
    connections: Annotated[
        int, _is("Connections to MySQL to write, and as many to read.", 1, 64)
    ] = 4


class Accounts(Section, frozen=True, kw_only=True):
    registration: Annotated[
        Literal["open", "invitation", "closed"], _is("Who may register an account.")
    ] = "open"
    public: Annotated[bool, _is("Registration may be open on a public address.")] = False
    token_days: Annotated[int, _is("Days until a session token expires.", 1, 3650)] = 30
    one_session_per_device: Annotated[
        bool, _is("A login ends the user's other sessions on the same kind of device.")
    ] = False


class Presence(Section, frozen=True, kw_only=True):
    linger_seconds: Annotated[
        float, _is("Seconds without a session until others are told offline.", 0, 3600)
    ] = 10


class JWT(Section, frozen=True, kw_only=True):
    algorithm: Annotated[Literal["HS256", "RS256"], _is("How JWTs are signed.")] = "HS256"
    key: Annotated[str, _is('What proves a JWT; "": no JWT logins.', **_KEY)] = ""
    key_file: Annotated[str, _is("A file with the key, instead of jwt.key.")] = ""
    claim: Annotated[str, _is("The claim that names the user.", **_NAME)] = "sub"
    audience: Annotated[str, _is('The audience a JWT must name; "": any.')] = ""
    issuer: Annotated[str, _is('The issuer a JWT must name; "": any.')] = ""


class Limits(Section, frozen=True, kw_only=True):
    connections: Annotated[int, _is("Open connections.", 1, 1_000_000)] = 20_000
    address_connections: Annotated[
        int, _is("Open connections from one address; this machine's own are free.", 1, 1_000_000)
    ] = 1000
    session_rate: Annotated[
        int, _is("Requests a second of a session; dear ones count more.", 1, 1_000_000)
    ] = 2000
    user_rate: Annotated[int, _is("Requests a second of all sessions of a user.", 1, 1_000_000)] = (
        4000
    )
    address_rate: Annotated[
        int, _is("Requests a second from one address; this machine's own are free.", 1, 1_000_000)
    ] = 20_000
    burst_seconds: Annotated[
        float, _is("Seconds of a rate that may be saved up for a burst.", 1, 3600)
    ] = 5
    mistakes_per_minute: Annotated[
        int, _is("Refused requests a minute until a session is closed.", 1, 1_000_000)
    ] = 600
    frames_per_second: Annotated[
        int, _is("Control frames and fragments a second of a WebSocket.", 1, 1_000_000)
    ] = 500
    rooms: Annotated[int, _is("Groups that a user may be in.", 1, 100_000)] = 1000
    members: Annotated[int, _is("Members that a group may have.", 2, 1_000_000)] = 10_000
    friends: Annotated[
        int, _is("Friends that a user may have; as many requests, and blocks.", 1, 100_000)
    ] = 5000
    line_bytes: Annotated[int, _is("Bytes in a line over TCP.", 512, 1_048_576)] = 8192
    frame_bytes: Annotated[int, _is("Bytes in a WebSocket message.", 512, 16_777_216)] = 65_536
    header_bytes: Annotated[int, _is("Bytes in HTTP headers.", 1024, 1_048_576)] = 16_384
    body_bytes: Annotated[int, _is("Bytes in an HTTP body.", 512, 16_777_216)] = 65_536
    text_chars: Annotated[int, _is("Characters in a message's text.", 1, 1_000_000)] = 8000
    data_bytes: Annotated[int, _is("Bytes of JSON in a message's data.", 2, 1_048_576)] = 4096
    receipt_members: Annotated[
        int, _is("Members of a group that are told what the others have read.", 2, 10_000)
    ] = 100
    requests_under_way: Annotated[int, _is("Requests per session at once.", 1, 10_000)] = 64
    outbound_bytes: Annotated[
        int, _is("Bytes buffered per session before it is fed from the log.", 16_384, 1_073_741_824)
    ] = 262_144
    login_seconds: Annotated[float, _is("Seconds until a login is due.", 0.1, 3600)] = 30
    passwords_per_minute: Annotated[
        int, _is("Wrong passwords a minute per account; ten times that per address.", 1, 10_000)
    ] = 20
    passwords_at_once: Annotated[
        int, _is("Passwords that are hashed or wait for it.", 1, 10_000)
    ] = 200
    handshake_seconds: Annotated[
        float, _is("Seconds until the head of a first HTTP request is there.", 0.1, 300)
    ] = 5
    body_seconds: Annotated[
        float, _is("Seconds until the rest of an HTTP request is there.", 0.1, 3600)
    ] = 30


class Messages(Section, frozen=True, kw_only=True):
    edit_seconds: Annotated[
        int, _is("Seconds in which one's messages may be edited; 0: never.", 0, 2_000_000_000)
    ] = 86_400
    recall_seconds: Annotated[
        int,
        _is("Seconds in which one's messages may be recalled, by admins always.", 0, 2_000_000_000),
    ] = 86_400
    call_all_seconds: Annotated[
        int, _is("Seconds between two calls of @all in a group.", 0, 2_000_000_000)
    ] = 60


class Heartbeat(Section, frozen=True, kw_only=True):
    interval: Annotated[float, _is("Seconds of silence before a ping.", 0.1, 3600)] = 30
    timeout: Annotated[float, _is("Seconds in which a ping is answered.", 0.1, 3600)] = 10


class Log(Section, frozen=True, kw_only=True):
    format: Annotated[Literal["text", "json"], _is("How a log entry is written.")] = "text"
    level: Annotated[
        Literal["debug", "info", "warn", "error"], _is("The least that is logged.")
    ] = "info"


class Config(Section, frozen=True, kw_only=True):
    """Everything that can be set."""

    state: Annotated[str, _is('The directory of what is kept; "": the usual.', option="state")] = ""
    listen: Listen = Listen()
    store: Store = Store()
    accounts: Accounts = Accounts()
    presence: Presence = Presence()
    jwt: JWT = JWT()
    limits: Limits = Limits()
    messages: Messages = Messages()
    heartbeat: Heartbeat = Heartbeat()
    log: Log = Log()


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, as people and the loader see it."""

    key: str
    default: Any
    allowed: str
    description: str
    type: Any
    option: str | None = None
    check: Callable[[str], object] | None = None
    show: Callable[[object], str] = shown

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "CHATD_" + self.key.replace(".", "_").upper()


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All settings, in the order of the file."""
    return tuple(_settings(Config, ""))


def _settings(section: type[Section], prefix: str) -> Iterator[Setting]:
    for field in msgspec.structs.fields(section):
        if isinstance(field.default, Section):
            yield from _settings(type(field.default), f"{field.name}.")
            continue
        details = {"allowed": _allowed(field.type)} | _details(field.type)
        yield Setting(key=prefix + field.name, default=field.default, type=field.type, **details)


def _details(annotated: Any) -> dict[str, Any]:
    """Read back what `_is` wrote."""
    info = inspect.type_info(annotated)
    if not isinstance(info, inspect.Metadata):
        return {}
    return {**(info.extra_json_schema or {}), **(info.extra or {})}


def _allowed(annotated: Any) -> str:
    info = inspect.type_info(annotated)
    match info.type if isinstance(info, inspect.Metadata) else info:
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:g}"
        case inspect.LiteralType():
            choices = get_args(get_args(annotated)[0])  # msgspec would sort them
            return " or ".join(shown(choice) for choice in choices)
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType():
            return "an array of strings"
    return "a string"
