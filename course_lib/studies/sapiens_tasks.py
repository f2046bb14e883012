"""The runs of chapters 07 and 08: the models that they ship, and their studies.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Models, losses and augmentation are the chapters' own.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.chapters import sapiens_dense, sapiens_pose, sapiens_pretraining
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples
from course_lib.data.streams import TensorStream
from course_lib.files import file_hash, text_hash
from course_lib.paths import BUILD
from course_lib.recipe import Batch, Recipe
from course_lib.scale import pick, scale
from course_lib.shipped import load, note_data, round_weights, train
from course_lib.studies.sapiens import TESTED, Metrics, device_of, in_memory, picture, shipped_encoder

BACKGROUNDS = 1000  # pictures without people, to put people before


# ------------------------------------------------------------------------------------------------- chapter 07, shipped
def pose(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """A pose estimator; see `pose_metrics`, on wild/test. That of 17 keypoints begins with chapter 06's encoder, those
    of more with the one of 17, which saves hours: the paper's all begin with the encoder."""
    formats = tuple(sapiens_pose.FORMATS.values())  # all of them, so that the three runs share their pictures
    data = rendered(config.world, config.pictures, config.pixels, "train", formats)
    test = rendered("wild", pick(**TESTED), config.pixels, "test", formats)
    note_data(folder, data, test)
    start = partial(from_body if config.keypoints > 17 else from_encoder, config)
    recipe = dataclasses.replace(sapiens_pose.recipe(config, pose_stream(config, data)), model=start)
    run = train(recipe, folder / "fit")
    return round_weights(run.model), pose_metrics(config, run.model, test)


def from_encoder(config) -> nn.Module:
    """A pose estimator that begins with the shipped encoder."""
    return sapiens_pose.build(config, shipped_encoder())


def from_body(config) -> nn.Module:
    """A pose estimator that begins as the shipped one of 17 keypoints."""
    body = sapiens_pose.PoseEstimator(sapiens_pose.CONFIGS["shipped-17"])
    load(body, "sapiens_pose-17")
    return sapiens_pose.extended(body, config)


@lru_cache(maxsize=4)
def people_of(config, data: Path) -> tuple[Tensor, Batch]:
    """`people_tensors` of a data set."""
    return sapiens_pose.people_tensors(config, Samples(data, only=("image", "instances")))


def pose_stream(config, data: Path, seed: int = 0) -> TensorStream:
    """Batches of the people in a data set."""
    images, labels = people_of(config, data)
    return TensorStream(labels, seed, sapiens_pose.transform(config, images))


def pose_metrics(config, model: nn.Module, data: Path, flip: bool = True) -> Metrics:
    """AP and AR of all keypoints, 0 to 1, from true boxes; of 133 or 308 keypoints AP_body, _foot, _face, _hand too."""
    images, labels = people_of(config, data)
    poses = sapiens_pose.predict(model, images[labels["picture"]], labels["box"], flip)
    scores = metrics.pose_score(torch.ones(len(poses.scores)), poses.scores)
    found, known = of_pictures(labels, labels["picture"], poses.points, scores)
    if config.keypoints == 17:
        whole = metrics.average_precision(found, known, metrics.BODY_SIGMAS)
        return {name: whole[name] for name in ("AP", "AR")}
    known_parts = {133: (metrics.WHOLEBODY_SIGMAS, metrics.WHOLEBODY_PARTS)}
    known_parts |= {308: (metrics.SAPIENS_SIGMAS, metrics.SAPIENS_PARTS)}
    parts = metrics.part_average_precision(found, known, *known_parts[config.keypoints])
    of_parts = {f"AP_{part}": parts[part]["AP"] for part in ("body", "foot", "face", "hand")}
    return {name: parts["whole"][name] for name in ("AP", "AR")} | of_parts


def of_pictures(
    labels: Batch, picture: Tensor, points: Tensor, score: Tensor
) -> tuple[list[metrics.Detections], list[metrics.People]]:
    """Predictions, points (D, K, 2) and score (D,) in pictures (D,), and the people of `people_tensors`, as the metrics
    take them: by picture."""
    found, known = [], []
    for number in torch.cat([labels["picture"], picture]).unique():
        here, own = picture == number, labels["picture"] == number
        found.append(metrics.Detections(points[here], score[here]))
        known.append(metrics.People(*(labels[name][own] for name in ("points", "visible", "area", "box"))))
    return found, known


