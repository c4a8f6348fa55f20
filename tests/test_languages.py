"""Sentences in English and Chinese: who gets which, and that no translation is missing."""

from __future__ import annotations

import gettext
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from chatd.auth import SiteTokens
from chatd.dispatcher import Malformed
from chatd.errors import CLOSE_CODES, LOGGED_OUT, Phrase, Refused
from chatd.frontends.tcp import TEXT
from chatd.languages import SPOKEN, pick, said_in, translated
from chatd.registry import COMMANDS
from chatd.settings import Limits
from chatd.store import accounts
from chatd.wire import json as json_wire
from tests.bed import UPGRADE, NodeCase
from tools import messages

CLOSE_BYTES = 123  # of a reason (RFC 6455 §5.5)
LOG_IN_FIRST = "请先登录。"
VALUES: tuple[Any, ...] = (None, True, 5, -1, 2**70, 1.5, "", "\u0007", "x" * 5000, [], {"a": 1})
REQUESTS: tuple[Any, ...] = ([], None, 5, "x", {}, {"cmd": 5}, {"cmd": "xyz"}, {"cmd": "pingg"})
HAN = re.compile("[\u4e00-\u9fff]")


def fields(text: str) -> Counter[str]:
    """The places in a template, with how they are written."""
    return Counter(re.findall(r"\{[^{}]*\}", text))


class Choice(SynchronousTestCase):
    """Which language a list of languages picks."""

    def test_lookup(self) -> None:
        """The most wanted language that is spoken, however narrow it was named."""
        for wanted, picked in {
            "zh": "zh",
            "en": "en",
            "zh-CN": "zh",
            "zh-Hans-CN": "zh",
            "ZH-cn": "zh",
            "zh_CN": "zh",
            "zh_CN.UTF-8": "zh",
            "zh-TW, zh;q=0.9": "zh",
            "en-GB;q=0.8, zh;q=0.9": "zh",
            "zh;q=0.8,en-GB": "en",
            "fr, zh;q=0.1": "zh",
            "zh ; q=0.5 , en ; q=0.4": "zh",
            "en,zh": "en",
            "zh,en": "zh",
        }.items():
            self.assertEqual(pick(wanted), picked, wanted)

    def test_unknown(self) -> None:
        """What is not spoken, not wanted or broken is English; nothing wanted is nothing."""
        for wanted in (
            "de",
            "*",
            "zh;q=0",
            "zh;q=0.000",
            "zh;q=2",
            "zh;q",
            "zhuang",
            "x-zh",
            ",;=",
        ):
            self.assertEqual(pick(wanted), "en", wanted)
        for nothing in ("", " ", "\t"):
            self.assertEqual(pick(nothing), "", repr(nothing))

    def test_long(self) -> None:
        """Of an endless list the beginning is looked at."""
        self.assertEqual(pick("zh," + "de," * 10_000), "zh")
        self.assertEqual(pick("de," * 10_000 + "zh"), "en")

    @given(st.text(alphabet="zhen-_*;q=0.1, \x00中"))
    def test_anything(self, wanted: str) -> None:
        """Whatever is asked for, a language that is spoken is picked, or none."""
        self.assertIn(pick(wanted), ("", *SPOKEN))


