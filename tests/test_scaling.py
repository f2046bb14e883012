"""Chapter 05's arithmetic: against counters, against modules written by others, and against FSDP2 itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from course_lib.chapters import scaling
from course_lib.chapters.scaling import SAPIENS, Encoder, LiveBytes, activation_bytes, memory, state_bytes
from course_lib.chapters.transformers import Block
from course_lib.recipe import Cosine

SMALL = Encoder(width=48, depth=3, heads=4, tokens=26, patch_values=192)


def blocks_of(encoder: Encoder) -> nn.ModuleList:
    return nn.ModuleList(Block(encoder.width, encoder.heads) for _ in range(encoder.depth))


def forward(blocks, x, recompute=False):
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return x


# ------------------------------------------------------------------------------------------------- parameters, FLOPs
def test_counts_equal_those_of_another_librarys_vit():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    config = transformers.ViTConfig(image_size=40, patch_size=8, attn_implementation="eager", **sizes)
    with torch.device("meta"):
        vit, image = transformers.ViTModel(config, add_pooling_layer=False), torch.empty(1, 3, 40, 40)
    assert scaling.encoder_parameters(SMALL) == sum(parameter.numel() for parameter in vit.parameters())
    assert scaling.encoder_flops(SMALL) == scaling.count_flops(vit, image)


@pytest.mark.parametrize(
    "name, parameters, flops", [("Sapiens-0.3B", 307_295_232, 1.242), ("Sapiens-0.6B", 635_910_400, 2.583),
                                ("Sapiens-1B", 1_140_739_584, 4.647), ("Sapiens-2B", 2_133_912_960, 8.709)]
)  # fmt: skip
def test_sapiens_table_2(name, parameters, flops):
    encoder = SAPIENS[name]
    assert scaling.encoder_parameters(encoder) == parameters
    assert round(scaling.table_macs(encoder) / 1e12, 3) == flops
    assert 2.6 < scaling.encoder_flops(encoder) / scaling.table_macs(encoder) < 3.4


def test_days_and_energy_of_sapiens():
    days = scaling.training_days(1e12, 1e9, gpus=1024, peak=312e12, utilisation=0.5)
    assert days == pytest.approx(3e21 / (1024 * 312e12 * 0.5) / 86400)
    assert scaling.training_days(1e12, 1e9, 1024, 312e12, 0.5, recompute=True) == pytest.approx(days * 4 / 3)
    assert scaling.energy(1024, 18) == pytest.approx(1024 * 18 * 24 * 0.4)


# ------------------------------------------------------------------------------------------------------------ memory
def kept(function, *inputs, without=()) -> int:
    """The bytes that autograd keeps of a call, parameters left out."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(*inputs)
    own = {parameter.untyped_storage().data_ptr() for parameter in without}
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in storages.items() if pointer not in own)


@pytest.mark.parametrize("heads, batch", [(3, 1), (4, 5)])
def test_activations_in_32_bits_are_what_autograd_keeps(heads, batch):
    encoder = Encoder(48, 1, heads, 26)
    block = Block(48, heads)
    x = torch.randn(batch, 26, 48, requires_grad=True)
    found = kept(block, x, without=block.parameters())
    assert found == activation_bytes(encoder, batch, "fp32")


