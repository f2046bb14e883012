"""The checks of chapter 05: scaling."""

import math

import torch
from torch import Tensor, nn

from course_lib.chapters import scaling
from course_lib.checks import (
    Wrong,
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_length,
    expect_not_close,
    expect_type,
    expect_unchanged,
    wrong_answer,
)

SMALL = scaling.Encoder(width=48, depth=3, heads=4, tokens=17, patch_values=192)


def expect_number(actual, expected: float, mistakes: dict[float, str], what: str) -> None:
    """The number, or the words for a mistake that gives another; exact for whole numbers."""
    expect_type(actual, (int, float), what)
    for mistake, words in mistakes.items():
        expect(abs(actual - mistake) > 1e-9 * abs(mistake), words)
    if isinstance(actual, int) and isinstance(expected, int):
        expect(actual == expected, f"{what}: {actual:,} came back, {expected:,} was expected")
    expect_close(float(actual), float(expected), what, atol=0, rtol=1e-9)


# ---------------------------------------------------------------------------------------------- 05.1 block parameters
@check_for("05.1")
def block_parameters(answer):
    D, r = 48, 2
    mistakes = {
        12 * 48**2: "Only the weights were counted. Each linear layer has biases, each norm a scale and a shift",
        12 * 48**2 + 9 * 48: "The norms are missing: two of them, each with a scale and a shift for every value",
        12 * 48**2 + 4 * 48: "The biases are missing: one for each number that comes out of a linear layer",
        12 * 48**2 + 11 * 48: "A norm has a scale *and* a shift: 2 D for each of the two norms",
        10 * 48**2 + 11 * 48: "qkv makes three outputs of D: 3 D² weights and 3 D biases",
    }
    expect_number(answer(D), 12 * 48**2 + 13 * 48, mistakes, "the parameters of a block of width 48")
    expect(answer(D, r) != answer(D), "With mlp_ratio=2 the same number came back as with 4: use mlp_ratio")
    expect_number(answer(D, r), 8 * D**2 + 11 * D, {}, "the parameters of a block of width 48 with mlp_ratio=2")


@wrong_answer("05.1", says="Only the weights")
def weights_only(width, mlp_ratio=4):
    return (4 + 2 * mlp_ratio) * width**2


@wrong_answer("05.1", says="norms are missing")
def without_norms(width, mlp_ratio=4):
    return (4 + 2 * mlp_ratio) * width**2 + (5 + mlp_ratio) * width


@wrong_answer("05.1", says="use mlp_ratio")
def always_four(width, mlp_ratio=4):
    return 12 * width**2 + 13 * width


@wrong_answer("05.1", says="qkv makes three")
def one_of_qkv(width, mlp_ratio=4):
    return (2 + 2 * mlp_ratio) * width**2 + (7 + mlp_ratio) * width


# --------------------------------------------------------------------------------------------------- 05.2 block FLOPs
@check_for("05.2")
def block_flops(answer):
    N, D = 17, 48
    linear, own = 24 * N * D**2, 4 * N**2 * D
    mistakes = {
        (linear + own) // 2: "Those are multiply-adds. Each of them is two FLOPs, a multiplication and an addition",
        linear: "Attention's own products are missing: q kᵀ, and the shares times the values, each N·N·D multiply-adds",
        linear + own // 2: "Attention has *two* products of its own: q kᵀ, and the shares times the values",
        linear + 4 * N * D**2: "Attention's own products grow with N², not with D²: every query meets every key",
        24 * D**2 + own: "Every one of the N tokens goes through the linear layers",
    }
    expect_number(answer(N, D), linear + own, mistakes, "the FLOPs of a block for 17 tokens of width 48")
    expect(answer(N, D, 2) != answer(N, D), "With mlp_ratio=2 the same number came back as with 4: use mlp_ratio")
    expect_number(answer(N, D, 2), 16 * N * D**2 + own, {}, "the FLOPs of a block with mlp_ratio=2")


