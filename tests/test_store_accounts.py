"""The contract of accounts, tokens, keys and invitations, the same on SQLite and on MariaDB."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pymysql
from msgspec.structs import replace
from pymysql.constants import ER

from chatd.errors import Refused
from chatd.model import UNMUTED, Membership, Party
from chatd.store import accounts, rooms
from chatd.store.accounts import Account, Login, Registration, digest
from tests.stores import HOUR, NOW, TABLES, MariaDBCase, SQLiteCase, Wire, once, throw

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object


class People(Contract):
    """Logins, made and answered."""

    def issuing(self, **proof: Any) -> Login:
        """A login that issues a token of its own for an hour; a `user_id` had the password that
        `user` gives everybody."""
        number = next(self.numbers)
        issue = digest(f"token{number}")
        proof = {"password": "hash", **proof} if "user_id" in proof else proof
        return Login(NOW, issue=issue, device=f"device{number}", expires=NOW + HOUR, **proof)

    def by_token(self, login: Login, now: int = NOW) -> Login:
        """A login with the token that another one issued."""
        return Login(now, token=login.issue)

    def registering(self, name: str, invitation: str = "") -> Login:
        """A login that makes an account."""
        spent = digest(invitation) if invitation else None
        return self.issuing(registration=Registration(name, f"{name}!", "argon", spent))

    def log_in(self, *logins: Login) -> list[str]:
        """The names of those who logged in, the codes of the refusals."""
        return [_brief(answer) for answer in accounts.log_in(self.db, logins)]

    def names(self) -> list[str]:
        """Everybody's name."""
        return [row[0] for row in accounts.list_users(self.db)]

    def everything(self) -> dict[str, list[Any]]:
        """All rows."""
        return {table: sorted(self.db.all(f"SELECT * FROM {table}"), key=str) for table in TABLES}


def _brief(answer: Account | Refused) -> str:
    return answer.code if isinstance(answer, Refused) else answer.user.name


