"""The main job on the shipped model, with numbers so small that it takes seconds."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from qdiff_lib.cli import demo as demo_module
from qdiff_lib.course.packed_file import file_parts
from qdiff_lib.engines.run import why_missing
from qdiff_lib.io.checkpoint import TENSORS
from qdiff_lib.recipes import recipe

ROWS = [("fp", 32, 32), ("linear", 8, 8), ("linear", 4, 8), ("qdiffusion", 4, 8)]
FIELDS = ["method", "weights", "activations", "bytes", "bops"]
FIELDS += ["trajectory_mse", "frechet", "frechet_n", "seconds", "engine", "drawing_seconds"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the report of one demonstration of 4 images, 3 steps, 2 iterations."""
    out = tmp_path_factory.mktemp("demo")
    small = dict(steps=3, samples=8, iterations=2, step_size_iterations=1, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "IMAGES", 4)
        patch.setattr(demo_module, "SCORED", 6)
        patch.setattr(demo_module, "STEPS", 3)
        patch.setitem(recipe.PROFILES, "tiny", small)
        patch.setitem(demo_module.AFTER_UNITS, "network_iterations", 2)
        patch.setitem(demo_module.AFTER_UNITS, "bias_correction_images", 3)
        report = demo_module.demo(out)
    return out, report


@pytest.mark.slow
class TestDemo:
    def test_report_has_a_row_for_each_method_with_the_documented_fields(self, finished):
        out, report = finished
        assert json.loads((out / "report.json").read_text()) == report
        assert [(row["method"], row["weights"], row["activations"]) for row in report["rows"]] == ROWS
        assert all(list(row) == FIELDS for row in report["rows"])
        assert report["floor"] > 0

    def test_full_precision_has_no_error_and_quantized_rows_have_some(self, finished):
        errors = [row["trajectory_mse"] for row in finished[1]["rows"]]
        assert errors[0] == 0 and min(errors[1:]) > 0

    def test_bytes_are_the_sizes_of_the_files_on_disk(self, finished):
        out, report = finished
        for row in report["rows"][1:]:
            folder = out / f"{row['method']}-w{row['weights']}a{row['activations']}"
            assert row["bytes"] == (folder / TENSORS).stat().st_size

    def test_four_bits_take_at_most_14_percent_of_the_full_precision_file(self, finished):
        """But for the names: 4 of 32 bits are 12.5 %, the rest is grids, biases and norms."""
        out, report = finished
        for row in report["rows"][2:]:
            parts = file_parts(out / f"{row['method']}-w4a8" / TENSORS)
            names = parts.pop("names and places")
            assert sum(parts.values()) <= 0.14 * report["rows"][0]["bytes"]
            with safe_open(out / f"{row['method']}-w4a8" / TENSORS, "pt") as file:
                assert names <= 128 * len(file.keys())

    def test_bit_operations_follow_the_bits(self, finished):
        full, w8a8, w4a8, learned = (row["bops"] for row in finished[1]["rows"])
        assert w8a8 == pytest.approx(full * 64 / 23**2)
        assert w4a8 == w8a8 / 2
        edges = 2 * (9 * 32) * 32**2  # multiplications of the first and last layer: 3x3, 1 -> 32 and 32 -> 1
        assert learned - w4a8 == 2 * edges * (demo_module.EDGE_BITS**2 - 4 * 8)

    @pytest.mark.skipif(bool(why_missing("openvino")), reason=f"OpenVINO {why_missing('openvino')}")
    def test_the_last_row_is_drawn_in_integers_and_timed_against_full_precision(self, finished):
        rows = finished[1]["rows"]
        assert [row["engine"] for row in rows] == ["simulated"] * 3 + ["openvino"]
        timed = [row["drawing_seconds"] is not None for row in rows]
        assert (
            timed == [True, False, False, True]
            and min(rows[0]["drawing_seconds"], rows[3]["drawing_seconds"]) > 0
        )

    def test_pictures_are_readable_and_not_blank(self, finished):
        for name in ("samples.png", "trajectory.png"):
            with Image.open(finished[0] / name) as picture:
                low, high = picture.convert("L").getextrema()
                assert picture.width > 400 and high - low > 100

    def test_saved_checkpoint_draws_the_images_that_were_shown(self, finished):
        from qdiff_lib import load, sample, with_sampler

        out, _ = finished
        again = with_sampler(load(out / "qdiffusion-w4a8"), "ddim")
        first, second = (sample(again, 2, 3).images for _ in range(2))
        assert torch.equal(first, second)


def test_the_last_row_has_the_stages_after_the_units_that_its_profile_lacks():
    tiny, laptop = (demo_module.learned_recipe(profile) for profile in ("tiny", "laptop"))
    plain = {name: recipe.Recipe.qdiffusion(4, 8, name, edge_bits=16) for name in ("tiny", "laptop")}
    assert laptop == plain["laptop"] and tiny == plain["tiny"].replace(**demo_module.AFTER_UNITS)
    assert tiny.whole_network.network_iterations and tiny.bias_correction.bias_correction_images
