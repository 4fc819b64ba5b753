"""``quantize(pipe, recipe)``: from a diffusers pipeline to the same pipeline with a quantized UNet."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from .attention import QuantAttention
from .bias_correction import BiasCorrection
from .budget import check_disk
from .calibration import CalibrationSet, record
from .cost import LayerCost
from .grid import FLOAT_BITS
from .layers import QuantLayer, activation_quantizers, quant_layers
from .native import make_native
from .network import fit_network
from .ranges import Reservoir
from .recipes import Recipe
from .reconstruction import OBSERVED, reconstruct
from .replay import row_batches
from .resume import UnitReport, WorkFolder, opened, settings_of_run
from .rounding import ROUNDINGS
from .sampling import with_components, with_sampler
from .support import check_pipeline
from .surgery import example_inputs, insert_quantizers
from .tracing import Trace, trace


@dataclass
class Quantization:
    """What was done to a UNet; found at ``pipe.unet.quantization``.

    recipe: how. calibration: how its inputs were made, with the prompts. trace: its units and shortcut seams.
    seconds: calibration, from start to end. units: how the reconstruction of each went, and the
    stages after them that the recipe asks for; empty for recipes without one. A network that was loaded has
    the first two alone.
    """

    recipe: Recipe
    calibration: dict = field(default_factory=dict)
    trace: Trace | None = None
    seconds: float = 0.0
    units: list[UnitReport] = field(default_factory=list)

    def report(self) -> dict:
        """A JSON form."""
        return {
            "recipe": self.recipe.to_dict(),
            "calibration": self.calibration,
            "seconds": self.seconds,
            "seams": {name: list(sizes) for name, sizes in self.trace.seams.items()} if self.trace else {},
            "units": [asdict(unit) for unit in self.units],
        }


def quantize(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    calibration: CalibrationSet | None = None,
    work: Path | None = None,
    resume: bool = False,
    memory_gb: float = 4.0,
    progress: bool = True,
    callback: Callable[[UnitReport], None] | None = None,
    prompts: Sequence[str] | None = None,
) -> DiffusionPipeline:
    """A pipeline of the same class whose UNet is quantized; ``pipe`` is left as it was.

    calibration: inputs to calibrate on; by default they are recorded from ``pipe`` as the recipe says, for
    pipelines that draw from a text with ``prompts``.
    work: folder in which recorded inputs and finished units are kept, so that ``resume=True`` goes on after a
    kill and ends with the same bits; where nothing is there yet, it starts. memory_gb: most RAM for cached
    activations (2^30 bytes). callback: called after each unit, and after each stage that follows them.

    Raises ValueError for a pipeline that ``check_pipeline`` refuses, a model that is quantized already or not
    in float32, a recipe that fits no layer of it, prompts beside a calibration set, images of the recipe that
    cannot be drawn, or a disk with too little room for what is cached (see ``budget``). Likewise for
    ``resume`` without ``work``, and a ``work`` folder that holds the files of another run, damaged ones or
    those of somebody else, that another process writes to, or from which only ``resume`` may go on.
    """
    check_pipeline(pipe)
    if hasattr(pipe.unet, "quantization"):
        raise ValueError("the pipeline's UNet is quantized already; quantize the full-precision one")
    if pipe.unet.dtype != torch.float32:
        raise ValueError(f"the UNet is in {pipe.unet.dtype}; calibrate in float32: pipe.to(torch.float32)")
    if calibration is not None and prompts is not None:
        raise ValueError(f"prompts={list(prompts)[:3]}: leave them out, as the calibration set has its own")
    if resume and work is None:
        raise ValueError("resume=True needs work=FOLDER, the work folder of the run that is to go on")
    start = time.monotonic()
    with evaluating(pipe.unet) as full:
        found = trace(full, example_inputs(full, device=full.device))
        if recipe.rounding not in ROUNDINGS:
            check_disk(found, recipe.samples if calibration is None else len(calibration), memory_gb, work)
        kept = nullcontext()
        if work is not None:
            kept = opened(work, settings_of_run(pipe, recipe, prompts, calibration), resume)
        with kept as files:
            if calibration is None:
                calibration = recorded_set(pipe, recipe, progress, prompts, files)
            options = (files, memory_gb, progress, callback)
            unet = quantized_unet(pipe, recipe, found, calibration, *options)
    unet.quantization.seconds = time.monotonic() - start
    make_native(unet, unet.quantization)
    return with_components(pipe, unet=unet)


def quantized_unet(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    found: Trace,
    calibration: CalibrationSet,
    files: WorkFolder | None,
    memory_gb: float,
    progress: bool,
    callback: Callable[[UnitReport], None] | None,
) -> nn.Module:
    """A quantized copy of the UNet of ``pipe``, whose trace is ``found``; see ``quantize``."""
    unet = insert_quantizers(pipe.unet, recipe, found)
    unet.quantization = Quantization(recipe, calibration.made_by, found)
    if recipe.rounding in ROUNDINGS:
        round_all(unet, recipe, calibration)
        return unet
    work = files and files.folder
    stages = stages_after(pipe, unet, calibration, recipe, work, memory_gb, progress)
    options = (work, files, memory_gb, progress, callback)
    unet.quantization.units = reconstruct(pipe.unet, unet, found, calibration, recipe, *options)
    for stage in stages:
        report = stage()
        unet.quantization.units.append(report)
        if callback:
            callback(report)
    return unet


def stages_after(
    pipe: DiffusionPipeline,
    unet: nn.Module,
    calibration: CalibrationSet,
    recipe: Recipe,
    work: Path | None,
    memory_gb: float,
    progress: bool,
) -> list[Callable[[], UnitReport]]:
    """The recipe's stages after the last unit, to be run on ``unet``, the quantized network of ``pipe``.

    Raises ValueError for images that ``BiasCorrection`` cannot draw.
    """
    stages = []
    if recipe.network_iterations:
        options = (pipe.unet, unet, unet.quantization.trace, calibration, recipe, work, memory_gb, progress)
        stages.append(partial(fit_network, *options))
    if recipe.bias_correction_images:
        quantized = with_components(pipe, unet=unet)
        stages.append(BiasCorrection(pipe, quantized, calibration, recipe, progress).run)
    return stages


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode (no dropout), and afterwards in the mode that it was in."""
    training = module.training
    try:
        yield module.eval()
    finally:
        module.train(training)


