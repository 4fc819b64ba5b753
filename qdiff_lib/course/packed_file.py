"""What the bytes of a packed checkpoint are for."""

from pathlib import Path

from safetensors import safe_open

GRIDS = ("weight_scale", "weight_zero_point", "scale", "zero_point")


def file_parts(path: Path) -> dict[str, int]:
    """Bytes of the codes, the grids, the floats and the header of a file that ``save_quantized`` wrote."""
    parts = {"codes": 0, "scales and zero points": 0, "biases and norms": 0}
    with safe_open(path, "pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            last = name.rpartition(".")[2]
            kind = "scales and zero points" if last in GRIDS else "biases and norms"
            parts["codes" if last == "codes" else kind] += tensor.nbytes
    return parts | {"names and places": Path(path).stat().st_size - sum(parts.values())}
