"""Sampling with any diffusers pipeline and scheduler, from the same noise for every model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMPipeline, DDPMPipeline, DiffusionPipeline
from torch import Tensor

from ..utils.constants import GUIDANCE, LAST_SEED, MOST_DRAWN
from ..utils.kinds import Whole
from ..utils.processes import ALONE, Processes
from ..utils.progress import progress_bar
from .capabilities import check_scheduler, check_times
from .class_labels import labelled
from .pipelines import decoder_of, each_step, finite_steps, seeded_steps
from .request import PLAIN, Request

ROLES = ("evaluation", "calibration")
PIXELS = (DDPMPipeline, DDIMPipeline)  # they return tensors on request, in bf16 too
MOST_IMAGES = 64  # the most images drawn at once
MOST_DECODED = 2**21  # the most pixels decoded at once: 8 images of Stable Diffusion


@dataclass(frozen=True)
class Samples:
    """Sampled images, and their trajectory if it was recorded.

    ``images`` is uint8 (N, C, H, W). ``trajectory`` is x_t after each denoising step, (T, N, C, H, W), or
    None. In latent pipelines x_t is a latent, and the images are decoded from the last one.

    T is how often the sampler calls the network. It is the number of steps, and one more for PLMS. PLMS
    computes its first step twice, and row 1 is a better estimate of the same x_t as row 0.
    """

    images: Tensor
    trajectory: Tensor | None = None


def noise_generators(seed: int, start: int, count: int, role: str = "evaluation") -> list[torch.Generator]:
    """Return one CPU generator for each image. Its noise depends on role, seed and index, not on its batch.

    The two roles never share random numbers. So no image of an evaluation starts from noise of the
    calibration. torch seeds its CPU generator with 32 bits: 1 for the role, 11 for the seed, 20 for the
    index. A processor with other vector instructions may give other last bits of the noise.

    Args:
        start: index of the first image.
        role: "evaluation" or "calibration".

    Raises:
        ValueError: the role is unknown, or the seed or an index has too many bits.
    """
    if role not in ROLES:
        raise ValueError(f"role={role!r} is unknown; use one of {ROLES}")
    if not 0 <= seed <= LAST_SEED:
        raise ValueError(f"seed={seed!r} must be from 0 to {LAST_SEED}")
    if start + count > MOST_DRAWN:
        raise ValueError(f"image {start + count - 1} is beyond {MOST_DRAWN - 1}, the last one of a seed")
    base = ROLES.index(role) << 31 | seed << 20
    return [torch.Generator().manual_seed(base + i) for i in range(start, start + count)]


def check_counts(n: int, steps: int, batch_size: int | None = None) -> None:
    """Raise ValueError for a count below 1, and TypeError for one that is no integer."""
    for name, value in (("n", n), ("steps", steps), ("batch_size", batch_size)):
        if value is not None:
            Whole(1).checked(name, value)


def sampling_times(pipe: DiffusionPipeline, steps: int) -> Tensor:
    """Return the diffusion times at which the sampler calls the network, one for each call, (calls,).

    Some samplers make more calls than steps: PLMS makes one more, and calls twice at one time.

    Raises:
        ValueError: there are more steps than diffusion times in training, or a time beyond those of training;
            or what ``check_scheduler`` and ``check_times`` refuse.
    """
    check_scheduler(pipe)
    kind = type(pipe.scheduler).__name__
    limit = pipe.scheduler.config.num_train_timesteps
    if steps > limit:
        raise ValueError(f"steps={steps} exceeds the {limit} steps that the model was trained with")
    pipe.scheduler.set_timesteps(steps)
    times = torch.as_tensor(pipe.scheduler.timesteps)
    if times.max() >= limit:
        cure = f"at most {limit - 1} steps" if steps == limit else "fewer steps, or another sampler"
        raise ValueError(
            f"steps={steps}: {kind} starts at time {times.max():g}, and the model's last one is {limit - 1}; "
            f"use {cure}"
        )
    check_times(pipe.unet, times, kind)
    return times


def images_at_once(pipe: DiffusionPipeline) -> int:
    """Return how many images a pipeline draws at once: 64, or fewer if decoding them needs much memory."""
    decoder = decoder_of(pipe)
    if decoder is None:
        return MOST_IMAGES
    size = pipe.unet.config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    pixels = height * width * 4 ** (len(decoder.config.block_out_channels) - 1)
    return min(MOST_IMAGES, max(1, MOST_DECODED // pixels))


def run_batch(
    pipe: DiffusionPipeline,
    start: int,
    count: int,
    steps: int,
    seed: int,
    role: str = "evaluation",
    request: Request = PLAIN,
) -> Tensor:
    """Run the pipeline once and return ``count`` images of a seed, from index ``start`` on.

    Args:
        role: see ``noise_generators``.

    Returns:
        uint8, (count, C, H, W).

    Raises:
        ValueError: a safety checker made images black. For calibration this is allowed: only the network's
            inputs are used.
    """
    generators = noise_generators(seed, start, count, role)
    labels = labelled(pipe.unet, request.class_labels, start, count)
    with seeded_steps(pipe, generators), finite_steps(pipe), labels:
        arguments = request.arguments(start, count)
        arguments |= {"generator": generators, "num_inference_steps": steps}
        out = pipe(**arguments, output_type="pt" if isinstance(pipe, PIXELS) else "np")
    black = [start + i for i, found in enumerate(getattr(out, "nsfw_content_detected", None) or ()) if found]
    if black and role == "evaluation":
        raise ValueError(
            f"the safety checker made images {black} of seed={seed} black: load {type(pipe).__name__} with "
            "from_pretrained(..., safety_checker=None, requires_safety_checker=False), and for the command "
            "line give the folder to which save_pretrained then writes it"
        )
    if isinstance(pipe, PIXELS):
        images = out.images.float().cpu()
    else:
        images = torch.from_numpy(out.images).permute(0, 3, 1, 2)
    if not images.isfinite().all():
        raise ValueError(
            f"{type(pipe).__name__} decodes finite latents to images that are not finite: load its "
            "decoder in float32"
        )
    return (images * 255).round().to(torch.uint8)


def batches(first: int, n: int, size: int) -> list[range]:
    """Return the images from ``first`` on in batches of ``size``; the last batch may be smaller."""
    return [range(i, min(i + size, first + n)) for i in range(first, first + n, size)]


def drawn(
    pipe: DiffusionPipeline,
    batch: range,
    record: bool,
    after_step: Callable[[], None],
    **order,
) -> tuple[Tensor, list[Tensor]]:
    """Draw one batch; returns its images, (count, C, H, W), and x_t after each step if it is recorded.

    Args:
        after_step: called after each denoising step.
        order: the other arguments of ``run_batch``.
    """
    path = []

    def keep(x: Tensor) -> None:
        after_step()
        if record:
            path.append(x.to("cpu", copy=True))

    with each_step(pipe, keep):
        return run_batch(pipe, batch.start, len(batch), **order), path


def assembled(parts: Iterable[tuple[int, tuple[Tensor, list[Tensor]]]], all_batches: list[range]) -> Samples:
    """Put batches together, which come in any order as (number of the batch, result of ``drawn``)."""
    images = trajectory = None
    first, n = all_batches[0].start, all_batches[-1].stop - all_batches[0].start
    for k, (found, path) in parts:
        if images is None:  # all of it at once: nothing is held twice
            images = found.new_empty(n, *found.shape[1:])
            trajectory = path[0].new_empty(len(path), n, *path[0].shape[1:]) if path else None
        rows = slice(all_batches[k].start - first, all_batches[k].stop - first)
        images[rows] = found
        for step, x in enumerate(path):
            trajectory[step, rows] = x
    return Samples(images, trajectory)


def sample(
    pipe: DiffusionPipeline,
    n: int,
    steps: int,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    record: bool = False,
    progress: bool = False,
    prompts: Sequence[str] | None = None,
    guidance: float = GUIDANCE,
    eta: float = 0.0,
    role: str = "evaluation",
    class_labels: Sequence[int] | None = None,
    processes: Processes = ALONE,
) -> Samples | None:
    """Draw images ``first`` to ``first + n - 1`` of a seed, in ``steps`` denoising steps.

    The noise of an image depends only on the seed and the image's index, not on the model or the batch size.

    Args:
        batch_size: images drawn at once; None: 64, or fewer if decoding them needs much memory.
        record: keep the whole trajectory, as for Figure 3 of the paper.
        progress: show a progress bar with the remaining time.
        prompts: texts, for pipelines that draw from text: image i shows ``prompts[i % len(prompts)]``.
        guidance: scale of classifier-free guidance; 1 or less: no guidance.
        eta: share of fresh noise in each denoising step of DDIM, for pipelines that take it.
        role: whose noise is used: "evaluation", or "calibration", which no evaluation uses.
        class_labels: for networks with classes: image i is of class ``class_labels[i % len(class_labels)]``.
        processes: they draw the batches in turn, and all must call this function. Their number changes no
            bit of the images (see ``utils.processes``).

    Returns:
        The samples; None in all processes except the main one.

    Raises:
        ValueError: a count is below 1, there are more steps than the model has times, prompts or class labels
            are missing or not taken by the pipeline, the pipeline takes no eta, or a safety checker made
            images black.
        TypeError: the prompts are one string, or the class labels are no sequence of integers.
    """
    request = Request.checked(pipe, prompts, guidance, eta, class_labels)
    check_counts(n, steps, batch_size)
    noise_generators(seed, Whole(0).checked("first", first) + n - 1, 1, role)  # all can be drawn
    calls = len(sampling_times(pipe, steps))
    all_batches = batches(first, n, batch_size or images_at_once(pipe))
    own, shown = processes.share(all_batches), progress and processes.is_main
    order = dict(steps=steps, seed=seed, role=role, request=request)
    with progress_bar(total=calls * len(own), desc=f"{n} images", unit="step", shown=shown) as bar:
        parts = (drawn(pipe, batch, record, bar.update, **order) for batch in own)
        gathered = processes.gathered(parts, len(all_batches))
        if processes.is_main:
            return assembled(gathered, all_batches)
        return next(gathered, None)  # draws, sends, and ends
