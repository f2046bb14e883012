# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 04: Transformers
#
# Cut a small square out of a photograph: skin, evenly lit, a soft shadow. Is it a cheek, a knee, the back of a hand?
# The square alone does not say. The rest of the picture does. A transformer lets every piece of a picture collect
# information from all the others and then work on what it has collected. It repeats these two steps a dozen times or
# more.
#
# Four of our five papers are built on it, and each bends another part of it:
#
# | paper | its transformer | what it does to it |
# |---|---|---|
# | **Sapiens** §3.2, T2 | up to 48 blocks 1,920 wide, 4,096 patches of 16 × 16 | resizes its positions (§3.3) |
# | **DAViD** §3.2 | ViT-B and ViT-L, 384 × 384 | reads four depths, mixes a *cls* token into every patch (eq. 1) |
# | **HumanRAM** suppl. A | 12 blocks, 768 wide, 16 heads, patches of 8 × 8 | *QK-norm*, a LayerNorm after the patches |
# | **MPT** suppl. F | 3 × 4 layers, 4 heads, 1,024 → 256 → 64 wide | its tokens are points of a mesh, not patches |
# | **ACAE** suppl. | none: convolutions (EfficientNet, ResNet) | does without: keep that in mind |
#
# **What you will build**: all of it, from one weighted mean to a vision transformer that equals the published one to
# the fifth digit; then you train it to find the parts of a body, look into its attention, and show it a photograph.
#
# | | |
# |---|---|
# | **You should know** | basic PyTorch: modules, shapes, one training loop; matrix products; the softmax |
# | **Reading** | 75 minutes |
# | **Exercises** | nine, about 90 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 10 min on two cores, and 2 more for rendering, once; 2 GB of memory |
# | **From the papers** | Sapiens §3.2, §3.3, §4.1, Table 2 · DAViD §3.2 · HumanRAM suppl. A · MPT suppl. F |
#
# **Letters.** B batch · N tokens · D width of a token · H W image; and in this chapter h heads, d = D / h the width of
# a head, p the side of a patch, L blocks.

# %%
# %matplotlib inline
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import sympy
from ipywidgets import interactive

from course_lib import plots
from course_lib.scale import pick

# %% tags=["export"]
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, interpolate, scaled_dot_product_attention

from course_lib.exercises import TODO, check, exercise
from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream

# %%
threads = min(2, torch.get_num_threads())
torch.set_num_threads(1)  # small tensors for now: a second thread costs more than it brings
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# The whole machine in one picture, with the finished code and one of chapter 03's people.

# %%
import course_lib.chapters.transformers as finished  # what this chapter builds, complete: only for this picture
from course_lib.data.worlds import render_samples

SIDE = pick(smoke=60, laptop=96)
sample = next(render_samples("wild", "train", seed=0, index=348, size=(SIDE, SIDE)))
image, parts = torch.from_numpy(sample.image), torch.from_numpy(finished.GROUPS[sample.parts])  # (3, H, W), (H, W)
GROUP_COLOURS = np.array([[255, 255, 255], [235, 180, 150], [110, 65, 40], [120, 180, 100], [70, 90, 190],
                          [250, 150, 60], [200, 60, 110]]) / 255  # fmt: skip


def pull_apart(picture, patch, gap=2):
    """A picture (H, W, 3) with white gaps between its patches."""
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    cut = picture.reshape(rows, patch, columns, patch, 3)
    apart = np.pad(cut, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=1.0)
    return apart.reshape(rows * (patch + gap), columns * (patch + gap), 3)