class Sentences(SynchronousTestCase):
    """A template with its fields, in a language."""

    def test_english(self) -> None:
        """English and no language need no catalogue: the refusal is the very same."""
        refused = Refused("not-found", "There is no user @{name}.", name="bob")
        for language in ("", "en"):
            self.assertIs(said_in(language, refused), refused)

    def test_chinese(self) -> None:
        """The sentence is Chinese; code, `retry_after` and fields are what they were."""
        refused = Refused("rate-limited", "Too many requests. Wait {wait:.0f} s.", 2.4, wait=2.4)
        told = said_in("zh", refused)
        self.assertEqual((told.code, told.retry_after), ("rate-limited", 2.4))
        self.assertEqual(told.sentence, "请求过于频繁，请等待 2 秒。")

    def test_braces(self) -> None:
        """What a client sent is not taken for a template, whatever it looks like."""
        for name in ("{x}", "{", "{0}", "{name.__class__}", "Log in first."):
            refused = Refused("not-found", "There is no user @{name}.", name=name)
            self.assertEqual(said_in("zh", refused).sentence, f"用户 @{name} 不存在。")

    def test_phrases(self) -> None:
        """A part that is a phrase is translated by itself, to any depth."""
        inner = Phrase(
            "JSON is malformed: {what} (byte {place})", what=Phrase("trailing characters"), place=8
        )
        template = "This is not JSON: {reason}."
        self.assertEqual(
            translated(template, {"reason": inner}, "en"),
            "This is not JSON: JSON is malformed: trailing characters (byte 8).",
        )
        self.assertEqual(
            translated(template, {"reason": inner}, "zh"),
            "这不是 JSON：末尾有多余字符（第 8 字节处）。",
        )

    def test_unknown(self) -> None:
        """What no catalogue has stays English, with its fields."""
        self.assertEqual(translated("Not {what}.", {"what": "there"}, "zh"), "Not there.")

    def test_what_does_not_fit(self) -> None:
        """Whatever is wrong with a request of any command, nothing English is left of the
        sentence but the names of parameters and JSON's types."""
        for command in COMMANDS.values():
            for value in VALUES:
                for parameter in command.parameters:
                    self._chinese({"cmd": command.name, parameter.name: value})
            self._chinese({"cmd": command.name, "nothing": 1})
            self._chinese({"cmd": command.name, "id": [1]})
        for request in REQUESTS:
            self._chinese(request)

    def _chinese(self, request: Any) -> None:
        found = json_wire.decode(msgspec.json.encode(request))
        if not isinstance(found, Malformed):
            return
        told = said_in("zh", found.error).sentence
        bare = re.sub(r"`[^`]*`|用法：.*|\"cmd\"|JSON|\{\"cmd.*1\}", "", told)
        self.assertRegex(bare, HAN)
        words = set(
            re.findall("[A-Za-z]{2,}", re.sub(r"^\S+(?=：| )|'.*'?|pingg|ping|help", "", bare))
        )
        self.assertEqual(words, set(), told)

    def test_what_is_no_json(self) -> None:
        """Every way in which a text is no JSON has a translation."""
        for data in (
            *(b"", b"{", b"tru", b'{"\xff', b'{"a" 1}', b"{a:1}", b"[1,]", b'{"a":1,}', b"{}x"),
            *(
                b'"\\x"',
                b'"\\ud800\\u0041"',
                b'"\\u12g4"',
                b"-",
                b"[1 2]",
                b'{"a":1 "b"}',
                b'"\x01"',
            ),
        ):
            error = self.assertRaises(ValueError, msgspec.json.decode, data)
            told = said_in("zh", json_wire.bad_request(error)).sentence
            self.assertRegex(told, f"^这不是 JSON：.*{HAN.pattern}", data)
            self.assertEqual(re.findall(r"\b[a-z]{2,}", told), [], data)

    def test_jwt(self) -> None:
        """What is wrong with a JWT is told in Chinese, too."""
        tokens = SiteTokens("HS256", "k" * 32, "sub", "", "")
        error = self.assertRaises(Refused, tokens.name, "nonsense")
        self.assertEqual(said_in("zh", error).sentence, "JWT 未被接受：格式有误。")


