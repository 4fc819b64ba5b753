"""What the benchmarks share: the model, its inputs, and where and when something was measured."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from qdiff_lib import load
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.io.shipped_data import embedded_names
from qdiff_lib.utils.provenance import commit, processor

ROOT = Path(__file__).resolve().parents[1]
MODEL = "ddpm-fashion"


def model() -> DDPMPipeline:
    """The embedded DDPM, or where its weights are missing the same UNet with random ones."""
    if MODEL in embedded_names():
        return load(MODEL)
    sys.path.append(str(ROOT / "training"))
    from train_ddpm import CONFIG

    torch.manual_seed(0)
    pipe = DDPMPipeline(unet=UNet2DModel(**CONFIG), scheduler=DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_inputs(unet: torch.nn.Module, samples: int) -> CalibrationSet:
    """Noise at random time steps: what a calibration costs does not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    config = unet.config
    shape = (samples, config.in_channels, config.sample_size, config.sample_size)
    step = torch.randint(1000, (samples,), generator=generator)
    return CalibrationSet(
        {"sample": torch.randn(shape, generator=generator), "timestep": step}, step, {"rule": "random"}
    )


def provenance() -> dict:
    """The machine, the versions, the date and the command of a measurement."""
    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return {
        "cpu": processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "logical_cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "weights": MODEL if MODEL in embedded_names() else "random",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "command": f"python {shlex.join([str(script), *sys.argv[1:]])}",
    }
