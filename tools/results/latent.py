"""Latent models: a table and the pictures of each."""

from .source import fixed, flow, short, table

SAMPLERS = {"plms": "PLMS", "ddim": "DDIM"}


def text(data: dict) -> str:
    calibration = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in data["calibration"].items())
    before = flow(f"""
        Two models of emoji that draw in the latent space of an autoencoder. They have the classes of the
        paper's Stable Diffusion and LDM-8, and use the paper's kinds of ranges for these. Each draws
        {data["n"]} pictures in {data["steps"]} steps, from the same noise (and texts) as full precision. MSE
        and SNR compare the latents after the last step with full precision, and PSNR compares the pictures.
        Size: of the UNet's file. BOPs: of one run of the UNet. Calibration: {calibration}. Q-Diffusion's
        first and last layer have {data["edge_bits"]} bits.
    """)
    return "\n\n".join([before, *(one(name, model, data) for name, model in data["models"].items())])


def one(name: str, model: dict, data: dict) -> str:
    """The table and the pictures of a model."""
    titles = ["method", "MB", "G BOPs", "MSE x 1000", "SNR (dB)", "PSNR (dB)", "calibration (s)"]
    rows = []
    for row in model["rows"]:
        cells = [row["label"], fixed(row["bytes"], 2, 1e-6), fixed(row["bops"], 1, 1e-9)]
        if "mse" in row:
            cells += [short(row["mse"][-1] * 1e3), fixed(row["snr_db"][-1], 1), fixed(row["image_psnr"], 1)]
            cells.append(f"{row['seconds']:.0f}")
        rows.append(cells + [""] * (len(titles) - len(cells)))
    sampler, shown = SAMPLERS[model["sampler"]], "Columns: the same noise."
    if model["prompts"]:
        sampler += f" with guidance {data['guidance']:g}"
        listed = ", ".join(model["prompts"][: data["shown"]])
        shown = f"Columns: the same noise and text: {listed}."
    methods = ", ".join(row["label"] for row in model["rows"])
    picture = f"![Rows: {methods}. {shown}](data/recorded/latent/{name}.png)"
    return "\n\n".join([f"### {name}, {sampler}", table(titles, rows), picture])
