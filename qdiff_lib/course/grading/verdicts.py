"""Judges the answers of one notebook: they run in the sandbox, and the course's checks compare here."""

import re
import time
from dataclasses import dataclass

from ...utils.sandbox import Sandbox
from ..checks import Verdict, check
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
    """The verdict about an exercise: that of its check, or "missing" (no definition), or "error"."""

    exercise: str
    verdict: str
    message: str


@dataclass(frozen=True)
class Rules:
    """How answers are judged. seed: of the inputs. seconds: for all calls of one exercise."""

    seed: int = 0
    seconds: float = 60.0


def judge(cells: tuple[str, ...], exercises: list[str], rules: Rules, sandbox: Sandbox) -> list[Judged]:
    """The verdict about each exercise. One process serves all; one that ends is replaced by another."""
    desk = Desk(cells, rules, sandbox)
    try:
        return [Judged(name, *clean(desk.verdict(name))) for name in exercises]
    finally:
        desk.close()


def clean(said: tuple[str, str]) -> tuple[str, str]:
    """Verdict and message, which is cut and has only characters that can be written and shown."""
    verdict, message = said
    shown = message[:LONGEST].encode("utf-8", "replace").decode()
    return verdict, re.sub(
        r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", " ", shown
    )


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

    def verdict(self, exercise: str) -> tuple[str, str]:
        """Verdict and message. If the definition that counts is not right, the notebook's last one may be."""
        first, candidates = self.candidate(exercise, 0)
        if candidates > 1 and first[0] != Verdict.RIGHT.value:
            second, _ = self.candidate(exercise, 1)
            return second if second[0] == Verdict.RIGHT.value else first
        return first

    def candidate(self, exercise: str, number: int) -> tuple[tuple[str, str], int]:
        """Verdict and message about one of the definitions, and how many there are."""
        count = 0
        try:
            said, deadline = self.begin(exercise, number)
            count = 2 if said.get("candidates") == 2 else 1
            return self.checked(exercise, said, deadline), count
        except (Stopped, Refused) as error:
            if not isinstance(error, Ended):
                self.close()
            return (ERROR, self.reason(error)), count

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

    def checked(self, exercise: str, said: dict, deadline: float) -> tuple[str, str]:
        """Verdict and message, from what the process says about the cells, and from the check."""
        function = exercise.partition(".")[2]
        if not said.get("candidates"):
            if said.get("broken"):
                return Verdict.WRONG.value, f"the cell is not Python: {said['broken']}"
            return MISSING, f"no cell defines {function}"
        if isinstance(said.get("raised"), list) and len(said["raised"]) == 2:
            kind, text = map(str, said["raised"])
            verdict = ERROR if kind in OF_THE_MACHINE else Verdict.WRONG.value
            return verdict, f"the cell that defines {function} raised {kind}: {text}"
        if not said.get("callable"):
            return Verdict.WRONG.value, f"{function} is no function, but of type {said.get('kind')}"
        remote = Remote(self.process, deadline)
        outcome = check(exercise, remote, self.rules.seed, self.rules.seconds + OF_THE_CHECK)
        return explained(outcome.verdict.value, outcome.message, said.get("failed"))

    def reason(self, error: Exception) -> str:
        """Why a process had to be stopped."""
        return f"{error}" + (f" ({self.rules.seconds:g} s)" if "in time" in str(error) else "")


def explained(verdict: str, message: str, failed: object) -> tuple[str, str]:
    """The verdict with the failures of the statements before, which may be its reason."""
    if verdict == Verdict.RIGHT.value or not isinstance(failed, list) or not failed:
        return verdict, message
    if any(f"ended with {kind}" in str(line) for line in failed for kind in OF_THE_MACHINE):
        verdict = ERROR
    return verdict, f"{message} Before it, {str(failed[0])[:300]}."
