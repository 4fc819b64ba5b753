"""What the trainings share: one loop with averaged weights, checkpoints and exact resume, and the noise loss.

Step k draws its data, noise and time steps from (seed, k) and the kind of device alone, so that a killed
training ends with the same bits (on one kind of device). So does one that is given more steps later, where
the learning rate does not depend on that. With ``--seconds`` the clock decides how many steps there are.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from qdiff_lib.utils.files import atomic_path
from qdiff_lib.utils.provenance import machine

SNR_CAP = 5.0
LEAST_WEIGHT = 0.1  # a choice, not measured
WARMUP_STEPS = 200
EMA_DECAY = 0.999
CHECKPOINT_SECONDS = 120.0


def parser(description: str, **defaults) -> argparse.ArgumentParser:
    """The options that every training has; ``defaults`` by their names, such as ``batch_size=64``."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--steps", type=int)
    made.add_argument("--seconds", type=float, help="train for so long instead of --steps")
    made.add_argument("--batch-size", type=int)
    made.add_argument("--lr", type=float, help="the learning rate's peak")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--work", type=Path, help="folder for checkpoints")
    made.add_argument("--out", type=Path, help="folder for the trained model")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.set_defaults(**defaults)
    return made


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32: on a CPU without bf16 instructions it is 15 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return "bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False


def inverse_root(step: int, peak: float, constant: int) -> float:
    """Linear warm-up, ``constant`` steps at the peak, then a fall with the square root of the step."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS, (constant / (step + 1)) ** 0.5)


@dataclass(frozen=True)
class Draw:
    """What a step is made of: indices (B,) of the data, noise (B, ...), time steps (B,), and a generator."""

    index: Tensor
    noise: Tensor
    t: Tensor
    generator: torch.Generator


def trapezoid(step: int, done: float, peak: float, decay: float) -> float:
    """Linear warm-up, constant, then a linear fall to 0 over the last part ``decay`` of the training.

    done: the part of the training that is over, from 0 to 1.
    """
    return peak * min(1.0, (step + 1) / WARMUP_STEPS, (1 - done) / decay)


def on_device(network: nn.Module, device: str) -> nn.Module:
    """The network on ``device``. On a GPU the channels are last in memory, where bf16 products want them."""
    last = torch.device(device).type == "cuda"
    return network.to(device, memory_format=torch.channels_last if last else torch.preserve_format)


def generator_of(step: int, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def draw(step: int, data: Tensor, size: int, seed: int, timesteps: int) -> Draw:
    """Indices, noise and stratified time steps (Kingma et al., 2021) of a step, on the device of ``data``."""
    generator = generator_of(step, seed, data.device)
    options = dict(generator=generator, device=data.device)
    index = torch.randint(len(data), (size,), **options)
    noise = torch.randn(size, *data.shape[1:], **options)
    strata = (torch.arange(size, device=data.device) + torch.rand(size, **options)) / size
    return Draw(index, noise, (strata * timesteps).long(), generator)


def to_unit(images: Tensor) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def noised(scheduler, clean: Tensor, drawn: Draw) -> Tensor:
    """The network's input: images or latents (B, C, H, W) with noise added."""
    return scheduler.add_noise(clean, drawn.noise, drawn.t)


def min_snr(snr: Tensor) -> Tensor:
    """The weights min(SNR, 5) / SNR of Hang et al. (2023): nearly clean images count little."""
    return (SNR_CAP / snr).clamp(max=1)


def balanced(snr: Tensor) -> Tensor:
    """Weights that are about the inverse of the error, so that no part of the time steps is neglected.

    The error of a trained network grows about like sqrt(SNR), up to where the image is nearly clean.
    """
    return snr.rsqrt().clamp(min=LEAST_WEIGHT)


WEIGHTS = {"min-snr": min_snr, "balanced": balanced}


def noise_loss(
    scheduler, predicted: Tensor, drawn: Draw, weights: Callable[[Tensor], Tensor] = min_snr
) -> tuple[Tensor, Tensor]:
    """The loss of the predicted noise (B, C, H, W), and its unweighted mean squared error.

    weights: those of the errors of images, by their signal-to-noise ratios (SNR), (B,).
    """
    abar = scheduler.alphas_cumprod.to(drawn.t.device)[drawn.t]  # (B,)
    error = (predicted.float() - drawn.noise).square().mean(dim=(1, 2, 3))  # (B,)
    return (weights(abar / (1 - abar)) * error).mean(), error.detach().mean()


