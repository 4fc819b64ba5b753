"""Resuming: the recorded inputs and the finished units on disk, and what says whose they are.

A work folder holds

    qdiff.lock                      the mark of such a folder, and its lock (see ``lock``)
    fingerprint.json                the settings of the run
    calibration-set.safetensors     the recorded inputs
    units/unit-000.safetensors      the finished units
    activations-...                 what does not fit into memory, removed when a run ends or goes on

Each file is written atomically, holds its own hash and that of the run's settings. The stages after the last
unit leave nothing here: after a kill they are done again, from the units.
"""

import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import nn

from ..calibration.calibration_set import CalibrationSet
from ..diffusion.pipelines import with_sampler
from ..io.quantization import UnitReport
from ..modules.state import quantized_state, restore_state
from ..recipes.recipe import Recipe
from ..utils.files import read_json, remove_temporaries, write_json
from ..utils.hashing import tensors_hash
from ..utils.lock import LOCK, held
from ..utils.sealed import load_sealed, save_sealed
from .activation_store import SPILL

AFTER_UNITS = ("whole_network", "bias_correction")  # parts of a recipe that no unit depends on
CURE = "delete this file, and resume once more"
SHOWN = 40  # characters of a setting in an error


def settings_of_run(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    prompts: Sequence[str] | None = None,
    calibration: CalibrationSet | None = None,
) -> dict:
    """A JSON form of all that decides the result of ``quantize``: tensors as their hash, all else in words.

    Raises ValueError for a sampler that the pipeline cannot drive.
    """
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    tensors = {f"{name}.{key}": v for name, part in networks.items() for key, v in part.state_dict().items()}
    settings = {"unet": settings_of(pipe.unet), "model": tensors_hash(tensors), "recipe": recipe.to_dict()}
    if calibration is None:
        settings["prompts"] = None if prompts is None else list(prompts)
        settings["scheduler"] = settings_of(with_sampler(pipe, recipe.calibration.sampler).scheduler)
    else:
        settings["calibration"] = tensors_hash(calibration.tensors(), calibration.made_by)
    return json.loads(json.dumps(settings, default=str))


def settings_of(part: object) -> dict:
    """The class of a part of a pipeline, and what its config says of the arguments of that class."""
    arguments = inspect.signature(type(part).__init__).parameters
    config = {name: value for name, value in part.config.items() if name in arguments}
    return {"class": type(part).__name__, **config}


class WorkFolder:
    """The files of one run, so that it can go on after a kill; use it within ``opened``.

    folder: where they are. settings: of ``settings_of_run``.
    """

    def __init__(self, folder: Path, settings: dict):
        later = settings["recipe"].items()
        self.settings = settings | {"recipe": {k: v for k, v in later if k not in AFTER_UNITS}}
        self.folder, self.run = Path(folder), tensors_hash({}, self.settings)
        self.known = self.folder / "fingerprint.json"
        self.recorded = self.folder / "calibration-set.safetensors"

    def unit_path(self, index: int) -> Path:
        """The file of unit ``index``."""
        return self.folder / "units" / f"unit-{index:03d}.safetensors"

    def has_results(self) -> bool:
        """Whether there is something to go on from."""
        return self.recorded.exists() or any(self.folder.glob("units/unit-*.safetensors"))

    def begin(self, resume: bool) -> None:
        """Refuse what another run left, before anything is changed; clear what a killed one left."""
        if not resume and self.has_results():
            raise ValueError(
                f"work={str(self.folder)!r} holds recorded inputs or finished units of an earlier run: go on "
                "from them with resume=True (in a command: --resume), or delete it, or name another one"
            )
        if resume and self.known.exists():
            self.check_same_run()
        clear_leftovers(self.folder)
        write_json(self.known, {"settings": self.settings, "sha256": self.run})

    def check_same_run(self) -> None:
        """Raise ValueError where the folder is that of a run with other settings, or does not say so."""
        known = read_json(self.known, CURE)
        there = known.get("settings")
        if known.get("sha256") != tensors_hash({}, there):
            raise ValueError(f"{self.known} is damaged (its sha256 is not the recorded one): {CURE}")
        if there != self.settings:
            changed = "; ".join(differences(there, self.settings))
            raise ValueError(
                f"work={str(self.folder)!r} is of another model or other options ({changed}): resume with "
                "those of that run, or name another folder"
            )

    def end(self) -> None:
        """Take the run's mark away where it left nothing to go on from."""
        if not self.has_results():
            self.known.unlink(missing_ok=True)

    def calibration(self, record: Callable[[], CalibrationSet]) -> CalibrationSet:
        """The set that was recorded into the folder; a new one is read back too, to be the same."""
        if not self.recorded.exists():
            inputs = record()
            save_sealed(self.recorded, inputs.tensors(), {"made_by": inputs.made_by, "run": self.run})
            del inputs  # room for the other
        tensors, about = self.load(self.recorded)
        return CalibrationSet.from_tensors(tensors, about["made_by"])

    def save_unit(self, report: UnitReport, unit: nn.Module) -> None:
        """Write the unit's quantized state."""
        about = {"report": asdict(report), "run": self.run}
        save_sealed(self.unit_path(report.index), quantized_state(unit), about)

    def load_unit(self, index: int, unit: nn.Module) -> UnitReport | None:
        """Restore the unit from its file; None when it has not been finished."""
        if not self.unit_path(index).exists():
            return None
        tensors, about = self.load(self.unit_path(index))
        restore_state(unit, tensors)
        return UnitReport(**about["report"])

    def load(self, path: Path) -> tuple[dict, dict]:
        """A file of this run. Raises ValueError for a damaged one, and for that of another run."""
        tensors, about = load_sealed(path, CURE)
        if about.get("run") != self.run:
            raise ValueError(f"{path} is of another model or other options: {CURE}")
        return tensors, about


@contextmanager
def opened(folder: str | Path, settings: dict, resume: bool) -> Iterator[WorkFolder]:
    """The work folder of a run, held against other processes.

    Raises ValueError for a folder that is in use, that ``quantize`` did not make, or that holds the files of
    another run; without ``resume`` also for one with files of this run.
    """
    with held(folder):
        work = WorkFolder(folder, settings)
        work.begin(resume)
        try:
            yield work
        finally:
            work.end()


def differences(there: object, here: object, name: str = "") -> list[str]:
    """What two JSON values differ in, as texts such as "recipe.seed: 0 there, 1 here"."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        shown = [
            text if len(text) <= SHOWN else text[:SHOWN] + "..." for text in map(json.dumps, (there, here))
        ]
        return [f"{name}: {shown[0]} there, {shown[1]} here"]
    found = []
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            found += differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    return found


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and the cached activations of killed processes."""
    remove_temporaries(folder)
    for spilled in Path(folder).glob(f"{SPILL}*"):
        shutil.rmtree(spilled)


def clear_work(folder: Path) -> None:
    """Empty a held work folder whose run is over; the mark goes last, as ``held`` ends."""
    for path in sorted(Path(folder).iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
