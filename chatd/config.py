"""The configuration: read from file, environment and command line, checked, every mistake told."""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chatd.settings import (
    JWT,
    JWT_KEYS,
    Config,
    Endpoint,
    Setting,
    StoreURL,
    endpoint,
    settings,
    shown,
    store_url,
)

__all__ = [
    "Config",
    "ConfigError",
    "Endpoint",
    "Setting",
    "StoreURL",
    "create_state_directory",
    "endpoint",
    "jwt_key",
    "load",
    "settings",
    "state_directory",
    "store_url",
    "warnings",
]


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` has one line for each thing to mend."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = [" ".join(mistake.splitlines()) for mistake in mistakes]
        super().__init__("\n".join(self.mistakes))


class Given(msgspec.Struct, frozen=True):
    """A value somebody set, and where: a file, a variable or an option."""

    value: Any
    origin: str


class Mistakes:
    """Collects what is wrong, and which settings are in doubt for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.doubtful: set[str] = set()

    def add(self, place: str, origin: str, sentence: str, *keys: str) -> None:
        """Note what is wrong at a place; `keys` are the settings whose value is not known now."""
        self.lines.append(f"{place} ({origin}): {sentence}")
        self.doubtful.update(keys)


def load(path: str | None, environ: Mapping[str, str], options: Mapping[str, Any]) -> Config:
    """Read the configuration: options override the environment, that the file, that defaults.

    `path` names the TOML file; None means no file. `options` holds what the command line gave, by
    option name (`http`, `tcp`, `state`, `store`); None, an empty list and other names count as
    not given. Raises ConfigError with all mistakes at once.
    """
    mistakes = Mistakes()
    given = {setting.key: Given(setting.default, "default") for setting in settings()}
    given |= _from_file(path, mistakes) if path is not None else {}
    given |= _from_environment(environ, mistakes)
    given |= _from_options(options)
    config = _convert(given, mistakes)
    for rule, keys in _RULES.items():
        if mistakes.doubtful.isdisjoint(keys):
            for key, sentence in rule(config):
                mistakes.add(key, given[key].origin, sentence)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return config


def warnings(environ: Mapping[str, str]) -> list[str]:
    """Tell of each CHATD_ variable that sets nothing, in a sentence."""
    names = {setting.variable for setting in settings()}
    names |= {f"{name}_FILE" for name in names}
    unknown = sorted(name for name in environ if name.startswith("CHATD_") and name not in names)
    return [f"{name} is ignored: no such setting{_meant(name, names)}" for name in unknown]


def _from_file(path: str, mistakes: Mistakes) -> dict[str, Given]:
    every = [setting.key for setting in settings()]
    try:
        with open(path, encoding="utf-8") as file:
            document = tomllib.loads(file.read())
    except OSError as error:
        mistakes.add(path, "the file", f"cannot be read: {error.strerror}", *every)
    except UnicodeDecodeError as error:
        mistakes.add(path, "the file", f"is not UTF-8 at byte {error.start}", *every)
    except tomllib.TOMLDecodeError as error:
        mistakes.add(path, "the file", f"is not TOML: {error}", *every)
    else:
        return _flat(document, path, mistakes)
    return {}


def _flat(document: dict[str, Any], path: str, mistakes: Mistakes) -> dict[str, Given]:
    keys = [setting.key for setting in settings()]
    sections = dict.fromkeys(key.partition(".")[0] for key in keys if "." in key)
    flat: dict[str, Given] = {}
    for name, value in document.items():
        if name in sections and isinstance(value, dict):
            flat |= {f"{name}.{key}": Given(inner, path) for key, inner in value.items()}
        elif name in sections:
            inside = [key for key in keys if key.startswith(f"{name}.")]
            # The value itself may be a secret that lost its key.
            sentence = f"found a value ({type(value).__name__}), allowed: a table, [{name}]"
            mistakes.add(name, path, sentence, *inside)
        elif isinstance(value, dict):
            mistakes.add(f"[{name}]", path, f"no such section{_meant(name, sections)}")
        else:
            flat[name] = Given(value, path)
    for key in sorted(flat.keys() - set(keys)):
        mistakes.add(key, path, f"no such setting{_meant(key, keys)}")
    return {key: given for key, given in flat.items() if key in keys}


def _meant(word: str, words: Iterable[str]) -> str:
    """Tell which of the words was meant, or all that stand in its section if they are few."""
    section, _, last = word.rpartition(".")
    lasts = {other: other.rpartition(".")[2] for other in words}
    beside = {lasts[other]: other for other in lasts if other.rpartition(".")[0] == section}
    near = [beside[name] for name in difflib.get_close_matches(last, beside, n=1, cutoff=0.7)]
    near = near or [other for other in lasts if lasts[other] == last]
    if near:
        return f", did you mean {near[0]}?"
    return f", allowed: {', '.join(beside.values())}" if 0 < len(beside) < 20 else ""


def _from_environment(environ: Mapping[str, str], mistakes: Mistakes) -> dict[str, Given]:
    given = {}
    variables = {setting.variable for setting in settings()}
    for setting in settings():
        name, file_name = setting.variable, f"{setting.variable}_FILE"
        # CHATD_JWT_KEY_FILE is jwt.key_file, which means the same.
        by_file = environ.get(file_name) if file_name not in variables else None
        if by_file is not None and name in environ:
            mistakes.add(setting.key, name, f"found {file_name} too, allowed: one", setting.key)
        elif by_file is not None:
            try:
                given[setting.key] = Given(_typed(_content(by_file), setting), file_name)
            except (OSError, UnicodeDecodeError) as error:
                sentence = f"found {shown(by_file)}, allowed: a readable file; {error}"
                mistakes.add(setting.key, file_name, sentence, setting.key)
        elif name in environ:
            given[setting.key] = Given(_typed(environ[name], setting), name)
    return given


def _content(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().removesuffix("\n")


def _typed(text: str, setting: Setting) -> Any:
    """Read a variable's text as TOML would; what cannot be read stays text, to be found wrong."""
    if isinstance(setting.default, str):
        return text
    if isinstance(setting.default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text


def _from_options(options: Mapping[str, Any]) -> dict[str, Given]:
    named = {setting.option: setting.key for setting in settings() if setting.option}
    return {
        key: Given(options[name], f"--{name}")
        for name, key in named.items()
        if options.get(name) not in (None, [], ())
    }


def _convert(given: Mapping[str, Given], mistakes: Mistakes) -> Config:
    document: dict[str, Any] = {}
    for setting in settings():
        section, _, name = setting.key.rpartition(".")
        place = document.setdefault(section, {}) if section else document
        place[name] = _value(setting, given[setting.key], mistakes)
    return msgspec.convert(document, Config)


def _value(setting: Setting, given: Given, mistakes: Mistakes) -> Any:
    """Convert what was given; a wrong value gives the default, a wrong element is left out."""
    try:
        value = msgspec.convert(given.value, setting.type)
    except msgspec.ValidationError:
        sentence = f"found {setting.show(given.value)}, allowed: {setting.allowed}"
        mistakes.add(setting.key, given.origin, sentence, setting.key)
        return setting.default
    if isinstance(value, tuple):
        return tuple(part for part in value if _checks(setting, part, given.origin, mistakes))
    if _checks(setting, value, given.origin, mistakes):
        return value
    mistakes.doubtful.add(setting.key)
    return setting.default


def _checks(setting: Setting, value: Any, origin: str, mistakes: Mistakes) -> bool:
    try:
        str(value).encode()  # a variable or an argument need not be UTF-8
        if setting.check is not None:
            setting.check(value)
    except ValueError as error:
        sentence = f"found {setting.show(value)}, allowed: {setting.allowed}; {error}"
        mistakes.add(setting.key, origin, sentence)
        return False
    return True


def state_directory(state: str, environ: Mapping[str, str]) -> str:
    """Find the state directory: the setting, systemd's, or the user's (XDG base directories)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if state:
        return os.path.join(home, state[2:]) if state.startswith("~/") else state
    if environ.get("STATE_DIRECTORY"):
        return environ["STATE_DIRECTORY"].split(":")[0]  # systemd lists several with colons
    kept = environ.get("XDG_STATE_HOME", "")
    # XDG: "All paths … must be absolute", others are to be ignored.
    return os.path.join(kept if os.path.isabs(kept) else f"{home}/.local/state", "chatd")


def create_state_directory(path: str) -> None:
    """Make the state directory, for its owner only, unless it is there; ConfigError if it fails."""
    remedy = "set state (--state, CHATD_STATE) to a directory that chatd may write to"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        sentence = f"The state directory {path} cannot be made: {error.strerror}; {remedy}."
        raise ConfigError([sentence]) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError([f"The state directory {path} cannot be written to; {remedy}."])


def jwt_key(jwt: JWT) -> str:
    """Give the key that proves JWTs, "" if JWT login is off; OSError, ValueError by the file."""
    return _content(jwt.key_file) if jwt.key_file else jwt.key


Wrong = Iterator[tuple[str, str]]
_RULES: dict[Callable[[Config], Wrong], tuple[str, ...]] = {}


def _rule(*keys: str) -> Callable[[Callable[[Config], Wrong]], Callable[[Config], Wrong]]:
    """Add a rule over several settings; it is left out while one of their values is in doubt."""

    def add(rule: Callable[[Config], Wrong]) -> Callable[[Config], Wrong]:
        _RULES[rule] = keys
        return rule

    return add


def _public(config: Config) -> list[str]:
    texts = (*config.listen.http, *config.listen.tcp)
    return [shown(text) for text in texts if endpoint(text).public]


@_rule("accounts.registration", "accounts.public", "listen.http", "listen.tcp")
def _registration(config: Config) -> Wrong:
    public = _public(config)
    if public and config.accounts.registration == "open" and not config.accounts.public:
        yield (
            "accounts.registration",
            f'found "open" with a public address, {", ".join(public)}; allowed: "invitation" or '
            '"closed", or set accounts.public = true if the whole network may register',
        )


@_rule("listen.http", "listen.tcp", "listen.proxy")
def _plain_text(config: Config) -> Wrong:
    for key, texts in (("listen.http", config.listen.http), ("listen.tcp", config.listen.tcp)):
        for at in map(endpoint, texts):
            if at.public and not (at.tls or at.proxy or config.listen.proxy):
                yield (
                    key,
                    f"found {shown(at.text)}, a public address without TLS; allowed: ssl: or tls:, "
                    "interface=127.0.0.1, or set listen.proxy = true if a proxy ends TLS before it",
                )


@_rule("listen.http", "listen.tcp")
def _addresses(config: Config) -> Wrong:
    if not config.listen.http and not config.listen.tcp:
        yield "listen.http", "found [] and listen.tcp = [] too, allowed: one address or more"
    taken: set[str] = set()
    for key, texts in (("listen.http", config.listen.http), ("listen.tcp", config.listen.tcp)):
        for at in map(endpoint, texts):
            if at.address in taken:
                yield key, f"found {shown(at.text)}, an address that is listened on already"
            taken.update([at.address] if at.address else [])


@_rule(
    *("limits.text_chars", "limits.line_bytes", "limits.frame_bytes", "limits.body_bytes"),
    *("listen.http", "listen.tcp"),
)
def _text_fits(config: Config) -> Wrong:
    limits = config.limits
    sizes = {"limits.line_bytes": limits.line_bytes} if config.listen.tcp else {}
    if config.listen.http:
        sizes |= {"limits.frame_bytes": limits.frame_bytes, "limits.body_bytes": limits.body_bytes}
    for key, size in sizes.items():
        if limits.text_chars > size:  # of one byte each, at the least
            yield "limits.text_chars", f"found {limits.text_chars}, allowed: at most {key}, {size}"


@_rule("store.url", "listen.http", "listen.tcp")
def _store_password(config: Config) -> Wrong:
    if _public(config) and _is_sample(store_url(config.store.url, "").password):
        yield (
            "store.url",
            "found a sample password (hidden) with a public address; allowed: a password of your "
            "own, in the database and here",
        )


@_rule("jwt.algorithm", "jwt.key", "jwt.key_file")
def _jwt(config: Config) -> Wrong:
    jwt = config.jwt
    if jwt.key and jwt.key_file:
        yield "jwt.key_file", f"found {shown(jwt.key_file)} and jwt.key too, allowed: one of them"
        return
    place = "jwt.key_file" if jwt.key_file else "jwt.key"
    try:
        key = jwt_key(jwt)
    except (OSError, ValueError) as error:
        yield place, f"found {shown(jwt.key_file)}, allowed: a readable file; {error}"
        return
    wrong = _wrong_with(key, jwt.algorithm) if key or jwt.key_file else ""
    if wrong:
        yield place, f"found {wrong} for {jwt.algorithm}, allowed: {JWT_KEYS}"


def _wrong_with(key: str, algorithm: str) -> str:
    if algorithm == "RS256":
        return _wrong_with_public_key(key)
    if "-----BEGIN" in key or key.startswith("ssh-"):
        return "a public or private key (hidden), which is no shared secret,"
    if _is_sample(key) or len(set(key)) < 6:
        return "a sample or a guessable secret (hidden)"
    length = len(key.encode())
    return f"a secret (hidden) of {length} bytes" if length < 32 else ""


def _wrong_with_public_key(pem: str) -> str:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return "something (hidden) that is not a public key in PEM"
    if not isinstance(key, RSAPublicKey):
        return "a public key of another kind than RSA"
    return f"an RSA key of {key.key_size} bits" if key.key_size < 2048 else ""


# What documentation and examples put where a secret belongs, without case and punctuation.
_SAMPLES = (
    "secret mysecret secretkey jwtsecret password passwd pass mypassword changeme example sample "
    "default admin root test chatd 123456 12345678 your256bitsecret yoursecret yourpassword "
    "astringsecretatleast256bitslong"
)


def _is_sample(secret: str) -> bool:
    bare = "".join(filter(str.isalnum, secret.casefold()))
    if not bare:
        return False
    return bare.startswith(("changeme", "replaceme")) or any(
        not bare.replace(word, "")
        for word in _SAMPLES.split()  # also "secretsecret…"
    )
