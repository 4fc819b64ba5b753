"""The core of the lessons: checks, words, recorded results, widgets, figures, how a lesson starts."""

import importlib
import io
import json
import signal
import sys
import threading
import time

import matplotlib
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML
from IPython.display import Image as Shown
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from qdiff_lib import course
from qdiff_lib.course import checks, figures, lesson, text, widgets
from qdiff_lib.course.checks import Answer, Outcome, Raised, Verdict, Wrong, check
from qdiff_lib.course.limits import TooLong, stopped_after
from qdiff_lib.course.recorded import Recorded, recorded
from qdiff_lib.course.text import Question, claim, folded, hints, quiz
from qdiff_lib.evaluation.figures import OKABE_ITO
from qdiff_lib.io.shipped_data import DamagedFileError
from tools.dependencies import modules


@pytest.fixture
def twice(monkeypatch):
    """An exercise "00.twice" beside those of lesson 0: double a number."""
    importlib.import_module("qdiff_lib.course.exercises.lesson_00")
    monkeypatch.setattr(checks, "EXERCISES", dict(checks.EXERCISES))

    @checks.exercise("00.twice", hints=("add it to itself", "2 * x & <more>"))
    def test(answer, seed):
        if answer(3) == 9:
            raise Wrong("that is the square")
        assert answer(3) == 6
        return "exact"


@pytest.fixture
def shown(monkeypatch):
    """What the course displays, in order."""
    found = []
    for module in (text, widgets, figures.style):
        monkeypatch.setattr(module, "display", found.append)
    return found


@figures.styled
def line(n: int):
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(range(n))
    return figure, f"a line of {n} points"


class TestChecks:
    def test_right(self, twice):
        assert check("00.twice", lambda x: 2 * x) == Outcome(Verdict.RIGHT, "exact")
        assert check("00.twice", lambda x: 2 * x).right

    def test_wrong_says_why(self, twice):
        outcome = check("00.twice", lambda x: x * x)
        assert (outcome.verdict, outcome.message) == (Verdict.WRONG, "that is the square")
        assert repr(outcome) == "✗ wrong: that is the square"

    def test_stub_is_not_attempted(self, twice):
        def stub(x):
            raise NotImplementedError("your turn")

        assert check("00.twice", stub).verdict is Verdict.NOT_ATTEMPTED
        assert not check("00.twice", stub).right

    @pytest.mark.parametrize("answer", [lambda: 1, lambda x: x / 0, lambda x: x.no, lambda x: exit(3)])
    def test_whatever_the_answer_raises_is_an_outcome(self, twice, answer):
        outcome = check("00.twice", answer)
        assert outcome.verdict is Verdict.WRONG and "your function raised" in outcome.message

    def test_the_line_of_the_learners_code_is_named(self, twice):
        def answer(x):
            y = x + 1
            return torch.zeros(2) @ torch.zeros(y)

        message = check("00.twice", answer).message
        assert message.startswith("your function raised RuntimeError: ")
        assert message.endswith("(at `return torch.zeros(2) @ torch.zeros(y)`)")

    def test_a_function_without_a_kernel_is_attempted(self, twice):
        def answer(x):
            raise NotImplementedError("not implemented for 'Byte'")

        outcome = check("00.twice", answer)
        assert outcome.verdict is Verdict.WRONG and "raised NotImplementedError" in outcome.message

    def test_a_fault_of_the_check_does_not_blame_the_learner(self, twice):
        outcome = check("00.twice", lambda x: 7)  # the check's own assertion fails
        assert outcome.verdict is Verdict.ERROR and "not your mistake" in outcome.message
        assert "your function" not in outcome.message

    def test_what_is_no_function(self, twice):
        assert check("00.twice", 6) == Outcome(
            Verdict.WRONG, "hand over your function itself; this is a int."
        )

    def test_errors_of_another_process_are_told_alike(self, twice):
        def remote(x):
            raise Raised("KeyError", "'b'")

        assert check("00.twice", remote).message == "your function raised KeyError: 'b'"

        def stub(x):
            raise Raised("NotImplementedError", "your turn")

        assert check("00.twice", stub).verdict is Verdict.NOT_ATTEMPTED

    def test_interrupts_pass(self, twice):
        def interrupted(x):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            check("00.twice", interrupted)

    def test_the_seed_reaches_the_check(self, monkeypatch):
        importlib.import_module("qdiff_lib.course.exercises.lesson_00")
        monkeypatch.setattr(checks, "EXERCISES", dict(checks.EXERCISES))
        checks.exercise("00.seeded", hints=())(lambda answer, seed: f"{answer(seed)}")
        assert check("00.seeded", lambda x: x + 1, seed=41).message == "42"


