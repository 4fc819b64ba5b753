"""The builder of the notebooks: expansion, cleaning, rules, freshness, learners' versions."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from warm_kernels import warm_kernels

from tools import notebooks, rules
from tools.expansion import (
    HIDE,
    NAMES,
    RESTART,
    Address,
    SourceError,
    bootstrap,
    expand,
    for_students,
    navigation,
    read_address,
    read_source,
    short_title,
    solution_lines,
    split_solution,
)
from tools.notebooks import (
    BuildError,
    all_solution_lines,
    build,
    inputs,
    leaks,
    make_notebook,
    settle,
    settled_text,
    staleness,
    student_notebook,
    to_text,
    write,
    write_students,
)

NOWHERE, SOMEWHERE = Address("", "v1"), Address("owner/name", "v1")
SOURCE = '''\
# %% [markdown]
# # How large is a file?
#
# | Time | about 5 minutes |

# %% [markdown]
# ## The picture first

# %% tags=["nbval-check-output"]
print("seen")

# %% [markdown]
# ### Exercise: bytes

# %% tags=["exercise"] exercise="00.file_bytes"
def file_bytes(count: int, bits: int, channels: int) -> int:
    """Bytes of a layer."""
    # BEGIN SOLUTION
    codes_in_bytes = -(-count * bits // 8)  # whole bytes
    return codes_in_bytes + 8 * channels
    # END SOLUTION


# %% [markdown]
# ## Recap
'''
SECRETS = {"codes_in_bytes = -(-count * bits // 8)", "return codes_in_bytes + 8 * channels"}


@pytest.fixture
def sources(tmp_path):
    """A folder with the lesson 00_first; returns a function that writes it, changed by a replacement."""
    folder = tmp_path / "src"
    folder.mkdir()

    def put(old="", new="", name="00_first"):
        assert old in SOURCE
        (folder / f"{name}.py").write_text(SOURCE.replace(old, new, 1) if old else SOURCE, encoding="utf-8")
        return folder

    put()
    return put


def cells_of(folder, address=NOWHERE, name="00_first"):
    return expand(folder / f"{name}.py", [name], address)


def tags(cells) -> list[str]:
    return [" ".join(cell.metadata.get("tags", [cell.cell_type])) for cell in cells]


class TestExpansion:
    def test_order_of_the_cells(self, sources):
        assert tags(cells_of(sources())) == [
            "navigation", "markdown", "bootstrap", "markdown", "nbval-check-output", "markdown",
            "exercise", "check", "hints", "solution", "markdown",
        ]  # fmt: skip

    def test_ids_are_counted_and_the_same_each_time(self, sources):
        ids = [[cell.id for cell in cells_of(sources())] for _ in range(2)]
        assert ids[0] == ids[1] == [f"00_first-{i:02d}" for i in range(11)]

    def test_ids_of_long_names_are_valid(self, sources):
        name = "00_" + "x" * 80
        found = cells_of(sources(name=name), name=name)
        assert len({cell.id for cell in found}) == 11 and max(len(cell.id) for cell in found) == 64

    def test_stub_keeps_signature_and_docstring(self, sources):
        stub, check, hints, solution = cells_of(sources())[6:10]
        assert stub.source.splitlines() == [
            RESTART,
            "def file_bytes(count: int, bits: int, channels: int) -> int:",
            '    """Bytes of a layer."""',
            '    raise NotImplementedError("your turn")',
        ]
        assert (
            check.source == 'check("00.file_bytes", file_bytes)' and hints.source == 'hints("00.file_bytes")'
        )
        assert solution.cell_type == "markdown" and "SOLUTION" not in solution.source
        assert solution.source.startswith("<details>") and solution.source.endswith("</details>")
        assert all(secret in solution.source for secret in SECRETS)

    def test_imports_of_exercises_move_to_the_bootstrap(self, sources):
        add = "import math\nfrom torch import (\n    Tensor,\n)\n\n\ndef file_bytes"
        cells = cells_of(sources("def file_bytes", add))
        assert (
            cells[6].source.splitlines()[1].startswith("def file_bytes") and "import" not in cells[6].source
        )
        assert "\nfrom torch import Tensor\nimport math\nlesson = start" in cells[2].source
        assert "import" not in cells[9].source

    def test_outputs_after_a_question_are_folded_until_the_next_text(self, sources):
        cells = cells_of(sources("## The picture first", "## The picture first\n# **Predict:** yes or no?"))
        assert cells[4].metadata.jupyter.outputs_hidden and cells[4].metadata.tags[-1] == HIDE
        assert not any("jupyter" in cell.metadata for i, cell in enumerate(cells) if i != 4)
        assert not any("jupyter" in cell.metadata for cell in for_students(cells, "00_first"))

    @pytest.mark.parametrize(
        "old, new, message",
        [
            ("# # How", "# ## How", "must be markdown and start with '# Title'"),
            ("    # BEGIN SOLUTION\n", "", "needs one line '# BEGIN SOLUTION'"),
            ("    # END SOLUTION\n", "", "'# END SOLUTION'"),
            ("    # END SOLUTION\n", "    # END SOLUTION\n\nprint(1)\n", "the cell's last line"),
            ('exercise="00.file_bytes"', 'exercise="00.file_bits"', "with the function in its cell"),
            (' exercise="00.file_bytes"', "", "exercise=''"),
        ],
    )
    def test_broken_sources_are_refused(self, sources, old, new, message):
        with pytest.raises(SourceError, match="00_first.py") as error:
            cells_of(sources(old, new))
        assert message in str(error.value)

    def test_a_solution_without_lines_is_refused(self):
        with pytest.raises(SourceError, match="here"):
            split_solution("def f():\n    # BEGIN SOLUTION\n    # END SOLUTION", "here")

    def test_navigation_links_the_neighbours(self):
        names = ["00_first", "01_error_accumulation", "02_last"]
        middle = navigation(names[1], names, NOWHERE).source
        assert middle == "[← 0 first](00_first.ipynb) · [Contents](README.md) · [2 last →](02_last.ipynb)"
        assert "←" not in navigation(names[0], names, NOWHERE).source
        assert "→" not in navigation(names[2], names, NOWHERE).source
        assert short_title(names[1]) == "1 error accumulation"

    def test_badges_and_installation_need_an_address(self, sources):
        without, with_address = cells_of(sources()), cells_of(sources(), SOMEWHERE)
        link = "github/owner/name/blob/v1/notebooks/00_first.ipynb"
        assert "badge" not in without[0].source and link in with_address[0].source
        assert (
            "mybinder.org/v2/gh/owner/name/v1?urlpath=lab/tree/notebooks/00_first.ipynb"
            in with_address[0].source
        )
        assert "github.com/owner/name@v1" in with_address[2].source and "github" not in without[2].source
        assert [cell.source for cell in without[3:]] == [cell.source for cell in with_address[3:]]

    def test_bootstrap_imports_what_the_course_offers(self):
        from qdiff_lib import course

        assert set(NAMES) <= set(course.__all__)
        assert f"import {', '.join(NAMES)}\n" in bootstrap("00_first", NOWHERE, []).source

    @pytest.mark.parametrize("repository", ["owner", "owner/name/more", "https://x/y", "a b/c"])
    def test_an_address_is_owner_and_name(self, repository):
        with pytest.raises(ValueError, match="owner/name"):
            Address(repository, "v1")

    @pytest.mark.parametrize("tag", ["", "two words", "a/b"])
    def test_a_tag_is_one_word(self, tag):
        with pytest.raises(ValueError, match="tag="):
            Address("owner/name", tag)

    def test_the_environment_goes_before_the_project(self, tmp_path, monkeypatch):
        project = tmp_path / "pyproject.toml"
        project.write_text('[tool.course]\nrepository = "a/b"\ntag = "v2"\n')
        monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
        assert read_address(project) == Address("a/b", "v2")
        monkeypatch.setenv("COURSE_REPOSITORY", "c/d")
        assert read_address(project) == Address("c/d", "v2")


class TestSettle:
    def test_what_differs_from_run_to_run_goes(self):
        stream = [new_output("stream", name="stdout", text=part) for part in ("a", "b\n")]
        view = new_output("display_data", data={rules.VIEW: {}, "text/plain": "HBox()"})
        bars = ("50%|##  | 1/2 [00:01<00:01]\r", "100%|####| 2/2 [00:02<00:00]\n")
        progress = [new_output("stream", name="stdout", text=bar) for bar in bars]
        cell = new_code_cell(
            "x", outputs=[*progress, view, *stream], metadata={"execution": {"iopub.status.busy": "now"}}
        )
        notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
        settle(notebook)
        assert "widgets" not in notebook.metadata and "execution" not in cell.metadata
        assert [(out.name, out.text) for out in cell.outputs] == [("stdout", "ab\n")]

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("first\rsecond\n", "second\n"),
            ("kept\r\n", "kept\n"),
            ("8 images:  50%|## | 4/8\r8 images: 100%|####| 8/8 [00:02<00:00, 3.1it/s]\ndone\n", "done\n"),
        ],
    )
    def test_text_is_what_a_terminal_shows_in_the_end(self, text, expected):
        assert settled_text(text) == expected


def picture(alt="A line of three points, going up."):
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return new_output("display_data", data={"image/png": "iVBORw0KGgo="}, metadata=metadata)


def notebook_with(*outputs, count=1, code="show(figure)"):
    return make_notebook([new_code_cell(code, outputs=list(outputs), execution_count=count)])


STDERR = {"output_type": "stream", "name": "stderr"}
BROKEN = {
    "not run from top": notebook_with(count=2),
    "without alt text": notebook_with(picture(alt="")),
    "the error KeyError": notebook_with(new_output("error", ename="KeyError", evalue="'x'", traceback=[])),
    "a warning in its output": notebook_with(new_output(**STDERR, text="UserWarning: slow\n")),
    "a progress bar": notebook_with(new_output("stream", name="stdout", text="100%|####| 8/8\n")),
    "a widget's view": notebook_with(new_output("display_data", data={rules.VIEW: {}})),
    "an SVG picture": notebook_with(new_output("display_data", data={"image/svg+xml": "<svg/>"})),
    "the path '/home/'": notebook_with(new_output("stream", name="stdout", text="in /home/me")),
    "the path '/tmp/'": notebook_with(code="open('/tmp/x')"),
    "an object's address": notebook_with(new_output("stream", name="stdout", text="<f at 0x7f00aa11>")),
}


class TestRulesOfNotebooks:
    def test_a_good_one_has_no_problem(self):
        said = new_output("stream", name="stdout", text="100% of the weights | all\n")
        assert rules.notebook_problems(notebook_with(picture(), said), size=1000) == []

    @pytest.mark.parametrize("message", BROKEN)
    def test_a_broken_one_is_refused_and_not_written(self, message, tmp_path):
        (problem,) = rules.notebook_problems(BROKEN[message], size=1000)
        assert message in problem
        with pytest.raises(BuildError, match="not written"):
            write(BROKEN[message], tmp_path / "x.ipynb")
        assert not (tmp_path / "x.ipynb").exists()

    def test_size_widgets_and_ids(self):
        good = notebook_with(picture())
        assert "more than 400000" in rules.notebook_problems(good, size=400_001)[0]
        good.metadata["widgets"] = {}
        assert rules.notebook_problems(good, size=1) == ["it holds the state of widgets"]
        twice = make_notebook([new_markdown_cell("a"), new_markdown_cell("b")])
        twice.cells[0].id = twice.cells[1].id
        assert rules.notebook_problems(twice, size=1) == ["two cells have the same id"]


def source_cells():
    """A source that keeps all rules."""
    text = [new_markdown_cell("# Why?"), *(new_markdown_cell(f"## {i}") for i in range(10))]
    code = [new_code_cell('claim(True, "yes")', metadata={"tags": ["nbval-check-output"]}) for _ in range(7)]
    exercise = new_code_cell("x = 1", metadata={"tags": ["exercise"]})
    return [*text, *code, new_markdown_cell("### Exercise: x"), exercise]


class TestRulesOfSources:
    def test_a_good_one_has_no_problem(self):
        assert rules.source_problems(source_cells()) == []

    @pytest.mark.parametrize(
        "place, cell, message",
        [
            (1, new_code_cell("\n".join(["x = 1"] * 16)), "16 lines of code"),
            (1, new_markdown_cell("# Second title"), "there must be one '# Title'"),
            (1, new_markdown_cell("#### Deep"), "a heading skips a level: [1, 4"),
            (-2, new_markdown_cell("### Task"), "no '### Exercise' heading before: x = 1"),
        ],
    )
    def test_a_broken_one_is_told(self, place, cell, message):
        cells = source_cells()
        cells[place] = cell
        (problem,) = rules.source_problems(cells)
        assert message in problem

    def test_too_few_cells_claims_and_checked_outputs(self):
        problems = rules.source_problems([cell for cell in source_cells() if cell.cell_type == "markdown"])
        assert [problem.split(",")[0] for problem in problems] == [
            "12 cells", "0 claims", "0 cells tagged nbval-check-output",
        ]  # fmt: skip

    def test_comments_docstrings_and_blank_lines_are_no_code(self):
        code = '# one\n\ndef f():\n    """Two\n\n    lines."""\n    # three\n    return 1\n'
        assert rules.code_lines(code) == 2

    def test_a_hash_in_a_fence_is_no_heading(self):
        assert rules.heading_problems([new_markdown_cell("# A\n```\n### b\n```\n## C")]) == []


class TestStaleness:
    @pytest.fixture
    def built(self, sources, tmp_path):
        """The lesson's notebook as if it had been run."""
        notebook = make_notebook(
            cells_of(sources()), builder=notebooks.BUILDER, inputs=inputs("00_first", sources())
        )
        path = tmp_path / "00_first.ipynb"
        nbformat.write(notebook, path)
        return path

    def test_a_new_one_is_fresh(self, built, sources):
        assert staleness(built, NOWHERE, sources()) == []

    def test_a_changed_source_shows_in_hash_and_cells(self, built, sources):
        problems = staleness(built, NOWHERE, sources('print("seen")', 'print("read")'))
        assert [problem.split(": ")[1] for problem in problems] == [
            "notebooks/src/00_first.py has changed", "its cells are not those of its source",
        ]  # fmt: skip

    def test_a_published_course_needs_new_notebooks(self, built, sources):
        assert "its cells are not" in staleness(built, SOMEWHERE, sources())[0]

    def test_a_cell_changed_by_hand(self, built, sources):
        notebook = nbformat.read(built, as_version=4)
        notebook.cells[4].source = 'print("more")'
        nbformat.write(notebook, built)
        assert "its cells are not" in staleness(built, NOWHERE, sources())[0]

    def test_another_builder(self, built, sources, monkeypatch):
        monkeypatch.setattr(notebooks, "BUILDER", notebooks.BUILDER + 1)
        assert staleness(built, NOWHERE, sources()) == [
            "00_first: another builder made it: run make notebooks"
        ]

    @pytest.mark.parametrize(
        "module",
        [
            "exercises/lesson_00.py",
            "figures/lesson_00.py",
            "text.py",
            "figures/style.py",
            "figures/course.mplstyle",
        ],
    )
    def test_the_outputs_depend_on_checks_figures_and_the_bootstrap(self, built, sources, module):
        notebook = nbformat.read(built, as_version=4)
        file = f"qdiff_lib/course/{module}"
        notebook.metadata.course.inputs[file] = "0" * 64
        nbformat.write(notebook, built)
        assert staleness(built, NOWHERE, sources()) == [f"00_first: {file} has changed: run make notebooks"]

    @pytest.mark.parametrize(
        "line, modules",
        [
            ("from qdiff_lib.course.gaussian import alpha_bars as bars", ["gaussian"]),
            ("from qdiff_lib.course import shortcuts", ["shortcuts"]),
            ("import qdiff_lib.course.watching", ["watching"]),
            ("def late():\n    from qdiff_lib.course.figures import lesson_01", ["figures/lesson_01"]),
            ("from qdiff_lib.course.exercises.lesson_01 import QUIZ", ["exercises/lesson_01", "gaussian"]),
            ("from qdiff_lib import load, sample", []),
        ],
        ids=str,
    )
    def test_inputs_hold_the_imported_modules_and_what_they_import(self, sources, line, modules):
        before = inputs("00_first", sources()).keys()
        after = inputs("00_first", sources('print("seen")', line)).keys()
        new = {f"qdiff_lib/course/{module}.py" for module in modules}
        assert new <= after - before and (new or after == before)

    def test_inputs_hold_weights_and_recorded_results(self, sources):
        found = inputs("00_first", sources('print("seen")', 'recorded("demo/report")'))
        assert "data/recorded/demo/report.json" in found
        assert any(file.startswith("data/models/ddpm-fashion/") for file in found)