# ------------------------------------------------------------------------------------------------- chapter 08, shipped
def dense(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """Parts, depth or normals; see `seg_metrics`, `depth_metrics`, `normal_metrics`; on studio/test. Parts and normals
    begin with chapter 06's encoder, depth with the one that has learned normals, which saves hours."""
    size = config.size[0]
    data = rendered(config.world, config.pictures, size)
    behind = rendered("general-nopeople", min(BACKGROUNDS, config.pictures), size)
    test = rendered("studio", pick(**TESTED), size, "test")
    note_data(folder, data, behind, test)
    pretrained = None if config.task == "depth" else shipped_encoder()
    recipe = sapiens_dense.recipe(config, dense_stream(config, data, behind), pretrained)
    if config.task == "depth":
        recipe = dataclasses.replace(recipe, model=partial(from_normals, config))
    run = train(recipe, folder / "fit")
    return round_weights(run.model), dense_metrics(config, run.model, test)


def from_normals(config) -> nn.Module:
    """A predictor that begins with the encoder of the shipped normals."""
    surface, model = sapiens_dense.DensePredictor(sapiens_dense.SHIPPED["normals"].config), sapiens_dense.build(config)
    load(surface, "sapiens_dense-normals")
    model.encoder.load_state_dict(surface.encoder.state_dict())
    return model


def labelled(data: Path) -> Batch:
    """`sapiens_dense.packed` of a data set, one for all tasks."""
    return in_memory(data, sapiens_dense.packed, ("image", "alpha", "parts", "depth", "normals"))


def dense_stream(config, data: Path, behind: Path, seed: int = 0) -> TensorStream:
    """Batches of a data set, its people before the pictures of another."""
    backgrounds, label = in_memory(behind, picture)["image"], "parts" if config.task == "seg" else config.task
    tensors = {name: values for name, values in labelled(data).items() if name in ("image", "alpha", label)}
    return TensorStream(tensors, seed, sapiens_dense.transform(config, backgrounds))


def dense_metrics(config, model: nn.Module, data: Path) -> Metrics:
    """The metrics of the configuration's task on a data set."""
    measure = {"seg": seg_metrics, "depth": depth_metrics, "normals": normal_metrics}[config.task]
    return measure(config, answers(config, model, data))


@torch.no_grad()
def answers(config, model: nn.Module, data: Path, size: int = 50) -> Iterator[tuple[Batch, Tensor]]:
    """The pictures with people of a data set, `size` at a time: labels as floats, and what the model says of them."""
    tensors = labelled(data)
    share = (tensors["depth"] > 0).flatten(1).float().mean(1)
    peopled = (share >= sapiens_dense.LEAST_HUMAN).nonzero()[:, 0]
    if len(peopled) == 0:
        raise ValueError(f"{data.name} has no picture with a person: there is nothing to measure")
    for chosen in peopled.split(size):
        batch = sapiens_dense.unpacked({name: values[chosen] for name, values in tensors.items()})
        yield batch, model(batch["image"].to(device_of(model))).float().cpu()


def seg_metrics(config, found: Iterator[tuple[Batch, Tensor]]) -> Metrics:
    """miou and macc over all classes that occur, background too, 0 to 1; miou_common: over those that have 0.5 % of the
    human pixels or more. The same with _unweighted behind, of `without_weights`."""
    plain, unweighted = torch.zeros(2, config.classes, config.classes, dtype=torch.long)
    for batch, scores in found:
        target = sapiens_dense.finished(config, batch)["parts"]
        plain += metrics.confusion_matrix(scores.argmax(1), target, config.classes)
        classes = sapiens_dense.without_weights(config, scores).argmax(1)
        unweighted += metrics.confusion_matrix(classes, target, config.classes)
    return of_confusion(plain) | {f"{name}_unweighted": value for name, value in of_confusion(unweighted).items()}


def of_confusion(confusion: Tensor) -> Metrics:
    """miou, miou_common and macc of a confusion matrix (C, C) with truth along its first dimension."""
    pixels = confusion.sum(1)[1:]
    common = [number + 1 for number in (pixels >= 0.005 * pixels.sum()).nonzero()[:, 0].tolist()]
    miou, macc = metrics.mean_iou(confusion), metrics.mean_accuracy(confusion)
    return {"miou": miou, "miou_common": metrics.mean_iou(confusion, common), "macc": macc}


def depth_metrics(config, found: Iterator[tuple[Batch, Tensor]]) -> Metrics:
    """rmse (metres), abs_rel and delta1 of human pixels after scale and shift, means over pictures; and that rmse over
    the one of the best constant, and over the one of the best plane a x + b y + c of each picture."""
    rows = {"": [], "constant": [], "plane": []}
    for batch, answer in found:
        true, mask = batch["depth"], batch["depth"] > 0
        rows[""].append(metrics.depth_errors(answer, true, mask))
        rows["constant"].append(metrics.depth_errors(torch.zeros_like(true), true, mask))
        rows["plane"].append(metrics.depth_errors(best_planes(true, mask), true, mask))
    ours, constant, plane = (metrics.average(part) for part in rows.values())
    return ours | {f"rmse_over_{n}": ours["rmse"] / x["rmse"] for n, x in (("constant", constant), ("plane", plane))}


def best_planes(depth: Tensor, mask: Tensor) -> Tensor:
    """Depths (B, H, W), mask (B, H, W) -> the plane (B, H, W) closest to each picture's depths inside the mask."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in depth.shape[1:]), indexing="ij")
    terms = torch.stack([x, y, torch.ones_like(x)], -1)  # (H, W, 3)
    planes = [torch.linalg.lstsq(terms[m], d[m].double()[:, None]).solution for d, m in zip(depth, mask, strict=True)]
    return torch.stack([(terms @ plane)[..., 0] for plane in planes])  # (B, H, W)


def normal_metrics(config, found: Iterator[tuple[Batch, Tensor]]) -> Metrics:
    """angle (mean) and median in degrees, within_11.25, within_22.5, within_30 (0 to 1), all human pixels pooled."""
    angles = []
    for batch, answer in found:
        human = (batch["depth"] > 0) & (batch["normals"].norm(dim=1) > 0.5)
        angles += metrics.normal_angles(answer, batch["normals"], human)
    summary = {name: value.item() for name, value in metrics.angle_summary(torch.cat(angles)).items()}
    return {"angle": summary.pop("mean")} | summary


# ------------------------------------------------------------------------------------------------- chapter 08, studies
POOL = {"smoke": 8, "laptop": 9000}  # pictures of a source, rendered once: an arm takes the first of them


def transfer(arm, seed: int, steps: int) -> Metrics:
    """A study's run: pretrains on the source, or not at all; fine-tunes on `studio` for each of the tasks, `steps`
    steps (pose and depth: arm.pose_steps and arm.depth_steps times as many); measures on other people, pose in `wild`,
    the rest in `studio`: pose_ap, miou, rmse, angle and more, and the same with `_early` behind, after the arm's early
    share of the steps."""
    arm = shrunk(arm) if scale() == "smoke" else arm
    pretraining = round(arm.pretraining * steps)
    state = pretrained(arm, seed, pretraining) if arm.source and pretraining else None
    found = {}
    for task in arm.tasks:
        found |= fine_tuned(arm, task, state, seed, steps)
    return found


def shrunk(arm):
    """The arm as it is tried at `smoke`."""
    return dataclasses.replace(
        arm, images=min(arm.images, 8), labelled=8, tested=4, batch=4, pretraining_batch=4, pretraining=1.0
    )


def pretrained(arm, seed: int, steps: int) -> Batch:
    """The tensors of an encoder pretrained as the arm says. Kept in build/studies: arms that differ only in what comes
    afterwards share it, whatever their study, and a killed one goes on; `course clean` forgets it."""
    config = sapiens_pretraining.Config(
        arm.size, arm.patch, arm.width, arm.depth, arm.heads, arm.images, arm.pretraining_batch, steps,
        lr=arm.pretraining_lr, warmup=steps // 20, decoder_width=arm.decoder_width, decoder_depth=arm.decoder_depth,
        decoder_heads=arm.decoder_heads, world=arm.source,
    )  # fmt: skip
    data = rendered(arm.source, pick(**POOL), arm.size)
    images = in_memory(data, picture)["image"][: arm.images]
    if len(images) < arm.images:
        raise ValueError(f"{arm.images} pictures of {arm.source} are more than the {len(images)} that are rendered")
    stream = TensorStream({"image": images}, seed, sapiens_pretraining.transform(config))
    recipe = dataclasses.replace(sapiens_pretraining.recipe(config, stream), seed=seed)
    known = [dataclasses.asdict(config), seed, file_hash(data / "manifest.json")]
    said = json.dumps(known, sort_keys=True, default=str)
    folder = BUILD / "studies" / f"pretrained-{text_hash(said, length=16)}" if scale() != "smoke" else None
    return sapiens_pretraining.encoder_state(train(recipe, folder, progress=False).model)


def fine_tuned(arm, task: str, state: Batch | None, seed: int, steps: int) -> Metrics:
    """The metrics of one task, early and at the end."""
    recipe, measure = (pose_arm if task == "pose" else dense_arm)(arm, task, state, seed, steps)
    steps = recipe.steps
    early, found = max(1, round(arm.early * steps)), {}

    def look(run) -> None:
        if run.step in (early, steps):
            run.model.eval()
            ending = "" if run.step == steps else "_early"
            found.update({name + ending: value for name, value in measure(run.model).items()})
            run.model.train()

    train(dataclasses.replace(recipe, seed=seed), None, on_step=look, progress=False)
    return found


def layer_decay(arm) -> float:
    """0.85 a block for four blocks, and the same from the first to the last for any other number."""
    return 0.85 ** (4 / arm.depth)


def pose_arm(arm, task: str, state: Batch | None, seed: int, steps: int) -> tuple[Recipe, Callable]:
    """How an arm learns pose, and how that is measured: pose_ap and pose_ar, 0 to 1, from true boxes."""
    steps = arm.pose_steps * steps
    config = sapiens_pose.Config(
        17, (arm.size, arm.size * 3 // 4), arm.patch, arm.width, arm.depth, arm.heads, deconvs=(arm.channels,) * 2,
        convs=(arm.channels,) * 2, sigma=1.0, pictures=arm.labelled, pixels=arm.size, batch_size=arm.batch, steps=steps,
        lr=arm.lr, warmup=steps // 20, layer_decay=layer_decay(arm), smallest=arm.size // 4, strength=0.2,
        world="studio",
    )  # fmt: skip
    stream = pose_stream(config, rendered("studio", arm.labelled, arm.size), seed)
    test = rendered("wild", arm.tested, arm.size, "test")

    def measure(model: nn.Module) -> Metrics:
        return {f"pose_{name.lower()}": value for name, value in pose_metrics(config, model, test, flip=False).items()}

    return sapiens_pose.recipe(config, stream, state), measure


def dense_arm(arm, task: str, state: Batch | None, seed: int, steps: int) -> tuple[Recipe, Callable]:
    """How an arm learns parts, depth or normals, and how that is measured (`dense_metrics`)."""
    steps *= arm.depth_steps if task == "depth" else 1
    config = sapiens_dense.Config(
        (arm.size, arm.size), arm.patch, arm.width, arm.depth, arm.heads, arm.channels, arm.labelled, arm.batch, steps,
        lr=arm.lr, warmup=steps // 20, layer_decay=layer_decay(arm), nearest=arm.nearest,
    )  # fmt: skip
    config = sapiens_dense.for_task(config, task)
    behind = rendered("general-nopeople", pick(smoke=4, laptop=BACKGROUNDS), arm.size, "val")  # no arm has seen these
    stream = dense_stream(config, rendered("studio", arm.labelled, arm.size), behind, seed)
    test = rendered("studio", arm.tested, arm.size, "test")
    return sapiens_dense.recipe(config, stream, state), partial(dense_metrics, config, data=test)
