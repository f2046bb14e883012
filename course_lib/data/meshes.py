"""People as meshes without pictures: what mesh pre-training learns from (MPT, supplement F).

The paper samples 2 million meshes from AMASS, recordings of real people under licences. Here poses come from
`course_lib.data.poses` and shapes from the open body, unless `data_scripts/amass.py` wrote poses into the data folder:
into `meshes-train`, or `meshes-test` for the other split. Then those are taken, all of them. A pool of poses and
identities is drawn once and kept in a small file; every body is a pose of the pool (or its mirror image) on an identity
of the pool, turned to a heading.

A mesh is the visible skin, followed by the few vertices inside the body that keypoints are made of: so keypoints are
fixed weighted means of its vertices (`joint_matrix`), of a predicted mesh as of a true one. What is cached here
belongs to the body file (COURSE_BODY) that the process began with.
"""

import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.bodies import JOINT_NAMES, BodyModel, read_body_file
from course_lib.chapters.cameras import axis_angle_to_matrix, matrix_to_axis_angle
from course_lib.data.keypoints import FORMATS, Regressor, regressor
from course_lib.data.person import SPLITS, identity_rng, load_body, sample_person
from course_lib.data.poses import mirror_pose, sample_pose
from course_lib.data.sets import is_real
from course_lib.files import draft
from course_lib.paths import OPEN_BODY, body_file, data_dir
from course_lib.threads import one_thread

JOINT_FORMATS = ("h36m17", "lsp14", "coco17")  # evaluation on Human3.6M, METRO's 14 joints, what heatmaps show
VERSION = 1  # of the files that pools are kept in

# The joint of SMPL-X that is nearest to a point, for body files without keypoint tables
LIMBS = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "hip": "hip", "kne": "knee", "ank": "ankle"}
NEAREST = {f"{side[0]}{short}": f"{side}_{limb}" for side in ("left", "right") for short, limb in LIMBS.items()}
NEAREST |= {"left_eye": "left_eye_smplhf", "right_eye": "right_eye_smplhf", "left_ear": "head", "right_ear": "head"}
NEAREST |= {"nose": "jaw", "pelv": "pelvis", "spin": "spine2"}


@dataclass(frozen=True)
class Skin:
    """The mesh: index (V,) into the body model's vertices, the first `visible` of them the skin; faces (F, 3) into
    0 ... visible - 1; template (V, 3), metres, T-pose, pelvis at the origin."""

    index: Tensor
    visible: int
    faces: Tensor
    template: Tensor


@dataclass(frozen=True)
class Bodies:
    """N people, metres, y up, facing +z at heading 0, pelvis at the origin: vertices (N, V, 3), joints of each format
    in JOINT_FORMATS (N, K, 3), heading (N,) degrees (positive: to the body's left), identity (N,) in its split."""

    vertices: Tensor
    joints: dict[str, Tensor]
    heading: Tensor
    identity: Tensor

    def __len__(self) -> int:
        return len(self.vertices)

    def __getitem__(self, index) -> "Bodies":
        """Some of them, still batched: by a slice, a list or a tensor of numbers."""
        joints = {name: points[index] for name, points in self.joints.items()}
        return Bodies(self.vertices[index], joints, self.heading[index], self.identity[index])


def entries(name: str) -> Regressor:
    """How a format's points are made of the body's vertices: its tables, or for a file without them its own joints,
    the nearest where there is no such joint (the nose is the jaw's, both ears the head's)."""
    body = load_body()
    if body.pack is not None:
        return regressor(name)
    matrix = body.model.joint_regressor[[JOINT_NAMES.index(NEAREST.get(point, point)) for point in FORMATS[name]]]
    row, column = matrix.nonzero(as_tuple=True)
    return Regressor(row, column, matrix[row, column])


@lru_cache(maxsize=1)
def skin() -> Skin:
    """The mesh of the current body (COURSE_BODY's, else the open one)."""
    body = load_body()
    faces = body.model.faces.numpy() if body.pack is None else body.pack["faces_body"].astype(np.int64)
    visible = np.unique(faces)
    inside = np.unique(np.concatenate([entries(name).column.numpy() for name in JOINT_FORMATS]))
    index = np.concatenate([visible, np.setdiff1d(inside, visible)])
    place = np.zeros(len(body.model.template), np.int64)
    place[index] = np.arange(len(index))
    template = body.model.template[index] - body.rest_joints[0]
    return Skin(torch.from_numpy(index), len(visible), torch.from_numpy(place[faces]), template)


@lru_cache(maxsize=8)
def joint_matrix(name: str) -> Tensor:
    """(K, V): keypoints of a format as weighted means of the mesh's vertices. ValueError for another format."""
    if name not in JOINT_FORMATS:
        raise ValueError(f"meshes know the joints of {', '.join(JOINT_FORMATS)}, not {name!r}")
    row, column, value = entries(name)
    place = torch.zeros(len(load_body().model.template), dtype=torch.long)
    place[skin().index] = torch.arange(len(skin().index))
    matrix = torch.zeros(len(FORMATS[name]), len(skin().index))
    return matrix.index_put((row, place[column]), value, accumulate=True)


@lru_cache(maxsize=1)
def mesh_model() -> BodyModel:
    """The body model cut down to the mesh's vertices; its joints stay those of the whole body."""
    return cut_down(skin().index.numpy(), skin().faces.numpy())


