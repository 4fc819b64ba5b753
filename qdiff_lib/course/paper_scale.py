"""At the paper's scale: inputs from prompts, published results, and what was recorded with this library."""

import torch
from diffusers import DiffusionPipeline

from ..calibration import CalibrationSet
from .recorded import recorded

ROWS = ("full precision", "linear W4A8", "Q-Diffusion W4A8")
PAPER = "Q-Diffusion, ICCV 2023"
PUBLISHED = {
    ("DDPM, CIFAR-10", "linear W4A8"): ("188.11", PAPER),
    ("DDPM, CIFAR-10", "Q-Diffusion W4A8"): ("4.93", PAPER),
    ("LDM-4, bedrooms", "full precision"): ("2.98", PAPER),
    ("LDM-4, bedrooms", "Q-Diffusion W4A8"): ("6.40", "re-run in the poster of TFMQ-DM"),
    ("Stable Diffusion v1.4", "full precision"): ("13.15", "re-run in the poster of TFMQ-DM"),
    ("Stable Diffusion v1.4", "Q-Diffusion W4A8"): ("14.49", "re-run in the poster of TFMQ-DM"),
}
"""FID by network and row, and who measured it."""
MISSING = "not recorded yet"


def ours() -> dict[tuple[str, str], str]:
    """FID recorded with this library, by network and row: of ``data/recorded/paper_scale.json``, if there."""
    try:
        rows = recorded("paper_scale").data["rows"]
    except FileNotFoundError:
        return {}
    return {(row["network"], row["label"]): f"{row['fid']:.2f}" for row in rows}


def table(networks: tuple[str, ...]) -> str:
    """A line for each network and row; what is not known is left empty, what was not run says so."""
    here, lines = (
        ours(),
        [f"{'network':24}{'model':20}{'published FID':>14}  {'with this library':20}measured by"],
    )
    for network in networks:
        for row in ROWS:
            fid, by = PUBLISHED.get((network, row), ("", ""))
            lines.append(
                f"{network:24}{row:20}{fid:>14}  {here.get((network, row), MISSING):20}{by}".rstrip()
            )
    return "\n".join(lines)


def prompted(
    pipe: DiffusionPipeline,
    prompts: list[str],
    steps: int = 50,
    every: int = 2,
    batch_size: int = 8,
    seed: int = 0,
) -> CalibrationSet:
    """What the UNet of a text-to-image pipeline gets at every ``every``-th step, in random order.

    With guidance the pipeline asks its UNet twice for each image, without and with the text; both are kept.
    """
    rows: dict[str, list] = {"sample": [], "timestep": [], "encoder_hidden_states": [], "step": []}
    step = 0

    def keep(unet, args, kwargs) -> None:
        nonlocal step
        if step % every == 0:
            call = {
                **dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)),
                **kwargs,
            }
            count = len(call["sample"])
            rows["sample"].append(call["sample"].cpu())
            rows["timestep"].append(torch.as_tensor(call["timestep"]).cpu().expand(count))
            rows["encoder_hidden_states"].append(call["encoder_hidden_states"].cpu())
            rows["step"].append(torch.full((count,), step))
        step += 1

    handle = pipe.unet.register_forward_pre_hook(keep, with_kwargs=True)
    generator = torch.Generator().manual_seed(seed)
    try:
        for start in range(0, len(prompts), batch_size):
            step = 0
            pipe(prompts[start : start + batch_size], num_inference_steps=steps, generator=generator)
    finally:
        handle.remove()
    inputs = {name: torch.cat(values) for name, values in rows.items()}
    order = torch.randperm(len(inputs["step"]), generator=generator)
    inputs = {name: values[order] for name, values in inputs.items()}
    made_by = {"prompts": len(prompts), "steps": steps, "every": every, "seed": seed}
    return CalibrationSet(inputs, inputs.pop("step"), made_by)
