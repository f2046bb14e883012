"""The runs of chapter 15: the model that it ships, and what it is trained and measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`). Model, loss and the choice of views
are the chapter's own; the pictures are `course_lib.data.multiview`'s.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.data.multiview import Scans, evenly_spaced, scan_batch, scan_stream, scans
from course_lib.data.streams import GeneratedStream
from course_lib.recipe import Batch
from course_lib.scale import pick
from course_lib.shipped import note_data, round_weights, train
from course_lib.studies.sapiens import Metrics, device_of

TESTED = {"smoke": 2, "laptop": 24}  # people of the test split, each in two poses
GIVEN = {"smoke": (1, 2), "laptop": (1, 2, 4, 8)}  # how many views are given
AT_ONCE = 8  # samples in one forward pass
SMALLEST_BOX = 12  # pixels: SSIM's window is 11 x 11


def training_scans(config) -> Scans:
    """The scans that a configuration learns from, rendered where they are not there yet."""
    return scans("train", config.people, config.size, config.poses, config.views)


def held_out(config) -> Scans:
    """Scans of people of the test split, of the configuration's size."""
    return scans("test", pick(**TESTED), config.size, config.poses, config.views)


def stream(config, seed: int = 0) -> GeneratedStream:
    """The configuration's training batches."""
    choose = humanram.choose_views
    return scan_stream(training_scans(config), choose, config.inputs, config.targets, config.repose, seed)


# ------------------------------------------------------------------------------------------------- measuring
def asked_views(views: int) -> Tensor:
    """The views that a test asks for: of 12 the four that are left when 8 are given, 2, 5, 8 and 11; so that 1, 2, 4
    and 8 given views are asked for the same."""
    given = evenly_spaced(views, min(8, views - 1)).tolist()
    return torch.tensor([view for view in range(views) if view not in given])


def test_batch(found: Scans, inputs: int, repose: bool = False) -> Batch:
    """Every scan, seen by `inputs` views spread around it, from view 0 on, and asked for the `asked_views`. repose: of
    the person's next pose."""
    views, poses, every = found.ring.views, found.ring.poses, torch.arange(len(found))
    given, asked = evenly_spaced(views, inputs), asked_views(views)
    goal = every - every % poses + (every + 1) % poses if repose else every
    return scan_batch(found, every, given.expand(len(found), -1), goal, asked.expand(len(found), -1))


@torch.no_grad()
def drawn(model: nn.Module, batch: Batch) -> Tensor:
    """What the model draws for a batch, (B, M, 3, H, W), on the CPU; a few samples at a time."""
    device, model = device_of(model), model.eval()
    count = len(batch["target_rays"])
    parts = [{name: v[at : at + AT_ONCE].to(device) for name, v in batch.items()} for at in range(0, count, AT_ONCE)]
    return torch.cat([model(part).float().cpu() for part in parts])


def person_box(alpha: Tensor) -> Tensor:
    """The box around the person in each alpha (M, 1, H, W) or (M, H, W), at least SMALLEST_BOX pixels wide and high:
    (M, 4) left, top, right, bottom. ValueError, with its number, for a picture without a person."""
    alpha = alpha.flatten(0, -3)
    left, top, right, bottom = metrics.box_around(alpha > 0.5).unbind(1)
    (left, right), (top, bottom) = widened(left, right, alpha.shape[2]), widened(top, bottom, alpha.shape[1])
    return torch.stack([left, top, right, bottom], 1)


def widened(low: Tensor, high: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Sides (M,) moved apart until they are SMALLEST_BOX apart, inside 0 ... limit."""
    low = torch.minimum(low, (low + high - SMALLEST_BOX).div(2, rounding_mode="floor")).clamp(min=0)
    low = torch.minimum(low, torch.full_like(low, max(0, limit - SMALLEST_BOX)))
    return low, torch.maximum(high, low + SMALLEST_BOX).clamp(max=limit)


def frame_metrics(prediction: Tensor, target: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """PSNR (dB) and SSIM of pictures (M, 3, H, W), alpha (M, 1, H, W): psnr and ssim of the whole picture on white,
    psnr_box and ssim_box of the box around the person; (M,) each."""
    kinds, box = {"psnr": metrics.psnr, "ssim": metrics.ssim}, person_box(alpha)
    rows = {name: (kind(prediction, target), kind(prediction, target, box=box)) for name, kind in kinds.items()}
    return {f"{name}{frame}": row[i] for name, row in rows.items() for i, frame in enumerate(("", "_box"))}


def picture_metrics(prediction: Tensor, batch: Batch) -> Metrics:
    """The means of `frame_metrics` over all target views."""
    rows = frame_metrics(*(x.flatten(0, 1) for x in (prediction, batch["target_image"], batch["target_alpha"])))
    return {name: values.mean().item() for name, values in rows.items()}


def measured(model: nn.Module, found: Scans) -> Metrics:
    """`picture_metrics` of held-out people: novel views from 1, 2, 4 and 8 given ones, and an unseen pose; names such
    as novel4_psnr_box and pose4_psnr_box."""
    rows = {}
    for count in pick(**GIVEN):
        for name, repose in (("novel", False), ("pose", True)):
            batch = test_batch(found, count, repose)
            one = picture_metrics(drawn(model, batch), batch)
            rows |= {f"{name}{count}_{key}": value for key, value in one.items()}
    return rows


# ------------------------------------------------------------------------------------------------- shipped
def reconstructed(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """A HumanRAM of the configuration; `measured` on held-out people."""
    note_data(folder, training_scans(config).ring.folder)
    run = train(humanram.recipe(config, stream(config)), folder / "fit")
    model = round_weights(run.model).eval()
    return model, measured(model, held_out(config))