@wrong_answer("05.2", says="multiply-adds")
def macs_of_a_block(tokens, width, mlp_ratio=4):
    return scaling.block_flops(tokens, width, mlp_ratio) // 2


@wrong_answer("05.2", says="own products are missing")
def flops_of_linear_layers(tokens, width, mlp_ratio=4):
    return 2 * tokens * (4 + 2 * mlp_ratio) * width**2


@wrong_answer("05.2", says=r"\*two\* products")
def flops_without_the_values(tokens, width, mlp_ratio=4):
    return 2 * (tokens * (4 + 2 * mlp_ratio) * width**2 + tokens**2 * width)


@wrong_answer("05.2", says="use mlp_ratio")
def flops_of_ratio_four(tokens, width, mlp_ratio=4):
    return 24 * tokens * width**2 + 4 * tokens**2 * width


# ------------------------------------------------------------------------------------------------------ 05.3 Table 2
@check_for("05.3")
def table_macs(answer):
    N, D, L, own = 17, 48, 3, 2 * 17**2 * 48 * 3
    linear, patches, norms = 12 * N * D**2 * L, 16 * 192 * D, 5 * N * D * 7
    mistakes = {
        linear + patches + norms + own: "Attention's own products are in it. This counter does not see them",
        2 * (linear + patches) + norms: "A multiply-add counts as one here, not as two",
        2 * (linear + patches + norms): "A multiply-add counts as one here, not as two",
        linear + norms: "The patch embedding is missing: a linear layer from patch_values to D for each patch",
        linear + patches: "The norms are missing: 5 for each of the N·D numbers that enter one of the 2 L + 1 norms",
        linear + patches + norms * 6 // 7: "One norm is missing: two in each block, and one at the end",
        linear + patches * 17 // 16 + norms: "The cls token has no pixels: N - 1 patches go through the embedding",
        linear + 16 * 768 * D + norms: "This encoder's patches have 192 numbers, not 768: use encoder.patch_values",
        linear * 16 // 17
        + patches
        + norms * 16 // 17: "The cls token goes through the blocks, too: N tokens, not N - 1",
    }
    expect_number(answer(SMALL), linear + patches + norms, mistakes, "the count for 3 blocks, 17 tokens of width 48")


@wrong_answer("05.3", says="does not see them")
def with_attention(encoder):
    return scaling.table_macs(encoder) + 2 * encoder.tokens**2 * encoder.width * encoder.depth


@wrong_answer("05.3", says="counts as one")
def in_flops(encoder):
    return 2 * scaling.table_macs(encoder)


@wrong_answer("05.3", says="norms are missing")
def linear_layers_only(encoder):
    patches = (encoder.tokens - 1) * encoder.patch_values * encoder.width
    return 12 * encoder.tokens * encoder.width**2 * encoder.depth + patches


@wrong_answer("05.3", says="use encoder.patch_values")
def patches_of_768(encoder):
    others = (768 - encoder.patch_values) * (encoder.tokens - 1) * encoder.width
    return scaling.table_macs(encoder) + others


@wrong_answer("05.3", says="no pixels")
def a_patch_too_many(encoder):
    return scaling.table_macs(encoder) + encoder.patch_values * encoder.width


# --------------------------------------------------------------------------------------------------------- 05.4 days
@check_for("05.4")
def training_days(answer):
    run = dict(flops=2e12, samples=1e9, gpus=64, peak=3e14, utilisation=0.4)
    right = 3 * 2e12 * 1e9 / (64 * 3e14 * 0.4) / 86400
    mistakes = {
        right / 3: "Only the forward pass was counted. The backward pass costs twice as much again",
        right * 2 / 3: "The backward pass costs twice as much as the forward pass: three passes in all",
        right * 86400: "Those are seconds. A day has 24 · 3600 of them",
        right * 24: "Those are hours. A day has 24 of them",
        right * 0.4 * 0.4: "Multiplied by the utilisation: GPUs that do less take *longer*. Divide by it",
        right * 0.4: "The utilisation is missing: the GPUs reach only this share of their peak",
        right * 64: "The GPUs share the work: divide by their number",
    }
    expect_number(answer(**run), right, mistakes, "the days of 1e9 samples of 2 TFLOPs on 64 GPUs")
    again = answer(**run, recompute=True)
    expect_number(
        again,
        right * 4 / 3,
        {right: "With recompute=True the forward pass runs twice: four passes"},
        "the days with recompute=True",
    )


