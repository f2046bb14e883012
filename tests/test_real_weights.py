"""The authors' weights, whichever file it is: MAE, METRO and Graphormer against networks written here independently;
what a file is told by its names; conversion, and the models of converted files."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from test_released import our_mae, our_task, pictures, randomized, real_state, their_mae, their_task
from torch import nn
from typer.testing import CliRunner

from course_lib.chapters import david_models, mpt_pretraining, sapiens_dense, sapiens_pose
from course_lib.chapters.mpt_pretraining import MeshTransformer
from course_lib.chapters.transformers import VisionTransformer
from course_lib.cli import app
from course_lib.real import trunks
from course_lib.real.weights import Converted, converted, load, read_weights, save
from course_lib.released import ReleasedError

# ------------------------------------------------------------------------------------------------ METRO, Graphormer


class TheirLayer(nn.Module):
    """A layer of BERT by the names of its files; graph: with Graphormer's convolution, as the third stage has it."""

    def __init__(self, width, hidden, graph=False):
        super().__init__()
        self.attention, self.intermediate, self.output = nn.Module(), nn.Module(), nn.Module()
        self.attention.self, self.attention.output = nn.Module(), nn.Module()
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(width, width))
        self.attention.output.dense, self.attention.output.LayerNorm = (
            nn.Linear(width, width),
            nn.LayerNorm(width, 1e-12),
        )
        self.intermediate.dense, self.output.dense = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.output.LayerNorm = nn.LayerNorm(width, 1e-12)
        if graph:
            self.graph_conv = nn.Module()
            self.graph_conv.lin1 = nn.Linear(width, width)

    def forward(self, x, heads=4):
        own = self.attention.self
        q, k, v = (f(x).unflatten(-1, (heads, -1)).transpose(1, 2) for f in (own.query, own.key, own.value))
        shares = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        heard = self.attention.output.dense((shares @ v).transpose(1, 2).flatten(2))
        x = self.attention.output.LayerNorm(heard + x)
        return self.output.LayerNorm(self.output.dense(nn.functional.gelu(self.intermediate.dense(x))) + x)


class TheirStage(nn.Module):
    def __init__(self, inputs, width, outputs, hidden, layers, graph):
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings, self.bert.pooler, self.bert.encoder = nn.Module(), nn.Module(), nn.Module()
        self.bert.embeddings.word_embeddings = nn.Embedding(20, width)  # 30,522 in the files
        self.bert.embeddings.LayerNorm = nn.LayerNorm(width)
        self.bert.pooler.dense = nn.Linear(width, width)
        self.bert.encoder.layer = nn.ModuleList(TheirLayer(width, hidden, graph) for _ in range(layers))
        self.bert.position_embeddings = nn.Embedding(512, width)
        self.bert.img_embedding = nn.Linear(inputs, width)
        self.cls_head, self.residual = nn.Linear(width, outputs), nn.Linear(inputs, outputs)

    def forward(self, tokens):
        x = self.bert.img_embedding(tokens) + self.bert.position_embeddings.weight[: tokens.shape[1]]
        for layer in self.bert.encoder.layer:
            x = layer(x)
        return self.cls_head(x) + self.residual(tokens)


def their_trunk(chain, hidden, layers, meshes, cells, joints=14, graph=False):
    """METRO's network without its picture network, or Graphormer's."""
    fine, middle, coarse = meshes
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.trans_encoder = nn.ModuleList(
        TheirStage(*sizes, hidden(sizes[1]), layers, graph and n == 2) for n, sizes in enumerate(chain)
    )
    model.upsampling, model.upsampling2 = nn.Linear(coarse, middle), nn.Linear(middle, fine)
    model.cam_param_fc, model.cam_param_fc2, model.cam_param_fc3 = (
        nn.Linear(3, 1), nn.Linear(coarse, 250), nn.Linear(250, 3),
    )  # fmt: skip
    if graph:
        model.grid_feat_dim = nn.Linear(8, chain[0][0])
    else:
        model.conv_learn_tokens = nn.Conv1d(cells, joints + coarse, 1)
    return model


def levels(fine, middle, coarse, joints=14):
    """Meshes of so many vertices, of no shape in particular."""
    points = tuple(np.random.default_rng(n).normal(size=(count, 3)) for n, count in enumerate((fine, middle, coarse)))
    up = tuple(np.zeros(shape, np.float32) for shape in ((fine, middle), (middle, coarse)))
    regressor = np.full((joints, fine), 1 / fine, np.float32)
    return mpt_pretraining.Levels(fine, (), points, (), (), up, regressor)


