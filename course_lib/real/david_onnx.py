"""DAViD's released ONNX files as weights of chapter 10's network, single tasks and the one for three.

The paper leaves the resizer open, and exporters lose names. So the file's layers are taken in the order of its graph
and laid beside ours, each to the next one of its kind and shape on the same side of the patch embedding. What has no
place is reported, never guessed. The files (MIT): github.com/microsoft/DAViD.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.chapters.david_models import CONFIGS, TASKS, Config, David
from course_lib.chapters.sapiens_pretraining import MEAN, STD
from course_lib.real.onnx_graph import PASSING, Graph, Layer
from course_lib.released import ReleasedError, State

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LayerNorm)
ABSENT = ("decoder.3.learned.first", "decoder.3.learned.second")  # plain DPT has no such unit on its lowest level


@dataclass
class Mapped:
    """What became of a file: our configuration and tensors, layers of the file without a place (`left`), layers of ours
    without weights (`missing`), and what differs in words (`notes`)."""

    config: Config
    state: State
    left: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_david(path: str | Path, tasks: tuple[str, ...] | None = None) -> Mapped:
    """A DAViD file -> `Mapped`. tasks: of its outputs in their order, where these can't be told by their shape.

    ReleasedError for a file whose encoder or heads are not to be found."""
    try:
        return read_graph(Graph(path), tasks)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration, OverflowError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReleasedError(f"{path} can't be read as ONNX: it is damaged ({why})") from error


def read_graph(graph: Graph, tasks: tuple[str, ...] | None = None) -> Mapped:
    """The same for an open file, whose errors can be any."""
    path, layers = graph.path, graph.layers()
    patch = patch_layer(layers, path)
    behind = graph.after(patch.place)
    heads = {}
    for number, (output, rank) in enumerate(graph.outputs.items()):
        chain = head_layers(graph, layers, output)
        heads[tasks[number] if tasks else task_of(chain, rank, path)] = chain
    if len(heads) != len(graph.outputs):
        raise ReleasedError(f"{path} has {len(graph.outputs)} outputs, of the tasks {', '.join(heads)}: give --tasks")
    used = {id(layer) for chain in heads.values() for layer in chain}
    rest = [layer for layer in layers if id(layer) not in used]
    detail = [layer for layer in rest if layer.place not in behind and layer is not patch]
    trunk = [layer for layer in rest if layer.place in behind or layer is patch]
    tokens = tokens_of(graph, len(patch.weight), behind)
    config = found_config(graph, trunk, detail, heads, patch, tokens)
    start = {f"encoder.{name}": torch.from_numpy(np.array(x, np.float32)) for name, x in tokens.items()}
    return mapped(graph, Mapped(config, start), trunk, detail, heads, patch)


def patch_layer(layers: Iterable[Layer], path: str | Path) -> Layer:
    """The patch embedding: a convolution of a picture whose stride is its kernel's side."""
    for layer in layers:
        shape = layer.weight.shape
        if layer.op == "Conv2d" and shape[1] == 3 and shape[2] == shape[3] == layer.stride > 1:
            return layer
    raise ReleasedError(f"{path} has no patch embedding: it is no network of DAViD's kind")


def head_layers(graph: Graph, layers: list[Layer], output: str) -> list[Layer]:
    """The last three convolutions before an output, in their order."""
    by_place, value, chain = {layer.place: layer for layer in layers}, output, []
    for _ in range(3):
        found = graph.back_to(value, "Conv")
        if found is None or found[0] not in by_place:
            raise ReleasedError(f"{graph.path}: the output {output} does not end in a head of three convolutions")
        chain.insert(0, by_place[found[0]])
        value = graph.nodes[found[0]].input[0]
    return chain