@wrong_answer("05.4", says="Only the forward pass")
def days_forward(flops, samples, gpus, peak, utilisation, recompute=False):
    return (2 if recompute else 1) * flops * samples / (gpus * peak * utilisation) / 86400


@wrong_answer("05.4", says="Divide by it")
def days_times_utilisation(flops, samples, gpus, peak, utilisation, recompute=False):
    return (4 if recompute else 3) * flops * samples * utilisation / (gpus * peak) / 86400


@wrong_answer("05.4", says="seconds")
def seconds(flops, samples, gpus, peak, utilisation, recompute=False):
    return (4 if recompute else 3) * flops * samples / (gpus * peak * utilisation)


@wrong_answer("05.4", says="four passes")
def never_again(flops, samples, gpus, peak, utilisation, recompute=False):
    return 3 * flops * samples / (gpus * peak * utilisation) / 86400


# -------------------------------------------------------------------------------------------------------- 05.5 state
@check_for("05.5")
def state_bytes(answer):
    alone = answer(1000)
    expect_type(alone, dict, "the state of 1,000 parameters")
    names = ["gradients", "optimiser", "parameters"]
    expect_equal(sorted(alone), names, "the keys")
    expect(alone["optimiser"] != 4000, "AdamW has *two* running means for each parameter, each of 4 bytes")
    expect(
        alone["parameters"] != 2000, "Weights stay in 32 bits under autocast: 4 bytes each; the bf16 copies come on top"
    )
    expect(alone["gradients"] != 2000, "Gradients have the dtype of their parameters: 4 bytes each under autocast")
    expect_numbers(alone, {"parameters": 4000, "gradients": 4000, "optimiser": 8000}, "1,000 parameters, one rank")
    first = answer(1000, 8, 1)
    expect(first["parameters"] != 500, "At stage 1 only the optimiser is shared out: every rank holds all parameters")
    expect(first["optimiser"] != 8000, "At stage 1 the optimiser's means are shared out over the ranks")
    expect_numbers(first, {"parameters": 4000, "gradients": 4000, "optimiser": 1000}, "8 ranks at stage 1")
    expect_numbers(answer(1000, 8, 0), alone, "8 ranks at stage 0 (each holds everything)")
    expect_numbers(answer(1000, 8, 2), {"parameters": 4000, "gradients": 500, "optimiser": 1000}, "8 ranks at stage 2")
    expect_numbers(answer(1000, 8, 3), {"parameters": 500, "gradients": 500, "optimiser": 1000}, "8 ranks at stage 3")


def expect_numbers(found: dict, expected: dict, what: str) -> None:
    for name, number in expected.items():
        expect_number(found[name], number, {}, f"{what}, {name}")


@wrong_answer("05.5", says=r"\*two\* running means")
def one_moment(parameters, ranks=1, stage=0):
    return scaling.state_bytes(parameters, ranks, stage) | {"optimiser": 4 * parameters / (ranks if stage else 1)}


@wrong_answer("05.5", says="stay in 32 bits")
def weights_in_bf16(parameters, ranks=1, stage=0):
    return scaling.state_bytes(parameters, ranks, stage) | {"parameters": 2 * parameters}


@wrong_answer("05.5", says="holds all parameters")
def everything_shared(parameters, ranks=1, stage=0):
    return scaling.state_bytes(parameters, ranks, 3 if stage else 0)


@wrong_answer("05.5", says="stage 2, gradients")
def gradients_whole(parameters, ranks=1, stage=0):
    return scaling.state_bytes(parameters, ranks, stage if stage != 2 else 1)


