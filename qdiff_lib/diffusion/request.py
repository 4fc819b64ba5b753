"""What a pipeline draws, apart from its noise and the number of steps: texts, classes, guidance."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from ..utils.constants import GUIDANCE, MOST_GUIDANCE
from ..utils.kinds import Number
from .capabilities import check_pipeline, reads_guidance, takes_prompts
from .class_labels import checked_labels
from .prompts import checked_prompts


@dataclass(frozen=True)
class Request:
    """What a pipeline draws, apart from its noise and the number of steps.

    Args:
        prompts: image i shows ``prompts[i % len(prompts)]``; empty for pipelines without text.
        guidance: scale of classifier-free guidance (Ho and Salimans, 2022).
        eta: share of fresh noise in each denoising step of DDIM, 0 (none) to 1 (Song et al., 2021, eq. 16).
        class_labels: image i is of class ``class_labels[i % len(class_labels)]``; empty for networks without
            classes.
        embedded: whether the network reads the guidance scale (LCM). Then there is no second pass.
    """

    prompts: tuple[str, ...] = ()
    guidance: float = GUIDANCE
    eta: float = 0.0
    class_labels: tuple[int, ...] = ()
    embedded: bool = False

    @classmethod
    def checked(
        cls,
        pipe: DiffusionPipeline,
        prompts: Sequence[str] | None,
        guidance: float,
        eta: float,
        class_labels: Sequence[int] | None = None,
    ) -> "Request":
        """Return a request that ``pipe`` can answer.

        Raises:
            ValueError: ``check_pipeline`` refuses the pipeline, or the pipeline does not take these prompts,
                this eta or these class labels.
            TypeError: the prompts are one string, ``guidance`` or ``eta`` is not a number, or the class
                labels are no sequence of integers.
        """
        check_pipeline(pipe)
        guidance = Number(0, MOST_GUIDANCE).checked("guidance", guidance)
        eta = Number(0, 1).checked("eta", eta)
        name = type(pipe).__name__
        if takes_prompts(pipe) and prompts is None:
            raise ValueError(
                f"{name} draws what a text says: give prompts=['red apple', ...], or on the command line "
                "--prompt 'red apple', or --prompts with a file of them"
            )
        if prompts is not None and not takes_prompts(pipe):
            raise ValueError(f"prompts={list(prompts)[:3]}: {name} takes no text; leave them out")
        if eta and "eta" not in inspect.signature(pipe.__call__).parameters:
            raise ValueError(f"eta={eta!r}: {name} takes no eta; use 0")
        if eta and "eta" not in inspect.signature(pipe.scheduler.step).parameters:
            kind = type(pipe.scheduler).__name__
            raise ValueError(f"eta={eta!r}: a {kind} takes no eta; use 0, or sampler='ddim'")
        texts = () if prompts is None else checked_prompts(prompts)
        labels = checked_labels(pipe.unet, class_labels)
        return cls(texts, guidance, eta, labels, reads_guidance(pipe.unet))

    @property
    def passes(self) -> int:
        """Network rows for each image: 2 with guidance (one without and one with the text), else 1."""
        return 2 if self.prompts and self.guidance > 1 and not self.embedded else 1

    def arguments(self, start: int, count: int) -> dict:
        """Return the keyword arguments of the pipeline for images ``start`` to ``start + count - 1``."""
        arguments = {"eta": self.eta} if self.eta else {}
        if not self.prompts:
            return {**arguments, "batch_size": count}
        texts = [self.prompts[i % len(self.prompts)] for i in range(start, start + count)]
        return {**arguments, "prompt": texts, "guidance_scale": self.guidance}

    def described(self) -> dict:
        """Return a JSON form of the request, without what is the default of a pipeline without text."""
        about = {"prompts": list(self.prompts), "guidance": self.guidance} if self.prompts else {}
        about |= {"class_labels": list(self.class_labels)} if self.class_labels else {}
        return {**about, "eta": self.eta} if self.eta else about


PLAIN = Request()
"""A request without text and without fresh noise."""
