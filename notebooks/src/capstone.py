# %% [markdown]
# # How well can you quantize a model for 2.75 MB?
#
# | | |
# |---|---|
# | You will be able to | quantize a model that you do not know within a budget; find the layers that need more bits; say how sure your result is |
# | You need | lessons 0, 1, 2, 3 and 5 |
# | Time | about 90 minutes; about 30 of them are calibrations on two CPU cores |
# | Memory | below 2 GB; below 900 MB with `QUICK = True` |
# | In the paper | sections 3 and 4 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# All letters are in [notation and glossary](../docs/notation.md). This notebook is an assignment. Your teacher grades it
# by the rubric at the end of this notebook.
#
# ## The task
#
# The model is `ldm-emoji`. It draws emoji in the latent space of an autoencoder, without a text. No lesson quantizes it.
# Quantize its UNet within two budgets:
#
# - **bytes**: the file of its weights has at most 2,750,000 bytes. Full precision has 23.6 million.
# - **bit operations**: one run of the network for one image takes at most 20 G bit operations. G means $10^9$. They are
#   counted as in lesson 5.
#
# The calibration of your recipe may take at most 30 minutes on two CPU cores.
#
# Your *number* says how close the drawn latents are to those of full precision. It is measured in decibels (dB). A larger
# number is better. Your teacher measures it with noise that you do not know.
#
# The default settings do not lead to a good number. With 4 bits for all weights the file is too large. With 3 bits for
# all weights the error is large. But then the file is smaller than the budget, so some bytes are left. You decide how to
# use them.

# %%
from qdiff_lib import Recipe, load, quantize, sample, save_quantized, with_sampler
from qdiff_lib.course import capstone
from qdiff_lib.course.figures.capstone import pictures

full = with_sampler(load(capstone.MODEL), "ddim")
drawn = sample(full, n=8, steps=capstone.STEPS, seed=0).images
show(pictures({"full precision": drawn}))

# %% [markdown]
# ## How you are measured
#
# Full precision and your model draw 64 pictures from the same noise, in 25 steps of DDIM. $x_0$ is the latent of a picture
# after the last step with full precision, and $\hat x_0$ is yours. The *signal-to-noise ratio* (SNR) of this picture is
#
# $$\mathrm{SNR} = 10 \log_{10} \frac{\text{mean of } x_0^2}{\text{mean of } (x_0 - \hat x_0)^2} \text{ dB}$$
#
# Your number is the mean of this ratio over all pictures. With 10 dB more, the squared error is a tenth. The program also
# prints the *standard error* of the mean, after the sign ±. If two numbers differ by less than this, the difference may
# be chance.
#
# The next table has one row for each part of the network. The columns are:
#
# - the weights, in thousands, and the multiplications of one run (MACs), in millions;
# - the size in kB, with 3 bits and in floating point;
# - the bit operations in G, with 3-bit weights and 8-bit activations (W3A8), and in floating point.
#
# If you leave a part in floating point, it takes more bytes and more bit operations.

# %% tags=["nbval-check-output"]
print(capstone.cost_table(full.unet))

# %% [markdown]
# ## Your settings
#
# With `QUICK = True` each calibration takes only seconds, and the printed numbers mean nothing. Use it to test your
# cells. Then write `False` and run all cells again. With `False`, your files are in the folder `capstone-runs` beside
# this notebook.

# %% tags=["own"]
QUICK = True
SEED = 1  # of the noise of your own measurements; your teacher takes another one

# %%
from pathlib import Path
from tempfile import mkdtemp

work = Path(mkdtemp()) if QUICK else Path("capstone-runs")
scorer = capstone.Scorer(SEED, images=4 if QUICK else capstone.IMAGES)


def run(name, recipe):
    """Quantize the model, write it to the folder of this name, and measure it."""
    recipe = recipe.replace(**capstone.QUICK) if QUICK else recipe
    quantized = quantize(load(capstone.MODEL), recipe, progress=not QUICK)
    save_quantized(quantized, work / name)
    score = scorer.score(work / name)
    print(f"{name}: {score}\n    {capstone.changed_fields(score.recipe)}")
    return score


# %% [markdown]
# ## The baseline
#
# The first run uses 3 bits for all weights. All other fields of the recipe have their default values. On two CPU cores it
# takes less than ten minutes.

# %%
baseline = run("baseline", Recipe.qdiffusion(weights=3, activations=8))
claim(baseline.within, f"3 bits keep both budgets: {baseline.bytes:,} bytes")
left = capstone.MOST_BYTES - baseline.bytes
claim(
    left > 300_000,
    f"{left:,} bytes are left: enough to leave {8 * left // (32 - 3):,} weights in floating point",
)

# %% [markdown]
# The next cell shows the numbers of the default settings. They were recorded with `QUICK = False` and the noise of seed 1.

