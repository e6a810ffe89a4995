"""The judge of `synod torment` finds every wrong thing that is planted into a good history, and nothing in a good one."""

from __future__ import annotations

import copy
import random

import pytest
from torment_world import REGISTERS, Record, good_history

from synod.torment import judge

ORDER = "each register is linearizable, by the order that answers name"
SEARCH = "each register is linearizable, by search"
LOCKS = "a lock has one holder, and its tokens rise"
EPHEMERALS = "an ephemeral lives as long as its session, and no longer"
COUNTERS = "a counter counts each addition once"
KEPT = "what was acknowledged is there at the end, once"
WATCHES = "a watch tells of a change before a reply shows it"
DIGESTS = "replicas have equal digests at equal slots"
ENDS = "no replica ends by itself, or goes on with a disk that failed"
PROGRESS = "once all faults are healed, everybody comes on"


class History:
    """A good history, to be spoilt."""

    def __init__(self, seed: int) -> None:
        self.records = copy.deepcopy(good_history(seed))
        self.calls = {r["id"]: r for r in self.records if "call" in r}
        self.answers = {r["id"]: r for r in self.records if "ok" in r}
        self.rng = random.Random(seed)

    def answered(self, op: str) -> list[tuple[Record, Record]]:
        """Calls and their answers, in the order of the calls."""
        return [(call, self.answers[i]) for i, call in self.calls.items() if call["call"] == op and i in self.answers]

    def events(self, event: str, **what: object) -> list[Record]:
        return [r for r in self.records if r.get("event") == event and what.items() <= r.items()]

    def writes(self, key: str) -> list[tuple[Record, Record]]:
        """Acknowledged ones of a register, in the order in which they took effect."""
        found = [(c, a) for op in ("write", "cas") for c, a in self.answered(op) if c["key"] == key]
        return sorted(found, key=lambda pair: pair[1]["ok"]["version"])

    def reads_after(self, write: tuple[Record, Record]) -> list[Record]:
        """The answers to reads that were asked after a write had been acknowledged."""
        key = write[0]["key"]
        return [a for c, a in self.answered("read") if c["key"] == key and c["at"] > write[1]["at"]]


def shows(write: tuple[Record, Record]) -> Record:
    """The answer to a read that finds what was written."""
    call, answer = write
    return {"value": call["value"], **answer["ok"]}


# -- one wrong thing each ------------------------------------------------------------------------------------


def lost_write(h: History) -> None:
    """Everybody reads what stood there before an acknowledged write, to the end."""
    *_, before, lost = h.writes(REGISTERS[0])
    for answer in h.reads_after(lost):
        answer["ok"] = shows(before)