class TestAnswer:
    def test_arguments_are_copies(self):
        def spoil(x, others):
            x.zero_()
            others[0].zero_()
            return x

        x, y = torch.ones(2), torch.ones(3)
        answer = Answer(spoil)
        assert torch.equal(answer(x, [y]), torch.zeros(2)) and answer.changed
        assert torch.equal(x, torch.ones(2)) and torch.equal(y, torch.ones(3))

    def test_what_is_not_changed(self):
        answer = Answer(lambda x, text: x + 1)
        answer(torch.tensor([float("nan")]), "text")
        assert not answer.changed

    def test_many_arguments_at_once(self):
        class Remote:
            def many(self, cases):
                return [a + b for a, b in cases]

        assert (
            Answer(Remote()).each([(1, 2), (3, 4)])
            == [3, 7]
            == Answer(lambda a, b: a + b).each([(1, 2), (3, 4)])
        )


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs the timers of a POSIX system")
class TestLimit:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr("qdiff_lib.course.limits.AGAIN", 0.05)

    def test_an_endless_answer_is_stopped_in_words(self, twice):
        def endless(x):
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    pass

        outcome = check("00.twice", endless, seconds=0.05)
        assert outcome.verdict is Verdict.WRONG and "not ended after 0.05 seconds" in outcome.message

    def test_handler_and_timer_are_as_before(self):
        rung = []
        before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        mine = signal.getsignal(signal.SIGALRM)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1000, 7)
            with pytest.raises(TooLong):
                stopped_after(0.05, lambda: time.sleep(60))
            left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
            assert signal.getsignal(signal.SIGALRM) is mine
            assert 0 < left <= 1000 and interval == 7 and not rung
            assert stopped_after(60, lambda: "done") == "done"
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_no_limit_elsewhere(self):
        found = []

        def body():
            stopped_after(0.001, lambda: time.sleep(0.05))
            found.append(signal.getitimer(signal.ITIMER_REAL))

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        assert found == [(0, 0)]
        assert stopped_after(None, lambda: signal.getitimer(signal.ITIMER_REAL)) == (0, 0)

    def test_cleaning_up_is_never_interrupted(self):
        """An alarm rings just before the timer is switched off."""
        before, begun = signal.getsignal(signal.SIGALRM), []

        def ring(frame, event, function):
            if event == "c_call" and function is signal.setitimer and frame.f_code.co_name == "stopped_after":
                begun.append(function)
                if len(begun) == 2:
                    signal.raise_signal(signal.SIGALRM)

        sys.setprofile(ring)
        try:
            assert stopped_after(60, lambda: "done") == "done"
        finally:
            sys.setprofile(None)
        assert len(begun) == 2 and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) is before


class TestFailedCell:
    @pytest.fixture
    def shell(self, monkeypatch):
        """A shell of IPython without history, as a kernel has one."""
        shell = InteractiveShell()
        monkeypatch.setattr("qdiff_lib.course.running.get_ipython", lambda: shell)
        shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None
        shell.user_ns["check"] = check
        yield shell
        shell.history_manager.end_session() if shell.history_manager.enabled else None

    @pytest.mark.parametrize(
        ("cell", "words"),
        [
            ("def twice(x:\n    return 2 * x", "SyntaxError in line 1"),
            ("import nothing_of_this_name\n\ndef twice(x):\n    return 2 * x", "ModuleNotFoundError"),
        ],
    )
    def test_the_older_function_is_named(self, twice, shell, cell, words):
        shell.run_cell("def twice(x):\n    return x * x")
        shell.run_cell(cell)
        shell.run_cell("found = check('00.twice', twice)")
        message = shell.user_ns["found"].message
        assert (
            words in message and "an older function is judged" in message and "that is the square" in message
        )

    @pytest.mark.parametrize("cell", ["1 / 0", "def other(x:", "def twice(x):\n    return 2 * x"])
    def test_no_word_of_other_cells(self, twice, shell, cell):
        shell.run_cell("def twice(x):\n    return 2 * x")
        shell.run_cell(cell)
        shell.run_cell("found = check('00.twice', twice)")
        assert shell.user_ns["found"] == Outcome(Verdict.RIGHT, "exact")