# %%
defaults = recorded("capstone")
for row in defaults.data["defaults"]:
    print(
        f"{row['label']}: {row['bytes']:,} bytes, {row['decibels']:.1f} dB, {row['seconds'] / 60:.0f} minutes"
    )
print(defaults.source())
claim(
    defaults.data["defaults"][0]["bytes"] > capstone.MOST_BYTES,
    "with 4 bits for all weights, the file is larger than the budget",
)

# %% [markdown]
# ## What you can change
#
# | field of the recipe | what it changes | lesson |
# |---|---|---|
# | `weights`, `activations` | bits of all layers | 0 |
# | `edge_bits` | bits of the first and the last layer | 5 |
# | `exclude` | which layers stay in floating point: names, or patterns such as `"up_blocks.2.*"` | 2, 4 |
# | `include` | the reverse: only these layers are quantized | 2, 4 |
# | `steps`, `rule`, `samples` | from which denoising steps the calibration inputs come, and how many there are | 3 |
# | `weight_range`, `activation_range` | how ranges are found | 2 |
# | `iterations`, `step_size_iterations` | how long each unit learns | 5 |
# | `network_iterations`, `bias_correction_images` | the stages after the last unit | 5 |
#
# `help(Recipe)` and the project's README say more. These three pieces of advice save time:
#
# 1. Change one field at a time, and write down each number. Measure all runs with the same seed.
# 2. `Recipe.linear` calibrates in seconds. With `include=("mid_block",)` it quantizes only one part, so you see how much
#    this part matters. But the best choice for linear quantization may not be the best one for learned rounding.
# 3. A longer calibration often helps. But find good settings *before* you spend 30 minutes on one run.

# %% tags=["own"]
mine = run("mine", Recipe.qdiffusion(weights=3, activations=8, edge_bits=16))

# %% tags=["own"]
probe = Recipe.linear(weights=3, activations=8, samples=20)
for part in ("conv_in", "time_embedding", "mid_block"):
    run(f"only {part}", probe.replace(include=(part,)))

# %% [markdown]
# Look at the pictures of your run, too.

# %%
rows = {"full precision": full}
for name in ("baseline", "mine"):
    rows[name] = with_sampler(capstone.open_network(work / name), "ddim")
draw = dict(n=4 if QUICK else 8, steps=capstone.STEPS, seed=SEED)
show(pictures({name: sample(pipe, **draw).images for name, pipe in rows.items()}))

# %% [markdown]
# ## What you hand in
#
# 1. This notebook, with your cells and the four texts below. Together the texts fill about one page.
# 2. The folder of your best run, such as `capstone-runs/mine`. Your recipe is in its file `unet/config.json`.
#
# Your teacher measures the folder with the command below and a secret seed. It reads only the file of weights and its
# `config.json`:
#
#     python -m qdiff_lib.course.capstone submitted --seed N
#
# ### The number (8 points)
#
# Which folder do you hand in? Write its bytes, its bit operations, its number and its standard error.

# %% [markdown] tags=["manual"]
# *Your text.*

# %% [markdown]
# ### The runs (4 points)
#
# Make a table with a row for each run: what you changed, the number, the bytes, the minutes. It has the baseline and at
# least four other runs. Each run differs from an earlier run by one change, so that each row answers one question.

# %% [markdown] tags=["manual"]
# *Your text.*

# %% [markdown]
# ### The reasons (4 points)
#
# How did you use the bytes, the bit operations and the minutes, and why? Explain two of your choices. For each, say what
# a lesson says and what your own runs show. Name one change that did not help, and the likely reason.

# %% [markdown] tags=["manual"]
# *Your text.*

# %% [markdown]
# ### The doubts (4 points)
#
# Which differences in your table may be chance? How did you find out? Do you expect the same number with your teacher's
# noise? Why, or why not? What would you measure next?

# %% [markdown] tags=["manual"]
# *Your text.*

# %% [markdown]
# ## The rubric
#
# | part | full points | a part of the points | no points |
# |---|---|---|---|
# | The number (8) | from 21 dB on, measured by your teacher | between 14 and 21 dB: points in proportion, for example half of them at 17.5 dB | 14 dB or less, or beyond a budget |
# | The runs (4) | baseline and four runs, one change at a time, all with numbers, bytes and minutes | half: fewer than four runs beside the baseline, or rows that change several things at once or lack numbers | no table, or numbers that a repeated run does not give |
# | The reasons (4) | two choices are explained by a lesson and by the runs; one failure with its reason | half: explained by only one of the two, or no failure | no reasons |
# | The doubts (4) | compares differences with the standard error or with a second seed; says which choices were made with the learner's own seed | half: says that differences may be chance, without a measurement | takes all differences as facts |
#
# If the calibration of your recipe takes more than 30 minutes on two CPU cores, the number gets no points.