def task_of(chain: list[Layer], rank: int, path: str | Path) -> str:
    """normals by three channels; depth (1, H, W) and alpha (1, 1, H, W) by their dimensions."""
    out = len(chain[-1].weight)
    if out == 3:
        return "normals"
    if out != 1 or rank not in (3, 4):
        raise ReleasedError(
            f"{path} has an output of {out} channels in {rank} dimensions: say --tasks {','.join(TASKS)}"
        )
    return "depth" if rank == 3 else "alpha"


# ------------------------------------------------------------------------------------------------ the configuration
def found_config(
    graph: Graph,
    trunk: list[Layer],
    detail: list[Layer],
    heads: dict[str, list[Layer]],
    patch: Layer,
    tokens: dict[str, np.ndarray],
) -> Config:
    """The configuration of ours that the file's shapes are those of; the released one where all numbers agree."""
    width, side, tasks = len(patch.weight), patch.stride, tuple(heads)
    features = next(iter(heads.values()))[0].weight.shape[1]
    depth = sum(layer.op == "Linear" and layer.weight.shape == (3 * width, width) for layer in trunk)
    pictures = [layer for layer in trunk if layer.op == "Conv2d" and layer.weight.shape[1:] == (width, 1, 1)][:4]
    if depth < 4 or len(pictures) != 4:
        raise ReleasedError(
            f"{graph.path}: {depth} blocks, {len(pictures)} reassembled layers: at least 4, and 4 are needed"
        )
    rows = round((tokens["pos_embed"].shape[1] - 1) ** 0.5)
    found = {
        "size": rows * side, "patch": side, "width": width, "depth": depth, "heads": head_count(graph, width),
        "features": features, "reassembled": tuple(len(layer.weight) for layer in pictures),
        "resizer": resizer_channels(detail) or CONFIGS["david-base"].resizer, "tasks": tasks,
    }  # fmt: skip
    near = next((c for c in CONFIGS.values() if (c.width, c.depth) == (width, depth) and c.size == rows * side), None)
    return replace(near or CONFIGS["david-base"], **found)


def resizer_channels(detail: list[Layer]) -> tuple[int, ...] | None:
    """Channels of stem and stages, if the layers beside the encoder are a resizer of our form; else None."""
    shapes = [(layer.op, *layer.weight.shape[2:], layer.stride) for layer in detail]
    if shapes != [("Conv2d", 3, 3, 1)] + [("Conv2d", 3, 3, 1), ("Conv2d", 3, 3, 2)] * 4:
        return None
    return (len(detail[0].weight), *(len(layer.weight) for layer in detail[2::2]))


def tokens_of(graph: Graph, width: int, behind: set[int]) -> dict[str, np.ndarray]:
    """cls_token (1, 1, D) and pos_embed (1, 1 + N, D). behind: the nodes that depend on the patch embedding.

    DPT's code cuts the table of places and resizes it while it runs, so it may be there in two constants: the class
    token's row, and a picture (1, D, s, s). ReleasedError where one of the two isn't to be found."""
    constants = list(used_constants(graph))
    single = [(name, x) for name, x in constants if x.shape == (1, 1, width)]
    cls = next((x for name, x in single if reaches_tokens(graph, name, behind)), None)
    places = next((x for _, x in constants if is_table(x, width)), None)
    grid = next((squares(x, width) for _, x in constants if squares(x, width) is not None), None)
    row = next((x for name, x in single if not reaches_tokens(graph, name, behind)), None)
    if places is None and grid is not None and row is not None:
        places = np.concatenate([row, grid], 1)
    if cls is None or places is None:
        what = " and ".join(["no class token"] * (cls is None) + ["no table of places"] * (places is None))
        raise ReleasedError(f"{graph.path} has {what} of {width} numbers: it is no network of DAViD's kind")
    return {"cls_token": cls, "pos_embed": places}


def used_constants(graph: Graph) -> Iterator[tuple[str, np.ndarray]]:
    """The constants that nodes read, by name, in the order of use."""
    seen = set()
    for name in (name for node in graph.nodes for name in node.input):
        if name and name not in seen and (values := graph.constant(name)) is not None:
            yield name, values
        seen.add(name)