class Catalogues(SynchronousTestCase):
    """Every sentence of the code is there in every language."""

    def test_nothing_is_missing(self) -> None:
        """The catalogue has the sentences of the code, all of them translated and no others."""
        code = {str(message.id) for message in messages.template() if message.id}
        for language in SPOKEN[1:]:
            found = messages.catalogue(language)
            there = {str(message.id) for message in found if message.id}
            self.assertEqual(sorted(code - there), [], "run: make messages")
            self.assertEqual(sorted(there - code), [], "run: make messages")
            self.assertEqual(messages.lacking(found), [], messages.source(language))

    def test_fields(self) -> None:
        """A translation has the fields of its sentence, written in the same way, and ends as
        a sentence does."""
        for language in SPOKEN[1:]:
            for message in messages.catalogue(language):
                text, told = str(message.id), str(message.string)
                if text:
                    self.assertEqual(fields(told), fields(text), text)
                    self.assertEqual(told.endswith(("。", "？")), text.endswith((".", "?")), text)

    def test_chinese(self) -> None:
        """Chinese sentences have Chinese words and punctuation, and address people as 你."""
        for message in messages.catalogue("zh"):
            words = re.sub(r"\{[^{}]*\}|'[^']*'", "", str(message.string))
            if message.id and words.strip("。："):
                self.assertRegex(words, HAN)
                self.assertNotRegex(words, r"[一-鿿][,;:?!()]|[,;?!()][一-鿿]|您")

    def test_compiled(self) -> None:
        """The compiled catalogue holds what the written one does."""
        for language in SPOKEN[1:]:
            with messages.source(language).with_suffix(".mo").open("rb") as file:
                compiled = gettext.GNUTranslations(file)
            for message in messages.catalogue(language):
                if message.id:
                    self.assertEqual(
                        compiled.gettext(str(message.id)), message.string, "run: make messages"
                    )

    def test_close_reasons(self) -> None:
        """Why a connection is closed fits into a close frame in every language."""
        reasons = [*CLOSE_CODES.values(), "What you missed cannot be read now."]
        for reason in reasons:
            for language in SPOKEN:
                told = translated(reason, {}, language)
                self.assertLessEqual(len(told.encode()), CLOSE_BYTES, told)

    def test_help(self) -> None:
        """Every command's help is a sentence of the catalogue."""
        for command in COMMANDS.values():
            for text in (command.summary(), command.details()):
                if text:
                    self.assertNotEqual(translated(text, {}, "zh"), text)


class Extraction(SynchronousTestCase):
    """What `tools.messages` finds in the code."""

    def found(self, code: str) -> list[str]:
        """The sentences in a module of that code."""
        with TemporaryDirectory(prefix="chatd-") as directory:
            package = Path(directory) / "chatd"
            package.mkdir()
            (package / "module.py").write_text(code, encoding="utf-8")
            self.patch(messages, "PACKAGE", package)
            return [text for text, file in messages.messages() if file == "chatd/module.py"]

    def test_where(self) -> None:
        """In calls, in the constants that they name, and in what is annotated as a template."""
        for code in (
            'raise Refused("x", "one")',
            'raise Refused("x", template="one")',
            'E = errors.Unavailable("one", 5.0)',
            'link.close(1, "on" "e")',
            'S = "one"\nE = Unavailable(S)',
            'def f():\n    s = "one"\n    g(Phrase(s, x=1))',
            'S = "zero"\ndef f():\n    s = "one"\n    raise Refused("x", s)',
            'S: Template = "one"\nE = Refused("x", S)',
            'S: Final[dict[int, Template]] = {1: "one"}\nclose(1, S[1])',
            'S: tuple[Template, ...] = ("one",)',
            'def f(t: Template):\n    return Refused("x", t)\nf(g)\nT: Template = "one"',
            'E = Unavailable(other.template)\nF = Unavailable("one")',
            'file.close()\nfile.close(1)\nE = Unavailable("one")',
        ):
            self.assertEqual(self.found(code), ["one"], code)
        self.assertEqual(self.found('E = Unavailable("a" if x else "b")'), ["a", "b"])

    def test_what_cannot_be_translated(self) -> None:
        """A sentence that is put together in the code is an error that says where."""
        for code in (
            'raise Refused("x", f"one {y}")',
            'raise Refused("x", "one" + y)',
            'raise Refused("x", str(error))',
            's = f"{x}"\nraise Refused("x", s)',
            'raise Refused("x", unknown)',
            'link.close(1, f"{x}")',
        ):
            error = self.assertRaises(messages.NoTemplate, self.found, code)
            self.assertIn("chatd/module.py:", str(error), code)


