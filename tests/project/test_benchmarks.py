"""The benchmarks run and write what they promise; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qdiff_lib.engines.run import why_missing

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE = {"cpu", "cores", "threads", "torch", "date", "commit", "command", "weights"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    if why := why_missing("openvino"):
        pytest.skip(f"OpenVINO {why}")
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, ROOT / "benchmarks" / "run.py", "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text()), (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_part_states_where_it_was_measured(written):
    results, readme = written
    assert set(results) == {"startup", "engines", "memory", "sampling", "reconstruction"}
    for name, part in results.items():
        assert part["quick"] and part["measured"].keys() >= PROVENANCE
        assert f"## {name.capitalize()}" in readme
        assert part["measured"]["cpu"] in readme and part["measured"]["date"] in readme
    assert "Quick run: these numbers mean nothing" in readme


@pytest.mark.slow
@pytest.mark.exhaustive
def test_reconstruction_has_times_memory_and_the_ratio(written):
    (result,) = written[0]["reconstruction"]["results"]
    ours, naive = result["ours"], result["naive"]
    assert ours["units_measured"] == result["units"] and not ours["estimated"]
    assert naive["units_measured"] == len(naive["measured_units"]) == 4 and naive["estimated"]
    for scheme in (ours, naive):
        assert min(scheme["seconds_per_iteration"], scheme["fit_seconds_per_unit"], scheme["seconds"]) > 0
        assert scheme["peak_above_baseline_gib"] > 0
    assert ours["cached_within_budget"] and ours["cached_peak_gib"] > 0
    assert result["naive_to_ours"].keys() >= {"measured_units", "whole", "whole_at_tiny_iterations"}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_in_ram_a_simulated_network_has_float_weights(written):
    (result,) = written[0]["memory"]["results"]
    full, quantized = result["files"].values()
    for row in result["rows"]:
        assert row["called"]["least"] > full > 6 * quantized  # W4A8 is simulated with float weights
    assert "torch, simulated W4A8" in written[1]


def test_the_recorded_memory_is_as_the_page_on_engines_says():
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())["memory"]["results"]
    narrow, wide = ({row["form"]: row for row in result["rows"]} for result in found)
    for rows in (narrow, wide):
        loaded = {form: row["loaded"] for form, row in rows.items()}
        assert loaded["torch, simulated W4A8"]["least"] > loaded["torch, float32"]["most"]
        assert loaded["packed W4A8, for GPUs"]["most"] < loaded["torch, float32"]["least"]
    floats, integers = (f"OpenVINO alone, {kind}" for kind in ("float32", "W4A8 integers"))
    assert narrow[integers]["called"]["least"] > narrow[floats]["called"]["most"]
    assert 0.4 < wide[integers]["called"]["most"] / wide[floats]["called"]["least"] < 0.6
    for form in (floats, integers):
        pipeline = wide[form.replace("OpenVINO alone", "torch and OpenVINO")]
        assert wide[form]["called"]["most"] < pipeline["called"]["least"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_both_schemes_come_to_the_same_first_unit(written):
    """Later units see inputs that differ in the last bits, and a rounding that flips moves them apart."""
    (result,) = written[0]["reconstruction"]["results"]
    assert result["naive_to_ours"]["first_error_difference"] < 1e-5  # a mean of float32 squares


@pytest.mark.slow
@pytest.mark.exhaustive
def test_simulated_quantization_is_never_called_faster(written):
    results, readme = written
    sampling = results["sampling"]["results"]
    assert len(sampling["ratios"]) == sampling["pairs"] and sampling["ratio_w4a8_to_fp"] > 0
    assert "simulated" in sampling["label"] and sampling["label"] in readme
