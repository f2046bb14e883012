"""Distances between skeletons: MPJPE, PA-MPJPE, per-vertex error, PCK, AUC, CPS, and the MuPoTS protocol's steps.

Every metric gives one number per person, (B,): `average` and `mean_of_means` pool them. Coordinates are metres, errors
are printed in millimetres as in the papers. What `valid` (B, J) leaves out may hold anything, NaN too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.chapters.cameras import procrustes
from course_lib.metrics.common import require_finite, require_shape, require_some

MILLIMETRES = 1000.0  # in a metre
Root = int | Sequence[int] | None


def checked(prediction: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both as (B, J, D) float64 with zeros where not valid, and valid (B, J); ValueError for what can't be counted."""
    require_shape("prediction", prediction, None, None, None)
    require_shape("target", target, *prediction.shape)
    valid = torch.ones_like(target[..., 0], dtype=torch.bool) if valid is None else valid.bool()
    require_shape("valid", valid, *target.shape[:2])
    require_some("valid", valid)
    for name, points in (("prediction", prediction), ("target", target)):
        require_finite(name, points, valid[..., None])
    keep = valid[..., None]
    return prediction.double().where(keep, 0.0), target.double().where(keep, 0.0), valid


def distances(prediction: Tensor, target: Tensor, valid: Tensor | None, root: Root) -> tuple[Tensor, Tensor]:
    """(B, J, D) twice -> each joint's distance (B, J), in the unit given, and valid (B, J).

    root: the joint, or the joints whose mean, both skeletons are moved to first: 0 for a pelvis, (2, 3) for the middle
    of two hips; None compares absolute positions. ValueError where a root joint is not valid.
    """
    prediction, target, valid = checked(prediction, target, valid)
    difference = prediction - target
    if root is not None:
        root = [root] if isinstance(root, int) else list(root)
        if not valid[:, root].all():
            raise ValueError(f"root joint {root} is not valid for every person: leave those people out")
        difference = difference - difference[:, root].mean(1, keepdim=True)
    return difference.norm(dim=-1), valid


def mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """(B, J) -> (B,): the mean over the valid joints."""
    return (values * valid).sum(1) / valid.sum(1)


def mpjpe(prediction: Tensor, target: Tensor, valid: Tensor | None = None, root: Root = None) -> Tensor:
    """Mean per-joint position error: (B, J, 3) metres -> (B,) millimetres. `root` as in `distances`."""
    return MILLIMETRES * mean_over(*distances(prediction, target, valid, root))


