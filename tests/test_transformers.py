"""Chapter 04's transformer: against Hugging Face's ViT with its weights, PyTorch's own modules, and bad input."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from course_lib.chapters import transformers
from course_lib.chapters.transformers import (
    CONFIGS,
    GROUPS,
    Attention,
    Block,
    PartSegmenter,
    PatchEmbed,
    VisionTransformer,
    resize_position_embedding,
    sincos_position_embedding,
)

TINY = {"size": 32, "patch": 8, "width": 48, "depth": 3, "heads": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---------------------------------------------------------- Hugging Face's ViT, our weights in it
def theirs_with_our_weights(ours: VisionTransformer, attention: str = "eager"):
    """Hugging Face's ViTModel, every weight copied from ours."""
    hf = pytest.importorskip("transformers")
    width = ours.norm.weight.shape[0]
    config = hf.ViTConfig(
        hidden_size=width,
        num_hidden_layers=len(ours.blocks),
        num_attention_heads=ours.blocks[0].attn.heads,
        intermediate_size=ours.blocks[0].mlp.fc1.out_features,
        image_size=ours.grid[0] * ours.patch,
        patch_size=ours.patch,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    theirs = hf.ViTModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(dict(in_their_names(ours.state_dict())))
    return theirs


def in_their_names(weights: dict[str, Tensor]):
    """Our names -> those of transformers' ViTModel; `qkv` becomes three layers."""
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "blocks.": "layers.",
    }
    for name, value in weights.items():
        name = "layernorm" + name.removeprefix("norm") if name.startswith("norm.") else name
        for ours, other in names.items():
            name = name.replace(ours, other)
        if "attn.qkv" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                yield name.replace("attn.qkv", f"attention.{part}_proj"), rows
        else:
            yield name, value