# %%
torch.manual_seed(0)
small = finished.VisionTransformer(size=SIDE, patch=SIDE // 6, width=48, depth=4, heads=3, cls=False)
with torch.no_grad():
    tokens, answers = small.embed(image[None])[0], small(image[None])[0]  # (36, 48) each
colours = plt.get_cmap("coolwarm")
bars = [np.repeat(np.repeat(colours(x / 5 + 0.5)[..., :3], 4, 0), 3, 1) for x in (tokens.numpy() * 2, answers.numpy())]
drawn = pull_apart(GROUP_COLOURS[parts], SIDE // 6)
pictures = [image.permute(1, 2, 0).numpy(), pull_apart(image.permute(1, 2, 0).numpy(), SIDE // 6), *bars, drawn]
titles = ["a picture", "cut into N = 36 patches", "N tokens of D = 48 numbers", "the same tokens, 4 blocks on"]
plots.show_images(pictures, [*titles, "each draws its patch"], height=2.2)


# %% [markdown]
# *From left to right: a person; the picture in 6 × 6 patches; a table with a row per patch; the same table after four
# blocks, where each row has heard of all the others; and the goal, that each token draws the parts in its own patch:
# face, hair, upper and lower body, arms, legs.* (The four blocks are untrained, and the last picture is the truth.)
# The table never changes its size. This chapter builds everything that happens to it in between.
#
# ## 1 One head: asking the others
#
# **The question.** A token holds what one patch knows. How does it find out what *another* patch knows, without
# being told beforehand which one?
#
# **The idea.** It works as if somebody called a question into a room. Every token makes three vectors out of itself:
# a **query** $q$, what it is looking for; a **key** $k$, what it can be asked about; a **value** $v$, what it hands
# over if it is asked. The better a key fits a query, that is, the larger their dot product, the more of that token's
# value arrives. "More" means a weighted mean: the softmax turns the scores of one query into shares that sum to 1.
#
# **The equation**, with the queries, keys and values as rows of three matrices (Vaswani et al. 2017, eq. 1):
#
# $$\operatorname{Attention}(Q, K, V) = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right) V. \tag{04.1}$$
#
# The softmax is along each row: over the keys that one query sees. What $\sqrt d$ is for comes in a minute.
#
# ### Exercise 04.1 — attention  ●○○ (8 min)
#
# Write equation 04.1 for any number of leading dimensions.
#
# <details><summary>Hint 1</summary>
#
# `k.mT` swaps the last two dimensions (`k.T` would turn all of them round): `q @ k.mT` is (..., N, M), query by key.
# </details>
# <details><summary>Hint 2</summary>
#
# The shares of one query sum to 1. In (..., N, M), over which of the two last dimensions must the softmax run, N or
# M?
# </details>

# %% tags=["export"]
@exercise("04.1")
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (..., N, d), k and v (..., M, d) -> (..., N, d): for each query a mean of the values. Equation 04.1.

    Vaswani et al. 2017, eq. 1.
    """
    raise TODO


# %%
check(attention)

# %% [markdown]
# A small example to check by hand: four tokens whose keys point to the right, up, left and down, and whose values are
# colours, and three queries.

# %%
keys = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]) * 2
values = torch.tensor([[0.84, 0.19, 0.15], [0.95, 0.77, 0.06], [0.18, 0.55, 0.34], [0.17, 0.35, 0.69]])
queries = torch.tensor([[3.0, 0.0], [-1.6, 1.6], [0.0, 0.0]])
shares = (queries @ keys.T / math.sqrt(2)).softmax(-1)  # (3, 4)
answer = attention(queries, keys, values)  # (3, 3)
print("scores"), print((queries @ keys.T / math.sqrt(2)).numpy().round(2))
print("shares"), print(shares.numpy().round(2))
assert torch.allclose(answer, shares @ values) and torch.allclose(shares.sum(1), torch.ones(3))

# %%
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(9, 2.6), dpi=72, layout="constrained", width_ratios=(2, 3, 1)
)
for i, (x, y) in enumerate(keys.tolist()):
    left.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "lw": 3, "color": tuple(values[i].tolist())})
for i, (x, y) in enumerate(queries.tolist()):
    left.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "lw": 1.2, "color": "black"})
    left.text(x + 0.1, y + 0.15, f"{i + 1}", fontsize=12, weight="bold")
left.set(xlim=(-2.4, 3.5), ylim=(-2.4, 2.4), aspect="equal", title="keys (colour), queries (black)")
for query, row in enumerate(shares.tolist()):
    middle.barh(query, row, left=np.cumsum([0, *row[:-1]]), color=values.numpy(), edgecolor="white", height=0.7)
middle.set(
    yticks=[0, 1, 2], yticklabels=["query 1", "query 2", "query 3"], xticks=[], title="shares: each row sums to 1"
)
right.imshow(answer[:, None].numpy())
right.set(xticks=[], yticks=[], title="answer")
middle.invert_yaxis()
for ax in (left, middle):
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
left.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# *Query 1 points where the red key points: it gets nearly pure red. Query 2 points between yellow and green and gets
# their mixture. Query 3 is zero, asks nothing in particular, and hears everyone's mean.* Nobody hears one token only;
# a longer query, or a better fit, makes it sharper.
#
# ### Why the root?
#
# The score is a sum of $d$ products. If the entries of $q$ and $k$ are independent with mean 0 and variance 1, each
# product has variance 1 and the sum has variance $d$: scores grow with the width of the head, for no other reason.
# With very large scores the softmax is nearly a one-hot vector, and then it does not learn: with the shares $s$, its
# derivative is
#
# $$\frac{\partial s_i}{\partial x_j} = s_i\,(\delta_{ij} - s_j), \tag{04.2}$$
#
# which is zero wherever every share is 0 or 1. Division by $\sqrt d$ brings the variance back to 1.

# %%
x = sympy.symbols("x1:4")
soft = [sympy.exp(a) / sum(map(sympy.exp, x)) for a in x]
for i, j in np.ndindex(3, 3):  # equation 04.2, for every x
    assert sympy.simplify(sympy.diff(soft[i], x[j]) - soft[i] * (int(i == j) - soft[j])) == 0

widths = [4, 16, 64, 256, 1024]
table = {name: [] for name in ("largest share, with the root", "without", "gradient, with the root", "without ")}
for d in widths:
    q, k = torch.randn(2, 256, 64, d, generator=generator)  # 256 x 64 queries and keys
    scores = (q @ k.mT)[:, :1]  # (256, 1, 64): one query each
    assert abs(scores.var() / d - 1) < 0.15
    for name, s in (("with the root", scores / math.sqrt(d)), ("without", scores)):
        share = s.softmax(-1)
        jacobian = torch.diag_embed(share) - share[..., None] * share[..., None, :]  # equation 04.2
        table["without" if name == "without" else f"largest share, {name}"].append(share.amax(-1).mean())
        table["without " if name == "without" else f"gradient, {name}"].append(jacobian.norm(dim=(-1, -2)).mean())

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.5), dpi=72, layout="constrained")
for ax, names, title in zip(
    axes, (list(table)[:2], list(table)[2:]), ("largest share of 64", "size of the derivative"), strict=True
):
    for name, style in zip(names, ("-", "--"), strict=True):
        ax.plot(widths, table[name], style, marker="o", label=name.split(", ")[-1].strip())
    ax.set(xscale="log", xlabel="width of the head, d", title=title, ylim=(0, None), xticks=widths, xticklabels=widths)
    ax.spines[["top", "right"]].set_visible(False)
    ax.minorticks_off()
axes[0].legend(frameon=False)
assert table["without "][-1] < table["gradient, with the root"][-1]


# %% [markdown]
# *Random queries and keys. With the root (solid) the width makes no difference. Without it (dashed) the largest of 64
# shares goes to 1 as heads get wider. The derivative of the softmax first profits from the clearer choice, then goes to
# 0: such a head listens to one token from the start and can't change its mind.*
#
# ### A game that no token can win alone
#
# Can one head learn whom to ask? Here is a game to find out. Eight **senders** hold a number and a colour each. Eight
# **askers** hold a number only, in another order, and have to name the colour of the sender with their number. An
# asker by itself knows nothing: it is right one time in eight. The network is one attention, four linear maps,
# nothing else.

# %%
def lookup_game(games, generator, wishes=1, senders=8, numbers=16, colours=8):
    """Tokens (B, 16, 16 * (1 + wishes) + 8): senders, then askers; the colours (B, 8, wishes) to be named."""
    number = torch.rand(games, numbers, generator=generator).argsort(1)[:, :senders]  # all different
    colour = torch.randint(colours, (games, senders), generator=generator)
    wish = torch.rand(games, wishes, senders, generator=generator).argsort(-1).mT  # (B, 8, wishes): who is asked for
    hot = torch.eye(numbers)
    asked = hot[number[:, None].expand(-1, senders, -1).gather(2, wish)].flatten(2)  # (B, 8, wishes * numbers)
    sent = torch.cat([hot[number], torch.zeros_like(asked), hot[colour, :colours]], -1)
    asks = torch.cat([torch.zeros(games, senders, numbers), asked, torch.zeros(games, senders, colours)], -1)
    return torch.cat([sent, asks], 1), colour[:, None].expand(-1, senders, -1).gather(2, wish)


class OneHead(nn.Module):
    """Linear maps to queries, keys and values, attention, a linear map to the answer."""

    def __init__(self, inputs, width, outputs):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(inputs, width, bias=False) for _ in range(3))
        self.answer = nn.Linear(width, outputs)

    def forward(self, x):
        return self.answer(attention(self.query(x), self.key(x), self.value(x)))


# %%
def play(model, steps, lr, wishes=1, seed=0, warmup=10, games=32):
    """Trains a model on the game; the loss of every step. The learning rate rises over the first `warmup` steps."""
    generator, losses = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(steps):
        tokens, target = lookup_game(games, generator, wishes)
        guess = model(tokens)[:, 8:].unflatten(-1, (wishes, 8))  # (B, 8 askers, wishes, 8 colours)
        loss = cross_entropy(guess.flatten(0, 2), target.flatten())
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
torch.manual_seed(0)
head = OneHead(16 * 2 + 8, 32, 8)
losses = play(head, pick(smoke=60, laptop=300), lr=1e-2)
tokens, target = lookup_game(1, torch.Generator().manual_seed(99))
with torch.no_grad():
    shares = (head.query(tokens) @ head.key(tokens).mT / math.sqrt(32)).softmax(-1)[0]  # (16, 16)
sender = (tokens[0, 8:, 16:32] @ tokens[0, :8, :16].T).argmax(1)  # (8,): whom each asker should ask
print(f"loss {losses[0]:.2f} -> {losses[-1]:.3f}; guessing alone: ln 8 = {math.log(8):.2f}")
assert losses[-1] < math.log(8) / 2 and (shares[8:].argmax(1) == sender).all()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9), dpi=72, layout="constrained", width_ratios=(1, 1.5))
left.plot(losses)
left.axhline(math.log(8), color="0.5", ls=":")
left.set(xlabel="step", ylabel="loss", ylim=(0, 2.4), title="learning the game (dots: guessing alone)")
left.spines[["top", "right"]].set_visible(False)
right.imshow(shares[8:], cmap="Blues", vmin=0, vmax=1)
right.scatter(sender, range(8), s=170, facecolors="none", edgecolors="#d1495b", lw=1.5)
right.axvline(7.5, color="0.5", lw=1)
_ = right.set(xlabel="senders 0 to 7 | askers 8 to 15", ylabel="asker", title="whom the askers listen to")

# %% [markdown]
# *Left: the loss falls from guessing to nearly nothing within a second. Right: each row is one asker of a new game,
# dark where it listens; red circles mark the sender with its number.* Nobody told the head that numbers matter. It
# found out that the query should be the number asked for, and the key the number held, because only then the right
# colour arrives. The pattern is new in every game: it is computed, not stored. That is what a convolution can't do.
#
# ### Attention sees a set
#
# Nothing in equation 04.1 knows which token came first. Shuffle the tokens, and the answers are shuffled the same
# way. For words or patches, whose order means something, that has to be mended (section 7).

# %%
order = torch.randperm(16, generator=generator)
with torch.no_grad():
    assert torch.allclose(head(tokens[:, order]), head(tokens)[:, order], atol=1e-5)

# %% [markdown]
# ## 2 The same, fast
#
# **The question.** Equation 04.1 writes down a matrix of N × N scores, and four times as many patches make sixteen
# times as many scores. How much memory is that, and what can be done? (bf16 is a number of 16 bits, two bytes;
# chapter 05 explains it.)

# %%
N, HEADS, DEPTH = 4097, 32, 48  # Sapiens-2B: 64 x 64 patches and the cls token
scores = HEADS * N * N
print(f"Sapiens-2B: {scores / 1e6:.0f} million scores a picture and block, {2 * scores / 2**30:.2f} GiB in bf16")
print(f"kept for the way back in {DEPTH} blocks: {DEPTH * 2 * scores / 2**30:.0f} GiB a picture")


# %% [markdown]
# **The idea** (FlashAttention, Dao et al. 2022; HumanRAM names it in its supplement A). The matrix need not exist. Take
# the keys piece by piece and carry three things along for each query: the largest score so far, the sum of the
# exponentials relative to it, and the mean so far. A larger score in a later piece only rescales what was summed
# before. The result is exact; there is no approximation. On a GPU the piece stays in the fast memory next to the
# arithmetic, and that is where the speed comes from.

# %%
def attention_in_pieces(q, k, v, piece=64):
    """Equation 04.1 without ever holding more than (N, piece) scores."""
    largest = torch.full((*q.shape[:-1], 1), -torch.inf)
    total, answer = torch.zeros_like(largest), torch.zeros_like(q)
    for keys, values in zip(k.split(piece, -2), v.split(piece, -2), strict=True):
        scores = q @ keys.mT / math.sqrt(q.shape[-1])  # (..., N, piece)
        new = torch.maximum(largest, scores.amax(-1, keepdim=True))
        old, share = (largest - new).exp(), (scores - new).exp()
        total, answer, largest = total * old + share.sum(-1, keepdim=True), answer * old + share @ values, new
    return answer / total


# %%
q, k, v = torch.randn(3, 2, 4, 300, 32, generator=generator)  # each (B, h, N, d)
same = {"in pieces": attention_in_pieces(q, k, v), "PyTorch": scaled_dot_product_attention(q, k, v)}
for name, answer in same.items():
    print(f"{name}: largest difference {(answer - attention(q, k, v)).abs().max():.1e}")
    assert torch.allclose(answer, attention(q, k, v), atol=1e-5)


# %% [markdown]
# PyTorch's `scaled_dot_product_attention` does this inside. On CUDA it is FlashAttention or its relatives, and nothing
# that one writes in Python comes close. On a CPU it depends, and one should measure. Forward and backward together,
# since we train:

# %%
def milliseconds(function, shape, dtype, rounds):
    """The fastest of several forward and backward passes of an attention."""
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function(q, k, v).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


# %%
shapes = pick(smoke=[(2, 3, 64, 64)], laptop=[(16, 3, 145, 64), (4, 3, 577, 64), (1, 3, 2049, 64)])
ways = {"written out": attention, "PyTorch's": scaled_dot_product_attention}
fastest = {}
for shape in shapes:
    for dtype in (torch.float32, torch.bfloat16):
        ms = {name: milliseconds(way, shape, dtype, pick(smoke=2, laptop=7)) for name, way in ways.items()}
        fastest[shape[2], dtype] = min(ms, key=ms.get)
        said = ", ".join(f"{name} {value:6.1f} ms" for name, value in ms.items())
        print(f"{shape[2]:5d} tokens, {str(dtype)[6:]:9s} {said}: {fastest[shape[2], dtype]} is faster")


# %% [markdown]
# On the processor that these outputs come from (the last cell names it), the formula written out wins under bf16 by a
# factor of about two to three, since the backward pass of PyTorch's CPU kernel is slow there. In fp32 PyTorch's is the
# faster one, clearly so for long sequences, and it needs no N × N memory. So the course chooses in one place:

# %% tags=["export"]
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equation 04.1 the way that is fast here: written out under bf16 on a CPU, by PyTorch's kernels elsewhere."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return attention(q, k, v)
    return scaled_dot_product_attention(q, k, v)


# %% [markdown]
# ## 3 Several heads
#
# **The question.** One head takes *one* mean. What if a token needs two answers, from two different tokens?
#
# **The idea.** Cut the width D into h heads of width d = D / h. Each head asks its own question with its own slice,
# and a last linear map mixes the answers. It costs exactly as much as one wide head: h times as many, each h times
# narrower.
#
# $$\operatorname{head}_i = \operatorname{Attention}(X W^Q_i, X W^K_i, X W^V_i), \qquad
# \operatorname{MultiHead}(X) = [\operatorname{head}_1, \ldots, \operatorname{head}_h]\, W^O. \tag{04.3}$$
#
# In code the three maps of all heads are *one* linear layer, `qkv`, from D to 3D numbers. In which order do the 3D
# numbers stand? All published weights of vision transformers agree: first all of $q$, then $k$, then $v$; within
# each, head after head. So 3D = (3, h, d), the last changing fastest.
#
# `Attention` below also has `q_norm` and `k_norm`. They do nothing (`nn.Identity`) unless they are switched on;
# section 5 is about them.
#
# ### Exercise 04.2 — multi-head attention  ●●○ (15 min)
#
# Write `queries_keys_values`: from tokens (B, N, D) to three tensors (B, h, N, d), the queries sent through
# `self.q_norm` and the keys through `self.k_norm`. `forward` below it does the rest.
#
# <details><summary>Hint 1</summary>
#
# `self.qkv(x)` is (B, N, 3D), and 3D = (3, h, d) with the last changing fastest: `.unflatten(-1, ...)` cuts it into
# these three, (B, N, 3, h, d).
# </details>
# <details><summary>Hint 2</summary>
#
# `.permute(2, 0, 3, 1, 4)` brings the 3 to the front, and `q, k, v = ...` takes it apart. Then `self.q_norm(q)`,
# `self.k_norm(k)`; the values are not normalised.
# </details>

# %% tags=["export"]
class Attention(nn.Module):
    """Multi-head self-attention (equation 04.3); with `qk_norm` queries and keys are normalised, head by head (04.6).

    Vaswani et al. 2017, §3.2.2. Parameters are named as in timm: qkv, proj, q_norm, k_norm.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False):
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} can't be cut into {heads} heads: choose a divisor of {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    @exercise("04.2")
    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) -> queries and keys, both normalised, and values, each (B, h, N, d)."""
        raise TODO

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        answers = attend(*self.queries_keys_values(x))  # (B, h, N, d)
        return self.proj(answers.transpose(1, 2).flatten(2))  # the heads side by side again

    def shares(self, x: Tensor) -> Tensor:
        """Who listens to whom: (B, N, D) -> (B, h, N, N), each row sums to 1. To look at, not to train with."""
        q, k, _ = self.queries_keys_values(x)
        return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)


# %%
check(Attention.queries_keys_values)

# %% [markdown]
# (`RMSNorm` is written in section 5; until a model asks for `qk_norm`, nobody calls it.) PyTorch has a module of its
# own for this. With our weights in it, it has to say the same:

# %%
ours, theirs = Attention(48, heads=4), nn.MultiheadAttention(48, num_heads=4, batch_first=True)
theirs.load_state_dict({"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
                        "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias})  # fmt: skip
x = torch.randn(2, 10, 48, generator=generator)
answer, shares = theirs(x, x, x, average_attn_weights=False)
print(f"largest difference to nn.MultiheadAttention: {(ours(x) - answer).abs().max():.1e}")
assert torch.allclose(ours(x), answer, atol=1e-5) and torch.allclose(ours.shares(x), shares, atol=1e-5)


# %% [markdown]
# Are two heads better than one of the same total width? Play the game with **two wishes**: every asker holds two
# numbers and must name both colours, in order.

# %%
class Asking(nn.Module):
    """A linear map in, attention with some heads, a linear map out."""

    def __init__(self, heads, inputs=16 * 3 + 8, width=32):
        super().__init__()
        self.enter, self.attn, self.answer = nn.Linear(inputs, width), Attention(width, heads), nn.Linear(width, 16)

    def forward(self, x):
        return self.answer(self.attn(self.enter(x)))


# %%
curves = {}
for heads in (1, 2):
    torch.manual_seed(1)
    curves[f"{heads} head{'s' * (heads > 1)}"] = play(Asking(heads), pick(smoke=20, laptop=500), lr=1e-2, wishes=2)
curves["knowing both, not which is which"] = [7 / 8 * math.log(2)] * len(curves["1 head"])
plots.curve(curves, ylim=(0, 2.3))
if pick(smoke=False, laptop=True):
    assert np.mean(curves["2 heads"][-20:]) < 0.1 < 0.5 < np.mean(curves["1 head"][-20:])

# %% [markdown]
# *One head can only mix the two colours, and an even mixture does not say which of them came first. It stays near
# 7/8 ln 2, the loss of someone who knows both and tosses a coin (in one case of eight both are the same). Two heads,
# each half as wide, rest on the same ledge for a while, then find out how to keep the two colours apart.*
#
# HumanRAM has 16 heads 48 wide, Sapiens-2B 32 heads 60 wide, ViT-B 12 heads 64 wide. MPT has 4 in all its layers.
#
# ## 4 The block
#
# **The question.** Attention only takes means of linear maps. A stack of it can move information between tokens, but
# it hardly computes anything with it. And a stack of fifty is hard to train. What is missing?
#
# **The idea**, three parts:
#
# 1. **A residual stream.** A block does not replace its tokens, it *adds* to them: $x + f(x)$. What a token knows
#    runs straight through all blocks, and so does the gradient on its way back.
# 2. **An MLP**, for each token by itself: one wide hidden layer, four times D, with a soft hinge in the middle. Two
#    thirds of a block's weights are here.
# 3. **A LayerNorm** before each of the two, so that they always see numbers of the same size:
#
# $$\operatorname{LN}(x) = \frac{x - \bar x}{\sqrt{\operatorname{var}(x) + \varepsilon}} \odot \gamma + \beta
# \qquad\text{mean and variance over the D numbers of one token.} \tag{04.4}$$
#
# The hinge is the **GELU** (Hendrycks and Gimpel 2016): $x$ times the chance that a normally distributed number is
# smaller than $x$, $\operatorname{GELU}(x) = x\,\Phi(x)$. There is a well-known approximation by a hyperbolic
# tangent, off by up to half a thousandth. Sapiens and timm use the exact one, as we do: weights are only portable if
# the function is.

# %%
x = torch.linspace(-4, 4, 801)
exact = x * (1 + torch.erf(x / math.sqrt(2))) / 2  # Φ by the error function
assert torch.allclose(exact, gelu(x), atol=1e-6)
off = (gelu(x, approximate="tanh") - exact).abs().max()
plots.curve({"GELU": exact, "ReLU": x.relu(), "Φ": exact / x}, x=x, xlabel="x", ylabel="")
print(f"the tanh approximation is off by at most {off:.1e}")

# %%
x = 7 + 3 * torch.randn(5, 48, generator=generator)  # five tokens
normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()  # equation 04.4
assert torch.allclose(normal, nn.LayerNorm(48, eps=1e-6)(x), atol=1e-5)  # γ = 1 and β = 0 at first


# %% [markdown]
# $$x' = x + \operatorname{Attention}(\operatorname{LN}_1(x)), \qquad
# x'' = x' + \operatorname{MLP}(\operatorname{LN}_2(x')). \tag{04.5}$$
#
# ### Exercise 04.3 — the block  ●○○ (5 min)
#
# Two lines. (The $x$ that is added must be the one *before* the norm.)
#
# <details><summary>Hint</summary>
#
# Each half of (04.5) is one statement: a norm, then `self.attn` or `self.mlp`, and the result is added to the $x$
# that had not been through the norm. The second half starts from the first half's result.
# </details>

# %% tags=["export"]
class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them, for each token by itself: (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-LN transformer block: attention, then an MLP, each added to what came in (equation 04.5).

    Vaswani et al. 2017, with the norms where Xiong et al. 2020 put them; timm's parameter names.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, qk_norm: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, qk_norm), Mlp(width, int(width * mlp_ratio))

    @exercise("04.3")
    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        raise TODO


# %%
check(Block.forward)

# %% [markdown]
# PyTorch has this one, too, under other names.

# %%
theirs = nn.TransformerEncoderLayer(48, 4, 192, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
                                    norm_first=True, batch_first=True)  # fmt: skip
names = {
    "attn.qkv.": "self_attn.in_proj_",
    "attn.proj.": "self_attn.out_proj.",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}
block, weights = Block(48, heads=4), {}
for name, value in block.state_dict().items():
    for mine, other in names.items():
        name = name.replace(mine, other)
    weights[name] = value
theirs.load_state_dict(weights)
x = torch.randn(2, 10, 48, generator=generator)
print(f"largest difference to nn.TransformerEncoderLayer: {(block(x) - theirs(x)).abs().max():.1e}")
assert torch.allclose(block(x), theirs(x), atol=1e-5)


# %% [markdown]
# ## 5 Two choices that decide whether it trains
#
# ### Where the norm goes
#
# **The question.** The first transformers normalised *after* the sum: $x' = \operatorname{LN}(x + f(x))$,
# **post-LN**. Whoever takes the layers of BERT, as METRO and Graphormer do, on whose code MPT builds (suppl. F),
# still does. Everyone else has moved the norm in front of $f$. Why?
#
# **The idea.** Look at the way that the gradient takes. In a pre-LN stack the gradient at the last sum reaches the
# first block without passing through anything, and the sum grows with every block, so that each later block matters a
# little less: with L blocks the last one gets a gradient that shrinks like $1/\sqrt L$. In a post-LN stack a
# LayerNorm after every sum scales it back to size; the last blocks keep their large gradients, however deep the stack
# is. Xiong et al. 2020 prove both. We measure both, on untrained stacks with weights by Xavier's rule (random numbers
# whose spread is chosen from a layer's inputs and outputs, so that values keep their size from layer to layer):

# %% tags=["export"]
def initialize(model: nn.Module) -> None:
    """Linear maps and patch embeddings by Xavier's rule, biases 0, as He et al. 2022 (MAE) and Sapiens do it."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)


# %%
class PostBlock(Block):
    """The block of 2017: the norm comes after each sum."""

    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Stack(nn.Module):
    """A linear map in, blocks of some kind, a norm, a linear map out."""

    def __init__(self, kind, depth, inputs=16 * 2 + 8, width=64, heads=2, outputs=8, **options):
        super().__init__()
        self.enter, self.answer = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.Sequential(*(kind(width, heads, 2.0, **options) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        initialize(self)

    def forward(self, x):
        return self.answer(self.norm(self.blocks(self.enter(x))))


# %%
def gradient_by_depth(kind, depth, seeds=3):
    """The size of the gradient of each block's last weights at the start, in section 1's game; a mean over seeds."""
    rows = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        stack = Stack(kind, depth)
        tokens, target = lookup_game(32, torch.Generator().manual_seed(seed))
        cross_entropy(stack(tokens)[:, 8:].flatten(0, 1), target.flatten()).backward()
        rows.append([block.mlp.fc2.weight.grad.norm().item() for block in stack.blocks])
    return np.mean(rows, 0)


kinds = {"pre-LN": Block, "post-LN": PostBlock}
depths = pick(smoke=[2, 6], laptop=[3, 6, 12, 24, 48])
gradients = {name: [gradient_by_depth(kind, depth) for depth in depths] for name, kind in kinds.items()}

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.7), dpi=72, layout="constrained")
for name, rows in gradients.items():
    left.plot(range(1, depths[-1] + 1), rows[-1], label=name)
    right.plot(depths, [row[-1] for row in rows], marker="o", label=name)
root = [gradients["pre-LN"][0][-1] * math.sqrt(depths[0] / depth) for depth in depths]
right.plot(depths, root, "k:", lw=1, label=r"$\propto 1/\sqrt{L}$")
left.set(xlabel="block", yscale="log", title=f"gradient of each block, L = {depths[-1]}")
right.set(xlabel="blocks in the stack, L", xscale="log", yscale="log", title="gradient of the last block")
right.set_xticks(depths, depths)
right.minorticks_off()
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
if pick(smoke=False, laptop=True):
    assert gradients["post-LN"][-1][-1] > 2 * gradients["pre-LN"][-1][-1]

# %% [markdown]
# *Left: 48 untrained blocks. With pre-LN (blue) the gradient falls steadily from the first block to the last; with
# post-LN (orange) it grows toward the output. Right: the last block's gradient in stacks of different depth: with
# pre-LN it falls about as $1/\sqrt L$ does (dotted), with post-LN it does not fall.* Large steps in the last blocks,
# while the ones below them have not learned anything yet: that is what a learning rate **warm-up** was invented for.
# Train twelve blocks:

# %%
DEPTH, STEPS = pick(smoke=(2, 6), laptop=(12, 200))
curves = {}
for name, kind, warmup in (("pre-LN", Block, 1), ("post-LN", PostBlock, 1), ("post-LN, warm-up", PostBlock, 100)):
    torch.manual_seed(0)
    curves[name] = play(Stack(kind, DEPTH), STEPS, lr=1e-3, warmup=warmup)
plots.curve(curves, ylim=(0, 2.4))
if pick(smoke=False, laptop=True):
    assert curves["pre-LN"][-1] < 0.05 < 1 < curves["post-LN"][-1]


# %% [markdown]
# *The same learning rate for all. Twelve pre-LN blocks have learned the game before a hundred steps are over. Twelve
# post-LN blocks hardly get away from guessing; with a slow start over 100 steps they learn, late.* (MPT warms up over a
# tenth of its training, suppl. F; its layers come in groups of four.) The price of pre-LN: the sum is never
# normalised, so the whole stack ends with one more LayerNorm before anyone reads from it.
#
# ### QK-norm: keeping scores in bounds
#
# **The question.** LayerNorm bounds what *enters* a block. The scores are a product of two learned maps of it, and
# nothing bounds those. If training pushes them up, the softmax saturates (section 1), its gradient goes to zero, and
# the head cannot change any more what it listens to. That happens in large models and at large learning rates. What
# prevents it?
#
# **The idea.** Normalise queries and keys themselves, each head for itself, right before their product (Henry et al.
# 2020; for vision, Dehghani et al. 2023, whose ViTs with billions of parameters diverged without). The **RMSNorm**
# divides a vector by its root mean square and multiplies each component by a learned scale. So does LVSM, whose
# architecture HumanRAM follows:
#
# $$\hat q = \gamma_q \odot \frac{q}{\sqrt{\tfrac1d \sum_i q_i^2 + \varepsilon}}, \qquad \hat k \text{ alike}
# \quad\Longrightarrow\quad \frac{|\hat q \cdot \hat k|}{\sqrt d}
# \le \sqrt d\, \max_i |\gamma_{q,i}|\, \max_i |\gamma_{k,i}|. \tag{04.6}$$
#
# The bound is Cauchy and Schwarz's: without the $\gamma$ neither vector is longer than $\sqrt d$. Maps may grow as they
# like; only the two short vectors $\gamma_q$ and $\gamma_k$ can raise the bound, and they do it slowly.
#
# ### Exercise 04.4 — RMSNorm  ●○○ (6 min)
#
# Equation 04.6, left: `self.weight` is the scale, `self.eps` the small number under the root. Whatever the dtype of
# $x$, compute in float32 (a mean of squares in bf16 loses digits where it hurts), and give the result the dtype that
# $x$ came with.
#
# <details><summary>Hint</summary>
#
# `.square().mean(-1, keepdim=True)` is the mean of squares, and `.rsqrt()` gives one over a root. Where in this do
# `x.float()` and `self.eps` belong? At the very end `.to(x.dtype)`. (Don't overwrite `x` before: its dtype is still
# needed.)
# </details>

# %% tags=["export"]
class RMSNorm(nn.Module):
    """Divides by the root mean square of the last dimension, times a learned weight: (..., d) -> (..., d)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    @exercise("04.4")
    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d) in x's dtype, computed in float32. Equation 04.6; Zhang and Sennrich 2019."""
        raise TODO


# %%
check(RMSNorm.forward)

# %%
norm, loud = RMSNorm(32), 1000 * torch.randn(2, 500, 32, generator=generator)
q, k = norm(loud[0]), norm(loud[1])
before, after = ((a @ b.T).abs().max() / math.sqrt(32) for a, b in (loud, (q, k)))
print(f"largest score: {before:.0f} before, {after:.2f} after; the bound: {math.sqrt(32):.2f}")
assert after <= math.sqrt(32) + 1e-3  # the bound of 04.6, with γ = 1
assert torch.allclose(q, nn.functional.rms_norm(loud[0], (32,), eps=1e-6), atol=1e-5)


# %% [markdown]
# **A run that diverges without it.** The game once more, four pre-LN blocks, larger and larger learning rates;
# everything else is the same for both, seeds included.

# %%
def largest_score(stack):
    """The largest |q k| / √d of any block and head in four games."""
    x, found = stack.enter(lookup_game(4, torch.Generator().manual_seed(1))[0]), []
    for block in stack.blocks:
        q, k, _ = block.attn.queries_keys_values(block.norm1(x))
        found.append((q @ k.mT).abs().max().item() / math.sqrt(q.shape[-1]))
        x = block(x)
    return max(found)


rates, seeds = pick(smoke=([6e-2], [0]), laptop=([2e-3, 6e-3, 2e-2, 6e-2], [0, 1]))
STEPS, ends, scores = pick(smoke=8, laptop=250), {}, {}
for name, qk_norm in (("without QK-norm", False), ("with QK-norm", True)):
    for rate in rates:
        for seed in seeds:
            torch.manual_seed(seed)
            stack = Stack(Block, 4, qk_norm=qk_norm)
            curve = play(stack, STEPS, lr=rate, seed=seed)
            ends.setdefault((name, rate), []).append(np.mean(curve[-20:]))
            with torch.no_grad():
                scores.setdefault((name, rate), []).append(largest_score(stack))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.7), dpi=72, layout="constrained")
