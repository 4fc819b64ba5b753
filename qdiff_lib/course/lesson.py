"""How a lesson starts: which numbers it uses, on which device."""

import os
import platform
from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers.utils.logging import disable_progress_bar

PROFILES = ("tiny", "laptop", "gpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Lesson:
    """name: of the notebook. profile: one of ``PROFILES``. device: "cpu" or "cuda"."""

    name: str
    profile: str
    device: str

    def pick(self, tiny: T, laptop: T, gpu: T) -> T:
        """The number that belongs to the lesson's profile."""
        return {"tiny": tiny, "laptop": laptop, "gpu": gpu}[self.profile]


def start(name: str) -> Lesson:
    """Begin a lesson: print versions, device and profile in one line.

    The profile comes from the environment variable ``QDIFF_PROFILE``; without it, it is "gpu" where there is
    one and "tiny" elsewhere. Raises ValueError for a profile that does not exist.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    profile = os.environ.get("QDIFF_PROFILE") or ("gpu" if device == "cuda" else "tiny")
    if profile not in PROFILES:
        raise ValueError(f"QDIFF_PROFILE={profile!r} is unknown; use one of {PROFILES}")
    disable_progress_bar()  # of loading, which takes a second
    version = torch.__version__.partition("+")[0]
    print(f"{name}: Python {platform.python_version()}, torch {version}, device {device}, profile {profile}")
    return Lesson(name, profile, device)
