"""Train ``data/models/ddpm-fashion``: the UNet of ``google/ddpm-cifar10-32`` at a quarter of its width.

    python training/train_ddpm.py --steps 3000 --seed 0

Killed runs resume from the last checkpoint in ``--work``, with Adam's moments; the data, the noise and the
time steps of step k depend on (seed, k) alone.

The loss is the noise-prediction MSE of Ho et al. (2020) with the Min-SNR weights of Hang et al. (2023),
min(SNR, 5) / SNR, and the time steps of a batch are stratified over [0, 1000) as in Kingma et al. (2021):
both reach a given sample quality in a fraction of the steps.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from fashion_mnist import load_split
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from qdiff_lib.files import write_json
from qdiff_lib.provenance import machine

CONFIG = dict(
    sample_size=32,
    in_channels=1,
    out_channels=1,
    block_out_channels=(32, 64, 64, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
    norm_num_groups=8,
    attention_head_dim=None,
)
SNR_CAP = 5.0
WARMUP_STEPS = 200
DECAY_FRACTION = 0.2  # the learning rate falls to 0 over this last part of the steps
EMA_DECAY = 0.999
CHECKPOINT_EVERY = 100


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32: on a CPU without bf16 instructions it is 15 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return "bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, linear decay."""
    warm = (step + 1) / WARMUP_STEPS
    decay = (steps - step) / (DECAY_FRACTION * steps)
    return peak * min(1.0, warm, decay)


def batch_of(step: int, images: torch.Tensor, size: int, seed: int, timesteps: int):
    """Clean images in [-1, 1], noise and stratified time steps of one step, from (seed, step) alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    index = torch.randint(len(images), (size,), generator=generator)
    clean = images[index].float() / 127.5 - 1  # (B, 1, 32, 32)
    noise = torch.randn(clean.shape, generator=generator)
    strata = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return clean, noise, (strata * timesteps).long()


def save_state(work: Path, model, ema, optimizer, progress: dict) -> None:
    """Write weights, averages and Adam's moments to one safetensors file, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": value for key, value in state.items()}
    temporary = work / "checkpoint.tmp"
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"progress": json.dumps(progress)})
    os.replace(temporary, work / "checkpoint.safetensors")


def load_state(work: Path, model, ema, optimizer) -> dict:
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


def train(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    images, _ = load_split("train", args.data)
    model = UNet2DModel(**CONFIG).to(device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    abar = scheduler.alphas_cumprod
    snr_weight = (SNR_CAP * (1 - abar) / abar).clamp(max=1).to(device)
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0)
    progress = load_state(args.work, model, ema, optimizer)
    start, before = time.monotonic(), progress["seconds"]
    bf16 = native_bf16(device)
    bar = tqdm(
        range(progress["step"], args.steps), initial=progress["step"], total=args.steps, mininterval=10
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        clean, noise, t = batch_of(step, images, args.batch_size, args.seed, 1000)
        noisy = scheduler.add_noise(clean, noise, t).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = model(noisy, t.to(device)).sample
        error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))  # (B,)
        loss = (snr_weight[t.to(device)] * error).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                ema[name].lerp_(value, 1 - decay)
        progress["losses"].append(round(error.mean().item(), 5))
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == args.steps:
            progress |= {"step": step + 1, "seconds": before + time.monotonic() - start}
            save_state(args.work, model, ema, optimizer, progress)
            bar.set_postfix(loss=sum(progress["losses"][-100:]) / len(progress["losses"][-100:]))
    model.load_state_dict(ema)
    DDPMPipeline(unet=model.cpu(), scheduler=scheduler).save_pretrained(args.out)
    write_json(args.out / "training.json", record_of(args, bf16, progress))


def record_of(args: argparse.Namespace, bf16: bool, progress: dict) -> dict:
    """What the model card tells about the training; losses are unweighted means over 50 steps."""
    losses = torch.tensor(progress["losses"])
    return {
        "command": f"python training/train_ddpm.py --steps {args.steps} --seed {args.seed}",
        "steps": progress["step"],
        "batch_size": args.batch_size,
        "lr": args.lr,
        "hours": round(progress["seconds"] / 3600, 2),
        "machine": machine(),
        "precision": "bf16 autocast" if bf16 else "fp32",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "losses": [round(float(part.mean()), 5) for part in losses.split(50)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data", type=Path, help="folder with the IDX files (default: Debian's, else torchvision's)"
    )
    parser.add_argument("--work", type=Path, default=Path("build/train-ddpm-fashion"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=Path("data/models/ddpm-fashion"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