for name in dict.fromkeys(name for name, _ in ends):
    left.plot(rates, [np.mean(ends[name, rate]) for rate in rates], marker="o", label=name)
    right.plot(rates, [np.mean(scores[name, rate]) for rate in rates], marker="o", label=name)
left.set(xscale="log", xlabel="learning rate", title=f"loss after {STEPS} steps", ylim=(-0.1, 2.4))
right.set(xscale="log", yscale="log", xlabel="learning rate", title="largest score of any head")
for ax in (left, right):
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
worst, best = (np.mean(ends[name, rates[-1]]) for name in ("without QK-norm", "with QK-norm"))
if pick(smoke=False, laptop=True):
    assert worst > 1 > 0.1 > best and np.mean(scores["without QK-norm", rates[-1]]) > 1000


# %% [markdown]
# *Left: the loss at the end against the learning rate. Both solve the game at small rates; at the largest the model
# without QK-norm ends where guessing is, and the one with it solves the game. Right: the largest score in the model.
# Without QK-norm it runs away with the learning rate, by orders of magnitude. With it, the score begins below
# $\sqrt{32} = 5.7$ and rises only as far as the scales $\gamma$ have learned to let it.* Wortsman et al. 2023 show
# the same curve for language models a thousand times as large.
#
# ## 6 A picture as tokens
#
# **The question.** A picture is no list of tokens. 1024 × 1024 pixels as a million tokens would have $10^{12}$ scores
# a head. What is a token?
#
# **The idea.** "An image is worth 16 × 16 words" (Dosovitskiy et al. 2021): cut it into squares, write the numbers of
# each square in a row, and map the row to D numbers with one linear layer. That's all. Nothing about neighbourhoods
# is built in.
#
# Sapiens and DAViD take $p = 16$, HumanRAM $p = 8$. Sapiens points out (§3.2) that each of its tokens covers 0.02 %
# of the picture, against 0.4 % in ordinary ViTs: $1/64^2$ against $1/16^2$.
#
# ### Exercise 04.5 — patches  ●●○ (10 min)
#
# Cut pictures into a row of numbers for each patch: patches row by row from the upper left; within a patch
# first the channels, then its rows, then its columns.
#
# <details><summary>Hint 1</summary>
#
# Split H into (rows, p) and W into (columns, p), permute, then flatten. (einops says it in one line.)
# </details>
# <details><summary>Hint 2</summary>
#
# With einops the left side of the pattern is `b c (h p) (w q)`, with `p=patch, q=patch`: brackets cut an axis. On the
# right brackets join axes: which letters make N, in which order, and which make a row?
# </details>

