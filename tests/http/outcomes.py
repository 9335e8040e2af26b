"""Schedules of faults whose end is known: what may come of a load, reckoned from the faults alone.

A load asks for three kinds of things: the head of the file (*opening*), its parts, in any order and side by side, and,
of a server that cannot give a part of it, the whole. Each step of a schedule says what it does to each of them;
:func:`possible` walks through the steps as the requests come.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.http import faults
from tests.http.fault_server import Fault, Resource

import weightlift as wl

__all__ = ["PATH", "RIGHT", "Costs", "Schedule", "Step", "possible", "random_schedule"]

PATH = "/m.safetensors"
NOWHERE = "/nowhere"

Effect = Literal["good", "again", "hop", "whole", "instead", "later", "torn"] | type[wl.WeightliftError]
"""Of an answer: it is taken; it costs an attempt; it leads to another request; it is the whole file; the whole file is
asked for instead; the other version is opened; it breaks off in the whole file, which may or may not be taken up again
there; or the error that it is."""

Outcome = Literal["right"] | type[wl.WeightliftError]
RIGHT: Outcome = "right"

BROKEN: tuple[Effect, ...] = (wl.FormatError, wl.TruncatedError)
"""The file itself makes no sense."""
ANY: set[Outcome] = {RIGHT, wl.TransportError, wl.ChangedError, wl.FormatError, wl.TruncatedError}
HOPS = 10
SPARE = 2
"""Attempts beyond those that stalls cost, for answers that a busy machine makes too late."""


@dataclass(frozen=True)
class Step:
    """One fault.

    Attributes:
        text: For messages.
        opening, part, whole: What it may do to such a request.
        least: It does that to bodies of more than so many bytes only.
        spared: What it may do to others.
        cuts: It hands over some of the bytes, so that the next request asks for the rest.
        stalls: Only time tells that it is one.
        flips: Only a checksum does.
    """

    text: str
    fault: Fault
    opening: tuple[Effect, ...]
    part: tuple[Effect, ...]
    whole: tuple[Effect, ...]
    least: int = -1
    spared: tuple[Effect, ...] = ("good",)
    cuts: bool = False
    stalls: bool = False
    flips: bool = False

    def effects(self, of: tuple[Effect, ...], least: int, most: int) -> set[Effect]:
        """On a request of ``least`` to ``most`` bytes."""
        found: set[Effect] = set(of) if most > self.least else set()
        return found if least > self.least else found | set(self.spared)


HONEST = Step("honest", faults.honest, ("good",), ("good",), ("good",))


@dataclass(frozen=True)
class Costs:
    """What an honest load asks for: the bytes of its first request, and of each of its parts."""

    head: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Steps for the first requests, one for all that follow, and the attempts that the client makes."""

    steps: tuple[Step, ...]
    then: Step
    attempts: int

    @property
    def all(self) -> tuple[Step, ...]:
        return (*self.steps, self.then)

    def __str__(self) -> str:
        return f"{', '.join(s.text for s in self.steps)}; then {self.then.text}; {self.attempts} attempts"

    @property
    def stalls(self) -> bool:
        return any(s.stalls for s in self.all)

    @property
    def flips(self) -> bool:
        return any(s.flips for s in self.all)

    @property
    def cuts(self) -> bool:
        return any(s.cuts for s in self.all)

    @property
    def costly(self) -> int:
        """How many of the steps may cost an attempt."""
        return sum("again" in {*s.opening, *s.part, *s.spared} for s in self.steps)

    def at(self, i: int) -> Step:
        return self.steps[i] if i < len(self.steps) else self.then

    def fault(self) -> Fault:
        """What the server does: what is nowhere is so whenever it is asked for, and costs no step."""
        turn = faults.in_turn(*(s.fault for s in self.steps), then=self.then.fault)
        return faults.where(lambda request: request.path != NOWHERE, turn)


# --- what may come of it --------------------------------------------------------------------------------------
def possible(schedule: Schedule, costs: Costs) -> set[Outcome]:
    """All ends that a load may come to; one that is not among them is a fault of the client."""
    return _Walk(schedule, costs).opening(0)


