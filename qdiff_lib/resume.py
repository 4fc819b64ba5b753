"""Resuming: the recorded inputs and the finished units on disk, and the hashes that say whose they are."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .calibration import CalibrationSet
from .files import atomic_path, write_json
from .layers import quantized_state, restore_state
from .recipes import STAGES, Recipe

AFTER_UNITS = (*STAGES, "lr_network", "lr_codes")  # fields of a recipe that no unit depends on


@dataclass(frozen=True)
class UnitReport:
    """How one unit, or a stage after them all, went.

    Its name and place, the reconstruction loss at the end (of bias correction: the mean squared error of the
    drawn x_t), and the seconds it took. note: what did not work, where something did not.
    """

    name: str
    index: int
    error: float
    seconds: float
    note: str = ""


class UnitFiles:
    """The finished units of one reconstruction, a file each, so that a killed run can go on.

    folder: where the files are; ``fingerprint`` says what they belong to (model, recipe, calibration set).
    """

    def __init__(self, folder: Path, fingerprint: str, resume: bool):
        self.folder = Path(folder)
        known = self.folder / "fingerprint.json"
        if not resume:
            for old in self.folder.glob("unit-*.safetensors"):
                old.unlink()
        elif known.exists() and json.loads(known.read_text())["fingerprint"] != fingerprint:
            raise ValueError(
                f"{self.folder} holds units of another model, recipe or calibration set; resume with the "
                "same options as before, or start anew without resume"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(known, {"fingerprint": fingerprint})

    def path(self, index: int) -> Path:
        """The file of unit ``index``."""
        return self.folder / f"unit-{index:03d}.safetensors"

    def save(self, report: UnitReport, unit: nn.Module) -> None:
        """Write the unit's quantized state, atomically."""
        with atomic_path(self.path(report.index)) as temporary:
            save_file(quantized_state(unit), temporary, {"report": json.dumps(asdict(report))})

    def load(self, index: int, unit: nn.Module) -> UnitReport | None:
        """Restore the unit from its file; None when it has not been finished."""
        if not self.path(index).exists():
            return None
        restore_state(unit, load_file(self.path(index)))
        with safe_open(self.path(index), "pt") as file:
            return UnitReport(**json.loads(file.metadata()["report"]))


def fingerprint(unet: nn.Module, recipe: Recipe, inputs: CalibrationSet) -> str:
    """A hash of everything that decides the result of a reconstruction of all units."""
    settings = {name: value for name, value in recipe.to_dict().items() if name not in AFTER_UNITS}
    return digest_of(settings, [*unet.state_dict().values(), *inputs.tensors().values()])


def digest_of(settings: dict, tensors: Iterable[Tensor]) -> str:
    """A hash of JSON settings and the bytes of tensors, in order."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def kept_set(
    record: Callable[[], CalibrationSet],
    networks: list[nn.Module],
    settings: dict,
    folder: Path,
    resume: bool,
) -> CalibrationSet:
    """The calibration set that an earlier call recorded into ``folder``, or else a new one, kept there.

    networks, settings: what decides the set; their hash is in the file's name, so that the set of another
    model or request is never taken for this one.
    """
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    path = Path(folder) / f"calibration-{digest_of(settings, tensors)[:16]}.safetensors"
    if resume and path.exists():
        return CalibrationSet.load(path)
    inputs = record()
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("calibration-*.safetensors"):
        old.unlink()
    inputs.save(path)
    return inputs
