# %% [markdown]
# # What does quantization buy, and what does it cost?
#
# | | |
# |---|---|
# | You will be able to | put numbers on an integer grid; say what one bit saves and what it costs; compute with integers only; use the course's checks and hints |
# | You need | Python and PyTorch, and a first idea of diffusion models |
# | Time | about 20 minutes; the cells run in half a minute on two CPU cores, and faster on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 2 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# Run the cells from top to bottom. The next cell prints a line when the course is ready. The page
# [notation and glossary](../docs/notation.md) lists all letters and terms, with the Korean terms.

# %% [markdown]
# ## The picture first
#
# This course has a small diffusion model that draws clothes. To *quantize* a model means to store its numbers in
# fewer bits. Below, the same network draws four times. In the first row its weights have 32 bits, as after training.
# In the other rows the weights are rounded to 8, 4 and 3 bits.
#
# Each column starts from the same noise. The sampler, DDIM, adds no noise of its own. So without rounding, all rows
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
# With 8 bits the pictures hardly change. With 3 bits they are destroyed. With 4 bits some pictures stay, and some turn
# into other clothes. Why? And how can a 4-bit model draw the right pictures? At the end of this course you can answer
# both questions. This lesson starts with eight numbers.
#
# ## Eight numbers on a grid
#
# An *integer grid* of $b$ bits has $2^b$ values at equal distances. The computer stores a number as the *code* of the
# nearest value. A code is a whole number from $0$ to $2^b - 1$.
#
# The distance between two neighbouring values is the *scale* $s$. The code of the number 0 is the *zero point* $z$. A
# *range finder* chooses the scale and the zero point. The range finder `min_max` works in two steps:
#
# 1. The grid reaches from the smallest number to the largest.
# 2. The grid moves by a fraction of the scale, so that 0 is exactly one of its values.

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.quantizers.grid import Grid
from qdiff_lib.quantizers.range_finders import min_max

weights = torch.tensor([-0.62, -0.36, -0.08, 0.0, 0.11, 0.27, 0.48, 0.88])
s, z = min_max(weights, Grid(bits=4))
print(f"scale {s.item():.3f}, zero point {z.item():.0f}")
show(figures.number_line(weights, bits=4))

# %% [markdown]
# ### The equation and its code
#
# $$q = \mathrm{clip}\left(\mathrm{round}(w / s) + z,\ 0,\ 2^b - 1\right) \qquad \hat w = s\,(q - z)$$
#
# The first equation gives the code $q$ of a weight $w$. The second gives the value $\hat w$ on the grid. Both are in
# section 2 of the paper. The code below uses the same letters:


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
claim(same, "these five lines give the same result as the library's fake_quantize")
claim(largest <= half, f"no number moved by more than half of the scale: {largest:.3f} <= {half:.3f}")
claim(restored[3] == 0, "the number 0 came back as 0, without any error")

# %% [markdown]
# ## What one bit costs
#
# **Predict:** the grid above has 4 bits. Now it gets 3 bits. By which factor does its scale $s$ grow: about 1.5, about
# 2, or about 4?

# %% tags=["nbval-check-output"]
widths = [2, 3, 4, 5, 6, 7, 8]
grids = {b: min_max(weights, Grid(b)) for b in widths}
scale = {b: grids[b].scale.item() for b in widths}
error = {b: (fake_quantize(weights, *grids[b], b) - weights).abs().max().item() for b in widths}
for b in widths:
    print(f"{b} bits: {2**b:3d} values, scale {scale[b]:.4f}")
show(figures.error_by_bits(widths, list(error.values()), list(scale.values())))
claim(
    scale[3] > 2 * scale[4],
    f"from 4 bits to 3 the scale grows {scale[3] / scale[4]:.2f} times: 15 gaps become 7",
)
claim(
    abs(scale[4] / scale[8] - 255 / 15) < 1e-3, f"from 8 bits to 4 it grows {scale[4] / scale[8]:.0f} times"
)

# %% [markdown]
# The scale is the range divided by the number of gaps, $2^b - 1$. An error is never larger than half of the scale. The
# error itself depends on where the numbers lie. Move the slider: with fewer bits, different numbers get the same code.

# %%
explore(lambda bits: figures.number_line(weights, bits), "bits", [2, 3, 4, 5, 6], twin=[2, 3, 4, 5])

# %% [markdown]
# ## What it saves: bytes
#
# The file of a network holds mainly its weights. With 4 bits, two codes fit into one byte.

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
# *Difficulty 1 of 5, importance 3 of 5, time: about 3 minutes.* The file of a layer holds its codes, packed without
# gaps. For each output channel it also holds a scale and a zero point, of 4 bytes each. Write the function that counts
# the bytes.
#
# All exercises work in this way:
#
# 1. Replace the line that raises an error by your code, and run the cell.
# 2. Run the `check` cell. It says *right*, *wrong* with the likely reason, or *not attempted*. You may try again as
#    often as you like.
# 3. If you need help, `hints` shows one hint at a time.
#
# No later cell needs your function, so you can also skip an exercise. `progress()` at the end of each lesson shows
# which exercises you have solved.


# %% tags=["exercise"] exercise="00.file_bytes"
import torch


