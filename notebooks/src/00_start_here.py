# %% [markdown]
# # What does quantization buy, and what does it cost?
#
# | | |
# |---|---|
# | You will be able to | put numbers on an integer grid, say what a bit saves and what it costs, compute with integers alone, use the course's checks and hints |
# | You need | Python and PyTorch, and to have heard of diffusion models |
# | Minutes | 20 to work through; the cells run in about half a minute on two CPU cores, less on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 2 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# Run the cells from top to bottom. The cell below this one prints a line when the course is ready.

# %% [markdown]
# ## The picture first
#
# This course ships a small diffusion model that draws clothes. To *quantize* it means to store its numbers in fewer
# bits. Below, the same network draws with its weights at 32 bits, as it was trained, and rounded to 8, 4 and 3 bits.
# Every column starts from the same noise, and the sampler, DDIM, adds none on its way: without the rounding all rows
# would be equal.

# %%
from qdiff_lib import Recipe, load, quantize, sample, with_sampler

images, steps = lesson.pick(tiny=(12, 20), laptop=(12, 50), gpu=(12, 100))
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
full = sample(pipe, n=images, steps=steps, record=True, progress=True)
rows = {32: full.images}
for bits in (8, 4, 3):
    recipe = Recipe.linear(weights=bits, activations=32, steps=2, samples=4)  # activations stay as they are
    fewer = quantize(pipe, recipe, progress=False)
    rows[bits] = sample(fewer, n=images, steps=steps, progress=True).images

# %%
from qdiff_lib.course.figures import lesson_00 as figures
from qdiff_lib.graph.cost import model_bytes, parameter_count

count = parameter_count(pipe.unet)
megabytes = {bits: model_bytes(count, bits) / 1e6 for bits in rows}
show(figures.same_noise(rows, megabytes))

# %% [markdown]
# Why do 8 bits change nearly nothing, while 3 bits ruin the pictures? Why does 4 sit at the edge, with some pictures
# kept and some turned into others? And how can the edge be moved? By the end of this course you can answer all three.
# This lesson starts with eight numbers.
#
# ## Eight numbers on a grid
#
# An *integer grid* of $b$ bits has $2^b$ values at equal distances. A number is stored as the *code* of the value
# next to it: a whole number from $0$ to $2^b - 1$.
#
# The distance of two neighbouring values is the *scale* $s$. The code of the number 0 is the *zero point* $z$. Range
# finders choose both. `min_max` lets the grid reach from the smallest number to the largest, and then shifts it by a
# fraction of a step, so that 0 is exactly one of its values.

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.quantizers.grid import Grid
from qdiff_lib.quantizers.range_finders import min_max

weights = torch.tensor([-0.62, -0.36, -0.08, 0.0, 0.11, 0.27, 0.48, 0.88])
s, z = min_max(weights, Grid(bits=4))
print(f"scale {s.item():.3f}, zero point {z.item():.0f}")
show(figures.number_line(weights, bits=4))

# %% [markdown]
# ### The equation, and the lines that implement it
#
# $$q = \mathrm{clip}\left(\mathrm{round}(w / s) + z,\ 0,\ 2^b - 1\right) \qquad \hat w = s\,(q - z)$$
#
# To and from the grid, with the same letters (the paper's section 2):


# %%
def to_codes(w, s, z, b):
    q = torch.round(w / s) + z
    return q.clamp(0, 2**b - 1)


def to_numbers(q, s, z):
    return s * (q - z)


# %% tags=["nbval-check-output"]
from qdiff_lib.quantizers.grid import fake_quantize

q = to_codes(weights, s, z, b=4)
restored = to_numbers(q, s, z)
for row in zip(weights.tolist(), q.int().tolist(), restored.tolist()):
    print("{:6.2f}  code {:2d}  restored {:6.2f}".format(*row))
same = torch.equal(restored, fake_quantize(weights, s, z, bits=4))
largest, half = (restored - weights).abs().max().item(), s.item() / 2
claim(same, "five lines give what the library's fake_quantize gives")
claim(largest <= half, f"no number moved by more than half a step: {largest:.3f} <= {half:.3f}")
claim(restored[3] == 0, "the number 0 came back as 0, without any error")

# %% [markdown]
# ## What a bit costs
#
# **Predict before you run:** the grid above has 4 bits. You take one bit away. By which factor does the largest error
# grow: 1.5, 2, or 4?