def randomised(module: nn.Module) -> nn.Module:
    """Every weight random, biases and norms too, so that none can be mixed up unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_and_cls_token_equal_hugging_faces_vit(attention):
    ours = randomised(VisionTransformer(**TINY))
    theirs = theirs_with_our_weights(ours, attention)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, found = theirs(images).last_hidden_state, ours(images)
    assert found.shape == (3, 17, 48)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 0], expected[:, 0], atol=1e-5, rtol=0)


def test_features_equal_hugging_faces_hidden_states():
    ours = randomised(VisionTransformer(**TINY))
    theirs = theirs_with_our_weights(ours)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = theirs(images, output_hidden_states=True).hidden_states
        found = ours.features(images, (2, 0))
        torch.testing.assert_close(ours.embed(images), hidden[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], hidden[1], atol=1e-5, rtol=0)
    last = theirs.layernorm(found[0])  # theirs may or may not count the last norm in
    torch.testing.assert_close(ours.norm(found[0]), last, atol=1e-5, rtol=0)


def test_gradients_equal_hugging_faces():
    ours = randomised(VisionTransformer(**TINY))
    theirs = theirs_with_our_weights(ours)
    images = torch.randn(2, 3, 32, 32)
    ours(images).square().sum().backward()
    theirs(images).last_hidden_state.square().sum().backward()
    expected = dict(in_their_names({name: p.grad for name, p in ours.named_parameters()}))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(expected[name], parameter.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(48, 32), (24, 40), (64, 64)])
def test_other_picture_sizes_resize_positions_as_hugging_face_does(size):
    ours = randomised(VisionTransformer(**TINY))
    theirs = theirs_with_our_weights(ours)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(images, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=0)
        table = theirs.embeddings.interpolate_pos_encoding(expected, *size)
    grid = (size[0] // 8, size[1] // 8)
    resized = resize_position_embedding(ours.pos_embed, (4, 4), grid, prefix=1)
    torch.testing.assert_close(resized, table, atol=1e-6, rtol=0)


def test_sincos_positions_equal_those_of_hugging_faces_mae():
    hf = pytest.importorskip("transformers")
    config = hf.ViTMAEConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=4)
    embeddings = hf.ViTMAEModel(config).embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False  # or it would not fill in its table
    embeddings.initialize_weights()
    expected = embeddings.position_embeddings.detach()
    found = transformers.position_table("sincos", (14, 14), 1, 64)
    torch.testing.assert_close(found.detach(), expected, atol=1e-6, rtol=0)
    assert not found.requires_grad


def test_attention_equals_pytorchs_module():
    ours, theirs = randomised(Attention(48, 4)), nn.MultiheadAttention(48, 4, batch_first=True)
    weights = {"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias}
    theirs.load_state_dict(weights | {"out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias})
    x = torch.randn(2, 9, 48)
    expected, shares = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.shares(x), shares, atol=1e-5, rtol=0)


def test_qk_norm_equals_rms_norm_of_queries_and_keys():
    module = randomised(Attention(32, 2, qk_norm=True))
    assert isinstance(module.q_norm, transformers.RMSNorm) and module.q_norm.weight.shape == (16,)
    x = torch.randn(2, 5, 32)
    q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in module.qkv(x).chunk(3, -1))
    q, k = (nn.functional.rms_norm(a, (16,), n.weight, n.eps) for a, n in ((q, module.q_norm), (k, module.k_norm)))
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.proj(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_scores_with_qk_norm_stay_below_the_root_of_the_width(scale):
    module = Attention(32, 2, qk_norm=True)
    q, k, _ = module.queries_keys_values(scale * torch.randn(4, 20, 32))
    assert (q @ k.mT).abs().max() / 16**0.5 <= 16**0.5 * (1 + 1e-5)


# ---------------------------------------------------------- the two attentions
def test_written_out_and_fused_attention_agree_in_both_precisions(monkeypatch):
    q, k, v = torch.randn(3, 2, 3, 50, 16)
    torch.testing.assert_close(transformers.attend(q, k, v), transformers.attention(q, k, v), atol=1e-5, rtol=0)
    half = [part.bfloat16() for part in (q, k, v)]
    monkeypatch.setattr(transformers, "scaled_dot_product_attention", None)  # a call of it would fail
    found = transformers.attend(*half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), transformers.attention(q, k, v), atol=0.03, rtol=0)


def test_under_autocast_everything_runs_and_stays_close(recwarn):
    model = VisionTransformer(**TINY, qk_norm=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
    half.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(half.float(), model(images), atol=0.1, rtol=0.1)
    assert not [w for w in recwarn if "Mismatch dtype" in str(w.message)]


# ---------------------------------------------------------- what later chapters rely on
def test_a_subset_of_tokens_is_encoded_as_if_the_others_had_never_been():
    model = randomised(VisionTransformer(**TINY))
    images = torch.randn(2, 3, 32, 32)
    tokens = model.embed(images)
    some = tokens[:, [0, 3, 7, 16]]
    found = model.encode(some)
    assert found.shape == (2, 4, 48)
    order = torch.tensor([0, 3, 2, 1])
    torch.testing.assert_close(model.encode(some[:, order]), found[:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(tokens), model(images))


@pytest.mark.parametrize(
    ("positions", "cls", "names"),
    [
        ("learned", True, {"cls_token", "pos_embed"}),
        ("sincos", False, {"pos_embed"}),
        ("none", False, set()),
        ("none", True, {"cls_token"}),
    ],
)
def test_positions_and_cls_token_are_optional_and_named_as_in_timm(positions, cls, names):
    model = VisionTransformer(**TINY, positions=positions, cls=cls)
    found = {name for name in model.state_dict() if not name.startswith(("blocks.", "norm.", "patch_embed."))}
    assert found == names
    block = {name.removeprefix("blocks.1.") for name in model.state_dict() if name.startswith("blocks.1.")}
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert block == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 16 + cls, 48)
    assert model.prefix == cls


def test_without_positions_patches_are_a_set_and_with_them_not():
    images = torch.randn(1, 3, 32, 32)
    order = torch.randperm(16)
    for positions, same in (("none", True), ("learned", False), ("sincos", False)):
        model = randomised(VisionTransformer(**TINY, positions=positions, cls=False))
        rows = transformers.patchify(images, 8)[:, order]
        shuffled = transformers.unpatchify(rows, 8, (4, 4))
        assert torch.allclose(model(shuffled), model(images)[:, order], atol=1e-5) == same


def test_patches_by_convolution_equal_patchify_and_a_linear_map():
    embed, images = PatchEmbed(4, 24), torch.randn(2, 3, 8, 12)
    linear = transformers.patchify(images, 4) @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(embed(images), linear, atol=1e-5, rtol=0)
    back = transformers.unpatchify(transformers.patchify(images, 4), 4, (2, 3))
    assert torch.equal(back, images)


def test_sincos_similarity_depends_on_the_distance_only():
    table = sincos_position_embedding((9, 7), 32).view(9, 7, 32)
    near = [table[r, c] @ table[r + 2, c + 1] for r in range(7) for c in range(6)]
    torch.testing.assert_close(torch.stack(near), near[0].expand(42), atol=1e-4, rtol=0)


def test_resizing_there_and_back_keeps_a_smooth_table():
    table = sincos_position_embedding((16, 16), 16)[None]
    back = resize_position_embedding(resize_position_embedding(table, (16, 16), (32, 48)), (32, 48), (16, 16))
    assert (back - table).abs()[:, :, [2, 3, 6, 7, 10, 11]].max() < 0.02  # the slow waves
    assert torch.equal(resize_position_embedding(table, (16, 16), (16, 16)), table)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_builds_on_the_meta_device_and_its_example_fits(name):
    config = CONFIGS[name]
    plan = transformers.recipe(config, None)
    with torch.device("meta"):
        model = plan.model()
    assert {type(block).__name__ for block in model.vit.blocks} == set(plan.blocks)
    batch = plan.example(1)
    assert batch["image"].shape == (1, 3, config.size, config.size)
    if name == "vit-2b":
        assert sum(p.numel() for p in model.vit.parameters()) == 2_133_912_960  # Sapiens-2B's encoder
        assert plan.paper.gpus == 1024
    scores = model(batch["image"].to("meta"))
    assert scores.shape == (1, 7, config.size, config.size)


def test_one_batch_is_learned_by_heart():
    config = CONFIGS["smoke"]
    plan = transformers.recipe(config, None)
    model, batch = plan.model(), plan.example(2)
    batch["parts"] = (batch["image"].mean(1) > 0.5).long()
    optimizer, losses = plan.optimizer.build(model), []
    for _ in range(40):
        loss = plan.loss(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# ---------------------------------------------------------- the data
def sample(size: int = 32):
    from course_lib.data.schema import Sample

    rng = np.random.default_rng(0)
    parts = rng.integers(0, 28, (size, size), dtype=np.uint8)
    return Sample(key="one", image=rng.random((3, size, size), dtype=np.float32), parts=parts)


def test_prepare_mirrors_half_of_the_samples_whole():
    prepare = transformers.prepare(CONFIGS["smoke"])
    plain = transformers.prepared(CONFIGS["smoke"], sample())
    assert torch.equal(plain["parts"], torch.from_numpy(GROUPS)[torch.from_numpy(sample().parts).long()])
    flips = []
    for seed in range(40):
        batch = prepare(sample(), np.random.default_rng(seed))
        flipped = torch.equal(batch["image"], plain["image"].flip(-1))
        assert torch.equal(batch["parts"], plain["parts"].flip(-1) if flipped else plain["parts"])
        flips.append(flipped)
    assert 8 < sum(flips) < 32
    with pytest.raises(ValueError, match=r"sample one is \(16, 16\): make the data with --size 32"):
        prepare(sample(16), np.random.default_rng(0))


def test_groups_put_every_part_where_its_name_belongs():
    from course_lib.data.parts import PART_NAMES, mirrored

    group = dict(zip(PART_NAMES, GROUPS.tolist(), strict=True))
    assert all(group[name] == group[mirrored(name)] for name in PART_NAMES), "a mirrored part changes its class"
    words = {"Background": 0, "Face": 1, "Lip": 1, "Hair": 2, "Arm": 5, "Hand": 5, "Leg": 6, "Foot": 6, "Torso": 3}
    for name, number in group.items():
        assert all(number == expected for word, expected in words.items() if word in name.split("_")), name


def test_configurations_can_be_pickled_and_replaced():
    config = dataclasses.replace(CONFIGS["laptop"], steps=3)
    assert pickle.loads(pickle.dumps(config)) == config
    assert transformers.recipe(config, None).steps == 3


# ---------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attention(48, 5), "48 can't be cut into 5 heads: choose a divisor"),
        (
            lambda: VisionTransformer(**TINY | {"size": (32, 30)}),
            "32 x 30 can't be cut into patches of 8: resize or pad",
        ),
        (lambda: VisionTransformer(**TINY, positions="rotary"), "'rotary' are unknown: use learned, sincos or none"),
        (lambda: VisionTransformer(32, 8, 6, 1, 2, positions="sincos"), "a multiple of 4, not 6"),
        (lambda: VisionTransformer(**TINY)(torch.zeros(1, 3, 32, 33)), "32 x 33 can't be cut into patches of 8"),
        (lambda: PartSegmenter(CONFIGS["smoke"])(torch.zeros(1, 3, 36, 32)), "36 x 32 can't be cut"),
    ],
)
def test_bad_input_is_refused_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_block_is_pre_ln():
    block = Block(16, 2)
    with torch.no_grad():
        for norm in (block.norm1, block.norm2):
            norm.weight.zero_()  # then attention and MLP see nothing, and the stream runs past them
    x, y = torch.randn(2, 2, 5, 16)
    torch.testing.assert_close(block(x) - x, block(y) - y, atol=1e-5, rtol=0)
    assert not torch.allclose(block(x), block(y))
