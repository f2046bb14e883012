"""Weights of the networks that the papers build on: METRO's and Graphormer's transformers for chapter 13's
`MeshTransformer`, MAE's vision transformers for the encoders of chapters 06, 07, 08 and 10.

METRO and Graphormer (MIT): github.com/microsoft/MeshTransformer and MeshGraphormer. MAE (CC-BY-NC 4.0):
github.com/facebookresearch/mae. Nothing is fetched.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.chapters import sapiens_pretraining
from course_lib.chapters.mpt_pretraining import MeshTransformer
from course_lib.chapters.transformers import Mlp, VisionTransformer, resize_position_embedding
from course_lib.released import ENDS, ReleasedError, State, read_state

IN_STAGES = {"bert.img_embedding": "enter", "cls_head": "leave", "residual": "around"}
IN_LAYERS = {
    "attention.output.dense": "attn.proj", "attention.output.LayerNorm": "norm1", "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2", "output.LayerNorm": "norm2",
}  # fmt: skip
OUTSIDE = {
    "upsampling": "up.0", "upsampling2": "up.1", "cam_param_fc": "camera.read", "cam_param_fc2": "camera.first",
    "cam_param_fc3": "camera.last", "conv_learn_tokens": "tokens.mix.0",
}  # fmt: skip
REASONS = {  # what such a file has besides, and why it has no place with us
    r"backbone\..+": "the picture network, in whose place MPT reads heatmaps",
    r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\..+": "built by the authors' code and never used",
    r".+\.graph_conv\..+": "a graph convolution: MPT's blocks have none",
    r"grid_feat_dim\..+": "Graphormer's tokens of the picture's grid",
}
QUERIES = re.compile(rf"trans_encoder\.(\d+)\.bert\.encoder\.layer\.(\d+)\.attention\.self\.(query|key|value){ENDS}")


@dataclass
class Trunk:
    """A trunk's tensors under our names, and what has no place with us: name -> why."""

    state: State
    left: dict[str, str] = field(default_factory=dict)


def trunk_state(state: State) -> Trunk:
    """The tensors of a METRO or Graphormer file as those of a `MeshTransformer`. ReleasedError where it is none."""
    if "trans_encoder.0.bert.img_embedding.weight" not in state:
        raise ReleasedError(
            f"this is no file of METRO or Graphormer: its tensors are {', '.join(list(state)[:3])}, ..."
        )
    trunk = Trunk(joined(state))
    for name, value in state.items():
        if QUERIES.fullmatch(name):
            continue
        ours = trunk_name(name)
        if ours is None:
            why = (reason for pattern, reason in REASONS.items() if re.fullmatch(pattern, name))
            trunk.left[name] = next(why, "unknown to us")
        else:
            trunk.state[ours] = value.squeeze(-1) if ours == "tokens.mix.0.weight" else value
    return trunk


def joined(state: State) -> State:
    """Queries, keys and values as one map, for each layer. ReleasedError where one of the three is missing."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := QUERIES.fullmatch(name):
            stage, layer, part, end = match.groups()
            found.setdefault(f"stages.{stage}.blocks.{layer}.attn.qkv.{end}", {})[part] = value
    for name, parts in found.items():
        if missing := [part for part in ("query", "key", "value") if part not in parts]:
            raise ReleasedError(f"{name}: the file has no {' and no '.join(missing)} for it")
    return {name: torch.cat([parts["query"], parts["key"], parts["value"]]) for name, parts in found.items()}


def trunk_name(name: str) -> str | None:
    """Our name of one of their tensors, None where it has none."""
    if found := re.fullmatch(rf"trans_encoder\.(\d+)\.bert\.encoder\.layer\.(\d+)\.(.+){ENDS}", name):
        stage, layer, part, end = found.groups()
        return f"stages.{stage}.blocks.{layer}.{IN_LAYERS[part]}.{end}" if part in IN_LAYERS else None
    if found := re.fullmatch(r"trans_encoder\.(\d+)\.bert\.position_embeddings\.weight", name):
        return f"stages.{found[1]}.position"
    if found := re.fullmatch(rf"trans_encoder\.(\d+)\.(.+){ENDS}", name):
        return f"stages.{found[1]}.{IN_STAGES[found[2]]}.{found[3]}" if found[2] in IN_STAGES else None
    found = re.fullmatch(rf"(\w+){ENDS}", name)
    return f"{OUTSIDE[found[1]]}.{found[2]}" if found and found[1] in OUTSIDE else None


def load_trunk(model: MeshTransformer, source: str | Path | State) -> list[str]:
    """METRO's or Graphormer's weights into a `MeshTransformer`; -> what was not taken, a phrase each.

    The three stages must fit; their MLPs become as wide as the file's (METRO has 3072 in each, Graphormer twice the
    width). Up-sampling, camera and the mix of cells are taken where the meshes have as many points as the authors'.
    """
    trunk = trunk_state(read_state(source) if isinstance(source, str | Path) else source)
    widen(model, trunk.state)
    here = model.state_dict()
    fits = {name: name in here and here[name].shape == value.shape for name, value in trunk.state.items()}
    stages = [name for name in here if name.startswith("stages.")]
    if wrong := [name for name in stages if not fits.get(name)]:
        raise ReleasedError(
            f"the trunk does not fit ({len(wrong)} times, such as {wrong[0]}): use {chain(trunk.state)}"
        )
    taken = {name: value.to(here[name].dtype) for name, value in trunk.state.items() if fits[name]}
    model.load_state_dict(taken, strict=False, assign=any(value.is_meta for value in here.values()))
    left = [f"{name}: {why}" for name, why in trunk.left.items()]
    return left + [f"{name}: of another size than ours" for name, fit in fits.items() if not fit]


def widen(model: MeshTransformer, state: State) -> None:
    """New MLPs of the file's hidden widths, where the model's have other ones."""
    for name, block in model.named_modules():
        weight = state.get(f"{name}.mlp.fc1.weight")
        if (
            weight is not None
            and weight.shape[1] == block.mlp.fc1.in_features
            and len(weight) != len(block.mlp.fc1.weight)
        ):
            with block.mlp.fc1.weight.device:
                block.mlp = Mlp(weight.shape[1], len(weight))


def chain(state: State) -> str:
    """The widths that a configuration needs for the file, in words."""
    widths = [len(state[f"stages.{n}.enter.weight"]) for n in range(9) if f"stages.{n}.enter.weight" in state]
    inputs = state["stages.0.enter.weight"].shape[1]
    depth = 1 + max(int(name.split(".")[3]) for name in state if ".blocks." in name)
    return f"a configuration with widths {tuple(widths)}, channels that end in {inputs - 3}, depth {depth}"


# ------------------------------------------------------------------------------------------------ MAE
MAE_HEADS = {768: 12, 1024: 16, 1280: 16}  # Base, Large, Huge
DECODER = r"(mask_token|decoder_.+)"


def is_vit(state: State) -> bool:
    """Whether these are the tensors of a vision transformer by timm's names, as MAE's files have them."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= state.keys()


