"""The runs of chapter 12: its data in memory, the models that it ships, its studies, and what they are measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Model, losses, queues and augmentation are the chapter's own.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import metrics, shipped
from course_lib.chapters import acae_skeletons, acae_training
from course_lib.data import dozens
from course_lib.data.sets import rendered
from course_lib.data.shards import MANIFEST, read_manifest
from course_lib.data.skeletons import FORMATS as SKELETONS
from course_lib.data.skeletons import (
    LIMBS,
    SUBSETS,
    base_name,
    columns,
    joint_names,
    mirror_permutation,
    sample_poses,
)
from course_lib.data.streams import TensorStream
from course_lib.paths import data_dir
from course_lib.recipe import Batch
from course_lib.scale import pick, scale
from course_lib.shipped import note_data, round_weights, train
from course_lib.studies.sapiens import Metrics, device_of

PIXELS = {"smoke": 48, "laptop": 128}  # side of the worlds' pictures
FEW = 8  # pictures of a world at `smoke`
ALL_IN_VIEW = 17  # of COCO's points: whoever is measured is in the picture as a whole
TESTED = {"studio": 500, "wild": 500, "scan": 240, "synth": 240}  # pictures of the worlds' test splits


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A test set of the paper and what stands in for it: a world's people, and the joints that are compared. group:
    only people out of pictures that show at least so many; alone: only out of those that show nobody else."""

    world: str
    format: str
    joints: tuple[str, ...]
    group: int = 1
    alone: bool = False


SEVENTEEN = ("htop", "neck", "pelv", "spin", "head", *LIMBS)  # 3DHP's and MuPoTS' joints
BENCHMARKS = {
    "MuPoTS-3D": Benchmark("wild", "3dhp", SEVENTEEN, group=2),
    "3DPW": Benchmark("synth", "smpl", SKELETONS["smpl"].joints),
    "MPI-INF-3DHP": Benchmark("wild", "3dhp", SEVENTEEN, alone=True),
    "Human3.6M": Benchmark("studio", "h36m", SUBSETS["h36m17"][1]),
}


# ------------------------------------------------------------------------------------------------- data in memory
def counted(pictures: int) -> int:
    """So many, or the few of `smoke`."""
    return pick(smoke=FEW, laptop=pictures)


def folder_of(world: str, pictures: int, split: str = "train") -> Path:
    """A rendered set of a world with its first so many pictures: the smallest that is there, else a new one."""
    side, there = pick(**PIXELS), {}
    for folder in data_dir().glob(f"{world}-{split}-coco17-{side}-*"):
        size = folder.name.rpartition("-")[2]
        whole = size.isdigit() and (folder / MANIFEST).exists() and read_manifest(folder)["complete"]
        if whole and int(size) >= pictures:
            there[int(size)] = folder
    return there[min(there)] if there else rendered(world, pictures, side, split)


def crops(world: str, pictures: int, side: int, formats: tuple[str, ...], split: str = "train", **options) -> Batch:
    """People cut out of the first so many pictures of a world: see `course_lib.data.dozens.crops`."""
    number = counted(pictures)
    return dozens.crops(folder_of(world, number, split), side, formats, pictures=number, **options)


@lru_cache(maxsize=4)
def datasets(side: int, formats: tuple[str, ...], pictures: tuple[tuple[str, int], ...]) -> dict[str, Batch]:
    """Everything that the 32 data sets have, out of so many pictures of each world; names in Table S1's order."""
    rows = {world: crops(world, number, side, formats) for world, number in pictures}
    return shared_out(rows, formats)


def shared_out(rows: dict[str, Batch], formats: tuple[str, ...]) -> dict[str, Batch]:
    """World -> its people; data set -> those of them who are its own. Names in Table S1's order."""
    everybody = scale() == "smoke"  # eight pictures can't be shared out among eighteen data sets
    worlds = {name: dozens.DATASETS[name].world for name in acae_training.BATCHES["full"]}
    return {name: dozens.member(rows[world], name, formats, everybody) for name, world in worlds.items()}


@lru_cache(maxsize=4)
def held_out(side: int, formats: tuple[str, ...]) -> dict[str, Batch]:
    """World -> its held-out people who are in the picture as a whole: image (N, 3, side, side) in [0, 1], K, points
    (N, J, 3) of all formats, group."""
    found = {}
    for world in TESTED:
        least = pick(smoke=dozens.LEAST_SEEN, laptop=ALL_IN_VIEW)
        rows = crops(world, TESTED[world], side, formats, "test", least=least)
        found[world] = acae_training.plain_view(side, rows)
    return found


