"""Quantized networks as ordinary diffusers models, for ``from_pretrained`` and ``save_pretrained``.

After ``import qdiff_lib`` diffusers knows the quantization method "qdiff". The ``config.json`` of a quantized
network has an entry ``quantization_config``: the structure (see ``io.structure``), the recipe, and how the
calibration set was made. The safetensors file holds the integers under the layers' names (see
``modules.quant_layer``). Its metadata has a SHA-256 of all tensors and of ``quantization_config``, so that a
wrong pair of files is noticed.
"""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from safetensors import safe_open
from torch import Tensor, nn

from ..recipes.recipe import Recipe
from ..utils.files import DEEPEST_JSON, is_shallow

if TYPE_CHECKING:  # diffusers imports this module, so this module cannot import what needs diffusers
    from .quantization import Quantization

METHOD = "qdiff"
FORMAT = 2


class Method(str):
    """The name of a quantization method, with the attribute ``value`` that diffusers reads."""

    @property
    def value(self) -> str:
        """The name."""
        return str(self)


class QDiffConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of a quantized network's ``config.json``.

    structure: see ``io.structure``. recipe: the JSON form of a ``Recipe``. calibration: how the calibration
    set was made. format: the version of this form.

    Raises ValueError for another format, unknown entries, or a damaged recipe.
    """

    def __init__(self, /, structure: dict, recipe: dict, calibration: dict, format: int = FORMAT, **unknown):
        if type(format) is not int or format != FORMAT or unknown:
            extra = f" and entries {sorted(unknown)[:3]}" if unknown else ""
            raise ValueError(
                f"config.json: quantization_config has format {format!r:.60}{extra}; this version has "
                f"{FORMAT}: quantize again, or install the version that wrote it"
            )
        form = {"structure": structure, "recipe": recipe, "calibration": calibration}
        for name, value in form.items():
            if not isinstance(value, dict) or not is_shallow(value):
                raise ValueError(
                    f"config.json: quantization_config has {name}={value!r:.60}, which must be an object of "
                    f"at most {DEEPEST_JSON} levels: save the model again"
                )
        try:
            Recipe.from_dict(recipe)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"config.json: the recipe of quantization_config is damaged: {error}") from error
        self.quant_method = Method(METHOD)
        self.structure, self.recipe, self.calibration = structure, recipe, calibration

    @classmethod
    def from_dict(cls, values: dict, return_unused_kwargs: bool = False, **kwargs) -> "QDiffConfig":
        """The config, or (config, kwargs), from its JSON form. Raises ValueError for missing entries."""
        values = {name: value for name, value in values.items() if name != "quant_method"}
        missing = {"format", "structure", "recipe", "calibration"} - values.keys()
        if missing:
            raise ValueError(
                f"config.json: quantization_config lacks {sorted(missing)}: save the model again"
            )
        return (cls(**values), kwargs) if return_unused_kwargs else cls(**values)

    def to_dict(self) -> dict:
        """The JSON form."""
        values = {"quant_method": METHOD, "format": FORMAT, "structure": self.structure}
        return copy.deepcopy({**values, "recipe": self.recipe, "calibration": self.calibration})

    def to_diff_dict(self) -> dict:
        """The JSON form; diffusers prints this one."""
        return self.to_dict()


class QDiffQuantizer(DiffusersQuantizer):
    """Connects diffusers' loading and saving to quantized networks.

    It builds the quantized network before tensors are read, and checks what is read and what is written.
    Raises ValueError for ``pre_quantized=False``: a model cannot be quantized while it is loaded.
    """

    requires_parameters_quantization = False
    requires_calibration = True

    def __init__(self, quantization_config: QDiffConfig, pre_quantized: bool = True, **kwargs):
        super().__init__(quantization_config, pre_quantized=pre_quantized, **kwargs)
        if not pre_quantized:
            raise ValueError(
                "a full-precision model cannot be quantized while it is loaded: load it, then call "
                "qdiff_lib.quantize(pipe, recipe), which calibrates"
            )
        self.model: nn.Module | None = None  # set when the network is complete
        self.dtype, self.stated, self.keys = torch.float32, None, []
        self.network: nn.Module | None = None  # set while the tensors are read

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
        """Remember the type to load in; None means float32."""
        self.dtype = torch_dtype or torch.float32
        return torch_dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Read the stated hash before the tensors are read. Raises ValueError unless it is safetensors."""
        for path in checkpoint_files:
            if not str(path).endswith(".safetensors"):
                raise ValueError(f"{path}: quantized weights are read from safetensors files only")
            with safe_open(path, "pt") as file:
                self.stated = (file.metadata() or {}).get("qdiff_sha256")
        self.keys, self.path = list(loaded_keys), checkpoint_files[0]
        return loaded_keys

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Check the tensors' shapes, types, hash and values. Raises ValueError if one is not the expected."""
        from .values import check_forms, check_values

        check_forms(self.path, self.network, state_dict)
        whole = len(state_dict) == len(self.keys)  # a model in several files has no common hash
        if whole and content_hash(self.quantization_config.to_dict(), state_dict) != self.stated:
            raise ValueError(
                f"{self.path} is damaged, or belongs to another config.json: their SHA-256 is not the stated "
                "one; copy both files again, or quantize again"
            )
        check_values(self.path, self.network, state_dict)
        return state_dict

    def update_missing_keys(self, model: nn.Module, missing_keys: list[str], prefix: str) -> list[str]:
        """Raise ValueError unless the file has exactly the tensors of this network."""
        unexpected = sorted(set(self.keys) - set(model.state_dict()))
        for word, names in (("lacks", sorted(missing_keys)), ("has no place for", unexpected)):
            if names:
                raise ValueError(f"{self.path} {word} {names[0]!r} of this network; quantize again")
        return missing_keys

    def _process_model_before_weight_loading(self, model: nn.Module, keep_in_fp32_modules=(), **kwargs):
        from ..modules.integers import SCALES
        from .settings import check_network
        from .structure import build

        keep_in_fp32_modules.extend(SCALES)
        config = Path(self.path).with_name("config.json")
        check_network(type(model), dict(model.config), config)
        try:
            build(model, self.quantization_config.structure)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{config} is damaged, or belongs to another network: {error}") from error
        self.network = model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs):
        from ..modules.quant_layer import quant_layers
        from .quantization import Quantization

        for layer in quant_layers(model):
            if layer.codes is not None:
                layer.derive_weight(self.dtype)
        model.requires_grad_(False)
        model.is_quantized = False  # else diffusers would refuse to cast it, though it can be cast
        recipe = Recipe.from_dict(self.quantization_config.recipe)
        model.quantization = Quantization(recipe, calibration=self.quantization_config.calibration)
        self.model, self.network = model, None

    @property
    def is_serializable(self) -> bool:
        """True; read before anything is written. Raises ValueError as ``check_savable`` does."""
        check_savable(self.model)
        return True

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], safe_serialization: bool = True
    ) -> tuple[dict, dict]:
        """The tensors, unchanged, and the metadata with their hash. Raises ValueError for pickled files."""
        if not safe_serialization:
            raise ValueError(
                "safe_serialization=False would pickle the weights, which are read from safetensors only: "
                "leave it out"
            )
        hashed = content_hash(self.quantization_config.to_dict(), state_dict)
        return state_dict, {"qdiff_sha256": hashed}

    @property
    def is_trainable(self) -> bool:
        """False: integers have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """True: ``torch.compile`` works."""
        return True


def content_hash(config: dict, tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of a ``quantization_config`` and of named tensors, as hexadecimal digits."""
    from ..utils.hashing import tensors_hash

    return tensors_hash(tensors, config)


