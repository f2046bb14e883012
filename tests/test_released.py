"""The authors' weights of Sapiens in our models: every name, every shape, and the same numbers out.

`Their...` below are the networks as the authors' files describe them, written here independently of the course's own:
modules are named so that their state dicts have the released files' names.
"""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from course_lib.chapters import sapiens_dense, sapiens_pose, sapiens_pretraining
from course_lib.released import ReleasedError, load_sapiens, our_name, read_state, sapiens_state

SIZES = {"0.3b": (1024, 24), "0.6b": (1280, 32), "1b": (1536, 40), "2b": (1920, 48)}


class TheirBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Module()
        hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.ffn.layers = nn.Sequential(hidden, nn.Linear(4 * width, width))

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.attn.qkv(self.ln1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.attn.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.ffn.layers(self.ln2(x))


class TheirEncoder(nn.Module):
    def __init__(self, width, depth, heads, grid, patch=16, padding=0, cls=True):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, width, patch, stride=patch, padding=padding)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + cls, width))
        self.layers = nn.ModuleList(TheirBlock(width, heads) for _ in range(depth))
        self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, keep=None):
        x = self.patch_embed.projection(images)
        self.rows = x.shape[2]
        x = x.flatten(2).transpose(1, 2) + self.pos_embed[:, self.cls_token is not None :]
        if keep is not None:
            x = torch.stack([row[chosen] for row, chosen in zip(x, keep, strict=True)])
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), 1, -1), x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x)


class TheirDecoder(nn.Module):
    def __init__(self, width, decoder_width, depth, heads, patches, patch=16):
        super().__init__()
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches + 1, decoder_width))
        self.decoder_blocks = nn.ModuleList(TheirBlock(decoder_width, heads) for _ in range(depth))
        self.ln1 = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, 3 * patch**2)

    def forward(self, tokens, restore):
        tokens = self.decoder_embed(tokens)
        holes = self.mask_token.expand(len(tokens), restore.shape[1] + 1 - tokens.shape[1], -1)
        patches = torch.cat([tokens[:, 1:], holes], 1)
        patches = torch.stack([row[order] for row, order in zip(patches, restore, strict=True)])
        x = torch.cat([tokens[:, :1], patches], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.ln1(x))[:, 1:]


def their_layers(make, width, outputs):
    layers = []
    for inputs, output in zip((width, *outputs), outputs, strict=False):
        layers += [make(inputs, output), nn.InstanceNorm2d(output), nn.SiLU()]
    return nn.Sequential(*layers)


class TheirHead(nn.Module):
    def __init__(self, width, deconvs, convs, out, last):
        super().__init__()
        self.deconv_layers = their_layers(
            lambda a, b: nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False), width, deconvs
        )
        self.conv_layers = their_layers(lambda a, b: nn.Conv2d(a, b, 1), deconvs[-1], convs)
        self.last = last
        setattr(self, last, nn.Conv2d(convs[-1], out, 1))

    def forward(self, x):
        return getattr(self, self.last)(self.conv_layers(self.deconv_layers(x)))


class TheirTask(nn.Module):
    def __init__(self, width, depth, heads, grid, padding, pose, **head):
        super().__init__()
        self.backbone = TheirEncoder(width, depth, heads, grid, padding=padding, cls=False)
        self.name = "head" if pose else "decode_head"
        setattr(self, self.name, TheirHead(width, last="final_layer" if pose else "conv_seg", **head))

    def forward(self, images):
        x = self.backbone(images)
        return getattr(self, self.name)(x.transpose(1, 2).unflatten(2, (self.backbone.rows, -1)))


# facts about the released heads: deconvolutions, 1 x 1 convolutions, outputs
HEADS = {
    "pose": {"deconvs": (768,) * 2, "convs": (768,) * 2, "out": 308},
    "seg": {"deconvs": (768,) * 3, "convs": (768,) * 3, "out": 28},
    "depth": {"deconvs": (384,) * 4, "convs": (384,) * 2, "out": 1},
    "normals": {"deconvs": (768,) * 3, "convs": (768,) * 3, "out": 3},
}
PADDING = {"pose": 2, "seg": 0, "depth": 0, "normals": 2}


def randomized(module):
    """Every tensor random, those that begin as 0 or 1 too: a wrong place or a lost bias then shows."""
    generator = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2 + (value == 1))
    return module.eval()


# ------------------------------------------------------------------------------------------------- tiny networks
def their_mae(width=32, depth=2, heads=4, side=4, decoder=(16, 3, 2)):
    model = nn.Module()
    model.backbone = TheirEncoder(width, depth, heads, (side, side))
    model.neck = TheirDecoder(width, *decoder, side * side)
    return randomized(model)