def pa_mpjpe(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """MPJPE after the similarity (scale, rotation, translation; no reflection) that fits best, each person on its own.

    (B, J, 3) metres -> (B,) millimetres. PA-MPJPE in MPT, PMPJPE in ACAE. ValueError for fewer than 3 valid joints. A
    prediction whose joints all coincide is moved to the target's centre.
    """
    prediction, target, valid = checked(prediction, target, valid)
    require_some("valid", valid, least=3)
    weight = valid.double()[..., None] / valid.sum(1)[:, None, None]
    # a joint that is not valid goes to the centre of the others: there it has no say in the fit
    source, goal = (x.where(valid[..., None], (x * weight).sum(1, keepdim=True)) for x in (prediction, target))
    scale, R, t = procrustes(source, goal)
    fitted = scale[:, None, None] * source @ R.mT + t[:, None]
    return MILLIMETRES * mean_over((fitted - goal).norm(dim=-1), valid)


def mpvpe(prediction: Tensor, target: Tensor, prediction_root: Tensor, target_root: Tensor) -> Tensor:
    """Mean per-vertex error of meshes (B, V, 3) moved to their roots (B, 3), metres -> (B,) millimetres.

    The root is the pelvis that each mesh's own joint regressor gives (MPT). For meshes in place give zeros;
    after Procrustes it is `pa_mpjpe` of the vertices.
    """
    require_shape("prediction_root", prediction_root, len(prediction), 3)
    require_shape("target_root", target_root, len(target), 3)
    return mpjpe(prediction - prediction_root[:, None], target - target_root[:, None])


def pck(
    prediction: Tensor,
    target: Tensor,
    threshold: float,
    valid: Tensor | None = None,
    root: Root = None,
    scale: Tensor | None = None,
) -> Tensor:
    """The share of each person's valid joints that are nearer than `threshold` to the truth: (B, J, D) -> (B,).

    3D: metres, with a root; ACAE's PCK100 has threshold 0.1, 3DHP's and MuPoTS' PCK 0.15. 2D: pixels, and scale (B,) is
    the size that the threshold counts in: `head_size` (PCKh, 0.5), `segment_length` from a shoulder to the opposite hip
    (torso, 0.2) or `box_size`. Nearer is strict, as in ACAE's evaluation.
    """
    distance, valid = distances(prediction, target, valid, root)
    if scale is not None:
        require_shape("scale", scale, len(distance))
        if not (scale > 0).all():
            raise ValueError("scale must be positive: leave out people without a size")
        distance = distance / scale[:, None]
    return mean_over((distance < threshold).double(), valid)


def auc(
    prediction: Tensor, target: Tensor, threshold: float = 0.15, valid: Tensor | None = None, root: Root = None
) -> Tensor:
    """The area under PCK from 0 to `threshold` metres: the mean of max(0, 1 - error / threshold). (B, J, 3) -> (B,)."""
    distance, valid = distances(prediction, target, valid, root)
    return mean_over((1 - distance / threshold).clamp(min=0), valid)


def cps(
    prediction: Tensor, target: Tensor, threshold: float = 0.2, valid: Tensor | None = None, root: Root = None
) -> Tensor:
    """Correct pose score, (B, J, 3) -> (B,): 1 where even the worst valid joint is nearer than `threshold` metres.

    0 elsewhere. ACAE's CPS200 is threshold 0.2 with a root, without Procrustes.
    """
    distance, valid = distances(prediction, target, valid, root)
    return ((distance < threshold) | ~valid).all(1).double()


def head_size(box: Tensor) -> Tensor:
    """MPII's: 0.6 times the diagonal of the head's box (B, 4) = left, top, right, bottom -> (B,)."""
    return 0.6 * (box[:, 2:] - box[:, :2]).norm(dim=-1)


def box_size(box: Tensor) -> Tensor:
    """The longer side of the person's box (B, 4) = left, top, right, bottom -> (B,)."""
    return (box[:, 2:] - box[:, :2]).amax(-1)


def segment_length(points: Tensor, first: int, second: int) -> Tensor:
    """The distance between two joints of (B, J, D) -> (B,): the torso, from a shoulder to the opposite hip."""
    return (points[:, first] - points[:, second]).norm(dim=-1)


def rescale_bones(prediction: Tensor, target: Tensor, parents: Sequence[int]) -> Tensor:
    """The prediction with the target's bone lengths, its own bone directions: (B, J, 3) twice -> (B, J, 3).

    The MuPoTS protocol of ACAE's comparison with the state of the art (supplement S4). parents: each joint's parent,
    -1 for the root, which stays. A predicted bone without length has no direction: its joint lands on its parent.
    """
    prediction, target, _ = checked(prediction, target, None)
    placed = {joint: prediction[:, joint] for joint, parent in enumerate(parents) if parent < 0}
    while len(placed) < prediction.shape[1]:
        ready = [j for j, parent in enumerate(parents) if j not in placed and parent in placed]
        if not ready:
            raise ValueError(f"parents {tuple(parents)} is no tree over {prediction.shape[1]} joints")
        for j in ready:
            direction = torch.nn.functional.normalize(prediction[:, j] - prediction[:, parents[j]], dim=-1)
            length = (target[:, j] - target[:, parents[j]]).norm(dim=-1, keepdim=True)
            placed[j] = placed[parents[j]] + length * direction
    return torch.stack([placed[j] for j in range(prediction.shape[1])], 1)


def match_poses(prediction: Tensor, target: Tensor, radius: float = 40.0) -> list[tuple[int, int]]:
    """Who is who: 2D joints (P, J, 2) predicted, (G, J, 2) annotated, pixels -> pairs (index of target, of prediction).

    MuPoTS' greedy matching: each annotated person in turn takes the free prediction with the most joints less than
    `radius` away in x and in y, if it has any. The protocol matches its joints 1 to 13 only: pass `[:, 1:14]`.
    """
    require_shape("prediction", prediction, None, *target.shape[1:])
    near = (prediction[None] - target[:, None]).abs().amax(-1) < radius  # (G, P, J); NaN is never near
    counts = near.sum(-1)  # (G, P)
    pairs = []
    for person in range(len(target) if len(prediction) else 0):
        best = int(counts[person].argmax())
        if counts[person, best] > 0:
            pairs.append((person, best))
            counts[:, best] = 0  # taken
    return pairs