# --------------------------------------------------------------------------------------------------- 05.6 accumulate
class OneAtATime(torch.autograd.Function):
    """Passes a loss on; counts how many parts have gone forward, how many of them not yet backward, and the most."""

    parts = waiting = most = 0

    @staticmethod
    def forward(ctx, loss):
        OneAtATime.parts += 1
        OneAtATime.waiting += 1
        OneAtATime.most = max(OneAtATime.most, OneAtATime.waiting)
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        OneAtATime.waiting -= 1
        return gradient


def mean_square(model: nn.Module, part: Tensor) -> Tensor:
    return OneAtATime.apply(model(part).square().mean())


@check_for("05.6")
def accumulate(answer):
    model, samples = nn.Linear(3, 2), torch.randn(10, 3)
    whole = model(samples).square().mean()
    (right,) = torch.autograd.grad(whole, model.weight)

    def gradient(sizes):
        model.zero_grad()
        OneAtATime.parts = OneAtATime.waiting = OneAtATime.most = 0
        mean = answer(model, mean_square, samples.split(sizes))
        expect(model.weight.grad is not None, "The parameters have no gradient: call .backward() on each part's loss")
        return mean, model.weight.grad

    mean, found = gradient([5, 5])
    expect_not_close(
        found,
        2 * right,
        "The parts' gradients were added but not divided: with two equal parts that is twice the gradient of the mean",
    )
    (last,) = torch.autograd.grad(model(samples[5:]).square().mean(), model.weight)
    for only in (last, last / 2):
        expect_not_close(
            found,
            only,
            "Only the last part's gradient is left: leave out zero_grad(), .backward() adds to what is there",
        )
    expect_close(found, right, "the gradient from two equal parts")
    expect(
        OneAtATime.most == 1,
        "The second part went forward before the first went backward: both graphs are in memory, and nothing is saved. "
        "Call .backward() inside the loop",
    )
    calls = "once" if OneAtATime.parts == 1 else f"{OneAtATime.parts} times"
    expect(
        OneAtATime.parts == 2,
        f"For two parts the loss was called {calls}: call it once with each part, so that only one part's activations "
        "are in memory",
    )
    mean, found = gradient([4, 4, 2])
    what = "the gradient from parts of 4, 4 and 2 samples: each counts with its share of all samples (not 1/3)"
    expect_close(found, right, what)
    expect_type(mean, float, "the mean loss (a number: .item())")
    expect_close(mean, whole.item(), "the mean loss of all samples, parts of 4, 4 and 2")
    model.weight.grad = torch.ones(2, 3)
    answer(model, mean_square, samples.split(5))
    expect_not_close(
        model.weight.grad, right, "A gradient that was there before is gone: add to it, and leave zeroing to the loop"
    )
    expect_close(model.weight.grad, right + 1, "the gradient where there was one before (it is added to)")


@wrong_answer("05.6", says="not divided")
def undivided(model, loss, parts):
    values = []
    for part in parts:
        value = loss(model, part)
        value.backward()
        values.append(value.item())
    return sum(values)


@wrong_answer("05.6", says="not 1/3")
def mean_of_means(model, loss, parts):
    total = 0.0
    for part in parts:
        value = loss(model, part) / len(parts)
        value.backward()
        total += value.item()
    return total


@wrong_answer("05.6", says="Only the last part")
def zeroed_between(model, loss, parts):
    total = 0.0
    for part in parts:
        model.zero_grad()
        value = loss(model, part) / len(parts)
        value.backward()
        total += value.item()
    return total


@wrong_answer("05.6", says="nothing is saved")
def all_at_once(model, loss, parts):
    samples = sum(len(part) for part in parts)
    total = sum(len(part) / samples * loss(model, part) for part in parts)
    total.backward()
    return total.item()


@wrong_answer("05.6", says="once with each part")
def in_one_piece(model, loss, parts):
    value = loss(model, torch.cat(list(parts)))
    value.backward()
    return value.item()


@wrong_answer("05.6", says="leave zeroing to the loop")
def zeroed_first(model, loss, parts):
    model.zero_grad()
    return scaling.accumulate(model, loss, parts)


