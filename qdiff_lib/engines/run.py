"""Choosing an engine, and a pipeline whose network that engine runs."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ..diffusion.pipelines import with_components
from ..graph.model_inputs import flat_inputs
from ..graph.sharing import copy_sharing_tensors
from ..utils.constants import ENGINES


class EngineForward:
    """The forward pass of a UNet, computed by an engine.

    Args:
        unet: the network whose forward pass it is.
        engine: it takes tensors by name, in the flat form of ``graph.model_inputs``, each with B rows, and
            returns the predicted noise (B, C, H, W).
    """

    def __init__(self, unet: nn.Module, engine: Callable[[Mapping[str, Tensor]], Tensor]):
        self.engine, self.type = engine, unet.dtype

    def __deepcopy__(self, memo: dict) -> "EngineForward":
        return self

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Return the predicted noise, as the UNet's own forward pass does.

        Raises:
            ValueError: an argument is given that engines do not take.
        """
        taken = {name: others.pop(name, None) for name in ("timestep_cond", "added_cond_kwargs")}
        if unknown := [name for name, value in others.items() if value is not None]:
            raise ValueError(f"{unknown[0]}: no engine takes it; use engine='simulated'")
        time = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))
        given = {"sample": sample, "timestep": time, "encoder_hidden_states": encoder_hidden_states}
        given |= {"class_labels": class_labels, **taken}
        inputs = flat_inputs({name: value for name, value in given.items() if value is not None})
        wide = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        noise = self.engine(wide).to(sample.dtype)
        return UNet2DOutput(sample=noise) if return_dict else (noise,)


def is_on_engine(unet: nn.Module) -> bool:
    """Return whether an engine computes the network's forward pass."""
    return isinstance(vars(unet).get("forward"), EngineForward)


def run_on(pipe: DiffusionPipeline, engine: str = "openvino", **settings) -> DiffusionPipeline:
    """Return a pipeline of the same class whose UNet is computed by an engine. ``pipe`` does not change.

    Every scheduler, and ``sample`` and ``score``, work with it as with ``pipe``. The images differ a little
    where a value lies between two codes: see the page on engines.

    Args:
        engine: "simulated" (floating point that rounds as integers do), "reference" (whole numbers
            without rounding, slow), "openvino" (int8 on CPUs), or "triton" (int8 on NVIDIA GPUs).
        settings: arguments of the engine, such as ``precision="bf16"`` for "openvino".

    Raises:
        ValueError: the engine is unknown or not installed, or cannot run on the device of ``pipe``.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown; use one of {ENGINES}")
    if missing := why_missing(engine):
        raise ValueError(f"engine={engine!r} {missing}")
    unet = copy_sharing_tensors(pipe.unet)
    if is_on_engine(unet):
        del unet.forward
    if engine == "reference":
        from .reference import reference_network

        unet = reference_network(unet)
    if engine == "triton":
        from .triton_engine import triton_network

        unet = triton_network(unet, **settings)
    if engine == "openvino":
        from .openvino_engine import OpenVINONetwork

        unet.forward = EngineForward(unet, OpenVINONetwork(copy_sharing_tensors(unet), **settings))
    return with_components(pipe, unet=unet)


def why_missing(engine: str) -> str:
    """Return why an engine cannot be used here and what to do about it, or "" if it can be used."""
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:
        return "is not installed: run python -m pip install openvino"
    if engine == "openvino" and (limit := lowered_instructions()):
        return f"needs AVX2 instructions, and {limit}: use engine='simulated'"
    if engine == "triton":
        if importlib.util.find_spec("triton") is None:
            return "is not installed: it comes with PyTorch for CUDA, on Linux"
        if not torch.cuda.is_available():
            return "needs an NVIDIA GPU, and torch finds none: use engine='openvino'"
    return ""


def lowered_instructions() -> str:
    """Return why OpenVINO cannot use AVX2 instructions on an x86 processor, or "" if it can."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in ("SSE41", "AVX"):
        return f"the environment variable ONEDNN_MAX_CPU_ISA={limit} forbids them"
    if torch.cpu.get_capabilities().get("avx2") is False:
        return "this processor has none"
    return ""


def fastest_engine(pipe: DiffusionPipeline) -> str:
    """Return the name of the fastest engine that can run a pipeline where it is.

    On a GPU that is "simulated": "triton" has not been shown to be faster there. See the page on engines.
    """
    return "simulated" if pipe.unet.device.type != "cpu" or why_missing("openvino") else "openvino"
