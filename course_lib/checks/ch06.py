"""The checks of chapter 06: Sapiens' curation and pretraining."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torch.nn.functional import normalize as unit

from course_lib.chapters import sapiens_pretraining as course
from course_lib.chapters.scaling import Encoder, block_parameters, encoder_parameters
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_dtype,
    expect_equal,
    expect_gradient,
    expect_length,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_type,
    wrong_answer,
)
from course_lib.checks.patches import PICTURES, cut, taken_by_columns

CHANNEL_LAST = (1, 2, 0)  # of a patch (C, p, p)


# ------------------------------------------------------------------------------------------------- 06.1 reading the map
def two_people() -> tuple[Tensor, Tensor, Tensor]:
    """A map of 6 x 8 cells with two peaks, its shapes, and the two boxes, the surer one first."""
    heat, shape = torch.full((6, 8), 0.01), torch.zeros(4, 6, 8)
    heat[1:4, 4:7], heat[2, 5], heat[4, 1] = 0.7, 0.9, 0.6
    shape[:, 2, 5] = torch.tensor([torch.tensor(3.0).log(), torch.tensor(4.0).log(), 0.25, -0.5])
    shape[:, 4, 1] = torch.tensor([0.0, torch.tensor(2.0).log(), 0.0, 0.5])
    return heat, shape, torch.tensor([[4.25, 0.0, 7.25, 4.0], [1.0, 4.0, 2.0, 6.0]])


@check_for("06.1")
def read_centres(answer):
    heat, shape, expected = two_people()
    found = answer(heat, shape, 2)
    expect_length(found, 2, "boxes and their heat")
    boxes, value = found
    expect_type(boxes, Tensor, "the boxes")
    expect_shape(boxes, (2, 4), "the boxes of two people")
    if value.shape == (2,):
        words = (
            "A cell beside the strongest peak came before the second peak: keep only cells that no neighbour exceeds"
        )
        expect(value[1] < 0.65, words)
    expect_not_close(boxes, expected - 0.5, "The boxes are half a cell off: a cell's middle is at its number + 0.5")
    swapped = expected[:, [1, 0, 3, 2]]
    expect_not_close(
        boxes, swapped, "x and y are exchanged: the row is y, the column x; a box is left, top, right, bottom"
    )
    centre, sides = (expected[:, :2] + expected[:, 2:]) / 2, expected[:, 2:] - expected[:, :2]
    words = "That is centre, width and height. Turn it into left, top, right, bottom"
    expect_not_close(boxes, torch.cat([centre, sides], 1), words)
    half = sides.log() / 2
    words = "The sides are logarithms: .exp() makes them cells"
    expect_not_close(boxes, torch.cat([centre - half, centre + half], 1), words)
    way = torch.tensor([[0.25, -0.5], [0.0, 0.5]]).repeat(1, 2)
    expect_not_close(boxes, expected - way, "The way from the cell's middle to the centre is not added")
    expect_close(boxes, expected, "two people")
    expect_close(value, torch.tensor([0.9, 0.6]), "their heat")
    expect(len(answer(heat, shape, 1)[0]) == 1, "most=1: only the surest is wanted")
    flat = torch.rand(5, 5)
    boxes, value = answer(flat, torch.zeros(4, 5, 5), 20)
    peaks = int((flat == max_pool2d(flat[None, None], 3, 1, 1)[0, 0]).sum())
    expect_equal(len(value), peaks, "peaks of a map of noise, fewer than the 20 allowed")


@wrong_answer("06.1", says="beside the strongest peak")
def centres_without_peaks(heat, shape, most=20):
    value, cell = heat.flatten().topk(min(most, heat.numel()))
    row, column = cell // heat.shape[1], cell % heat.shape[1]
    sides, way = shape[:, row, column].T.split(2, dim=1)
    centre = torch.stack([column, row], 1) + 0.5 + way
    return torch.cat([centre - sides.exp() / 2, centre + sides.exp() / 2], 1), value


@wrong_answer("06.1", says="half a cell off")
def centres_at_the_corner(heat, shape, most=20):
    boxes, value = course.read_centres(heat, shape, most)
    return boxes - 0.5, value


@wrong_answer("06.1", says="exchanged")
def centres_turned(heat, shape, most=20):
    boxes, value = course.read_centres(heat, shape, most)
    return boxes[:, [1, 0, 3, 2]], value


@wrong_answer("06.1", says="centre, width and height")
def centres_and_sides(heat, shape, most=20):
    boxes, value = course.read_centres(heat, shape, most)
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1), value


@wrong_answer("06.1", says="logarithms")
def centres_without_exp(heat, shape, most=20):
    boxes, value = course.read_centres(heat, shape, most)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).log() / 2
    return torch.cat([centre - half, centre + half], 1), value


# ------------------------------------------------------------------------------------------------- 06.2 score and size
@check_for("06.2")
def large_and_certain(answer):
    boxes = torch.tensor([[0.0, 0, 20, 80], [0, 0, 90, 40], [10, 10, 30, 30], [0, 0, 80, 80], [0, 0, 80, 80]])
    found = course.Found(boxes, torch.tensor([0.95, 0.92, 0.99, 0.9, 0.3]))
    kept = answer(found, 128)
    expect_dtype(kept, torch.bool, "the answer for five boxes")
    expect_shape(kept, (5,), "the answer for five boxes")
    words = (
        "A slim standing person is dropped: 20 x 80 pixels of 128 is large enough, it is the longer side that counts"
    )
    expect(kept[0], words)
    expect(kept[1], "A box of 90 x 40 pixels with score 0.92 is dropped: is it the width that counts, too?")
    expect(
        not kept[2], "A box of 20 x 20 pixels of 128 is kept: a side must be more than 300/1024 of the picture, 37.5"
    )
    expect(not kept[3], "A score of exactly 0.9 is kept: it must be *above* 0.9")
    expect(not kept[4], "A box with score 0.3 is kept: size alone is not enough")
    large = course.Found(torch.tensor([[0.0, 0, 100, 310], [0, 0, 290, 100]]), torch.tensor([0.99, 0.99]))
    expect_equal(answer(large, 1024), torch.tensor([True, False]), "sides of 310 and 290 in a picture of 1024")
    expect_equal(answer(large, 1024, side=0.25), torch.tensor([True, True]), "the same with side=0.25")
    none = answer(course.Found(torch.zeros(0, 4), torch.zeros(0)), 128)
    expect_shape(none, (0,), "a picture without people")


@wrong_answer("06.2", says="longer side")
def both_sides(found, size, score=0.9, side=300 / 1024):
    return (found.scores > score) & ((found.boxes[:, 2:] - found.boxes[:, :2]).amin(1) > side * size)


@wrong_answer("06.2", says="20 x 20 pixels")
def score_alone(found, size, score=0.9, side=300 / 1024):
    return found.scores > score


@wrong_answer("06.2", says="above")
def at_least(found, size, score=0.9, side=300 / 1024):
    return (found.scores >= score) & ((found.boxes[:, 2:] - found.boxes[:, :2]).amax(1) > side * size)


@wrong_answer("06.2", says="size alone")
def size_alone(found, size, score=0.9, side=300 / 1024):
    large = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(1) > side * size
    return large & (found.scores != score)


@wrong_answer("06.2", says="dropped")
def pixels_of_a_large_picture(found, size, score=0.9, side=300 / 1024):
    return (found.scores > score) & ((found.boxes[:, 2:] - found.boxes[:, :2]).amax(1) > 300)


# --------------------------------------------------------------------------------------------- 06.3, 06.4 patches
@check_for("06.3")
def patchify(answer):
    found = answer(PICTURES, 2)
    words = "The channel comes first, as in chapter 04. Here it comes last: pixel after pixel, (p q c)"
    expect_not_close(found, cut(PICTURES, 2, (0, 1, 2)), words)
    words = "The patches go column by column. Row by row: the second one is to the right of the first"
    expect_not_close(found, cut(PICTURES, 2, CHANNEL_LAST, columns_first=True), words)
    expect_not_close(found, cut(PICTURES, 2, (2, 1, 0)), "Rows and columns inside a patch are swapped")
    words = "A reshape alone takes the numbers as they lie in memory: split H and W first, then permute"
    expect_not_close(found, PICTURES.reshape(2, 6, 12), words)
    expect_close(found, cut(PICTURES, 2, CHANNEL_LAST), "2 pictures of 4 x 6 pixels in patches of 2")
    one = torch.randn(1, 1, 3, 9, requires_grad=True)
    expect_close(answer(one, 3), cut(one, 3, CHANNEL_LAST), "one grey picture of 3 x 9 in patches of 3")
    expect_gradient(answer(one, 3), one, "the gradient")


@wrong_answer("06.3", says="channel comes first")
def patches_channel_first(images, patch):
    return cut(images, patch, (0, 1, 2))


@wrong_answer("06.3", says="column by column")
def patches_by_columns(images, patch):
    return cut(images, patch, CHANNEL_LAST, columns_first=True)


@wrong_answer("06.3", says="swapped")
def patches_turned(images, patch):
    return cut(images, patch, (2, 1, 0))


@wrong_answer("06.3", says="reshape alone")
def patches_by_reshape(images, patch):
    return images.reshape(len(images), -1, images.shape[1] * patch**2)


@check_for("06.4")
def unpatchify(answer):
    rows = cut(PICTURES, 2, CHANNEL_LAST)
    found = answer(rows, 2, (2, 3))
    words = "The numbers of a patch are read with the channel first: they are (p q c)"
    expect_not_close(found, back_channel_first(rows, 2, (2, 3)), words)
    words = "The patches are laid column by column. Row by row, grid[0] rows of grid[1]"
    expect_not_close(found, back_by_columns(rows, 2, (2, 3)), words)
    expect_close(found, PICTURES, "patches of 2 in a grid of 2 x 3 back into pictures of 4 x 6")
    scores = torch.randn(1, 4, 9 * 5)
    expect_close(answer(scores, 3, (4, 1)), course.unpatchify(scores, 3, (4, 1)), "5 channels, a grid of 4 x 1")


def back_channel_first(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    turned = rows.unflatten(-1, (-1, patch, patch)).permute(0, 1, 3, 4, 2).flatten(2)
    return course.unpatchify(turned, patch, grid)


def back_by_columns(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    return course.unpatchify(taken_by_columns(rows, grid), patch, grid)


wrong_answer("06.4", says="channel first")(back_channel_first)
wrong_answer("06.4", says="column by column")(back_by_columns)


@wrong_answer("06.4", says="the shape is")
def back_with_the_grid_turned(rows, patch, grid):
    return course.unpatchify(rows, patch, (grid[1], grid[0]))


# ------------------------------------------------------------------------------------------------- 06.5 random masking
@check_for("06.5")
def random_masking(answer):
    noise = torch.tensor([[0.3, 0.9, 0.1, 0.5], [0.2, 0.4, 0.8, 0.6]])
    found = answer(noise, 0.5)
    expect_length(found, 3, "keep, mask and restore")
    keep, mask, restore = found
    expect_type(keep, Tensor, "keep")
    expect(keep.shape != (2, 1) and keep.shape[-1] == 2, "Half of 4 patches are 2: keep N (1 - ratio), in every row")
    words = "The patches with the *most* noise are kept. Sort upwards and take the first"
    expect(not torch.equal(keep, noise.argsort(1, descending=True)[:, :2]), words)
    expect_equal(keep, torch.tensor([[2, 0], [0, 1]]), "keep")
    expect_dtype(mask, torch.float32, "mask")
    expect_not_close(
        mask, torch.tensor([[1.0, 0, 1, 0], [1, 1, 0, 0]]), "mask is 1 where a patch is *masked*, not visible"
    )
    words = "mask is in the shuffled order: 0 for the first n, 1 for the rest. Bring it back into the picture's order"
    expect_not_close(mask, torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), words)
    expect_close(mask, torch.tensor([[0.0, 1, 0, 1], [0, 0, 1, 1]]), "mask")
    words = "restore is the order itself. Its inverse is wanted: order.argsort(1)"
    expect(not torch.equal(restore, noise.argsort(1)), words)
    expect_equal(restore, torch.tensor([[1, 3, 0, 2], [0, 1, 3, 2]]), "restore")
    noise = torch.rand(3, 20)
    meant = course.random_masking(noise, 0.9)
    for one, other, name in zip(answer(noise, 0.9), meant, ("keep", "mask", "restore"), strict=True):
        expect_equal(one, other, f"{name} of 20 patches, 90 % masked (int(20 * (1 - 0.9)) of them stay, as MAE counts)")
    expect_raises(lambda: answer(noise, 1.0), ValueError, "a ratio of 1 (leave the first line as it was)")


@wrong_answer("06.5", says="most")
def masking_the_quiet(noise, ratio):
    keep, mask, restore = course.random_masking(-noise, ratio)
    return keep, mask, restore


@wrong_answer("06.5", says="masked\\*, not visible")
def masking_inverted(noise, ratio):
    keep, mask, restore = course.random_masking(noise, ratio)
    return keep, 1 - mask, restore


@wrong_answer("06.5", says="inverse is wanted")
def masking_without_inverse(noise, ratio):
    keep, mask, _ = course.random_masking(noise, ratio)
    return keep, mask, noise.argsort(1)


@wrong_answer("06.5", says="shuffled order")
def masking_not_brought_back(noise, ratio):
    keep, mask, restore = course.random_masking(noise, ratio)
    return keep, mask.sort(1).values, restore


@wrong_answer("06.5", says="in every row")
def masking_by_chance(noise, ratio):
    mask = (noise < ratio).float()
    return (1 - mask).nonzero()[:, 1][None], mask, noise.argsort(1).argsort(1)


# ------------------------------------------------------------------------------------------------- 06.6 the target
@check_for("06.6")
def normalize_patches(answer):
    patches = 3 + 2 * torch.randn(2, 5, 12)
    mean = patches.mean(-1, keepdim=True)
    spread = patches.std(-1, keepdim=True)
    found = answer(patches)
    whole = (patches - patches.mean()) / patches.std()
    expect_not_close(
        found, whole, "Mean and variance are those of the whole batch. Each patch has its own: over dim=-1"
    )
    expect_not_close(found, patches - mean, "The mean is gone, but nothing is divided by the spread")
    words = "Divided by the variance: its root is missing"
    expect_not_close(found, (patches - mean) / spread**2, words)
    biased = (patches - mean) / patches.std(-1, keepdim=True, correction=0)
    expect_not_close(found, biased, "The variance is divided by n. MAE's is torch.var's, by n - 1")
    expect_close(found, (patches - mean) / spread, "5 patches of 12 numbers", atol=1e-5)
    flat = answer(torch.full((1, 2, 12), 0.5))
    expect_close(flat, torch.zeros(1, 2, 12), "patches of one colour (add 1e-6 to the variance)")


@wrong_answer("06.6", says="whole batch")
def target_of_the_batch(patches):
    return (patches - patches.mean()) / patches.std()


@wrong_answer("06.6", says="root is missing")
def target_over_variance(patches):
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6)


@wrong_answer("06.6", says="n - 1")
def target_biased(patches):
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@wrong_answer("06.6", says="one colour")
def target_without_epsilon(patches):
    return (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)


# ------------------------------------------------------------------------------------------------- 06.7 the loss
@check_for("06.7")
def masked_loss(answer):
    prediction, target = torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 6, 4)
    mask = torch.tensor([[1.0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    error = (prediction - target).square().mean(-1)
    found = answer(prediction, target, mask)
    words = "Visible patches count, too. Only masked ones: times mask, over mask.sum()"
    expect_not_close(found, error.mean().detach(), words)
    words = "The visible patches count, the masked ones don't: mask is 1 where a patch is masked"
    expect_not_close(found, ((error * (1 - mask)).sum() / (1 - mask).sum()).detach(), words)
    words = "Divided by all patches: the sum is over the masked ones, so divide by their number"
    expect_not_close(found, (error * mask).mean().detach(), words)
    words = "That is the sum over the pixels of a patch. The mean is wanted"
    expect_not_close(found, (4 * (error * mask).sum() / mask.sum()).detach(), words)
    expect_close(found, (error * mask).sum() / mask.sum(), "two pictures of 6 patches")
    expect_gradient(found, prediction, "the gradient")
    nothing = answer(prediction, target, torch.zeros(2, 6))
    expect_close(nothing, torch.tensor(0.0), "nothing masked: 0/0 (divide by at least 1: .clamp(min=1))")


@wrong_answer("06.7", says="Visible patches count, too")
def loss_everywhere(prediction, target, mask):
    return (prediction - target).square().mean()


@wrong_answer("06.7", says="masked ones don't")
def loss_where_visible(prediction, target, mask):
    return course.masked_loss(prediction, target, 1 - mask)


@wrong_answer("06.7", says="Divided by all patches")
def loss_over_all(prediction, target, mask):
    return ((prediction - target).square().mean(-1) * mask).mean()


@wrong_answer("06.7", says="nothing masked")
def loss_undefined(prediction, target, mask):
    return ((prediction - target).square().mean(-1) * mask).sum() / mask.sum()


@wrong_answer("06.7", says="the shape is")
def loss_of_each_picture(prediction, target, mask):
    return ((prediction - target).square().mean(-1) * mask).sum(1) / mask.sum(1)


# ------------------------------------------------------------------------------------------------- 06.8 filling in
def filler() -> course.MaskedAutoencoder:
    """A small autoencoder whose mask token can be told from everything else."""
    model = course.MaskedAutoencoder(course.CONFIGS["smoke"])
    with torch.no_grad():
        model.mask_token.copy_(torch.linspace(5, 6, model.mask_token.shape[-1]))
    return model


@check_for("06.8")
def fill(answer):
    model = filler()
    width, noise = model.mask_token.shape[-1], torch.rand(2, 16)
    keep, mask, restore = course.random_masking(noise, 0.75)
    patches, cls = torch.randn(2, 16, width), torch.randn(2, 1, width)
    visible = patches.gather(1, keep[..., None].expand(-1, -1, width))
    tokens = torch.cat([cls, visible], 1)
    holes = model.mask_token.detach().expand(2, 12, -1)
    shuffled = torch.cat([visible, holes], 1)
    expected = torch.cat([cls, torch.where(mask[..., None] > 0, model.mask_token.detach(), patches)], 1)
    found = answer(model, tokens, restore)
    expect_type(found, Tensor, "the tokens")
    if found.shape == (2, 18, width):
        expect(False, "One token too many: cls is among the patches as well. tokens[:, 1:] are the patches")
    words = "Visible patches first, holes behind, but not in the picture's order: gather by restore"
    expect_not_close(found, torch.cat([cls, shuffled], 1), words)
    words = "Gathered by the inverse of restore: patch i is at place restore[i], so gather(1, restore)"
    index = restore.argsort(1)[..., None].expand(-1, -1, width)
    expect_not_close(found, torch.cat([cls, shuffled.gather(1, index)], 1), words)
    zeros = torch.cat([cls, patches * (1 - mask[..., None])], 1)
    expect_not_close(found, zeros, "The holes are zero. What stands there is self.mask_token, which is learned")
    expect_close(found, expected, "16 patches of which 4 are visible, and cls in front")
    found.sum().backward()
    expect(model.mask_token.grad is not None, "No gradient reaches mask_token: use the parameter itself")


@wrong_answer("06.8", says="picture's order")
def filled_in_shuffled_order(self, tokens, restore):
    holes = self.mask_token.expand(len(tokens), restore.shape[1] + 1 - tokens.shape[1], -1)
    return torch.cat([tokens, holes], 1)


@wrong_answer("06.8", says="inverse of restore")
def filled_by_the_inverse(self, tokens, restore):
    return course.MaskedAutoencoder.fill(self, tokens, restore.argsort(1))


@wrong_answer("06.8", says="holes are zero")
def filled_with_zeros(self, tokens, restore):
    holes = 0 * self.mask_token.expand(len(tokens), restore.shape[1] + 1 - tokens.shape[1], -1)
    shuffled = torch.cat([tokens[:, 1:], holes], 1)
    return torch.cat([tokens[:, :1], shuffled.gather(1, restore[..., None].expand_as(shuffled))], 1)


@wrong_answer("06.8", says="the shape is")
def filled_without_cls(self, tokens, restore):
    return course.MaskedAutoencoder.fill(self, tokens, restore)[:, 1:]


# ------------------------------------------------------------------------------------------------- 06.9 neighbours
@check_for("06.9")
def nearest(answer):
    features = torch.randn(30, 8) * torch.rand(30, 1).mul(5).exp()  # of very different lengths
    queries = torch.randn(4, 8)
    found = answer(queries, features, 3)
    expect_length(found, 2, "similarities and indices")
    similar = unit(queries, dim=1) @ unit(features, dim=1).T
    value, index = similar.topk(3, dim=1)
    expect_shape(found[1], (4, 3), "the indices of 3 neighbours of 4 queries")
    words = "Long vectors win: divide both by their lengths first. The cosine knows directions only"
    expect(not torch.equal(found[1], (queries @ features.T).topk(3, dim=1).indices), words)
    words = "Those are the *least* similar: largest first"
    expect(not torch.equal(found[1], similar.topk(3, dim=1, largest=False).indices), words)
    expect_equal(found[1], index, "the neighbours")
    expect_close(found[0], value, "their similarity")


@wrong_answer("06.9", says="Long vectors win")
def nearest_by_product(queries, features, count):
    return (queries @ features.T).topk(count, dim=1)


@wrong_answer("06.9", says="least")
def farthest(queries, features, count):
    return (unit(queries, dim=1) @ unit(features, dim=1).T).topk(count, dim=1, largest=False)


@wrong_answer("06.9", says="the shape is")
def nearest_of_the_features(queries, features, count):
    return (unit(queries, dim=1) @ unit(features, dim=1).T).topk(count, dim=0)


# ------------------------------------------------------------------------------------------------- 06.10 Table 2
@check_for("06.10")
def autoencoder_parameters(answer):
    sizes = {"width": 64, "depth": 3, "tokens": 17, "patch_values": 48, "decoder_width": 32, "decoder_depth": 2}
    encoder = encoder_parameters(Encoder(64, 3, 1, 17, 48))
    blocks, enter, leave = 2 * block_parameters(32), 65 * 32, 33 * 48
    full = encoder + blocks + enter + leave + 32 + 17 * 32 + 2 * 32
    found = answer(**sizes)
    expect_type(found, int, "the number of parameters")
    mistakes = {
        "That is the encoder alone. Table 2 counts the decoder, too": encoder,
        "The fixed places of the decoder are missing, tokens x decoder_width of them": full - 17 * 32,
        "The mask token is missing: decoder_width numbers": full - 32,
        "The decoder's last norm is missing: a scale and a shift for each channel": full - 64,
        "The last linear layer, from decoder_width to the numbers of a patch, is missing": full - leave,
        "The layer between encoder and decoder is missing: (width + 1) x decoder_width": full - enter,
        "A linear layer has biases as well": full - 32 - 48,
        "The decoder has a cls token of its own here: it gets the encoder's": full + 32,
    }
    for words, mistake in mistakes.items():
        expect(found != mistake, words)
    expect_equal(found, full, "a small autoencoder")
    expect_equal(answer(1920, 48), 2_162_608_768, "Sapiens-2B")


@wrong_answer("06.10", says="encoder alone")
def counting_the_encoder(width, depth, tokens=4097, patch_values=768, decoder_width=512, decoder_depth=8):
    return encoder_parameters(Encoder(width, depth, 1, tokens, patch_values))


@wrong_answer("06.10", says="fixed places of the decoder")
def counting_what_learns(width, depth, tokens=4097, patch_values=768, decoder_width=512, decoder_depth=8):
    sizes = width, depth, tokens, patch_values, decoder_width, decoder_depth
    return course.autoencoder_parameters(*sizes) - tokens * decoder_width


@wrong_answer("06.10", says="mask token is missing")
def counting_without_mask_token(width, depth, tokens=4097, patch_values=768, decoder_width=512, decoder_depth=8):
    sizes = width, depth, tokens, patch_values, decoder_width, decoder_depth
    return course.autoencoder_parameters(*sizes) - decoder_width