# %% tags=["export"]
@exercise("04.5")
def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C * p * p): a row per patch, channel first, then row, then column of the patch.

    Dosovitskiy et al. 2021, §3.1. H and W must be multiples of `patch`.
    """
    raise TODO


# %%
check(patchify)


# %% [markdown]
# ### Exercise 04.6 — and back  ●○○ (6 min)
#
# Whatever draws pictures with a transformer needs the inverse: Sapiens' autoencoder, HumanRAM's last layer, our parts
# at the end of this chapter.
#
# <details><summary>Hint</summary>
#
# The same line as in `patchify`, read from right to left. einops has to be told the rows of the grid, `h=grid[0]`,
# and `p`, `q`.
# </details>

# %% tags=["export"]
@exercise("04.6")
def unpatchify(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, N, C * p * p), a row for each patch of a grid (rows, columns) -> (B, C, H, W). The inverse of `patchify`."""
    raise TODO


# %%
check(unpatchify)

# %%
patch, grid = SIDE // 6, (6, 6)
rows = patchify(image[None], patch)  # (1, 36, 3 p²)
order = torch.randperm(36, generator=generator)
assert torch.equal(unpatchify(rows, patch, grid), image[None])
pictures = [pull_apart(unpatchify(r, patch, grid)[0].permute(1, 2, 0).numpy(), patch) for r in (rows, rows[:, order])]
plots.show_images(pictures, ["the patches", "the same set of patches"], height=2.2)