# %% tags=["nbval-check-output"]
widths = [2, 3, 4, 5, 6, 7, 8]
grids = {b: min_max(weights, Grid(b)) for b in widths}
step = {b: grids[b].scale.item() for b in widths}
error = {b: (fake_quantize(weights, *grids[b], b) - weights).abs().max().item() for b in widths}
for b in widths:
    print(f"{b} bits: {2**b:3d} values, step {step[b]:.4f}")
show(figures.error_by_bits(widths, list(error.values()), list(step.values())))
claim(
    step[3] > 2 * step[4], f"from 4 bits to 3 the step grows {step[3] / step[4]:.2f} times: 15 gaps become 7"
)
claim(abs(step[4] / step[8] - 255 / 15) < 1e-3, f"from 8 bits to 4 it grows {step[4] / step[8]:.0f} times")

# %% [markdown]
# The step is the range divided by the number of gaps, $2^b - 1$. The bound of half a step is what you can promise;
# the error itself depends on where the numbers happen to lie. Move the slider and watch the numbers fall together.

# %%
explore(lambda bits: figures.number_line(weights, bits), "bits", [2, 3, 4, 5, 6], twin=[2, 3, 4, 5])

# %% [markdown]
# ## What it buys: bytes
#
# A network's file holds little else than its weights. In 4 bits, two codes share a byte.

# %% tags=["nbval-check-output"]
from qdiff_lib.quantizers.packing import pack

packed = pack(q.to(torch.uint8), bits=4)
print(
    f"{weights.numel()} numbers: {weights.numel() * 4} bytes as 32-bit floats, {len(packed)} bytes as 4-bit codes"
)
for name, parameters in {"the model of this course": 2_244_609, "Stable Diffusion v1.4": 859_521_000}.items():
    sizes = [f"{model_bytes(parameters, b) / 1e6:,.1f} MB at {b} bits" for b in (32, 8, 4)]
    print(f"{name}: {', '.join(sizes)}")

# %% [markdown]
# ### Exercise: the bytes of a layer
#
# *Difficulty 1 of 5, importance 3 of 5, 3 minutes.* A layer's file holds its codes, packed without gaps, and for each
# output channel a scale and a zero point of 4 bytes each. Write the function that counts the bytes.
#
# This is how all exercises work: replace the line that raises, run the cell, then run `check`. It says *right*,
# *wrong* with the likely reason, or *not attempted*, and you may try as often as you like. `hints` opens one hint at a
# time. The solution comes last. Nothing later in a lesson needs your function, so you can go on without it.


