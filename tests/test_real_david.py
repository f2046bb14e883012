"""DAViD's ONNX files in chapter 10's network.

`Their...` is the network as the paper and DPT's code describe it, written here independently of the course's own, and
exported as the authors' files are: linear maps without names, norms whole or in parts.
"""

import warnings

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn
from torch.nn.functional import gelu, interpolate, relu

from course_lib.chapters.david_models import David
from course_lib.real.david_onnx import load_david, read_david
from course_lib.real.onnx_graph import Graph
from course_lib.real.weights import load, read_weights, save
from course_lib.released import ReleasedError

MEAN, STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)  # ImageNet's of blue, green, red
SIZE, PATCH, WIDTH, HEADS, FEATURES = 24, 8, 32, 2, 16
WIDE, STAGES = (8, 12, 20, 24), (4, 6, 8, 10, 12)


class TheirBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.heads, self.attn, self.mlp = heads, nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.attn.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        shares = (q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5).softmax(-1)
        x = x + self.attn.proj((shares @ v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp.fc2(gelu(self.mlp.fc1(self.norm2(x))))


class TheirUnit(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(relu(self.conv1(relu(x))))


class TheirHead(nn.Sequential):
    def __init__(self, features, out):
        layers = nn.Conv2d(features, features // 2, 3, padding=1), nn.Conv2d(features // 2, 16, 3, padding=1)
        super().__init__(*layers, nn.Conv2d(16, out, 1))

    def forward(self, x, size):
        x = interpolate(self[0](x), size=size, mode="bilinear", align_corners=True)
        return self[2](relu(self[1](x)))


class TheirDavid(nn.Module):
    """inside: the mean and spread that the graph itself takes from its input. lowest: with a residual unit there.
    swapped: decoder first, then resizer. extra: another resizer. cut: places as DPT takes them. raw: alpha as it is."""

    def __init__(self, tasks=("depth",), inside=(MEAN, STD), lowest=True, swapped=False, extra=False, cut=False, raw=0):
        super().__init__()
        self.tasks, self.inside, self.lowest, self.swapped, self.cut = tasks, inside, lowest, swapped, cut
        self.raw, stages = raw, STAGES
        side = SIZE // PATCH
        self.model = nn.Module()
        self.model.patch_embed = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.model.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.model.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, WIDTH))
        self.model.blocks = nn.ModuleList(TheirBlock(WIDTH, HEADS) for _ in range(4))
        self.readout = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(4))
        self.project = nn.ModuleList(nn.Conv2d(WIDTH, wide, 1) for wide in WIDE)
        rescale = [nn.ConvTranspose2d(WIDE[0], WIDE[0], 4, 4), nn.ConvTranspose2d(WIDE[1], WIDE[1], 2, 2)]
        self.rescale = nn.ModuleList([*rescale, nn.Identity(), nn.Conv2d(WIDE[3], WIDE[3], 3, 2, 1)])
        self.layer_rn = nn.ModuleList(nn.Conv2d(wide, FEATURES, 3, padding=1, bias=False) for wide in WIDE)
        pairs = list(zip(stages, stages[1:], strict=False))
        self.stem = nn.Conv2d(3, stages[0], 3, padding=1)
        kernel = 5 if extra else 3
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, b, kernel, 2, kernel // 2), nn.ReLU())
            for a, b in pairs
        )
        self.first = nn.ModuleList(TheirUnit(FEATURES) for _ in range(4 if lowest else 3))
        self.second = nn.ModuleList(TheirUnit(FEATURES) for _ in range(4))
        self.mix = nn.ModuleList(nn.Conv2d(FEATURES + wide, FEATURES, 1) for wide in stages[1:])
        self.heads = nn.ModuleList(TheirHead(FEATURES, 3 if task == "normals" else 1) for task in tasks)

    def forward(self, image):
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in self.inside)
        image = (image - mean) / std
        r = [relu(self.stem(image))]
        for stage in self.stages:
            r.append(stage(r[-1]))
        e = self.encode(image)
        before = None
        for level in (3, 2, 1, 0):
            total = e[level] if level == 3 and not self.lowest else self.first[level](e[level])
            if before is not None:
                total = before + interpolate(total, size=before.shape[2:], mode="bilinear", align_corners=True)
            fused = interpolate(self.second[level](total), size=r[level + 1].shape[2:], mode="bilinear",
                                align_corners=True)  # fmt: skip
            pair = (fused, r[level + 1]) if self.swapped else (r[level + 1], fused)
            before = self.mix[level](torch.cat(pair, 1))
        answers = [head(before, image.shape[2:]) for head in self.heads]
        return tuple(self.ended(task, x) for task, x in zip(self.tasks, answers, strict=True))

    def ended(self, task, x):
        if task == "depth":
            return x.squeeze(1)
        if task == "alpha":
            return x if self.raw else x.sigmoid()
        return x / (x * x).sum(1, keepdim=True).sqrt()

    def places(self, image):
        """As they are, or as DPT's code takes them: cut apart, and resized while it runs."""
        table, side = self.model.pos_embed, SIZE // PATCH
        if not self.cut:
            return table
        grid = table[0, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = interpolate(grid, size=(side, side), mode="bilinear")
        return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side**2, -1)], 1)

    def encode(self, image):
        small = interpolate(image, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        x = self.model.patch_embed(small).flatten(2).transpose(1, 2)
        x = torch.cat([self.model.cls_token.expand(len(x), -1, -1), x], 1) + self.places(image)
        found = []
        for block in self.model.blocks:
            x = block(x)
            found.append(x)
        read = [gelu(layer(torch.cat([x[:, 1:], x[:, :1].expand_as(x[:, 1:])], -1)))
                for layer, x in zip(self.readout, found, strict=True)]  # fmt: skip
        e = [x.transpose(1, 2).reshape(1, WIDTH, SIZE // PATCH, SIZE // PATCH) for x in read]
        e = [rescale(project(x)) for rescale, project, x in zip(self.rescale, self.project, e, strict=True)]
        return [layer(x) for layer, x in zip(self.layer_rn, e, strict=True)]


def randomized(module):
    generator = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2 + (value == 1))
    return module.eval()


def exported(path, opset=17, **options):
    """The network, and its file."""
    network = randomized(TheirDavid(**options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(1, 3, SIZE, SIZE),), str(path), opset_version=opset, dynamo=False)
    return network


def both(network, mapped, image):
    """Their answers and ours for one picture, (1, 3, H, W), RGB."""
    ours = David(mapped.config).eval()
    assert load_david(ours, mapped) == []
    with torch.no_grad():
        theirs = dict(zip(network.tasks, network(image.flip(1)), strict=True))
        mine = ours(image)
    return theirs, {task: network.ended(task, mine[task]) for task in network.tasks}


IMAGE = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
RESIZED = "its encoder's picture is resized by align_corners, linear; ours bilinearly and smoothed: small differences"
MULTI = ("depth", "normals", "alpha")


@pytest.mark.parametrize(("opset", "tasks"), [(17, MULTI), (11, ("alpha",))])
def test_the_same_numbers_come_out(tmp_path, opset, tasks):
    network = exported(tmp_path / "model.onnx", opset, tasks=tasks)
    mapped = read_david(tmp_path / "model.onnx")
    assert (mapped.left, mapped.missing, mapped.notes) == ([], [], [RESIZED])
    assert mapped.config.tasks == tasks and mapped.config.heads == HEADS and mapped.config.resizer == STAGES
    theirs, ours = both(network, mapped, IMAGE)
    model = load(save(read_weights(tmp_path / "model.onnx"), tmp_path / "ours.safetensors"))
    assert torch.equal(network.ended(tasks[0], model(IMAGE)[tasks[0]]), ours[tasks[0]])
    for task in tasks:
        assert torch.allclose(ours[task], theirs[task], atol=1e-4 * theirs[task].abs().max())


def test_another_form_of_the_decoder_gives_the_same_numbers(tmp_path):
    """Columns in the other order, no residual unit at the lowest level, places that are cut apart."""
    network = exported(tmp_path / "model.onnx", swapped=True, lowest=False, cut=True)
    mapped = read_david(tmp_path / "model.onnx")
    theirs, ours = both(network, mapped, IMAGE)
    assert torch.allclose(ours["depth"], theirs["depth"], atol=1e-4 * theirs["depth"].abs().max())
    assert len(mapped.notes) == 2 and "set to change nothing" in mapped.notes[0] and mapped.notes[1] == RESIZED


def test_the_encoder_reads_our_pictures_whatever_the_graph_takes_from_them(tmp_path):
    network = exported(tmp_path / "model.onnx", inside=((0.5, 0.4, 0.3), (0.5, 0.25, 0.2)))
    mapped = read_david(tmp_path / "model.onnx")
    ours = David(mapped.config).eval()
    load_david(ours, mapped)
    mean, std = torch.tensor(network.inside).view(2, 3, 1, 1)
    normal = (IMAGE - torch.tensor(MEAN[::-1]).view(3, 1, 1)) / torch.tensor(STD[::-1]).view(3, 1, 1)
    with torch.no_grad():
        for mine, theirs in zip(ours.encode(normal), network.encode((IMAGE.flip(1) - mean) / std), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4 * theirs.abs().max())
    assert len(mapped.notes) == 2 and "borders differ" in mapped.notes[0]


def test_a_resizer_of_another_form_is_reported_and_the_rest_is_taken(tmp_path):
    exported(tmp_path / "model.onnx", tasks=("alpha",), extra=True, raw=True)
    mapped = read_david(tmp_path / "model.onnx")
    assert any("(6, 4, 5, 5), stride 2" in layer for layer in mapped.left)
    assert any("resizer is built otherwise" in note for note in mapped.notes)
    assert any("not through a sigmoid" in note for note in mapped.notes)
    with pytest.raises(ReleasedError, match=r"model\.onnx lacks \d+ layers, such as resizer\.stem"):
        load(tmp_path / "model.onnx")
    kept = load_david(David(mapped.config), mapped)
    assert kept and all(name.startswith(("resizer.", "decoder.")) for name in kept)
    assert not any("learned" in name or "fused" in name for name in kept)


def small_model(*nodes, constants=(), outputs=("y",)):
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", values, ends, list(constants))
    return helper.make_model(graph)


def weights(name, *shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return onnx.numpy_helper.from_array(values, name)


def test_gemm_and_products_are_linear_maps(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "a", "b"], ["h"], transB=1), helper.make_node("MatMul", ["h", "c"], ["y"])]
    constants = [weights("a", 5, 8), weights("b", 5), weights("c", 5, 7)]
    onnx.save(small_model(*nodes, constants=constants), tmp_path / "m.onnx")
    first, second = Graph(tmp_path / "m.onnx").layers()
    assert first.weight.shape == (5, 8) and second.weight.shape == (7, 5) and second.bias is None
    assert np.array_equal(first.bias, onnx.numpy_helper.to_array(constants[1]))


def test_spoilt_and_foreign_files_are_refused_by_name(tmp_path):
    onnx.save(small_model(helper.make_node("Relu", ["x"], ["y"])), tmp_path / "whole.onnx")
    whole = (tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("404 not found")
    (tmp_path / "empty.onnx").write_bytes(b"")
    onnx.save(small_model(helper.make_node("Relu", ["x"], ["y"])), tmp_path / "other.onnx")
    for name in ("cut", "text", "empty", "other", "missing"):
        with pytest.raises(ReleasedError, match=f"{name}.onnx"):
            read_david(tmp_path / f"{name}.onnx")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole.onnx"
    exported(path)
    return path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), flips=st.lists(st.integers(1, 255), min_size=1, max_size=8))
def test_flipped_bytes_give_a_network_or_an_error_in_words(whole, tmp_path, at, flips):
    data = bytearray(whole)
    for place, flip in enumerate(flips, int(at * (len(data) - 8))):
        data[place] ^= flip
    (tmp_path / "flipped.onnx").write_bytes(data)
    try:
        assert read_david(tmp_path / "flipped.onnx").state
    except ReleasedError as error:
        assert "flipped.onnx" in str(error)


def test_weights_in_other_files_are_not_opened(tmp_path):
    tensor = weights("a", 5, 8)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model = small_model(helper.make_node("MatMul", ["x", "a"], ["y"]), constants=[tensor])
    (tmp_path / "away.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ReleasedError, match="keeps 1 weights in other files"):
        read_david(tmp_path / "away.onnx")


def test_an_output_that_is_no_task_is_asked_for(tmp_path):
    exported(tmp_path / "two.onnx", tasks=("depth", "depth"))
    with pytest.raises(ReleasedError, match="2 outputs, of the tasks depth: give --tasks"):
        read_david(tmp_path / "two.onnx")
    assert read_david(tmp_path / "two.onnx", tasks=("depth", "alpha")).config.tasks == ("depth", "alpha")