# %% [markdown]
# *A person in 36 patches, and the same patches shuffled. For equation 04.1 these two are the same.* We come back to
# that.
#
# **Patches by convolution.** Everybody's code makes patches with a convolution whose stride is its size. A
# convolution with kernel $w$ at one place is the dot product of $w$ with the patch below it; with stride $p$ it meets
# each patch once. So it *is* the linear map of `patchify`'s rows, with the kernel's numbers in the same order:
# $W_{\text{linear}} = W_{\text{conv}}$ flattened from (D, C, p, p) to (D, C p²).

# %% tags=["export"]
def patch_grid(size: Sequence[int], patch: int) -> tuple[int, int]:
    """(H, W) pixels -> (rows, columns) of patches. ValueError where patches don't fit."""
    if size[0] % patch or size[1] % patch:
        raise ValueError(f"a picture of {size[0]} x {size[1]} can't be cut into patches of {patch}: resize or pad it")
    return size[0] // patch, size[1] // patch


class PatchEmbed(nn.Module):
    """Pictures (B, C, H, W) -> a token for each patch (B, N, D), row by row. Dosovitskiy et al. 2021, eq. 1."""

    def __init__(self, patch: int, width: int, channels: int = 3):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D). ValueError where patches don't fit."""
        patch_grid(images.shape[-2:], self.patch)
        return self.proj(images).flatten(2).mT


# %%
embed = PatchEmbed(patch, 48)
linear = patchify(image[None], patch) @ embed.proj.weight.flatten(1).T + embed.proj.bias
print(f"convolution against reshape and linear: {(embed(image[None]) - linear).abs().max():.1e}")
assert torch.allclose(embed(image[None]), linear, atol=1e-5)

# %% [markdown]
# (The order is a convention. MAE's rows and LVSM's have the channel last: *same numbers, other order*. Weights of
# one read by the other are noise, and nothing complains.)
#
# ## 7 Where is everyone?
#
# **The question.** Attention sees a set. How does a token learn that it is the left neighbour of another?
#
# **The idea.** Write its place on it: *add* a vector to each token that depends on its place only. It can be
# **learned**, like any weight (ViT, DAViD), or **computed**, from waves (Vaswani et al. 2017; MAE and Sapiens in two
# dimensions). A place $t$, a column say, becomes $2K$ numbers: a sine and a cosine of each of $K$ waves of very
# different lengths. ($K$ counts waves here; it was the keys in section 1.) It is like the hands of a clock: the fast
# ones tell neighbours apart, the slow ones the halves of the picture.
#
# $$P(t) = [\sin \omega_0 t, \ldots, \sin \omega_{K-1} t,\ \cos \omega_0 t, \ldots, \cos \omega_{K-1} t],
# \qquad \omega_i = 10000^{-i/K}. \tag{04.7}$$
#
# Why both? Because of what the dot product of two places becomes: $\sin \omega a \sin \omega b + \cos \omega a \cos
# \omega b = \cos \omega(a - b)$. It depends on their *distance* only, wherever they are.

# %%
w, a, b = sympy.symbols("omega a b")
product = sympy.sin(w * a) * sympy.sin(w * b) + sympy.cos(w * a) * sympy.cos(w * b)
assert sympy.simplify(product - sympy.cos(w * (a - b))) == 0


# %% [markdown]
# A picture has two places per token, column $x$ and row $y$. Half of the D numbers are $P(x)$, the other half $P(y)$;
# so $K = D/4$ waves each.
#
# ### Exercise 04.7 — places as waves  ●●● (15 min)
#
# Write the table: for a grid of (rows, columns) a row of D numbers for each place, the places row by row as the patches
# are; in each row first all sines of the column $x$, then all its cosines, then the same for the row $y$.
#
# <details><summary>Hint 1: the places</summary>
#
# `y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")`, each (rows, columns);
# `.flatten()` goes row by row, as the patches do.
# </details>
# <details><summary>Hint 2: the waves</summary>
#
# `frequency = 10000.0 ** (-torch.arange(K) / K)`; `angle = x.flatten()[:, None] * frequency` is (N, K).
# </details>
# <details><summary>Hint 3: the order</summary>
#
# `torch.cat([sin of x, cos of x, sin of y, cos of y], 1)`: columns first.
# </details>

# %% tags=["export"]
@exercise("04.7")
def sincos_position_embedding(grid: tuple[int, int], width: int) -> Tensor:
    """grid (rows, columns) -> (N, D): sines and cosines of each patch's column, then of its row. Equation 04.7 twice.

    He et al. 2022 (MAE). `width` must be a multiple of 4.
    """
    raise TODO


# %%
check(sincos_position_embedding)

# %%
places = sincos_position_embedding((16, 16), 192)  # (256, 192)
similar = (places @ places.T / places.square().sum(1)).view(16, 16, 16, 16)
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4), dpi=72, layout="constrained", width_ratios=(1.7, 1, 1, 1, 1))
axes[0].imshow(places, cmap="coolwarm", aspect="auto", interpolation="nearest")
axes[0].set(xlabel="192 numbers", ylabel="256 places, row by row", title="the table")
for ax, (row, column) in zip(axes[1:], ((2, 2), (8, 8), (8, 14), (15, 3)), strict=True):
    ax.imshow(similar[row, column], cmap="viridis", vmin=0, vmax=1)
    ax.plot(column, row, "r+", ms=9)
    ax.set(title=f"near ({row}, {column})", xticks=[], yticks=[])
assert abs(similar[2, 2, 2, 5] - similar[9, 4, 9, 7]) < 1e-5  # three columns apart is three columns apart


# %% [markdown]
# *Left: the table, a row per place. The left half counts columns and repeats with every row of patches, the right
# half counts rows and changes slowly. Right: how similar every place is to the one marked with a cross: near is
# similar, along rows and columns most, and the pattern just moves along with the cross.*
#
# ### Another picture size
#
# Sapiens pretrains on 1024 × 1024 and fine-tunes on 1024 × 768, people being taller than wide (§3.3, §4.1): 64 × 64
# patches become 64 × 48. All weights fit, since they don't care how many tokens there are. The table of places has
# 4,096 rows and needs 3,072. Treat it as what it is, a picture of 64 × 64 "pixels" with D channels, and **resize** it
# like one. (Bicubic here, as in Sapiens' code and in Hugging Face's; timm's also smooths when shrinking.) What
# belongs to no place, the row of the cls token, is left as it is.
#
# ### Exercise 04.8 — resizing places  ●●○ (12 min)
#
# Write `resize_position_embedding`: from the table of a grid `old` to that of a grid `new`, both (rows, columns). The
# first `prefix` rows belong to no place: copy them.
#
# <details><summary>Hint 1</summary>
#
# Split off the first `prefix` rows: `table[:, :prefix]`, `table[:, prefix:]`.
# </details>
# <details><summary>Hint 2</summary>
#
# `interpolate` wants (1, D, rows, columns): `.unflatten(1, old).permute(0, 3, 1, 2)`; then
# `interpolate(..., size=new, mode="bicubic", align_corners=False)`, and back with `.flatten(2).mT`.
# </details>

