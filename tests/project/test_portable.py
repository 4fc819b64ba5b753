"""The matrix of settings: it covers what it says, reaches all that a test starts, and tells what failed."""

import json
from itertools import combinations, product

import pytest

from tools import portable

CHECK = """
import os, torch
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
assert os.environ["ONEDNN_MAX_CPU_ISA"] == "SSE41"
assert os.environ["OMP_NUM_THREADS"] == "1" and torch.get_num_threads() == 1
"""
TESTS = f"""
import subprocess, sys
import pytest
CHECK = {CHECK!r}
def test_here(): exec(CHECK)
def test_in_a_process(): assert subprocess.run([sys.executable, "-c", CHECK]).returncode == 0
def test_that_fails(): assert False
@pytest.mark.skip
def test_that_is_skipped(): pass
"""


def test_nine_settings_hold_every_pair_of_values():
    chosen = portable.settings(everything=False)
    assert len(chosen) == 9 and len(set(portable.settings(everything=True))) == 27
    for first, second in combinations(range(3), 2):
        values = list(portable.VALUES.values())
        assert {(s[first], s[second]) for s in chosen} == set(product(values[first], values[second]))


def test_native_leaves_the_variable_out(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    found = portable.environment(("native", "SSE41", "4"))
    assert "ATEN_CPU_CAPABILITY" not in found
    assert (found["ONEDNN_MAX_CPU_ISA"], found["OMP_NUM_THREADS"]) == ("SSE41", "4")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_setting_reaches_tests_processes_and_notebooks(tmp_path, capsys):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_sample.py").write_text(TESTS)
    cell = dict(cell_type="code", execution_count=None, id="a", metadata={}, outputs=[], source=CHECK)
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    book = dict(cells=[cell], metadata=kernel, nbformat=4, nbformat_minor=5)
    (tmp_path / "book.ipynb").write_text(json.dumps(book))
    options = ["--only", "^default SSE41 1$", "--folder", str(tmp_path / "out")]
    wanted = ["--", str(tmp_path), "--nbval-lax", "--nbval-current-env"]
    assert portable.main([*options, *wanted]) == 1
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| default | SSE41 | 1 | 3 | 1 | 1 |") and row.endswith("test_that_fails |")
    assert portable.main([*options, "--", str(tmp_path / "test_sample.py"), "-k", "test_here"]) == 0
    assert portable.main([*options, "--", str(tmp_path / "absent.py")]) == 1
    assert "pytest itself, exit" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        portable.main(["--only", "avx1024"])
    assert "matches no setting" in capsys.readouterr().err