class TestNames:
    @pytest.mark.parametrize("name", ["99.twice", "twice", ""])
    def test_unknown_lesson(self, name):
        with pytest.raises(ValueError, match="there is no lesson"):
            check(name, abs)

    def test_unknown_exercise_names_those_there_are(self, twice):
        with pytest.raises(ValueError, match="00.twice"):
            check("00.thrice", abs)


class TestText:
    def test_claim_prints_what_holds(self, capsys):
        claim(True, "2 is 2")
        assert capsys.readouterr().out == "✓ 2 is 2\n"

    def test_claim_fails_where_it_does_not_hold(self):
        with pytest.raises(AssertionError, match="does not hold: 1 is 2"):
            claim(False, "1 is 2")

    def test_folded_escapes(self):
        assert folded("<a>", "b & c") == "<details><summary>&lt;a&gt;</summary>b &amp; c</details>"

    def test_hints_are_folded_in_stages(self, twice, shown):
        hints("00.twice")
        (page,) = shown
        assert isinstance(page, HTML)
        assert page.data.count("<details>") == 2 and "Hint 2" in page.data and "&lt;more&gt;" in page.data

    def test_question_marks_one_answer_right(self):
        page = Question("2 + 2?", (("3", "too few"), ("4", "yes"), ("5", "too many")), right=1).to_html()
        assert page.count("Right.") == 1 and "Right. yes" in page and page.count("No.") == 2

    def test_quiz_shows_all_questions(self, shown):
        quiz("00")
        assert shown[0].data.count("<p>") == 3


