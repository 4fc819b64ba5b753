"""Two latent models, one of them guided by text, quantized by both methods: pictures, errors, size, BOPs."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from code_of_results import code_hash
from diffusers import DiffusionPipeline
from lab import SEED, Lab, about, errors, label, rounded
from safetensors.torch import save
from settings import LATENT, Latent
from torch import Tensor

from qdiff_lib import (
    Recipe,
    load,
    quantize,
    save_quantized,
    with_sampler,
)
from qdiff_lib.cli.demo import EDGE_BITS
from qdiff_lib.diffusion.capabilities import takes_prompts
from qdiff_lib.diffusion.prompts import check_disjoint, read_prompts
from qdiff_lib.diffusion.sampling import Samples
from qdiff_lib.evaluation.figures import samples_figure
from qdiff_lib.evaluation.trajectory_errors import image_psnr
from qdiff_lib.graph.cost import bops, layer_bits_of, layer_costs, parameter_count
from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.recipes.presets import PRESETS
from qdiff_lib.utils.constants import FLOAT_BITS
from qdiff_lib.utils.files import atomic_path
from qdiff_lib.utils.hashing import tensors_hash

FULL = "full precision"
CALIBRATION_PROMPTS = Path("prompts/emoji.txt")  # below the data folder
PROMPTS = (
    "red apple", "cat face", "bicycle", "grinning face", "heart", "fire", "automobile", "green apple",
    "pig face", "flag", "hamburger", "winking face", "dog face", "key", "tulip", "japan flag",
)  # fmt: skip
"""Of the pictures; none of them is calibrated on."""


@dataclass(frozen=True)
class Subject:
    """One model at this size of work. name: of the model; pipe: it, with its preset's sampler."""

    lab: Lab
    name: str
    pipe: DiffusionPipeline
    prompts: tuple[str, ...] | None

    @property
    def work(self) -> Latent:
        """How much work it is."""
        return self.lab.settings.latent

    def recipes(self) -> list[Recipe]:
        """Linear and Q-Diffusion at every width, with the ranges and the sampler of the paper's model."""
        preset, changes = PRESETS[LATENT[self.name]], {"guidance": self.work.guidance, **self.work.recipe}
        edges = {"linear": {}, "qdiffusion": {"edge_bits": EDGE_BITS}}
        return [
            preset.recipe(method, *bits, profile="tiny", **changes, **added)
            for bits in self.work.bits
            for method, added in edges.items()
        ]

    def made_by(self, recipe: Recipe | None) -> dict:
        """What decides a quantized model, and what it draws."""
        tensors = {f"unet.{name}": value for name, value in self.pipe.unet.state_dict().items()}
        return {
            "model": tensors_hash(tensors),
            "code": code_hash(__file__),
            "recipe": recipe and recipe.to_dict(),
            "prompts": self.prompts,
        }

    def quantized(self, recipe: Recipe) -> tuple[DiffusionPipeline, dict]:
        """The quantized model, and its ``seconds`` and ``bytes``; an interrupted calibration goes on."""
        folder = self.lab.cache.path("latent", self.made_by(recipe))

        def make() -> dict | None:
            work = folder.with_name(f"{folder.name}-work")
            options = dict(work=work, resume=True, prompts=self.prompts, processes=self.lab.processes)
            pipe = quantize(self.pipe, recipe, progress=False, **options)
            if not self.lab.processes.is_main:
                return None
            size = save_quantized(pipe, folder).stat().st_size
            shutil.rmtree(work, ignore_errors=True)
            return {"seconds": round(pipe.unet.quantization.seconds, 1), "bytes": size}

        cost = self.lab.cache.value("latent", self.made_by(recipe), make)
        return with_sampler(load(folder), recipe.calibration.sampler), cost

    def drawn(self, pipe: DiffusionPipeline, recipe: Recipe | None) -> Samples:
        """The pictures of ``PROMPTS`` and their trajectory."""
        work, texts = self.work, PROMPTS if self.prompts else None
        order = dict(n=work.images, steps=work.steps)
        decisive = self.made_by(recipe) | order | {"seed": SEED, "guidance": work.guidance, "texts": texts}

        def make() -> dict:
            return vars(self.lab.sampled(pipe, **order, prompts=texts, guidance=work.guidance))

        return Samples(**self.lab.cache.tensors("latent-drawn", decisive, make))

    def costs(self) -> list:
        """Of every layer, with as many tokens as the model's own tokenizer gives."""
        if not self.prompts:
            return layer_costs(self.pipe.unet)
        tokens, width = self.pipe.tokenizer.model_max_length, self.pipe.unet.config.cross_attention_dim
        return layer_costs(self.pipe.unet, {"encoder_hidden_states": torch.zeros(1, tokens, width)})