def is_table(values: np.ndarray, width: int) -> bool:
    """Whether a constant can be a table of places (1, 1 + N, D), N a square."""
    patches = values.shape[1] - 1 if values.ndim == 3 else 0
    return patches > 0 and values.shape[::2] == (1, width) and round(patches**0.5) ** 2 == patches


def squares(values: np.ndarray, width: int) -> np.ndarray | None:
    """Places (1, D, s, s) or (1, s, s, D), s over 1, as rows (1, N, D); None for another constant."""
    if values.ndim == 4 and len(values) == 1 and values.shape[1:].count(width) >= 1:
        last = (
            values if values.shape[3] == width and values.shape[1] == values.shape[2] else values.transpose(0, 2, 3, 1)
        )
        if last.shape[1] == last.shape[2] > 1 and last.shape[3] == width:
            return last.reshape(1, -1, width)
    return None


def reaches_tokens(graph: Graph, name: str, behind: set[int]) -> bool:
    """Whether a constant is laid before the patches' tokens, as the class token is."""
    places = list(graph.users.get(name, []))
    while places:
        place = places.pop()
        if graph.nodes[place].op_type in (*PASSING, "Expand"):
            places += graph.users.get(graph.nodes[place].output[0], [])
        elif graph.nodes[place].op_type == "Concat" and place in behind:
            return True
    return False


