"""The layers of an ONNX file, in the order of its graph: what has weights, with the weights as PyTorch keeps them.

Exporters rename: a linear map becomes a product with a nameless, transposed matrix and a sum, a norm may become nine
nodes. What a layer is can be told from the graph, and which one it is from its place. Needs the package `onnx`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_lib.released import ReleasedError

PASSING = {"Cast", "Identity", "Dropout"}  # nodes that change no values


@dataclass(frozen=True)
class Layer:
    """A layer with weights. op: Conv2d, ConvTranspose2d, Linear or LayerNorm. weight, bias: shaped as PyTorch's.
    place: of its first node in the graph. name: what the file calls the weight."""

    op: str
    weight: np.ndarray
    bias: np.ndarray | None
    stride: int
    place: int
    name: str

    def describe(self) -> str:
        """Such as: Conv2d (64, 3, 3, 3), stride 2, "stem.weight"."""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f'{self.op} {tuple(self.weight.shape)}{stride}, "{self.name}"'


class Graph:
    """A file's graph: its nodes in order, its constants by name, who makes and who uses a value."""

    def __init__(self, path: str | Path):
        from onnx import numpy_helper

        self.path, model = Path(path), load_model(path)
        self.nodes, self.read_tensor = list(model.graph.node), numpy_helper.to_array
        constants = {each.name: each for each in model.graph.initializer}
        self.inputs = [each.name for each in model.graph.input if each.name not in constants]
        self.outputs = {each.name: len(each.type.tensor_type.shape.dim) for each in model.graph.output}
        self.maker = {name: place for place, node in enumerate(self.nodes) for name in node.output}
        self.users: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in node.input:
                self.users.setdefault(name, []).append(place)
        self.constants, self.known = constants, {}

    def constant(self, name: str) -> np.ndarray | None:
        """The value of that name if it is a constant, else None."""
        if name not in self.known:
            self.known[name] = self.read_constant(name)
        return self.known[name]

    def read_constant(self, name: str) -> np.ndarray | None:
        """The same, read anew."""
        if name in self.constants:
            return self.to_array(name, self.constants[name])
        node = self.nodes[self.maker[name]] if name in self.maker else None
        if node is None or node.op_type not in ("Constant", *PASSING):
            return None
        if node.op_type != "Constant":
            return self.constant(node.input[0])
        return self.to_array(name, node.attribute[0].t)

    def to_array(self, name: str, tensor) -> np.ndarray:
        """The numbers of a tensor. ReleasedError where they lie in another file, which may be any of this machine."""
        if tensor.data_location != tensor.DEFAULT or tensor.external_data:
            raise ReleasedError(f"{self.path} keeps {name} in another file: that is not opened")
        return self.read_tensor(tensor)

    def with_constant(self, place: int) -> tuple[str, np.ndarray] | None:
        """For a node of two inputs, one of them constant: the other one's name and the constant."""
        first, second = self.nodes[place].input[:2]
        for value, name in ((first, second), (second, first)):
            found = self.constant(name)
            if found is not None and self.constant(value) is None:
                return value, found
        return None

    def next(self, place: int, op: str) -> int | None:
        """The only user of a node's result, if it is an `op`."""
        users = self.users.get(self.nodes[place].output[0], [])
        return users[0] if len(users) == 1 and self.nodes[users[0]].op_type == op else None

    def after(self, place: int) -> set[int]:
        """The places of all nodes that depend on this one."""
        return self.after_values(set(self.nodes[place].output), place + 1)

    def after_values(self, values: set[str], start: int = 0) -> set[int]:
        """The places, from `start`, of all nodes that depend on values of these names."""
        found, values = set(), set(values)
        for later in range(start, len(self.nodes)):
            if values.intersection(self.nodes[later].input):
                found.add(later)
                values.update(self.nodes[later].output)
        return found

    def layers(self) -> list[Layer]:
        """All layers with weights, in the graph's order."""
        readers = {"Conv": self.convolution, "ConvTranspose": self.convolution, "MatMul": self.linear}
        readers |= {"Gemm": self.linear, "LayerNormalization": self.norm, "Div": self.norm_of_parts}
        read = (readers[node.op_type](place) for place, node in enumerate(self.nodes) if node.op_type in readers)
        return [layer for layer in read if layer is not None]

    def convolution(self, place: int) -> Layer | None:
        """A Conv or ConvTranspose node."""
        node = self.nodes[place]
        weight = self.constant(node.input[1])
        if weight is None or weight.ndim != 4:
            return None
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        stride = next((each.ints[0] for each in node.attribute if each.name == "strides"), 1)
        return Layer("Conv2d" if node.op_type == "Conv" else "ConvTranspose2d", weight, bias, stride, place,
                     node.input[1])  # fmt: skip

    def linear(self, place: int) -> Layer | None:
        """A Gemm node, or a MatMul with a constant matrix and the sum that follows it."""
        node = self.nodes[place]
        weight = self.constant(node.input[1])
        if weight is None or weight.ndim != 2:
            return None
        if node.op_type == "Gemm":
            turned = any(each.name == "transB" and each.i for each in node.attribute)
            bias = self.constant(node.input[2]) if len(node.input) > 2 else None
            return Layer("Linear", weight if turned else weight.T, bias, 1, place, node.input[1])
        total = self.next(place, "Add")
        found = self.with_constant(total) if total is not None else None
        bias = found[1] if found is not None and found[1].ndim == 1 else None
        return Layer("Linear", weight.T, bias, 1, place, node.input[1])

    def norm(self, place: int) -> Layer | None:
        """A LayerNormalization node."""
        node = self.nodes[place]
        weight = self.constant(node.input[1])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        return None if weight is None else Layer("LayerNorm", weight, bias, 1, place, node.input[1])

    def norm_of_parts(self, place: int) -> Layer | None:
        """The end of a norm that was exported in parts: Div, then Mul and Add with constants (D,)."""
        scaled = self.next(place, "Mul")
        moved = self.next(scaled, "Add") if scaled is not None else None
        if moved is None or self.constant(self.nodes[place].input[1]) is not None:
            return None
        weight, bias = self.with_constant(scaled), self.with_constant(moved)
        if weight is None or bias is None or weight[1].ndim != 1 or weight[1].shape != bias[1].shape:
            return None
        return Layer("LayerNorm", weight[1], bias[1], 1, place, self.nodes[scaled].name or "norm")

    def back_to(self, value: str, op: str) -> tuple[int, list[int]] | None:
        """From a value back along first inputs to the nearest `op`: its place, and those of the nodes passed."""
        passed = []
        while value in self.maker:
            place = self.maker[value]
            if self.nodes[place].op_type == op:
                return place, passed
            passed.append(place)
            inputs = [name for name in self.nodes[place].input if name and self.constant(name) is None]
            if not inputs:
                return None
            value = inputs[0]
        return None


def load_model(path: str | Path):
    """The ONNX model of a file, without the files beside it that it may name. ReleasedError where it can't be read."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ReleasedError(
            "reading .onnx files takes the package onnx: run `pip install -e '.[real]'` in the course's folder"
        ) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ReleasedError(f"{path} can't be read as ONNX: it is missing, cut or damaged ({error})") from error
    if not model.graph.node:
        raise ReleasedError(f"{path} holds no graph: it is no ONNX file, or an empty one")
    outside = onnx.TensorProto.EXTERNAL
    if away := [each.name for each in model.graph.initializer if each.data_location == outside]:
        raise ReleasedError(f"{path} keeps {len(away)} weights in other files ({away[0]}, ...): those are not opened")
    return model