# %% tags=["exercise"] exercise="00.file_bytes"
def file_bytes(count: int, bits: int, channels: int) -> int:
    """Bytes of ``count`` codes of ``bits`` bits, packed, and of the scales and zero points of the channels.

    7 codes of 3 bits take 21 bits, so 3 bytes: a file has whole bytes only.
    """
    # BEGIN SOLUTION
    code_bytes = -(-count * bits // 8)  # rounds up
    grid_bytes = (4 + 4) * channels
    return code_bytes + grid_bytes
    # END SOLUTION


# %% [markdown]
# ## What it buys: integer arithmetic
#
# A layer multiplies weights $w$ with inputs $x$ and adds up. If both are on grids, the scales come out of the sum, and
# what is left are whole numbers:
#
# $$\sum_i \hat w_i \hat x_i = s_w s_x \sum_i (q_{w,i} - z_w)(q_{x,i} - z_x)$$
#
# Integer units are smaller and use less energy than floating-point units, and they read fewer bytes. This course
# *simulates* them, on the left side of the equation. Is the simulation honest? Fractions tell: they never round.

# %% tags=["nbval-check-output"]
from fractions import Fraction

inputs = torch.tensor([0.0, 1.3, 0.2, 0.7, 2.1, 0.4, 1.6, 2.5])
s_x, z_x = min_max(inputs, Grid(bits=8))
w_whole = (q - z).int().tolist()
x_whole = (to_codes(inputs, s_x, z_x, b=8) - z_x).int().tolist()
total = sum(a * b for a, b in zip(w_whole, x_whole))
scale_w, scale_x = Fraction(s.item()), Fraction(s_x.item())
simulated = sum((scale_w * a) * (scale_x * b) for a, b in zip(w_whole, x_whole))
print(f"the whole number {total} times both scales: {float(scale_w * scale_x * total):.4f}")
print(f"before the grids, the sum was {(weights * inputs).sum().item():.4f}")
claim(simulated == scale_w * scale_x * total, "as fractions, the integer sum and the simulation are equal")
claim(8 * 15 * 255 < 2**15, f"8 products of at most 15 x 255 never need more than 16 bits; here {total}")

# %% [markdown]
# ### Exercise: a dot product in whole numbers
#
# *Difficulty 1 of 5, importance 4 of 5, 4 minutes.* Compute the whole number on the right side of the equation from
# the codes. Look at their type before you subtract.


# %% tags=["exercise"] exercise="00.integer_dot"
def integer_dot(q_w: torch.Tensor, z_w: int, q_x: torch.Tensor, z_x: int) -> int:
    """The sum of (q_w - z_w) (q_x - z_x), exactly; q_w and q_x are codes, uint8 (n,)."""
    # BEGIN SOLUTION
    differences = (q_w.int() - z_w) * (q_x.int() - z_x)  # uint8 would wrap around below 0
    return differences.sum().item()
    # END SOLUTION


# %% [markdown]
# ## The real model, drawing
#
# A diffusion model draws by removing noise, in many steps, each a pass through the network. The file of the first
# picture is read once; its rounded weights are used at *every* step. Keep that in mind for the next lesson.

# %%
shown = [1, steps // 2, 7 * steps // 10, 17 * steps // 20, steps]
show(figures.drawing(full.trajectory[:, :3], shown))
distance = {b: figures.grey_distance(rows[b], rows[32]) for b in (8, 4, 3)}
claim(
    distance[8] < 10, f"8 bits move a pixel by {distance[8]:.1f} of 255 grey levels on average: hard to see"
)
claim(
    distance[4] > 2 * distance[8],
    f"4 bits move it by {distance[4]:.0f}: {distance[4] / distance[8]:.0f} times as much",
)
claim(distance[3] > 1.3 * distance[4], f"3 bits move it by {distance[3]:.0f}: the drawings fall apart")

# %% [markdown]
# ## Where it breaks
#
# All eight numbers share one step. **Predict:** the last of them becomes 30. What happens to the other seven?

# %%
show(figures.with_and_without(weights, outlier=30.0, bits=4))
stretched = torch.cat([weights[:-1], torch.tensor([30.0])])
s_far, z_far = min_max(stretched, Grid(bits=4))
left = len(set(to_codes(stretched, s_far, z_far, b=4)[:-1].tolist()))
claim(left <= 2, f"seven different numbers now share {left} code(s): one outlier took the whole grid")

# %% [markdown]
# ## Profiles, and the doctor
#
# The lessons run on a laptop's CPU. The *profile* sets the sizes: `tiny` for minutes on a CPU, `laptop` for more
# images and steps, `gpu` for a graphics card. It is chosen by itself; to choose it, set the environment variable
# `QDIFF_PROFILE` before you start JupyterLab. If anything fails, the doctor says what is wrong and how to mend it; in
# a terminal it is `python -m qdiff_lib doctor`.

# %%
from qdiff_lib.cli.doctor import check_environment

print(f"profile {lesson.profile}: {images} images in {steps} steps, on {lesson.device}")
for finding in check_environment():
    print(f"{finding.status:8} {finding.name}", *([finding.detail, finding.fix] if finding.fix else []))

# %% [markdown]
# ## Recap
#
# 1. A grid of $b$ bits has $2^b$ values; scale and zero point say where they lie.
# 2. Inside the grid no number moves by more than half a step, and 0 does not move at all.
# 3. Each bit less about doubles the step, and saves the same number of bytes every time.
# 4. Sums of products on grids are whole numbers times two scales, exactly.
# 5. One large number stretches the grid for all that share it.
#
# **Not shown:** grids for each output channel (a real layer has one for every row of its weights), quantized
# activations, and any speed: simulated quantization is slower than floating point, not faster.

# %%
quiz("00")

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023: the paper
#   that this course works through.
# - M. Nagel et al., [A White Paper on Neural Network Quantization](https://arxiv.org/abs/2106.08295), 2021: grids,
#   ranges and rounding in 27 pages, with good figures.
# - B. Jacob et al., [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
#   Inference](https://arxiv.org/abs/1712.05877), CVPR 2018: where the equation of the integer sum comes from.
# - J. Ho, A. Jain and P. Abbeel, [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), 2020:
#   what the shipped model is, in larger.
#
# **Next:** the error of one step was small. The next lesson asks what a hundred steps make of it.