def head_count(graph: Graph, width: int) -> int:
    """Heads of the attention, from how queries, keys and values are cut apart (…, 3, heads, D / heads); D / 64 where
    the graph doesn't tell."""
    for node in (node for node in graph.nodes if node.op_type == "Reshape"):
        parts = graph.constant(node.input[1])
        maker = graph.nodes[graph.maker[node.input[1]]] if node.input[1] in graph.maker else None
        if parts is None and maker is not None and maker.op_type == "Concat":  # put together while it runs
            pieces = [graph.constant(name) for name in maker.input]
            parts = np.concatenate([[-1] if piece is None else piece.ravel() for piece in pieces])
        if parts is not None and len(parts) == 5 and parts[2] == 3 and parts[3] * abs(parts[4]) in (width, parts[3]):
            return int(parts[3])
    return max(1, width // 64)


# ------------------------------------------------------------------------------------------------ layer by layer
@lru_cache(maxsize=4)
def our_layers(config: Config) -> list[tuple[str, nn.Module]]:
    """Our layers in the order in which they run, by name, without their weights."""
    order: list[tuple[str, nn.Module]] = []
    with torch.device("meta"):
        model = David(config)
        for name, module in model.named_modules():
            if isinstance(module, KINDS):
                module.register_forward_hook(lambda module, *_, name=name: order.append((name, module)))
        model(torch.zeros(1, 3, config.size, config.size))
    return order


def mapped(
    graph: Graph, result: Mapped, trunk: list[Layer], detail: list[Layer], heads: dict[str, list[Layer]], patch: Layer
) -> Mapped:
    """All layers in their places, beside the tokens that `result` has."""
    ours = our_layers(result.config)
    pools = {"resizer.": detail if resizer_channels(detail) else []}
    pools |= {f"heads.{task}.": list(chain) for task, chain in heads.items()}
    for prefix, pool in pools.items():
        lay(result, [each for each in ours if each[0].startswith(prefix)], pool)
    lay(result, [each for each in ours if not each[0].startswith(tuple(pools))], trunk)
    if not pools["resizer."]:
        result.left += [layer.describe() for layer in detail]
        result.notes.append("the file's resizer is built otherwise: train ours anew, or rebuild it by this list")
    for name, layer in (
        ("encoder.patch_embed.proj", patch),
        ("resizer.stem", detail[0] if pools["resizer."] else None),
    ):
        if layer is not None:
            read_as_ours(result, graph, name, layer)
    columns_as_ours(result, graph, trunk, graph.after(patch.place))
    result.notes += differences(graph, heads, patch.place, graph.after(patch.place))
    return result


def signature(op: str, shape: Iterable[int], stride: int, bias: bool) -> tuple:
    """What two layers must share to be the same."""
    return op, tuple(shape), stride, bias


def lay(result: Mapped, ours: list[tuple[str, nn.Module]], pool: list[Layer]) -> None:
    """The layers of `pool` one after another onto the next of ours with the same signature."""
    waiting: dict[tuple, list[Layer]] = {}
    for layer in pool:
        key = signature(layer.op, layer.weight.shape, layer.stride, layer.bias is not None)
        waiting.setdefault(key, []).append(layer)
    wanted: dict[tuple, list[str]] = {}
    for name, module in ours:
        stride = getattr(module, "stride", (1,))[0]
        key = signature(type(module).__name__, module.weight.shape, stride, module.bias is not None)
        wanted.setdefault(key, []).append(name)
    for key, names in wanted.items():
        found = waiting.pop(key, [])
        if len(found) == len(names) - len(ABSENT) and set(ABSENT) <= set(names):
            names = [name for name in names if name not in ABSENT]
            for name in ABSENT:  # a unit whose convolutions are 0 changes nothing
                put(result.state, name, np.zeros(key[1], np.float32), np.zeros(key[1][0], np.float32))
            result.notes.append("the file has no residual unit before its lowest level: ours is set to change nothing")
        if len(found) != len(names):  # which of them are missing can't be told
            result.missing += names
            result.left += [layer.describe() for layer in found]
            continue
        for name, layer in zip(names, found, strict=True):
            put(result.state, name, layer.weight, layer.bias)
    result.left += [layer.describe() for layers in waiting.values() for layer in layers]


def put(state: State, name: str, weight: np.ndarray, bias: np.ndarray | None) -> None:
    """A layer's tensors under our name."""
    state[f"{name}.weight"] = torch.from_numpy(np.array(weight, np.float32, order="C"))
    if bias is not None:
        state[f"{name}.bias"] = torch.from_numpy(np.array(bias, np.float32))


# ------------------------------------------------------------------------------------------------ what they read
def read_as_ours(result: Mapped, graph: Graph, name: str, layer: Layer) -> None:
    """A first convolution, changed so that it gives the same for our input: RGB, less ImageNet's mean, over its spread.
    Theirs is BGR in [0, 1] and what the graph makes of it before the convolution."""
    if f"{name}.weight" not in result.state:
        return
    scale, shift, strange = input_change(graph, graph.nodes[layer.place].input[0])
    mean, std = np.array(MEAN[::-1]), np.array(STD[::-1])  # of blue, green, red
    weight = layer.weight.astype(np.float64)
    bias = weight.sum((2, 3)) @ (scale * mean + shift) + (0 if layer.bias is None else layer.bias)
    put(result.state, name, (weight * (scale * std)[:, None, None])[:, ::-1], bias)
    if strange:
        result.notes.append(f"before {name} the graph has {', '.join(strange)}: what it reads may be another thing")
    padded = any(each.name == "pads" and any(each.ints) for each in graph.nodes[layer.place].attribute)
    if padded and not np.allclose(scale * mean + shift, 0, atol=1e-3):
        result.notes.append(f"{name} is padded with black, ours with the mean colour: borders differ by a pixel or so")


def input_change(graph: Graph, value: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What happens to the picture before `value`: x -> scale * x + shift, (3,) each, and nodes that do other things."""
    scale, shift, strange = np.ones(3), np.zeros(3), []
    while value in graph.maker:
        node, found = graph.nodes[graph.maker[value]], None
        if node.op_type in ("Sub", "Add", "Mul", "Div"):
            found = graph.with_constant(graph.maker[value])
        turned = found is not None and node.op_type in ("Sub", "Div") and found[0] != node.input[0]  # c - x, c / x
        if found is not None and found[1].size in (1, 3) and not turned:
            number = np.broadcast_to(found[1].ravel().astype(np.float64), 3)
            if node.op_type in ("Mul", "Div"):
                scale = scale * (number if node.op_type == "Mul" else 1 / number)
            else:
                shift = shift + scale * (number if node.op_type == "Add" else -number)
        elif node.op_type not in (*PASSING, "Resize"):
            strange.append(node.op_type)
        value = found[0] if found is not None else node.input[0]
    return scale, shift, strange


def columns_as_ours(result: Mapped, graph: Graph, trunk: list[Layer], behind: set[int]) -> None:
    """The 1 x 1 convolutions that mix resizer and decoder: their columns in our order, the resizer's first. behind: the
    nodes that depend on the patch embedding, as the decoder does and the resizer does not."""
    for name in [f"decoder.{level}.mix.weight" for level in range(4)]:
        weight = result.state.get(name)
        if weight is None:
            continue
        place = next(x.place for x in trunk if x.op == "Conv2d" and np.array_equal(x.weight, weight))
        found = graph.back_to(graph.nodes[place].input[0], "Concat")
        parts = graph.nodes[found[0]].input[:2] if found else ()
        if [graph.maker.get(value) in behind for value in parts] == [True, False]:
            ours = result.config.features
            result.state[name] = torch.cat([weight[:, ours:], weight[:, :ours]], 1)


def resizes(graph: Graph, places: set[int]) -> set[str]:
    """How the nodes at these places resize what depends on the picture."""
    told = ("mode", "coordinate_transformation_mode")
    seen = graph.after_values(set(graph.inputs)) & places
    nodes = (graph.nodes[place] for place in seen if graph.nodes[place].op_type == "Resize")
    return {", ".join(sorted(each.s.decode() for each in node.attribute if each.name in told)) for node in nodes}


def differences(graph: Graph, heads: dict[str, list[Layer]], patch: int, behind: set[int]) -> list[str]:
    """How the file's graph does what ours does otherwise, in words."""
    notes = []
    before, within = resizes(graph, set(range(patch)) - behind), resizes(graph, behind)
    for mode in sorted(before):
        notes.append(f"its encoder's picture is resized by {mode}; ours bilinearly and smoothed: small differences")
    for mode in sorted(within - {"align_corners, linear"}):
        notes.append(f"its decoder resizes by {mode}; ours bilinearly, corners on corners")
    for output in graph.outputs:
        chain = head_layers(graph, graph.layers(), output)
        task = next(task for task, layers in heads.items() if layers[-1].place == chain[-1].place)
        passed = {graph.nodes[place].op_type for place in graph.back_to(output, "Conv")[1]}
        if task == "alpha" and "Sigmoid" not in passed:
            notes.append("alpha comes out as it is, not through a sigmoid: clip our raw answer to [0, 1] instead")
        if task == "depth" and passed & {"Relu", "Clip", "Neg"}:
            notes.append(f"depth ends in {', '.join(sorted(passed))}, ours in nothing")
    if list(heads) != [task for task in TASKS if task in heads]:
        notes.append(f"its outputs are {', '.join(heads)} in this order")
    return notes


def load_david(model: David, mapped: Mapped) -> list[str]:
    """The mapped tensors into a network of the same shapes; names of what has kept its own start. ReleasedError, and
    nothing changed, where a shape differs."""
    here: dict[str, Tensor] = model.state_dict()
    wrong = [name for name, value in mapped.state.items() if name not in here or here[name].shape != value.shape]
    if wrong:
        raise ReleasedError(f"{len(wrong)} tensors do not fit, such as {wrong[0]}: build David(mapped.config)")
    model.load_state_dict(mapped.state, strict=False)
    return sorted(here.keys() - mapped.state.keys())