def save_state(work: Path, model: nn.Module, ema: dict, optimizer, progress: dict) -> None:
    """Write weights, averages and Adam's moments to one safetensors file, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": value for key, value in state.items()}
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    with atomic_path(work / "checkpoint.safetensors") as temporary:
        save_file(contiguous, temporary, {"progress": json.dumps(progress)})


def load_state(work: Path, model: nn.Module, ema: dict, optimizer) -> dict:
    """Restore what ``save_state`` wrote; an empty folder starts at step 0."""
    path = work / "checkpoint.safetensors"
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "losses": []}
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, field = key.split(".")
            state["state"].setdefault(int(i), {})[field] = value
    optimizer.load_state_dict(state)
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["progress"])


def average(ema: dict, model: nn.Module, step: int) -> None:
    """Move the averages towards the weights, fast in the first steps."""
    decay = min(EMA_DECAY, (step + 1) / (step + 10))
    values = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    with torch.no_grad():
        torch._foreach_lerp_([ema[name] for name in values], list(values.values()), 1 - decay)


def fit(
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, Tensor]],
    learning_rate: Callable[[int, float], float],
    args: argparse.Namespace,
) -> dict:
    """Train ``model`` with AdamW up to ``args.steps`` or ``args.seconds``, from the last checkpoint.

    The model ends with its averaged weights.

    Args:
        loss_of: the loss of a step, and the number to record for it.
        learning_rate: that of a step, told also which part of the training is done.
        args: ``steps``, ``seconds``, ``lr``, ``device``, and ``work``, the folder of the checkpoint.

    Raises:
        ValueError: the checkpoint has more steps.

    Returns:
        What was done: "step", "seconds" and "losses", a number per step.
    """
    device = torch.device(args.device)
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0, fused=device.type == "cuda")
    progress = load_state(args.work, model, ema, optimizer)
    if args.seconds is None and progress["step"] > args.steps:
        raise ValueError(f"steps={args.steps}: {args.work} is already at step {progress['step']}, give more")
    before, start, step = progress["seconds"], time.monotonic(), progress["step"]
    saved, bf16, shown = start, native_bf16(device), []
    bar = tqdm(initial=step, total=None if args.seconds else args.steps, mininterval=10)
    done = part_done(args, step, before)
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, number = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average(ema, model, step)
        step, now = step + 1, time.monotonic()
        done = part_done(args, step, before + now - start)
        shown.append(number)
        bar.update()
        if done >= 1 or now - saved >= CHECKPOINT_SECONDS:
            saved = now
            progress["losses"] += [round(x, 5) for x in torch.stack(shown).tolist()]
            progress |= {"step": step, "seconds": before + now - start}
            shown.clear()
            save_state(args.work, model, ema, optimizer, progress)
            bar.set_postfix(loss=sum(progress["losses"][-100:]) / len(progress["losses"][-100:]))
    model.load_state_dict(ema)
    return progress


def part_done(args: argparse.Namespace, step: int, seconds: float) -> float:
    """Which part of the training is over, from 0 to 1."""
    return step / args.steps if args.seconds is None else seconds / args.seconds


def device_name(device: torch.device) -> str:
    """What trained: the GPU, or the processor with its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine()


def record_of(args: argparse.Namespace, script: str, progress: dict) -> dict:
    """What a model card tells about the training; losses are means over 50 steps."""
    losses = torch.tensor(progress["losses"])
    length = f"--steps {args.steps}" if args.seconds is None else f"--seconds {args.seconds:g}"
    return {
        "command": f"python training/{script} {length} --batch-size {args.batch_size} --seed {args.seed}",
        "steps": progress["step"],
        "batch_size": args.batch_size,
        "lr": args.lr,
        "hours": round(progress["seconds"] / 3600, 2),
        "machine": device_name(torch.device(args.device)),
        "precision": "bf16 autocast" if native_bf16(torch.device(args.device)) else "fp32",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "losses": [round(float(part.mean()), 5) for part in losses.split(50)],
    }