def our_mae(width=32, depth=2, heads=4, side=4, decoder=(16, 3, 2)):
    names = dict(zip(("decoder_width", "decoder_depth", "decoder_heads"), decoder, strict=True))
    config = sapiens_pretraining.Config(16 * side, 16, width, depth, heads, 8, 4, 4, **names)
    return sapiens_pretraining.MaskedAutoencoder(config).eval()


def their_task(task, out=None):
    head = {name: (8,) * len(HEADS[task][name]) for name in ("deconvs", "convs")}
    return randomized(TheirTask(32, 2, 4, (8, 6), PADDING[task], task == "pose", out=out or HEADS[task]["out"], **head))


def our_task(task, shift=None, out=None):
    shift = PADDING[task] if shift is None else shift
    if task == "pose":
        config = sapiens_pose.Config(
            out or 308, (128, 96), 16, 32, 2, 4, deconvs=(8, 8), convs=(8, 8), sigma=1.0, pictures=4, pixels=128,
            batch_size=4, steps=4, shift=shift,
        )  # fmt: skip
        return sapiens_pose.PoseEstimator(config).eval()
    config = sapiens_dense.Config(
        (128, 96),
        16,
        32,
        2,
        4,
        channels=8,
        pictures=8,
        batch_size=4,
        steps=4,
        task=task,
        classes=out or 28,
        shift=shift,
    )
    return sapiens_dense.DensePredictor(config).eval()


MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def pictures(*size):
    """Pictures in [0, 1], and as the authors' networks get them."""
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    return images, (255 * images - mean) / std


# ------------------------------------------------------------------------------------------------- names
# as the files have them, one of each kind (width 32, MLP 128; N counts blocks)
BLOCK_NAMES = {
    "ln1.weight": (32,), "ln1.bias": (32,), "ln2.weight": (32,), "ln2.bias": (32,),
    "attn.qkv.weight": (96, 32), "attn.qkv.bias": (96,), "attn.proj.weight": (32, 32), "attn.proj.bias": (32,),
    "ffn.layers.0.0.weight": (128, 32), "ffn.layers.0.0.bias": (128,),
    "ffn.layers.1.weight": (32, 128), "ffn.layers.1.bias": (32,),
}  # fmt: skip
CLEAN_NAMES = {
    "cls_token": (1, 1, 32), "pos_embed": (1, 17, 32),
    "patch_embed.projection.weight": (32, 3, 16, 16), "patch_embed.projection.bias": (32,),
    "ln1.weight": (32,), "ln1.bias": (32,),
    **{f"layers.{n}.{name}": shape for n in range(2) for name, shape in BLOCK_NAMES.items()},
}  # fmt: skip
HEAD_NAMES = {
    "pose": {"head.deconv_layers.0.weight": (32, 8, 4, 4), "head.deconv_layers.3.weight": (8, 8, 4, 4),
             "head.conv_layers.0.weight": (8, 8, 1, 1), "head.conv_layers.0.bias": (8,),
             "head.conv_layers.3.weight": (8, 8, 1, 1), "head.conv_layers.3.bias": (8,),
             "head.final_layer.weight": (308, 8, 1, 1), "head.final_layer.bias": (308,)},
    "seg": {f"decode_head.deconv_layers.{n}.weight" for n in (0, 3, 6)}
    | {f"decode_head.conv_layers.{n}.{end}" for n in (0, 3, 6) for end in ("weight", "bias")}
    | {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"},
    "depth": {f"decode_head.deconv_layers.{n}.weight" for n in (0, 3, 6, 9)}
    | {f"decode_head.conv_layers.{n}.{end}" for n in (0, 3) for end in ("weight", "bias")}
    | {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"},
}  # fmt: skip
HEAD_NAMES["normals"] = HEAD_NAMES["seg"]


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def test_their_networks_have_the_names_of_the_released_files():
    assert shapes(their_mae().backbone.state_dict()) == CLEAN_NAMES
    for task, names in HEAD_NAMES.items():
        state = shapes(their_task(task).state_dict())
        head = {name: shape for name, shape in state.items() if not name.startswith("backbone.")}
        assert set(head) == set(names) and (not isinstance(names, dict) or head == names)
        backbone = {name.removeprefix("backbone.") for name in state if name not in head}
        assert backbone == set(CLEAN_NAMES) - {"cls_token"} and state["backbone.pos_embed"] == (1, 48, 32)


@pytest.mark.parametrize(
    "name", ["layers.0.gamma_1.weight", "neck.mask_token", "layers.x.ln1.bias", "ln1.running_mean"]
)
def test_a_name_that_sapiens_has_not_is_not_guessed(name):
    assert our_name(name, {"": ""}) is None


# ------------------------------------------------------------------------------------------------- the same numbers
def test_the_encoder_gives_the_same_tokens():
    their, our = their_mae().backbone, our_mae().encoder
    load_sapiens(our, their.state_dict())
    images = pictures(64, 64)[1]
    with torch.no_grad():
        assert torch.allclose(our(images), their(images), atol=1e-5)


def test_the_masked_autoencoder_paints_the_same_pixels_in_the_same_order():
    their, our = their_mae(), our_mae()
    load_sapiens(our, their.state_dict())
    images, normalised = pictures(64, 64)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))
    keep, mask, restore = sapiens_pretraining.random_masking(noise, 0.75)
    with torch.no_grad():
        theirs = their.neck(their.backbone(normalised, keep), restore)
        ours, our_mask = our(sapiens_pretraining.normalize(images), noise)
        loss = sapiens_pretraining.pretraining_loss(our, {"image": images, "noise": noise})
    assert torch.equal(mask, our_mask) and torch.allclose(ours, theirs, atol=1e-4)
    # their target: "nchpwq->nhwpqc", each patch normalised, the loss the mean over what is masked
    target = normalised.reshape(2, 3, 4, 16, 4, 16).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 768)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (((theirs - target) ** 2).mean(-1) * mask).sum() / mask.sum()
    assert torch.allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("task", HEADS)