class _Walk:
    def __init__(self, schedule: Schedule, costs: Costs) -> None:
        self.schedule, self.costs = schedule, costs
        self.shortest = 1 if schedule.cuts else min(costs.parts)
        self.longest = max(costs.parts)

    def opening(self, i: int, failed: int = 0, hops: int = 0) -> set[Outcome]:
        step, found = self.schedule.at(i), set[Outcome]()
        for effect in step.effects(step.opening, self.costs.head, self.costs.head):
            if effect == "good":
                found |= self.parts(i + 1)
            elif effect == "later":
                found |= self.later(i + 1)
            elif effect == "whole":
                found.add(RIGHT)
            elif effect == "instead":
                found |= self.whole(i + 1, failed, hops)
            elif step.flips:  # in the header, or in the bytes that came with it
                found |= {effect} | (self.parts(i + 1) - {RIGHT})
            else:
                found |= self.passing(effect, self.opening, i, failed, hops)
        return found

    def whole(self, i: int, failed: int, hops: int) -> set[Outcome]:
        """One request, if all is well: the rest of the schedule does not come to its turn."""
        found = set[Outcome]()
        for effect in self.schedule.at(i).whole:
            if effect == "good":
                found.add(RIGHT)
            elif effect == "torn":
                found |= ANY | {e for s in self.schedule.all for e in s.whole if isinstance(e, type)}
            else:
                found |= self.passing(effect, self.whole, i, failed, hops)
        return found

    def passing(
        self, effect: Effect, again: Callable[[int, int, int], set[Outcome]], i: int, failed: int, hops: int
    ) -> set[Outcome]:
        """Of what is asked for one by one."""
        if isinstance(effect, type):
            return {effect}
        failed, hops = failed + (effect == "again"), hops + (effect == "hop")
        if failed == self.schedule.attempts or hops > HOPS:
            return {wl.TransportError}
        return again(i + 1, failed, hops)

    def on_part(self, step: Step) -> set[Effect]:
        return step.effects(step.part, self.shortest, self.longest)

    def parts(self, i: int) -> set[Outcome]:
        """Any part may get any of the rest, but a step comes to its turn if there are as many parts before it."""
        rest, then = [self.on_part(s) for s in self.schedule.steps[i:]], self.on_part(self.schedule.then)
        found = self.errors(rest, then)
        fatal = any(all(isinstance(e, type) for e in effects) for effects in rest[: len(self.costs.parts)])
        good = sum("good" in effects for effects in rest)
        starved = "good" not in then and good < len(self.costs.parts)
        return found if fatal or starved else found | {RIGHT}

    def later(self, i: int) -> set[Outcome]:
        """After the opening of the other version, whose parts only those steps give that change to it."""
        rest = self.schedule.steps[i:]
        changing = ["later" in s.opening for s in (*rest, self.schedule.then)]
        if all(changing):
            return {RIGHT}
        found = self.errors([self.on_part(s) for s in rest], self.on_part(self.schedule.then)) | {wl.ChangedError}
        enough = changing[-1] or sum(changing) >= len(self.costs.parts)
        return found | {RIGHT} if enough else found

    def errors(self, rest: list[set[Effect]], then: set[Effect]) -> set[Outcome]:
        """Those that some part may end in."""
        found: set[Outcome] = {e for effects in (*rest, then) for e in effects if isinstance(e, type)}
        if self.schedule.costly >= self.schedule.attempts or {"again", "hop"} & then:
            found.add(wl.TransportError)
        return found


# --- schedules ------------------------------------------------------------------------------------------------
AGAIN: tuple[Effect, ...] = ("again",)
GOOD: tuple[Effect, ...] = ("good",)
LOST: tuple[Effect, ...] = (wl.TransportError,)
GONE: tuple[Effect, ...] = (wl.NotFoundError,)


def _connection(rng: random.Random, byte: int) -> list[Callable[[], Step]]:
    """What is over with another attempt."""

    def cut(name: str, fault: Fault, **options: Any) -> Step:
        text = f"{name}({byte})"
        return Step(text, fault, AGAIN, AGAIN, ("torn",), least=byte, cuts=byte > 0, **options)

    def whole(name: str, fault: Fault, **options: Any) -> Step:
        return Step(name, fault, AGAIN, AGAIN, AGAIN, **options)

    return [
        lambda: cut("reset_at", faults.reset_at(byte), spared=("good", "again")),
        lambda: cut("close_at", faults.close_at(byte)),
        lambda: cut("stall_at", faults.stall_at(byte), spared=("good", "again"), stalls=True),
        lambda: cut("chunked_cut_at", faults.chunked_cut_at(byte)),
        lambda: whole("silence", faults.silence, stalls=True),
        lambda: whole("hang_up", faults.hang_up),
        lambda: whole("reset", faults.reset),
        *[lambda: _status(rng.choice([408, 425, 429, 500, 502, 503, 504]), AGAIN)] * 3,
        lambda: whole("retry_after", faults.retry_after_seconds(rng.choice([429, 503]), 0)),
    ]


def _status(code: int, effects: tuple[Effect, ...]) -> Step:
    return Step(f"status({code})", faults.status(code), effects, effects, effects)


