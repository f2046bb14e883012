# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 05: Scaling
#
# Chapter 04 trained a small transformer while you fetched a coffee. Sapiens-2B was pretrained "using 1024 A100 GPUs
# for 18 days" (§4.1). From the one to the other no new idea about vision is needed, only arithmetic: how many
# operations, how many bytes, how many days, how many kilowatt hours. With that arithmetic you know before the first
# GPU is switched on whether a run fits, what to change if it does not, and whether the numbers of a paper add up.
# (Not all do, as you will find.)
#
# **What you will build**: the formulas, each held against a measurement on the machine before you; the four tricks
# that make a large model fit (16-bit numbers, checkpointing, accumulation, sharding), each with what it saves; two
# real processes that train one model; and a launch on 1,024 GPUs, proven without a single one. The picture below
# comes from the finished formulas.
#
# | | |
# |---|---|
# | **You should know** | chapter 04: the transformer block, a training step |
# | **Reading** | 75 minutes |
# | **Exercises** | ten, about 90 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 2 min on a CPU, under 2 GB of memory; only toys are trained here |
# | **From the papers** | Sapiens §3.2, §4.1, Tables 1 and 2 · DAViD §4.1, Table 1 · ACAE S2 · MPT F · HumanRAM B |
#
# **Letters.** B batch · N tokens · D width · H W image; and in this chapter L the number of blocks (depth), P a number
# of parameters, R the number of **ranks**, which are processes that train together, one to a GPU. A **node** is one
# machine of a cluster, mostly with eight GPUs.

# %%
# %matplotlib inline
import inspect
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sympy
from ipywidgets import Dropdown, FloatSlider, SelectionSlider, interactive
from torch.utils.checkpoint import checkpoint

from course_lib import paths, plots
from course_lib.chapters.transformers import Block, VisionTransformer
from course_lib.scale import pick

