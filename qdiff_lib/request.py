"""What a pipeline is asked for beside noise and steps: texts, guidance, fresh noise."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from diffusers import DiffusionPipeline

from .prompts import checked_prompts
from .support import check_pipeline, takes_prompts

GUIDANCE = 7.5  # the paper's scale of classifier-free guidance for Stable Diffusion


def check_guidance(guidance: float) -> None:
    """Raise TypeError unless ``guidance`` is a number, and ValueError unless it is finite."""
    if isinstance(guidance, bool) or not isinstance(guidance, Real):
        raise TypeError(f"guidance={guidance!r} must be a number, such as {GUIDANCE}; 1 for none")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance={guidance!r} must be finite, such as {GUIDANCE}; 1 for none")


@dataclass(frozen=True)
class Request:
    """What a pipeline is asked for beside noise and steps.

    prompts: image i shows ``prompts[i % len(prompts)]``; none for pipelines without text. guidance: scale of
    classifier-free guidance (Ho and Salimans, 2022). eta: share of fresh noise in each step of DDIM (Song et
    al., 2021, eq. 16), from 0, none, to 1.
    """

    prompts: tuple[str, ...] = ()
    guidance: float = GUIDANCE
    eta: float = 0.0

    @classmethod
    def checked(
        cls, pipe: DiffusionPipeline, prompts: Sequence[str] | None, guidance: float, eta: float
    ) -> "Request":
        """A request that ``pipe``, which ``check_pipeline`` accepts, can answer.

        Raises ValueError; TypeError for prompts that are a string and guidance that is no number.
        """
        check_pipeline(pipe)
        check_guidance(guidance)
        name = type(pipe).__name__
        if takes_prompts(pipe) and prompts is None:
            raise ValueError(
                f"{name} draws what a text says: give prompts=['red apple', ...], or on the command line "
                "--prompt 'red apple', or --prompts with a file of them"
            )
        if prompts is not None and not takes_prompts(pipe):
            raise ValueError(f"prompts={list(prompts)[:3]}: {name} takes no text; leave them out")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta!r} must be from 0 to 1")
        if eta and "eta" not in inspect.signature(pipe.__call__).parameters:
            raise ValueError(f"eta={eta!r}: {name} takes no eta; use 0")
        if eta and "eta" not in inspect.signature(pipe.scheduler.step).parameters:
            kind = type(pipe.scheduler).__name__
            raise ValueError(f"eta={eta!r}: a {kind} takes no eta; use 0, or sampler='ddim'")
        return cls(() if prompts is None else checked_prompts(prompts), guidance, eta)

    @property
    def passes(self) -> int:
        """How many rows the network sees for an image: with guidance one without and one with the text."""
        return 2 if self.prompts and self.guidance > 1 else 1

    def arguments(self, start: int, count: int) -> dict:
        """Keyword arguments of the pipeline for images ``start`` to ``start + count - 1``."""
        arguments = {"eta": self.eta} if self.eta else {}
        if not self.prompts:
            return {**arguments, "batch_size": count}
        texts = [self.prompts[i % len(self.prompts)] for i in range(start, start + count)]
        return {**arguments, "prompt": texts, "guidance_scale": self.guidance}

    def described(self) -> dict:
        """A JSON form of what is not the default of a pipeline without text."""
        about = {"prompts": list(self.prompts), "guidance": self.guidance} if self.prompts else {}
        return {**about, "eta": self.eta} if self.eta else about


PLAIN = Request()
"""Nothing but images."""