def stale_read(h: History) -> None:
    """One read misses a write that had been acknowledged before it was asked."""
    writes = h.writes(REGISTERS[0])
    before, missed = writes[len(writes) // 2 - 1], writes[len(writes) // 2]
    h.rng.choice(h.reads_after(missed))["ok"] = shows(before)


def read_from_the_future(h: History) -> None:
    """A value is read before anybody asked for it to be written."""
    writes = h.writes(REGISTERS[0])
    first = next(a for c, a in h.answered("read") if a["at"] < writes[-1][0]["at"] and c["key"] == REGISTERS[0])
    first["ok"] = shows(writes[-1])


def invented_value(h: History) -> None:
    """A value is read that nobody wrote."""
    h.answered("read")[-1][1]["ok"]["value"] = "nobody's"


def refused_write_shown(h: History) -> None:
    """A write that was refused, so never happened, is read."""
    call, answer = h.writes(REGISTERS[0])[-1]
    del answer["ok"]
    answer["refused"] = "SessionExpired"
    assert h.reads_after((call, answer))


def write_taken_back(h: History) -> None:
    """A write of unknown outcome is seen, and then it is not."""
    call, answer = h.writes(REGISTERS[0])[-1]
    before = h.writes(REGISTERS[0])[-2]
    *_, last = h.reads_after((call, answer))
    del answer["ok"]
    answer["unknown"] = "ConnectionLoss"
    last["ok"] = shows(before)


def written_over_unseen(h: History) -> None:
    """A set-if-unchanged succeeds, though somebody had changed it."""
    for call, answer in h.answered("cas"):
        if call["expected"] > 0:
            call["expected"] -= 1
            assert answer["ok"]["version"] > call["expected"] + 1
            return


def refused_for_nothing(h: History) -> None:
    """A set-if-unchanged is refused, though nobody had changed anything since long before."""
    call, answer = h.answered("read")[-2 * len(REGISTERS)]
    at = h.records.index(answer) + 1
    asked = {"client": 77, "call": "cas", "key": call["key"], "value": "x", "expected": answer["ok"]["version"]}
    h.records[at:at] = [
        {"at": answer["at"] + 1, "id": 99_999, **asked},
        {"at": answer["at"] + 2, "id": 99_999, "refused": "BadVersion"},
    ]


def version_skipped(h: History) -> None:
    """A write makes two versions: it was applied twice."""
    write = h.writes(REGISTERS[0])[-1]
    was = write[1]["ok"]["version"]
    for answer in (write[1], *h.reads_after(write)):
        if answer["ok"]["version"] == was:
            answer["ok"]["version"] += 40


def two_holders(h: History) -> None:
    """The holder's own check passes while another one holds the lock already."""
    holders = h.answered("lock")
    (one, _), (two, got) = h.rng.sample(holders[:-3], 1)[0], holders[-2]
    h.events("held", id=one["id"])[0]["until"] = h.events("held", id=two["id"])[0]["until"]
    assert got["at"] < h.events("held", id=two["id"])[0]["until"]


def falling_token(h: History) -> None:
    """Two holders one after another have each other's tokens."""
    holders = sorted(h.answered("lock"), key=lambda pair: pair[1]["at"])
    first, second = holders[10][1]["ok"], holders[11][1]["ok"]
    first["token"], second["token"] = second["token"], first["token"]


def falling_token_unproven(h: History) -> None:
    """The same of two whose holding nothing proves but the answer."""
    holders = sorted(h.answered("lock"), key=lambda pair: pair[1]["at"])
    first = holders[10]
    second = next(pair for pair in holders if pair[0]["at"] > first[1]["at"])
    for event in h.events("held", id=first[0]["id"]) + h.events("held", id=second[0]["id"]):
        h.records.remove(event)
    a, b = first[1]["ok"], second[1]["ok"]
    a["token"], b["token"] = b["token"], a["token"]


def token_given_twice(h: History) -> None:
    """A token names one holding."""
    holders = h.answered("lock")
    holders[10][1]["ok"]["token"] = holders[11][1]["ok"]["token"]


def two_owners(h: History) -> None:
    """An ephemeral is made while the one of another client is there."""
    made = h.answered("create")
    one, other = made[2][0], made[3]
    h.events("owned", id=one["id"])[0]["until"] = h.events("owned", id=other[0]["id"])[0]["until"]


def ephemeral_gone(h: History) -> None:
    """It is gone, its session lives, and nobody was deleting one of that name."""
    deletions = h.answered("delete")
    call, answer = next(
        (call, answer)
        for call, answer in h.answered("create")
        if not any(d["at"] <= answer["at"] and done["at"] >= call["at"] for d, done in deletions)
    )
    at = h.records.index(answer) + 1
    h.records.insert(at, {"at": answer["at"], "event": "vanished", "id": call["id"], "what": "there was none"})


def ephemeral_left(h: History) -> None:
    """It is there, and its session is long over."""
    h.events("final")[1]["ephemerals"].append("ephemeral-0")


def added_twice(h: History) -> None:
    """The sum at the end is more than all that may have been added."""
    maybe = sum(c["call"] == "add" and i not in h.answers for i, c in h.calls.items())
    for final in h.events("final"):
        final["counters"]["counter-0"] = len(h.answered("add")) + maybe + 1


def addition_lost(h: History) -> None:
    """The sum at the end is less than what was acknowledged."""
    for final in h.events("final"):
        final["counters"]["counter-0"] = len(h.answered("add")) - 1


def same_sum_twice(h: History) -> None:
    """Two additions made the same sum: one of them is lost."""
    adds = h.answered("add")
    adds[3][1]["ok"]["value"] = adds[4][1]["ok"]["value"]


def falling_sum(h: History) -> None:
    """A sum is lower than one that had been answered before it was asked for."""
    adds = sorted(h.answered("add"), key=lambda pair: pair[0]["at"])
    first = adds[3]
    second = next(pair for pair in adds if pair[0]["at"] > first[1]["at"])
    a, b = first[1]["ok"], second[1]["ok"]
    a["value"], b["value"] = b["value"], a["value"]


def entry_lost(h: History) -> None:
    """Something acknowledged is not there at the end."""
    call, answer = h.rng.choice(h.answered("append"))
    del h.events("final")[0]["entries"][answer["ok"]["name"]]
    assert call["value"] not in h.events("final")[0]["entries"].values()


def entry_applied_twice(h: History) -> None:
    """Something asked for once is there twice."""
    call, _ = h.rng.choice(h.answered("append"))
    h.events("final")[0]["entries"]["n-0000009999"] = call["value"]


def entry_of_nobody(h: History) -> None:
    """Something is there that nobody asked for."""
    h.events("final")[0]["entries"]["n-0000009999"] = "nobody's"


def refused_entry_there(h: History) -> None:
    """Something that was refused is there all the same."""
    _, answer = h.rng.choice(h.answered("append"))
    del answer["ok"]
    answer["refused"] = "SessionExpired"


def replicas_show_different(h: History) -> None:
    """After a sync, one replica shows less than another."""
    h.events("final")[2]["names"] -= 1


def event_missed(h: History) -> None:
    """A reply shows a change, and the event of the watch never comes."""
    h.records.remove(told(h))


def event_twice(h: History) -> None:
    """The event of a one-shot watch comes twice."""
    event = told(h)
    h.records.insert(h.records.index(event), dict(event))


def event_late(h: History) -> None:
    """The event comes after the reply that shows the change."""
    event = told(h)
    h.records.remove(event)
    reply = reply_after(h, event)
    h.records.insert(h.records.index(reply) + 1, event)


def event_of_nobody(h: History) -> None:
    """An event of a watch that was never set."""
    h.records.insert(-1, {**told(h), "session": 999})


def told(h: History) -> Record:
    """An event after which its session is shown the change."""
    return next(event for event in h.events("watch", kind="event") if reply_after(h, event))


def reply_after(h: History, event: Record) -> Record | None:
    replies = h.events("watch", kind="reply", session=event["session"], client=event["client"])
    return next((reply for reply in replies if reply["at"] >= event["at"]), None)


def digests_differ(h: History) -> None:
    """Two replicas hold different states at one slot."""
    h.events("digest")[1]["digest"] = "bb"


def never_equal(h: History) -> None:
    """A replica never comes to where the others are."""
    h.records.remove(h.events("equal")[0])


def replica_ended(h: History) -> None:
    """A replica ends, and nobody has ended it."""
    h.records.insert(9, {"at": 9, "event": "ended", "replica": 2, "code": -11, "said": "nothing"})


def replica_went_on(h: History) -> None:
    """A replica goes on though its disk has refused to sync."""
    h.records.insert(9, {"at": 9, "event": "went-on", "replica": 2, "seconds": 10.0})


def replica_tried_again(h: History) -> None:
    """A replica syncs again after a sync has failed."""
    h.records.insert(9, {"at": 9, "event": "tried-again", "replica": 2, "times": 2, "calls": "fdatasync"})


def somebody_stuck(h: History) -> None:
    """Everything is healed, and somebody gets no answer."""
    h.records.insert(-1, {"at": 9, "event": "stuck", "what": "client 3 (locks)", "seconds": 30.0})


PLANTED = {
    lost_write: (ORDER, SEARCH),
    stale_read: (ORDER, SEARCH),
    read_from_the_future: (ORDER, SEARCH),
    invented_value: (ORDER, SEARCH),
    refused_write_shown: (ORDER, SEARCH),
    write_taken_back: (ORDER, SEARCH),
    written_over_unseen: (ORDER, SEARCH),
    refused_for_nothing: (SEARCH,),  # a write without an answer may have come in between, says the order
    version_skipped: (ORDER, SEARCH),
    two_holders: (LOCKS,),
    falling_token: (LOCKS,),
    falling_token_unproven: (LOCKS,),
    token_given_twice: (LOCKS,),
    two_owners: (EPHEMERALS,),
    ephemeral_gone: (EPHEMERALS,),
    ephemeral_left: (EPHEMERALS,),
    added_twice: (COUNTERS,),
    addition_lost: (COUNTERS,),
    same_sum_twice: (COUNTERS,),
    falling_sum: (COUNTERS,),
    entry_lost: (KEPT,),
    entry_applied_twice: (KEPT,),
    entry_of_nobody: (KEPT,),
    refused_entry_there: (KEPT,),
    replicas_show_different: (KEPT,),
    event_missed: (WATCHES,),
    event_twice: (WATCHES,),
    event_late: (WATCHES,),
    event_of_nobody: (WATCHES,),
    digests_differ: (DIGESTS,),
    never_equal: (DIGESTS,),
    replica_ended: (ENDS,),
    replica_went_on: (ENDS,),
    replica_tried_again: (ENDS,),
    somebody_stuck: (PROGRESS,),
}


def test_who_may_have_deleted_it_is_asked_first() -> None:
    """An ephemeral is gone, and another client was deleting one of that name: that explains it."""
    history = History(1)
    ephemeral_gone(history)
    assert not judge(history.records).holds
    (gone,) = history.events("vanished")
    at = history.records.index(gone)
    asked = {"client": 99, "call": "delete", "key": "ephemeral-0"}
    history.records.insert(at, {"at": gone["at"] - 1, "id": 99_999, **asked})
    assert judge(history.records).holds
    history.records.insert(at + 1, {"at": gone["at"] - 1, "id": 99_999, "refused": "NoNode"})
    assert not judge(history.records).holds


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_found_in_a_good_history(seed: int) -> None:
    """A judge that cries wolf is worth as little as one that sleeps."""
    verdict = judge(good_history(seed))
    assert verdict.findings == []
    assert min(verdict.examined.values()) > 0, verdict.examined


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_is_found(plant, seed: int) -> None:
    """By the promises that it breaks, and by no other."""
    history = History(seed)
    plant(history)
    found = {finding.promise for finding in judge(history.records).findings}
    assert found == set(PLANTED[plant])


def test_every_promise_is_broken_by_something_planted() -> None:
    """A promise that nothing breaks is not checked."""
    assert {promise for broken in PLANTED.values() for promise in broken} == judge(good_history()).examined.keys()


def test_a_history_that_was_cut_off_is_judged_as_far_as_it_goes() -> None:
    """Wherever it ends, a good run has broken nothing so far; and what was broken before is found."""
    good = good_history(3)
    for end in range(1, len(good), 97):
        assert judge(good[:end]).findings == []
    spoilt = History(3)
    stale_read(spoilt)
    assert not judge(spoilt.records[:-6]).holds
