"""Any file of released weights -> which it is, our configuration for it, and our names: `course weights convert FILE`.

| file | becomes | licence |
|---|---|---|
| Sapiens, `.pth` (pretraining whole or `_clean`, pose, seg, depth, normal) | chapters 06, 07, 08 | CC-BY-NC 4.0 |
| DAViD, `.onnx` (one task, or three) | chapter 10 | MIT |
| MAE, `.pth` | chapter 06's autoencoder, the encoders of 07, 08, 10 | CC-BY-NC 4.0 |
| METRO, Graphormer, `.bin` | the trunk of chapter 13 | MIT |

A converted file is a `.safetensors` with the configuration in its notes, so that `load(path)` builds its model.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from course_lib.chapters import david_models, sapiens_dense, sapiens_pose, sapiens_pretraining
from course_lib.files import draft
from course_lib.real import trunks
from course_lib.real.david_onnx import read_david
from course_lib.released import ReleasedError, State, configuration, kind_of, read_state, sapiens_state

NOTES = "course_weights"
LICENCES = {"sapiens": "CC-BY-NC 4.0 (facebook/sapiens)", "david": "MIT (microsoft/DAViD)"}
LICENCES |= {"mae": "CC-BY-NC 4.0 (facebookresearch/mae)", "trunk": "MIT (microsoft/MeshTransformer, MeshGraphormer)"}
MODULES = {
    "sapiens_pretraining": sapiens_pretraining, "sapiens_pose": sapiens_pose, "sapiens_dense": sapiens_dense,
    "david_models": david_models,
}  # fmt: skip
BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    "mae": sapiens_pretraining.MaskedAutoencoder,
    "encoder": lambda config: sapiens_pretraining.MaskedAutoencoder(config).encoder,
    "pose": sapiens_pose.PoseEstimator,
    "seg": sapiens_dense.DensePredictor,
    "depth": sapiens_dense.DensePredictor,
    "normals": sapiens_dense.DensePredictor,
    "david": david_models.David,
}


@dataclass
class Converted:
    """A file in our names. family: sapiens, david, mae or trunk. kind: encoder, mae, pose, seg, depth, normals, david
    or trunk. chapter, config: whose and which configuration (None for a trunk). left: layers of the file without a
    place with us. missing: layers of ours that the file has not. notes: what differs, in words."""

    family: str
    kind: str
    chapter: str
    config: Any
    state: State
    left: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """All of that as text."""
        count = sum(value.numel() for value in self.state.values())
        lines = [f"{self.family}, {self.kind}: {len(self.state)} tensors, {count / 1e6:.1f} M weights"]
        lines += [f"for       {self.chapter}: {shown(self.config)}", f"licence   {LICENCES[self.family]}"]
        lines += [f"left out  {line}" for line in grouped(self.left)]
        lines += [f"missing   {line}" for line in self.missing] + [f"note      {line}" for line in self.notes]
        return "\n".join(lines)


def shown(config: Any) -> str:
    """What a configuration is called, or its sizes."""
    if config is None:
        return "load_trunk(model, FILE)"
    table = next((m.CONFIGS for m in MODULES.values() if isinstance(config, m.Config)), {})
    name = next((name for name, known in table.items() if known == config), None)
    return name or f"width {config.width}, depth {config.depth}, heads {config.heads}, size {config.size}"


def grouped(lines: list[str], most: int = 12) -> list[str]:
    """Reasons with how many tensors they are of and the first one's name, where a file leaves out hundreds."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(line.partition(": ")[2] or line, []).append(line)
    found = [same[0] if len(same) == 1 else f"{same[0]} (and {len(same) - 1} more like it)" for same in groups.values()]
    return found[:most] + ([f"and {len(found) - most} more kinds"] if len(found) > most else [])


# ------------------------------------------------------------------------------------------------ reading
def read_weights(path: str | Path, tasks: tuple[str, ...] | None = None) -> Converted:
    """A file of released weights, whichever it is. tasks: see `read_david`. ReleasedError, naming the file, for one
    that is none of them, is damaged, or would run code."""
    path = Path(path)
    if path.suffix == ".onnx":
        found = read_david(path, tasks)
        return Converted("david", "david", "david_models", found.config, found.state, found.left, found.missing,
                         found.notes)  # fmt: skip
    try:
        return converted(read_state(path))
    except ReleasedError as error:
        text = str(error)
        raise error if path.name in text else ReleasedError(f"{path}: {text}") from error


def converted(state: State) -> Converted:
    """The same for the tensors of a file."""
    if any(name.startswith("trans_encoder.") for name in state):
        trunk = trunks.trunk_state(state)
        left = [f"{name}: {why}" for name, why in trunk.left.items()]
        return Converted(
            "trunk", "trunk", "mpt_pretraining", None, trunk.state, left, notes=[trunks.chain(trunk.state)]
        )
    if trunks.is_vit(state):
        ours, left = trunks.mae_state(state)
        kind = "mae" if "mask_token" in ours else "encoder"
        lines = [f"{name}: {why}" for name, why in left.items()]
        return Converted("mae", kind, "sapiens_pretraining", trunks.mae_config(ours), ours, lines)
    try:
        kind = kind_of(state)
    except ReleasedError as error:
        known = "Sapiens, DAViD (.onnx), MAE, METRO or Graphormer"
        raise ReleasedError(f"these are not the weights of {known}: {', '.join(list(state)[:3])}, ...") from error
    ours = sapiens_state(state, kind)
    config = sapiens_config(ours, kind)
    known = config in MODULES[chapter_of(kind)].CONFIGS.values()
    notes = [] if known else [f"of a size of nobody's: {config.heads} heads are assumed, the file doesn't tell"]
    return Converted("sapiens", kind, chapter_of(kind), config, ours, notes=notes)