def chosen(benchmark: Benchmark, rows: Batch) -> Batch:
    """The people of a world that a benchmark is about; all of them where that would be nobody."""
    keep = rows["group"] >= benchmark.group
    keep = keep & (rows["group"] == 1) if benchmark.alone else keep
    return {name: values[keep] for name, values in rows.items()} if keep.any() else rows


def names_of(config) -> dict:
    """What `recipe` needs to know of names."""
    return {"names": joint_names(config.formats), "weak_names": dozens.WEAK_NAMES}


def stream_of(config, seed: int = 0) -> "acae_training.ChunkedStream":
    """The configuration's queues over its data sets, augmented."""
    return queues_over(config, datasets(config.side, config.formats, config.pictures), seed)


def queues_over(config, data: dict[str, Batch], seed: int = 0, counts=None) -> "acae_training.ChunkedStream":
    """The same over given data sets; counts, name -> examples of a batch: those of the mixture if None."""
    swap = mirror_permutation(joint_names(config.formats))
    change = acae_training.transform(config, swap, mirror_permutation(dozens.WEAK_NAMES))
    counts = counts or acae_training.BATCHES[config.mixture]
    return acae_training.ChunkedStream(data, counts, seed, change, late=config.late)


# ------------------------------------------------------------------------------------------------- the autoencoder
@lru_cache(maxsize=2)
def autoencoder(formats: tuple[str, ...]) -> "acae_training.FixedAutoencoder":
    """Chapter 11's shipped autoencoder where it fits the formats and is there; else one that is trained now."""
    for one in shipped.shipped_of("acae_skeletons").values():
        if tuple(one.config.formats) == formats and scale() != "smoke" and shipped.available(one.name):
            model = acae_skeletons.build(one.config, joint_names(formats))
            shipped.load(model, one.name)
            return fixed(model)
    steps, poses = pick(smoke=(3, 64), laptop=(3000, 2000))
    config = dataclasses.replace(acae_skeletons.CONFIGS["laptop"], formats=formats, steps=steps, **sizes(formats))
    poses = sample_poses(poses, formats).float()
    recipe = acae_skeletons.recipe(config, TensorStream({"points": poses}), joint_names(formats))
    return fixed(train(recipe, None, progress=False).model)


def sizes(formats: tuple[str, ...]) -> dict[str, int]:
    """How many pairs and how many joints in the middle the formats have."""
    left, _, middle = acae_skeletons.sides(joint_names(formats))
    return {"pairs": len(left), "middle": len(middle)}


@torch.no_grad()
def fixed(model: "acae_skeletons.AffineCombiningAutoencoder") -> "acae_training.FixedAutoencoder":
    """The autoencoder's weights, once and for all."""
    weights = model.encoder_weights, model.decoder_weights
    return acae_training.FixedAutoencoder(*(matrix.detach().clone() for matrix in weights))


# ------------------------------------------------------------------------------------------------- measuring
@torch.no_grad()
def predicted(model: nn.Module, rows: Batch, config, coder=None, size: int = 32) -> Tensor:
    """Joints (N, J, 3), metres in the camera's space, of all formats; what latents stand for is decoded."""
    device, parts = device_of(model), []
    for image, K in zip(rows["image"].split(size), rows["K"].split(size), strict=True):
        parts.append(model(image.to(device), K.to(device)).absolute.cpu())
    points = torch.cat(parts)
    if config.loss in ("direct", "hybrid"):
        points = coder.decode(points[:, : sum(config.latents)])
    return points


def pose_metrics(points: Tensor, truth: Tensor, root: int) -> Metrics:
    """MPJPE, PMPJPE (mm), PCK100 and CPS200 (%) of some joints (N, J, 3), means over poses: ACAE's four."""
    return {
        "mpjpe": metrics.mpjpe(points, truth, root=root).mean().item(),
        "pmpjpe": metrics.pa_mpjpe(points, truth).mean().item(),
        "pck100": 100 * metrics.pck(points, truth, 0.1, root=root).mean().item(),
        "cps200": 100 * metrics.cps(points, truth, 0.2, root=root).mean().item(),
    }


def benchmark_metrics(name: str, points: Tensor, truth: Tensor, formats: tuple[str, ...]) -> Metrics:
    """`pose_metrics` of one of BENCHMARKS, of predictions for all formats (N, J, 3)."""
    benchmark = BENCHMARKS[name]
    where = benchmark_columns(benchmark, formats)
    return pose_metrics(points[:, where], truth[:, where], benchmark.joints.index("pelv"))


