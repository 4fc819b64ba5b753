"""Judges the answers of one notebook: they run in the sandbox, and the course's checks compare here."""

import re
import time
from dataclasses import dataclass, replace

from ...utils.sandbox import Sandbox
from ..checks import Curve, Verdict, check
from .codec import Refused, encode
from .lessons import COURSE_ANSWERS
from .remote import Ended, Process, Remote, Stopped, start

ERROR, MISSING = "error", "missing"  # verdicts besides those of a check
OF_THE_MACHINE = ("ModuleNotFoundError", "ImportError", "PermissionError", "OSError", "FileNotFoundError")
PING_SECONDS = 15
OF_THE_CHECK = 30  # seconds that a check may take besides
LONGEST = 2000  # characters of a message


@dataclass(frozen=True)
class Judged:
    """The verdict about an exercise: that of its check, or "missing" (no definition), or "error".

    curve: of a wrong answer that is a row of numbers.
    """

    exercise: str
    verdict: str
    message: str
    curve: Curve | None = None


@dataclass(frozen=True)
class Rules:
    """How answers are judged. seed: of the inputs. seconds: for all calls of one exercise."""

    seed: int = 0
    seconds: float = 60.0


def judge(cells: tuple[str, ...], exercises: list[str], rules: Rules, sandbox: Sandbox) -> list[Judged]:
    """The verdict about each exercise. One process serves all; one that ends is replaced by another."""
    desk = Desk(cells, rules, sandbox)
    try:
        return [replace(clean(desk.verdict(name)), exercise=name) for name in exercises]
    finally:
        desk.close()


def clean(said: Judged) -> Judged:
    """The same with a message that is cut and has only characters that can be written and shown."""
    shown = said.message[:LONGEST].encode("utf-8", "replace").decode()
    control = r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    return replace(said, message=re.sub(control, " ", shown))


class Desk:
    """Where one notebook is judged. process: None until it is needed, and after it had to be stopped."""

    def __init__(self, cells: tuple[str, ...], rules: Rules, sandbox: Sandbox):
        self.cells, self.rules, self.sandbox = cells, rules, sandbox
        self.process: Process | None = None

    def close(self) -> None:
        """End the process."""
        if self.process:
            self.process.stop()
        self.process = None

    def verdict(self, exercise: str) -> Judged:
        """The verdict. If the definition that counts is not right, the notebook's last one may be."""
        first, candidates = self.candidate(exercise, 0)
        if candidates > 1 and first.verdict != Verdict.RIGHT.value:
            second, _ = self.candidate(exercise, 1)
            return second if second.verdict == Verdict.RIGHT.value else first
        return first

    def candidate(self, exercise: str, number: int) -> tuple[Judged, int]:
        """The verdict about one of the definitions, and how many there are."""
        count = 0
        try:
            said, deadline = self.begin(exercise, number)
            count = 2 if said.get("candidates") == 2 else 1
            return self.checked(exercise, said, deadline), count
        except (Stopped, Refused) as error:
            if not isinstance(error, Ended):
                self.close()
            return Judged(exercise, ERROR, self.reason(error)), count

    def ready(self) -> Process:
        """The process, or a new one if there is none that answers: an earlier answer may have stopped it."""
        if self.process:
            try:
                self.process.exchange(encode("ping"), time.monotonic() + PING_SECONDS)
            except (Stopped, Refused):
                self.close()
        if self.process is None:
            self.process = start(self.sandbox, self.rules.seconds)
        return self.process

    def begin(self, exercise: str, number: int) -> tuple[dict, float]:
        """Let the process run the statements of an exercise; returns what it says, and a deadline."""
        process = self.ready()
        deadline = time.monotonic() + self.rules.seconds
        begin = {
            "exercise": exercise,
            "candidate": number,
            "cells": list(self.cells),
            "course_answers": list(COURSE_ANSWERS.get(exercise, ())),
        }
        said = process.exchange(encode({"begin": begin}), deadline)
        if not isinstance(said, dict):
            raise Stopped("its process says nothing that can be read")
        if said.get("ended"):
            raise Ended("its process ended while its cells ran")
        return said, deadline

    def checked(self, exercise: str, said: dict, deadline: float) -> Judged:
        """The verdict, from what the process says about the cells, and from the check."""
        function, wrong = exercise.partition(".")[2], Verdict.WRONG.value
        if not said.get("candidates"):
            if said.get("broken"):
                return Judged(exercise, wrong, f"the cell is not Python: {said['broken']}")
            return Judged(exercise, MISSING, f"no cell defines {function}")
        if isinstance(said.get("raised"), list) and len(said["raised"]) == 2:
            kind, text = map(str, said["raised"])
            verdict = ERROR if kind in OF_THE_MACHINE else wrong
            return Judged(exercise, verdict, f"the cell that defines {function} raised {kind}: {text}")
        if not said.get("callable"):
            return Judged(exercise, wrong, f"{function} is no function, but of type {said.get('kind')}")
        remote = Remote(self.process, deadline)
        outcome = check(exercise, remote, self.rules.seed, self.rules.seconds + OF_THE_CHECK)
        judged = Judged(exercise, outcome.verdict.value, outcome.message, outcome.curve)
        return explained(judged, said.get("failed"))

    def reason(self, error: Exception) -> str:
        """Why a process had to be stopped."""
        return f"{error}" + (f" ({self.rules.seconds:g} s)" if "in time" in str(error) else "")


def explained(judged: Judged, failed: object) -> Judged:
    """The verdict with the failures of the statements before, which may be its reason."""
    if judged.verdict == Verdict.RIGHT.value or not isinstance(failed, list) or not failed:
        return judged
    machine = any(f"ended with {kind}" in str(line) for line in failed for kind in OF_THE_MACHINE)
    message = f"{judged.message} Before it, {str(failed[0])[:300]}."
    return replace(judged, verdict=ERROR if machine else judged.verdict, message=message)
