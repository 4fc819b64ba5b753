"""``quantize(pipe, recipe)``: from a diffusers pipeline to the same pipeline with a quantized UNet."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from .fitting import OBSERVED
from .layers import QuantLayer, activation_quantizers, quant_layers
from .limits import FLOAT_BITS
from .native import make_native
from .network import fit_network
from .ranges import Reservoir
from .recipe_parts import Calibration, Rounding, StepSizes
from .recipes import Recipe
from .reconstruction import reconstruct
from .replay import row_batches
from .resume import UnitReport, WorkFolder, opened, settings_of_run
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
    check_quantizable(pipe, calibration, prompts)
    if resume and work is None:
        raise ValueError("resume=True needs work=FOLDER, the work folder of the run that is to go on")
    start, seed, learned = time.monotonic(), recipe.seed, recipe.rounding.learned
    with evaluating(pipe.unet) as full:
        found = trace(full, example_inputs(full, device=full.device))
        if learned:
            samples = recipe.calibration.samples if calibration is None else len(calibration)
            check_disk(found, samples, memory_gb, work)
        with kept_files(pipe, recipe, prompts, calibration, work, resume) as files:
            if calibration is None:
                calibration = recorded_set(pipe, recipe.calibration, seed, progress, prompts, files)
            unet = insert_quantizers(full, recipe.grids, found)
            unet.quantization = done = Quantization(recipe, calibration.made_by, found)
            parts = (recipe.rounding, recipe.step_sizes, seed)
            if learned:
                stages = stages_after(pipe, unet, calibration, recipe, work, memory_gb, progress)
                options = (work, files, memory_gb, progress, callback)
                done.units = reconstruct(full, unet, found, calibration, *parts, *options)
                run_stages(stages, done.units, callback)
            else:
                round_all(unet, found, calibration, *parts)
    done.seconds = time.monotonic() - start
    return with_components(pipe, unet=make_native(unet, done))


def kept_files(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    prompts: Sequence[str] | None,
    calibration: CalibrationSet | None,
    work: Path | None,
    resume: bool,
) -> AbstractContextManager[WorkFolder | None]:
    """The work folder of this run, held against other processes; None where nothing is to be kept."""
    if work is None:
        return nullcontext()
    return opened(work, settings_of_run(pipe, recipe, prompts, calibration), resume)


def check_quantizable(
    pipe: DiffusionPipeline, calibration: CalibrationSet | None, prompts: Sequence[str] | None
) -> None:
    """Raise ValueError for what ``quantize`` refuses at once, whatever the recipe."""
    check_pipeline(pipe)
    if hasattr(pipe.unet, "quantization"):
        raise ValueError("the pipeline's UNet is quantized already; quantize the full-precision one")
    if pipe.unet.dtype != torch.float32:
        raise ValueError(f"the UNet is in {pipe.unet.dtype}; calibrate in float32: pipe.to(torch.float32)")
    if calibration is not None and prompts is not None:
        raise ValueError(f"prompts={list(prompts)[:3]}: leave them out, as the calibration set has its own")


Stage = Callable[[], UnitReport]


def stages_after(
    pipe: DiffusionPipeline,
    unet: nn.Module,
    inputs: CalibrationSet,
    recipe: Recipe,
    work: Path | None,
    memory_gb: float,
    progress: bool,
) -> list[Stage]:
    """The recipe's stages after the last unit, to be run on ``unet``, the quantized network of ``pipe``.

    Raises ValueError for images that ``BiasCorrection`` cannot draw.
    """
    stages: list[Stage] = []
    if recipe.whole_network.network_iterations:
        networks = (pipe.unet, unet, unet.quantization.trace, inputs)
        how = (recipe.whole_network, recipe.rounding.batch_size, recipe.seed)
        stages.append(partial(fit_network, *networks, *how, work, memory_gb, progress))
    images = recipe.bias_correction.bias_correction_images
    if images:
        pipes = (pipe, with_components(pipe, unet=unet))
        stages.append(BiasCorrection(*pipes, inputs, images, recipe.calibration, recipe.seed, progress).run)
    return stages


def run_stages(
    stages: list[Stage], reports: list[UnitReport], callback: Callable[[UnitReport], None] | None
) -> None:
    """Run the stages one after the other; each adds its report."""
    for stage in stages:
        reports.append(stage())
        if callback:
            callback(reports[-1])


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
    how: Calibration,
    seed: int,
    progress: bool,
    prompts: Sequence[str] | None = None,
    files: WorkFolder | None = None,
) -> CalibrationSet:
    """The calibration set that is drawn like that; ``files``: where it is kept, and taken from."""
    sampler = with_sampler(pipe, how.sampler)
    asked = dict(prompts=prompts, guidance=how.guidance, eta=how.eta, progress=progress)

    def recorded() -> CalibrationSet:
        return record(sampler, how.rule, how.samples, how.steps, seed, **asked)

    return files.calibration(recorded) if files else recorded()


@torch.no_grad()
def round_all(
    unet: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    rounding: Rounding,
    step_sizes: StepSizes,
    seed: int,
) -> None:
    """Without reconstruction: weights one by one, activation ranges from full-precision inputs."""
    generator = torch.Generator().manual_seed(seed)
    quantizers = activation_quantizers(unet)
    for quantizer in quantizers:
        quantizer.reservoir = Reservoir(OBSERVED, generator)
    device = next(unet.parameters()).device
    if quantizers:
        for rows in row_batches(len(inputs), trace.batch_size):
            unet(**inputs.rows(rows, device))
    for quantizer in quantizers:
        quantizer.range_from_reservoir(step_sizes.activation_range)
    for layer in quant_layers(unet):
        if layer.weight_grid:
            layer.find_weight_range(rounding.weight_range)
            layer.round_weight(rounding.weight_rounding)


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