def benchmark_columns(benchmark: Benchmark, formats: tuple[str, ...]) -> list[int]:
    """Where a benchmark's joints stand in the union of the formats."""
    start, known = columns(formats, benchmark.format).start, SKELETONS[benchmark.format].joints
    return [start + known.index(joint) for joint in benchmark.joints]


def bone_error(points: Tensor, truth: Tensor, formats: tuple[str, ...]) -> float:
    """The mean over all formats' bones of |length - true length|, millimetres."""
    pairs = torch.tensor([
        (columns(formats, name).start + a, columns(formats, name).start + b)
        for name in formats for a, b in SKELETONS[name].edges
    ])  # fmt: skip
    lengths = [(x[:, pairs[:, 0]] - x[:, pairs[:, 1]]).norm(dim=-1) for x in (points, truth)]
    return 1000 * (lengths[0] - lengths[1]).abs().mean().item()


@lru_cache(maxsize=4)
def namesakes(formats: tuple[str, ...]) -> Tensor:
    """Pairs of joints (P, 2) of two formats that have the same name."""
    names = [base_name(name) for name in joint_names(formats)]
    first, second = torch.triu_indices(len(names), len(names), 1)
    same = torch.tensor([names[a] == names[b] for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    return torch.stack([first[same], second[same]], 1)


def disagreement(points: Tensor, truth: Tensor, formats: tuple[str, ...]) -> float:
    """How wrong the heads are about each other: between same-named joints of two formats there is a true difference,
    and this is how far the predicted one is from it, mean over pairs and poses, millimetres."""
    first, second = namesakes(formats).T
    gaps = [x[:, first] - x[:, second] for x in (points, truth)]
    return 1000 * (gaps[0] - gaps[1]).norm(dim=-1).mean().item()


def inconsistency(points: Tensor, coder) -> float:
    """Mean |p - AE(p)| over coordinates, joints and poses, millimetres."""
    return 1000 * acae_training.inconsistency(points, coder).mean().item()


def measured(model: nn.Module, config, coder) -> Metrics:
    """Everything, on held-out people: `mpjpe MuPoTS-3D` and so on for each benchmark and metric, the mean over
    benchmarks under the metric's own name, and over all held-out people bone_error, disagreement and inconsistency."""
    found, everyone = {}, []
    held = held_out(config.side, config.formats)
    points = {world: predicted(model, rows, config, coder) for world, rows in held.items()}
    for name, benchmark in BENCHMARKS.items():
        rows = chosen(benchmark, held[benchmark.world] | {"said": points[benchmark.world]})
        own = benchmark_metrics(name, rows["said"], rows["points"], config.formats)
        found |= {f"{metric} {name}": value for metric, value in own.items()}
        everyone.append(own)
    found |= {metric: sum(own[metric] for own in everyone) / len(everyone) for metric in everyone[0]}
    said, truth = torch.cat(list(points.values())), torch.cat([rows["points"] for rows in held.values()])
    found["bone_error"] = bone_error(said, truth, config.formats)
    found["disagreement"] = disagreement(said, truth, config.formats)
    found["inconsistency"] = inconsistency(said, coder)
    return found


# ------------------------------------------------------------------------------------------------- training
def settings(config) -> dict:
    """What a phase's recipe takes besides configuration, stream and start."""
    needed = config.loss in ("regularised", "direct", "hybrid")
    return names_of(config) | {"autoencoder": autoencoder(config.formats) if needed else None}


def phase(config, start: Batch | None = None, seed: int = 0, folder: Path | None = None, **options):
    """Trains one phase, from random weights or from the tensors of a network; `course_lib.train.Run`."""
    recipe = acae_training.recipe(config, stream_of(config, seed), start=start, **settings(config))
    recipe = dataclasses.replace(recipe, seed=seed)
    return train(recipe, folder, **options)


def tensors_of(model: nn.Module) -> Batch:
    """A copy of a network's tensors."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------- shipped
def backbone(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """What stands in for pretraining on ImageNet: everybody of one world, with one skeleton; `pose_metrics` on other
    people of that world."""
    ((world, pictures),) = config.pictures
    note_data(folder, folder_of(world, counted(pictures)))
    data = {"all": one_skeleton(crops(world, pictures, config.side, config.formats))}
    stream = queues_over(config, data, config.seed, {"all": config.batch_size})
    names = joint_names(config.formats)
    run = train(acae_training.recipe(config, stream, names), folder / "fit")
    model = round_weights(run.model).eval()
    rows = held_out(config.side, config.formats)[world]
    return model, pose_metrics(predicted(model, rows, config), rows["points"], 0)


def one_skeleton(rows: Batch) -> Batch:
    """Everybody of a world, with all their joints, and without 2D labels."""
    people, nothing = len(rows["K"]), torch.zeros(len(rows["K"]), len(dozens.WEAK_NAMES))
    found = {"image": rows["image"], "K": rows["K"], "joints": rows["points"]}
    found |= {"valid": torch.ones(people, rows["points"].shape[1], dtype=torch.bool)}
    return found | {"spots": nothing[..., None] + torch.ones(3), "seen": nothing.bool()}


def shipped_backbone() -> Batch | None:
    """The tensors of the shipped backbone; None where it isn't there yet, and at `smoke`."""
    one = acae_training.SHIPPED["backbone"]
    if scale() == "smoke" or not shipped.available(one.name):
        return None
    model = acae_training.build(one.config)
    shipped.load(model, one.name)
    return acae_training.backbone_of(model)


def separate(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The initial training with separate heads; metrics as in `measured`."""
    note_sets(folder, config)
    model = round_weights(phase(config, shipped_backbone(), folder=folder / "fit").model).eval()
    return model, measured(model, config, autoencoder(config.formats))


def consistent(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The second phase of the shipped network with separate heads; as "control ..." also the metrics of one that went
    on for as long without the regularisation."""
    note_sets(folder, config)
    first = acae_training.build(config)
    shipped.load(first, acae_training.SHIPPED["separate"].name)
    start, coder = tensors_of(first), autoencoder(config.formats)
    alone = dataclasses.replace(config, loss="separate")
    control = round_weights(phase(alone, start, folder=folder / "control").model).eval()
    model = round_weights(phase(config, start, folder=folder / "fit").model).eval()
    beside = {f"control {name}": value for name, value in measured(control, alone, coder).items()}
    return model, measured(model, config, coder) | beside


def note_sets(folder: Path, config) -> None:
    """The record of a shipped run names the worlds' folders."""
    folders = [folder_of(world, counted(pictures)) for world, pictures in config.pictures]
    note_data(folder, *folders, *(folder_of(world, counted(number), "test") for world, number in TESTED.items()))


# ------------------------------------------------------------------------------------------------- launches
def launched(config, folders: list[Path]):
    """The recipe of a launch: queues over the people of rendered worlds, a folder each, and the autoencoder where the
    loss needs one. ValueError where a world is missing, or the configuration has another number of joints."""
    joints = sizes(config.formats)
    if joints != {"pairs": config.pairs, "middle": config.middle}:
        raise ValueError(f"the formats have {joints}, the configuration {config.pairs} and {config.middle}: set these")
    rows = {read_manifest(Path(one))["settings"]["world"]: Path(one) for one in folders}
    if missing := {one.world for one in dozens.DATASETS.values()} - set(rows):
        raise ValueError(f"no folder has the world {', '.join(sorted(missing))}: `course data make` fills one")
    found = {world: dozens.crops(folder, config.side, config.formats) for world, folder in rows.items()}
    return acae_training.recipe(config, queues_over(config, shared_out(found, config.formats)), **settings(config))


# ------------------------------------------------------------------------------------------------- studies
@lru_cache(maxsize=12)
def first_phase(config, seed: int) -> tuple[Batch, Metrics]:
    """The tensors of a network with separate heads, and how it is measured. Kept: studies share their default arm."""
    model = phase(config, shipped_backbone(), seed, progress=False).model.eval()
    return tensors_of(model), measured(model, config, autoencoder(config.formats))


def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: both phases of an arm, and `measured` of each as "separate ..." and "consistent ...". steps: of
    the first phase, of which an arm takes its multiple."""
    config = acae_training.arm_config(shrunk(arm) if scale() == "smoke" else arm, steps)
    start, before = first_phase(config, seed)
    second = acae_training.second_phase(config, max(1, round(arm.tuning * steps)))
    model = phase(second, start, seed + 100, progress=False).model.eval()
    after = measured(model, second, autoencoder(config.formats))
    found = {f"separate {name}": value for name, value in before.items()}
    return found | {f"consistent {name}": value for name, value in after.items()}


def shrunk(arm):
    """The arm as it is tried at `smoke`."""
    return dataclasses.replace(arm, side=32, pictures=tuple((world, FEW) for world, _ in arm.pictures))
