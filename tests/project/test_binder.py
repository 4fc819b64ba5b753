"""What Binder installs: CPU builds of the tested versions, and all that the lessons import."""

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.expansion import ROOT, SOURCES, lesson_names, read_source

BINDER = ROOT / "binder"
SCRIPTS = [BINDER / "postBuild", BINDER / "start"]


def pins(path: Path) -> dict[str, Requirement]:
    """The requirements of a file by their names; options such as an index are left out."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {requirement.name: requirement for requirement in found}


BINDER_PINS = pins(BINDER / "requirements.txt")


@functools.cache
def provided() -> set[str]:
    """The distributions that Binder's requirements name, with all that those require."""
    found, wanted = set(), list(BINDER_PINS)
    while wanted:
        name = canonical(wanted.pop())
        if name not in found:
            found.add(name)
            lines = map(Requirement, importlib.metadata.requires(name) or [])
            wanted += [r.name for r in lines if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


homes = functools.cache(importlib.metadata.packages_distributions)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(code: str) -> set[str]:
    """The top-level names of the modules that some code imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def lesson_code(name: str) -> str:
    cells = read_source(SOURCES / f"{name}.py")
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def missing(modules: set[str]) -> set[str]:
    """The modules that neither Python, nor the project, nor Binder's requirements provide."""
    others = modules - sys.stdlib_module_names - {"qdiff_lib"}
    return {name for name in others if not provided() & set(map(canonical, homes().get(name, [])))}


@pytest.mark.parametrize("name", lesson_names())
def test_binder_has_what_a_lesson_imports(name):
    assert not missing(imported(lesson_code(name)))


def test_binder_has_what_the_package_imports():
    modules = sorted((ROOT / "qdiff_lib").rglob("*.py"))
    names = set().union(*(imported(path.read_text(encoding="utf-8")) for path in modules))
    # The command export needs the one, and models that draw from a text need the other: no lesson has either.
    assert modules and missing(names) <= {"onnx", "transformers"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A folder of packages with what Binder's requirements install, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in provided() & {canonical(found.name) for found in importlib.metadata.distributions()}:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


@pytest.mark.slow
def test_a_fresh_environment_imports_what_the_lessons_import_and_loads_the_model(fresh):
    """With torch's build of this machine in place of the CPU build; warnings would stand in the lessons."""
    nodes = [node for name in lesson_names() for node in ast.walk(ast.parse(lesson_code(name)))]
    imports = {ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)}
    path = f"import sys; sys.path += {[str(ROOT), str(fresh)]}"
    only = "import importlib.util; assert not importlib.util.find_spec('pytest')"
    start = "import qdiff_lib.course; qdiff_lib.course.start('00_start_here')"
    run = "from qdiff_lib import load, sample; sample(load('ddpm-fashion'), 1, 2)"
    code = "\n".join([path, only, start, *sorted(imports), run])
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_missing_module_would_be_found():
    assert missing(imported("import pytest, json, torch.nn\nfrom nbval import plugin")) == {"pytest", "nbval"}


def test_every_pin_is_the_tested_version_and_torch_is_a_cpu_build():
    tested = pins(ROOT / "requirements.txt")
    for name, requirement in BINDER_PINS.items():
        cpu = "+cpu" if name in ("torch", "torchvision") else ""
        assert str(requirement.specifier) == f"{tested[name].specifier}{cpu}", name


def test_both_cpu_builds_come_from_pytorchs_index():
    lines = (BINDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    options = [line for line in lines if line.startswith("-")]
    assert options == ["--extra-index-url https://download.pytorch.org/whl/cpu"]
    assert {"torch", "torchvision"} <= BINDER_PINS.keys()


def test_nothing_that_no_lesson_needs():
    """Each requirement is one of the package, shows widgets, silences diffusers, or computes integers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(line).name for line in project["dependencies"]}
    assert BINDER_PINS.keys() <= needed | {"ipywidgets", "accelerate", "openvino"}


def test_the_python_is_one_that_the_package_accepts():
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text(encoding="utf-8")).group(
        1
    )
    assert version in ("3.11", "3.12")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_stop_at_errors_and_parse(path):
    code = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n") and os.access(path, os.X_OK)
    assert code[0] == "set -euo pipefail"
    subprocess.run(["bash", "-n", path], check=True)


def run_post_build(folder: Path, broken: str = "") -> tuple[int, list[str]]:
    """Run postBuild with a python that only records its arguments, and fails at those with ``broken``."""
    calls = folder / "calls"
    python = folder / "python"
    python.write_text(
        f'#!/usr/bin/env bash\necho "$*" >> {calls}\n[[ -z "$BROKEN" || "$*" != *"$BROKEN"* ]]\n'
    )
    python.chmod(0o755)
    found = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "BROKEN": broken}
    status = subprocess.run([BINDER / "postBuild"], env=os.environ | found, cwd=ROOT).returncode
    return status, calls.read_text(encoding="utf-8").splitlines()


def test_post_build_installs_the_package_and_no_other_then_checks(tmp_path):
    status, (install, doctor, imports) = run_post_build(tmp_path)
    assert status == 0
    assert install.startswith("-m pip install") and "--no-deps" in install and install.endswith(" .")
    assert doctor == "-m qdiff_lib doctor" and "qdiff_lib.course" in imports


@pytest.mark.parametrize("step, calls", [("pip install", 1), ("doctor", 2), ("import", 3)])
def test_post_build_stops_where_something_fails(tmp_path, step, calls):
    status, made = run_post_build(tmp_path, broken=step)
    assert status != 0 and len(made) == calls


def test_start_sets_the_threads_and_hands_over():
    shown = subprocess.run(
        [BINDER / "start", "sh", "-c", "echo $OMP_NUM_THREADS"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "1\n"