class TestStudents:
    def test_solutions_outputs_and_badges_are_gone(self, sources):
        notebook = student_notebook("00_first", SOMEWHERE, sources())
        assert tags(notebook.cells) == [
            "navigation", "markdown", "bootstrap", "markdown", "nbval-check-output", "markdown",
            "exercise", "check", "hints", "markdown",
        ]  # fmt: skip
        assert "badge" not in to_text(notebook) and "github.com/owner/name@v1" in notebook.cells[2].source
        assert leaks(to_text(notebook), all_solution_lines(sources())) == []

    def test_outputs_do_not_travel(self):
        solved = new_code_cell("x", outputs=[picture()], execution_count=3)
        (cell,) = for_students([solved], "00_first")
        assert not cell.outputs and cell.execution_count is None

    def test_secrets_are_the_telling_lines(self, sources):
        assert solution_lines(read_source(sources() / "00_first.py"), "00_first") == SECRETS

    @pytest.mark.parametrize("secret", sorted(SECRETS))
    @pytest.mark.parametrize("place", ["# ## Recap", 'print("seen")'])
    def test_a_planted_leak_is_found_and_nothing_is_written(self, sources, tmp_path, secret, place):
        comment = "" if place.startswith("#") else "\n"
        folder = sources(place, f"{place}{comment}\n# as in: {secret}")
        out = tmp_path / "out"
        with pytest.raises(BuildError, match="00_first: a line of a solution stands elsewhere") as error:
            write_students(out, folder)
        assert secret in str(error.value) and not (out / "00_first.ipynb").exists()

    def test_a_solution_of_another_lesson_leaks_too(self, sources, tmp_path):
        sources('print("seen")', f"# {min(SECRETS)}", name="01_second")
        (tmp_path / "src/01_second.py").write_text(
            "# %% [markdown]\n# # Second\n\n# %%\nprint('codes_in_bytes = -(-count * bits // 8)')\n"
        )
        with pytest.raises(BuildError, match="01_second"):
            write_students(tmp_path / "out", tmp_path / "src")

    def test_quotes_and_backslashes_do_not_hide_a_leak(self, sources):
        folder = sources("return codes_in_bytes + 8 * channels", 'return "a\\\\b" + "é" * channels')
        secret = 'return "a\\\\b" + "é" * channels'
        text = to_text(make_notebook([new_markdown_cell(f"so: {secret}")]))
        assert leaks(text, all_solution_lines(folder)) == [secret]

    def test_the_folder_has_lessons_and_contents(self, sources, tmp_path):
        write_students(tmp_path / "out", sources())
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "00_first.ipynb",
            "README.md",
            "notation.md",
        ]
        nbformat.validate(json.loads((tmp_path / "out/00_first.ipynb").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def kernels():
    """The folder for JUPYTER_PATH with kernels that start in a moment."""
    with warm_kernels() as folder:
        yield folder


@pytest.mark.slow
class TestRun:
    """With a real kernel; the first is a new process, the others are forks of one."""

    def test_a_built_lesson_is_fresh_run_and_the_same_each_time(
        self, sources, tmp_path, kernels, monkeypatch
    ):
        bar = "for _ in progress_bar(range(3), shown=True):\n    pass"
        folder = sources(
            'print("seen")', f'from qdiff_lib.utils.progress import progress_bar\n{bar}\nprint("seen")'
        )
        texts = []
        cost = build("00_first", NOWHERE, tmp_path / "out", folder)
        texts.append((tmp_path / "out/00_first.ipynb").read_text(encoding="utf-8"))
        monkeypatch.setenv("JUPYTER_PATH", kernels)
        build("00_first", NOWHERE, tmp_path / "out", folder)
        texts.append((tmp_path / "out/00_first.ipynb").read_text(encoding="utf-8"))
        assert texts[0] == texts[1] and 50 < cost.memory < cost.resident and cost.cpu > 0
        assert staleness(tmp_path / "out/00_first.ipynb", NOWHERE, folder) == []
        printed = [
            output.text for cell in json_cells(texts[0]) for output in cell.outputs if "text" in output
        ]
        # The bar went to stdout, and was taken out: on stderr it would have been refused as a warning.
        assert printed[1] == "seen\n" and "profile tiny" in printed[0]

    def test_a_lesson_that_fails_leaves_the_file_as_it_was(self, sources, tmp_path, kernels, monkeypatch):
        monkeypatch.setenv("JUPYTER_PATH", kernels)
        path = tmp_path / "out/00_first.ipynb"
        path.parent.mkdir()
        path.write_text("before")
        with pytest.raises(BuildError, match="(?s)the cell 'claim.*does not hold: no"):
            build("00_first", NOWHERE, path.parent, sources('print("seen")', 'claim(False, "no")'))
        monkeypatch.setattr(rules, "MEMORY", 10)
        with pytest.raises(BuildError, match="more than 10"):
            build("00_first", NOWHERE, path.parent, sources())
        assert path.read_text() == "before"


def json_cells(text: str) -> list:
    return [cell for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]