TINY = mpt_pretraining.Config(16, (8, 16), (24, 12, 6), (32, 16, 8), batch_size=2, steps=2, maps=3, depth=2, ffn=2.0)


@pytest.mark.parametrize("graph", [False, True])
def test_a_trunk_gives_the_same_points(graph):
    hidden = (lambda width: 2 * width) if graph else (lambda width: 48)  # METRO's MLPs are equally wide in all stages
    their = randomized(their_trunk(TINY.chain, hidden, 2, (24, 12, 6), 16, graph=graph))
    model = MeshTransformer(TINY, levels(24, 12, 6)).eval()
    left = trunks.load_trunk(model, their.state_dict())
    tokens = torch.rand(2, 20, 19, generator=torch.Generator().manual_seed(0))
    ours = theirs = tokens
    with torch.no_grad():
        for mine, stage in zip(model.stages, their.trans_encoder, strict=True):
            ours, theirs = mine(ours), stage(theirs)
    assert torch.allclose(ours, theirs, atol=1e-4 * theirs.abs().max())
    assert torch.equal(model.up[1].weight, their.upsampling2.weight)
    assert any("never used" in line for line in left) and any("backbone" in line for line in left)
    assert graph == any("graph convolution" in line for line in left)
    if not graph:
        cells = torch.rand(1, 16, 5)
        assert torch.allclose(model.tokens.mix[0](cells.mT).mT, their.conv_learn_tokens(cells), atol=1e-5)


def test_the_real_sizes_of_metro_and_graphormer_fit():
    """1024 / 256 / 128 with 3072 in every MLP; 1024 / 256 / 64 with twice the width; 6890 vertices, 49 cells."""
    meshes = levels(6890, 1723, 431)
    for widths, hidden, graph in (((1024, 256, 128), lambda _: 3072, False), ((1024, 256, 64), lambda w: 2 * w, True)):
        config = mpt_pretraining.CONFIGS["mpt"]
        config = mpt_pretraining.Config(**{**vars(config), "widths": widths})
        with torch.device("meta"):
            their = their_trunk(config.chain, hidden, 4, (6890, 1723, 431), 49, graph=graph)
            model = MeshTransformer(config, meshes)
        left = trunks.load_trunk(model, their.state_dict())
        assert not any("another size" in line or "unknown" in line for line in left)
        assert len(model.stages[0].blocks[0].mlp.fc1.weight) == hidden(1024)


def test_a_trunk_of_another_body_leaves_its_meshes_out():
    their = their_trunk(TINY.chain, lambda w: 2 * w, 2, (30, 12, 6), 16)
    left = trunks.load_trunk(MeshTransformer(TINY, levels(24, 12, 6)), their.state_dict())
    assert [line for line in left if "another size" in line] == [
        "up.1.weight: of another size than ours", "up.1.bias: of another size than ours",
    ]  # fmt: skip


