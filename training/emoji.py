"""Noto emoji (Google, Apache-2.0; its fonts OFL) as 64x64 pictures on white with prompts, for the trainings.

    npm pack emoji-datasource-google@16.0.0

downloads the archive, ``emoji-datasource-google-16.0.0.tgz`` (74 MB), which is read as it is.
"""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ARCHIVE = Path("build/emoji-datasource-google-16.0.0.tgz")
SIZE = 64
LEFT_OUT = ("Component", "People & Body", "Symbols")  # people come in 2,600 variants, symbols are text
COUNTRIES = (
    "Brazil", "Canada", "China", "France", "Germany", "India", "Italy", "Japan", "Kenya", "Mexico",
    "South Korea", "Sweden", "United Kingdom", "United States",
)  # fmt: skip


@dataclass(frozen=True)
class Emoji:
    """One picture's file name in the archive and its words, in lower case.

    name: "red apple"; alias: the short name where it says something else, "apple"; kind: "food fruit".
    """

    image: str
    name: str
    alias: str
    kind: str

    def prompts(self) -> tuple[str, str, str, str]:
        """The prompts that a training draws from: name, alias, name with kind, kind alone."""
        return self.name, self.alias, f"{self.name}, {self.kind}", self.kind


def words(text: str) -> str:
    """``text`` in lower case with spaces for underscores, hyphens and ampersands."""
    return " ".join(text.lower().replace("_", " ").replace("-", " ").replace("&", " ").split())


def is_kept(entry: dict) -> bool:
    """Whether the trainings use this entry of ``emoji.json``."""
    if entry["subcategory"] == "country-flag":
        return entry["name"].removesuffix(" Flag") in COUNTRIES
    return entry["has_img_google"] and entry["category"] not in LEFT_OUT


def parse(entry: dict) -> Emoji:
    """The words of one entry of ``emoji.json``; the short name of a country's flag is a code, left out."""
    name = words(entry["name"])
    alias = name if entry["subcategory"] == "country-flag" else words(entry["short_name"])
    return Emoji(entry["image"], name, alias, words(entry["subcategory"]))


def on_white(png: bytes) -> torch.Tensor:
    """An RGBA picture over white, as uint8 (3, H, W)."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    pixels = np.array(Image.alpha_composite(white, picture).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_emoji(archive: Path = ARCHIVE) -> tuple[torch.Tensor, list[Emoji]]:
    """The pictures, uint8 (N, 3, 64, 64), and the words of the kept emoji, in the archive's order.

    Raises:
        ValueError: there is no such archive, or it lacks a picture.
    """
    if not Path(archive).is_file():
        raise ValueError(
            f"archive={str(archive)!r} is no file: run `npm pack emoji-datasource-google@16.0.0`"
        )
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if is_needed(member.name)}
    kept = [parse(entry) for entry in json.loads(files["package/emoji.json"]) if is_kept(entry)]
    pngs = [files.get(f"package/img/google/{SIZE}/{emoji.image}") for emoji in kept]
    if None in pngs:
        raise ValueError(f"archive={str(archive)!r} lacks {kept[pngs.index(None)].image}: download it again")
    return torch.stack([on_white(png) for png in pngs]), kept


def is_needed(name: str) -> bool:
    """Whether a member of the archive is the list or a picture of the right size."""
    return name == "package/emoji.json" or name.startswith(f"package/img/google/{SIZE}/")
