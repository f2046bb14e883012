"""The checks of chapter 04: transformers."""

import torch
from torch import Tensor, nn

from course_lib.chapters import transformers
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_dtype,
    expect_equal,
    expect_gradient,
    expect_length,
    expect_not_close,
    expect_tensor,
    expect_type,
    wrong_answer,
)
from course_lib.checks.patches import PICTURES, cut, taken_by_columns


# ------------------------------------------------------------------------------------------------------ 04.1 attention
@check_for("04.1")
def attention(answer):
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 6)
    scores = q @ k.mT / 8**0.5
    found = answer(q, k, v)
    expect_not_close(
        found,
        (q @ k.mT).softmax(-1) @ v,
        "The scores are not divided by √d: with d = 8 they are 2.8 times too large, and the softmax too sharp",
    )
    expect_not_close(
        found,
        (q @ k.mT / 8).softmax(-1) @ v,
        "The scores are divided by d. Their standard deviation is √d: divide by the root",
    )
    expect_not_close(
        found,
        scores.softmax(-2) @ v,
        "The softmax runs over the queries. For each query the shares of all *keys* sum to 1: the last dimension",
    )
    expect_not_close(
        found, (q @ k.mT).softmax(-1) / 8**0.5 @ v, "The root divides the scores, before the softmax: not the shares"
    )
    expect_not_close(found, scores @ v, "There is no softmax: scores are no shares. They don't sum to 1")
    expect_close(
        found, scores.softmax(-1) @ v, "3 queries, 5 keys of width 8, values of width 6 (÷ √d, softmax, times v)"
    )
    heads = torch.randn(2, 4, 7, 16, requires_grad=True)
    expect_close(answer(heads, heads, heads), transformers.attention(heads, heads, heads), "tokens (2, 4, 7, 16)")
    expect_gradient(answer(heads, heads, heads), heads, "the gradient")


@wrong_answer("04.1", says="not divided by √d")
def attention_unscaled(q, k, v):
    return (q @ k.mT).softmax(-1) @ v


@wrong_answer("04.1", says="divide by the root")
def attention_divided_by_width(q, k, v):
    return (q @ k.mT / q.shape[-1]).softmax(-1) @ v


@wrong_answer("04.1", says="not the shares")
def attention_divided_too_late(q, k, v):
    return (q @ k.mT).softmax(-1) / q.shape[-1] ** 0.5 @ v


@wrong_answer("04.1", says="runs over the queries")
def attention_over_queries(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2) @ v


@wrong_answer("04.1", says="no softmax")
def attention_linear(q, k, v):
    return q @ k.mT / q.shape[-1] ** 0.5 @ v


@wrong_answer("04.1", says="raised")
def attention_of_one_picture_only(q, k, v):
    return (q @ k.transpose(0, 1) / q.shape[-1] ** 0.5).softmax(-1) @ v


# ---------------------------------------------------------------------------------------------------- 04.2 multi-head
def loud(width: int, heads: int, qk_norm: bool = False) -> transformers.Attention:
    """An attention whose weights are all different, its norms' scales too."""
    module = transformers.Attention(width, heads, qk_norm)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


@check_for("04.2")
def queries_keys_values(answer):
    module, x = loud(12, 3), torch.randn(2, 5, 12)
    flat = module.qkv(x)  # (2, 5, 36)
    expected = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in flat.chunk(3, -1)]  # (2, 3, 5, 4) each
    found = answer(module, x)
    expect_length(found, 3, "queries, keys and values")
    by_head = flat.unflatten(-1, (3, 3, 4)).permute(3, 0, 2, 1, 4)
    mixed = flat.unflatten(-1, (4, 3, 3)).permute(4, 0, 3, 1, 2)
    mistakes = [
        (by_head, "The 36 numbers are read head by head. The order is (3, h, d): all queries first, then all keys"),
        (mixed, "The 36 numbers are read as (d, h, 3). The order is (3, h, d): the numbers of a head stand together"),
        (
            [part.reshape(2, 3, 5, 4) for part in flat.chunk(3, -1)],
            "Tokens and heads are mixed up: split the last dimension into (h, d) first, then *permute*. A reshape to "
            "(B, h, N, d) puts numbers of several tokens into one",
        ),
        ([expected[0], expected[2], expected[1]], "Keys and values are swapped: the order is queries, keys, values"),
    ]
    for mistake, words in mistakes:
        if all(isinstance(one, Tensor) and one.shape == other.shape for one, other in zip(found, mistake, strict=True)):
            expect(not all(torch.allclose(a, b) for a, b in zip(found, mistake, strict=True)), words)
    for name, one, other in zip(("queries", "keys", "values"), found, expected, strict=True):
        expect_close(one, other, f"the {name} of 5 tokens 12 wide in 3 heads")
    check_norms(answer, x)


