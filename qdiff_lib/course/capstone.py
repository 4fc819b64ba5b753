"""The capstone: scores a quantized ``ldm-emoji`` against full precision, on noise that learners do not know.

python -m qdiff_lib.course.capstone submitted --seed 4711    all quantized folders below this one

Of each hand-in only ``unet/config.json`` and ``unet/diffusion_pytorch_model.safetensors`` are read. They hold
data only: no code of a hand-in runs.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor, nn

from ..diffusion.pipelines import with_sampler
from ..diffusion.sampling import sample
from ..evaluation.trajectory_errors import trajectory_mse
from ..graph.cost import MANTISSA_BITS, bops, layer_bits_of, layer_costs
from ..io.models import load
from ..io.shipped_data import embedded_folder
from ..recipes.recipe import METHODS, Recipe
from ..utils.files import read_json
from ..utils.provenance import machine

MODEL = "ldm-emoji"
MOST_BYTES = 2_750_000  # of the file of weights
MOST_BIT_OPERATIONS = 20e9  # of one run of the network for one image
IMAGES, STEPS = 64, 25  # of the score
POINTS, NONE, FULL = 8, 14.0, 21.0  # points for the number, in proportion: 0 up to NONE dB, all from FULL dB
LARGEST = 30_000_000  # bytes of a file that is opened: full precision has 23.6 million
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
QUICK = dict(samples=8, iterations=2, step_size_iterations=1, batch_size=2, rounding_start="fraction")
QUICK |= dict(network_iterations=0, bias_correction_images=0)
"""What makes any recipe quick: it tests a notebook's cells, and its numbers mean nothing."""

PART = re.compile(r".*?\.(resnets|attentions|upsamplers|downsamplers)\.\d+|\w+")


@dataclass(frozen=True)
class Score:
    """How good a hand-in is.

    bytes: of its file of weights. bit_operations: of one run of its network, as ``graph.cost.bops``.
    error: mean squared error of the latents after the last step, against full precision. decibels: the mean
    over the images of their signal-to-noise ratio after the last step, in dB. spread: the standard error of
    this mean. recipe: what the file says.
    """

    bytes: int
    bit_operations: float
    error: float
    decibels: float
    spread: float
    recipe: Recipe | None

    @property
    def within(self) -> bool:
        """Whether both budgets are kept."""
        return self.bytes <= MOST_BYTES and self.bit_operations <= MOST_BIT_OPERATIONS

    @property
    def points(self) -> float:
        """The points for the number, 0 to ``POINTS``, to one decimal place; 0 beyond a budget."""
        share = (self.decibels - NONE) / (FULL - NONE)
        return round(POINTS * min(max(share, 0), 1), 1) if self.within else 0.0

    def __str__(self) -> str:
        return (
            f"{self.decibels:.2f} dB (± {self.spread:.2f}){'' if self.within else ', beyond the budget'}, "
            f"{self.points:.1f} of {POINTS} points; {self.bytes:,} of {MOST_BYTES:,} bytes, "
            f"{self.bit_operations / 1e9:.2f} of {MOST_BIT_OPERATIONS / 1e9:.0f} G bit operations, "
            f"error {self.error:.4g}"
        )


class Scorer:
    """Scores hand-ins on one seed; full precision draws once, for all of them."""

    def __init__(self, seed: int, images: int = IMAGES, steps: int = STEPS):
        """seed: of the noise. images, steps: how many are drawn. Raises what ``sample`` raises."""
        self.order = dict(n=images, steps=steps, seed=seed, record=True)
        self.full = load(MODEL)
        self.costs = layer_costs(self.full.unet)
        self.truth = self._latents(self.full)

    def _latents(self, pipe: DiffusionPipeline) -> Tensor:
        """The latents after the last step, (1, images, C, H, W)."""
        return sample(with_sampler(pipe, "ddim"), **self.order).trajectory[-1:]

    def score(self, folder: str | Path) -> Score:
        """The score of a folder that ``save_quantized`` wrote.

        Raises ValueError for a folder that is no quantized ``ldm-emoji``; the message names it.
        """
        folder = Path(folder)
        try:
            pipe = open_network(folder)
            latents = self._latents(pipe)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{folder} cannot be scored: {one_line(error)}") from error
        error = trajectory_mse(self.truth, latents).item()
        power = self.truth.double().square().mean(dim=(0, 2, 3, 4))
        each = 10 * (power / (self.truth.double() - latents).square().mean(dim=(0, 2, 3, 4))).log10()
        cost = bops(self.costs, *layer_bits_of(pipe.unet, self.costs))
        spread = each.std().item() / len(each) ** 0.5 if len(each) > 1 else float("nan")
        recipe = getattr(getattr(pipe.unet, "quantization", None), "recipe", None)
        size = (folder / "unet" / FILES[1]).stat().st_size
        return Score(size, cost, error, each.mean().item(), spread, recipe)