def test_a_trunk_that_does_not_fit_names_the_configuration_that_does():
    their = their_trunk(((16, 24, 16), (16, 16, 8), (8, 8, 3)), lambda w: 2 * w, 2, (24, 12, 6), 16)
    model = MeshTransformer(TINY, levels(24, 12, 6))
    with pytest.raises(ReleasedError, match=r"widths \(24, 16, 8\), channels that end in 13, depth 2"):
        trunks.load_trunk(model, their.state_dict())
    with pytest.raises(ReleasedError, match="no file of METRO or Graphormer"):
        trunks.load_trunk(model, {"a": torch.zeros(1)})
    short = their.state_dict()
    del short["trans_encoder.1.bert.encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(ReleasedError, match=r"stages\.1\.blocks\.0\.attn\.qkv\.bias: the file has no key"):
        trunks.trunk_state(short)


# ------------------------------------------------------------------------------------------------ MAE
def mae_file(decoder=True, side=4):
    """MAE's names are those of chapter 06, without the encoder's prefix."""
    state = randomized(our_mae(side=side)).state_dict()
    state = {name.removeprefix("encoder."): value for name, value in state.items()}
    return {name: value for name, value in state.items() if decoder or not trunks.re.fullmatch(trunks.DECODER, name)}


def test_mae_paints_with_its_own_weights(tmp_path):
    torch.save({"model": mae_file()}, tmp_path / "mae_visualize_vit_large.pth")
    found = read_weights(tmp_path / "mae_visualize_vit_large.pth")
    assert (found.family, found.kind, found.config.decoder_depth, found.config.size) == ("mae", "mae", 3, 64)
    model = our_mae()
    model.load_state_dict(found.state)
    assert torch.equal(model.decoder_pred.weight, mae_file()["decoder_pred.weight"])


@pytest.mark.parametrize("size", [768, 1024, 1280])
def test_maes_real_sizes_are_known(size):
    """mae_pretrain_vit_{base,large,huge}: depth 12, 24, 32; Huge has patches of 14."""
    depth, patch = {768: (12, 16), 1024: (24, 16), 1280: (32, 14)}[size]
    with torch.device("meta"):
        state = VisionTransformer(224, patch, size, depth, 16).state_dict()
    found = converted(state)
    assert (found.kind, found.config.depth, found.config.patch, found.config.size) == ("encoder", depth, patch, 224)
    assert found.config.heads == {768: 12, 1024: 16, 1280: 16}[size]


@pytest.mark.parametrize("cls", [True, False])
def test_an_encoder_of_another_grid_begins_with_maes_weights(cls):
    state = mae_file(decoder=False)
    same = VisionTransformer(64, 16, 32, 2, 4, cls=cls)
    trunks.load_encoder(same, state)
    assert torch.allclose(same.pos_embed, state["pos_embed"][:, 0 if cls else 1 :], atol=1e-6)
    other = VisionTransformer((128, 96), 16, 32, 2, 4, cls=cls)
    trunks.load_encoder(other, state | {"head.weight": torch.zeros(3, 3)})
    assert torch.equal(other.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
    assert other.pos_embed.shape[1] == 48 + cls
    with pytest.raises(ReleasedError, match="file's is 32 wide, 2 deep, of patch 16"):
        trunks.load_encoder(VisionTransformer(64, 16, 32, 3, 4, cls=cls), state)


def test_davids_encoder_takes_mae_too():
    config = david_models.Config(64, 16, 32, 4, 4, 8, (4, 4, 4, 4), (2, 2, 2, 2, 2), 64, 4, 2, 2)
    state = our_mae().encoder.state_dict() | {}
    state |= {
        name.replace("blocks.1", f"blocks.{n}"): v for n in (2, 3) for name, v in state.items() if "blocks.1" in name
    }
    model = david_models.David(config)
    trunks.load_encoder(model.encoder, state)
    assert torch.equal(model.encoder.blocks[3].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])


# ------------------------------------------------------------------------------------------------ any file
@pytest.mark.parametrize("task", ["pose", "seg", "depth", "normals"])
def test_a_task_file_is_converted_and_gives_the_same_maps(task, tmp_path):
    their = their_task(task)
    torch.save({"state_dict": their.state_dict(), "meta": {"epoch": 3}}, tmp_path / "file.pth")
    found = read_weights(tmp_path / "file.pth")
    assert (found.family, found.kind) == ("sapiens", task)
    model = load(save(found, tmp_path / "ours.safetensors"))
    reference = our_task(task)
    reference.load_state_dict(found.state)
    images = pictures(128, 96)[0]
    expected = reference(images)
    assert torch.allclose(model(images), expected, atol=1e-4 * expected.abs().max().item())
    assert torch.allclose(load(tmp_path / "file.pth")(images), model(images))


def test_a_whole_pretraining_and_a_clean_one_are_told_apart(tmp_path):
    their = their_mae()
    assert converted(their.state_dict()).kind == "mae"
    found = converted(their.backbone.state_dict())
    assert found.kind == "encoder" and found.config.size == 64
    encoder = load(save(found, tmp_path / "clean.safetensors"))
    images = pictures(64, 64)[1]
    with torch.no_grad():
        assert encoder(images).shape == (2, 17, 32)
        assert torch.equal(encoder.norm.weight, their.backbone.ln1.weight)


@pytest.mark.parametrize(("task", "size", "name", "module"), [
    ("pose", "1b", "pose-308-1b", sapiens_pose), ("seg", "0.3b", "seg-28-0.3b", sapiens_dense),
    ("depth", "2b", "depth-2b", sapiens_dense), ("normals", "0.6b", "normals-0.6b", sapiens_dense),
])  # fmt: skip
def test_a_real_file_gets_the_papers_own_configuration(task, size, name, module):
    found = converted(real_state(task, size, {"pose": 308, "seg": 28, "depth": 1, "normals": 3}[task]))
    assert found.config == module.CONFIGS[name] and name in found.describe() and found.notes == []


def test_the_same_weights_give_the_same_bytes(tmp_path):
    found = converted(their_task("depth").state_dict())
    first, second = save(found, tmp_path / "a.safetensors"), save(found, tmp_path / "b.safetensors")
    assert first.read_bytes() == second.read_bytes()


def test_files_of_nobody_are_refused_by_name(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ReleasedError, match=r"resnet\.pth: these are not the weights of Sapiens, DAViD.*conv1"):
        read_weights(tmp_path / "resnet.pth")
    for name in ("no.pth", "no.safetensors", "no.onnx"):
        with pytest.raises(ReleasedError, match=name):
            load(tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ReleasedError, match=r"cut\.safetensors can't be read"):
        load(tmp_path / "cut.safetensors")


def test_a_trunk_and_a_half_are_not_loaded_as_models(tmp_path):
    their = their_trunk(TINY.chain, lambda w: 2 * w, 2, (24, 12, 6), 16)
    found = converted(their.state_dict())
    assert "never used" in found.describe() and "load_trunk" in found.describe()
    with pytest.raises(ReleasedError, match="is a trunk"):
        load(save(found, tmp_path / "trunk.safetensors"))
    half = converted(their_task("seg").state_dict())
    half = Converted(**{**vars(half), "missing": ["resizer.stem"]})
    with pytest.raises(ReleasedError, match="lacks 1 layers, such as resizer.stem"):
        load(save(half, tmp_path / "half.safetensors"))


# ------------------------------------------------------------------------------------------------ the command
def course(*arguments):
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(astronaut()[::4, ::4]).save(path)
    return path


def test_convert_tells_what_it_found_and_writes_it(tmp_path):
    torch.save({"state_dict": their_task("seg").state_dict()}, tmp_path / "seg.pth")
    code, text = course("convert", tmp_path / "seg.pth", "--check")
    assert (
        code == 0
        and "sapiens, seg" in text
        and "CC-BY-NC" in text
        and "4 heads are assumed" in text
        and not list(tmp_path.glob("*.safetensors"))
    )
    assert course("convert", tmp_path / "seg.pth")[0] == 0
    assert load(tmp_path / "seg-course.safetensors").head.last.out_channels == 28
    (tmp_path / "cut.pth").write_bytes((tmp_path / "seg.pth").read_bytes()[:2000])
    code, text = course("convert", tmp_path / "cut.pth")
    assert code == 1 and "cut.pth can't be read as weights" in text


@pytest.mark.parametrize("kind", ["pose", "seg", "depth", "normals", "mae", "david"])
def test_models_of_chapters_06_07_08_and_10_run_on_a_photograph(kind, tmp_path, photograph):
    if kind == "david":
        fields = {"size": 32, "patch": 8, "width": 32, "depth": 4, "heads": 4, "features": 16}
        fields |= {"reassembled": (4, 4, 4, 4), "resizer": (2, 2, 2, 2, 2), "tasks": david_models.TASKS}
        config = replace(david_models.CONFIGS["smoke"], **fields)
        state = randomized(david_models.David(config)).state_dict()
        path = save(Converted("david", "david", "david_models", config, state), tmp_path / "david.safetensors")
    else:
        their = their_mae() if kind == "mae" else their_task(kind)
        path = save(converted(their.state_dict()), tmp_path / "ours.safetensors")
    code, text = course("show", path, photograph, "--box", "8,8,120,120", "--out", tmp_path / "out.png")
    assert code == 0, text
    with Image.open(tmp_path / "out.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 50


def test_what_cannot_be_shown_is_said(tmp_path, photograph):
    path = save(converted(their_mae().backbone.state_dict()), tmp_path / "clean.safetensors")
    out = ("--out", tmp_path / "out.png")
    for arguments, words in (
        ((path, photograph), "an encoder by itself shows nothing"),
        ((path, photograph, "--box", "1,2,3"), "write left,top,right,bottom"),
        ((path, photograph, "--box", "900,0,1000,9"), "is none in a photograph of 128 x 128"),
        ((path, tmp_path / "no.png"), "no.png"),
        ((tmp_path / "no.pth", photograph), "no.pth can't be read"),
    ):
        code, text = course("show", *arguments, *out)
        assert code in (1, 2) and words in text, text
    assert not (tmp_path / "out.png").exists()