# %% tags=["export"]
@exercise("04.8")
def resize_position_embedding(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 0) -> Tensor:
    """(1, prefix + rows * columns, D) of the grid `old` -> the same for the grid `new`, bicubic.

    The first `prefix` rows (the cls token's) stay as they are. Dosovitskiy et al. 2021, §3.2; Sapiens §3.3.
    """
    raise TODO


# %%
check(resize_position_embedding)

# %%
square = sincos_position_embedding((64, 64), 64)[None]
tall = resize_position_embedding(square, (64, 64), (64, 48))
print(f"Sapiens: {tuple(square.shape)} -> {tuple(tall.shape)}")
table = {"1024 x 1024: 64 x 64": square.view(64, 64, 64), "1024 x 768: 64 x 48": tall.view(64, 48, 64)}
waves = [grid[..., channel] for grid in table.values() for channel in (4, 36)]
titles = [f"{name}\n{what}" for name in table for what in ("a wave of x", "a wave of y")]
plots.show_images(waves, titles, height=2.2, cmap="coolwarm", vmin=-1, vmax=1)
same_place = torch.nn.functional.cosine_similarity(square.view(64, 64, 64)[:, 62], tall.view(64, 48, 64)[:, 46], dim=-1)
assert tall.shape == (1, 3072, 64) and same_place.min() > 0.98


# %% [markdown]
# *One wave of $x$ and one of $y$, before and after. The wave of $x$ is squeezed together with the picture: the right
# border stays the right border. The wave of $y$ is as before.* A network that learned "far right" still finds it
# there.
#
# ## 8 The vision transformer
#
# **The question.** One thing is missing. Where does one read an answer about the *whole* picture, "is this a person"?
#
# **The idea.** Add one more token that belongs to no patch, a learned vector: the **cls token** (for "class"). It
# collects from all patches, and the answer is read from what it has become at the end. Sapiens pretrains with one and
# drops it for its tasks; DAViD mixes its cls token into every patch's, as a summary of the picture (eq. 1):
#
# $$e^l = \operatorname{mlp}(\operatorname{cat}(\text{CLS}^l, t^l_i)).$$
#
# MPT and HumanRAM have none.
#
# HumanRAM needs no positions either: each of its tokens contains the rays of its pixels (chapter 01's Plücker rays),
# and those *are* a position. So positions are "learned", "sincos" or "none".
#
# ### Exercise 04.9 — the tokens  ●●○ (10 min)
#
# `VisionTransformer.embed`: from pictures to the tokens that enter the first block. Patches plus their places; if
# there is a cls token, it goes in front, plus *its* row of the table. Each picture of the batch gets one.
#
# <details><summary>Hint 1</summary>
#
# `self.places(grid)` gives the table (1, prefix + N, D) for the picture's own grid, resized where needed, or 0 where
# there are no positions. Its first `self.prefix` rows are the cls token's.
# </details>
# <details><summary>Hint 2</summary>
#
# If there is a cls token (`if self.prefix:`; otherwise `self.cls_token` is None), put it in front first: `.expand`
# gives each picture of the batch its own, `torch.cat` along dimension 1 joins. After that the table has a row for
# each token, with or without cls, and can be added in one go.
# </details>

# %% tags=["export"]
class VisionTransformer(nn.Module):
    """Pictures -> tokens (B, prefix + N, D), normalised; prefix is 1 with a cls token in front, 0 without.

    size: a side or (H, W) of the pictures that the table of places is for; others resize it. positions: learned, sincos
    (fixed) or none. `encode` takes any subset of what `embed` returns: a masked autoencoder drops tokens in between.
    Dosovitskiy et al. 2021, §3.1; parameters are named as in timm.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        positions: str = "learned",
        cls: bool = True,
        qk_norm: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.patch, self.prefix = patch, int(cls)
        self.grid = patch_grid((size, size) if isinstance(size, int) else size, patch)
        self.patch_embed = PatchEmbed(patch, width, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.pos_embed = position_table(positions, self.grid, self.prefix, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialize(self)
        for parameter in (self.cls_token, self.pos_embed):
            if parameter is not None and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02)

    def places(self, grid: tuple[int, int]) -> Tensor | float:
        """The table of places (1, prefix + N, D) for a grid; 0 where there are no positions."""
        if self.pos_embed is None or grid == self.grid:
            return 0.0 if self.pos_embed is None else self.pos_embed
        return resize_position_embedding(self.pos_embed, self.grid, grid, self.prefix)

    @exercise("04.9")
    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the tokens before the first block (B, prefix + N, D): cls in front, places added."""
        tokens = self.patch_embed(images)  # (B, N, D)
        grid = patch_grid(images.shape[-2:], self.patch)
        raise TODO

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, any number, D) through all blocks and the last norm."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The tokens (B, prefix + N, D) after the blocks of these numbers, from 0, before the last norm (for DPT)."""
        tokens, found = self.embed(images), []
        for block in self.blocks[: max(layers) + 1]:
            tokens = block(tokens)
            found.append(tokens)
        return [found[layer] for layer in layers]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, prefix + N, D)."""
        return self.encode(self.embed(images))


# %% tags=["export"]
def position_table(positions: str, grid: tuple[int, int], prefix: int, width: int) -> nn.Parameter | None:
    """The table of places (1, prefix + N, D): learned (to be filled), sincos (fixed; 0 for cls), or None for none."""
    if positions == "none":
        return None
    if positions == "learned":
        return nn.Parameter(torch.zeros(1, prefix + grid[0] * grid[1], width))
    if positions != "sincos":
        raise ValueError(f"positions {positions!r} are unknown: use learned, sincos or none")
    if width % 4:
        raise ValueError(f"sincos positions need a width that is a multiple of 4, not {width}")
    table = torch.cat([torch.zeros(prefix, width), sincos_position_embedding(grid, width)])
    return nn.Parameter(table[None], requires_grad=False)


# %%
check(VisionTransformer.embed)

# %% [markdown]
# **Is it the real one?** `tests/test_transformers.py` copies the weights of Hugging Face's `ViTModel` into ours:
# tokens and cls token agree to $10^{-5}$, on other picture sizes too. Here we count. A block has $4D^2$ weights in
# its attention and $8D^2$ in its MLP, and $13D$ biases and scales (chapter 05 does this sum layer by layer); patches
# and places come on top:

# %%
with torch.device("meta"):  # shapes without memory
    models = {
        "ViT-B/16 at 224 (published: 86 M)": VisionTransformer(224, 16, 768, 12, 12),
        "ViT-L/16 at 384, DAViD's encoder": VisionTransformer(384, 16, 1024, 24, 16),
        "Sapiens-2B's encoder at 1024": VisionTransformer(1024, 16, 1920, 48, 32, positions="sincos"),
    }
for name, model in models.items():
    D, L, N = model.norm.weight.shape[0], len(model.blocks), model.grid[0] * model.grid[1]
    formula = L * (12 * D**2 + 13 * D) + (3 * 16**2 + 1) * D + (N + 1) * D + D + 2 * D
    count = sum(p.numel() for p in model.parameters())
    print(f"{name:36s} {count:13,}")
    assert count == formula

# %% [markdown]
# (Sapiens' Table 2 says 2.163 billion: it counts the decoder of its pretraining, too, as chapter 05 finds out.)
#
# Does the place matter now? The shuffled person of section 6, with and without positions:

# %%
for positions in ("none", "sincos"):
    torch.manual_seed(0)
    vit = VisionTransformer(SIDE, patch, 48, 4, 3, positions=positions, cls=False)
    with torch.no_grad():
        straight, shuffled = vit(image[None]), vit(unpatchify(rows[:, order], patch, grid))
    difference = (shuffled - straight[:, order]).abs().max().item()
    print(f"positions {positions:6s}: shuffled tokens differ by {difference:.1e}")
    assert (difference < 1e-5) == (positions == "none")

# %% [markdown]
# ## 9 A first training: the parts of a body
#
# **The task.** Chapter 03's people, several to a picture, dressed, in rooms and streets. For each pixel: background,
# face, hair, upper or lower body, arms, legs: Sapiens' 28 classes (§3.4), gathered into seven, since a face has few
# pixels left for its teeth at this size. A patch of a sleeve looks like a patch of a trouser leg, a wall like a
# shirt: without the other patches nobody can tell them apart.
#
# **The network** is `VisionTransformer` and one linear map: each token draws its own patch, $p^2$ times seven numbers.

# %% tags=["export"]
CLASSES = ("background", "face", "hair and hats", "upper body", "lower body", "arms and hands", "legs and feet")
# Sapiens' 28 classes (`course_lib.data.parts.PART_NAMES`, in that order) -> CLASSES
GROUPS = np.array([0, 2, 1, 2, 6, 5, 5, 6, 6, 6, 5, 6, 4, 6, 5, 5, 6, 6, 6, 5, 6, 3, 3, 1, 1, 1, 1, 1], dtype=np.int64)


@dataclass(frozen=True)
class Config:
    """A vision transformer, what it is shown, and how it is trained. size: the side of the square pictures."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    pictures: int
    batch_size: int
    steps: int
    lr: float = 2e-3
    warmup: int = 50
    positions: str = "sincos"
    cls: bool = False
    qk_norm: bool = True
    mlp_ratio: float = 4.0
    world: str = "wild"
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None


