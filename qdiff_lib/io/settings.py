"""Settings of a network or sampler from a config file: their types, their limits, and whether they work.

A network is built without memory, on the "meta" device, and run once at the size that its config states. So a
size that it cannot draw is refused when it is loaded.
"""

import inspect
import itertools
import json
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType

import torch
from diffusers import SchedulerMixin
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from ..diffusion.capabilities import check_unet
from ..graph.model_inputs import example_inputs
from .index import reason

LIMITS = {
    "sample_size": (1, 2048),
    "in_channels": (1, 2**16),
    "out_channels": (1, 2**16),
    "block_out_channels": (1, 2**16),
    "layers_per_block": (0, 100),
    "transformer_layers_per_block": (0, 100),
    "reverse_transformer_layers_per_block": (0, 100),
    "num_layers": (0, 1000),
    "num_hidden_layers": (0, 1000),
    "max_position_embeddings": (1, 10**6),
    "vocab_size": (1, 10**7),
    "num_labels": (0, 10**4),
    "layer_norm_eps": (1e-30, 1),
    "norm_num_groups": (1, 2**16),
    "norm_eps": (1e-30, 1),
    "freq_shift": (0, 1),
    "mid_block_scale_factor": (1e-3, 1e3),
    "resnet_out_scale_factor": (1e-3, 1e3),
    "scaling_factor": (1e-6, 1e6),
    "num_train_timesteps": (1, 10**5),
    "beta_start": (0, 1),
    "beta_end": (0, 1),
    "steps_offset": (0, 10**5),
    "clip_sample_range": (1e-6, 1e6),
    "sample_max_value": (1e-6, 1e6),
    "dynamic_thresholding_ratio": (0, 1),
    "solver_order": (1, 3),
    "flow_shift": (1e-6, 1e6),
}
"""The lowest and highest value of a setting. Beyond them a network has no end or draws no numbers."""

KNOWN_DECODERS = ("AutoencoderKL", "VQModel")
KNOWN_SAMPLERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler")
MOST_MODULES = 10_000  # of a network: five times as many as the UNet of SDXL has
LONGEST = 64  # entries of a list of settings: a network has one for each of its levels
FORMS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}
FORMS |= {list: "a list", tuple: "a list", NoneType: "null"}
AGAIN = "write the setting that the network was trained with, or copy the file again"


def forms(annotation: object) -> set[str]:
    """Return the forms that a JSON value of an annotated type has; empty if the annotation does not say."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        parts = [forms(each) for each in typing.get_args(annotation)]
        return set().union(*parts) if all(parts) else set()
    if origin is typing.Literal:
        return {FORMS[type(each)] for each in typing.get_args(annotation)}
    if getattr(annotation, "__name__", "") == "ndarray":
        return {"a list"}
    if annotation is float:
        return {FORMS[int], FORMS[float]}
    return {FORMS[each] for each in (origin or annotation,) if each in FORMS}


def numbers(value: object) -> Iterator[float]:
    """Yield the numbers in a JSON value, at any depth."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    for each in value if isinstance(value, list | tuple) else ():
        yield from numbers(each)


def check_settings(kind: type, config: dict, path: Path) -> None:
    """Check the settings of a config against the parameters of the class that takes them.

    Raises:
        ValueError: a value has another type than its parameter, is not finite, or is beyond its limits. The
            message names the file, the setting and the value.
    """
    hints = typing.get_type_hints(kind.__init__)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name not in config or parameter.kind is parameter.VAR_KEYWORD:
            continue
        value, default = config[name], parameter.default
        allowed = forms(hints[name]) if name in hints else set()
        if allowed and default is not parameter.empty:
            allowed.add(FORMS.get(type(default), "null"))
        if allowed and FORMS.get(type(value)) not in allowed:
            raise ValueError(f"{path} has {name}={value!r:.60}, not {' or '.join(sorted(allowed))}: {AGAIN}")
        if value != default:
            check_limits(name, value, path)


def check_limits(name: str, value: object, path: Path) -> None:
    """Raise ValueError for a number that is not finite or beyond ``LIMITS``, and for a long list."""
    low, high = LIMITS.get(name, (-(2**53), 2**53))
    for number in numbers(value):
        if not low <= number <= high:  # also for NaN
            raise ValueError(f"{path} has {name}={value!r:.60}, which must be from {low} to {high}: {AGAIN}")
    if isinstance(value, list | tuple) and name != "trained_betas" and len(value) > LONGEST:
        raise ValueError(f"{path} has {name} of {len(value)} entries, more than {LONGEST}: {AGAIN}")


def check_class(kind: type, config: dict, path: Path) -> None:
    """Raise ValueError if a network's config states another class than the one that is to be built."""
    stated = config.get("_class_name", kind.__name__)
    if stated != kind.__name__:
        raise ValueError(
            f"{path} has _class_name={stated!r:.60}, and a {kind.__name__} is to be loaded from it: use the "
            "config.json of that network"
        )


