"""Calibration sets: inputs of the noise network as tensors, and the file that holds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..graph.model_inputs import nested_inputs
from ..utils.sealed import load_sealed, save_sealed


@dataclass(frozen=True)
class Shared:
    """One input of the network for N rows, of which only K differ; each different row is stored once.

    An example is the embedding of a prompt, which is the same at every denoising step.

    values: (K, ...). index: (N,); row i is ``values[index[i]]``.
    """

    values: Tensor
    index: Tensor

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.values[self.index[index]]


@dataclass(frozen=True)
class CalibrationSet:
    """N calibration inputs of the noise network (Q-Diffusion, section 3.3.1).

    inputs: columns, by argument name: ``sample`` (N, C, H, W), ``timestep`` (N,), and for text-guided models
    ``encoder_hidden_states`` (N, tokens, width). Networks with more conditions have more columns:
    ``class_labels`` (N,), ``timestep_cond`` (N, D) for LCM, and for SDXL ``added_cond_kwargs.text_embeds``
    (N, D) and ``added_cond_kwargs.time_ids`` (N, 6). step: the denoising step of each input, (N,), counted
    from 0, the noisy end. made_by: how the set was made, for the record: rule, seed, counts, prompts.
    """

    inputs: dict[str, Tensor | Shared]
    step: Tensor
    made_by: dict

    def __len__(self) -> int:
        return len(self.step)

    def rows(self, index, device: str | torch.device = "cpu") -> dict[str, Any]:
        """The network's keyword arguments for one batch; ``index``: a slice or a tensor of row numbers.

        Columns with a name such as ``a.b`` come as a dict ``b`` of tensors under ``a``.
        """
        return nested_inputs(self.columns(index, device))

    def columns(self, index, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """One batch of every column, by the name of the column; ``index`` as in ``rows``."""
        return {name: value[index].to(device) for name, value in self.inputs.items()}

    def part(self, rows: Tensor) -> "CalibrationSet":
        """The set with these rows only."""
        inputs = {
            name: Shared(value.values, value.index[rows]) if isinstance(value, Shared) else value[rows]
            for name, value in self.inputs.items()
        }
        return CalibrationSet(inputs, self.step[rows], self.made_by)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the set, by name. A ``Shared`` gives two: ``name.values`` and ``name.index``."""
        held = {"__step__": self.step}
        for name, value in self.inputs.items():
            parts = {"values": value.values, "index": value.index} if isinstance(value, Shared) else {}
            held |= {f"{name}.{part}": tensor for part, tensor in parts.items()} or {name: value}
        return held

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], made_by: dict) -> "CalibrationSet":
        """The set from its ``tensors()``; the inverse of that method."""
        tensors = dict(tensors)
        step = tensors.pop("__step__")
        shared = [name.removesuffix(".values") for name in tensors if name.endswith(".values")]
        inputs = {k: Shared(tensors.pop(f"{k}.values"), tensors.pop(f"{k}.index")) for k in shared}
        return cls({**tensors, **inputs}, step, made_by)

    def save(self, path: Path) -> None:
        """Write the set to one safetensors file, atomically."""
        save_sealed(path, self.tensors(), {"made_by": self.made_by})

    @classmethod
    def load(cls, path: Path) -> "CalibrationSet":
        """Read a file that ``save`` wrote. Raises FileNotFoundError, and ValueError for a damaged file."""
        tensors, about = load_sealed(path)
        return cls.from_tensors(tensors, about["made_by"])