def test_a_task_network_gives_the_same_maps(task):
    their, our = their_task(task), our_task(task)
    load_sapiens(our, their.state_dict())
    images, normalised = pictures(128, 96)
    with torch.no_grad():
        theirs, ours = their(normalised), our(images)
    if task != "pose":
        theirs = interpolate(theirs, size=(128, 96), mode="bilinear", align_corners=False)
    assert ours.shape == theirs.shape == (2, HEADS[task]["out"], *((32, 24) if task == "pose" else (128, 96)))
    assert torch.allclose(ours, theirs, atol=2e-4 * theirs.abs().max())
    if PADDING[task]:  # without the two pixels it would be another network
        moved = our_task(task, shift=0)
        load_sapiens(moved, their.state_dict())
        assert not torch.allclose(moved(images), theirs, atol=1e-2 * theirs.abs().max())


def test_a_pretrained_file_starts_a_task(tmp_path):
    """Positions 4 x 4 -> 8 x 6, without the cls token's, bicubic."""
    their, our = their_mae(), our_task("pose")
    for state in (their.state_dict(), their.backbone.state_dict()):
        sapiens_pose.load_pretrained(our.encoder, sapiens_state(state, "encoder"), (4, 4))
        places = their.backbone.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
        resized = interpolate(places, size=(8, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
        assert torch.allclose(our.encoder.pos_embed, resized, atol=1e-6)
        assert torch.equal(our.encoder.blocks[1].mlp.fc2.weight, their.backbone.layers[1].ffn.layers[1].weight)


# ------------------------------------------------------------------------------------------------- the real sizes
def real_state(task, size, out):
    width, depth, heads = sapiens_dense.SIZES[size]
    with torch.device("meta"):
        if task == "mae":
            model = nn.Module()
            model.backbone, model.neck = (
                TheirEncoder(width, depth, heads, (64, 64)),
                TheirDecoder(width, 512, 8, 16, 4096),
            )
            return model.state_dict()
        head = HEADS[task] | {"out": out}
        return TheirTask(width, depth, heads, (64, 48), PADDING[task], task == "pose", **head).state_dict()


@pytest.mark.parametrize("size", SIZES)
def test_the_real_sizes_fit_strictly(size):
    with torch.device("meta"):
        mae = sapiens_pretraining.MaskedAutoencoder(sapiens_pretraining.CONFIGS[f"sapiens-{size}"])
    state = real_state("mae", size, None)
    load_sapiens(mae, state)
    clean = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    load_sapiens(mae.encoder, clean)
    for name, task in (("pose-308", "pose"), ("pose-17", "pose"), ("seg-28", "seg"), ("seg-20", "seg"),
                       ("depth", "depth"), ("normals", "normals")):  # fmt: skip
        module = sapiens_pose if task == "pose" else sapiens_dense
        build = sapiens_pose.PoseEstimator if task == "pose" else sapiens_dense.DensePredictor
        with torch.device("meta"):
            model = build(module.CONFIGS[f"{name}-{size}"])
        load_sapiens(model, real_state(task, size, int(name.partition("-")[2] or HEADS[task]["out"])))


# ------------------------------------------------------------------------------------------------- files
NOTES = {"epoch": 100, "cfg": "model = dict()", "sigmas": np.arange(3, dtype=np.float32), "colours": np.eye(2)}


@pytest.mark.parametrize("name", ["bare.pth", "with_notes.pth", "file.safetensors"])
def test_every_kind_of_file_is_read(name, tmp_path):
    their, our = their_task("depth"), our_task("depth")
    if name.endswith("pth"):
        state = their.state_dict()
        torch.save({"state_dict": state, "meta": NOTES} if "notes" in name else state, tmp_path / name)
    else:
        save_file(their.state_dict(), tmp_path / name)
    load_sapiens(our, tmp_path / name)
    assert torch.equal(our.head.last.weight, their.decode_head.conv_seg.weight)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_pickled_code_is_refused_unrun(tmp_path, capsys):
    torch.save({"state_dict": their_task("seg").state_dict(), "meta": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ReleasedError, match=r"evil\.pth can't be read as weights"):
        read_state(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_spoilt_files_are_refused_by_name(tmp_path):
    torch.save(their_task("seg").state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    (tmp_path / "empty.pth").write_bytes(b"")
    damaged = bytearray((tmp_path / "whole.pth").read_bytes())
    damaged[damaged.index(b"state") if b"state" in damaged else 200] ^= 0xFF
    damaged[300:310] = b"\xff" * 10
    (tmp_path / "damaged.pth").write_bytes(damaged)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    (tmp_path / "text.pth").write_text("404 not found")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    spoilt = ("cut.pth", "empty.pth", "damaged.pth", "cut.safetensors", "text.pth", "old.pth")
    for name in (*spoilt, "missing.pth", "missing.safetensors"):
        with pytest.raises(ReleasedError, match=name.replace(".", r"\.")):
            read_state(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "numbers.pth")
    for name in ("list.pth", "numbers.pth"):
        with pytest.raises(ReleasedError, match="no state dict"):
            read_state(tmp_path / name)


def changed(state, **values):
    return {name: value for name, value in (state | values).items() if value is not None}


def test_what_does_not_fit_is_named_with_the_configuration_that_does():
    state, our = their_task("seg").state_dict(), our_task("seg")
    before = our.head.last.weight.clone()
    short = changed(state, **{"backbone.layers.1.attn.qkv.bias": None})
    with pytest.raises(ReleasedError, match=r"encoder\.blocks\.1\.attn\.qkv\.bias is missing"):
        load_sapiens(our, short)
    long = changed(state, **{"decode_head.deconv_layers.9.weight": torch.zeros(8, 8, 4, 4)})
    with pytest.raises(ReleasedError, match=r"head\.deconvs\.3\.weight is left over"):
        load_sapiens(our, long)
    with pytest.raises(ReleasedError, match="names that Sapiens has not: backbone.layers.0.gamma"):
        load_sapiens(our, changed(state, **{"backbone.layers.0.gamma": torch.zeros(1)}))
    with pytest.raises(ReleasedError, match=r"head\.last\.bias is \(28,\), the model's \(20,\).*seg-28-32 wide and 2"):
        load_sapiens(our_task("seg", out=20), state)
    with pytest.raises(ReleasedError, match="no weights of Sapiens: they are called conv1.weight"):
        load_sapiens(our, {"conv1.weight": torch.zeros(1)})
    assert torch.equal(our.head.last.weight, before)


@pytest.mark.parametrize(("task", "size", "name"), [("pose", "1b", "pose-308-1b"), ("depth", "2b", "depth-2b")])
def test_the_configuration_of_a_real_file_is_named(task, size, name):
    with pytest.raises(ReleasedError, match=f"They are of {name}:"):
        load_sapiens(our_task("normals"), real_state(task, size, HEADS[task]["out"]))


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ReleasedError, match="another network: seg, not pose"):
        sapiens_state(their_task("seg").state_dict(), "pose")
    with pytest.raises(ReleasedError, match="another network: encoder, not mae"):  # "_clean.pth" has no decoder
        sapiens_state(their_mae().backbone.state_dict(), "mae")
    with pytest.raises(ValueError, match="'detector' is unknown: use encoder, mae, pose"):
        sapiens_state({}, "detector")
    with pytest.raises(ReleasedError, match="encoder, not mae.*has no decoder"):
        load_sapiens(our_mae(), their_mae().backbone.state_dict())
