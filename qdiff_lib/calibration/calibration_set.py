"""Calibration sets: inputs of the noise network, kept as tensors, and saved to one file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..utils.sealed import load_sealed, save_sealed


@dataclass(frozen=True)
class Shared:
    """A column whose rows repeat, each stored once, as a prompt's embedding is the same at every step.

    values: (K, ...). index: (N,); row i is ``values[index[i]]``.
    """

    values: Tensor
    index: Tensor

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.values[self.index[index]]


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of the noise network.

    inputs: by argument name, each with N rows: ``sample`` (N, C, H, W), ``timestep`` (N,), and for
    text-guided models ``encoder_hidden_states`` (N, tokens, width). step: the sampler's step of each, (N,).
    made_by: rule, seed and counts, and the prompts, for the record.
    """

    inputs: dict[str, Tensor | Shared]
    step: Tensor
    made_by: dict

    def __len__(self) -> int:
        return len(self.step)

    def rows(self, index, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The keyword arguments of one batch: ``index`` is a slice or a tensor of row numbers."""
        return {name: value[index].to(device) for name, value in self.inputs.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that the set holds, by name; the two parts of a shared column apart."""
        held = {"__step__": self.step}
        for name, value in self.inputs.items():
            parts = {"values": value.values, "index": value.index} if isinstance(value, Shared) else {}
            held |= {f"{name}.{part}": tensor for part, tensor in parts.items()} or {name: value}
        return held

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], made_by: dict) -> "CalibrationSet":
        """The set whose ``tensors()`` these are."""
        tensors = dict(tensors)
        step = tensors.pop("__step__")
        shared = [name.removesuffix(".values") for name in tensors if name.endswith(".values")]
        inputs = {k: Shared(tensors.pop(f"{k}.values"), tensors.pop(f"{k}.index")) for k in shared}
        return cls({**tensors, **inputs}, step, made_by)

    def save(self, path: Path) -> None:
        """Write to one safetensors file, atomically."""
        save_sealed(path, self.tensors(), {"made_by": self.made_by})

    @classmethod
    def load(cls, path: Path) -> "CalibrationSet":
        """Read what ``save`` wrote. Raises FileNotFoundError, and ValueError for a damaged file."""
        tensors, about = load_sealed(path)
        return cls.from_tensors(tensors, about["made_by"])
