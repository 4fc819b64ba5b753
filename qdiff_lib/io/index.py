"""``model_index.json``: which classes a pipeline's folder names, none of which is code of the folder.

Only components of diffusers and transformers are allowed, and this library's own network. Everything else is
refused before diffusers reads the folder. So a folder cannot name a module to import.
"""

import importlib
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

from ..utils.files import read_json

INDEX = "model_index.json"
COPY = "copy the whole pipeline, as save_pretrained writes it"
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")  # files that an interpreter can run
ENTRANCES = ("auto_map", "trust_remote_code", "custom_pipeline")  # entries that name code to run
OWN = ("qdiff_lib.graph.fixed_heads", "FixedHeadsUNet2DModel")
SAFETY_CHECKER = ("stable_diffusion", "StableDiffusionSafetyChecker")  # a module of diffusers' pipelines
RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}  # classes of transformers that diffusers renames
LIBRARIES = {
    "diffusers": ("ModelMixin", "SchedulerMixin"),
    "transformers": (
        "PreTrainedModel",
        "PreTrainedTokenizerBase",
        "FeatureExtractionMixin",
        "ImageProcessingMixin",
        "ProcessorMixin",
    ),
}
"""The libraries whose classes a folder may name, and the base classes of their components."""

ROLES = {
    "unet": ("ModelMixin",),
    "vae": ("ModelMixin",),
    "vqvae": ("ModelMixin",),
    "scheduler": ("SchedulerMixin",),
    "text_encoder": ("PreTrainedModel",),
    "tokenizer": ("PreTrainedTokenizerBase",),
}
"""What the component of a name must be. Other components may be of any allowed class."""


def read_index(folder: Path) -> dict[str, type]:
    """Return the class of each component that the folder's ``model_index.json`` names.

    Nothing is imported but diffusers and transformers.

    Raises:
        ValueError: there is no such file; the pipeline is no class of diffusers; a component is of another
            library, of another form, or no component; a needed one is missing; transformers is not installed.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(
            f"name_or_path={str(folder)!r} has no {INDEX}: give a folder that save_pretrained of a "
            "diffusers pipeline or save_quantized wrote"
        )
    entries = read_config(path)
    takes = parameters(pipeline_class(path, entries.get("_class_name")))
    parts = {name: value for name, value in entries.items() if not name.startswith("_")}
    parts = {name: value for name, value in parts.items() if is_component(path, name, value, takes)}
    kinds = {name: component_class(path, name, *value) for name, value in parts.items()}
    for name, needed in takes.items():
        if needed and name not in kinds:
            raise ValueError(f"{path} lacks the entry {name!r}, which its pipeline needs: {COPY}")
    return kinds


def read_config(path: Path) -> dict:
    """Return the JSON object of a config file. Raises ValueError as ``read_json``, or if it names code."""
    config = read_json(path)
    refuse_entrances(path, config)
    return config


def refuse_entrances(path: Path, value: object) -> None:
    """Raise ValueError if a JSON value has, at any depth, an entry that names code to run."""
    if isinstance(value, dict):
        for name in ENTRANCES:
            if name in value:
                raise ValueError(
                    f"{path} has the entry {name}={value[name]!r:.60}, which names code to run: remove it "
                    "and use classes of diffusers and transformers"
                )
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_entrances(path, each)


def refuse_code(folder: Path) -> None:
    """Raise ValueError if a folder or a component has a file of code, or one that is no ordinary file."""
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.suffix.lower() in CODE:
            raise ValueError(f"{path} is code, which a model does not need: read it, and remove it to load")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{path} is no ordinary file: remove it")


def pipeline_class(path: Path, name: object) -> type:
    """Return diffusers' pipeline class of a name. Raises ValueError if there is none."""
    import diffusers

    kind = member(diffusers, name)
    if not is_subclass(kind, (diffusers.DiffusionPipeline,)):
        raise ValueError(
            f"name_or_path={str(path.parent)!r}: {path.name} has _class_name={name!r:.80}, which is no class "
            f"of diffusers {diffusers.__version__} that draws: give a pipeline of diffusers' own, or upgrade "
            "diffusers"
        )
    return kind


def member(library: object, name: object) -> object:
    """Return an attribute of a library; None if there is none or what it needs is not installed."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        return None
    try:
        return getattr(library, name, None)
    except (ImportError, RuntimeError):  # what diffusers and transformers raise for missing backends
        return None


def is_subclass(kind: object, bases: tuple[type, ...]) -> bool:
    """Return whether ``kind`` is a class below one of ``bases``, and none of them itself."""
    return isinstance(kind, type) and issubclass(kind, bases) and kind not in bases


def parameters(pipeline: type) -> dict[str, bool]:
    """Return the components that a pipeline takes, and for each whether it needs it."""
    taken = list(inspect.signature(pipeline.__init__).parameters.values())[1:]
    optional = set(getattr(pipeline, "_optional_components", ()))
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = [each for each in taken if each.kind not in kinds]
    return {each.name: each.default is each.empty and each.name not in optional for each in named}


def is_component(path: Path, name: str, value: object, takes: dict[str, bool]) -> bool:
    """Return whether an entry is a component that is there. Raises ValueError for another form."""
    needed = takes.get(name, False)
    if not isinstance(value, list) and not needed and name not in ROLES:
        return False  # a setting of the pipeline
    if value == [None, None] and not needed:
        return False
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)
    if not pair or name not in takes:
        raise ValueError(
            f"{path} has {name!r:.80}: {value!r:.80}, and its pipeline takes {', '.join(takes)}, each as "
            f'["library", "Class"]: {COPY}'
        )
    return True


def component_class(path: Path, name: str, library: str, kind: str) -> type:
    """Return the class of an entry of ``model_index.json``. Raises ValueError unless it is a component."""
    if (library, kind) == OWN and name == "unet":
        return importlib.import_module(library).FixedHeadsUNet2DModel
    source = "transformers" if (library, kind) == SAFETY_CHECKER else library
    if source not in LIBRARIES:
        raise ValueError(
            f"{path} names a {kind} of {library!r:.80} as its {name}: only classes of "
            f"{' and '.join(LIBRARIES)} are loaded, so that no code of a model folder runs"
        )
    if source == "transformers" and find_spec("transformers") is None:
        raise ValueError(
            f"name_or_path={str(path.parent)!r}: its {name} needs transformers, which is not installed: "
            "run `python -m pip install transformers`"
        )
    home = importlib.import_module("diffusers.pipelines.stable_diffusion" if source != library else library)
    found = member(home, RENAMED.get(kind, kind))
    bases = [base for base in LIBRARIES[source] if base in ROLES.get(name, LIBRARIES[source])]
    if not is_subclass(found, tuple(getattr(importlib.import_module(source), base) for base in bases)):
        allowed = " or ".join(ROLES.get(name, LIBRARIES[source]))
        raise ValueError(
            f"{path} names a {kind!r:.80} of {library} as its {name}, which is no {allowed} of the installed "
            f"version: {COPY}, or upgrade {library}"
        )
    return found


def reason(error: Exception) -> str:
    """Return an error of another library in one line of at most 200 characters."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