class Spoken(NodeCase):
    """What clients are told over the wires."""

    async def test_on_a_connection(self) -> None:
        """`language` chooses for the connection, before anybody has logged in: refusals, help
        and goodbyes. Codes and results stay."""
        chinese, english = self.lines(), self.lines()
        self.assertEqual(await chinese.answer("/language zh-CN"), ["+OK language=zh"])
        self.assertEqual(await chinese.answer("hello"), [f"-ERR unauthorized {LOG_IN_FIRST}"])
        self.assertEqual(await english.answer("hello"), ["-ERR unauthorized Log in first."])
        self.assertEqual(
            await chinese.answer("/xyz"),
            ["-ERR unknown-command 没有命令 'xyz'。用 help 可列出全部命令。"],
        )
        told = await chinese.answer("/help")
        self.assertEqual(len(told), len(COMMANDS) + 1)
        for line in told[:-1]:
            self.assertRegex(line, f"^= /.* — .*{HAN.pattern}.*。$")
        line, _ = await chinese.answer("/help tokens")
        self.assertRegex(line, "^= /tokens — [^ ]+$")
        line, _ = await chinese.answer("/help say")
        self.assertIn("才会收到答复。用相同的", line)
        self.assertEqual(
            await chinese.answer("/language"),
            ["-ERR bad-request 缺少必填字段 `name`。用法：/language NAME"],
        )
        self.assertEqual(await chinese.answer("/language fr"), ["+OK language=en"])
        self.assertEqual(await chinese.answer("hello"), ["-ERR unauthorized Log in first."])

    async def test_goodbye(self) -> None:
        """A connection is closed with a reason in its language, over both kinds of wire."""
        lines, frames = self.lines(), self.frames()
        await lines.answer("/language zh")
        await frames.ask("language", name="zh")
        await self.user("alice", frames)
        self.tick(int(self.node.limits.login_seconds) + 2)
        self.assertEqual(await lines.next(), "* closing code=4101 reason=未在规定时间内登录。")
        other = await self.user("alice")
        await other.ask("logout", everywhere=True)
        opcode, payload = await frames.next_frame()
        while opcode != 8:
            opcode, payload = await frames.next_frame()
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, LOGGED_OUT))
        self.assertEqual(payload[2:].decode(), "此会话已退出登录。")

    async def test_broken_frames(self) -> None:
        """What the WebSocket library finds is told by the meaning of its code."""
        client = self.frames()
        await client.ask("language", name="zh")
        client.send(b"\xff\xff")
        _, payload = await client.next_frame()
        self.assertEqual(payload[2:].decode(), CHINESE_FRAMING)

    async def test_login(self) -> None:
        """`login` and `register` take a language for the connection, for their own refusals
        already; without one they leave what was chosen."""
        client = self.frames()
        reply = await client.ask("login", name="alice", password="x", language="zh")
        self.assertEqual((reply["error"], reply["message"]), ("unauthorized", "用户名或密码错误。"))
        await client.ask("register", name="alice", password="secret")
        self.assertEqual((await client.ask("join", group="no"))["message"], "群 #no 不存在。")
        other = self.frames()
        await other.ask("register", name="bob", password="secret", language="zh")
        self.assertEqual((await other.ask("join", group="no"))["message"], "群 #no 不存在。")

    async def test_setting(self) -> None:
        """A user's own setting holds in all sessions, from the login on and as it changes; what
        a connection chose comes before it."""
        await self.user("alice")
        await self.node.store.write(_set_language, "zh")
        one, other, lines = await self.user("alice"), self.frames(), self.lines()
        await other.ask("login", name="alice", password="secret", language="en")
        await self.user("alice", lines)
        http = await self.user("alice", self.http())

        async def told(client: Any) -> str:
            return str((await client.ask("join", group="no"))["message"])

        for client in (one, lines, http):
            self.assertEqual(await told(client), "群 #no 不存在。")
        self.assertEqual(await told(other), "There is no group #no.")
        user = next(s.user for s in self.node.hub.sessions if s.user)
        user.language = "en"
        self.assertEqual(await told(one), "There is no group #no.")
        await one.ask("language", name="zh")
        self.assertEqual(await told(one), "群 #no 不存在。")
        user.language = "zh"
        await other.ask("language", name="")
        self.assertEqual(await told(other), "群 #no 不存在。")

    async def test_every_login(self) -> None:
        """However a user logs in, the setting is read."""
        first = await self.user("alice")
        known = await self.frames().ask("login", name="alice", password="secret")
        del first
        key = await self.node.store.write(accounts.add_api_key, "site", ["login-as"], 0)
        await self.node.store.write(_set_language, "zh")
        for proof in (
            {"token": known["token"]},
            {"name": "alice", "password": "secret"},
            {"name": "alice", "api_key": key},
        ):
            client = self.frames()
            await client.ask("login", **proof)
            reply = await client.ask("join", group="no")
            self.assertEqual(reply["message"], "群 #no 不存在。", proof)

    async def test_handshake(self) -> None:
        """A WebSocket's Accept-Language is what a session reads, unless somebody chose."""
        header = b"Accept-Language: zh-CN,en;q=0.5\r\n"
        client = self.raw_web()
        client.send(UPGRADE.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n"))
        (session,) = self.node.hub.sessions
        self.assertEqual((session.accepted, session.chosen), ("zh", ""))
        self.assertEqual(session.language, "zh")
        session.chosen = "en"
        self.assertEqual(session.language, "en")

    async def test_refused_handshake(self) -> None:
        """A handshake is refused in the language that it asks for."""
        extra = b"\r\nOrigin: http://evil.test\r\nAccept-Language: zh\r\n\r\n"
        client = self.raw_web()
        client.send(UPGRADE.replace(b"\r\n\r\n", extra))
        self.assertIn("不允许此来源连接".encode(), client.received)

    async def test_http(self) -> None:
        """Each HTTP request is answered in the language of its own Accept-Language."""
        for header, told in (
            ("zh-CN", "请先登录。"),
            ("fr", "Log in first."),
            ("", "Log in first."),
        ):
            self.assertEqual(await self.posted("/api/v1/rooms", header), told)
        for path, told in (
            ("/api/v1/xyz", "没有命令 'xyz'。用 help 可列出全部命令。"),
            ("/nowhere", "这里什么也没有。"),
            ("/api/v1/join", "请先登录。"),
        ):
            self.assertEqual(await self.posted(path, "zh", b'{"group":"no"}'), told, path)
        self.assertRegex(await self.posted("/readyz", "zh"), "^请求方法应为 .*。$")
        self.assertIn("缺少必填字段", await self.posted("/api/v1/leave", "zh"))
        most = Limits().body_bytes
        self.assertEqual(
            await self.posted("/api/v1/ping", "zh", b" " * (most + 1)), f"请求体最多 {most} 字节。"
        )

    async def posted(self, path: str, language: str, body: bytes = b"") -> str:
        """The sentence of the refusal that answers a POST."""
        client = self.raw_web()
        header = f"Accept-Language: {language}\r\n" if language else ""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\n\r\n"
        client.send(head.encode() + body)

        def answer() -> str | None:
            body = re.search(rb"\{.*\}", client.received)
            return str(msgspec.json.decode(body[0])["message"]) if body else None

        return str(await client.until(answer))

    async def test_english_asks_nothing(self) -> None:
        """No catalogue is looked at for English, nor for anything but refusals."""
        self.patch(gettext, "translation", lambda *args, **kwargs: self.fail("a catalogue"))
        chinese, english = await self.user("alice"), await self.user("bob")
        await chinese.ask("language", name="zh")
        self.assertTrue((await chinese.ask("say", to="@bob", text="hello"))["ok"])
        self.assertFalse((await english.ask("join", group="no"))["ok"])
        self.assertTrue((await english.ask("help"))["ok"])

    def test_a_line_of_chinese(self) -> None:
        """A Chinese refusal is a line as any other."""
        told = said_in("zh", Refused("unauthorized", "Log in first."))
        self.assertEqual(TEXT.error(None, told), f"-ERR unauthorized {LOG_IN_FIRST}\r\n".encode())


CHINESE_FRAMING = "WebSocket 帧格式有误。"


def _set_language(connection: Any, language: str) -> None:
    connection.run("UPDATE users SET language = ?", (language,))