def open_network(folder: Path) -> DiffusionPipeline:
    """The pipeline of ``ldm-emoji`` with the network of a hand-in; nothing else of the folder is read.

    Raises ValueError for a folder without such a network, and for files that are no ordinary ones, are larger
    than ``LARGEST``, are damaged, or belong to another network.
    """
    check_files(folder)
    shipped = embedded_folder(MODEL)
    check_same_network(read_json(folder / "unet" / FILES[0]), read_json(shipped / "unet" / FILES[0]))
    with TemporaryDirectory() as temporary:
        shutil.copytree(shipped, temporary, dirs_exist_ok=True)
        for name in FILES:
            shutil.copyfile(folder / "unet" / name, Path(temporary, "unet", name), follow_symlinks=False)
        try:
            return load(temporary)
        except ValueError as error:
            raise ValueError(str(error).replace(temporary, str(folder))) from error


def check_files(folder: Path) -> None:
    """Raise ValueError unless the two files of the network are ordinary ones, and not too large."""
    if (folder / "unet").is_symlink():
        raise ValueError("unet is a link: hand in the folder that save_quantized wrote")
    for name in FILES:
        path = folder / "unet" / name
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"unet/{name} is no file: hand in the folder that save_quantized wrote")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"unet/{name} has {path.stat().st_size:,} bytes, more than {LARGEST:,}")


def check_same_network(given: dict, shipped: dict) -> None:
    """Raise ValueError if the config ``given`` is of another network than the config ``shipped``."""
    for name, value in shipped.items():
        if not name.startswith("_") and given.get(name) != value:
            raise ValueError(
                f"unet/config.json has {name}={given.get(name)!r:.60}, not {value!r}: quantize {MODEL}"
            )


def cost_table(unet: nn.Module) -> str:
    """The cost of each part of a network, with 3-bit weights and 8-bit activations and in floating point."""
    rows: dict[str, list[float]] = {}
    for cost in layer_costs(unet):
        row = rows.setdefault(PART.match(cost.name)[0], [0.0, 0.0])
        row[0] += cost.parameters
        row[1] += cost.macs
    lines = [f"{'part':28} weights (k)  MACs (M)   kB: 3 bits   float   G: W3A8   float"]
    for name, (weights, macs) in rows.items():
        sizes = weights * 3 / 8 / 1000, weights * 4 / 1000
        work = macs * 2 * 3 * 8 / 1e9, macs * 2 * MANTISSA_BITS**2 / 1e9
        lines.append(
            f"{name:28} {weights / 1000:11.1f} {macs / 1e6:9.1f} {sizes[0]:12.1f} {sizes[1]:7.0f} "
            f"{work[0]:9.2f} {work[1]:7.2f}"
        )
    return "\n".join(lines)


def one_line(error: Exception) -> str:
    """The message of an error in one printable line of at most 300 characters."""
    text = " ".join(str(error).split())[:300]
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def changed_fields(recipe: Recipe | None) -> str:
    """What a recipe changes in the defaults of its method, as ``method: field=value, ...``."""
    if recipe is None:
        return "not quantized"
    method = recipe.method if recipe.method in METHODS else "qdiffusion"
    usual = Recipe.named(method).flat()
    changes = ", ".join(f"{k}={v!r}" for k, v in recipe.flat().items() if v != usual[k])
    return f"{method}: {changes or 'no change'}"


def hand_ins(folders: Iterable[Path]) -> list[Path]:
    """All folders, in these or below them, that have a folder ``unet``, sorted; links are not followed."""
    found = {Path(top) for folder in folders for top, inside, _ in os.walk(folder) if "unet" in inside}
    return sorted(found)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m qdiff_lib.course.capstone", description=__doc__.partition("\n")[0]
    )
    made.add_argument(
        "folders", metavar="FOLDER", type=Path, nargs="+", help="a hand-in, or a folder of them"
    )
    made.add_argument("--seed", metavar="N", type=int, required=True, help="of the noise, 0 to 2047: keep it")
    made.add_argument("--images", metavar="N", type=int, default=IMAGES, help="to draw (%(default)s)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Print the leaderboard; returns 0, 1 if a hand-in cannot be scored, or 2 for wrong input."""
    given = parser().parse_args(arguments)
    disable_progress_bar()  # of loading, which takes a second
    try:
        places = hand_ins(given.folders)
        if not places:
            raise ValueError(f"no folder below {', '.join(map(str, given.folders))} has a folder unet")
        scorer = Scorer(given.seed, given.images)
    except (ValueError, OSError) as error:
        print(f"capstone: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"seed {given.seed}, {given.images} images, {STEPS} steps, {machine()}")
    scores, failed = {}, 0
    for place in places:
        try:
            scores[place] = scorer.score(place)
        except ValueError as error:
            failed += 1
            print(f"capstone: {one_line(error)}", file=sys.stderr)
    for place, score in sorted(scores.items(), key=lambda item: (not item[1].within, -item[1].decibels)):
        print(f"{one_line(place)}: {score}\n    {changed_fields(score.recipe)}")
    return int(failed > 0)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