def recorded_set(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    progress: bool,
    prompts: Sequence[str] | None = None,
    files: WorkFolder | None = None,
) -> CalibrationSet:
    """The calibration set that the recipe describes; ``files``: where it is kept, and taken from."""
    sampler, counts = with_sampler(pipe, recipe.sampler), (recipe.samples, recipe.steps, recipe.seed)
    asked = dict(prompts=prompts, guidance=recipe.guidance, eta=recipe.eta)

    def recorded() -> CalibrationSet:
        return record(sampler, recipe.rule, *counts, progress=progress, **asked)

    return files.calibration(recorded) if files else recorded()


@torch.no_grad()
def round_all(unet: nn.Module, recipe: Recipe, calibration: CalibrationSet) -> None:
    """Without reconstruction: weights one by one, activation ranges from full-precision inputs."""
    generator = torch.Generator().manual_seed(recipe.seed)
    quantizers = activation_quantizers(unet)
    for quantizer in quantizers:
        quantizer.reservoir = Reservoir(OBSERVED, generator)
    device = next(unet.parameters()).device
    if quantizers:
        for rows in row_batches(len(calibration), unet.quantization.trace.batch_size):
            unet(**calibration.rows(rows, device))
    for quantizer in quantizers:
        quantizer.range_from_reservoir(recipe.activation_range)
    for layer in quant_layers(unet):
        if layer.weight_grid:
            layer.find_weight_range(recipe.weight_range)
            layer.round_weight(recipe.rounding)


def layer_bits_of(unet: nn.Module, costs: list[LayerCost]) -> tuple[dict[str, int], dict[str, int]]:
    """Weight and activation bits by layer name, as ``cost.bops`` takes them; 32 for what is not quantized.

    An attention product counts with the bits of q, k, v and the weights of the layers that make them, as the
    paper's tables count it.
    """
    weights, activations = {}, {}
    modules = dict(unet.named_modules())
    for cost in costs:
        module = modules[cost.name]
        if isinstance(module, QuantLayer):
            weights[cost.name] = module.weight_grid.bits if module.weight_grid else FLOAT_BITS
            activations[cost.name] = module.inputs[0].grid.bits if len(module.inputs) else FLOAT_BITS
        elif cost.kind == "attention" and isinstance(module.to_q, QuantLayer):
            quantized = isinstance(module, QuantAttention)
            weights[cost.name] = module.to_q.weight_grid.bits if module.to_q.weight_grid else FLOAT_BITS
            activations[cost.name] = module.quantize_q.grid.bits if quantized else FLOAT_BITS
    return weights, activations