def _harmless() -> list[Callable[[], Step]]:
    names = ("chunked", "no_length", "close_after")
    steps = [Step(name, getattr(faults, name), GOOD, GOOD, GOOD) for name in names]
    steps += [
        Step("huge_headers(5000)", faults.huge_headers(5000), GOOD, GOOD, GOOD),
        Step("redirect to itself", faults.redirect(PATH), ("hop",), ("hop",), ("hop",)),
    ]
    return [lambda step=step: step for step in steps]


def _wrong(rng: random.Random, byte: int, now: bytes, later: bytes) -> list[Callable[[], Step]]:
    """What no other attempt would change, at one place or at all."""
    off, size = rng.choice([-1, 1, 64]), rng.choice([-1, 1, 1000])
    unparsable = rng.choice([None, "", "\x7f"])
    few = rng.choice([1, byte + 1])
    # What is left over may be taken for the beginning of the next answer on that connection.
    spilling = Step("too_long_silently", faults.too_long_silently(1000), (*GOOD, *LOST), (*GOOD, *LOST), GOOD)
    changed = faults.changed(Resource(later, etag='"later"'))
    return [
        lambda: Step(f"too_long({few})", faults.too_long(few), (*GOOD, *LOST), LOST, BROKEN),
        lambda: spilling,
        lambda: Step(f"too_short({few})", faults.too_short(few), AGAIN, LOST, BROKEN),
        lambda: Step(f"less_than_asked({few})", faults.less_than_asked(few), LOST, LOST, GOOD, least=few),
        lambda: Step("whole_file", faults.whole_file(now), ("whole",), AGAIN, GOOD),
        lambda: Step(f"range begins {off:+}", faults.wrong_content_range(begin=off), LOST, LOST, GOOD),
        lambda: Step(f"range ends {off:+}", faults.wrong_content_range(end=off), LOST, LOST, GOOD),
        lambda: Step(f"size {size:+}", faults.wrong_content_range(total=size), BROKEN, (wl.ChangedError,), GOOD),
        lambda: Step(f"content_range({unparsable!r})", faults.content_range(unparsable), LOST, LOST, GOOD),
        lambda: Step("content_range(*)", faults.content_range("bytes */*"), ("instead",), LOST, GOOD),
        lambda: Step("content_range(0-0/1)", faults.content_range("bytes 0-0/1"), LOST, (wl.ChangedError,), GOOD),
        lambda: _status(400, LOST),
        lambda: _status(404, GONE),
        lambda: _status(403, (wl.AccessError,)),
        lambda: Step("changed", changed, ("later",), (wl.ChangedError,), GOOD),
        lambda: Step("redirect to nowhere", faults.redirect(NOWHERE), GONE, GONE, GONE),
        lambda: Step("redirect to a closed port", faults.redirect("http://127.0.0.1:1/"), LOST, AGAIN, LOST),
        lambda: Step("redirect(//)", faults.redirect("//"), LOST, LOST, LOST),
        lambda: Step("redirect(ftp)", faults.redirect("ftp://x/"), LOST, LOST, LOST),
        lambda: Step("huge_headers(500000)", faults.huge_headers(500_000), LOST, LOST, LOST),
        lambda: Step("garbage_headers", faults.garbage_headers, LOST, LOST, LOST),
        lambda: Step("gzipped", faults.gzipped, ("instead",), LOST, GOOD),
        lambda: Step(f"flipped({byte})", faults.flipped(byte), BROKEN, (wl.ChecksumError,), BROKEN, flips=True),
    ]


def random_schedule(rng: random.Random, now: bytes, later: bytes) -> Schedule:
    """Up to five faults among right answers, and then right answers, more often than not.

    A third of the schedules have only faults that pass. Most clients make just one attempt more than there are faults.
    """
    only_passing = rng.random() < 1 / 3

    def draw() -> Step:
        byte = rng.choice([0, 1, rng.randrange(1, 5000), rng.randrange(1, 200_000)])
        passing = [*_connection(rng, byte), *_harmless()]
        wrong = [] if only_passing else _wrong(rng, byte, now, later)
        return rng.choice([*passing, *wrong])()

    steps: list[Step] = []
    for _ in range(rng.randrange(1, 6)):
        steps += [HONEST] * rng.choice([0, 0, 1, 3]) + [draw()]
    then = draw() if not only_passing and rng.random() < 0.15 else HONEST
    schedule = Schedule(tuple(steps), then, 1)
    attempts = rng.choice([2, 3]) if rng.random() < 0.1 else schedule.costly + 1
    if schedule.stalls:
        attempts += SPARE
    return replace(schedule, attempts=attempts)
