"""Weights that the papers' authors released, in the course's names.

Sapiens: `load_sapiens(model, "sapiens_1b_..._.pth")` fills a model of chapters 06 to 08, strictly. The files are at
huggingface.co/facebook/sapiens under CC-BY-NC 4.0: nothing of them is in this repository, and nothing is fetched.
"""

import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from course_lib.chapters.sapiens_pose import SIZES
from course_lib.real.checks import SourceError
from course_lib.real.safe import read_torch

State = dict[str, Tensor]

SAPIENS_SIZES = {(width, blocks): name for name, (width, blocks, _) in SIZES.items()}
# what the names in a file of each kind begin with, and what ours begin with instead
PREFIXES = {"encoder": {"": ""}, "mae": {"backbone.": "encoder.", "neck.": ""}}
PREFIXES |= {"pose": {"backbone.": "encoder.", "head.": "head."}}
PREFIXES |= dict.fromkeys(("seg", "depth", "normals"), {"backbone.": "encoder.", "decode_head.": "head."})
ENDS = r"\.(weight|bias)"
RENAMED = [  # theirs, behind the prefix -> ours
    (r"(cls_token|pos_embed|mask_token|decoder_pos_embed)", r"\1"),
    (rf"patch_embed\.projection{ENDS}", r"patch_embed.proj.\1"),
    (rf"(decoder_embed|decoder_pred){ENDS}", r"\1.\2"),
    (rf"(?:final_layer|conv_seg){ENDS}", r"last.\1"),
]
IN_BLOCKS = {"ln1": "norm1", "ln2": "norm2", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj"}
IN_BLOCKS |= {"ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}


class ReleasedError(Exception):
    """A file is not what it should be, or is for another model; the message says what does not fit."""


class Note:
    """In place of the few numpy arrays in the task files' notes, which nobody needs: numpy itself would believe
    whatever address a file names."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _) -> None:
        pass


PICKLED = ("core.multiarray._reconstruct", "core.multiarray.scalar", "ndarray", "dtype")
PICKLED += tuple(f"_{name}" for name in PICKLED[:2])


def load_sapiens(model: nn.Module, source: str | Path | State) -> None:
    """The authors' weights into a `MaskedAutoencoder`, its encoder alone, a `PoseEstimator` or a `DensePredictor`.

    source: a .pth or .safetensors file, or the state dict in it. A model on the meta device takes the tensors as they
    are. ReleasedError names what is missing, left over or of another shape, and the configuration that the file is for.
    """
    state = read_state(source) if isinstance(source, str | Path) else source
    here = model.state_dict()
    alone = {"pos_embed": "encoder", "mask_token": "mae"}
    kind = next((kind for name, kind in alone.items() if name in here), None) or kind_of(state)
    converted = sapiens_state(state, kind)
    if wrong := differences(here, converted):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        words = f"the weights do not fit the model: {'; '.join(wrong[:3])}{more}"
        raise ReleasedError(f"{words}. They are of {configuration(converted, kind)}: build the model with that one")
    converted = {name: value.to(here[name].dtype) for name, value in converted.items()}
    model.load_state_dict(converted, assign=any(value.is_meta for value in here.values()))


def read_state(path: str | Path) -> State:
    """The tensors of a .pth or .bin file (bare, or under "state_dict" or "model" beside notes) or a .safetensors file,
    by their names.

    No pickled code is run. ReleasedError where the file is missing, cut, or holds other things than tensors."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([(Note, f"numpy.{name}") for name in PICKLED]):
            loaded = read_torch(path)
    except SourceError as error:
        raise ReleasedError(f"{path} can't be read as weights: {str(error).removeprefix(f'{path} ')}") from error
    except pickle.UnpicklingError as error:
        raise ReleasedError(
            f"{path} can't be read as weights: it is damaged or holds other things than tensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, IndexError, SafetensorError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReleasedError(f"{path} can't be read as weights: {why}") from error
    boxes = (loaded[name] for name in ("state_dict", "model") if name in loaded) if isinstance(loaded, dict) else ()
    state = next(iter(boxes), loaded)
    if not state or not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ReleasedError(f"{path} holds no state dict: take one of the authors' .pth files (not a .pt2 program)")
    return dict(state)


def kind_of(state: State) -> str:
    """encoder, mae, pose, seg, depth or normals, from the authors' names. ReleasedError where it is none of them."""
    if "backbone.pos_embed" not in state and "pos_embed" not in state:
        raise ReleasedError(f"these are no weights of Sapiens: they are called {', '.join(list(state)[:3])}, ...")
    if "decode_head.conv_seg.weight" in state:
        return {1: "depth", 3: "normals"}.get(len(state["decode_head.conv_seg.weight"]), "seg")
    marks = {"head.final_layer.weight": "pose", "neck.mask_token": "mae"}
    return next((kind for name, kind in marks.items() if name in state), "encoder")


def sapiens_state(state: State, kind: str) -> State:
    """The authors' tensors under our names. kind: encoder, mae, pose, seg, depth or normals.

    As an encoder a whole pretraining's file is taken too, without its decoder. A patch's pixels come in the same order
    in both (row, column, channel), so no tensor is changed. ReleasedError where the file is of another kind.
    """
    if kind not in PREFIXES:
        raise ValueError(f"kind {kind!r} is unknown: use {', '.join(PREFIXES)}")
    found = kind_of(state)
    if kind == "encoder" and found == "mae":
        state = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    elif found != kind:
        why = " (a file of the encoder alone, such as _clean.pth, has no decoder)" if found == "encoder" else ""
        raise ReleasedError(f"these are the weights of another network: {found}, not {kind}{why}")
    names = {name: our_name(name, PREFIXES[kind]) for name in state}
    if unknown := [name for name, ours in names.items() if ours is None]:
        raise ReleasedError(f"{len(unknown)} tensors have names that Sapiens has not: {', '.join(unknown[:3])}")
    return {ours: state[name] for name, ours in names.items()}


def our_name(name: str, prefixes: dict[str, str]) -> str | None:
    """Our name of one of their tensors; None where they have none of this name."""
    theirs = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if theirs is None:
        return None
    rest = name[len(theirs) :]
    if found := re.fullmatch(rf"(layers|decoder_blocks)\.(\d+)\.(.+){ENDS}", rest):
        blocks, number, part, end = found.groups()
        blocks = {"layers": "blocks"}.get(blocks, blocks)
        return f"{prefixes[theirs]}{blocks}.{number}.{IN_BLOCKS[part]}.{end}" if part in IN_BLOCKS else None
    if found := re.fullmatch(rf"(deconv|conv)_layers\.(\d+){ENDS}", rest):  # each with its norm and its SiLU behind it
        return f"{prefixes[theirs]}{found[1]}s.{int(found[2]) // 3}.{found[3]}"
    if found := re.fullmatch(rf"ln1{ENDS}", rest):  # the last norm, of the encoder or of the decoder
        return f"{prefixes[theirs]}{'decoder_norm' if theirs == 'neck.' else 'norm'}.{found[1]}"
    changed = (re.sub(pattern, ours, rest) for pattern, ours in RENAMED if re.fullmatch(pattern, rest))
    return next((prefixes[theirs] + ours for ours in changed), None)


def differences(here: State, there: State) -> list[str]:
    """What does not fit, a phrase each."""
    wrong = [f"{name} is missing" for name in here.keys() - there.keys()]
    wrong += [f"{name} is left over" for name in there.keys() - here.keys()]
    for name in here.keys() & there.keys():
        if here[name].shape != there[name].shape:
            wrong.append(f"{name} is {tuple(there[name].shape)}, the model's {tuple(here[name].shape)}")
    return sorted(wrong)


def configuration(converted: State, kind: str) -> str:
    """The name in CONFIGS that the weights are of, such as pose-308-1b; their sizes where no configuration has them."""
    encoder = {name.removeprefix("encoder."): value for name, value in converted.items()}
    width, blocks = encoder["pos_embed"].shape[-1], sum(name.startswith("blocks.") for name in encoder) // 12
    size = SAPIENS_SIZES.get((width, blocks), f"{width} wide and {blocks} blocks deep")
    if kind in ("encoder", "mae"):
        return f"sapiens-{size}"
    return f"{kind}-{len(converted['head.last.weight'])}-{size}" if kind in ("pose", "seg") else f"{kind}-{size}"
