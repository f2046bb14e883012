"""A function that runs in another process, called as if it were here: how a check tests a stranger's answer.

The check, what it expects and its verdict stay in the judge's process. The answer's process gets arguments and gives
back values: tensors, arrays, numbers, text, and tuples, lists, dictionaries and the chapter's records of them, read by
`torch.load(weights_only=True)`, which builds nothing else. Gradients flow through, in-place changes come back, and the
state of PyTorch's random numbers travels along. Other values (functions, modules) cannot come back: `Unsendable`.
"""

import builtins
import dataclasses
import functools
import io
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

LARGEST = 2**30  # bytes of a message
PLAIN = (bool, int, float, complex, str, bytes, type(None))
NAMED = {"dtype": torch.dtype, "device": torch.device}


class Unsendable(Exception):
    """A value that cannot cross between the processes."""


class Gone(Exception):
    """The answer's process has ended, or says what is not understood."""


class Broken(Exception):
    """An exception of a type that this process does not have, raised by the answer."""


# ------------------------------------------------------------------------------------------------------------ messages
def send(link: socket.socket, message: bytes) -> None:
    """One message with its length before it. Gone where nobody listens."""
    try:
        link.sendall(struct.pack(">Q", len(message)) + message)
    except OSError as error:
        raise Gone(str(error)) from None


def receive(link: socket.socket) -> bytes:
    """The next message. Gone at the end, or where it is larger than `LARGEST`."""
    size = struct.unpack(">Q", _exactly(link, 8))[0]
    if size > LARGEST:
        raise Gone(f"a message of {size} bytes, {LARGEST} at most are read")
    return _exactly(link, size)


def _exactly(link: socket.socket, size: int) -> bytes:
    pieces, missing = [], size
    while missing:
        try:
            piece = link.recv(min(missing, 1 << 20))
        except OSError as error:
            raise Gone(str(error)) from None
        if not piece:
            raise Gone("the connection ended")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def write(plain: object) -> bytes:
    """Containers, numbers, text and tensors -> bytes."""
    stream = io.BytesIO()
    torch.save(plain, stream)
    return stream.getvalue()


def read(message: bytes) -> Any:
    """What `write` wrote, and nothing else: bytes from a stranger can make no other objects. Gone if they are not."""
    try:
        return torch.load(io.BytesIO(message), weights_only=True)
    except Exception as error:
        raise Gone(f"not a message: {type(error).__name__}") from None


# ------------------------------------------------------------------------------------------------------------- values
def pack(value: object, tensors: list[Tensor]) -> tuple:
    """A value in plain containers; its tensors go into `tensors`, their places in what comes back. Or Unsendable."""
    inner = functools.partial(pack, tensors=tensors)
    if isinstance(value, Tensor):
        tensors.append(value)
        return "tensor", len(tensors) - 1
    if isinstance(value, np.ndarray | np.generic):
        return "array", inner(torch.from_numpy(np.array(value)))[1], isinstance(value, np.generic)
    if type(value) in PLAIN:
        return "plain", value
    for name, kind in NAMED.items():
        if isinstance(value, kind):
            return name, str(value).removeprefix("torch.")
    if isinstance(value, dict):
        return "dict", [(inner(key), inner(item)) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "record", type(value).__name__, dict(zip(value._fields, map(inner, value), strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value) if each.init]
        return "record", type(value).__name__, {name: inner(getattr(value, name)) for name in names}
    for name in ("tuple", "list", "set", "frozenset"):
        if isinstance(value, getattr(builtins, name)):
            return name, list(map(inner, value))
    raise Unsendable(f"a {type(value).__name__}")


def unpack(packed: tuple, tensors: list[Tensor], records: dict[str, type]) -> Any:
    """The value that `pack` packed; records are made of the classes given. Gone where it is none."""
    kind, *rest = packed
    inner = functools.partial(unpack, tensors=tensors, records=records)
    if kind == "tensor":
        return tensors[rest[0]]
    if kind == "array":
        array = tensors[rest[0]].detach().numpy()
        return array[()] if rest[1] else array
    if kind == "plain":
        return rest[0]
    if kind in NAMED:
        return getattr(torch, rest[0]) if kind == "dtype" else torch.device(rest[0])
    if kind == "dict":
        return {inner(key): inner(item) for key, item in rest[0]}
    if kind == "record" and rest[0] in records:
        return records[rest[0]](**{name: inner(item) for name, item in rest[1].items()})
    if kind in ("tuple", "list", "set", "frozenset"):
        return getattr(builtins, kind)(map(inner, rest[0]))
    raise Gone("a value that is not understood")


def records_of(*modules) -> dict[str, type]:
    """The named tuples and dataclasses that modules know, by name."""
    known = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {kind.__name__: kind for kind in known if hasattr(kind, "_fields") or dataclasses.is_dataclass(kind)}


def tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors of arguments, in order: in containers, records and modules (parameters and buffers)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, tuple | list):
        yield from (tensor for item in value for tensor in tensors_in(item))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (tensor for each in dataclasses.fields(value) for tensor in tensors_in(getattr(value, each.name)))


