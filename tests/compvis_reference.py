"""CompVis' UNet and first stage, plainly written, with their parameter names: what conversion must match.

Written from the papers (Rombach et al., 2022; Esser et al., 2021) and the names in the released checkpoints.
"""

import math

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu


def double(x):
    return interpolate(x, scale_factor=2.0, mode="nearest")


class Residual(nn.Module):
    """resample: what is done to the sides; scale_shift: how the time enters."""

    def __init__(self, channels, out, time, groups, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample or (lambda x: x)
        norms = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, out)
        self.in_layers = nn.Sequential(norms[0], nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(norms[1], nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x, time):
        h = self.in_layers[2](self.resample(silu(self.in_layers[0](x))))
        time = self.emb_layers(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + time)
        return self.skip_connection(self.resample(x)) + h


class HeadAttention(nn.Module):
    """Each head's q, k and v lie side by side in ``qkv``."""

    def __init__(self, channels, heads, groups):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, time):
        flat = x.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).unbind(2)
        weights = torch.einsum("bhct,bhcs->bhts", q, k).div(math.sqrt(q.shape[2])).softmax(-1)
        out = torch.einsum("bhts,bhcs->bhct", weights, v).flatten(1, 2)
        return x + self.proj_out(out).view_as(x)


class Halve(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, time):
        return self.op(x)


class Double(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, time):
        return self.conv(double(x))


class Plain(nn.Conv2d):
    def forward(self, x, time):
        return super().forward(x)


class UNet(nn.Module):
    """widths: of the levels; attended: levels with attention. heads: a function of the channels."""

    def __init__(self, channels, widths, attended, heads, groups, residual_resampling):
        super().__init__()
        self.base, time = widths[0], 4 * widths[0]

        def residual(inner, out, resample=None):
            return Residual(inner, out, time, groups, residual_resampling, resample)

        def attention(level, width):
            return [HeadAttention(width, heads(width), groups)] if level in attended else []

        self.time_embed = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time))
        blocks, skips, width = [[Plain(channels, widths[0], 3, padding=1)]], [widths[0]], widths[0]
        for level, out in enumerate(widths):
            for _ in range(2):
                blocks.append([residual(width, out), *attention(level, out)])
                width = out
                skips.append(width)
            if level + 1 < len(widths):
                half = (
                    residual(width, width, lambda x: avg_pool2d(x, 2))
                    if residual_resampling
                    else Halve(width)
                )
                blocks.append([half])
                skips.append(width)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        middle = [residual(width, width), HeadAttention(width, heads(width), groups), residual(width, width)]
        self.middle_block = nn.ModuleList(middle)
        blocks = []
        for level, out in reversed(list(enumerate(widths))):
            for i in range(3):
                block = [residual(width + skips.pop(), out), *attention(level, out)]
                width = out
                if level and i == 2:
                    block.append(residual(width, width, double) if residual_resampling else Double(width))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, x, times):
        half = self.base // 2
        angles = times[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time, skips = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1)), []
        for block in self.input_blocks:
            for module in block:
                x = module(x, time)
            skips.append(x)
        for module in self.middle_block:
            x = module(x, time)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for module in block:
                x = module(x, time)
        return self.out(x)


class StageResidual(nn.Module):
    def __init__(self, channels, out, groups):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(groups, n, eps=1e-6) for n in (channels, out))
        self.conv1, self.conv2 = (nn.Conv2d(n, out, 3, padding=1) for n in (channels, out))
        self.nin_shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x):
        return self.nin_shortcut(x) + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))


class StageAttention(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))
        weights = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(q.shape[1])).softmax(-1)
        return x + self.proj_out(torch.einsum("bts,bcs->bct", weights, v).view_as(x))


class Resample(nn.Module):
    """Halves the sides, with a border at the right and the bottom alone, or doubles them."""

    def __init__(self, channels, halve):
        super().__init__()
        self.halve = halve
        self.conv = nn.Conv2d(channels, channels, 3, *((2,) if halve else (1, 1)))

    def forward(self, x):
        return self.conv(pad(x, (0, 1, 0, 1)) if self.halve else double(x))


def level(channels, out, blocks, groups, **resample):
    parts = nn.Module()
    parts.block = nn.ModuleList(
        StageResidual(channels if i == 0 else out, out, groups) for i in range(blocks)
    )
    for name, module in resample.items():
        setattr(parts, name, module)
    return parts


class Coder(nn.Module):
    """An encoder (``down``) or a decoder (``up``), in the original order of levels."""

    def __init__(self, channels, out, widths, groups, encode):
        super().__init__()
        self.encode = encode
        last, inner = widths[-1], (widths[0] if encode else widths[-1])
        self.conv_in = nn.Conv2d(channels, inner, 3, padding=1)
        levels = {}
        for i, width in enumerate(widths) if encode else reversed(list(enumerate(widths))):
            resampled = i + 1 < len(widths) if encode else i > 0
            name = "downsample" if encode else "upsample"
            extra = {name: Resample(width, encode)} if resampled else {}
            levels[i] = level(inner, width, 2 if encode else 3, groups, **extra)
            inner = width
        setattr(self, "down" if encode else "up", nn.ModuleList(levels[i] for i in range(len(widths))))
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = (StageResidual(last, last, groups) for _ in range(2))
        self.mid.attn_1 = StageAttention(last, groups)
        self.norm_out = nn.GroupNorm(groups, inner, eps=1e-6)
        self.conv_out = nn.Conv2d(inner, out, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        x = x if self.encode else self.middle(x)
        for parts in self.down if self.encode else reversed(self.up):
            for block in parts.block:
                x = block(x)
            for name in ("downsample", "upsample"):
                x = getattr(parts, name, nn.Identity())(x)
        x = self.middle(x) if self.encode else x
        return self.conv_out(silu(self.norm_out(x)))

    def middle(self, x):
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))


class FirstStage(nn.Module):
    """latent: its channels. codes: size of the code book; None: a Gaussian, of which the mean is taken."""

    def __init__(self, latent, widths, groups, codes):
        super().__init__()
        moments = latent if codes else 2 * latent
        self.encoder, self.decoder = (
            Coder(3, moments, widths, groups, True),
            Coder(latent, 3, widths, groups, False),
        )
        self.quant_conv, self.post_quant_conv = nn.Conv2d(moments, moments, 1), nn.Conv2d(latent, latent, 1)
        self.quantize = nn.Module()
        if codes:
            self.quantize.embedding = nn.Embedding(codes, latent)

    def encoded(self, images):
        return self.quant_conv(self.encoder(images))[:, : self.post_quant_conv.in_channels]

    def decoded(self, latents):
        if hasattr(self.quantize, "embedding"):
            table, flat = self.quantize.embedding.weight, latents.permute(0, 2, 3, 1)
            nearest = torch.cdist(flat.flatten(0, 2), table).argmin(1)
            latents = table[nearest].view_as(flat).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(latents))