def check_norms(answer, x: Tensor) -> None:
    """With QK-norm: queries and keys normalised, each by its own norm, values not."""
    module = loud(12, 3, qk_norm=True)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in module.qkv(x).chunk(3, -1))
    found = answer(module, x)
    words = "Call self.q_norm and self.k_norm: without QK-norm they do nothing, with it"
    expect_not_close(found[0], q, f"{words} the queries must be normalised")
    expect_not_close(found[1], k, f"{words} the keys must be normalised")
    expect_not_close(
        found[1], module.q_norm(k), "The keys are normalised by q_norm: they have a norm of their own, k_norm"
    )
    expect(
        not torch.allclose(found[2], module.k_norm(v)),
        "The values are normalised, too. Only queries and keys make scores",
    )
    expect_close(found, (module.q_norm(q), module.k_norm(k), v), "queries, keys and values with QK-norm")


def split_heads(self, x):
    return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


@wrong_answer("04.2", says="head by head")
def heads_first(self, x):
    return tuple(self.qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4))


@wrong_answer("04.2", says="Tokens and heads are mixed up")
def heads_by_reshape(self, x):
    b, n, width = x.shape
    return tuple(part.reshape(b, self.heads, n, width // self.heads) for part in self.qkv(x).chunk(3, -1))


@wrong_answer("04.2", says="must be normalised")
def heads_without_norm(self, x):
    return tuple(split_heads(self, x))


@wrong_answer("04.2", says="another order|permute")
def heads_not_moved(self, x):
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
    return self.q_norm(q), self.k_norm(k), v


@wrong_answer("04.2", says="values are normalised")
def heads_values_normalised(self, x):
    q, k, v = split_heads(self, x)
    return self.q_norm(q), self.k_norm(k), self.k_norm(v)


@wrong_answer("04.2", says="swapped")
def heads_in_another_order(self, x):
    q, v, k = split_heads(self, x)
    return self.q_norm(q), self.k_norm(k), v


# --------------------------------------------------------------------------------------------------------- 04.3 block
@check_for("04.3")
def block_forward(answer):
    block, x = transformers.Block(8, 2), torch.randn(2, 5, 8)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    attn, mlp, norm1, norm2 = block.attn, block.mlp, block.norm1, block.norm2
    y = x + attn(norm1(x))
    post = norm1(x + attn(x))
    inside = norm1(x) + attn(norm1(x))
    mistakes = {
        "That is post-LN: the norm stands after the sum. Here it stands inside, before attention and before the MLP": (
            norm2(post + mlp(post))
        ),
        "Nothing is added: without x + … the block replaces its tokens": mlp(norm2(attn(norm1(x)))),
        "What is added is the *normalised* x. The stream runs past the norm: x + attn(norm1(x))": (
            norm2(inside) + mlp(norm2(inside))
        ),
        "The norms are missing": (x + attn(x)) + mlp(x + attn(x)),
        "Attention and MLP both see the block's input. The MLP comes after: it sees the sum with attention": (
            x + attn(norm1(x)) + mlp(norm2(x))
        ),
        "norm1 is used twice: the MLP has a norm of its own, norm2": y + mlp(norm1(y)),
        "The MLP comes first here: attention, then the MLP": x + mlp(norm2(x)) + attn(norm1(x + mlp(norm2(x)))),
        "The MLP's answer is not added to the stream": mlp(norm2(y)),
    }
    before = x.clone()
    found = answer(block, x)
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect(torch.equal(x, before), "The tokens that came in were changed in place: write x = x + …, not x += …")
    expect_close(found, y + mlp(norm2(y)), "a block with 5 tokens of width 8")


@wrong_answer("04.3", says="post-LN")
def block_post_norm(self, x):
    x = self.norm1(x + self.attn(x))
    return self.norm2(x + self.mlp(x))


@wrong_answer("04.3", says="Nothing is added")
def block_without_residuals(self, x):
    return self.mlp(self.norm2(self.attn(self.norm1(x))))


@wrong_answer("04.3", says="normalised")
def block_adds_the_norm(self, x):
    x = self.norm1(x)
    x = x + self.attn(x)
    x = self.norm2(x)
    return x + self.mlp(x)


@wrong_answer("04.3", says="sees the sum")
def block_parallel(self, x):
    return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))


