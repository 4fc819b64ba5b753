"""The grades of a class: which work counts, in several processes, with what was graded before."""

import functools
import hashlib
import json
import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...utils.files import write_json
from ...utils.sandbox import Sandbox
from ..checks import Curve
from .lessons import exercises, points
from .roster import Roster, Student
from .submissions import Collection, Work
from .verdicts import ERROR, Judged, Rules, judge

Place = tuple[Student, str]  # a learner, and the number of a lesson


@dataclass(frozen=True)
class Grade:
    """The grade of one exercise. late: whether the work came after the date that was set.

    curve: of a wrong answer that is a row of numbers.
    """

    student: Student
    lesson: str
    exercise: str
    verdict: str
    message: str
    points: int
    file: str
    late: bool
    curve: Curve | None = None

    @property
    def earned(self) -> int:
        """The points for the answer."""
        return self.points if self.verdict == "right" else 0


@dataclass(frozen=True)
class Job:
    """A lesson of one notebook that is to be graded."""

    cells: tuple[str, ...]
    lesson: str
    digest: str
    rules: Rules
    sandbox: Sandbox

    @property
    def key(self) -> str:
        """Of the record: the same for the same bytes, course, and rules. It does not give the seed away."""
        parts = (self.digest, self.lesson, course_version(), repr(self.rules))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def run(self) -> list[Judged]:
        """Grade it."""
        return judge(self.cells, exercises(self.lesson), self.rules, self.sandbox)


@functools.cache
def course_version() -> str:
    """A digest of the library's code: a changed check grades anew."""
    root, total = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()


def latest(collection: Collection, roster: Roster) -> tuple[dict[Place, Work], list[str]]:
    """The work that counts for each learner and lesson, and a line for each that another one replaces."""
    found: dict[Place, list[Work]] = defaultdict(list)
    for work in collection.works:
        for lesson in work.notebook.lessons:
            found[roster.find(work.owner), lesson].append(work)
    chosen = {}
    for (student, lesson), works in found.items():
        numbers = {work.owner.number for work in works}
        for number in numbers:  # two learners of one name, as Moodle's numbers tell
            named = replace(student, name=f"{student.name} ({number})") if len(numbers) > 1 else student
            own = [work for work in works if work.owner.number == number]
            chosen[named, lesson] = max(own, key=lambda work: work.order)
    counting = {(id(work), lesson): work for (_, lesson), work in chosen.items()}
    lines = []
    for (student, lesson), works in found.items():
        for work in works:
            if (id(work), lesson) not in counting:
                last = chosen.get((student, lesson))
                lines.append(f"{work.file}: replaced by {last.file if last else 'later work'}")
    return chosen, sorted(lines)


def grade_all(
    chosen: dict[Place, Work], rules: Rules, sandbox: Sandbox, workers: int, records: Path
) -> Iterator[tuple[Place, Work, list[Judged]]]:
    """Grade all work, and yield each result when it is there.

    workers: processes. records: the folder of what was graded before, which is not graded again.
    """
    jobs, waiting = {}, {}
    for (student, lesson), work in chosen.items():
        job = Job(work.notebook.cells, lesson, work.digest, rules, sandbox)
        place = (student, lesson)
        known = read_record(records / f"{job.key}.json", job)
        if known:
            yield place, work, known
        else:
            jobs[place] = job
            waiting[place] = work
    for place, judged in run_jobs(jobs, workers):
        if not any(each.verdict == ERROR for each in judged):
            write_json(records / f"{jobs[place].key}.json", [asdict(each) for each in judged])
        yield place, waiting[place], judged


def read_record(path: Path, job: Job) -> list[Judged] | None:
    """What was graded before, or None."""
    try:
        found = [recorded(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if [each.exercise for each in found] == exercises(job.lesson) else None


def recorded(entry: dict) -> Judged:
    """A verdict from its record. Raises KeyError or TypeError for another form."""
    curve = entry.pop("curve", None)
    if curve is not None:
        curve = Curve(curve["axis"], tuple(curve["found"]), tuple(curve["expected"]))
    return Judged(**entry, curve=curve)


def run_jobs(jobs: dict[Place, Job], workers: int) -> Iterator[tuple[Place, list[Judged]]]:
    """Run all jobs. If a process ends, its jobs run once more, each alone; then they count as errors."""
    suspects: list[Place] = []
    for place, judged in pooled(jobs, workers, suspects.append):
        yield place, judged
    for place in suspects:
        lost: list[Place] = []
        yield from pooled({place: jobs[place]}, 1, lost.append)
        for each in lost:
            names = exercises(jobs[each].lesson)
            yield each, [Judged(name, ERROR, "the process that graded it ended") for name in names]


def pooled(
    jobs: dict[Place, Job], workers: int, lost: Callable[[Place], None]
) -> Iterator[tuple[Place, list[Judged]]]:
    """Run jobs in a pool of processes; ``lost`` gets those that a broken pool did not finish."""
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    count = min(workers, len(jobs) or 1)
    with ProcessPoolExecutor(count, mp_context=context, initializer=end_with_the_command) as pool:
        running: dict[Future, Place] = {pool.submit(job.run): place for place, job in jobs.items()}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                place = running.pop(future)
                try:
                    judged = future.result()
                except BrokenProcessPool:
                    lost(place)
                    continue
                yield place, judged


def end_with_the_command() -> None:
    """End this process as soon as the command has ended, also where it was killed and could not say so."""

    def wait_for_its_end() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()


def grades_of(place: Place, work: Work, judged: list[Judged], due: "Due") -> list[Grade]:
    """The grades of one lesson of one learner."""
    student, lesson = place
    late = work.owner.late or due.passed(lesson, work.time)
    return [
        Grade(
            student,
            lesson,
            each.exercise,
            each.verdict,
            each.message,
            points(each.exercise),
            work.file,
            late,
            each.curve,
        )
        for each in judged
    ]


@dataclass(frozen=True)
class Due:
    """Until when work is in time, in seconds since 1970. each: by lesson. every: for all others."""

    each: dict[str, float]
    every: float | None = None

    def passed(self, lesson: str, time: float) -> bool:
        """Whether work of that time is late."""
        limit = self.each.get(lesson, self.every)
        return limit is not None and time > limit