def make_native(unet: nn.Module, quantization: "Quantization") -> nn.Module:
    """Let diffusers save a network that ``quantize`` has finished; ``unet`` is changed in place.

    The network gets the attribute ``quantization``, and its config gets ``quantization_config``.
    """
    from .structure import structure_of

    made_by = json.loads(json.dumps(quantization.calibration))
    config = QDiffConfig(structure_of(unet), quantization.recipe.to_dict(), made_by)
    config = QDiffConfig.from_dict(json.loads(json.dumps(config.to_dict())))  # the same form as after loading
    unet.quantization = quantization
    unet.register_to_config(quantization_config=config)
    unet.hf_quantizer = QDiffQuantizer(config)
    unet.hf_quantizer.model = unet
    return unet


def check_savable(unet: nn.Module) -> None:
    """Raise ValueError unless loading the network's files would give the same modules, names and shapes."""
    from ..graph.networks import UNET_CLASSES
    from .structure import build, structure_of
    from .values import check_values

    kind = type(unet)
    if UNET_CLASSES.get(kind.__name__) is not kind:
        raise ValueError(
            f"unet is a {kind.__name__}, which diffusers cannot load: save a {' or a '.join(UNET_CLASSES)}"
        )
    with torch.device("meta"):
        again = kind.from_config(unet.config)
    structure = unet.hf_quantizer.quantization_config.structure
    again = build(again, structure)
    expected = {name: (value.shape, value.dtype) for name, value in again.state_dict().items()}
    found = {name: (value.shape, value.dtype) for name, value in unet.state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        mine, theirs = found.get(name), expected.get(name)
        integers = mine and theirs and not theirs[1].is_floating_point
        if mine is None or theirs is None or mine[0] != theirs[0] or (integers and mine[1] != theirs[1]):
            raise ValueError(
                f"the network was changed after quantize: {name!r} is {mine}, and its files would give "
                f"{theirs}. Take off what was added (adapters, hooks that wrap layers), or quantize again"
            )
    if structure_of(unet) != structure:
        raise ValueError(
            "the network was changed after quantize: it has layers of other bits; quantize again"
        )
    check_values("the network", unet, unet.state_dict())