def cut_down(index: np.ndarray, faces: np.ndarray) -> BodyModel:
    """The current body's model with some of its vertices (V,) only, in this order, and faces (F, 3) into them."""
    whole, arrays = load_body().model, read_body_file(body_file())
    for key in ("v_template", "shapedirs", "posedirs", "weights"):
        arrays[key] = arrays[key][index]
    arrays["J_regressor"], arrays["f"] = arrays["J_regressor"][:, index], faces
    model = BodyModel(arrays)
    model.joint_template, model.joint_directions = whole.joint_template, whole.joint_directions
    return model


# ---------------------------------------------------------------- whom and how


@lru_cache(maxsize=4)
def pool(split: str = "train", size: int = 4096) -> tuple[Tensor, Tensor]:
    """`size` poses (size, 55, 3) and as many identities' shapes (size, 10), kept in a file under the data folder.

    Splits share neither identities nor poses; a larger pool begins with the smaller one. 8 ms each, the first time.
    """
    if split not in SPLITS or size < 1:
        raise ValueError(f"a pool of {size} in split {split!r}: give at least 1, and one of {', '.join(SPLITS)}")
    if is_real(data_dir() / f"meshes-{split}"):
        return recorded(split)
    path = data_dir() / f"meshes-{split}-{size}-{body_file().stem}-v{VERSION}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            poses, betas = kept["poses"], kept["betas"]
        if len(poses) == len(betas) == size:
            return torch.from_numpy(poses), torch.from_numpy(betas)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        pass  # not there, or cut short by a kill of another program: it is drawn anew
    poses, betas = drawn(split, size)
    with draft(path) as beside, beside.open("wb") as file:
        np.savez(file, poses=poses, betas=betas)
    return torch.from_numpy(poses), torch.from_numpy(betas)


def recorded(split: str) -> tuple[Tensor, Tensor]:
    """Poses (M, 55, 3) and shapes (M, 10) that `data_scripts/amass.py` wrote, however many.

    SMPL-X's shapes go with its body file (COURSE_BODY); those of SMPL+H, or of any beside the open body, mean another
    body: then the identities are this course's, one after another."""
    from course_lib.real.tables import read_table  # which needs this package

    table = read_table(data_dir() / f"meshes-{split}", ("pose", "betas", "family"))
    own = body_file() != OPEN_BODY
    fits = (table["family"] == "SMPLX") & own
    betas = table["betas"][:, :10].astype(np.float32)
    shapes = np.stack([sample_person(identity_rng(split, n), clothed=False).betas for n in range(min(len(betas), 256))])
    betas[~fits] = shapes[np.flatnonzero(~fits) % len(shapes)]
    return torch.from_numpy(table["pose"].astype(np.float32)), torch.from_numpy(betas)


@one_thread()
def drawn(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses without self-contact (size, 55, 3) and shapes (size, 10); number i depends on split and i alone."""
    poses, betas = np.zeros((size, 55, 3), np.float32), np.zeros((size, 10), np.float32)
    for number in range(size):
        poses[number] = sample_pose(np.random.default_rng([0x705E, SPLITS.index(split), number]))
        betas[number] = sample_person(identity_rng(split, number), clothed=False).betas  # as in the split's pictures
    return poses, betas


def sample_bodies(
    count: int,
    seed: int | tuple[int, ...],
    heading: float | None = 30.0,
    split: str = "train",
    size: int = 4096,
) -> Bodies:
    """`count` bodies: pose, mirroring, identity and heading are drawn from the seed alone.

    heading: degrees; uniform within +- heading, or any direction for None (MPT does not say; ours: recordings of
    Human3.6M mostly face one side). size: of the pool that poses and identities are drawn from.
    """
    if count < 1 or (heading is not None and not 0 <= heading <= 180):
        raise ValueError(f"{count} bodies within {heading} degrees: give at least 1, and 0 to 180 degrees or None")
    poses, betas = pool(split, size)
    size, rng = len(poses), np.random.default_rng(seed)
    chosen, identity = rng.integers(size, size=count), rng.integers(size, size=count)
    pose = poses[chosen].numpy()
    pose = np.where(rng.random((count, 1, 1)) < 0.5, mirror_pose(pose), pose)
    turn = rng.uniform(-1, 1, count).astype(np.float32) * (180.0 if heading is None else heading)
    return posed_bodies(betas[identity], torch.from_numpy(pose), torch.from_numpy(turn), torch.from_numpy(identity))


@torch.no_grad()
def posed_bodies(betas: Tensor, pose: Tensor, heading: Tensor, identity: Tensor | None = None) -> Bodies:
    """Shapes (N, 10), poses (N, 55, 3) radians and headings (N,) degrees about the vertical -> their meshes."""
    model = mesh_model()
    vertices, joints = model(betas=betas, pose=headed(pose, heading))
    vertices = vertices - joints[:, :1]
    named = {name: joint_matrix(name) for name in JOINT_FORMATS}
    points = {name: regress(matrix, vertices) for name, matrix in named.items()}
    return Bodies(vertices, points, heading, torch.zeros(len(betas)).long() if identity is None else identity)


def regress(matrix: Tensor, vertices: Tensor) -> Tensor:
    """Joint matrix (K, V) and vertices (N, V, 3) -> (N, K, 3), by its few entries that are not zero."""
    row, column = matrix.nonzero(as_tuple=True)
    return Regressor(row, column, matrix[row, column]).points(vertices, len(matrix))


def headed(pose: Tensor, heading: Tensor) -> Tensor:
    """Poses (N, 55, 3), turned by headings (N,) degrees about the vertical (positive: to the body's left)."""
    vertical = torch.zeros(len(pose), 3)
    vertical[:, 1] = heading.deg2rad()
    root = axis_angle_to_matrix(vertical) @ axis_angle_to_matrix(pose[:, 0])
    return torch.cat([matrix_to_axis_angle(root)[:, None], pose[:, 1:]], 1)