@wrong_answer("04.3", says="in place")
def block_in_place(self, x):
    x += self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


# ------------------------------------------------------------------------------------------------------- 04.4 RMSNorm
@check_for("04.4")
def rms_norm(answer):
    norm, x = transformers.RMSNorm(6), 3 + torch.randn(4, 5, 6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 0.5, 1, -1, 3]))
    rms = x.square().mean(-1, keepdim=True).sqrt()
    found = answer(norm, x)
    centred = nn.functional.layer_norm(x, (6,), norm.weight, None, norm.eps)
    expect_not_close(found, centred, "That is a LayerNorm: the mean is subtracted. RMSNorm only divides")
    expect_not_close(found, x / rms, "The learned scale is missing: times self.weight")
    expect_not_close(
        found,
        x / x.norm(dim=-1, keepdim=True) * norm.weight,
        "Divided by the length: √(sum of squares). The root *mean* square is smaller by √d",
    )
    expect_not_close(
        found, x / rms.square() * norm.weight, "Divided by the mean square: its root is missing (rsqrt, not reciprocal)"
    )
    expect_close(found, x / rms * norm.weight, "5 tokens of width 6 (the mean runs over the last dimension only)")
    expect_close(answer(norm, torch.zeros(2, 6)), torch.zeros(2, 6), "zeros (add eps before the root)")
    tiny = 1e-3 * x
    expected = tiny * (tiny.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight
    expect_close(answer(norm, tiny), expected, "small tokens (eps is added to the mean square, under the root)")
    half = x.bfloat16()
    expect_dtype(answer(norm, half), torch.bfloat16, "the result for bf16 tokens (end in the dtype that x came with)")
    exact = (half.float() / half.float().square().mean(-1, keepdim=True).sqrt() * norm.weight).bfloat16()
    expect_equal(answer(norm, half), exact, "bf16 tokens: square and average in float32 (x.float())")


@wrong_answer("04.4", says="LayerNorm")
def rms_centred(self, x):
    x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


@wrong_answer("04.4", says="under the root")
def rms_eps_outside(self, x):
    return x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


@wrong_answer("04.4", says="learned scale")
def rms_without_weight(self, x):
    return (x * (x.float().square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


@wrong_answer("04.4", says="length")
def rms_by_length(self, x):
    return nn.functional.normalize(x, dim=-1) * self.weight


@wrong_answer("04.4", says="root is missing")
def rms_without_root(self, x):
    return x / (x.square().mean(-1, keepdim=True) + self.eps) * self.weight


@wrong_answer("04.4", says="bf16")
def rms_in_float32(self, x):
    return x * (x.float().square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


@wrong_answer("04.4", says="in float32")
def rms_in_half(self, x):
    return (x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight).to(x.dtype)


@wrong_answer("04.4", says="add eps")
def rms_without_eps(self, x):
    return (x * x.float().square().mean(-1, keepdim=True).rsqrt() * self.weight).to(x.dtype)


# ------------------------------------------------------------------------------------------------------ 04.5 patchify
@check_for("04.5")
def patchify(answer):
    found = answer(PICTURES, 2)
    expect_not_close(
        found,
        cut(PICTURES, 2, (1, 2, 0)),
        "The channel comes last here, as MAE has it. Ours comes first: (c p q), as in a convolution's kernel",
    )
    expect_not_close(
        found,
        cut(PICTURES, 2, (0, 1, 2), columns_first=True),
        "The patches go column by column. Row by row: the second one is to the right of the first",
    )
    apart = PICTURES.unflatten(3, (2, 3)).unflatten(2, (2, 2)).permute(0, 3, 5, 1, 2, 4).reshape(2, 6, 12)
    expect_not_close(
        found, apart, "Neighbours in a patch are no neighbours in the picture: H is (h p), patch first, not (p h)"
    )
    expect_not_close(found, cut(PICTURES, 2, (0, 2, 1)), "Rows and columns inside a patch are swapped")
    if isinstance(found, Tensor) and found.shape == (2, 6, 12):
        reshaped = torch.equal(found, PICTURES.reshape(2, 6, 12))
        words = "A reshape alone takes the numbers as they lie in memory: rows of the whole picture, not patches"
        expect(not reshaped, f"{words}. Split H and W first, then permute")
    expect_close(
        found, cut(PICTURES, 2, (0, 1, 2)), "2 pictures of 4 x 6 pixels in patches of 2 (H is (h p), not (p h))"
    )
    one = torch.randn(1, 1, 3, 9, requires_grad=True)
    expect_close(answer(one, 3), cut(one, 3, (0, 1, 2)), "one grey picture of 3 x 9 in patches of 3")
    expect_gradient(answer(one, 3), one, "the gradient")


@wrong_answer("04.5", says="no neighbours in the picture")
def patches_of_scattered_pixels(images, patch):
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    split = images.unflatten(3, (patch, columns)).unflatten(2, (patch, rows))  # (B, C, p, h, q, w)
    return split.permute(0, 3, 5, 1, 2, 4).flatten(3).flatten(1, 2)


@wrong_answer("04.5", says="channel comes last")
def patches_channel_last(images, patch):
    return cut(images, patch, (1, 2, 0))


@wrong_answer("04.5", says="column by column")
def patches_by_columns(images, patch):
    return cut(images, patch, (0, 1, 2), columns_first=True)


@wrong_answer("04.5", says="reshape alone")
def patches_by_reshape(images, patch):
    b, c, h, w = images.shape
    return images.reshape(b, h * w // patch**2, c * patch**2)


@wrong_answer("04.5", says="the shape is")
def patches_not_flattened(images, patch):
    return cut(images, patch, (0, 1, 2)).unflatten(-1, (images.shape[1], -1))


# ---------------------------------------------------------------------------------------------------- 04.6 unpatchify
@check_for("04.6")
def unpatchify(answer):
    rows = transformers.patchify(PICTURES, 2)  # (2, 6, 12)
    found = answer(rows, 2, (2, 3))
    words = "The patches are laid column by column. Row by row, grid[0] rows of grid[1]"
    expect_not_close(found, answer_by_columns(rows, 2, (2, 3)), words)
    words = "The numbers of a patch are read with the channel last: they are (c p q)"
    expect_not_close(found, channel_last(rows, 2, (2, 3)), words)
    expect_close(found, PICTURES, "patches of 2 in a grid of 2 x 3 back into pictures of 4 x 6 (H is (h p), not (p h))")
    scores = torch.randn(1, 4, 5 * 9)
    expect_close(answer(scores, 3, (4, 1)), transformers.unpatchify(scores, 3, (4, 1)), "5 channels, a grid of 4 x 1")


def answer_by_columns(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    return transformers.unpatchify(taken_by_columns(rows, grid), patch, grid)


def channel_last(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    swapped = rows.unflatten(-1, (patch, patch, -1)).permute(0, 1, 4, 2, 3).flatten(2)
    return transformers.unpatchify(swapped, patch, grid)


wrong_answer("04.6", says="column by column")(answer_by_columns)
wrong_answer("04.6", says="channel last")(channel_last)


@wrong_answer("04.6", says="off|was expected")
def back_by_reshape(rows, patch, grid):
    return rows.reshape(len(rows), -1, grid[0] * patch, grid[1] * patch)


@wrong_answer("04.6", says="the shape is")
def back_with_the_grid_turned(rows, patch, grid):
    return transformers.unpatchify(rows, patch, (grid[1], grid[0]))


# -------------------------------------------------------------------------------------------------------- 04.7 places
@check_for("04.7")
def sincos(answer):
    found = answer((3, 5), 16)
    expected = transformers.sincos_position_embedding((3, 5), 16)
    expect_type(found, Tensor, "the table")
    x, y = expected[:, :8], expected[:, 8:]
    expect_not_close(
        found, torch.cat([y, x], 1), "Rows come first here. The first half of the numbers is the column's, x"
    )
    wrong_order = expected.view(3, 5, 16).transpose(0, 1).flatten(0, 1)
    expect_not_close(found, wrong_order, "The places go column by column. Row by row, as the patches do")
    interleaved = expected.unflatten(1, (2, 2, 4)).transpose(2, 3).flatten(1)
    words = "Sine and cosine take turns. First all sines of x, then all cosines of x, then those of y"
    expect_not_close(found, interleaved, words)
    by_wave = expected.unflatten(1, (2, 2, 4)).transpose(1, 2).flatten(1)
    expect_not_close(found, by_wave, "Sines of x and y come first here. All of x, sines and cosines, then all of y")
    cosine_first = expected.unflatten(1, (2, 2, 4)).flip(2).flatten(1)
    expect_not_close(found, cosine_first, "The cosines come first here: sines, then cosines")
    expect_not_close(
        found,
        waves(3, 5, 10000.0 ** (-torch.arange(4.0) / 8)),
        "The wavelengths stop too early: ω is 10000^(-i/K) with K = D/4 waves, not D/2",
    )
    expect_tensor(found, (15, 16), torch.float32, what="the table of 3 x 5 places, 16 wide (K = 4 waves)")
    expect_close(found, expected, "3 x 5 places, 16 wide: sin x, cos x, sin y, cos y, K = 4 numbers each")
    expect_close(
        answer((64, 64), 32), transformers.sincos_position_embedding((64, 64), 32), "64 x 64 places", atol=1e-4
    )


def waves(rows: int, columns: int, frequency: Tensor) -> Tensor:
    """Equation 04.7 twice, with these frequencies (K,)."""
    y, x = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


@wrong_answer("04.7", says="then all of y")
def sincos_by_wave(grid, width):
    table = transformers.sincos_position_embedding(grid, width)
    return table.unflatten(1, (2, 2, width // 4)).transpose(1, 2).flatten(1)


@wrong_answer("04.7", says="Rows come first")
def places_rows_first(grid, width):
    x, y = transformers.sincos_position_embedding(grid, width).chunk(2, 1)
    return torch.cat([y, x], 1)


@wrong_answer("04.7", says="column by column")
def places_by_columns(grid, width):
    return transformers.sincos_position_embedding(grid, width).view(*grid, width).transpose(0, 1).flatten(0, 1)


@wrong_answer("04.7", says="take turns")
def places_interleaved(grid, width):
    table = transformers.sincos_position_embedding(grid, width)
    return table.unflatten(1, (2, 2, width // 4)).transpose(2, 3).flatten(1)


@wrong_answer("04.7", says="stop too early")
def places_half_the_wavelengths(grid, width):
    return waves(*grid, 10000.0 ** (-torch.arange(width // 4) / (width // 2)))


@wrong_answer("04.7", says="float64")
def places_in_float64(grid, width):
    return transformers.sincos_position_embedding(grid, width).double()


# -------------------------------------------------------------------------------------------------------- 04.8 resize
@check_for("04.8")
def resize(answer):
    table = torch.randn(1, 13, 8)
    found = answer(table, (3, 4), (5, 2), prefix=1)
    expected = transformers.resize_position_embedding(table, (3, 4), (5, 2), prefix=1)
    expect_type(found, Tensor, "the table")
    if found.shape == (1, 10, 8):
        expect_close(found, expected, "a table with a cls row (its row is lost: put the first `prefix` rows in front)")
    if found.shape == expected.shape:
        expect_close(found[:, :1], table[:, :1], "the row of the cls token (it must stay as it is)")
    words = "The new grid is turned: it is (rows, columns) = (5, 2), here it came out as (2, 5)"
    expect_not_close(found, transformers.resize_position_embedding(table, (3, 4), (2, 5), prefix=1), words)
    words = "The old grid is turned: the table holds 3 rows of 4, row by row"
    expect_not_close(found, transformers.resize_position_embedding(table, (4, 3), (5, 2), prefix=1), words)
    for mode, words in (("bilinear", "bilinear"), ("nearest", "nearest neighbours")):
        mistake = resized(table, (3, 4), (5, 2), 1, mode=mode)
        expect_not_close(found, mistake, f'That is interpolated by {words}: use mode="bicubic"')
    words = "The corners are aligned: patches are squares, not points, so align_corners must be False"
    expect_not_close(found, resized(table, (3, 4), (5, 2), 1, mode="bicubic", align_corners=True), words)
    expect_close(found, expected, "3 x 4 places to 5 x 2, one row in front (permute, don't reshape)")
    expect_close(answer(table[:, 1:], (3, 4), (3, 4)), table[:, 1:], "the same grid (nothing changes)")


def resized(table: Tensor, old, new, prefix: int, **how) -> Tensor:
    picture = table[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)
    return torch.cat([table[:, :prefix], nn.functional.interpolate(picture, size=new, **how).flatten(2).mT], 1)


@wrong_answer("04.8", says="bilinear")
def resize_bilinear(table, old, new, prefix=0):
    return resized(table, old, new, prefix, mode="bilinear")


@wrong_answer("04.8", says="corners are aligned")
def resize_aligned(table, old, new, prefix=0):
    return resized(table, old, new, prefix, mode="bicubic", align_corners=True)


@wrong_answer("04.8", says="row is lost")
def resize_without_prefix(table, old, new, prefix=0):
    return resized(table, old, new, prefix, mode="bicubic")[:, prefix:]


@wrong_answer("04.8", says="old grid is turned")
def resize_turned(table, old, new, prefix=0):
    return resized(table, old[::-1], new, prefix, mode="bicubic")


@wrong_answer("04.8", says="stay as it is|was expected")
def resize_as_a_list(table, old, new, prefix=0):
    count = prefix + new[0] * new[1]
    return nn.functional.interpolate(table.mT, size=count, mode="linear").mT


# --------------------------------------------------------------------------------------------------------- 04.9 embed
def small_vit(cls: bool = True, positions: str = "learned") -> transformers.VisionTransformer:
    """A vision transformer for pictures of 8 x 12 in patches of 4, whose cls token and places are far from zero."""
    vit = transformers.VisionTransformer((8, 12), 4, 16, 1, 2, cls=cls, positions=positions)
    with torch.no_grad():
        for parameter in (vit.cls_token, vit.pos_embed):
            if parameter is not None:
                parameter.copy_(torch.randn_like(parameter))
    return vit


@check_for("04.9")
def embed(answer):
    vit, images = small_vit(), torch.randn(3, 3, 8, 12)
    patches, places = vit.patch_embed(images), vit.pos_embed
    cls = vit.cls_token.expand(3, -1, -1)
    found = answer(vit, images)
    mistakes = {
        "The cls token has got no place: its row of the table, the first, is added too": (
            torch.cat([cls, patches + places[:, 1:]], 1)
        ),
        "The cls token stands at the end. It stands in front, as its row of the table does": (
            torch.cat([patches, cls], 1) + places
        ),
        "The places are not added": torch.cat([cls, patches], 1),
        "The patches have the wrong rows of the table: its first row is the cls token's, theirs begin after it": (
            torch.cat([cls + places[:, :1], patches + places[:, :-1]], 1)
        ),
        "The cls token is missing: self.prefix says that there is one": patches + places[:, 1:],
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(
        found,
        torch.cat([cls, patches], 1) + places,
        "8 x 12 pixels in patches of 4: cls, patches, then the whole table added",
    )
    plain = small_vit(cls=False)
    expect_close(answer(plain, images), plain.patch_embed(images) + plain.pos_embed, "without a cls token (prefix 0)")
    bare = small_vit(positions="none")
    expected = torch.cat([bare.cls_token.expand(3, -1, -1), bare.patch_embed(images)], 1)
    expect_close(answer(bare, images), expected, "without positions (self.places gives 0 then)")
    tall = torch.randn(3, 3, 16, 8)
    expected = transformers.VisionTransformer.embed(vit, tall)
    expect_close(answer(vit, tall), expected, "pictures of 16 x 8 (ask self.places for the table of *their* grid)")


@wrong_answer("04.9", says="no place")
def embed_cls_without_place(self, images):
    tokens = self.patch_embed(images) + self.places(self.grid)[:, 1:]
    return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)


@wrong_answer("04.9", says="at the end")
def embed_cls_last(self, images):
    tokens = self.patch_embed(images)
    return torch.cat([tokens, self.cls_token.expand(len(tokens), -1, -1)], 1) + self.pos_embed


@wrong_answer("04.9", says="places are not added")
def embed_without_places(self, images):
    tokens = self.patch_embed(images)
    return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)


@wrong_answer("04.9", says="prefix 0|raised")
def embed_always_cls(self, images):
    tokens = self.patch_embed(images)
    return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed


@wrong_answer("04.9", says="16 x 8|raised")
def embed_of_one_size(self, images):
    tokens = self.patch_embed(images)
    if self.prefix:
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
    return tokens + (0 if self.pos_embed is None else self.pos_embed)
