"""At the paper's scale: published results, and what was recorded with this library."""

from collections.abc import Mapping

from ..graph.cost import bops, layer_costs, parameter_count
from ..graph.networks import build
from ..recipes.presets import PRESETS
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


def costs() -> str:
    """Parameters and bit operations of the network of each preset, a line each. No weights are made."""
    lines = []
    for name, preset in PRESETS.items():
        count, layers = parameter_count(build(preset.unet, device="meta")), layer_costs(preset.unet)
        tera = " -> ".join(f"{bops(layers, *bits) / 1e12:.2f}" for bits in ((32, 32), (8, 8), (4, 8)))
        lines.append(f"{name:14} {count / 1e6:8.3f} M parameters {tera:>26} TBOPs (32/32, 8/8, 4/8)")
    return "\n".join(lines)


def recorded_on_a_gpu(data: Mapping) -> str:
    """Errors and seconds of calibration of ``recorded("gpu_cifar10")``, a line for each quantized network."""
    rows = [row for row in data["rows"] if "trajectory_mse" in row]
    return "\n".join(
        f"{row['label']:18} error {row['trajectory_mse'][-1]:.4f}, calibrated in "
        f"{row['calibration_seconds']:.0f} s"
        for row in rows
    )