def mae_state(state: State) -> tuple[State, dict[str, str]]:
    """A MAE file -> the tensors of a `MaskedAutoencoder`, or of an encoder where it has no decoder; what was left, and
    why. ReleasedError where it is no vision transformer."""
    if not is_vit(state):
        raise ReleasedError(f"this is no vision transformer of MAE's kind: it has {', '.join(list(state)[:3])}, ...")
    whole, left, ours = "mask_token" in state, {}, {}
    for name, value in state.items():
        if re.fullmatch(DECODER, name):
            ours[name] = value
        elif re.fullmatch(rf"(cls_token|pos_embed|patch_embed\.proj{ENDS}|blocks\.\d+\..+|norm{ENDS})", name):
            ours[f"encoder.{name}" if whole else name] = value
        else:
            left[name] = "the head of another task"
    return ours, left


def mae_config(state: State) -> sapiens_pretraining.Config:
    """Chapter 06's configuration for the tensors of `mae_state`."""
    encoder = {name.removeprefix("encoder."): value for name, value in state.items()}
    width, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    rows = round((encoder["pos_embed"].shape[1] - 1) ** 0.5)
    found = {"size": rows * patch, "patch": patch, "width": width, "depth": blocks(encoder, "blocks")}
    found["heads"] = MAE_HEADS.get(width, max(1, width // 64))
    if "decoder_embed.weight" in state:
        wide = len(state["decoder_embed.weight"])
        found |= {"decoder_width": wide, "decoder_depth": blocks(state, "decoder_blocks")}
        found["decoder_heads"] = 16 if wide == 512 else max(1, wide // 32)
    return replace(sapiens_pretraining.CONFIGS["sapiens-0.3b"], paper=None, **found)


def blocks(state: State, name: str) -> int:
    """How many blocks of that name there are."""
    return len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})


def load_encoder(encoder: VisionTransformer, source: str | Path | State) -> None:
    """MAE's weights into an encoder of the same width and depth: its places resized, without class token if the encoder
    has none. ReleasedError for what does not fit; then nothing has been changed."""
    state, _ = mae_state(read_state(source) if isinstance(source, str | Path) else source)
    state = {name.removeprefix("encoder."): value for name, value in state.items() if not re.fullmatch(DECODER, name)}
    rows = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    places = resize_position_embedding(state["pos_embed"].float(), (rows, rows), encoder.grid, prefix=1)
    state["pos_embed"] = places[:, 1 - encoder.prefix :]
    here = encoder.state_dict()
    state = {name: value for name, value in state.items() if name != "cls_token" or encoder.prefix}
    if isinstance(encoder.norm, nn.Identity):  # chapter 10 reads the blocks before the last norm
        state = {name: value for name, value in state.items() if not name.startswith("norm.")}
    wrong = sorted(here.keys() ^ state.keys())
    wrong += [name for name in here.keys() & state.keys() if here[name].shape != state[name].shape]
    if wrong:
        width, depth = places.shape[-1], blocks(state, "blocks")
        raise ReleasedError(
            f"the encoder does not fit ({len(wrong)} times, such as {wrong[0]}): the file's is {width} wide, "
            f"{depth} deep, of patch {state['patch_embed.proj.weight'].shape[-1]}"
        )
    encoder.load_state_dict(state)