def file_bytes(count: int, bits: int, channels: int) -> int:
    """Bytes of ``count`` packed codes of ``bits`` bits, and of the scales and zero points of the channels.

    7 codes of 3 bits take 21 bits, so 3 bytes: a file has whole bytes only.
    """
    # BEGIN SOLUTION
    code_bytes = -(-count * bits // 8)  # rounds up
    grid_bytes = (4 + 4) * channels
    return code_bytes + grid_bytes
    # END SOLUTION


# %% [markdown]
# ## What it saves: integer arithmetic
#
# A layer multiplies weights $w$ by inputs $x$ and adds the products. If both are on grids, both scales are common
# factors. Only whole numbers stay in the sum:
#
# $$\sum_i \hat w_i \hat x_i = s_w s_x \sum_i (q_{w,i} - z_w)(q_{x,i} - z_x)$$
#
# Integer units of a chip are smaller than floating-point units and use less energy. They also read fewer bytes. This
# course *simulates* them: it computes the left side of the equation in floating point. We check the equation with exact
# fractions.

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
print(f"without the grids, the sum is {(weights * inputs).sum().item():.4f}")
claim(simulated == scale_w * scale_x * total, "as fractions, the integer sum and the simulation are equal")
claim(8 * 15 * 255 < 2**15, f"8 products of at most 15 x 255 never need more than 16 bits; here {total}")

# %% [markdown]
# ### Exercise: a dot product in whole numbers
#
# *Difficulty 1 of 5, importance 4 of 5, time: about 4 minutes.* Compute from the codes the sum on the right side of
# the equation, without the scales. Look at the type of the codes before you subtract.


# %% tags=["exercise"] exercise="00.integer_dot"
def integer_dot(q_w: torch.Tensor, z_w: int, q_x: torch.Tensor, z_x: int) -> int:
    """The sum of (q_w - z_w) (q_x - z_x), exactly; q_w and q_x are codes, uint8 (n,)."""
    # BEGIN SOLUTION
    differences = (q_w.int() - z_w) * (q_x.int() - z_x)  # uint8 would wrap around below 0
    return differences.sum().item()
    # END SOLUTION


# %% [markdown]
# ## The real model draws
#
# A diffusion model draws by removing noise in many steps. Each step runs the whole network once. The weights are
# rounded once, and *every* step uses the same rounded weights. The next lesson builds on this fact.

# %%
shown = [1, steps // 2, 7 * steps // 10, 17 * steps // 20, steps]
show(figures.drawing(full.trajectory[:, :3], shown))
distance = {b: figures.grey_distance(rows[b], rows[32]) for b in (8, 4, 3)}
claim(
    distance[8] < 10,
    f"8 bits change a pixel by {distance[8]:.1f} of 255 grey levels on average: this is hard to see",
)
claim(
    distance[4] > 2 * distance[8],
    f"4 bits change it by {distance[4]:.0f}: {distance[4] / distance[8]:.0f} times as much",
)
claim(distance[3] > 1.3 * distance[4], f"3 bits change it by {distance[3]:.0f}: no clothes are left")

# %% [markdown]
# ## Where it breaks
#
# All eight numbers share one scale. The last number now becomes 30.
#
# **Predict:** how many different codes do the other seven numbers have then: seven, about four, or at most two?

# %%
show(figures.with_and_without(weights, outlier=30.0, bits=4))
stretched = torch.cat([weights[:-1], torch.tensor([30.0])])
s_far, z_far = min_max(stretched, Grid(bits=4))
left = len(set(to_codes(stretched, s_far, z_far, b=4)[:-1].tolist()))
claim(left <= 2, f"seven different numbers now share {left} code(s): one outlier takes the whole grid")

# %% [markdown]
# ## Profiles, and the doctor
#
# The lessons run on the CPU of a laptop. The *profile* sets the sizes: `tiny` needs minutes on a CPU, `laptop` draws
# more images in more steps, and `gpu` is for a graphics card. The course chooses the profile. To choose it yourself,
# set the environment variable `QDIFF_PROFILE` before you start JupyterLab.
#
# If a cell fails, run `python -m qdiff_lib doctor` in a terminal. It says what is wrong and how to repair it.

# %%
from qdiff_lib.cli.doctor import check_environment

print(f"profile {lesson.profile}: {images} images in {steps} steps, on {lesson.device}")
for finding in check_environment():
    print(f"{finding.status:8} {finding.name}", *([finding.detail, finding.fix] if finding.fix else []))

# %% [markdown]
# ## Recap
#
# 1. A grid of $b$ bits has $2^b$ values. Scale and zero point say where they lie.
# 2. Inside the grid no number moves by more than half of the scale. The number 0 does not move.
# 3. With one bit less, the scale is about twice as large. Each bit less saves the same number of bytes.
# 4. On grids, a sum of products is a whole number times two scales. This is exact.
# 5. One large number makes the scale large for all numbers that share the grid.
#
# **Not shown:** grids for each output channel (a real layer has one for every row of its weights), quantized
# activations, and any speed: simulated quantization is slower than floating point. [Lesson 6](06_integer_execution.ipynb)
# measures integers that really run as integers.

# %%
quiz("00")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. The paper of
#   this course.
# - M. Nagel et al., [A White Paper on Neural Network Quantization](https://arxiv.org/abs/2106.08295), 2021. Grids,
#   ranges and rounding in 27 pages, with good figures.
# - B. Jacob et al., [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
#   Inference](https://arxiv.org/abs/1712.05877), CVPR 2018. The source of the equation with the integer sum.
# - J. Ho et al., [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), NeurIPS 2020. Larger
#   models of the kind that this course uses.
#
# **Next:** the error of one step is small. Lesson 1 asks how large it is after a hundred steps.