@wrong_answer("05.6", says="a number")
def returns_a_tensor(model, loss, parts):
    return torch.tensor(scaling.accumulate(model, loss, parts))


# ------------------------------------------------------------------------------------------------ 05.7 reduce-scatter
@check_for("05.7")
def reduce_scatter(answer):
    gradients = [torch.randn(12) for _ in range(3)]
    before = [gradient.clone() for gradient in gradients]
    mean = sum(before) / 3
    pieces = answer(gradients)
    expect_length(pieces, 3, "the pieces of 3 ranks")
    for gradient, old in zip(gradients, before, strict=True):
        expect_unchanged(gradient, old, "the gradient of a rank")
    expect_not_close(pieces[0], mean, "Every rank has the whole mean: that is an all-reduce. Rank r keeps piece r only")
    expect_not_close(pieces[0], 3 * mean[:4], "Those are sums over the ranks. The mean is needed: divide by R")
    expect_not_close(
        pieces[0], before[0][:4], "Rank 0 kept its own gradient. First the mean over all ranks, then the piece"
    )
    expect_not_close(pieces[1], mean[1::3], "Rank r gets a contiguous piece, not every third number: chunk, not [r::R]")
    expect_close(pieces, [mean[:4], mean[4:8], mean[8:]], "the pieces of 3 ranks with vectors of 12")
    expect_close(answer(gradients[:1]), before[:1], "one rank alone (it keeps all)")


@wrong_answer("05.7", says="all-reduce")
def all_reduce(gradients):
    return [torch.stack(list(gradients)).mean(0)] * len(gradients)


@wrong_answer("05.7", says="divide by R")
def scattered_sum(gradients):
    return list(sum(gradients).chunk(len(gradients)))


@wrong_answer("05.7", says="own gradient")
def scattered_only(gradients):
    return [gradient.chunk(len(gradients))[rank] for rank, gradient in enumerate(gradients)]


@wrong_answer("05.7", says="contiguous")
def strided(gradients):
    mean = torch.stack(list(gradients)).mean(0)
    return [mean[rank :: len(gradients)] for rank in range(len(gradients))]


@wrong_answer("05.7", says="changed in place")
def summed_in_place(gradients):
    for gradient in gradients[1:]:
        gradients[0].add_(gradient)
    return list((gradients[0] / len(gradients)).chunk(len(gradients)))


# --------------------------------------------------------------------------------------------------------- 05.8 shard
@check_for("05.8")
def shard(answer):
    parameters = {
        "weight": torch.arange(24.0).view(8, 3),
        "bias": torch.arange(5.0),
        "low": torch.arange(6.0).view(2, 3),
    }
    found = answer(parameters, 1, 4)
    expect_type(found, dict, "what rank 1 of 4 holds")
    expect(
        set(found) == set(parameters),
        f"Rank 1 holds {sorted(found)}: every rank holds a piece of *each* parameter, under its name",
    )
    expect(
        found["weight"].shape not in ((8, 1), (8, 0)),
        "The parameter was cut along its last dimension. FSDP2 cuts along the first",
    )
    expect(
        found["weight"].shape != (8, 3),
        "Rank 1 holds the whole weight: nothing is saved. Cut it, and take one piece",
    )
    expect_equal(found["weight"], parameters["weight"][2:4], "rows of an (8, 3) weight on rank 1 of 4")
    try:
        sizes = [len(answer(parameters, rank, 4)["bias"]) for rank in range(4)]
    except IndexError:
        words = "On 4 ranks a (5,) bias has three pieces, and a (2, 3) weight two: an IndexError on the ranks beyond. "
        raise Wrong(words + "They hold no rows: tensor[:0]") from None
    expect(
        sum(sizes) == 5,
        f"The 4 ranks hold {sizes} of 5 rows: {'some are lost' if sum(sizes) < 5 else 'some are held twice'}",
    )
    expect(
        sizes != [2, 1, 1, 1],
        "Rows were shared out as 2, 1, 1, 1. FSDP2 cuts pieces of ⌈n / R⌉ rows, as chunk does: 2, 2, 1, 0",
    )
    expect_equal(sizes, [2, 2, 1, 0], "the rows of a (5,) bias on 4 ranks (pieces of ⌈5 / 4⌉ rows)")
    last = answer(parameters, 3, 4)
    expect_equal(last["low"], parameters["low"][:0], "a (2, 3) weight on rank 3 of 4 (no rows, as wide as before)")