def subject(lab: Lab, name: str) -> Subject:
    """The model, and the prompts that it is calibrated on."""
    pipe = load(name)
    preset = PRESETS[LATENT[name]]
    prompts = None
    if takes_prompts(pipe):
        prompts = tuple(read_prompts(data_folder() / CALIBRATION_PROMPTS))
        check_disjoint(prompts, PROMPTS)
    return Subject(lab, name, with_sampler(pipe, preset.sampling["sampler"]), prompts)


def run(lab: Lab, pictures: Path) -> Iterator[dict]:
    """``models``: a table for each; its pictures are written to ``pictures``, side by side."""
    models, work = {}, lab.settings.latent
    for name in work.models:
        chosen = subject(lab, name)
        models[name] = {
            "sampler": PRESETS[LATENT[name]].sampling["sampler"],
            "prompts": chosen.prompts and list(PROMPTS[: work.images]),
            "rows": rows(chosen, pictures / f"{name}.png"),
        }
        about_all = dict(steps=work.steps, n=work.images, shown=work.shown)
        about_all |= dict(guidance=work.guidance, edge_bits=EDGE_BITS)
        calibration = {key: work.recipe[key] for key in ("samples", "iterations", "step_size_iterations")}
        yield {**about_all, "calibration": calibration, "models": models}


def rows(chosen: Subject, picture: Path) -> list[dict]:
    """Full precision, then every recipe: cost, and error of the latents after each step, noisy to clean."""
    costs, full = chosen.costs(), chosen.drawn(chosen.pipe, None)
    found, shown = [full_row(chosen, costs)], {FULL: full.images}
    for recipe in chosen.recipes():
        print(f"  {chosen.name} {label(recipe)}", flush=True)
        pipe, cost = chosen.quantized(recipe)
        drawn = chosen.drawn(pipe, recipe)
        size = {**cost, "bops": bops(costs, *layer_bits_of(pipe.unet, costs))}
        psnr = rounded(image_psnr(full.images, drawn.images))
        error = errors(full.trajectory, drawn.trajectory)
        found.append({"label": label(recipe), **about(recipe), **size, "image_psnr": psnr, **error})
        shown[label(recipe)] = drawn.images
    if chosen.lab.processes.is_main:
        draw(chosen, shown, picture)
    return found


def draw(chosen: Subject, shown: dict[str, Tensor], picture: Path) -> None:
    """Write the pictures of all rows, by label, side by side."""
    title = f"{chosen.name}, {chosen.work.steps} steps; each column: the same noise"
    figure = samples_figure(shown, title + (" and text" if chosen.prompts else ""), chosen.work.shown)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=80)


def full_row(chosen: Subject, costs: list) -> dict:
    """Full precision: what it costs."""
    size = len(save(chosen.pipe.unet.state_dict(), {"format": "pt"}))
    bits = dict(weights=FLOAT_BITS, activations=FLOAT_BITS)
    cost = dict(bytes=size, bops=bops(costs, 32, 32), parameters=parameter_count(chosen.pipe.unet))
    return {"label": FULL, "method": None, **bits, "seconds": 0.0, **cost}