class LogIn(People):
    """Each proof of who somebody is."""

    def test_password(self) -> None:
        """Whose password was right is logged in, with a token for the device."""
        user = self.user("alice")
        login = self.issuing(user_id=user.id)
        (account,) = accounts.log_in(self.db, [login])
        self.assertEqual(account, Account(user, (), NOW + HOUR))
        self.assertEqual(
            self.db.all("SELECT hash, user_id, device, created_at, expires_at FROM tokens"),
            [(login.issue, user.id, login.device, NOW, NOW + HOUR)],
        )

    def test_unknown_user(self) -> None:
        """A user who has gone meanwhile is not logged in."""
        self.assertEqual(self.log_in(self.issuing(user_id=2**40)), ["unauthorized"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 0)

    def test_token(self) -> None:
        """A token logs its user in until it expires, and its end does not move."""
        user = self.user("alice")
        login = self.issuing(user_id=user.id)
        self.log_in(login)
        (account,) = accounts.log_in(self.db, [self.by_token(login, NOW + HOUR - 1)])
        self.assertEqual(account, Account(user, (), NOW + HOUR))
        self.assertEqual(self.log_in(self.by_token(login, NOW + HOUR)), ["unauthorized"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 1)

    def test_unknown_token(self) -> None:
        """A token that nobody was given logs nobody in, beside good ones too."""
        login = self.issuing(user_id=self.user("alice").id)
        self.log_in(login)
        logins = [Login(NOW, token=digest("guess")), self.by_token(login), self.by_token(login)]
        self.assertEqual(self.log_in(*logins), ["unauthorized", "alice", "alice"])

    def test_vouched(self) -> None:
        """Who is vouched for logs in, and has an account without a password from then on."""
        self.assertEqual(self.log_in(self.issuing(name="李雷")), ["李雷"])
        found = accounts.find_user(self.db, "李雷")
        self.assertIsNotNone(found)
        self.assertIsNone(accounts.password_of(self.db, "李雷"))
        self.assertEqual(self.log_in(self.issuing(name="李雷")), ["李雷"])
        self.assertEqual(self.names(), ["李雷"])

    def test_vouched_in_another_case(self) -> None:
        """Names that differ in case are one user, in one batch and later, under the name that
        it was made with."""
        first, second = self.log_in(self.issuing(name="Alice"), self.issuing(name="ALICE"))
        self.assertEqual(first, second)
        self.assertEqual(self.log_in(self.issuing(name="alice")), [first])
        self.assertEqual(len(self.names()), 1)
        self.assertEqual(self.log_in(self.registering("aLICE")), ["exists"])

    def test_api_key(self) -> None:
        """An API key with the scope may say who logs in; any other logs nobody in and makes no
        account."""
        good = accounts.add_api_key(self.db, "site", ["push", "login-as"], NOW)
        weak = accounts.add_api_key(self.db, "shop", ["push"], NOW)
        keys = (good, weak, "guess")
        logins = [self.issuing(name=f"u{n}", api_key=digest(key)) for n, key in enumerate(keys)]
        self.assertEqual(self.log_in(*logins), ["u0", "unauthorized", "unauthorized"])
        self.assertEqual(self.names(), ["u0"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 1)

    def test_scope_is_a_word(self) -> None:
        """A scope is not found inside another one's name."""
        key = accounts.add_api_key(self.db, "site", ["no-login-as"], NOW)
        login = self.issuing(name="alice", api_key=digest(key))
        self.assertEqual(self.log_in(login), ["unauthorized"])

    def test_revoked_api_key(self) -> None:
        """A revoked key is unknown."""
        key = accounts.add_api_key(self.db, "site", ["login-as"], NOW)
        self.assertTrue(accounts.revoke_api_key(self.db, "site"))
        login = self.issuing(name="alice", api_key=digest(key))
        self.assertEqual(self.log_in(login), ["unauthorized"])

    def test_registration(self) -> None:
        """Who registers has an account, with the given display name and password, and is
        logged in."""
        login = self.registering("Zoë")
        (account,) = accounts.log_in(self.db, [login])
        assert isinstance(account, Account)
        self.assertEqual((account.user.name, account.expires), ("Zoë", NOW + HOUR))
        self.assertEqual(accounts.password_of(self.db, "ZOË"), (account.user.id, "argon"))
        self.assertEqual(accounts.list_users(self.db), [("Zoë", "Zoë!", NOW, None)])
        self.assertEqual(self.log_in(self.by_token(login)), ["Zoë"])

    def test_taken_name(self) -> None:
        """A name that is taken, in whatever case, cannot be registered, and nothing is changed
        in the account that has it."""
        self.log_in(self.registering("Größe"))
        before = self.everything()
        for name in ("Größe", "GRÖSSE", "größe"):
            self.assertEqual(self.log_in(self.registering(name)), ["exists"])
        self.assertEqual(self.everything(), before)

    def test_name_twice_in_a_batch(self) -> None:
        """Of two who register a name in one batch, the first has it."""
        first, second = self.registering("bob"), self.registering("BOB")
        self.assertEqual(self.log_in(first, second), ["bob", "exists"])
        self.assertEqual(self.log_in(self.by_token(first)), ["bob"])
        self.assertEqual(self.log_in(self.by_token(second)), ["unauthorized"])

    def test_invitation(self) -> None:
        """An invitation is good for its number of registrations."""
        token = accounts.add_invitation(self.db, 2, NOW + 1, NOW)
        found = [self.log_in(self.registering(name, token))[0] for name in ("a", "b", "c")]
        self.assertEqual(found, ["a", "b", "forbidden"])
        self.assertEqual(self.names(), ["a", "b"])

    def test_expired_invitation(self) -> None:
        """An invitation is good until it expires; one that nobody gave never is."""
        token = accounts.add_invitation(self.db, 2, NOW, NOW - HOUR)
        logins = [self.registering("a", token), self.registering("b", "guess")]
        self.assertEqual(self.log_in(*logins), ["forbidden", "forbidden"])
        self.assertEqual(self.names(), [])
        self.assertEqual(self.single("SELECT uses_left FROM invitations"), 2)

    def test_last_use_twice_in_a_batch(self) -> None:
        """The last use of an invitation is had by one of two registrations in one batch."""
        token = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        logins = [self.registering("a", token), self.registering("b", token)]
        self.assertEqual(self.log_in(*logins), ["a", "forbidden"])
        self.assertEqual(self.names(), ["a"])

    def test_taken_name_costs_no_invitation(self) -> None:
        """A registration that fails for its name leaves the invitation as it was."""
        self.user("alice")
        token = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        logins = [self.registering("alice", token), self.registering("bob", token)]
        self.assertEqual(self.log_in(*logins), ["exists", "bob"])

    async def test_last_use_on_two_nodes(self) -> None:
        """The last use of an invitation is had by one, on however many nodes they register."""
        token = accounts.add_invitation(self.db, 3, NOW + 1, NOW)
        nodes = [self.node(), self.node()]
        logins = [self.registering(f"u{n}", token) for n in range(10)]
        waiting = [nodes[n % 2].log_in(login) for n, login in enumerate(logins)]
        found = [await _outcome(one) for one in waiting]
        self.assertEqual(found.count("forbidden"), 7)
        self.assertEqual(self.single("SELECT uses_left FROM invitations"), 0)
        self.assertEqual(len(self.names()), 3)

    async def test_name_raced_on_two_nodes(self) -> None:
        """A name that two nodes give away at the same time has one owner; the other is told that
        it is taken, and everybody else is logged in."""
        nodes = [self.node(), self.node()]
        pairs = [[self.registering(f"u{n}") for _ in nodes] for n in range(20)]
        waiting = [
            [node.log_in(login) for node, login in zip(nodes, pair, strict=True)] for pair in pairs
        ]
        for number, pair in enumerate(waiting):
            found = sorted([await _outcome(one) for one in pair])
            self.assertEqual(found, ["exists", f"u{number}"])

    def test_disabled(self) -> None:
        """A disabled user is not logged in by any proof, and gets no token; enabled again, a
        token that was not revoked is good."""
        key = accounts.add_api_key(self.db, "site", ["login-as"], NOW)
        login = self.registering("alice")
        self.log_in(login)
        user_id = self.single("SELECT id FROM users")
        proofs = [
            self.by_token(login),
            self.issuing(user_id=user_id, password="argon"),
            self.issuing(name="alice"),
            self.issuing(name="ALICE", api_key=digest(key)),
        ]
        self.db.run("UPDATE users SET disabled_at = ?", (NOW,))
        self.assertEqual(self.log_in(*proofs), ["forbidden"] * 4)
        self.assertEqual(self.log_in(self.registering("alice")), ["exists"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 1)
        accounts.enable(self.db, user_id)
        self.assertEqual(self.log_in(*proofs), ["alice"] * 4)

    def test_memberships(self) -> None:
        """Who logs in learns of the groups that he is in, and of nobody else's."""
        one, other = self.user("a"), self.user("b")
        mine, theirs = self.group(one), self.group(other)
        rooms.join(self.db, theirs.id, one.id, 2)
        first, second, third = accounts.log_in(
            self.db,
            [
                self.issuing(user_id=one.id),
                self.issuing(user_id=other.id),
                self.issuing(name="new"),
            ],
        )
        assert isinstance(first, Account)
        assert isinstance(second, Account)
        assert isinstance(third, Account)
        self.assertEqual(
            set(first.memberships),
            {Membership(mine, UNMUTED["owner"]), Membership(theirs, UNMUTED["member"])},
        )
        self.assertEqual(second.memberships, (Membership(theirs, UNMUTED["owner"]),))
        self.assertEqual(third.memberships, ())

    def _mixed(self) -> list[Login]:
        known, gone = self.user("known"), self.user("gone")
        accounts.disable(self.db, gone.id, NOW)
        earlier = self.issuing(user_id=known.id)
        self.log_in(earlier)
        key = accounts.add_api_key(self.db, "site", ["login-as"], NOW)
        weak = accounts.add_api_key(self.db, "shop", ["push"], NOW)
        token = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        return [
            self.by_token(earlier),
            self.registering("new1"),
            self.issuing(user_id=gone.id),
            self.issuing(name="new2"),
            self.registering("NEW1"),
            self.registering("new2"),
            self.issuing(name="known", api_key=digest(key)),
            self.registering("new3", token),
            self.issuing(name="new4", api_key=digest(key)),
            self.issuing(name="new5", api_key=digest(weak)),
            self.registering("new6", token),
            self.by_token(earlier, NOW + HOUR),
            self.issuing(user_id=known.id),
            self.registering("known"),
        ]

    _MIXED = (
        "known", "new1", "forbidden", "new2", "exists", "exists", "known", "new3", "new4",
        "unauthorized", "forbidden", "unauthorized", "known", "exists",
    )  # fmt: skip

    def test_all_kinds_in_a_batch(self) -> None:
        """In a batch of all kinds, good and bad, each is answered as if it were alone."""
        self.assertEqual(self.log_in(*self._mixed()), list(self._MIXED))
        self.assertEqual(self.names(), ["gone", "known", "new1", "new2", "new3", "new4"])

    def test_again(self) -> None:
        """A batch that is run again, its commit's answer lost, gets the same answers and changes
        nothing."""
        logins = self._mixed()
        first = accounts.log_in(self.db, logins)
        before = self.everything()
        second = accounts.log_in(self.db, logins)
        self.assertEqual(self.everything(), before)
        self.assertEqual([_brief(a) for a in second], [_brief(a) for a in first])
        self.assertEqual(
            [a for a in second if isinstance(a, Account)],
            [a for a in first if isinstance(a, Account)],
        )

    async def test_through_the_store(self) -> None:
        """Logins that arrive together are answered each by itself."""
        node, logins = self.node(), self._mixed()
        found = [await _outcome(one) for one in [node.log_in(login) for login in logins]]
        self.assertEqual(found, list(self._MIXED))

    async def test_many(self) -> None:
        """Hundreds may log in at once."""
        node = self.node()
        waiting = [node.log_in(self.issuing(name=f"u{n}")) for n in range(450)]
        self.assertEqual([await _outcome(one) for one in waiting], [f"u{n}" for n in range(450)])

    async def test_contended(self) -> None:
        """Logins that lost against another transaction are run again."""
        wire = Wire()
        node = self.node(self.wired(wire))
        wire.before = once("INSERT", lambda: throw(self.contended()))
        waiting = [node.log_in(self.registering("alice")), node.log_in(self.issuing(name="bob"))]
        self.assertEqual([await _outcome(one) for one in waiting], ["alice", "bob"])


async def _outcome(waiting: Any) -> str:
    try:
        return _brief(await waiting)
    except Refused as refused:
        return refused.code


class Secrets(People):
    """Tokens, keys and invitations, given out once."""

    def test_stored_hashed(self) -> None:
        """What is stored of a secret is its SHA-256, and not the secret."""
        key = accounts.add_api_key(self.db, "site", ["push"], NOW)
        invitation = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        token = accounts.new_secret()
        user = self.user()
        accounts.log_in(
            self.db, [Login(NOW, user_id=user.id, password="hash", issue=digest(token))]
        )
        for table, secret in (("api_keys", key), ("invitations", invitation), ("tokens", token)):
            stored = bytes(self.single(f"SELECT hash FROM {table}"))
            self.assertEqual(stored, hashlib.sha256(secret.encode()).digest())
            self.assertNotIn(secret, str(self.everything()))

    def test_unguessable(self) -> None:
        """Secrets have 256 bits, and no two are the same."""
        made = {accounts.new_secret() for _ in range(100)}
        self.assertEqual(len(made), 100)
        self.assertEqual({len(secret) for secret in made}, {43})  # 256 bits in base64

    def _two(self) -> tuple[Party, Login, Login]:
        user = self.user()
        early, late = self.issuing(user_id=user.id), self.issuing(user_id=user.id)
        self.log_in(early, self.issuing(user_id=self.user().id))
        accounts.log_in(self.db, [_later(late)])
        return user, early, late

    def test_list(self) -> None:
        """A user sees his own tokens that have not expired, newest first, which one he uses,
        and nothing that logs in."""
        user, early, late = self._two()
        found = accounts.list_tokens(self.db, user.id, early.issue, NOW)
        self.assertEqual([token.device for token in found], [late.device, early.device])
        self.assertEqual([token.current for token in found], [False, True])
        self.assertEqual([token.created for token in found], [NOW + 1, NOW])
        self.assertEqual([token.expires for token in found], [NOW + 2 * HOUR, NOW + HOUR])
        self.assertEqual(found[1].id, early.issue[:8].hex())
        found = accounts.list_tokens(self.db, user.id, early.issue, NOW + HOUR)
        self.assertEqual([token.device for token in found], [late.device])

    def test_newest_first(self) -> None:
        """Tokens are listed by age, whatever their digests are."""
        user = self.user()
        for age, first in enumerate(b"bca"):
            login = self.issuing(user_id=user.id)
            accounts.log_in(self.db, [replace(login, now=NOW - age, issue=bytes([first] * 32))])
        found = accounts.list_tokens(self.db, user.id, b"", NOW)
        self.assertEqual([token.created for token in found], [NOW, NOW - 1, NOW - 2])

    def test_revoke(self) -> None:
        """A revoked token logs in no more; the user's others do."""
        user, early, late = self._two()
        accounts.revoke_token(self.db, user.id, early.issue, NOW)
        self.assertEqual(
            self.log_in(self.by_token(early), self.by_token(late)), ["unauthorized", user.name]
        )

    def test_revoke_by_id(self) -> None:
        """A user ends one of his own tokens by its id; nobody else's, and none twice."""
        user, early, late = self._two()
        (named,) = (
            token.id
            for token in accounts.list_tokens(self.db, user.id, late.issue, NOW)
            if not token.current
        )
        self.assertIsNone(accounts.revoke_by_id(self.db, self.user().id, named, NOW))
        self.assertIsNone(accounts.revoke_by_id(self.db, user.id, "0" * 16, NOW))
        self.assertEqual(accounts.revoke_by_id(self.db, user.id, named, NOW), early.issue)
        self.assertIsNone(accounts.revoke_by_id(self.db, user.id, named, NOW))
        self.assertEqual(
            self.log_in(self.by_token(early), self.by_token(late)), ["unauthorized", user.name]
        )

    def test_revoke_anothers(self) -> None:
        """A user cannot end another one's token."""
        user, early, _ = self._two()
        accounts.revoke_token(self.db, self.user().id, early.issue, NOW)
        self.assertEqual(self.log_in(self.by_token(early)), [user.name])

    def test_revoke_all(self) -> None:
        """All tokens of a user end at once, and nobody else's."""
        user, early, late = self._two()
        accounts.revoke_all(self.db, user.id, NOW)
        self.assertEqual(
            self.log_in(self.by_token(early), self.by_token(late)), ["unauthorized"] * 2
        )
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 1)

    def test_forget_expired(self) -> None:
        """Tokens and invitations that can no longer be used are deleted, and no others."""
        user, _, late = self._two()
        accounts.add_invitation(self.db, 1, NOW + HOUR, NOW)
        good = accounts.add_invitation(self.db, 1, NOW + HOUR + 1, NOW)
        used = accounts.add_invitation(self.db, 1, NOW + 2 * HOUR, NOW)
        self.log_in(self.registering("guest", used))
        accounts.forget_expired(self.db, NOW + HOUR)
        self.assertEqual(self.single("SELECT hash FROM tokens"), late.issue)
        self.assertEqual(self.single("SELECT user_id FROM tokens"), user.id)
        self.assertEqual(self.single("SELECT hash FROM invitations"), digest(good))

    def test_api_keys(self) -> None:
        """Keys are found by their digest and listed by name; a name is given once."""
        key = accounts.add_api_key(self.db, "shop", ["push", "login-as"], NOW)
        accounts.add_api_key(self.db, "blog", ["push"], NOW + 1)
        found = accounts.find_api_key(self.db, digest(key))
        assert found
        self.assertEqual((found.name, found.scopes), ("shop", {"push", "login-as"}))
        self.assertIsNone(accounts.find_api_key(self.db, digest("guess")))
        self.assertEqual(
            accounts.list_api_keys(self.db),
            [("blog", "push", NOW + 1), ("shop", "login-as push", NOW)],
        )
        with self.assertRaises(self.dialect.errors) as caught:
            accounts.add_api_key(self.db, "shop", ["push"], NOW)
        self.assertTrue(self.dialect.duplicate(caught.exception))
        self.assertFalse(accounts.revoke_api_key(self.db, "other"))
        self.assertTrue(accounts.revoke_api_key(self.db, "shop"))
        self.assertIsNone(accounts.find_api_key(self.db, digest(key)))


def _later(login: Login) -> Login:
    return replace(login, now=NOW + 1, expires=NOW + 2 * HOUR)


class Users(People):
    """What an operator does with accounts."""

    def test_add_and_find(self) -> None:
        """A user is found by his name in any case, in any script, and nobody else is."""
        for name in ("Alice", "李雷", "Straße", "ΣΊΣΥΦΟΣ", "İrem"):
            user = Party(accounts.add_user(self.db, name, "", "hash", NOW), name)
            for spelled in (name, name.upper(), name.casefold()):
                self.assertEqual(accounts.find_user(self.db, spelled), user)
        for name in ("alic", "alice1", "李", "Strase", "%", "a_ice"):
            self.assertIsNone(accounts.find_user(self.db, name))

    def test_without_password(self) -> None:
        """A user without a password has none to be checked."""
        user_id = accounts.add_user_without_password(self.db, "bob", "Bob", NOW)
        self.assertIsNone(accounts.password_of(self.db, "bob"))
        accounts.change_password(self.db, user_id, "argon2", NOW)
        self.assertEqual(accounts.password_of(self.db, "BOB"), (user_id, "argon2"))
        self.assertIsNone(accounts.password_of(self.db, "carol"))

    def test_change_password(self) -> None:
        """A new password is that user's alone."""
        one, other = self.users(2)
        accounts.change_password(self.db, one.id, "new", NOW)
        self.assertEqual(accounts.password_of(self.db, one.name), (one.id, "new"))
        self.assertEqual(accounts.password_of(self.db, other.name), (other.id, "hash"))

    def test_taken(self) -> None:
        """A name cannot be given twice; the error is one of a duplicate."""
        self.user("Alice")
        for add in (
            lambda: accounts.add_user(self.db, "ALICE", "", "hash", NOW),
            lambda: accounts.add_user_without_password(self.db, "alice", "", NOW),
        ):
            with self.assertRaises(self.dialect.errors) as caught:
                add()
            self.assertTrue(self.dialect.duplicate(caught.exception))

    def test_list(self) -> None:
        """Everybody is listed by name, with what an operator may know."""
        for name in ("bob", "Alice", "李雷"):
            self.user(name)
        accounts.disable(self.db, self.single("SELECT id FROM users WHERE name = 'bob'"), 7)
        self.assertEqual(
            accounts.list_users(self.db),
            [("Alice", "", NOW, None), ("bob", "", NOW, 7), ("李雷", "", NOW, None)],
        )


class AccountsOnSQLite(LogIn, Secrets, Users, SQLiteCase):
    """The contract on SQLite."""


class AccountsOnMariaDB(LogIn, Secrets, Users, MariaDBCase):
    """The contract on MariaDB, and what only a server can do."""

    async def test_name_taken_between_two_statements(self) -> None:
        """A name that another node gives away while it is being registered is taken, and the
        invitation is not used up."""
        wire = Wire()
        node = self.node(self.wired(wire))
        token = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        other = self.connect()
        wire.before = once(
            "INSERT INTO users", lambda: _ignore(accounts.add_user(other, "Bob", "", "hash", NOW))
        )
        outcome = await _outcome(node.log_in(self.registering("bob", token)))
        self.assertEqual(outcome, "exists")
        self.assertEqual(self.single("SELECT uses_left FROM invitations"), 1)
        self.assertEqual(self.names(), ["Bob"])

    async def test_password_stays_until_the_token_is_issued(self) -> None:
        """Between the look at the password and the commit of the token nobody changes it, so a
        change ends that token, too."""
        wire, found = Wire(), list[Any]()
        node, other, user = self.node(self.wired(wire)), self.connect(), self.user("bob")

        def change() -> None:
            try:
                other.all("SELECT id FROM users WHERE id = ? FOR UPDATE NOWAIT", (user.id,))
            except pymysql.OperationalError as error:
                found.append(error.args[0])

        wire.before = once("INSERT IGNORE INTO tokens", change)
        await node.log_in(self.issuing(user_id=user.id))
        self.assertEqual(found, [ER.LOCK_WAIT_TIMEOUT])

    async def test_commit_answer_lost(self) -> None:
        """Logins whose commit went through unheard are answered as if nothing had happened."""
        wire = Wire()
        node = self.node(self.wired(wire))
        token = accounts.add_invitation(self.db, 1, NOW + 1, NOW)
        error = pymysql.OperationalError(2013, "Lost connection to MySQL server during query")
        wire.after = once("COMMIT", lambda: throw(error))
        logins = [self.registering(name, token) for name in ("a", "b")]
        waiting = [node.log_in(login) for login in [*logins, self.issuing(name="c")]]
        self.assertEqual([await _outcome(one) for one in waiting], ["a", "forbidden", "c"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM tokens"), 2)


def _ignore(_: Any) -> None:
    pass