@wrong_answer("05.8", says="along its last")
def cut_columns(parameters, rank, ranks):
    return {name: p.tensor_split(ranks, -1)[rank] for name, p in parameters.items()}


@wrong_answer("05.8", says="of \\*each\\* parameter")
def whole_parameters_in_turn(parameters, rank, ranks):
    return {name: p for index, (name, p) in enumerate(parameters.items()) if index % ranks == rank}


@wrong_answer("05.8", says="some are lost")
def remainder_dropped(parameters, rank, ranks):
    return {name: p[len(p) // ranks * rank : len(p) // ranks * (rank + 1)] for name, p in parameters.items()}


@wrong_answer("05.8", says="2, 1, 1, 1")
def split_evenly(parameters, rank, ranks):
    return {name: p.tensor_split(ranks)[rank] for name, p in parameters.items()}


@wrong_answer("05.8", says="as wide as before")
def empty_of_another_shape(parameters, rank, ranks):
    held = scaling.shard(parameters, rank, ranks)
    return {name: piece if len(piece) else torch.empty(0) for name, piece in held.items()}


@wrong_answer("05.8", says="IndexError")
def no_empty_piece(parameters, rank, ranks):
    return {name: p.chunk(ranks)[rank] for name, p in parameters.items()}


# --------------------------------------------------------------------------------------------------------- 05.9 lanes
@check_for("05.9")
def lanes_of(answer):
    first = answer(0, 2, 0, 2, 8)
    expect_type(first, list, "the lanes of worker 0 of 2 on rank 0 of 2, 8 lanes")
    expect(first != list(range(8)), "Every worker of every rank reads all lanes: every sample would be seen many times")
    expect(first != [0, 1, 2, 3], "Both workers of rank 0 read the same four lanes: share the rank's block among them")
    expect(
        first not in ([0, 4], [0, 2]),
        "The lanes were dealt out in turn. A rank has a contiguous block, and so does a worker",
    )
    expect_equal(first, [0, 1], "the lanes of worker 0 of 2 on rank 0 of 2, 8 lanes")
    expect_equal(answer(1, 2, 1, 2, 8), [6, 7], "the lanes of worker 1 of 2 on rank 1 of 2, 8 lanes")
    uneven = [answer(1, 2, worker, 2, 6) for worker in range(2)]
    flat = sorted(lane for lanes in uneven for lane in lanes)
    expect(flat == [3, 4, 5], f"The two workers of rank 1 of 2 read {uneven} of 6 lanes: together that must be 3, 4, 5")
    expect_equal(uneven, [[3, 4], [5]], "three lanes for two workers (the first gets one more)")
    try:
        idle = answer(0, 4, 2, 3, 8)
    except IndexError:
        words = "An IndexError for worker 2 of 3, where its rank has two lanes: such a worker reads none, []. "
        raise Wrong(words + "tensor_split gives empty pieces, chunk leaves them out") from None
    expect_equal(idle, [], "worker 2 of 3, where its rank has two lanes")


@wrong_answer("05.9", says="seen many times")
def everyone_reads_everything(rank, ranks, worker, workers, lanes):
    return list(range(lanes))


@wrong_answer("05.9", says="share the rank's block")
def workers_forgotten(rank, ranks, worker, workers, lanes):
    return list(range(lanes // ranks * rank, lanes // ranks * (rank + 1)))


@wrong_answer("05.9", says="dealt out in turn")
def dealt_in_turn(rank, ranks, worker, workers, lanes):
    return list(range(rank * workers + worker, lanes, ranks * workers))


@wrong_answer("05.9", says="IndexError")
def idle_workers_forgotten(rank, ranks, worker, workers, lanes):
    return torch.arange(lanes).view(ranks, -1)[rank].chunk(workers)[worker].tolist()


@wrong_answer("05.9", says="together that must be")
def workers_remainder_dropped(rank, ranks, worker, workers, lanes):
    own = lanes // ranks
    size = own // workers
    return list(range(own * rank + size * worker, own * rank + size * (worker + 1)))


# ------------------------------------------------------------------------------------------------- 05.10 the schedule
@check_for("05.10")
def warmup_cosine(answer):
    expect_type(answer(0, 100, 10), (int, float), "the factor at step 0 of 100, warm-up 10")
    expect(
        answer(0, 100, 10) != 0, "At step 0 the rate is 0, and the step is lost: it is (step + 1) / warmup, here 0.1"
    )
    expect(
        abs(answer(0, 100, 10) - 0.1 * (1 + math.cos(math.pi / 9)) / 2) > 1e-6,
        "The cosine is at work during the warm-up already: s - w is negative there, so clamp p to 0 ... 1",
    )
    expect_close(answer(0, 100, 10), 0.1, "the factor at step 0 of 100, warm-up 10")
    for step in (9, 55):
        expect(
            abs(answer(step, 100, 10) - (1 + math.cos(math.pi * step / 100)) / 2) > 1e-6,
            "The cosine began at step 0. It begins where the warm-up ends: p = (s - w) / (S - w)",
        )
    expect_close(answer(9, 100, 10), 1.0, "the factor at step 9 of 100, where the warm-up of 10 ends")
    middle = answer(55, 100, 10)
    expect(
        abs(middle - math.cos(math.pi / 2)) > 1e-6,
        "Half way the rate is 0, later negative: (1 + cos) / 2 runs from 1 to 0",
    )
    expect_close(middle, 0.5, "the factor half way between the end of the warm-up and the end")
    expect_close(answer(100, 100, 10), 0.0, "the factor at the end")
    below = answer(100, 100, 10, 0.2)
    expect_close(below, 0.2, "the factor at the end with floor=0.2")
    expect_close(answer(55, 100, 10, 0.2), 0.6, "half way with floor=0.2: f + (1 - f) / 2, not max(f, …)")
    try:
        first = answer(0, 100)
    except ZeroDivisionError:
        words = "A ZeroDivisionError without a warm-up (warmup=0): then the first factor of equation 05.6 is 1"
        raise Wrong(words) from None
    expect_close(first, 1.0, "the factor at step 0 without a warm-up")
    expect_close(answer(150, 100, 10, 0.2), 0.2, "the factor after the end (p stays 1)")


@wrong_answer("05.10", says="step is lost")
def from_zero(step, steps, warmup=0, floor=0.0):
    rise = min(1.0, step / warmup) if warmup else 1.0
    return rise * scaling.warmup_cosine(max(step, warmup), steps, warmup, floor)


@wrong_answer("05.10", says="where the warm-up ends: p")
def cosine_from_step_zero(step, steps, warmup=0, floor=0.0):
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    half = (1 + math.cos(math.pi * min(1, step / steps))) / 2
    return rise * (floor + (1 - floor) * half)


@wrong_answer("05.10", says="clamp p")
def never_clamped(step, steps, warmup=0, floor=0.0):
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * (floor + (1 - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)


@wrong_answer("05.10", says=r"max\(f")
def floor_as_a_maximum(step, steps, warmup=0, floor=0.0):
    return max(floor, scaling.warmup_cosine(step, steps, warmup))


@wrong_answer("05.10", says="later negative")
def plain_cosine(step, steps, warmup=0, floor=0.0):
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    share = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return rise * math.cos(math.pi * share)


@wrong_answer("05.10", says="ZeroDivisionError")
def always_warming(step, steps, warmup=0, floor=0.0):
    return min(1.0, (step + 1) / warmup) * scaling.warmup_cosine(max(step, warmup), steps, warmup, floor)
