"""The built notebooks: fresh, run from top to bottom, checked, described, and without leaks.

Missing notebooks fail here; `make notebooks` builds them.
"""

import ast
import base64
import io
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
from nbconvert.filters import markdown2html
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

from tools import rules
from tools.expansion import (
    ASSIGNMENTS,
    HIDE,
    PREDICT,
    ROOT,
    SOURCES,
    lesson_names,
    notebook_names,
    read_address,
    read_source,
)
from tools.notebooks import all_solution_lines, leaks, make_notebook, staleness, student_notebook, to_text

NOTEBOOKS = ROOT / "notebooks"
each_lesson = pytest.mark.parametrize("name", lesson_names())
each_notebook = pytest.mark.parametrize("name", notebook_names())


@pytest.fixture(scope="module")
def address():
    """Where pyproject.toml says that the course is published, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COURSE_REPOSITORY", raising=False)
        return read_address()


@pytest.fixture(scope="module")
def secrets():
    return all_solution_lines()


def read(name: str):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.is_file(), f"{path.name} is missing: run make notebooks"
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def calls(code: str, *names: str) -> int:
    """How often some code calls these functions outside of the functions that it defines."""
    found, waiting = 0, list(ast.parse(code).body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            found += isinstance(node, ast.Call) and getattr(node.func, "id", "") in names
            waiting.extend(ast.iter_child_nodes(node))
    return found


def pictures(cell) -> list[tuple[str, str]]:
    """Base64 and alt text of each PNG of a cell."""
    found = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    return [(out.data["image/png"], out.metadata.get("image/png", {}).get("alt", "")) for out in found]


def printed(cell) -> str:
    """What a cell says in words: its prints and the captions of its figures."""
    texts = [out.get("text", "") for out in cell.outputs if out.get("name") == "stdout"]
    return "\n".join(
        [*texts, *(out.data["text/plain"] for out in cell.outputs if "text/html" in out.get("data", {}))]
    )


def test_every_source_has_its_notebook_and_the_reverse():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(notebook_names())


@each_notebook
def test_fresh(name, address):
    read(name)
    assert staleness(NOTEBOOKS / f"{name}.ipynb", address) == []


@each_notebook
def test_rules_of_notebooks(name):
    """Run from top to bottom, at most 400 kB, no widgets, no errors or warnings, no paths of a machine."""
    notebook = read(name)
    assert rules.notebook_problems(notebook, (NOTEBOOKS / f"{name}.ipynb").stat().st_size) == []
    assert rules.SIZE <= 400_000


@each_lesson
def test_rules_of_sources(name):
    """At least five claims and three checked cells; short cells, headings in order."""
    assert rules.source_problems(read_source(SOURCES / f"{name}.py")) == []
    assert rules.CLAIMS >= 5 and rules.CHECKED >= 3


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_rules_of_assignments(name):
    """Short cells, headings in order; and each text of a learner stands below its points."""
    cells = read_source(SOURCES / f"{name}.py")
    assert rules.cell_problems(cells) == []
    above = [a.source for a, b in zip(cells, cells[1:], strict=False) if rules.has_tag(b, "manual")]
    assert len(above) >= 3 and all("points)" in text for text in above)


@each_notebook
def test_ids_are_the_lesson_and_the_cells_number(name):
    cells = read(name).cells
    assert [cell.id for cell in cells] == [f"{name}-{i:02d}" for i in range(len(cells))]


@each_notebook
def test_every_claim_was_printed(name):
    for cell in code_cells(read(name)):
        assert printed(cell).count("✓ ") >= calls(cell.source, "claim"), cell.source


@each_lesson
def test_checked_cells_have_something_to_compare(name):
    checked = [cell for cell in code_cells(read(name)) if rules.has_tag(cell, "nbval-check-output")]
    assert len(checked) >= 3 and all(printed(cell).strip() for cell in checked)


@each_lesson
def test_figures_exist_with_their_words(name):
    shown = 0
    for cell in code_cells(read(name)):
        found = pictures(cell)
        shown += len(found)
        assert len(found) >= calls(cell.source, "show", "explore"), f"no picture of:\n{cell.source}"
        for data, alt in found:
            picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
            low, high = picture.getextrema()
            assert min(picture.size) >= 100 and high - low > 50, "an empty picture"
            assert len(alt) > 30
            assert all(
                "".join(part.split()) in "".join(printed(cell).split()) for part in alt.split(" | ")
            ), alt
    assert shown >= 3


@each_lesson
def test_run_all_solves_no_exercise(name):
    """The checks judge the stubs: no cell of the full notebook defines an answer."""
    checks = [cell for cell in code_cells(read(name)) if rules.has_tag(cell, "check")]
    assert len(checks) >= 2
    for cell in checks:
        assert cell.outputs[-1].data["text/plain"].startswith("– not attempted"), cell.source


@each_lesson
def test_solutions_are_folded_where_notebooks_are_read(name):
    """In JupyterLab, on GitHub and in HTML: as ``<details>`` with the code in a fence."""
    cells = read(name).cells
    solutions = [cell for cell in cells if rules.has_tag(cell, "solution")]
    assert len(solutions) == sum(rules.has_tag(cell, "exercise") for cell in cells) >= 2
    for cell in solutions:
        page = markdown2html(cell.source)
        before, _, inside = page.partition("<details>")
        assert cell.cell_type == "markdown" and "def" not in before and "def" in inside
        assert page.rstrip().endswith("</details>") and "highlight" in inside


@each_lesson
def test_answers_to_predictions_are_folded(name):
    cells, folded = read(name).cells, 0
    for question, answer in zip(cells, cells[1:], strict=False):
        if question.cell_type == "markdown" and PREDICT in question.source:
            assert answer.metadata["jupyter"]["outputs_hidden"] and HIDE in answer.metadata["tags"]
            folded += 1
    assert folded >= 2
    assert not any("jupyter" in cell.metadata for cell in student_notebook(name, read_address()).cells)


@each_lesson
def test_solutions_stand_in_their_own_cells_only(name, secrets):
    notebook = read(name)
    notebook.cells = [cell for cell in notebook.cells if not rules.has_tag(cell, "solution")]
    assert leaks(to_text(notebook), secrets) == []


@each_lesson
def test_student_version_has_the_stubs_and_no_solution(name, address, secrets):
    notebook = student_notebook(name, address)
    text = to_text(notebook)
    assert leaks(text, secrets) == [] and "SOLUTION" not in text and "badge" not in notebook.cells[0].source
    code, full = code_cells(notebook), code_cells(read(name))
    assert not any(cell.outputs or cell.execution_count for cell in code)
    stubs = [cell for cell in code if rules.has_tag(cell, "exercise")]
    assert len(code) == len(full) and "<details>" not in text
    assert len(stubs) >= 2 and all("raise NotImplementedError" in cell.source for cell in stubs)


@each_notebook
def test_no_cell_is_kept_from_nbval(name):
    """nbval runs every code cell as a test, but for those with its own marks, which also excuse errors."""
    marks = ("skip", "raises-exception")
    for cell in code_cells(read(name)):
        assert not any(mark in tag for tag in cell.metadata.get("tags", []) for mark in marks)
        assert "NBVAL" not in cell.source and "PYTEST_VALIDATE" not in cell.source


def cell(code: str, output: str, *tags: str):
    """A code cell that has printed ``output``."""
    outputs = [new_output("stream", name="stdout", text=output)] if output else []
    return new_code_cell(code, outputs=outputs, execution_count=1, metadata={"tags": list(tags)})


@pytest.mark.slow
def test_nbval_finds_false_claims_and_altered_outputs(tmp_path):
    """What the tests of the notebooks rest on, under the same options as theirs."""
    checked = "nbval-check-output"
    expected = [
        (cell("from qdiff_lib.course import claim", ""), True),
        (cell('claim(1 + 1 == 2, "two")', "✓ two\n", checked), True),
        (cell('claim(1 + 1 == 3, "three")', "✓ three\n"), False),
        (cell('claim(1 + 1 == 2, "two")', "✓ too\n", checked), False),
        (cell("print(0.25)", "0.26\n", checked), False),
        (cell("print(0.25)", "0.26\n"), True),  # not tagged: not compared
        (cell("print('-0.00')", "0.00\n", checked), True),  # sanitized
        (cell("raise ValueError('broken')", ""), False),
    ]
    path = tmp_path / "mutated.ipynb"
    notebook = make_notebook([each for each, _ in expected])
    nbformat.write(notebook, path)
    command = ["-m", "pytest", "-q", "-c", "pyproject.toml", "--rootdir=.", "-p", "no:cacheprovider"]
    report = tmp_path / "report.xml"
    command += [f"--junitxml={report}", path]
    run = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    cases = ElementTree.parse(report).iter("testcase")
    assert [not len(case) for case in cases] == [holds for _, holds in expected], run.stdout