def check_network(kind: type, config: dict, path: Path) -> int:
    """Check that a network of diffusers can be built from its config, and that it can run.

    A UNet runs at the size that its config states, and a decoder on a small latent. Returns the number of
    the network's parameters.

    Raises:
        ValueError: it cannot. The message names the file and the setting or the reason.
    """
    check_class(kind, config, path)
    check_settings(kind, config, path)
    names = [*inspect.signature(kind.__init__).parameters, "_heads"]
    stated = json.dumps({name: config[name] for name in names if name in config}, sort_keys=True)
    fault, numbers = examined(kind, stated)
    if fault:
        raise ValueError(f"{path}{fault}: {AGAIN}")
    return numbers


@contextmanager
def without_memory() -> Iterator[None]:
    """Within the block, networks are built on the "meta" device, and not beyond ``MOST_MODULES``.

    Each setting may be within its limits, and their product a network that is built for hours.

    Raises:
        ValueError: the network would have more modules.
    """
    numbers = itertools.count(1)

    def count(*_) -> None:
        if next(numbers) > MOST_MODULES:
            raise ValueError(f"it would have more than {MOST_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()


@lru_cache(maxsize=64)
def examined(kind: type, settings: str) -> tuple[str, int]:
    """Return why a network cannot be built or run ("" if it can), and the number of its parameters.

    It takes no memory. settings: its config as JSON text.
    """
    try:
        with without_memory():
            network = kind.from_config(json.loads(settings)).eval()
    except Exception as error:
        return f": no {kind.__name__} has these settings ({reason(error)})", 0
    numbers = sum(value.numel() for value in network.parameters())
    if kind.__name__ in KNOWN_DECODERS:
        return decoder_fault(network), numbers
    try:
        check_unet(network)
    except ValueError:  # another network, or one with inputs that are not known here
        return "", numbers
    return run_fault(network), numbers


@torch.no_grad()
def decoder_fault(network: nn.Module) -> str:
    """Return why a decoder on the "meta" device cannot decode a latent of 8 x 8; "" if it can."""
    try:
        network.decode(torch.zeros(1, network.config.latent_channels, 8, 8, device="meta"))
    except Exception as error:
        return f": no {type(network).__name__} can decode with these settings ({reason(error)})"
    return ""


@torch.no_grad()
def run_fault(network: nn.Module) -> str:
    """Return why a UNet on the "meta" device cannot run at its config's ``sample_size``; "" if it can."""
    size = network.config.sample_size
    if not isinstance(size, int) and not (isinstance(size, list | tuple) and len(size) == 2):
        return f" has sample_size={size!r:.60}, neither a number of pixels nor two"
    try:
        inputs = example_inputs(network, device="meta")
        shape, drawn = inputs["sample"].shape, network(**inputs).sample.shape
        if drawn[2:] == shape[2:]:
            return ""
        problem = f"it would give {tuple(drawn[2:])} pixels"
    except Exception as error:
        problem = reason(error)
    multiple = 2 ** (len(network.config.block_out_channels) - 1)
    return (
        f" has sample_size={size!r}, at which this network cannot run ({problem}); with its levels a "
        f"multiple of {multiple} fits"
    )


def check_sampler(kind: type, config: dict, path: Path) -> None:
    """Check that a sampler can be built from its config, and that its noise levels are numbers.

    Raises:
        ValueError: it cannot, or they are not. The message names the file.
    """
    check_settings(kind, config, path)
    try:
        sampler = kind.from_config(config)
    except Exception as error:
        text = f"{path}: no {kind.__name__} has these settings ({reason(error)}): {AGAIN}"
        raise ValueError(text) from error
    fault = noise_fault(sampler) or (step_fault(sampler) if kind.__name__ in KNOWN_SAMPLERS else "")
    if fault:
        raise ValueError(f"{path}: {fault}: {AGAIN}")


def noise_fault(sampler: object) -> str:
    """Return what is wrong with the noise levels that the settings of a sampler give; "" if nothing is."""
    times = sampler.config.get("num_train_timesteps")
    for name, low in (("betas", 0), ("alphas_cumprod", -1)):
        values = getattr(sampler, name, None)
        if not isinstance(values, torch.Tensor):
            continue
        if len(values) != times:
            return f"num_train_timesteps={times!r}, and there are {len(values)} {name} of trained_betas"
        wrong = values[~((values > low) & (values <= 1))]
        if len(wrong):
            return f"its beta_start, beta_end or trained_betas give {name} of {wrong[0]:g}, not from 0 to 1"
    return ""


def step_fault(sampler: SchedulerMixin) -> str:
    """Return why a sampler cannot draw: it fails, or its result is not finite; "" if it can."""
    x = torch.ones(1, 1, 2, 2)
    learned = str(sampler.config.get("variance_type")).startswith(
        "learned"
    )  # then networks give twice as much
    try:
        sampler.set_timesteps(min(10, max(1, sampler.config.num_train_timesteps // 4)))
        for t in sampler.timesteps:
            noise = torch.cat([x, x], 1) if learned else x
            x = sampler.step(noise / 2, t, x).prev_sample
    except Exception as error:
        return f"its settings do not fit each other ({reason(error)})"
    return "" if torch.isfinite(x).all() else "its settings give samples that are not finite"