def test_activations_under_autocast_are_what_autograd_keeps_of_the_plain_form():
    """On a CPU chapter 04 writes attention out in bf16, which keeps a little more than its N x N weights."""
    encoder, block = Encoder(96, 1, 3, 65), Block(96, heads=3)
    x = torch.randn(2, 65, 96, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = kept(block, x, without=block.parameters())
    copies = 2 * 12 * 96**2  # of the weights, in bf16
    expected = activation_bytes(encoder, 2, "bf16", fused=False) + copies
    assert expected <= found < 1.1 * expected


def test_activations_with_checkpointing():
    encoder = Encoder(48, 6, 3, 26)
    whole, lean = (activation_bytes(encoder, 2, "fp32", recompute) for recompute in (False, True))
    assert lean == 6 * 2 * 26 * 48 * 4 + whole // 6
    blocks, x = blocks_of(encoder), torch.randn(2, 26, 48)
    assert kept(forward, blocks, x, True, without=blocks.parameters()) == 6 * 2 * 26 * 48 * 4  # the blocks' inputs


def test_memory_shards_what_the_stage_says_and_nothing_else():
    plain, sharded = memory(SMALL, 2), memory(SMALL, 2, ranks=8, stage=3)
    assert list(plain) == list(sharded) == ["parameters", "gradients", "optimiser", "working copies", "activations"]
    parameters = scaling.encoder_parameters(SMALL)
    assert {kind: sharded[kind] for kind in list(sharded)[:3]} == state_bytes(parameters, 8, 3)
    assert plain["activations"] == sharded["activations"]
    assert memory(SMALL, 2, precision="fp32")["working copies"] == 0
    with pytest.raises(ValueError, match="precision='fp16' is unknown: use 'fp32' or 'bf16'"):
        memory(SMALL, 2, precision="fp16")


def test_first_too_large_names_the_kind_that_breaks_it():
    kinds = {"parameters": 4.0, "gradients": 4.0, "activations": 10.0}
    answers = [scaling.first_too_large(kinds, capacity) for capacity in (3, 7, 17, 18)]
    assert answers == ["parameters", "gradients", "activations", None]


# --------------------------------------------------------------------------------------------------------- LiveBytes
def test_live_bytes_counts_storages_once_and_lets_them_go():
    given = torch.ones(50)
    with LiveBytes() as counted:
        a = torch.zeros(100)
        view = a[10:].view(9, 10)
        a += 1
        b = given * 2
        assert counted.live == 600 and counted.peak == 600
        given.add_(1)
        outside = given[5:]
        del a
        assert counted.live == 600  # the view still holds it
        del view, b
        assert counted.live == 0 and counted.peak == 600
    assert len(outside) == 45 and max(counted.history) == 600


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_on_fake_tensors_takes_the_same_bytes(recompute):
    from torch._subclasses.fake_tensor import FakeTensorMode

    def film() -> LiveBytes:
        blocks, x = blocks_of(SMALL), torch.randn(2, 26, 48)
        with LiveBytes() as counted:
            forward(blocks, x, recompute).square().mean().backward()
        return counted

    real = film()
    with FakeTensorMode():
        fake = film()
    assert fake.peak == real.peak
    assert fake.history[-1] == real.history[-1] == 4 * SMALL.depth * scaling.block_parameters(48)  # the gradients


# ------------------------------------------------------------------------------------------------------------- ranks
def test_reduce_scatter_and_all_gather_are_the_mean_everywhere():
    gradients = [torch.randn(12) for _ in range(4)]
    for result in scaling.all_gather(scaling.reduce_scatter(gradients)):
        torch.testing.assert_close(result, torch.stack(gradients).mean(0))


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_shards_are_those_of_fsdp2(rank):
    """FSDP2 itself on one of four simulated ranks: a width that 4 does not divide, biases of fewer than 4 rows."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = nn.Sequential(nn.Linear(3, 10), nn.Linear(10, 2))
    whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
        held = {name: parameter.to_local().detach() for name, parameter in model.named_parameters()}
    finally:
        dist.destroy_process_group()
    expected = scaling.shard(whole, rank, 4)
    assert {name: tuple(p.shape) for name, p in held.items()} == {name: tuple(p.shape) for name, p in expected.items()}
    assert all(torch.equal(held[name], expected[name]) for name in held)


@pytest.mark.parametrize("ranks, workers, lanes", [(1, 1, 1), (2, 2, 8), (4, 3, 8), (2, 5, 6)])
def test_lanes_are_those_of_the_streams_and_each_has_one_reader(ranks, workers, lanes):
    from course_lib.data.streams import LaneReader

    seen = []
    for rank in range(ranks):
        own = range(rank * lanes // ranks, (rank + 1) * lanes // ranks)
        reader = LaneReader(SimpleNamespace(workers=workers), own, start=0, size=1)
        for worker in range(reader.workers):
            found = scaling.lanes_of(rank, ranks, worker, reader.workers, lanes)
            assert found == reader.lanes_of(worker)
            seen += found
    assert sorted(seen) == list(range(lanes))


def test_lanes_that_do_not_come_out_even_are_refused():
    with pytest.raises(ValueError, match="7 lanes can't be shared equally by 2 ranks"):
        scaling.lanes_of(0, 2, 0, 1, 7)


@pytest.mark.parametrize("warmup, floor", [(0, 0.0), (1, 0.3), (30, 0.1)])
def test_the_cosine_is_the_recipes(warmup, floor):
    schedule = Cosine(warmup, floor)
    for step in range(0, 131, 13):
        assert scaling.warmup_cosine(step, 100, warmup, floor) == pytest.approx(schedule(step, 100))


def test_accumulated_gradients_are_those_of_the_whole_batch():
    model, samples = nn.Linear(3, 2), torch.randn(11, 3)
    loss = lambda model, part: model(part).square().mean()  # noqa: E731
    loss(model, samples).backward()
    whole = model.weight.grad.clone()
    model.zero_grad()
    mean = scaling.accumulate(model, loss, samples.split([5, 5, 1]))
    torch.testing.assert_close(model.weight.grad, whole)
    assert mean == pytest.approx(loss(model, samples).item(), rel=1e-6)