# %% tags=["export"]
SAPIENS_2B = PaperRun(
    source="Sapiens, Table 2 and §4.1",
    parameters=2.163e9,
    flops=8.709e12,
    gpus=1024,
    days=18,
    notes=("the paper trains a masked autoencoder: its decoder is in the parameters, three quarters of the patches are "
           "not encoded, and its FLOPs are multiply-adds without attention's own products",),
)  # fmt: skip
CONFIGS = {
    "smoke": Config(32, 8, 32, 2, 2, pictures=8, batch_size=4, steps=6, warmup=2),
    "laptop": Config(96, 8, 192, 6, 3, pictures=2400, batch_size=32, steps=600),
    "gpu": Config(128, 8, 384, 12, 6, pictures=24_000, batch_size=128, steps=6000, lr=1e-3, warmup=300),
    # the encoder of Sapiens-2B: the largest thing that launches are tried on before chapter 06
    "vit-2b": Config(1024, 16, 1920, 48, 32, pictures=1_000_000, batch_size=4096, steps=50_000, lr=3e-4, warmup=1000,
                     cls=True, qk_norm=False, checkpoint_blocks=True, paper=SAPIENS_2B),
}  # fmt: skip


# %% tags=["export"]
class PartSegmenter(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> scores of the classes at each pixel (B, 7, H, W)."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.vit = VisionTransformer(
            c.size, c.patch, c.width, c.depth, c.heads, c.mlp_ratio, c.positions, c.cls, c.qk_norm
        )
        self.head = nn.Linear(c.width, c.patch**2 * len(CLASSES))
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 7, H, W)."""
        tokens = self.vit(2 * images - 1)[:, self.vit.prefix :]  # (B, N, D)
        return unpatchify(self.head(tokens), self.vit.patch, patch_grid(images.shape[-2:], self.vit.patch))


def part_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The mean cross-entropy of all pixels, and the share of pixels that are right."""
    scores = model(batch["image"]).float()  # (B, 7, H, W)
    right = (scores.argmax(1) == batch["parts"]).float().mean()
    return {"loss": cross_entropy(scores, batch["parts"]), "accuracy": right}


# %% [markdown]
# The course describes a training run as data; chapter 05 and `course_lib.recipe` explain it in full. `recipe` says
# what is trained and how, `prepare` turns a rendered sample into tensors, `fit` (the course's one training loop) does
# the rest, here as on a cluster.

# %% tags=["export"]
def recipe(config: Config, stream: Stream | None) -> Recipe:
    """The training of a `PartSegmenter` on batches of image (B, 3, H, W) and parts (B, H, W)."""
    return Recipe(
        name=f"parts-{config.width}x{config.depth}",
        model=partial(PartSegmenter, config),
        loss=part_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Cosine(warmup=config.warmup),
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    shape = (count, config.size, config.size)
    return {"image": torch.rand(count, 3, *shape[1:]), "parts": torch.randint(len(CLASSES), shape)}


# %% tags=["export"]
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> image (3, H, W) and parts (H, W), mirrored half of the time."""
    return partial(prepared, config)


def prepared(config: Config, sample, rng: np.random.Generator | None = None) -> Batch:
    """See `prepare`; without random numbers never mirrored. ValueError for a picture of another size."""
    if sample.image.shape[1:] != (config.size, config.size):
        raise ValueError(f"sample {sample.key} is {sample.image.shape[1:]}: make the data with --size {config.size}")
    batch = {"image": torch.from_numpy(sample.image), "parts": torch.from_numpy(GROUPS[sample.parts])}
    return mirrored(batch) if rng is not None and rng.random() < 0.5 else batch


def mirrored(batch: Batch) -> Batch:
    """Left and right exchanged. (No class says left or right, so none has to be renamed.)"""
    return {name: values.flip(-1) for name, values in batch.items()}


# %%
from course_lib.data.parts import PART_NAMES

for number, name in enumerate(CLASSES):
    print(f"{name:15s} {', '.join(part for part, group in zip(PART_NAMES, GROUPS, strict=True) if group == number)}")
assert len(PART_NAMES) == len(GROUPS)

# %% [markdown]
# **The people.** Training pictures and held-out ones, which share no person. They are rendered once, in a minute or
# two, and kept in the data folder. The held-out ones are the first pictures of the world's test set, in this
# chapter's size.

# %%
from course_lib.data.make import make
from course_lib.data.shards import Samples
from course_lib.data.streams import TensorStream
from course_lib.paths import data_dir
from course_lib.scale import scale

config = CONFIGS[scale()]
counts, workers = {"train": config.pictures, "test": pick(smoke=4, laptop=240)}, pick(smoke=0, laptop=2)
tensors = {}
for split, count in counts.items():
    folder = data_dir() / f"{config.world}-{split}-{config.size}-{count}"
    make(config.world, count, folder, config.size, workers, split=split, formats=("coco17",), progress=workers > 0)
    samples = [prepared(config, sample) for sample in Samples(folder, only=("image", "parts"))]
    tensors[split] = {name: torch.stack([sample[name] for sample in samples]) for name in ("image", "parts")}
print({split: tuple(values["image"].shape) for split, values in tensors.items()})


# %%
def draw(parts):
    """Class numbers (H, W) -> colours."""
    return GROUP_COLOURS[plots.to_array(parts)]


shown = list(range(0, counts["test"], max(1, counts["test"] // 8)))[:8]
images, targets = (tensors["test"][name][shown] for name in ("image", "parts"))
plots.show_images([*images, *map(draw, targets)], columns=len(shown), height=1.5)

# %% [markdown]
# *Held-out pictures and their parts: face in skin tone, hair brown, upper body green, lower body blue, arms orange,
# legs crimson.*
#
# **What is easy?** Before training, the score to beat. Two rules need no network: call everything background; or give
# each pixel the class that it has most often in the training pictures. We measure as Sapiens does (§4.3): the
# **intersection over union** of each class, over all pixels of all held-out pictures, and its mean.

# %%
from course_lib.metrics import class_iou, confusion_matrix, mean_iou

test = tensors["test"]


def judged(prediction):
    """Predicted classes (B, H, W) of the held-out pictures -> their confusion matrix (7, 7)."""
    return confusion_matrix(prediction, test["parts"], len(CLASSES))


often = torch.stack([(tensors["train"]["parts"] == number).sum(0) for number in range(len(CLASSES))]).argmax(0)
results = {"all background": judged(torch.zeros_like(test["parts"]))}
results["the usual class of each pixel"] = judged(often.expand_as(test["parts"]).contiguous())
for name, confusion in results.items():
    print(f"{name:32s} mean IoU {mean_iou(confusion):.3f}")

# %% [markdown]
# **The run.** Six hundred steps of 32 pictures, eight times through all of them.

# %%
from course_lib.train import fit


def mirror_some(batch, generator):
    """Every other picture mirrored."""
    return mirrored(batch) if torch.rand((), generator=generator) < 0.5 else batch


@torch.no_grad()
def predict(model, images):
    """Classes (B, H, W) of pictures (B, 3, H, W), on the CPU wherever the model is."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(40)])


def evaluate(model):
    """Mean IoU on the held-out pictures."""
    return {"iou": mean_iou(judged(predict(model, test["image"])))}


# %%
torch.set_num_threads(threads)
stream = TensorStream(tensors["train"], seed=0, transform=mirror_some)
run = fit(recipe(config, stream), evaluate=evaluate, evaluate_every=max(1, config.steps // 7))
results["vision transformer"] = judged(predict(run.model, test["image"]))
print(f"{run.step} steps, mean IoU {mean_iou(results['vision transformer']):.3f}")


# %% [markdown]
# **What is attention worth?** The same network once more, with the same patches, places, blocks and number of
# weights, but where a block had attention it now has a second MLP. Every token works alone.

# %%
def without_attention(config):
    """A `PartSegmenter` whose tokens can't ask: an MLP with as many weights in place of each attention."""
    model = PartSegmenter(config)
    for block in model.vit.blocks:
        block.attn = Mlp(config.width, 2 * config.width)  # 4 D² weights, as attention has
        initialize(block.attn)
    return model


from dataclasses import replace

alone = fit(replace(recipe(config, stream), name="alone", model=partial(without_attention, config)))
results["the same without attention"] = judged(predict(alone.model, test["image"]))
sizes = [sum(p.numel() for p in model.parameters()) for model in (run.model, alone.model)]
print(f"weights: {sizes[0]:,} with attention, {sizes[1]:,} without")
assert abs(sizes[0] / sizes[1] - 1) < 0.01


# %%
def smooth(values):
    """A running mean, so that one sees the trend."""
    window = max(1, config.steps // 50)
    return np.convolve(values, np.ones(window) / window, mode="valid")


plots.curve({"with attention": smooth(run.losses), "without": smooth(alone.losses)}, ylim=(0, None))
assert np.mean(run.losses[-3:]) < run.losses[0] and run.stopped == "finished"

# %%
guesses = [predict(model, images) for model in (run.model, alone.model)]
rows = [*images, *map(draw, targets), *map(draw, guesses[0]), *map(draw, guesses[1])]
plots.show_images(rows, columns=len(shown), height=1.5)
for ax, name in zip(plt.gcf().axes[:: len(shown)], ("picture", "target", "transformer", "no attention"), strict=True):
    ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, va="center", ha="right")


# %% [markdown]
# *Held-out people. From above: the picture, the truth, the transformer's answer, the answer of the same network
# without attention.* Large heads and shirts come out well, small people roughly; thin arms and legs are mostly
# missed. Without attention there are holes even in large faces. The squares are the patches: each token draws its own
# 8 × 8 pixels, and nothing smooths the seams. (Sapiens puts deconvolutions behind its transformer, DAViD a whole
# convolutional decoder: chapters 08 and 10.)
#
# ## 10 Whom does it ask?
#
# What has the network learned to look at? The shares of attention tell. Choose a patch; for every block and head,
# where do its shares go?

# %%
@torch.no_grad()
def all_shares(model, image):
    """The shares of every block and head (L, h, N, N) for one picture (3, H, W)."""
    device = next(model.parameters()).device
    tokens, found = model.vit.embed(2 * image[None].to(device) - 1), []
    for block in model.vit.blocks:
        found.append(block.attn.shares(block.norm1(tokens))[0].cpu())
        tokens = block(tokens)
    return torch.stack(found)


def draw_listening(ax, image, shares, row, column):
    """Where the patch (row, column) listens, as light on a dark picture. shares (N, N)."""
    side = config.patch
    light = shares[row * run.model.vit.grid[1] + column].view(1, 1, *run.model.vit.grid)
    light = interpolate(light / light.max(), scale_factor=side, mode="nearest")[0, 0]
    ax.imshow((image * (0.15 + 0.85 * light)).permute(1, 2, 0))
    ax.add_patch(plt.Rectangle((column * side - 0.5, row * side - 0.5), side, side, fill=False, ec="#ff5555", lw=1.5))
    ax.set_axis_off()


# %%
found = (test["parts"] == 5) & (predict(run.model, test["image"]) == 5)  # (B, H, W)
limb = found.flatten(1).sum(1).argmax()  # the held-out picture in which it finds the most of an arm
asker = patchify(found[limb][None, None].float(), config.patch)[0].sum(1).argmax().item()
row, column = divmod(asker, run.model.vit.grid[1])
shares = all_shares(run.model, test["image"][limb])
depth, heads = shares.shape[:2]
figure, axes = plt.subplots(
    heads, depth, figsize=(1.7 * depth, 1.75 * heads), dpi=72, layout="constrained", squeeze=False
)
for (head, block), ax in np.ndenumerate(axes):
    draw_listening(ax, test["image"][limb], shares[block, head], row, column)
    ax.set_title(f"block {block + 1}, head {head + 1}", fontsize=8)
assert torch.allclose(shares.sum(-1), torch.ones_like(shares[..., 0]), atol=1e-4)

# %% [markdown]
# *One held-out picture, one patch of an arm (red square), a column per block, a row per head; bright is where the
# patch listens, each picture measured by its own largest share.* In the first block a head listens to what looks alike,
# skin: the other arm, shoulders and neck. From the second on some listen to the shirt, stripe by stripe, and later ones
# to the border of hair and face, or to the wall around. Nobody told them whom to ask; only the parts were ever told.
#
# How far do they look? The mean distance of what a token listens to, for each head, over held-out pictures, as
# Dosovitskiy et al. draw it (their Figure 7).

# %%
y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in run.model.vit.grid), indexing="ij")
places = torch.stack([y.flatten(), x.flatten()], 1)  # (N, 2)
apart = torch.cdist(places, places)  # (N, N), in patches
far = torch.stack([(all_shares(run.model, picture) * apart).sum(-1).mean(-1) for picture in test["image"][:16]]).mean(0)
figure, ax = plt.subplots(figsize=(5.2, 2.8), layout="constrained", dpi=72)
ax.scatter(np.repeat(np.arange(depth) + 1, heads), far.flatten(), s=40)
ax.axhline(apart.mean(), color="0.5", ls=":")
ax.set(xlabel="block", ylabel="patches", xticks=range(1, depth + 1), title="how far a head looks")
ax.set_ylim(0, 1.15 * float(apart.mean()))
ax.spines[["top", "right"]].set_visible(False)


# %% [markdown]
# *A dot per head; dotted: the distance if it listened to all alike.* All of them look far, a third of the picture's
# width and more, from the first block on. In Dosovitskiy's large models some heads of the first blocks keep to their
# neighbours, as a convolution would; ours have trained for minutes, and none does. The sliders show any head on any
# held-out picture. (They need a running kernel; the figure before last is a still of them.)

# %%
def listening(picture=int(limb), block=depth, head=1, row=row, column=column):
    image = test["image"][picture]
    _, (left, right) = plt.subplots(1, 2, figsize=(5.4, 2.8), dpi=72, layout="constrained")
    draw_listening(left, image, all_shares(run.model, image)[block - 1, head - 1], row, column)
    right.imshow(draw(predict(run.model, image[None])[0]))
    right.set_axis_off()
    plt.show()


last_row, last_column = (n - 1 for n in run.model.vit.grid)
sliders = interactive(listening, picture=(0, counts["test"] - 1), block=(1, depth), head=(1, heads),
                      row=(0, last_row), column=(0, last_column))  # fmt: skip
for slider in sliders.children[:-1]:
    slider.continuous_update = False
sliders

# %% [markdown]
# ## 11 The measurement
#
# How good is it, class by class, and how much of that is due to attention? All four results side by side:

# %% tags=["result"]
print(
    f"{'IoU on ' + str(counts['test']) + ' held-out pictures':32s} {'mean':>5s}  "
    + "  ".join(f"{n.split()[0]:>10s}" for n in CLASSES)
)
for name, confusion in results.items():
    each = "  ".join(f"{value:10.3f}" for value in class_iou(confusion).tolist())
    print(f"{name:32s} {mean_iou(confusion):5.3f}  {each}")
means = {name: mean_iou(confusion) for name, confusion in results.items()}
if pick(smoke=False, laptop=True):
    others = [value for name, value in means.items() if name != "vision transformer"]
    assert means["vision transformer"] > max(others) + 0.05

# %% [markdown]
# **Beside the paper.** Sapiens-2B reaches a mean IoU of 81.2 % (Table 4), on 28 classes, real photographs and
# 1024 × 768 pixels, with 750 times the weights, after pretraining on 300 million pictures. Ours has seven classes,
# 96 × 96 pixels, rendered people on both sides, and learned in minutes from nothing. The numbers can't be compared;
# what can is the step from the line "without attention" to the line above it, since nothing else differs (one run
# each). Every class gains, the lower body twofold. Arms are still found badly and legs hardly at all: six hundred
# steps and 2,400 pictures are not enough for them.
#
# ## 12 A photograph
#
# What does a network that has only seen rendered people make of a real one? Here is Eileen Collins, photographed by
# NASA. (`skimage.data.astronaut()`, public domain.)

# %%
from skimage.data import astronaut

photo = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512)
crops = {"all of it": photo, "closer": photo[:, :400, 30:430], "her head": photo[:, :256, 96:352]}
small = torch.cat([interpolate(crop[None], size=(config.size,) * 2, mode="area") for crop in crops.values()])
guess = predict(run.model, small)
plots.show_images([*small, *map(draw, guess)], list(crops), columns=3, height=2.2)