# ---------------------------------------------------------------------------------------------------- the judge's side
class Remote:
    """The answer as the check sees it. What it raises carries its own process's words for it, `explained`."""

    def __init__(self, link: socket.socket, records: dict[str, type], like: Callable):
        functools.update_wrapper(self, like)
        self.link, self.records, self.name = link, records, like.__name__

    def __call__(self, *arguments, **keywords):
        given = list(tensors_in((arguments, keywords)))
        sources = [tensor for tensor in given if tensor.requires_grad] if torch.is_grad_enabled() else []
        try:
            request = cloudpickle.dumps(("call", arguments, keywords, torch.get_rng_state(), torch.is_grad_enabled()))
        except Exception as error:
            raise Unsendable(f"an argument: {error}") from None
        reply = self._ask(request)
        tensors = list(_Gradient.apply(self, reply["number"], reply["tensors"], reply["differentiable"], *sources))
        for place, changed in reply["changed"]:
            with torch.no_grad():
                given[place].copy_(changed)
        torch.set_rng_state(reply["random"])
        return unpack(reply["value"], tensors, self.records)

    def _ask(self, request: bytes) -> dict:
        send(self.link, request)
        reply = read(receive(self.link))
        if not isinstance(reply, dict):
            raise Gone("a reply that is not understood")
        if "error" in reply:
            raise self._raised(*map(str, (reply["error"], reply["words"], reply["explanation"])))
        if "unsendable" in reply:
            error = Unsendable(str(reply["unsendable"]))
            error.explained = f"{self.name} returned {error}, which is not what the exercise asks for."
            raise error
        return reply

    def _raised(self, name: str, words: str, explanation: str) -> Exception:
        """The exception of this name, where Python has one that is made of words."""
        kind = getattr(builtins, name, None)
        usable = isinstance(kind, type) and issubclass(kind, Exception)
        try:
            error = kind(words) if usable else Broken(f"{name}: {words}")
        except TypeError:  # UnicodeDecodeError and the like want more
            error = Broken(f"{name}: {words}")
        error.explained = explanation[:2000]
        return error


class _Gradient(torch.autograd.Function):
    """What came back, tied to what was given: the backward pass asks the answer's process."""

    @staticmethod
    def forward(context, remote, number, tensors, differentiable, *sources):
        context.remote, context.number, context.places = remote, number, differentiable
        kept = set(differentiable if sources else ())
        context.mark_non_differentiable(*(tensor for place, tensor in enumerate(tensors) if place not in kept))
        return tuple(tensors)

    @staticmethod
    def backward(context, *gradients):
        chosen = [gradients[place] for place in context.places]
        reply = context.remote._ask(cloudpickle.dumps(("gradient", context.number, chosen)))
        return (None, None, None, None, *reply["gradients"])


# --------------------------------------------------------------------------------------------------- the answer's side
def serve(link: socket.socket, function: Callable, explain: Callable[[BaseException], str]) -> None:
    """Answer calls until the judge hangs up."""
    kept: list[tuple[list[Tensor], list[Tensor]]] = []
    while True:
        try:
            request = pickle.loads(receive(link))
        except Gone:
            return
        try:
            reply = _gradient(kept, *request[1:]) if request[0] == "gradient" else _call(function, kept, *request[1:])
        except Unsendable as error:
            reply = {"unsendable": str(error)}
        except BaseException as error:  # the answer may raise anything, SystemExit included
            reply = {"error": type(error).__name__, "words": str(error)[:2000], "explanation": explain(error)}
        send(link, write(reply))


def _call(function: Callable, kept: list, arguments: tuple, keywords: dict, random: Tensor, gradient: bool) -> dict:
    given = list(tensors_in((arguments, keywords)))
    before = [tensor.detach().clone() for tensor in given]
    sources = [tensor for tensor in given if tensor.requires_grad] if gradient else []
    torch.set_rng_state(random)
    with torch.set_grad_enabled(gradient):
        value = function(*arguments, **keywords)
    tensors: list[Tensor] = []
    packed = pack(value, tensors)
    places = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
    kept.append((sources, [tensors[place] for place in places]))
    pairs = enumerate(zip(given, before, strict=True))
    changed = [(place, now.detach().clone()) for place, (now, was) in pairs if not _same(now.detach(), was)]
    plain = [tensor.detach().clone() for tensor in tensors]
    return {
        "value": packed,
        "tensors": plain,
        "differentiable": places,
        "changed": changed,
        "random": torch.get_rng_state(),
        "number": len(kept) - 1,
    }


def _gradient(kept: list, number: int, gradients: list[Tensor]) -> dict:
    sources, outputs = kept[number]
    found = torch.autograd.grad(outputs, sources, gradients, allow_unused=True, retain_graph=True)
    return {"gradients": list(found)}


def _same(now: Tensor, was: Tensor) -> bool:
    """Equal, or the same NaNs in the same places."""
    if now.shape != was.shape or now.dtype != was.dtype:
        return False
    return torch.equal(now, was) or bool(((now == was) | ((now != now) & (was != was))).all())
