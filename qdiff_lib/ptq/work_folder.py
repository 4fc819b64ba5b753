"""The work folder of a run, from which ``quantize`` can resume: calibration set, finished units, settings.

A work folder holds

    qdiff.lock                      marks the folder as a work folder, and locks it (see ``utils.lock``)
    fingerprint.json                the settings of the run
    calibration-set.safetensors     the calibration set
    units/unit-000.safetensors      the finished units
    activations-...                 activations that do not fit into RAM; removed when a run ends or resumes

Each file is written atomically. It holds its own hash, and the hash of the run's settings. The stages after
the last unit keep nothing here: after a kill they start again from the finished units.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import nn

from ..calibration.calibration_set import CalibrationSet
from ..diffusion.class_labels import checked_labels
from ..diffusion.pipelines import with_sampler
from ..io.quantization import UnitReport
from ..modules.state import quantized_state, restore_state
from ..recipes.recipe import Recipe
from ..utils.files import read_json, remove, remove_temporaries, write_json
from ..utils.hashing import tensors_hash
from ..utils.lock import LOCK, held
from ..utils.sealed import load_sealed, save_sealed
from .activation_store import SPILL

AFTER_UNITS = ("whole_network", "bias_correction")  # parts of a recipe that do not affect units
CURE = "delete this file, and resume once more"
SHOWN = 40  # most characters of a setting in an error message


def settings_of_run(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    prompts: Sequence[str] | None = None,
    calibration: CalibrationSet | None = None,
    class_labels: Sequence[int] | None = None,
) -> dict:
    """The JSON form of everything that determines the result of ``quantize``; a hash stands for tensors.

    The arguments are those of ``quantize``. Raises ValueError for a sampler that the pipeline cannot use, and
    for class labels that are missing or that the network does not take.
    """
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    tensors = {f"{name}.{key}": v for name, part in networks.items() for key, v in part.state_dict().items()}
    settings = {"unet": settings_of(pipe.unet), "model": tensors_hash(tensors), "recipe": recipe.to_dict()}
    if calibration is None:
        settings["prompts"] = None if prompts is None else list(prompts)
        labels = checked_labels(pipe.unet, class_labels)
        settings |= {"class_labels": list(labels)} if labels else {}
        settings["scheduler"] = settings_of(with_sampler(pipe, recipe.calibration.sampler).scheduler)
    else:
        settings["calibration"] = tensors_hash(calibration.tensors(), calibration.made_by)
    return json.loads(json.dumps(settings, default=str))


def settings_of(part: object) -> dict:
    """The class name of a component of a pipeline, and its config for the arguments of that class."""
    arguments = inspect.signature(type(part).__init__).parameters
    config = {name: value for name, value in part.config.items() if name in arguments}
    return {"class": type(part).__name__, **config}


class WorkFolder:
    """The files of one run, from which a killed run can resume. Get one from ``opened``, which locks it.

    folder: the path. settings: the result of ``settings_of_run``.
    """

    def __init__(self, folder: Path, settings: dict):
        later = settings["recipe"].items()
        self.settings = settings | {"recipe": {k: v for k, v in later if k not in AFTER_UNITS}}
        self.folder, self.run = Path(folder), tensors_hash({}, self.settings)
        self.known = self.folder / "fingerprint.json"
        self.recorded = self.folder / "calibration-set.safetensors"

    def unit_path(self, index: int) -> Path:
        """The path of the file of unit ``index``."""
        return self.folder / "units" / f"unit-{index:03d}.safetensors"

    def has_results(self) -> bool:
        """Whether the folder has a calibration set or a finished unit."""
        return self.recorded.exists() or any(self.folder.glob("units/unit-*.safetensors"))

    def begin(self, resume: bool) -> None:
        """Check the folder, remove leftovers of a killed run, and write the settings.

        Raises ValueError, before anything is changed, for results of an earlier run if ``resume`` is False,
        and for the files of a run with other settings.
        """
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
        """Raise ValueError if the folder has the settings of another run, or damaged settings."""
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
        """Remove the settings of the run if the folder has no results."""
        if not self.has_results():
            self.known.unlink(missing_ok=True)

    def calibration(self, record: Callable[[], CalibrationSet]) -> CalibrationSet:
        """The calibration set in the folder; if there is none, call ``record`` and write its result first.

        The set is always read from the file, so that a resumed run gets the same tensors. Raises ValueError
        for a damaged file.
        """
        if not self.recorded.exists():
            inputs = record()
            save_sealed(self.recorded, inputs.tensors(), {"made_by": inputs.made_by, "run": self.run})
            del inputs  # frees memory before the file is read
        tensors, about = self.load(self.recorded)
        return CalibrationSet.from_tensors(tensors, about["made_by"])

    def save_unit(self, report: UnitReport, unit: nn.Module) -> None:
        """Write the file of a finished unit: its quantized state and its report."""
        about = {"report": asdict(report), "run": self.run}
        save_sealed(self.unit_path(report.index), quantized_state(unit), about)

    def load_unit(self, index: int, unit: nn.Module) -> UnitReport | None:
        """Restore ``unit`` from the file of unit ``index``; returns its report, or None without a file.

        Raises ValueError for a damaged file, and for one of another run or another unit.
        """
        path = self.unit_path(index)
        if not path.exists():
            return None
        tensors, about = self.load(path)
        if about["report"]["index"] != index:
            raise ValueError(f"{path} is of unit {about['report']['index']}, not of unit {index}: {CURE}")
        restore_state(unit, tensors)
        return UnitReport(**about["report"])

    def load(self, path: Path) -> tuple[dict, dict]:
        """(tensors, metadata) of a file of this run.

        Raises ValueError for a damaged file, and for one of another run.
        """
        tensors, about = load_sealed(path, CURE)
        if about.get("run") != self.run:
            raise ValueError(f"{path} is of another model or other options: {CURE}")
        return tensors, about


@contextmanager
def opened(folder: str | Path, settings: dict, resume: bool) -> Iterator[WorkFolder]:
    """Open the work folder of a run, locked against other processes, as a context manager.

    settings: the result of ``settings_of_run``. Raises ValueError for a folder that is in use, that
    ``quantize`` did not make, or that has files of another run. Without ``resume``, raises ValueError also
    for a folder with results of this run.
    """
    with held(folder):
        work = WorkFolder(folder, settings)
        work.begin(resume)
        try:
            yield work
        finally:
            work.end()


def differences(there: object, here: object, name: str = "") -> list[str]:
    """The differences of two JSON values, as texts such as "recipe.seed: 0 there, 1 here".

    name: the path of the values, for the texts.
    """
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
    """Remove temporary files and cached activations that killed processes left."""
    remove_temporaries(folder)
    for spilled in Path(folder).glob(f"{SPILL}*"):
        remove(spilled)


def clear_work(folder: Path) -> None:
    """Remove all files from a locked work folder except ``qdiff.lock``, which ``held`` removes at its end."""
    for path in sorted(Path(folder).iterdir()):
        if path.name != LOCK:
            remove(path)