# %% [markdown]
# *Above: the photograph in three crops, 96 pixels wide, as the network gets it. Below: what it makes of them.*
#
# Plainly: close up it does well. Her face is a face, her hair is hair, her shoulders are an upper body; the dark ring
# of the suit is taken for hair. The farther away, the worse: with all of her in the picture the face is still found,
# but half of the hair is lost, the suit falls into patches of shirt and arms, the helmet is taken for hair and
# trousers, and parts of the flag for shirt and hair. It has never seen a space suit, nor a real room, nor a lens that
# blurs; and it had 96 pixels. Sapiens answers with 300 million photographs (chapter 06), DAViD with better rendered
# people (chapter 09).
#
# Your own: `photo = torch.from_numpy(plt.imread("me.jpg").copy()).permute(2, 0, 1) / 255`, cut to a square.
#
# ## What to remember
#
# - Attention is a weighted mean of values; the weights are computed from what is there, anew for each input.
# - Divide by $\sqrt d$. Otherwise wide heads start with a saturated softmax, which has nearly no gradient.
# - One head takes one mean. Several heads cost the same and keep several answers apart.
# - Norm first: the gradient reaches every block directly, and the stack trains without a warm-up. Then one more norm
#   at the end.
# - QK-norm bounds the scores. It costs little and buys larger learning rates.
# - A patch embedding is a linear map. Mind the order of the numbers in a patch.
# - Attention sees a set. Places are added (learned or waves), resized with the picture, or carried by the tokens
#   themselves.
# - Measure which attention is fast where you are: fused kernels on a GPU, the formula itself under bf16 on a CPU.
#
# ## What the papers leave open
#
# HumanRAM says "QK-Norm" and cites Henry et al., who divide by the length and learn one temperature; LVSM's code,
# which it follows, has an RMSNorm with a scale per component. The paper doesn't say which. Sapiens' text says neither
# which positions it has (its code: fixed waves, resized for fine-tuning) nor that Table 2's FLOPs leave out
# attention's own products: more in chapter 05. MPT refers to "the literature" for its layers, and there the norm
# comes last.
#
# ## Where to read on
#
# - A. Vaswani et al., *Attention is all you need*, 2017. A. Dosovitskiy et al., *An image is worth
#   16x16 words*, ICLR 2021.
# - R. Xiong et al., *On layer normalization in the transformer architecture*, ICML 2020: pre-LN and post-LN.
# - A. Henry et al., *Query-key normalization for transformers*, 2020; M. Dehghani et al., *Scaling vision
#   transformers to 22 billion parameters*, 2023; M. Wortsman et al., *Small-scale proxies for large-scale transformer
#   training instabilities*, 2023.
# - T. Dao et al., *FlashAttention: fast and memory-efficient exact attention with IO-awareness*, 2022.
# - K. He et al., *Masked autoencoders are scalable vision learners*, 2022: the two-dimensional waves, and chapter 06.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)