plt.rcParams.update({"figure.dpi": 72, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from course_lib.exercises import check, exercise

# %%
torch.set_num_threads(1)  # many small operations: on a busy machine a second thread costs more than it brings

# %% [markdown]
# All formulas ask for the same few sizes of a plain ViT.


# %% tags=["export"]
@dataclass(frozen=True)
class Encoder:
    """The sizes of a plain ViT. `tokens` counts the patches and the cls token; a patch holds `patch_values` numbers."""

    width: int
    depth: int
    heads: int
    tokens: int
    patch_values: int = 768  # 16 x 16 pixels x 3 colours


SAPIENS = {  # Sapiens, Table 2; 1024 x 1024 pixels make 64 x 64 patches and, with the cls token, 4,097 tokens
    "Sapiens-0.3B": Encoder(1024, 24, 16, 4097),
    "Sapiens-0.6B": Encoder(1280, 32, 16, 4097),
    "Sapiens-1B": Encoder(1536, 40, 24, 4097),
    "Sapiens-2B": Encoder(1920, 48, 32, 4097),
}

# %%
import course_lib.chapters.scaling as finished  # what this chapter builds, complete: only for this first picture

KINDS = ["parameters", "gradients", "optimiser", "working copies", "activations"]
COLOURS = dict(zip(KINDS, ["#30638e", "#edae49", "#003d5b", "#8d96a3", "#d1495b"], strict=True))


def draw_memory(ax, rows, limit=None, unit=1e9):
    """Named rows of {kind: bytes} as stacked bars, the sum behind each, a dashed line at the limit (in units)."""
    left = np.zeros(len(rows))
    for kind in (kind for kind in KINDS if any(kind in kinds for kinds in rows.values())):
        size = np.array([kinds.get(kind, 0) / unit for kinds in rows.values()])
        ax.barh(range(len(rows)), size, left=left, color=COLOURS[kind], label=kind)
        left += size
    for y, total in enumerate(left):
        words = f"{total:,.0f}" if total > 99 else f"{total:.1f}"
        ax.annotate(words, (total, y), (6, 0), textcoords="offset points", va="center", backgroundcolor="white")
    if limit:
        ax.axvline(limit, color="black", lw=1, ls="--", zorder=0)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="lower right")


# %%
giant = finished.SAPIENS["Sapiens-2B"]
rows = {
    "everything in 32 bits": finished.memory(giant, batch=20, precision="fp32"),
    "16-bit activations (§6)": finished.memory(giant, batch=20),
    "+ checkpointing (§7)": finished.memory(giant, batch=20, recompute=True),
    "+ sharded over 8 GPUs (§9)": finished.memory(giant, batch=20, recompute=True, ranks=8, stage=3),
    "+ 2 images at a time (§8)": finished.memory(giant, batch=2, recompute=True, ranks=8, stage=3),
}
_, ax = plt.subplots(figsize=(9, 2.9), layout="constrained")
draw_memory(ax, rows, limit=80)
ax.set(xlabel="GB on each GPU; dashed: an A100 has 80", xlim=(0, 600))
plt.show()

# %% [markdown]
# *What a GPU has to hold while it trains Sapiens-2B's encoder on 20 images of 1024 × 1024 pixels (20,480 images over
# 1,024 GPUs), with every patch seen; pretraining hides three quarters of them (§4). The first bar is more than six
# times what an A100 has; each row below adds one idea.*
#
# ## 1 How many numbers?
#
# **The question.** "2B" is a name. How many parameters does Sapiens-2B have?
#
# **The idea.** Count one block of chapter 04. A linear layer from $a$ to $b$ values has $ab$ weights and $b$ biases,
# a layer norm has a scale and a shift for each of $D$ values:
#
# | layer | weights | biases |
# |---|---|---|
# | `norm1`, `norm2` | $2 \times D$ | $2 \times D$ |
# | `attn.qkv` | $D \times 3D$ | $3D$ |
# | `attn.proj` | $D \times D$ | $D$ |
# | `mlp.fc1` | $D \times 4D$ | $4D$ |
# | `mlp.fc2` | $4D \times D$ | $D$ |
#
# The number of heads does not occur, because heads divide the width among themselves. Nor does the number of tokens,
# because all tokens use the same weights.
#
# ### Exercise 05.1 — the parameters of a block  ●○○ (5 min)
#
# Add up the table for any `mlp_ratio` (it is the 4 of the last two rows).
#
# <details><summary>Hint</summary>
#
# First with the ratio 4: how many times $D^2$, how many times $D$? Then see which of the numbers in the table change
# with the ratio.
# </details>


# %% tags=["export"]
@exercise("05.1")
def block_parameters(width: int, mlp_ratio: int = 4) -> int:
    """The number of weights and biases of one pre-norm transformer block."""
    # BEGIN SOLUTION
    weights = (3 + 1 + mlp_ratio + mlp_ratio) * width**2
    biases = (3 + 1 + mlp_ratio + 1) * width
    return weights + biases + 4 * width  # two norms, each a scale and a shift
    # END SOLUTION


# %%
check(block_parameters)

# %% [markdown]
# In closed form, and for the whole encoder with its patch embedding, cls token, positions and last norm:
#
# $$P_\text{block} = 12 D^2 + 13 D, \qquad
#   P = L\,P_\text{block} + \underbrace{(768 + 1) D}_\text{patches} + \underbrace{D + N D}_\text{cls, positions}
#       + \underbrace{2 D}_\text{norm}. \tag{05.1}$$


# %% tags=["export"]
def encoder_parameters(encoder: Encoder) -> int:
    """Equation 05.1, the table of positions included."""
    around = encoder.patch_values + 1 + 1 + encoder.tokens + 2  # patch embedding, cls token, positions, last norm
    return encoder.depth * block_parameters(encoder.width) + around * encoder.width


# %%
D = sympy.symbols("D", positive=True)
table = 2 * (D + D) + (3 * D**2 + 3 * D) + (D**2 + D) + (4 * D**2 + 4 * D) + (4 * D**2 + D)
assert sympy.expand(table - (12 * D**2 + 13 * D)) == 0  # (05.1)
with torch.device("meta"):
    block = Block(1920, heads=32)
print(sum(p.numel() for p in block.parameters()), "=", block_parameters(1920))
assert sum(p.numel() for p in block.parameters()) == block_parameters(1920)

# %% [markdown]
# **The meta device.** `torch.device("meta")` makes tensors that have a shape and a dtype, and no numbers. They cost
# nothing, and PyTorch computes every shape on them as it would on real ones. That is how a laptop holds two billion
# parameters.


# %%
def on_meta(encoder, side=1024):
    """The encoder as chapter 04's module, without a single number in it."""
    with torch.device("meta"):
        return VisionTransformer((side, side), 16, encoder.width, encoder.depth, encoder.heads)


giant = SAPIENS["Sapiens-2B"]
counted = sum(p.numel() for p in on_meta(giant).parameters())
print(f"counted {counted:,}   formula {encoder_parameters(giant):,}   printed in Table 2: 2.163 B")
assert counted == encoder_parameters(giant)

# %% [markdown]
# Formula and module agree to the last parameter. The paper does not agree with either: 2.134 is not 2.163. Section 3
# finds the 29 million that are missing.
#
# ## 2 How many operations?
#
# **The question.** What does a block compute for a sequence of N tokens?
#
# **The idea.** Nearly everything is a matrix product. $(N \times a)$ times $(a \times b)$ has $Nb$ entries, each a sum
# of $a$ products: $N a b$ **multiply-adds** (MACs), each a multiplication and an addition: $2 N a b$ **FLOPs**. Norms,
# GELU and softmax touch each number a few times instead of $D$ times, so we leave them out.
#
# Two kinds of product occur in a block. The linear layers meet each token with the $12 D^2$ weights. And attention has
# two products *without any weights*: every query meets every key, $q k^\top$, and the shares mix the values; each of
# them is $N \times N \times D$ multiply-adds, whatever the number of heads.
#
# ### Exercise 05.2 — the FLOPs of a block  ●○○ (8 min)
#
# Forward, one sequence, linear layers and attention's own two products, biases not counted.
#
# <details><summary>Hint</summary>
#
# The weights (without biases and norms) are $(4 + 2r) D^2$ for an MLP ratio of $r$. Do not forget the factor 2.
# </details>


# %% tags=["export"]
@exercise("05.2")
def block_flops(tokens: int, width: int, mlp_ratio: int = 4) -> int:
    """The floating-point operations of one block for one sequence, forward; a multiply-add counts as two."""
    # BEGIN SOLUTION
    linear_layers = tokens * (4 + 2 * mlp_ratio) * width**2
    attention = 2 * tokens**2 * width  # q kᵀ, and the shares times the values
    return 2 * (linear_layers + attention)
    # END SOLUTION


# %%
check(block_flops)

# %% [markdown]
# $$F_\text{block} = \underbrace{24\, N D^2}_\text{linear layers} + \underbrace{4\, N^2 D}_\text{attention's own}
#   \tag{05.2}$$
#
# `FlopCounterMode` watches the operations that PyTorch really calls and adds up their FLOPs, backward included. Does it
# agree with us?


# %% tags=["export"]
def encoder_flops(encoder: Encoder) -> int:
    """The FLOPs of one image, forward: all blocks (equation 05.2) and the patch embedding."""
    patches = 2 * (encoder.tokens - 1) * encoder.patch_values * encoder.width
    return encoder.depth * block_flops(encoder.tokens, encoder.width) + patches


def count_flops(function: Callable, *inputs) -> int:
    """The FLOPs of `function(*inputs)` as PyTorch counts them; with tensors on the meta device it costs no time."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


# %%
image = torch.empty(1, 3, 1024, 1024, device="meta")
for name in list(SAPIENS)[: pick(smoke=1, laptop=4)]:
    encoder = SAPIENS[name]
    counted, formula = count_flops(on_meta(encoder), image), encoder_flops(encoder)
    print(f"{name:13s} {counted / 1e12:7.3f} TFLOPs counted, {formula / 1e12:7.3f} by the formula")
    assert counted == formula

# %% [markdown]
# Equal to the last operation. And the step backward? For each product $y = xW$ the chain rule asks for two of the same
# size, $\partial x = \partial y\,W^\top$ and $\partial W = x^\top \partial y$; each of attention's two products also
# becomes two. So backward costs twice as much as forward, and **a training step three times as much as a forward
# pass**.


# %%
def forward_and_backward(block, x):
    block(x).sum().backward()


with torch.device("meta"):
    x = torch.empty(1, 4097, 1920, requires_grad=True)  # (B, N, D)
forward, both = count_flops(block, x), count_flops(forward_and_backward, block, x)
print(f"forward {forward / 1e9:.1f} GFLOPs, forward and backward {both / 1e9:.1f}: {both / forward:.3f} times")
assert forward == block_flops(4097, 1920) and both == 3 * forward

# %% [markdown]
# Now the same counter on a small block with *real* numbers in it, on the CPU:

# %%
small, real = Block(192, heads=3), torch.randn(1, 257, 192)
on_cpu, formula = count_flops(small, real), block_flops(257, 192)
print(f"counted {on_cpu:,}   formula {formula:,}   missing {formula - on_cpu:,}")
assert formula - on_cpu == 4 * 257**2 * 192  # exactly attention's own products

# %% [markdown]
# The counter has lost $4N^2D$: attention's own products, to the last one. Nothing is broken. On the meta device
# attention falls apart into two plain matrix products, which the counter knows. On a CPU it runs as *one* fused
# kernel, and nobody has told the counter what that one costs. (For the fused kernels of GPUs somebody has.) It adds
# nothing for what it does not know, and it does not say so. The same gap explains a table of Sapiens in section 3.
#
# **When does attention matter?** Where its own products catch up with the linear layers, $4N^2D = 24ND^2$: at
# $N = 6D$.

# %%
N, D = sympy.symbols("N D", positive=True)
assert sympy.solve(sympy.Eq(4 * N**2 * D, 24 * N * D**2), N) == [6 * D]
sides = np.array([224, 384, 512, 768, 1024, 1536, 2048, 4096])
tokens = (sides // 16) ** 2 + 1
linear, own = 48 * 24 * tokens * 1920**2 / 1e12, 48 * 4 * tokens.astype(float) ** 2 * 1920 / 1e12
lines = {"linear layers": linear, "attention's own": own}
plots.curve(lines, sides, "side of the image in pixels", "TFLOPs", xscale="log", yscale="log")
plt.legend(frameon=False, loc="lower right")
plt.axvline(1024, color="black", lw=1, ls="--")
plt.minorticks_off()
plt.xticks(sides[[0, 2, 4, 6, 7]], sides[[0, 2, 4, 6, 7]])
print(f"at 1024 pixels attention adds {own[4] / linear[4]:.0%}; it catches up at {16 * (6 * 1920) ** 0.5:.0f} pixels")

# %% [markdown]
# *Sapiens-2B, forward, one image; dashed: its 1024 pixels. Twice the side is four times the linear layers and sixteen
# times the attention.* In a small model attention takes over much earlier: at D = 192 it does so at 1,152 tokens.
#
# ## 3 MACs or FLOPs?
#
# **The question.** Table 2 of Sapiens has a column "FLOPs". For the 2B model it says 8.709 T. We say 23.599. Who is
# right?
#
# **The idea.** Both, in their own words. A number of operations in a paper comes from *some* counter, and counters
# differ: in whether a multiply-add is one or two, and in what they know. Look for a counting that gives all four rows
# of the table to the last digit:
#
# - a multiply-add is **one**;
# - the linear layers and the patch embedding count, for all 4,097 tokens (and 4,096 patches);
# - a layer norm costs 5 per number. (There are two in each block and one at the end);
# - attention's own products? You have just seen a counter miss them.
#
# ### Exercise 05.3 — what the table counts  ●●○ (10 min)
#
# Write this count as a function of an `Encoder`'s sizes. If all four rows come out, the guess was right.
#
# <details><summary>Hint 1</summary>
#
# Linear layers: $12 N D^2 L$. Layer norms: $2L + 1$ of them, each over $N D$ numbers.
# </details>
# <details><summary>Hint 2</summary>
#
# The patch embedding is a linear layer from `patch_values` to D for each of the $N - 1$ patches; the cls token has no
# pixels.
# </details>


# %% tags=["export"]
@exercise("05.3")
def table_macs(encoder: Encoder) -> int:
    """What Sapiens' Table 2 calls FLOPs: multiply-adds of linear layers, 5 per number of a norm, no attention."""
    # BEGIN SOLUTION
    linear_layers = 12 * encoder.tokens * encoder.width**2 * encoder.depth
    patches = (encoder.tokens - 1) * encoder.patch_values * encoder.width
    norms = 5 * encoder.tokens * encoder.width * (2 * encoder.depth + 1)
    return linear_layers + patches + norms
    # END SOLUTION


# %%
check(table_macs)

# %%
printed = {"Sapiens-0.3B": (0.336, 1.242), "Sapiens-0.6B": (0.664, 2.583),
           "Sapiens-1B": (1.169, 4.647), "Sapiens-2B": (2.163, 8.709)}  # fmt: skip
macs = {name: table_macs(encoder) for name, encoder in SAPIENS.items()}
print("              Table 2: #Params, FLOPs | ours: P, their count | really: FLOPs")
for name, encoder in SAPIENS.items():
    # the masked autoencoder's decoder (chapter 06): blocks; a layer into them; 4,097 positions and a mask token; a
    # norm; a layer from 512 values to the 768 of a patch
    inner = 8 * block_parameters(512) + (encoder.width + 1) * 512 + 4098 * 512 + 2 * 512 + (512 + 1) * 768
    ours = (encoder_parameters(encoder) + inner) / 1e9, macs[name] / 1e12
    print(f"{name:13s} {printed[name]!s:>23s} | {ours[0]:8.3f}, {ours[1]:8.3f}  | {encoder_flops(encoder) / 1e12:9.3f}")
    assert tuple(round(value, 3) for value in ours) == printed[name]

# %% [markdown]
# Eight of eight, so we believe it, though it is an inference and the paper does not say so. **FLOPs** in Table 2 are
# multiply-adds of the encoder *without* attention's own products. And **#Params** is another machine than FLOPs: the
# missing 29 million are the decoder of the masked autoencoder (8 blocks of width 512), which is thrown away after
# pretraining. What an image really costs is 2.7 to 3.3 times the printed number.
#
# Table 1 of the same paper compares 8709.0 "GFLOPs" with earlier models. Let us count those, too, both ways:

# %%
print("                     printed   without attention's products   with them      (GMACs)")
for name, value, encoder in (("DINO, ViT-B/16", 17.6, Encoder(768, 12, 12, 197)),
                             ("iBOT, ViT-L/16", 61.6, Encoder(1024, 24, 16, 197)),
                             ("ViT-6.5B/14", 1657.0, Encoder(4096, 32, 32, 257, 588))):  # fmt: skip
    without, within = table_macs(encoder) / 1e9, encoder_flops(encoder) / 2e9
    print(f"{name:18s} {value:8.1f} {without:18.1f} {within:24.1f}")
    assert min(abs(without - value), abs(within - value)) < 0.5

# %% [markdown]
# (The sizes are from those models' own papers.) DINO and iBOT are printed *with* attention, ViT-6.5B and Sapiens
# *without*. Probably no one did this on purpose: numbers are copied from papers that used different counters. But a
# column that mixes two units cannot be compared row by row. (The text calls the step from the largest of them to
# Sapiens "∼4×"; 8709 over 1657 is 5.3.)
#
# **DAViD's Table 1** goes further. It prints 663 "GFLOPS" for DAViD-Large, 344 for DAViD-Base, and copies 8709 for
# Sapiens-2B. Are 663 MACs or FLOPs? We do not know DAViD's decoder yet (chapter 10), but Base and Large have the same
# one. So subtract: 319 is the difference between a ViT-L and a ViT-B at 384 × 384, and between the few convolutions
# that read them.

# %%
base, large = Encoder(768, 12, 12, 577), Encoder(1024, 24, 16, 577)
gmacs = (encoder_flops(large) - encoder_flops(base)) / 2e9
print(f"ViT-L minus ViT-B: {gmacs:.0f} GMACs = {2 * gmacs:.0f} GFLOPs; printed difference: {663 - 344}")
print(f"left for reading the tokens: {319 - gmacs:.0f} GMACs, or {(319 - 2 * gmacs) / 2:.0f} if 319 are FLOPs")
sapiens = encoder_flops(SAPIENS["Sapiens-2B"]) / 2e9
print(f"Sapiens-2B / DAViD-Large: {8709 / 663:.1f} as printed, {8709 / 331.5:.1f} in one unit, ", end="")
print(f"{sapiens / 331.5:.1f} with Sapiens' attention")

# %% [markdown]
# The layers between ViT and decoder are a handful of 1×1 and 3×3 convolutions on small maps; chapter 10 counts about
# 10 GMACs of difference, so 24 is conceivable (a counter again) and 183 is not. **663 are FLOPs, and in the same column
# 8709 are MACs.** (The authors' model card agrees: 331.5 billion MACs.) The text's "~16x faster (measured in MACs)" is
# 26 in one unit, to DAViD's favour, and more with attention. How 16 came about we could not find out.
#
# What to take from this: before you compare FLOPs of two tables, find out what each of them counts.
#
# ## 4 How long does it take?
#
# **The question.** How many days does a run take on so many GPUs?
#
# **The idea.** Divide operations by operations per second. Two corrections are needed. A step is three forward passes
# (four with §7's checkpointing, which repeats the forward pass). And no GPU reaches the figure of its data sheet in
# training: it waits for memory, for the network, for data. The share that it does reach is its **utilisation** $u$;
# 30 to 50 % is a good value for large transformers. With $n$ samples of $F$ FLOPs forward, on $R$ GPUs:
#
# $$\text{days} = \frac{3\, F\, n}{R \cdot \text{peak} \cdot u \cdot 86400\,\text{s}}. \tag{05.3}$$
#
# ### Exercise 05.4 — days  ●○○ (8 min)
#
# Write equation 05.3, with four passes instead of three where `recompute` is set.
#
# <details><summary>Hint</summary>
#
# First the operations of the whole run, then what all GPUs together really do in a second. A day has 24 · 3600
# seconds.
# </details>


# %% tags=["export"]
@exercise("05.4")
def training_days(
    flops: float, samples: float, gpus: int, peak: float, utilisation: float, recompute: bool = False
) -> float:
    """Equation 05.3: `flops` of one sample forward; `peak` FLOP/s of one GPU; recompute: the blocks run forward twice.

    `utilisation` is what the hardware does, repeated work included."""
    # BEGIN SOLUTION
    passes = 4 if recompute else 3
    seconds = passes * flops * samples / (gpus * peak * utilisation)
    return seconds / (24 * 3600)
    # END SOLUTION


# %%
check(training_days)


# %% [markdown]
# Data sheets give the peak (dense matrix products of 16-bit numbers on the tensor cores, the part of a GPU that does
# nothing else) and the rated power. Energy is then power × time. We count the GPUs at their rated power and nothing
# else, so hosts, network and cooling come on top, and idle GPUs would draw less: an estimate, and said to be one.


# %% tags=["export"]
class Gpu(NamedTuple):
    """A GPU by its data sheet: FLOP/s (dense, 16 bits, tensor cores), bytes of memory, rated watts, FLOP/s in fp32."""

    peak: float
    memory: float
    watts: float
    fp32: float


GPUS = {
    "A100-80GB": Gpu(312e12, 80e9, 400, 19.5e12),
    "A100-40GB": Gpu(312e12, 40e9, 400, 19.5e12),
    "A40-48GB": Gpu(149.7e12, 48e9, 300, 37.4e12),
    "V100-32GB": Gpu(125e12, 32e9, 300, 15.7e12),
    "H100-80GB": Gpu(989e12, 80e9, 700, 67e12),
    "H200-141GB": Gpu(989e12, 141e9, 700, 67e12),
    "L40S-48GB": Gpu(362e12, 48e9, 350, 91.6e12),
    "RTX4090-24GB": Gpu(165e12, 24e9, 450, 82.6e12),
}


def energy(gpus: int, days: float, gpu: str = "A100-80GB") -> float:
    """Kilowatt hours of so many GPUs at their rated power; hosts and cooling are not in it."""
    return gpus * GPUS[gpu].watts * days * 24 / 1000


# %% [markdown]
# **Sapiens-2B: two readings of "tokens".** "Each model is pretrained on 1.2 trillion tokens", and the masked
# autoencoder shows its encoder only a quarter of the patches: 1,024 of 4,096, and the cls token. (The decoder sees all
# of them, at width 512.) Are the 1.2 trillion all patches, or those that the encoder saw? The paper's 18 days decide
# nothing by themselves, but they do give each reading a utilisation:

# %%
budget = 1024 * 18 * 86400 * GPUS["A100-80GB"].peak  # what 1,024 A100s can do in 18 days
encoder, decoder = Encoder(1920, 48, 32, 1025), Encoder(512, 8, 16, 4097)
mae_flops = encoder_flops(encoder) + encoder_flops(decoder)  # of one image: 5 TFLOPs
for reading, seen in (("all patches", 4096), ("visible patches", 1024)):
    images = 1.2e12 / seen
    steps, used = images / 20_480, 3 * mae_flops * images / budget
    days = training_days(mae_flops, images, 1024, GPUS["A100-80GB"].peak, utilisation=0.4)
    words = f"{used:.1%} of peak; {days:.1f} days at 40 %"
    print(f"{reading:15s} {images / 1e6:5.0f} M images, {steps:6,.0f} steps: {words}")
print(f"18 days of 1,024 A100s: {1024 * 18 * 24:,} GPU hours, {energy(1024, 18) / 1000:.0f} MWh")

# %% [markdown]
# One pass over 300 million images at 1 % of what the GPUs can do, or four passes at 4 %. Neither is 40 %. So
# something else took the time: reading and augmenting 1024² images, perhaps, attention without a fused kernel, waiting,
# restarts, or a run that went on much longer than the paper's token count says. We cannot know. We *can* say that the
# arithmetic of the model needs half a day to two days on that machine, and that whoever plans such a run from FLOPs
# alone will be wrong by a factor of ten or more. That is why `plan()` below states its utilisation as an assumption,
# and never fits it to the paper's days.

# %% [markdown]
# ## 5 What has to be kept?
#
# **The question.** Weights of 2.1 billion numbers are 8.5 GB. Why does an A100 with 80 GB not train them?
#
# **The idea.** Two things are kept. The first is the **state**, whatever the batch: AdamW has two running means for
# each weight, so with the weight and its gradient there are four numbers of 4 bytes, **16 bytes per parameter**, 34 GB
# for our giant. The second, the **activations**, grows with the batch: what the forward pass must not forget
# because the backward pass will ask for it.
#
# Several GPUs that train together need not all hold the whole state. ZeRO (Rajbhandari et al. 2020; MPT's DeepSpeed is
# its implementation) counts in stages how much each of R ranks may leave to the others:
#
# | stage | shared out over the ranks | in PyTorch |
# |---|---|---|
# | 0 | nothing: everyone holds everything | `DistributedDataParallel` (DDP) |
# | 1 | the optimiser's two means | `ZeroRedundancyOptimizer` |
# | 2 | and the gradients | (DeepSpeed has it) |
# | 3 | and the parameters | `fully_shard` (FSDP2) |
#
# ### Exercise 05.5 — the state of AdamW  ●●○ (10 min)
#
# Under autocast (§6) weights, gradients and both means stay in 32 bits. What does *one rank* hold, in bytes?
#
# <details><summary>Hint 1</summary>
#
# 4, 4 and 8 bytes per parameter. At stage s the last s of the list `parameters, gradients, optimiser` are divided by
# R.
# </details>
# <details><summary>Hint 2</summary>
#
# Each kind is divided by `ranks` from some stage on, and by 1 before: from stage 1, 2 or 3, as the table says.
# </details>


# %% tags=["export"]
@exercise("05.5")
def state_bytes(parameters: int, ranks: int = 1, stage: int = 0) -> dict[str, float]:
    """The bytes of "parameters", "gradients" and "optimiser" on each rank: AdamW, 32 bits, ZeRO stage 0 to 3."""
    # BEGIN SOLUTION
    return {
        "parameters": 4 * parameters / (ranks if stage >= 3 else 1),
        "gradients": 4 * parameters / (ranks if stage >= 2 else 1),
        "optimiser": 8 * parameters / (ranks if stage >= 1 else 1),
    }
    # END SOLUTION


# %%
check(state_bytes)

# %%
for stage in range(4):
    held = state_bytes(encoder_parameters(giant), 8, stage)
    print(f"stage {stage}, GB on each of 8 ranks:", *(f"{kind} {size / 1e9:5.2f} " for kind, size in held.items()))
layer = nn.Linear(100, 50)  # 5,050 parameters
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 100)).sum().backward()
optimizer.step()
means = [m for state in optimizer.state.values() for name, m in state.items() if name.startswith("exp_avg")]
assert sum(m.nbytes for m in means) == state_bytes(5050)["optimiser"]