def chapter_of(kind: str) -> str:
    """The module of a kind of Sapiens' files."""
    return {"encoder": "sapiens_pretraining", "mae": "sapiens_pretraining", "pose": "sapiens_pose"}.get(
        kind, "sapiens_dense"
    )


def sapiens_config(state: State, kind: str) -> Any:
    """The configuration of a Sapiens file: the paper's where the sizes are, else one with the file's shapes."""
    known = MODULES[chapter_of(kind)].CONFIGS
    if (name := configuration(state, kind)) in known:
        return known[name]
    encoder = {name.removeprefix("encoder."): value for name, value in state.items()}
    patch, places = encoder["patch_embed.proj.weight"].shape[-1], encoder["pos_embed"].shape[1]
    width = encoder["pos_embed"].shape[2]
    shape = {"width": width, "depth": trunks.blocks(encoder, "blocks"), "patch": patch, "heads": max(1, width // 8)}
    if width >= 384:
        shape["heads"] = width // 64
    if kind in ("encoder", "mae"):
        return replace(trunks.mae_config(state), **shape, size=patch * round((places - 1) ** 0.5))
    rows = round((places * 4 / 3) ** 0.5)  # 4 : 3, as all of them are
    shape |= {"size": (rows * patch, places // rows * patch)}
    return replace(task_config(state, kind), **shape, paper=None)


def task_config(state: State, kind: str) -> Any:
    """The smallest configuration of a task, with the head of the file's shapes."""
    out = len(state["head.last.weight"])
    deconvs = tuple(state[name].shape[1] for name in sorted(state) if name.startswith("head.deconvs."))
    convs = tuple(len(state[name]) for name in sorted(state) if name.startswith("head.convs.") and name[-1] == "t")
    if kind == "pose":
        return replace(sapiens_pose.CONFIGS["pose-17-0.3b"], keypoints=out, deconvs=deconvs, convs=convs)
    name = f"{kind}-{20 if out == 20 else 28}-0.3b" if kind == "seg" else f"{kind}-0.3b"
    return replace(sapiens_dense.CONFIGS[name], channels=deconvs[0])


# ------------------------------------------------------------------------------------------------ keeping
def save(found: Converted, path: str | Path) -> Path:
    """Writes a converted file whole or not at all. The same weights and configuration give the same bytes."""
    notes = {"family": found.family, "kind": found.kind, "chapter": found.chapter, "licence": LICENCES[found.family]}
    notes |= {"config": plain(found.config), "missing": found.missing, "notes": found.notes}
    with draft(Path(path)) as beside:  # one entry, since several have no order of their own
        state = {name: value.contiguous() for name, value in found.state.items()}
        save_file(state, beside, metadata={NOTES: json.dumps(notes, sort_keys=True)})
    return Path(path)


def plain(config: Any) -> dict[str, Any]:
    """The fields of a configuration that are numbers, text and tuples of them."""
    values = {} if config is None else {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: value for name, value in values.items() if not (is_dataclass(value) or value is None)}


def restored(chapter: str, values: dict[str, Any]) -> Any:
    """The configuration of `plain`."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return replace(next(iter(MODULES[chapter].CONFIGS.values())), **({"paper": None} | values))


def load(path: str | Path) -> nn.Module:
    """The model of a converted file, or of one of the authors' files, filled and ready to be asked.

    ReleasedError for a trunk (use `load_trunk` with a model of yours), for a file of which layers are missing, and for
    one that can't be read."""
    path = Path(path)
    notes = notes_of(path) if path.suffix == ".safetensors" else {}
    if "chapter" not in notes:
        found = read_weights(path)
    else:
        config = restored(notes["chapter"], notes["config"]) if notes["chapter"] in MODULES else None
        words = notes["family"], notes["kind"], notes["chapter"]
        found = Converted(*words, config, read_state(path), missing=notes["missing"], notes=notes["notes"])
    if found.config is None:
        raise ReleasedError(f"{path} is a trunk: build a MeshTransformer and call `load_trunk(model, FILE)`")
    if found.missing:
        raise ReleasedError(f"{path} lacks {len(found.missing)} layers, such as {found.missing[0]}: train them first")
    with torch.device("meta"):
        model = BUILDERS[found.kind](found.config)
    here = model.state_dict()
    if wrong := sorted(n for n in here.keys() | found.state.keys()
                       if n not in here or n not in found.state or here[n].shape != found.state[n].shape):  # fmt: skip
        raise ReleasedError(f"{path} does not fit its own configuration ({len(wrong)} times, such as {wrong[0]})")
    model.load_state_dict({name: value.float() for name, value in found.state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def notes_of(path: Path) -> dict[str, Any]:
    """The notes of a converted file; none for another. ReleasedError where it can't be read."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(NOTES, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ReleasedError(f"{path} can't be read as weights: {error}") from error
