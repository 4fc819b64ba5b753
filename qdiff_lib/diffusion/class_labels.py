"""Class labels: their check, and giving them to a network whose pipeline has no argument for them.

diffusers' DDPMPipeline and DDIMPipeline call their UNet with a sample and its time only. A hook adds the
argument ``class_labels``, so that these pipelines also draw with networks that need a class.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..graph.model_inputs import reads_class_labels
from ..utils.kinds import Whole


def checked_labels(unet: nn.Module, class_labels: Sequence[int] | None) -> tuple[int, ...]:
    """Return the labels as a tuple; it is empty for a network without classes.

    Args:
        class_labels: the numbers of classes, counted from 0; None: no labels.

    Raises:
        ValueError: the network needs labels and there are none, the network takes none, or a label is
            outside of its classes.
        TypeError: the labels are no sequence of integers.
    """
    if not reads_class_labels(unet):
        if class_labels is not None:
            raise ValueError(f"class_labels={class_labels!r:.60}: the UNet has no classes; leave them out")
        return ()
    last = last_label(unet)
    if class_labels is None:
        raise ValueError(
            f"the UNet draws a class: give class_labels=[0, 1, ...], numbers from 0 to {last}, or on the "
            "command line --class-labels 0 1"
        )
    if isinstance(class_labels, str) or not hasattr(class_labels, "__iter__"):
        raise TypeError(f"class_labels={class_labels!r} must be a list of integers")
    labels = tuple(Whole(0, last).checked("class_labels", label) for label in class_labels)
    if not labels:
        raise ValueError(f"class_labels={class_labels!r} must hold at least one number from 0 to {last}")
    return labels


def last_label(unet: nn.Module) -> int:
    """Return the largest label of a network with labels: its last class, or the last time that it embeds."""
    if unet.config.class_embed_type is None:
        return unet.config.num_class_embeds - 1
    return (unet.config.get("num_train_timesteps") or 2**31) - 1


@contextmanager
def labelled(unet: nn.Module, class_labels: Sequence[int], start: int, count: int) -> Iterator[None]:
    """Within the block, give the network the labels of images ``start`` to ``start + count - 1``.

    Image i is of class ``class_labels[i % len(class_labels)]``. With guidance, a call has two rows for each
    image, and both get its label. Without labels nothing changes. Hooks of the caller see the labels, as
    this hook runs before them.
    """
    if not class_labels:
        yield
        return
    labels = torch.tensor([class_labels[i % len(class_labels)] for i in range(start, start + count)])

    def give(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        sample = args[0] if args else kwargs["sample"]
        return args, {**kwargs, "class_labels": labels.repeat(len(sample) // count).to(sample.device)}

    handle = unet.register_forward_pre_hook(give, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