# %% [markdown]
# **Activations.** What does autograd keep? It can be asked: `saved_tensors_hooks` calls a function of ours for every
# tensor that is put aside for the backward pass. Let us look into one block, one sequence.


# %%
def kept_for_backward(function, *inputs, without=()):
    """The tensors that autograd keeps of `function(*inputs)`, one for each piece of memory; not those in `without`."""
    kept = {}

    def note(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(*inputs)
    for tensor in without:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return list(kept.values())


# %%
N, D, heads = 256, 192, 3
block, x = Block(D, heads), torch.randn(1, N, D)
kept = kept_for_backward(block, x, without=list(block.parameters()))
for tensor in kept:
    size = tensor.untyped_storage().nbytes()
    print(f"{str(tuple(tensor.shape)):17s} {tensor.dtype} {size:8,} bytes = {size / (4 * N * D):6.3f} · 4ND")
measured = sum(tensor.untyped_storage().nbytes() for tensor in kept)
print(f"together {measured / (4 * N * D):.3f} · 4ND")
assert measured == 64 * N * D + 16 * N + 4 * heads * N

# %% [markdown]
# From top to bottom, in units of N·D numbers: the input of the first norm (1) with mean and spread of each token; what
# enters `qkv` (1); queries, keys and values (3); what enters `proj` (1); the input of the second norm (1); what enters
# `fc1` (1); what enters GELU (4) and `fc2` (4). **Sixteen times the residual stream**, in each block.
#
# Note what is *not* there: a table of N × N attention weights. The fused kernel recomputes them backward from one
# number per token and head. Written as `softmax(q kᵀ) v` the block keeps them, $h N^2$ numbers: for Sapiens-2B 2.1 GB
# in each of 48 blocks, which is 103 GB for a single image. Without fused attention or checkpointing (§7) no A100 could
# train such a model at 1024 pixels.
#
# With autocast (next section) the two inputs of the norms stay at 4 bytes and the other fourteen shrink to 2: 36 bytes
# instead of 64. And with checkpointing (§7) each block keeps only its input.
#
# $$A_\text{block} = B \left( 64\,N D + 16\,N + 4\,h N \right) \text{ in 32 bits}, \qquad 36\,ND \text{ under autocast}
#   \tag{05.4}$$


# %% tags=["export"]
def number_bytes(precision: str) -> int:
    """Bytes of a number that matrix products work on: "fp32" 4, "bf16" (autocast) 2; ValueError for another."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r} is unknown: use 'fp32' or 'bf16'")
    return 4 if precision == "fp32" else 2


def activation_bytes(
    encoder: Encoder, batch: int, precision: str = "bf16", recompute: bool = False, fused: bool = True
) -> int:
    """What the blocks keep for the backward pass (equation 05.4). precision: "fp32", or "bf16" autocast;
    recompute: checkpointed, so the blocks' inputs and one whole block; fused: attention keeps no N x N weights."""
    size, per_number = number_bytes(precision), {"fp32": 64, "bf16": 36}[precision]
    N, D = encoder.tokens, encoder.width
    attention = 4 * encoder.heads * N if fused else size * encoder.heads * N**2
    block = batch * (per_number * N * D + 16 * N + attention)
    return encoder.depth * batch * 4 * N * D + block if recompute else encoder.depth * block


# %% [markdown]
# State, activations, and what sharding and autocast need while they work: that was the first picture of this chapter.


# %% tags=["export"]
def memory(
    encoder: Encoder,
    batch: int,
    ranks: int = 1,
    stage: int = 0,
    precision: str = "bf16",
    recompute: bool = False,
) -> dict[str, float]:
    """Bytes on one rank by kind, `batch` sequences at a time: the sum is what to plan with, the peak is a little less.

    "working copies": autocast's 16-bit copies of the weights; at stage 3 two blocks gathered and a block's gradient."""
    parameters, block = encoder_parameters(encoder), block_parameters(encoder.width)
    size = number_bytes(precision)
    kinds = state_bytes(parameters, ranks, stage)
    kinds["working copies"] = 3 * size * block if stage == 3 else 2 * parameters * (precision == "bf16")
    kinds["activations"] = activation_bytes(encoder, batch, precision, recompute)
    return kinds


# %% [markdown]
# **A film of one step.** To see memory come and go we need the exact bytes at each moment. The next class sits between
# PyTorch and its operations; it adds the bytes of every tensor that appears and subtracts them when the tensor dies.
# (On a GPU `torch.cuda.max_memory_allocated()` counts for you; on a CPU nobody does.)


# %% tags=["export"]
class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as memory:` counts the bytes of the tensors that are made inside, on any device, fake or meta:
    `live` now, `peak` so far, `history` after each operation and at the end."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.history = 0, 0, []
        self.known = WeakIdKeyDictionary()  # storages: several tensors can look at one

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tree_map_only(Tensor, lambda old: self.known.setdefault(old.untyped_storage(), 0), (args, kwargs))
        result = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, result)
        self.history.append(self.live)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.remove, size)

    def remove(self, size: int) -> None:
        self.live -= size

    def __exit__(self, *error) -> None:
        self.history.append(self.live)
        super().__exit__(*error)


# %%
@dataclass
class Toy:
    """The blocks of a small encoder and one batch of token sequences; no images, so that every byte is a block's."""

    encoder: Encoder
    batch: int = 8

    def build(self):
        torch.manual_seed(0)
        blocks = nn.ModuleList(Block(self.encoder.width, self.encoder.heads) for _ in range(self.encoder.depth))
        return blocks, torch.randn(self.batch, self.encoder.tokens, self.encoder.width)  # (B, N, D)


def step(blocks, x, precision="fp32", recompute=False, parts=1):
    """Forward and backward of a mean square, in equal parts; the gradients stay in the parameters."""
    for part in x.chunk(parts):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y = part
            for block in blocks:
                y = checkpoint(block, y, use_reentrant=False) if recompute else block(y)
        (y.square().mean() / parts).backward()


# %%
toy = Toy(pick(smoke=Encoder(96, 3, 3, 65), laptop=Encoder(384, 8, 6, 257)))
blocks, x = toy.build()
with LiveBytes() as film:
    step(blocks, x)
plots.curve({"one step": np.array(film.history) / 1e6}, xlabel="operation of PyTorch", ylabel="MB alive")
gradients, kept = film.history[-1] / 1e6, activation_bytes(toy.encoder, 8, "fp32") / 1e6
for height, words, colour in ((kept, "formula 05.4", "#d1495b"), (gradients, "gradients", "#edae49")):
    plt.axhline(height, color=colour, lw=1, ls="--")
    plt.text(len(film.history), height, words, ha="right", va="top")
print(f"peak {film.peak / 1e6:.1f} MB; by (05.4) {kept:.1f} MB (red); gradients {gradients:.1f} MB (yellow)")
assert film.history[-1] == 4 * sum(p.numel() for p in blocks.parameters())
assert abs(film.peak / 1e6 - kept) < 0.2 * kept

# %% [markdown]
# *Bytes alive during one step (weights not counted). They climb while the forward pass puts things aside, to what
# formula 05.4 predicts (red); the backward pass uses them up from the last block to the first, each saw tooth a block,
# and leaves gradients behind (yellow).* So the peak is at the turn. In a loop that has gradients already when it goes
# forward (§8) both come together; that is why `memory()` adds them up.
#
# The film needs no numbers either. A **fake tensor** knows shape, dtype *and device*, and PyTorch runs the very same
# operations on it without computing. So we can film a model that this machine could never hold:

# %%
from torch._subclasses.fake_tensor import FakeTensorMode


def filmed(toy, **options):
    """The film of one step on fake tensors."""
    with FakeTensorMode():
        blocks, x = toy.build()
        with LiveBytes() as film:
            step(blocks, x, **options)
    return film


fake_film = filmed(toy)
print(f"peak of the step with real tensors {film.peak:,} bytes, with fake ones {fake_film.peak:,}")
assert fake_film.peak == film.peak

# %%
one, L = SAPIENS["Sapiens-2B"], pick(smoke=4, laptop=48)  # one image; so many of its 48 blocks
part = Encoder(one.width, L, one.heads, one.tokens)
for words, recompute in (("everything kept", False), ("checkpointed (§7)", True)):
    film_2b = filmed(Toy(part, batch=1), recompute=recompute)
    kept = activation_bytes(part, 1, "fp32", recompute)
    print(f"{L} blocks, {words:17s}: peak {film_2b.peak / 1e9:5.2f} GB; ", end="")
    print(f"activations by (05.4) {kept / 1e9:5.2f} GB, gradients at the end {film_2b.history[-1] / 1e9:.2f} GB")

# %% [markdown]
# Real and fake agree to the byte. This is how `prove()` at the end of the chapter can try 1,024 GPUs.
#
# The two peaks of the giant lie at different moments. With everything kept it is the turn, where there are no gradients
# yet: the formula's activations, and little else. Checkpointed it is the *end*: all the gradients, and of the
# activations one block's inside.
#
# ## 6 Half the bits
#
# **The question.** Do weights and activations need 32 bits?
#
# **The idea.** A 16-bit number moves twice as fast through memory, takes half the room, and tensor cores multiply it
# sixteen times as fast as 32-bit numbers on an A100 (312 against 19.5 TFLOP/s). But with 16 bits one has to save on
# range (bits of the exponent) or on precision (bits of the mantissa):

# %%
print("             bits   largest    smallest normal   step above 1")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    info = torch.finfo(dtype)
    print(f"{str(dtype)[6:]:12s} {info.bits:4d} {info.max:10.2g} {info.smallest_normal:16.2g} {info.eps:15.2g}")
large = torch.tensor(300.0)
print("300 · 300 =", (large.half() * large.half()).item(), "in float16,", (large.bfloat16() ** 2).item(), "in bfloat16")
weight = torch.tensor(1.0, dtype=torch.bfloat16)
for _ in range(1000):
    weight += 0.001
print("1 + 1000 × 0.001 =", weight.item(), "in bfloat16")
assert weight == 1

# %% [markdown]
# **float16** ends at 65,504. ACAE trained in it, and reports that in long runs it "is unstable, as the activations tend
# to grow out of the representable range" (S5); it took a limit on the size of the weights to tame it. **bfloat16** has
# the range of float32 and only two to three digits. Its danger is the last line: a small step on a large weight is
# rounded away, a thousand times over. Hence the rule of **mixed precision**: *multiply* in 16 bits, *add up* and *keep*
# in 32.
#
# `torch.autocast` is that rule as a context. Inside it, matrix products and convolutions make bf16 copies of what they
# get; norms and losses compute in 32 bits (on a GPU softmax, too); weights, gradients and AdamW stay as they are.


# %%
def gradient(precision):
    """All gradients of one step as one vector (P,)."""
    blocks, x = toy.build()
    step(blocks, x, precision)
    return torch.cat([p.grad.flatten() for p in blocks.parameters()])


exact, rough = gradient("fp32"), gradient("bf16")
error = ((rough - exact).norm() / exact.norm()).item()
print(f"the gradient under autocast is {rough.dtype}, and off by {error:.2%}")
with torch.autocast("cpu", torch.bfloat16):
    inner, x = toy.build()[0][0], toy.build()[1]
    print("a block's qkv gives", inner.attn.qkv(x).dtype, " a norm", inner.norm1(x).dtype, " a block", inner(x).dtype)
assert rough.dtype == torch.float32 and error < 0.1

# %% [markdown]
# Less than a per cent, in a gradient that would change by far more with another batch: training does not notice.
#
# *On a CPU* bf16 is worth it where the processor has instructions for it (where it has none, `fit` measures that and
# stays in 32 bits), but not with fused attention, whose backward pass is slow there in bf16: chapter 04 measures it.
# So chapter 04's block writes attention out as `softmax(q kᵀ) v`, which is faster and keeps the N × N weights. On a
# GPU it uses the fused kernel.
#
# ## 7 Compute again rather than remember
#
# **The question.** Activations are now by far the largest part. Which of them do we have to keep?
#
# **The idea.** Only enough to compute the others again. **Gradient checkpointing** (Chen et al. 2016) keeps the input
# of each block, $4\,ND$ bytes of the $36\,ND$; when the backward pass comes to a block it runs that block forward once
# more, keeps its inside for a moment, and goes on. A block's memory is paid once, not $L$ times. The price is a second
# forward pass: four passes instead of three, a third more operations.
#
# `torch.utils.checkpoint.checkpoint(block, x)` is all it takes. (A recipe says `checkpoint_blocks=True`.)


# %%
def checkpointed(block, x):
    checkpoint(block, x, use_reentrant=False).sum().backward()


with torch.device("meta"):
    block_2b, x = Block(1920, heads=32), torch.empty(1, 4097, 1920, requires_grad=True)
plain, again = count_flops(forward_and_backward, block_2b, x), count_flops(checkpointed, block_2b, x)
last_product = 2 * 4097 * 4 * 1920**2  # of fc2
print(f"{again / plain:.3f} times the operations; a whole repetition would be {4 / 3:.3f}")
assert again == plain + block_flops(4097, 1920) - last_product

# %% [markdown]
# PyTorch stops the repetition as soon as it has what backward needs. The block's last product, `fc2`, gives nothing but
# the next block's input, so it is not repeated: 1.25 instead of 1.33 times.
#
# ## 8 A large batch in small parts
#
# **The question.** Sapiens trains with batches of 20,480 images. What if only two fit?
#
# **The idea.** The gradient of a sum is the sum of the gradients, and PyTorch *adds* to `.grad` anyway. Go forward and
# backward with one part after the other, then let the optimiser step once: **gradient accumulation**. Activations
# shrink by the number of parts, and nothing else changes, provided that you divide correctly.
#
# **The trap.** Losses are means. The mean of three parts' means is the mean of all samples only if the parts are
# equally long; the last part of an epoch is not. With $n_k$ samples in part $k$:
#
# $$\frac1n \sum_i \ell_i = \sum_k \frac{n_k}{n} \Bigl( \frac{1}{n_k} \sum_{i \in k} \ell_i \Bigr). \tag{05.5}$$
#
# ### Exercise 05.6 — accumulate gradients  ●●○ (10 min)
#
# `loss(model, part)` is the mean over a part. Add the gradient of the mean over *all* samples to what the parameters
# have in `.grad` (zeroing it is the loop's business), and return that mean. The point is to hold one part's activations
# at a time, so go backward before the next part goes forward.
#
# <details><summary>Hint 1</summary>
#
# The weight of a part is `len(part) / sum(len(part) for part in parts)`.
# </details>
# <details><summary>Hint 2</summary>
#
# `.backward()` adds to what is in `.grad`. So what must each part's loss be multiplied with before? Sum up `.item()`,
# not tensors, or you keep every graph alive.
# </details>


# %% tags=["export"]
@exercise("05.6")
def accumulate(model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], parts: Sequence[Tensor]) -> float:
    """Adds the gradient of the mean loss over the samples of all parts (n_k, ...) to the parameters; returns the mean.

    Equation 05.5; `loss(model, part)` is the mean over a part."""
    # BEGIN SOLUTION
    samples, mean = sum(len(part) for part in parts), 0.0
    for part in parts:
        share = len(part) / samples * loss(model, part)
        share.backward()
        mean += share.item()
    return mean
    # END SOLUTION


# %%
check(accumulate)

# %%
torch.manual_seed(0)
line, samples = nn.Linear(3, 1), torch.randn(10, 3)


def mean_square(model, part):
    return model(part).square().mean()


accumulate(line, mean_square, [samples])
whole, line.weight.grad = line.weight.grad.clone(), None
accumulate(line, mean_square, samples.split([4, 4, 2]))
print("one part:           ", whole.numpy())
print("parts of 4, 4 and 2:", line.weight.grad.numpy())
assert torch.allclose(whole, line.weight.grad)

# %% [markdown]
# The same trap exists in another form. A loss that divides by the number of *valid pixels* or *visible keypoints* is
# a mean over something that differs between parts of equal length. Then parts, and in §9 ranks, do not weigh equally,
# and the run is no longer the one with the large batch. This course's `fit` divides by the number of parts; its
# streams give equal parts, and where a chapter's loss divides by what is valid, it says so.
#
# **What each trick saves, measured.** The film of one step again: without any trick, with each of the three alone, and
# with all of them.

# %%
tricks = {
    "no trick": {},
    "autocast": {"precision": "bf16"},
    "four parts": {"parts": 4},
    "checkpointing": {"recompute": True},
    "all three": {"precision": "bf16", "recompute": True, "parts": 4},
}
device = "cuda" if torch.cuda.is_available() else "cpu"


def timed(options):
    """Seconds of a step on this machine's best device, after a warm-up; the MB that CUDA counted, if there is CUDA."""
    blocks, x = (thing.to(device) for thing in toy.build())
    step(blocks, x, **options)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step(blocks, x, **options)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None


# %%
films = {}
for name, options in tricks.items():
    blocks, x = toy.build()
    with LiveBytes() as films[name]:
        step(blocks, x, **options)
times = {name: timed(options) for name, options in tricks.items()}
gradients = films["no trick"].history[-1]
plots.curve({}, xlabel="share of the step's operations", ylabel="MB alive")
plt.gcf().set_size_inches(8, 3.4)
for name, film in films.items():
    plt.plot(np.linspace(0, 1, len(film.history)), np.array(film.history) / 1e6, lw=1.5, label=name)
plt.axhline(gradients / 1e6, color="#edae49", lw=1, ls="--")
plt.legend(frameon=False)
plt.show()

# %%
forward = toy.encoder.depth * toy.batch * block_flops(toy.encoder.tokens, toy.encoder.width)
again = forward - toy.encoder.depth * toy.batch * 8 * toy.encoder.tokens * toy.encoder.width**2  # without fc2 (§7)
print("                  peak MB   above the gradients    GFLOPs   ms here")
for name, film in films.items():
    print(f"{name:16s} {film.peak / 1e6:8.1f} {(film.peak - gradients) / 1e6:21.1f}", end="")
    operations = 3 * forward + again * tricks[name].get("recompute", False)
    print(f" {operations / 1e9:9.1f} {1e3 * times[name][0]:9.0f}", times[name][1] or "")
assert all(films[name].peak < films["no trick"].peak for name in ("autocast", "four parts", "checkpointing"))

# %% [markdown]
# *The film of one step under each trick; dashed yellow: the gradients, which all of them leave behind. Autocast lowers
# the mountain. In parts there are four hills, the last three standing on the gradients of the first. Checkpointing
# turns the mountain into a ramp with a tooth for each block that is computed again.* Look at the last row: most of what
# is left is gradients, which lie there all the time once the first part is through, so more parts would save little.
# For the giant at the top of the chapter, with 20 images at a time, activations are nearly everything, and every trick
# counts.
#
# Autocast saves less here than the 36/64 of §5 promise. This is a CPU, where attention is written out (§6) and keeps
# its N × N weights, and the 16-bit copies of the weights are alive, too: at `laptop` 228 MB by formula 05.4, 50 of
# attention and 28 of copies make 306 of the 319 that were seen.
#
# ## 9 Many ranks
#
# **The question.** What 1,024 A100s did in 18 days would take one of them 50 years. How do 1,024 work as one?
#
# **The idea.** Accumulate over GPUs instead of over time. Each rank goes forward and backward with *its* share of the
# batch; then all replace their gradient by the mean over ranks, and by equation 05.5 that is the gradient of the
# whole batch. Equal weights, equal gradient, equal step: they stay equal, and no weights are ever sent. This is
# **data parallelism**, and "replace by the mean over ranks" is called **all-reduce**.
#
# One rank that collects all gradients would not do: from 1,024 ranks it would receive 8.5 GB each. Instead every rank
# cuts its gradient into R pieces, and
#
# 1. **reduce-scatter**: rank $r$ gets piece $r$ of everybody, and keeps the mean of it;
# 2. **all-gather**: everybody gets everybody's finished piece.
#
# A rank sends $(R-1)/R$ of a gradient in each of the two, so together less than *two* gradients, for 8 ranks as for
# 1,024. That is why data parallelism scales.
#
# ### Exercise 05.7 — reduce-scatter  ●●○ (10 min)
#
# Play all ranks at once: gradients as a list, one vector (n,) per rank, n divisible by R.
#
# <details><summary>Hint 1</summary>
#
# All ranks at once are a matrix, (R, n): `torch.stack`. Over which dimension is the mean?
# </details>
# <details><summary>Hint 2</summary>
#
# Rank 0 gets the first of R equal pieces of the mean, and so on. A tensor has a method that cuts it so.
# </details>


# %% tags=["export"]
@exercise("05.7")
def reduce_scatter(gradients: Sequence[Tensor]) -> list[Tensor]:
    """One vector (n,) of each of R ranks -> what each rank has afterwards: its piece (n / R,) of their mean."""
    # BEGIN SOLUTION
    mean = torch.stack(list(gradients)).mean(0)  # (n,)
    return list(mean.chunk(len(gradients)))
    # END SOLUTION


def all_gather(pieces: Sequence[Tensor]) -> list[Tensor]:
    """The piece of each of R ranks -> what each rank has afterwards: all of them, one after the other."""
    return [torch.cat(list(pieces)) for _ in pieces]


# %%
check(reduce_scatter)

# %% [markdown]
# Four ranks, each with two sequences of a batch of eight, against one process that has all eight. The task of the toy:
# every token shall become the mean of its sequence.


# %%
def toy_model():
    """Four blocks of chapter 04, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(*[Block(48, heads=3) for _ in range(4)])


def toy_batch(step):
    """The whole batch (8, N, D) of a step, the same in every process."""
    return torch.randn(8, 17, 48, generator=torch.Generator().manual_seed(step))


def toy_loss(model, x):
    return (model(x) - x.mean(1, keepdim=True)).square().mean()


# %%
def toy_gradient(x):
    model = toy_model()
    toy_loss(model, x).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])  # (P,)


whole = toy_gradient(toy_batch(0))
by_rank = [toy_gradient(share) for share in toy_batch(0).chunk(4)]
averaged = all_gather(reduce_scatter(by_rank))  # all-reduce
print("largest difference to one process:", max((g - whole).abs().max().item() for g in averaged))
assert all(torch.allclose(g, whole, atol=1e-6) for g in averaged)

# %% [markdown]
# **Stop in the middle.** After the reduce-scatter rank $r$ knows the mean gradient of piece $r$, and that is all it
# needs to step piece $r$ of the weights. So why should it keep the optimiser's means for the other pieces? Or their
# gradients? Or, between two uses, their weights? That is **FSDP** (fully sharded data parallel): each rank holds its
# *shard* of everything; when a block's turn comes its weights are gathered, used and dropped, forward and once more
# backward; gradients are reduce-scattered on the way. It sends three times a gradient's size instead of two, and the
# state is divided by R: stage 3 of §5.
#
# PyTorch's `fully_shard` (FSDP2) cuts every parameter along its first dimension into pieces of
# $\lceil n / R \rceil$ rows, as `torch.chunk` does; the last ranks may get fewer, or none.
#
# ### Exercise 05.8 — shard a list of parameters  ●●○ (10 min)
#
# What does one rank hold of each parameter? Keep the names; a rank that gets nothing of a parameter holds a tensor
# with zero rows.
#
# <details><summary>Hint 1</summary>
#
# `tensor.chunk(ranks)` gives *up to* `ranks` pieces: 5 rows over 4 ranks are 2, 2 and 1.
# </details>
# <details><summary>Hint 2</summary>
#
# So the list of pieces may be shorter than `rank`. Which slice of a tensor has no rows, and still the right width and
# dtype?
# </details>


# %% tags=["export"]
@exercise("05.8")
def shard(parameters: dict[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """The rows of each parameter that `rank` of `ranks` holds, as FSDP2 cuts them; (0, ...) where there are none."""
    # BEGIN SOLUTION
    pieces = {name: parameter.chunk(ranks) for name, parameter in parameters.items()}
    return {name: cut[rank] if rank < len(cut) else parameters[name][:0] for name, cut in pieces.items()}
    # END SOLUTION


# %%
check(shard)

# %% [markdown]
# What does it cost in time? For Sapiens-2B a gradient is 8.5 GB. Take data-sheet speeds per GPU and direction, and 20
# images of the masked autoencoder (§4) on each GPU at 40 % of its peak:

# %%
gradient_bytes, computing = 4 * encoder_parameters(giant), 20 * 3 * mae_flops / (0.4 * GPUS["A100-80GB"].peak)
for network, speed in (("NVLink, within a node", 300e9), ("InfiniBand HDR, across nodes", 25e9)):
    seconds = [passes * gradient_bytes / speed for passes in (2, 3)]
    print(f"{network:29s} all-reduce {seconds[0]:.2f} s, FSDP {seconds[1]:.2f} s; computing {computing:.1f} s")

# %% [markdown]
# So across nodes the network is busy for a quarter to two fifths of the step. It need not cost that much: the gradient
# of the last block travels while the block before it is still being computed, and FSDP fetches the next block's weights
# ahead of time. With smaller batches per GPU, though, computing shrinks and traffic does not.
#
# **Two real processes.** So far we played all ranks ourselves. Now the machine starts two Python processes that share
# nothing but a network address, and PyTorch's own DDP and FSDP2 do the work. (`gloo` in the script is the part of
# PyTorch that sends tensors between CPUs.) First the training loop, which is the same in one process and in two:


# %%
def own_bytes(tensors):
    """What this process holds of tensors that may be spread over several."""
    return sum((tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes for tensor in tensors)


def train_toy(model, share=slice(0, 8), steps=6):
    """Trains on its share of each batch: the losses (steps,), and the bytes that this process holds afterwards."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(steps):
        optimizer.zero_grad()
        losses.append(toy_loss(model, toy_batch(step)[share]))
        losses[-1].backward()
        optimizer.step()
    means = [m for state in optimizer.state.values() for name, m in state.items() if name != "step"]
    held = {"parameters": own_bytes(model.parameters()), "gradients": own_bytes(p.grad for p in model.parameters())}
    return torch.stack(losses).detach(), held | {"optimiser": own_bytes(means)}


# %%
SCRIPT = """
import json, os
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from course_lib.chapters.transformers import Block
{functions}
dist.init_process_group("gloo")  # the address of the others, RANK and WORLD_SIZE come from the environment
rank, ranks = dist.get_rank(), dist.get_world_size()
share, report = slice(8 // ranks * rank, 8 // ranks * (rank + 1)), {{}}
for way in ("DDP", "FSDP2"):
    model = toy_model() if way == "FSDP2" else DistributedDataParallel(toy_model())
    for module in [*model, model] if way == "FSDP2" else []:  # each block by itself, then what is left
        fully_shard(module, mesh=init_device_mesh("cpu", (ranks,)))
    losses, held = train_toy(model, share)
    dist.all_reduce(losses)
    report[way] = {{"losses": (losses / ranks).tolist(), "held": held}}
Path(f"rank{{rank}}.json").write_text(json.dumps(report))
dist.destroy_process_group()
os._exit(0)  # at once: a thread of gloo's that lets go of a tensor while Python clears up would abort the process
"""

# %% [markdown]
# Two lines make a model parallel. The rest of the script is the same loop as before, on a share of the batch. On a GPU
# node one would type `torchrun --nproc-per-node 8 script.py`; torchrun starts the processes, tells each its `RANK`,
# and starts them again when one fails. For two processes we can do that ourselves:


# %%
def start(script, folder, ranks=2):
    """Runs a script as `ranks` processes that know of each other; what each wrote into rank0.json, rank1.json, ..."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "USE_LIBUV": "0"}
    known |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(paths.ROOT)}
    Path(folder, "script.py").write_text(script, encoding="utf-8")
    command, said = [sys.executable, "script.py"], tempfile.TemporaryFile("w+")
    started = [
        subprocess.Popen(command, cwd=folder, env=os.environ | known | {"RANK": str(rank)}, stdout=said, stderr=said)
        for rank in range(ranks)
    ]
    while any(process.poll() is None for process in started) and not any(process.poll() for process in started):
        time.sleep(0.05)
    for process in started:
        process.kill()  # where one has failed, the others wait for it
    if any(process.wait() for process in started):
        said.seek(0)
        raise RuntimeError(f"a process failed:\n{said.read()}")
    return [json.loads(Path(folder, f"rank{rank}.json").read_text()) for rank in range(ranks)]


# %%
functions = "\n".join(inspect.getsource(f) for f in (toy_model, toy_batch, toy_loss, own_bytes, train_toy))
with tempfile.TemporaryDirectory() as folder:
    reports = start(SCRIPT.format(functions=functions), folder)
alone, held_alone = train_toy(toy_model())
print("step   one process     DDP, 2 ranks   FSDP2, 2 ranks")
for step_number, loss in enumerate(alone.tolist()):
    print(f"{step_number:4d}", *(f"{value:15.8f}" for value in (loss, *(reports[0][w]["losses"][step_number]
          for w in ("DDP", "FSDP2")))))  # fmt: skip
for way in ("DDP", "FSDP2"):
    assert torch.allclose(alone, torch.tensor(reports[0][way]["losses"]), rtol=1e-4)
    assert reports[0][way]["losses"] == reports[1][way]["losses"]

# %%
rows = {"one process": held_alone}
rows |= {f"{way}, rank {rank}": report[way]["held"] for way in ("DDP", "FSDP2") for rank, report in enumerate(reports)}
_, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
draw_memory(ax, rows, limit=None, unit=1e6)
ax.set(xlabel="MB that the process holds between two steps", xlim=(0, 2.6))
parameters = sum(p.numel() for p in toy_model().parameters())
for row, stage in (("DDP, rank 0", 0), ("FSDP2, rank 0", 3)):
    assert rows[row] == state_bytes(parameters, 2, stage)
held = shard(dict(toy_model().named_parameters()), rank=1, ranks=2)
assert sum(p.nbytes for p in held.values()) == rows["FSDP2, rank 1"]["parameters"]

# %% [markdown]
# *What each process holds, as it reported itself: with DDP everything twice; with FSDP2 half of everything each.* The
# losses are those of one process, up to the order of additions. That is the test that every parallel run has to
# pass; `course_lib.train.fit` passes it, too (`tests/`).
#
# Between machines one often mixes the two: shard within a node, where GPUs are wired to each other, and replicate
# across nodes, where the network is slower. PyTorch calls it **HSDP**; `fully_shard` does it when its mesh has two
# dimensions.
#
# ## 10 Who reads what
#
# **The question.** 1,024 ranks with several worker processes each read one data set. How is every picture read once an
# epoch, by one of them; and when the run dies after 11,000 steps, how does it go on at the very next picture?
#
# **The idea.** Data comes in **shards** (the word of §9 for another thing): tar files of some hundred pictures that are
# read from front to back. Chapter 03's `course data make` writes them, and beside them a **manifest**, the list of the
# shards with how many samples each one has. Every epoch the shards are put in an order that depends on a seed alone.
# Cut that order into **lanes**: with eight lanes, each takes every eighth shard, and all give the same number of
# samples to every batch. Now share out the lanes: a contiguous block of them to each rank, and each rank's block to
# its workers.
#
# A batch is then the same whoever reads it: 8 lanes on 1 rank, 2 or 8 give the same pictures in every batch. And since
# the manifest says how many samples a shard has, the place of batch 11,000 in each lane is arithmetic: nothing has to
# be read to get there.
#
# ### Exercise 05.9 — the lanes of a worker  ●●○ (10 min)
#
# Lanes 0, 1, … in contiguous blocks of equal size to the ranks; a rank's block, again contiguous and as equal as
# possible (the first workers get one more where it does not come out even), to its workers.
#
# <details><summary>Hint 1</summary>
#
# Number the lanes, `torch.arange(lanes)`, and give the vector one row per rank: a row is a rank's block.
# </details>
# <details><summary>Hint 2</summary>
#
# Of the methods that cut a tensor, `chunk` may return fewer pieces than asked for; `tensor_split` always returns as
# many as asked, the longer ones first.
# </details>


# %% tags=["export"]
@exercise("05.9")
def lanes_of(rank: int, ranks: int, worker: int, workers: int, lanes: int) -> list[int]:
    """The lanes that one worker process of one rank reads. ValueError where ranks can't share the lanes equally."""
    if lanes % ranks:
        raise ValueError(f"{lanes} lanes can't be shared equally by {ranks} ranks: use a multiple of {ranks}")
    # BEGIN SOLUTION
    block = torch.arange(lanes).view(ranks, -1)[rank]  # (lanes / ranks,)
    return block.tensor_split(workers)[worker].tolist()
    # END SOLUTION


# %%
check(lanes_of)

# %%
LANES, RANKS, WORKERS, SHARDS = 8, 4, 2, 32
order = np.random.default_rng(5).permutation(SHARDS)  # this epoch's
_, ax = plt.subplots(figsize=(9.5, 2.8), layout="constrained")
seen = []
for rank in range(RANKS):
    for worker in range(WORKERS):
        for lane in lanes_of(rank, RANKS, worker, WORKERS, LANES):
            shards = order[lane::LANES]
            seen += shards.tolist()
            ax.barh([rank * WORKERS + worker] * len(shards), 0.9, left=shards, color=f"C{rank}")
            for turn, number in enumerate(shards):
                ax.text(number + 0.45, rank * WORKERS + worker, turn + 1, ha="center", va="center", color="white")
names = [f"node {rank // 2}, GPU {rank % 2}, worker {w}" for rank in range(RANKS) for w in range(WORKERS)]
ax.set(yticks=range(len(names)), yticklabels=names, xlabel="shard", xlim=(0, SHARDS))
ax.invert_yaxis()
assert sorted(seen) == list(range(SHARDS))  # each shard once

# %% [markdown]
# *Who reads which shard in one epoch, and in which turn (the number): 32 shards, 8 lanes, two nodes of two GPUs with
# two workers each. Each column has one square: no shard is read twice.*
#
# `course_lib.data.streams` is built on this. Any stream of the course keeps one promise: batch number $n$ is the
# same, whatever the number of ranks, and wherever one begins.

# %%
from course_lib.data.streams import TensorStream


def first_batches(start, rank=0, world=1, count=3):
    stream = TensorStream({"x": torch.arange(10)}, seed=1)  # ten samples, batches of four: epochs end within a batch
    return [batch["x"].tolist() for batch in itertools.islice(stream.batches(start, 4, rank, world), count)]


print("one rank:        ", first_batches(0))
print("rank 0 and 1 of 2:", first_batches(0, 0, 2), first_batches(0, 1, 2))
print("from batch 2 on: ", first_batches(2, count=1))
assert [a + b for a, b in zip(first_batches(0, 0, 2), first_batches(0, 1, 2), strict=True)] == first_batches(0)
assert first_batches(2, count=1) == first_batches(0)[2:]

# %% [markdown]
# ## 11 How fast to learn, and when
#
# **The question.** Each paper names a learning-rate schedule. What do they look like, and why these shapes?
#
# **The idea.** The rate is small at first, because AdamW's running means have seen nothing yet: at its very first
# step $\hat m / \sqrt{\hat v} = g / |g|$, so that *every* weight moves by the full learning rate, however small its
# gradient, and in a batch's accidental direction:

# %%
weights = nn.Parameter(torch.zeros(4))
optimizer = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0)
(weights * torch.tensor([1e3, 1.0, -1e-3, 1e-5])).sum().backward()  # gradients from a thousand to a hundred-thousandth
optimizer.step()
print("first step of AdamW:", [f"{value:+.5f}" for value in weights.tolist()])
assert torch.allclose(weights.abs(), torch.tensor(1e-3), rtol=2e-3)

# %% [markdown]
# Hence the **warm-up**: linear, a few hundred or thousand steps. Later the noise of batches keeps the weights from
# settling; lowering the rate lets them. The **cosine** does it smoothly, with $s$ the step from 0, $w$ the steps of
# warm-up and $S$ all steps:
#
# $$\eta(s) = \min\Bigl(1, \tfrac{s + 1}{w}\Bigr) \cdot
#   \Bigl( f + (1 - f)\, \tfrac{1}{2} \bigl( 1 + \cos \pi\, p \bigr) \Bigr), \qquad
#   p = \mathrm{clamp}\Bigl( \frac{s - w}{S - w},\ 0,\ 1 \Bigr). \tag{05.6}$$
#
# ### Exercise 05.10 — warm-up and cosine  ●○○ (8 min)
#
# The factor on the peak learning rate. `floor` is the $f$ that it ends at; `warmup` may be 0.
#
# <details><summary>Hint</summary>
#
# `math.cos`, `math.pi`. Without a warm-up the first factor is 1.
# </details>


# %% tags=["export"]
@exercise("05.10")
def warmup_cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Equation 05.6 at step 0, 1, ...: (step + 1) / warmup up to 1, then half a cosine down to `floor`."""
    # BEGIN SOLUTION
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    share = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return rise * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)
    # END SOLUTION


# %%
check(warmup_cosine)

# %%
from course_lib.recipe import Cosine, Exponential, Linear

for warmup, floor in ((0, 0.0), (10, 0.0), (25, 0.1)):
    ours = [warmup_cosine(step, 100, warmup, floor) for step in range(101)]
    assert np.allclose(ours, [Cosine(warmup, floor)(step, 100) for step in range(101)])
steps = np.arange(0, 1001)
acae = Exponential(decay=1 / 3, drop_at=0.92, drop=0.1)  # ACAE, Fig. S1
schedules = {
    "Sapiens, DAViD, HumanRAM: cosine": Cosine(warmup=36),  # 2,500 of 70,000 steps, as HumanRAM
    "MPT: 10 % warm-up, then linear": Linear(warmup=100),
    "ACAE: exponential with a drop at 92 %": acae,
    "ACAE, fine-tuning of the head: at 50 %": Exponential(decay=1 / 3, drop_at=0.5, drop=0.1),
}
lines = {name: [schedule(step, 1000) for step in steps] for name, schedule in schedules.items()}
plots.curve(lines, steps / 1000, "share of the run", "share of the peak rate", yscale="log", ylim=(5e-3, 1.3))
plt.gcf().set_size_inches(9, 3)
plt.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
found = [acae(step, 1000) for step in (0, 919, 920, 1000)]
assert np.allclose(found, [1, 1 / 3, 1 / 30, 1 / 90], rtol=2e-3)

# %% [markdown]
# *The schedules of the five papers on a logarithmic axis. (Warm-ups: HumanRAM 2,500 of 70,000 steps, MPT 10 %, Sapiens
# "brief"; DAViD and ACAE name none.)* ACAE's figure S1 in words: from $2.12 \cdot 10^{-4}$ by a factor of 3 over 92 %
# of the run, a drop by 10, and by a factor of 3 again until the end. Peak rates, where the papers print them:
# HumanRAM $4 \cdot 10^{-4}$, then $4 \cdot 10^{-5}$; MPT $2 \cdot 10^{-4}$; DAViD $10^{-5}$ (its encoder comes
# pretrained); Sapiens prints none.

# %% [markdown]
# ## 12 The loop
#
# **The question.** Precision, accumulation, schedules, ranks, shards, and a machine that may be taken away at any
# moment: what does a training loop look like that does all of it?
#
# **The idea.** It fits on a page. A `Recipe` says what a run *is*, as data: model, loss, stream, optimiser, schedule,
# steps, batch. `course_lib.train.fit(recipe)` runs it, in a notebook, on a GPU and under torchrun. Here is its heart,
# one optimiser step; you know every line of it:

# %%
from course_lib.recipe import Optimizer, Recipe
from course_lib.train import fit
from course_lib.train.loop import train_step

print(inspect.getsource(train_step))

# %% [markdown]
# From top to bottom: the rate of this step for each group of parameters (`recipe.lr` multiplies by the group's
# `lr_scale`, where Sapiens' layer-wise decay lives); then the parts of §8, each seeded by the number of its step, part
# and rank, so that what is random (dropout, masks) does not depend on what came before; under DDP the all-reduce of §9
# waits for the last part; gradients are clipped at the recipe's norm; the means over ranks are taken for the log; and
# a loss that is not a number stops the run *before* it reaches the weights, with the batch named. Around it stands the
# run:

# %%
print(inspect.getsource(fit).split('"""')[-1])  # without its docstring

# %% [markdown]
# **When it is killed.** How does a run survive a machine that is switched off? Every so many steps everything that
# the run cannot compute again goes into a checkpoint: weights, optimiser, the number of the step. No random state
# (each step seeds itself), no position in the data (it is the step's number). It is written beside the last one under
# another name, with a checksum of every file, and renamed when it is whole, so a kill in the midst of writing leaves
# the one before. In the next cells we stop a run after step 7, and start it again.


# %%
class PowerCut(Exception):
    """What hits the run below; nothing catches it inside `fit`."""


def cut(run):
    if run.step == 7:
        raise PowerCut


recipe = Recipe(
    "toy",
    toy_model,
    lambda model, batch: toy_loss(model, batch["x"]),
    TensorStream({"x": torch.randn(64, 17, 48, generator=torch.Generator().manual_seed(0))}),
    steps=12,
    batch_size=16,
    optimizer=Optimizer(lr=3e-3),
    schedule=Cosine(warmup=2),
    accumulate=2,
    clip=1.0,
)

# %%
options = {"device": "cpu", "progress": False}
never_cut = fit(recipe, **options)
folder = paths.BUILD / "power_cut"
shutil.rmtree(folder, ignore_errors=True)  # from an earlier run of this cell
try:
    fit(recipe, folder=folder, save_every=3, on_step=cut, **options)
except PowerCut:
    print("cut after step 7; on the disk:", sorted(path.name for path in folder.glob("step-*")))
resumed = fit(recipe, folder=folder, save_every=3, **options)
pairs = zip(never_cut.model.parameters(), resumed.model.parameters(), strict=True)
bitwise = all(torch.equal(a, b) for a, b in pairs)
print(f"loss {never_cut.losses[0]:.4f} -> {never_cut.losses[-1]:.4f}; resumed: weights equal bit by bit: {bitwise}")
assert bitwise and resumed.losses == never_cut.losses

# %% [markdown]
# Step 7 was lost and done again, and the end is the same to the last bit. (That was an exception. `prove()` below kills
# a process as a cluster does, with a signal that nobody can catch.) Ctrl-C, or a cluster's SIGTERM, are milder: `fit`
# finishes the step, saves, and leaves.
#
# ## 13 The calculator
#
# **The question.** Put all formulas together, for a given model, GPU and batch: does it fit, what stops fitting
# first, how long does it take, and how much energy?


# %% tags=["export"]
def first_too_large(kinds: dict[str, float], capacity: float) -> str | None:
    """The kind of memory with which the sum of `kinds`, in their order, exceeds the capacity; None where all fits."""
    total = 0.0
    for kind, size in kinds.items():
        total += size
        if total > capacity:
            return kind
    return None


# %%
ADVICE = {
    "parameters": "not even the weights fit: shard (stage 3) over more GPUs",
    "gradients": "weights and gradients do not fit: shard (stage 2 or 3)",
    "optimiser": "the optimiser stops fitting: shard it (stage 1 to 3)",
    "working copies": "no room for autocast's copies: shard (stage 3)",
    "activations": "the activations stop fitting: checkpointing, bf16, or fewer images at a time",
    None: "it fits",
}


def calculate(model, gpu, gpus, images, precision, checkpointing, stage, utilisation):
    """Memory of a GPU, days and energy for one pass over 300 million images, every patch of them seen."""
    encoder, sheet = SAPIENS[model], GPUS[gpu]
    kinds = memory(encoder, images, gpus, stage, precision, checkpointing)
    _, ax = plt.subplots(figsize=(9, 1.9), layout="constrained")
    draw_memory(ax, {model: kinds}, limit=sheet.memory / 1e9)
    ax.set(xlabel=f"GB on each {gpu} (dashed: what it has)", xlim=(0, max(100, 1.5 * sum(kinds.values()) / 1e9)))
    ax.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.35))
    plt.show()
    peak = sheet.fp32 if precision == "fp32" else sheet.peak
    days = training_days(encoder_flops(encoder), 3e8, gpus, peak, utilisation, checkpointing)
    print(ADVICE[first_too_large(kinds, sheet.memory)] + f"; {images * gpus:,} images in one pass of all GPUs")
    kilowatt_hours = energy(gpus, days, gpu)
    print(f"{days:,.1f} days at an assumed {utilisation:.0%} of peak, {kilowatt_hours:,.0f} kWh for the GPUs alone")


# %%
powers = [2**k for k in range(12)]
controls = interactive(
    calculate,
    model=Dropdown(options=list(SAPIENS), value="Sapiens-2B"),
    gpu=Dropdown(options=list(GPUS), value="A100-80GB"),
    gpus=SelectionSlider(options=powers, value=1024, continuous_update=False),
    images=SelectionSlider(options=powers[:8], value=16, continuous_update=False, description="images/GPU"),
    precision=Dropdown(options=["bf16", "fp32"]),
    checkpointing=True,
    stage=Dropdown(options=[("0: DDP", 0), ("1", 1), ("2", 2), ("3: FSDP", 3)], value=3),
    utilisation=FloatSlider(value=0.4, min=0.05, max=0.7, step=0.05, continuous_update=False),
)
controls

# %% [markdown]
# *Choose a model and a machine: a bar of memory against what the GPU has, what to change if it is too long, and days
# and kilowatt hours.* (Controls need a running kernel. The table below is for those who read this on a page: the
# largest number of images at a time on one A100, for each model and each trick.)


# %%
def most_images(encoder, **options):
    """The largest number of images at a time that fits an A100."""
    fits = (n for n in range(200) if first_too_large(memory(encoder, n + 1, **options), GPUS["A100-80GB"].memory))
    return next(fits)


settings = {
    "32 bits": {"precision": "fp32"},
    "bf16": {},
    "+ checkpointing": {"recompute": True},
    "+ FSDP, 8 GPUs": {"recompute": True, "ranks": 8, "stage": 3},
    "+ FSDP, 1,024 GPUs": {"recompute": True, "ranks": 1024, "stage": 3},
}
print(" " * 20, *(f"{name:>13s}" for name in SAPIENS))
for words, options in settings.items():
    print(f"{words:20s}", *(f"{most_images(encoder, **options):13d}" for encoder in SAPIENS.values()))

# %% [markdown]
# ## 14 What the papers paid
#
# **The question.** What did the five papers' runs cost, as far as they say?
#
# A `PaperRun` holds what a paper prints. (Two numbers of samples are our own arithmetic: Sapiens' tokens over patches,
# and DAViD's 300,000 pictures times 100 epochs.) Utilisation needs the operations of a sample, and those need an
# assumption where the model is not wholly described:
#
# - **Sapiens-2B**: the two readings of §4.
# - **HumanRAM**: 12 layers of width 768 on 8 × 8 patches; we assume that the input views (two in the first stage, four
#   in the second) are read once more for each of the four target views, as its base model LVSM does. Decoder,
#   perceptual loss and rendering are not counted.
# - **DAViD-Large**: Table 1's 663 GFLOPs (§3). The paper prints no time; 500 GPU hours are from the authors' model
#   card.
# - **ACAE**, **MPT**: not computable. The operations of ACAE's EfficientNetV2 are not in the paper, nor MPT's days and
#   batch.

# %%
from course_lib.recipe import PaperRun


def views(count, side):
    """HumanRAM's transformer on so many views of 8 x 8 patches."""
    return Encoder(768, 12, 16, count * (side // 8) ** 2)


runs = {
    "Sapiens-2B": (PaperRun("§4.1, T2", gpus=1024, days=18, batch=20480, samples=1.2e12 / 4096), mae_flops),
    "Sapiens-2B, visible": (PaperRun("the same", gpus=1024, days=18, batch=20480, samples=1.2e12 / 1024), mae_flops),
    "DAViD-Large": (PaperRun("§4.1, card", gpus=4, days=500 / 96, batch=96, samples=3e7), 663e9),
    "ACAE, EffV2-S": (PaperRun("S2, S5", gpus=1, gpu="A40-48GB", days=2, batch=128, steps=440_000), None),
    "ACAE, EffV2-L": (PaperRun("S2, S5", gpus=1, gpu="A40-48GB", days=6, batch=128, steps=440_000), None),
    "MPT, pretraining": (PaperRun("F", gpus=16, gpu="V100-32GB", samples=2e7), None),
    "HumanRAM, 256²": (PaperRun("B", gpus=8, days=2, batch=96, steps=70_000), 4 * encoder_flops(views(3, 256))),
    "HumanRAM, 512²": (PaperRun("B", gpus=8, days=4, batch=48, steps=10_000), 4 * encoder_flops(views(5, 512))),
}

# %% tags=["result"]
print(f"{'run':20s} {'GPUs':>15s}  days   batch    steps  GPU hours      kWh  of peak")
utilisations = {}
for name, (paper, per_sample) in runs.items():
    count = f"{paper.gpus} {paper.gpu.partition('-')[0]}"
    samples = paper.samples or paper.steps * paper.batch
    steps = paper.steps or (samples / paper.batch if paper.batch else None)
    cells = [f"{name:20s} {count:>15s}", f"{paper.days:5.1f}" if paper.days else "    -"]
    cells += [f"{paper.batch:7,d}" if paper.batch else "      -", f"{steps:8,.0f}" if steps else "       -"]
    if paper.days:
        cells += [f"{24 * paper.gpus * paper.days:10,.0f} {energy(paper.gpus, paper.days, paper.gpu):8,.0f}"]
    if per_sample:
        utilisations[name] = 3 * per_sample * samples / (paper.gpus * paper.days * 86400 * GPUS[paper.gpu].peak)
        cells += [f"{utilisations[name]:8.1%}"]
    print(*cells)
assert 0.009 < utilisations["Sapiens-2B"] < 0.010 and 0.036 < utilisations["Sapiens-2B, visible"] < 0.038

# %% [markdown]
# GPUs, days and batches are the papers' (DAViD's days from the card); steps are printed for ACAE and HumanRAM, and
# are samples over batch elsewhere; hours, energy and share of peak are ours. Three things stand out. For one
# Sapiens-2B one could train DAViD-Large 885 times; its authors say "~800 models". What can be computed lies between 1
# and 16 % of the hardware's peak, far from the 40 % that plans like to assume. And data is not free either: DAViD
# rendered its pictures in 72 hours on 300 machines, which it puts at two weeks of four A100s, 1,344 GPU hours: 2.7
# times the training of a model on them.

# %% [markdown]
# ## 15 The launch
#
# **The question.** How does one start a run on 1,024 GPUs for the first time, when an hour of them costs 1,024 hours?
#
# **The idea.** Prove everything that one machine can prove *before* the first GPU is switched on. A job is a chapter's
# recipe and a mesh: a grid of nodes and GPUs. `transformers`, `vit-2b` is chapter 04's own task with an encoder of
# Sapiens-2B's sizes.
#
# - `plan()` does the arithmetic of this chapter.
# - `prove()` builds the full-size model on fake tensors, shards it over a *simulated* mesh of 1,024 ranks with
#   PyTorch's own `fully_shard`, and takes a step: what does one rank hold, by kind? Then it starts two real processes
#   of the same program at a small size, kills one with a signal that nothing can catch, starts them again, and compares
#   the loss curve with an undisturbed one. (At `smoke` only the simulation runs, of the small size.)
# - `script()` writes the file for `sbatch`. That command queues a job with Slurm, the program that hands out the
#   machines of most clusters. It contains the restart after a failure, and the address at which all processes meet.
#   `submit()` would print and run the command.
#
# A launch runs the course's code, not the functions that you wrote in this notebook.

# %%
from course_lib import launch

job = launch.job("transformers", "vit-2b", nodes=128, gpus_per_node=8)
job.plan()

# %% [markdown]
# The plan states its utilisation as an assumption; beside it stand the paper's own figures, and neither is fitted to
# the other. (It counts the model's own operations only. With checkpointing a GPU that is busy 40 % of its peak gives
# the model 32 %; papers call the two HFU and MFU.) The formulas of this chapter say for one GPU, with weights shared
# out over the eight of a node:

# %%
ours = memory(giant, 4096 // job.world, ranks=job.gpus_per_node, stage=3, recompute=True)
print(f"{sum(ours.values()) / 2**30:.1f} GiB:", *(f" {kind} {size / 2**30:.2f}" for kind, size in ours.items()))

# %% [markdown]
# Now the simulation, operation by operation. (The first call takes half a minute.)

# %%
job.prove(**pick(smoke={"config": "smoke"}, laptop={}))

# %% [markdown]
# At full size formula, plan and simulation differ by a tenth or so: sums are a little more than the peak, because
# gradients appear while activations go, as in the film of §5.

# %%
print(job.script(out="runs/vit-2b"))

# %% [markdown]
# ## What to remember
#
# - A block has $12D^2$ weights, and costs $24ND^2 + 4N^2D$ operations; attention's part is a sixth of the rest
#   at $N = D$, and the larger one beyond $6D$. A training step is three forward passes, with checkpointing nearly four.
# - FLOPs of two tables can only be compared when both counts are known. Counters differ by the factor of two of a
#   multiply-add, and by the operations that they leave out.
# - State is 16 bytes per parameter. Activations are 64 bytes per token and width in each block, 36 under autocast, 4
#   with checkpointing: for pictures a thousand pixels wide *they* decide what fits.
# - Multiply in 16 bits, add up and keep in 32.
# - Accumulation and data parallelism are the same sum, over time and over ranks. Divide by samples, not by parts.
# - All-reduce is reduce-scatter and all-gather. FSDP stops between them, and keeps 1/R of everything.
# - A batch should depend on its number alone, and a step's random numbers on the step: then 1 rank or 1,024, killed or
#   not, it is the same run. (Dropout and masks excepted: each rank draws its own.)
# - Utilisation is an assumption until it is measured. Energy follows from it.
#
# ## What the papers leave open
#
# Sapiens does not say which kind of sharding it used, at which peak rate, or how many steps; its "tokens" have two
# readings, and its table counts a model with a decoder in one column and without in the next. DAViD prints no training
# time, MPT neither time nor batch. None of the five says how often its run was interrupted, and none reports energy.
#
# ## Where to read on
#
# - P. Micikevicius et al., *Mixed precision training*, 2018: the copy in 32 bits, and why.
# - T. Chen et al., *Training deep nets with sublinear memory cost*, 2016: checkpointing (cited by HumanRAM).
# - S. Rajbhandari et al., *ZeRO*, 2020, and Y. Zhao et al., *PyTorch FSDP*, 2023: sharding in three stages.
# - V. Korthikanti et al., *Reducing activation recomputation in large transformer models*, 2022: formula 05.4 for
#   language models, and what to recompute first.
# - P. Goyal et al., *Accurate, large minibatch SGD*, 2017: warm-up, and the rate that grows with the batch.
# - I. Loshchilov, F. Hutter, *SGDR*, 2017: the cosine; A. Lewkowycz, *How to decay your learning rate*, 2021: Sapiens'
#   linear one.
# - R. Khirodkar et al., *Sapiens*, 2024, §4.1 and Tables 1 and 2; F. Saleh et al., *DAViD*, 2025, §4.1 and Table 1.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)
