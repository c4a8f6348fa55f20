"""What two users are to each other: every state that any steps lead to."""

from __future__ import annotations

from collections import deque
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from chatd import bonds
from chatd.bonds import NOBODY, REFUSED_FOR, WITHDRAWN_FOR, Bond, Change, Side, Step
from chatd.errors import Refused

START = 10**12  # ms
PAIRS = {
    ("", ""),
    ("", "refused"),
    ("asked", "asking"),
    ("asked", "refused"),
    ("friend", "friend"),
}


def turned(bond: Bond) -> Bond:
    """The bond as the other one sees it."""
    return Bond(bond.name, bond.theirs, bond.mine)


def sound(bond: Bond) -> bool:
    """Whether the two sides fit together."""
    states = (bond.mine.state, bond.theirs.state)
    if bond.mine.blocked or bond.theirs.blocked:
        return set(states) <= {"", "refused"}
    return tuple(sorted(states)) in PAIRS


def steps(now: int) -> dict[str, Step]:
    """All that one may do."""
    return {
        "befriend": partial(bonds.ask, words="hello", now=now),
        "accept": partial(bonds.accept, now=now),
        "refuse": partial(bonds.refuse, now=now),
        "unfriend": bonds.unfriend,
        "remark": partial(bonds.remark, text="my friend"),
        "block": bonds.block,
        "unblock": bonds.unblock,
    }


class Bonds(SynchronousTestCase):
    """The rules, without a database."""

    def after(self, *words: str, now: int = START) -> Bond:
        """The bond after steps; "bob accept" is taken by the other one. Seen by the first."""
        bond = Bond("bob")
        for word in words:
            bond = self.change(bond, word, now).bond
            if word.startswith("bob "):
                bond = turned(bond)
        return bond

    def change(self, bond: Bond, word: str, now: int = START) -> Change:
        """What a step makes of a bond, seen by the one who takes it."""
        step = steps(now)[word.removeprefix("bob ")]
        return step(turned(bond) if word.startswith("bob ") else bond)

    def refused(self, bond: Bond, word: str, now: int = START) -> str:
        """The code with which a step is refused."""
        with self.assertRaises(Refused) as caught:
            self.change(bond, word, now)
        code: str = caught.exception.code
        return code

    def test_every_state(self) -> None:
        """From nothing, any steps of either lead only to states in which both sides agree; what is
        repeated changes nothing or is refused."""
        known, waiting = {Bond("bob")}, deque([Bond("bob")])
        while waiting:
            bond = waiting.popleft()
            self.assertTrue(sound(bond), bond)
            for now in (START, START + WITHDRAWN_FOR, START + REFUSED_FOR):
                for word, step in steps(now).items():
                    for seen in (bond, turned(bond)):
                        try:
                            change = step(seen)
                        except Refused:
                            continue
                        self.assertEqual(bool(change.kind), change.bond != seen, (word, seen))
                        try:
                            again = step(change.bond)
                        except Refused as refused:
                            self.assertEqual(refused.code, "not-found", (word, seen))
                        else:
                            self.assertEqual(again.kind, "", (word, seen))
                        if change.bond not in known:
                            known.add(change.bond)
                            waiting.append(change.bond)
        pairs = {(bond.mine.state, bond.theirs.state) for bond in known}
        self.assertEqual({tuple(sorted(pair)) for pair in pairs}, PAIRS)

    def test_nothing_told_after_a_refusal(self) -> None:
        """Who was refused sees no more than that he has asked, and is not shown again for a
        month, whatever he tries."""
        bond = self.after("befriend", "bob refuse")
        self.assertEqual((bond.mine.state, bond.theirs.state), ("asked", "refused"))
        for tricks in ((), ("unfriend",), ("block", "unblock"), ("unfriend", "block", "unblock")):
            tried = self.after("befriend", "bob refuse", *tricks)
            change = self.change(tried, "befriend", START + REFUSED_FOR - 1)
            self.assertFalse(change.told)
            self.assertEqual(change.bond.mine.state, "asked")
            self.assertEqual(change.bond.theirs.state, "refused")
        change = self.change(bond, "befriend", START + REFUSED_FOR)
        self.assertTrue(change.told)
        self.assertEqual(change.bond.theirs.state, "asking")

    def test_changed_mind(self) -> None:
        """Who has refused may still ask, and finds a friend."""
        change = self.change(self.after("befriend", "bob refuse"), "bob befriend")
        self.assertEqual((change.kind, change.told), ("accepted", True))

    def test_withdrawn_and_asked_again(self) -> None:
        """A request that was withdrawn, in whatever way, stands again but is not told again for a
        day after it was."""
        for tricks in (("unfriend",), ("block", "unblock"), ("unfriend", "befriend", "unfriend")):
            bond = self.after("befriend", *tricks)
            change = self.change(bond, "befriend", START + WITHDRAWN_FOR - 1)
            self.assertEqual((change.kind, change.told), ("befriended", False), tricks)
            self.assertEqual(change.bond.theirs.state, "asking")
            change = self.change(bond, "befriend", START + WITHDRAWN_FOR)
            self.assertTrue(change.told, tricks)

    def test_friends_again(self) -> None:
        """A friendship that ended leaves nothing, and may be asked for at once."""
        ended = self.after("befriend", "bob accept", "remark", "unfriend")
        self.assertEqual(ended, Bond("bob"))
        self.assertTrue(self.change(ended, "befriend").told)

    def test_blocked(self) -> None:
        """Neither asks where one of them blocks; what they were is over for both."""
        bond = self.after("befriend", "bob accept", "bob remark", "block")
        self.assertEqual(bond, Bond("bob", Side(blocked=True), NOBODY))
        self.assertEqual(self.refused(bond, "befriend"), "blocked")
        self.assertEqual(self.refused(bond, "bob befriend"), "blocked")
        both = turned(self.change(bond, "bob block").bond)
        self.assertTrue(both.mine.blocked and both.theirs.blocked)
        self.assertEqual(self.change(both, "unblock").bond.theirs, Side(blocked=True))

    def test_nothing_there(self) -> None:
        """What is not there is not found."""
        for word in ("accept", "refuse", "unfriend", "remark", "unblock"):
            self.assertEqual(self.refused(Bond("bob"), word), "not-found", word)
        asked = self.after("befriend")
        self.assertEqual(self.refused(asked, "accept"), "not-found")
        self.assertEqual(self.refused(asked, "refuse"), "not-found")
        self.assertEqual(self.refused(asked, "bob unfriend"), "not-found")

    def test_remark(self) -> None:
        """A remark is one's own, and outlives the answer to the request."""
        bond = self.after("befriend", "remark", "bob accept")
        self.assertEqual((bond.mine.remark, bond.theirs.remark), ("my friend", ""))