class TestRecorded:
    @pytest.fixture
    def data(self, tmp_path, monkeypatch):
        """A data folder with one recorded result; returns a function that lists it in the manifest."""
        monkeypatch.setattr("qdiff_lib.io.shipped_data.data_folder", lambda: tmp_path)
        made = dict(date="2026-01-02", machine="a laptop", commit="abc", command="make tables")
        path = tmp_path / "recorded" / "x.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"data": {"mse": 1.5}, "provenance": made}))

        def manifest(sha256):
            files = {"recorded/x.json": {"sha256": sha256, "bytes": 1}}
            (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": files}))

        manifest(importlib.import_module("qdiff_lib.utils.files").sha256(path))
        return manifest

    def test_data_and_source(self, data):
        found = recorded("x")
        assert isinstance(found, Recorded) and found.data == {"mse": 1.5}
        assert found.source() == "Recorded on 2026-01-02 on a laptop at abc by: make tables"

    def test_changed_by_hand_is_refused(self, data):
        data("0" * 64)
        with pytest.raises(DamagedFileError):
            recorded("x")

    def test_missing(self, data):
        with pytest.raises(FileNotFoundError):
            recorded("y")


class TestWidgets:
    def test_slider_redraws_picture_and_words(self):
        box = widgets.slider(line, "points", [2, 3, 5])
        knob, picture, words = box.children
        before = bytes(picture.value)
        assert words.value == "a line of 2 points"
        assert knob.layout.width == f"{8 * len('points') + 320}px"  # a long label leaves room to slide
        knob.value = 5
        assert words.value == "a line of 5 points" and bytes(picture.value) != before
        assert Image.open(io.BytesIO(picture.value)).format == "PNG"

    @pytest.mark.parametrize("page, columns", [(4000, 2), (100, 1)])
    def test_static_twin_has_a_panel_for_each_value(self, monkeypatch, page, columns):
        monkeypatch.setattr(widgets, "PAGE", page)
        single = Image.open(io.BytesIO(figures.style.png(line(2))))
        twin = Image.open(io.BytesIO(widgets.side_by_side([line(2), line(3), line(4)])))
        assert twin.size == (columns * single.width, -(-3 // columns) * single.height)

    def test_explore_shows_slider_then_twin_with_words(self, shown):
        widgets.explore(line, "points", [2, 3, 5], twin=[2, 5])
        slider, revive, twin, words = shown
        assert list(slider.children[0].options) == [2, 3, 5]
        assert "run this cell" in repr(revive) and "points = 2, 5:" in repr(revive)
        assert twin.alt == "points = 2: a line of 2 points | points = 5: a line of 5 points"
        assert repr(words) == twin.alt.replace(" | ", "\n")


class TestStyle:
    def test_description_becomes_the_label(self):
        assert line(4).get_label() == "a line of 4 points"

    def test_style_does_not_leak(self):
        before = dict(matplotlib.rcParams)
        figures.style.png(line(2))
        assert dict(matplotlib.rcParams) == before

    def test_colours_are_those_that_colour_blind_readers_tell_apart(self):
        with matplotlib.style.context(figures.style.STYLE):
            cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        assert [f"#{colour.lstrip('#')}".upper() for colour in cycle] == list(OKABE_ITO)

    def test_same_figure_same_bytes(self):
        assert figures.style.png(line(3)) == figures.style.png(line(3))

    def test_show_displays_alt_text_and_caption(self, shown):
        figures.show(line(3))
        assert shown[0].alt == repr(shown[1]) == "a line of 3 points"

    def test_captions_are_html_that_wraps_between_words(self):
        caption = figures.style.Caption("1 < 2", "two")
        assert caption._repr_html_() == "<p>1 &lt; 2<br>two</p>" and repr(caption) == "1 < 2\ntwo"

    def test_nbconvert_keeps_alt_text_and_caption(self):
        """Its template "classic" has the alt text of our metadata; all templates have the caption."""
        data, metadata = InteractiveShell().display_formatter.format(
            Shown(data=figures.style.png(line(3)), alt="A line")
        )
        output = new_output("display_data", data=data, metadata=metadata)
        page, _ = HTMLExporter(template_name="classic").from_notebook_node(
            new_notebook(cells=[new_code_cell("x", outputs=[output])])
        )
        assert 'alt="A line"' in page


class TestLesson:
    @pytest.mark.parametrize("profile", lesson.PROFILES)
    def test_profile_of_the_environment(self, monkeypatch, capsys, profile):
        monkeypatch.setenv("QDIFF_PROFILE", profile)
        started = course.start("00_x")
        assert started.profile == profile and started.pick(tiny="tiny", laptop="laptop", gpu="gpu") == profile
        assert capsys.readouterr().out.startswith("00_x: Python 3.")

    @pytest.mark.parametrize("cuda, expected", [(True, ("cuda", "gpu")), (False, ("cpu", "tiny"))])
    def test_default_profile_follows_the_device(self, monkeypatch, cuda, expected):
        monkeypatch.delenv("QDIFF_PROFILE", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        started = course.start("x")
        assert (started.device, started.profile) == expected

    def test_unknown_profile(self, monkeypatch):
        monkeypatch.setenv("QDIFF_PROFILE", "huge")
        with pytest.raises(ValueError, match="QDIFF_PROFILE='huge'.*tiny"):
            course.start("x")

    def test_loading_shows_no_bar(self, capfd):
        from qdiff_lib import load

        course.start("x")
        load("ddpm-fashion")
        assert "Loading" not in capfd.readouterr().err


def test_every_public_name_can_be_imported_and_is_a_dependency_of_the_lessons():
    """The names are imported when they are used, but the notebooks depend on all of their modules."""
    assert set(course.__all__) == {*course._HOMES, "recorded"}
    assert all(getattr(course, name).__name__ == name for name in course.__all__)
    found = " ".join(modules("00_start_here", ""))
    assert not [home for home in course._HOMES.values() if f"qdiff_lib/course/{home}" not in found]
