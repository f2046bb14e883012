"""3DPW -> shards. `python data_scripts/threedpw.py --root R --out O --split test`

ACAE evaluates on all three splits and 24 joints; MPT fine-tunes on train and evaluates 14 joints regressed from
vertices, which need the gendered SMPL files (--bodies).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.bodies import body_of, from_family, gender_of
from course_lib.real.checks import (
    check_in_front,
    check_intrinsics,
    check_people,
    check_reprojection,
    check_rotation,
    checked,
    differs,
    entry,
    expect,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, clipped, image_field, points_field
from course_lib.real.lens import seen_at
from course_lib.real.safe import read_image, read_pickle
from course_lib.real.source import Item, Source

SPLITS = ("train", "validation", "test")
# joints that both formats have, as (in SMPL's 24, in OpenPose's 18): shoulders, elbows, wrists, knees, ankles
SHARED = np.array([(16, 5), (17, 2), (18, 6), (19, 3), (20, 7), (21, 4), (4, 12), (5, 9), (7, 13), (8, 10)])
SURE = 0.3  # OpenPose's confidence from which a joint counts as found
APART = 60.0  # pixels that OpenPose may be off in the middle of a sequence


class ThreeDPW(Source):
    """3D Poses in the Wild: 60 sequences of one or two people, with a moving camera."""

    name, title = "threedpw", "3DPW: 3D Poses in the Wild"
    licence = "non-commercial scientific research only, no redistribution"
    register = "virtualhumans.mpi-inf.mpg.de/3DPW"
    download = ("sequenceFiles.zip", "imageFiles.zip")
    layout = """
        sequenceFiles/{train,validation,test}/SEQUENCE.pkl
        imageFiles/SEQUENCE/image_00000.jpg
    """
    pattern = "sequenceFiles/*/*.pkl"
    corrections = (
        "people whose camera is marked as not valid (campose_valid 0) are left out",
        "people whom OpenPose didn't find (poses2d all 0) are left out, as ACAE's authors do",
        "the pickles are of Python 2 (latin1); nothing in them is run",
        "K is taken as it is: the release doesn't say whether pixel centres are at integers (half a pixel at most)",
    )
    options = {
        "split": {"choices": (*SPLITS, "all"), "default": "train", "help": "which sequences (train)"},
        "every": {"type": int, "default": 1, "help": "every so many frames (1)"},
        "bodies": {"type": Path, "default": None, "help": "what body_models.py wrote (SMPL): adds vertices"},
    }

    def groups(self) -> list[str]:
        """The sequences of the split."""
        wanted = SPLITS if self.option("split") == "all" else (self.option("split"),)
        return self.some([group for group in super().groups() if Path(group).parent.name in wanted])

    def items(self, group: str) -> Iterator[Item]:
        """The frames in which there is anybody."""
        table = self.sequence(group)
        name = Path(group).stem
        for frame in range(0, len(table["cam_poses"]), max(1, self.option("every"))):
            if people := tuple(p for p in range(len(table["valid"])) if table["valid"][p][frame]):
                image = f"imageFiles/{name}/image_{frame:05d}.jpg"
                problem = "" if (self.root / image).is_file() else f"{image}: expected a picture, found no such file"
                yield Item(f"{name}-{frame:05d}", (group, frame, people, image), problem)

    def sequence(self, group: str) -> dict:
        """A sequence's arrays, checked: of the camera, and for each person."""
        path, sizes = self.root / group, {}
        table = read_pickle(path)
        camera = expect(table, path, "cam_poses", ("N", 4, 4), sizes=sizes)
        check_rotation(camera[:, :3, :3], path, "cam_poses")
        checked(camera[:, :3, 3], path, "cam_poses' translations", low=-500, high=500, unit="metres")
        K = expect(table, path, "cam_intrinsics", (3, 3))
        check_intrinsics(K, path, "cam_intrinsics")
        names = {"joints": ("jointPositions", ("N", 72)), "pose": ("poses", ("N", 72)), "trans": ("trans", ("N", 3))}
        names |= {"spots": ("poses2d", ("N", 3, 18)), "valid": ("campose_valid", ("N",)), "betas": ("betas", ("B",))}
        found = {name: of_people(table, path, key, shape, sizes) for name, (key, shape) in names.items()}
        genders = entry(table, path, "genders")
        count = {"genders": len(genders)} | {name: len(values) for name, values in found.items()}
        if len(set(count.values())) != 1:
            raise differs(path, "people", "as many under every key", str(count))
        found["gender"] = [gender_of(gender, path, "genders") for gender in genders]
        found |= {"cam_poses": camera, "K": K}
        found["valid"] = [v.astype(bool) & s.any((1, 2)) for v, s in zip(found["valid"], found["spots"], strict=True)]
        check_sequence(path, found)
        return found

    def read(self, item: Item) -> list[Sample]:
        """A frame with its people."""
        group, frame, people, image = item.place
        table = self.once(group, self.sequence)
        pixels = read_image(self.root / image)
        size, camera = pixels.shape[:2], table["cam_poses"][frame].astype(np.float32)
        check_intrinsics(table["K"], self.root / group, "cam_intrinsics", size)
        labels = [self.person(table, Path(group).stem, p, frame, size) for p in people]
        scene = sorted(path.name for path in (self.root / group).parent.glob("*.pkl")).index(Path(group).name)
        sample = Sample(source=f"{self.name}/{Path(group).parent.name}", scene=scene, frame=frame, people=labels)
        sample.image, sample.K = image_field(pixels), table["K"].astype(np.float32)
        sample.R, sample.t = camera[:3, :3].copy(), camera[:3, 3].copy()
        return [sample]

    def person(self, table: dict, name: str, number: int, frame: int, size: tuple[int, int]) -> PersonLabel:
        """One person; identity is sequence, number in it and gender, since nobody says who comes again."""
        joints = table["joints"][number][frame].reshape(24, 3)
        spots = projected(joints[None], table["cam_poses"][frame : frame + 1], table["K"])[0]
        x, y, sure = table["spots"][number][frame]
        found = np.where((sure > 0)[:, None], np.stack([x, y], 1), np.nan)
        keypoints = {"smpl24": points_field(spots, size, joints), "openpose18": points_field(found, size)}
        full, pose = box_around(spots, margin=0.1), from_family(table["pose"][number][frame].reshape(1, 24, 3))
        label = PersonLabel(f"{name}-{number}-{table['gender'][number]}", box=clipped(full, size), full_box=full)
        label.keypoints, label.pose = keypoints, pose[0]
        label.shape = table["betas"][number][:10].astype(np.float32)
        label.translation = table["trans"][number][frame].astype(np.float32)
        if self.option("bodies"):
            label.vertices = self.vertices(label, table["gender"][number], joints, f"{name} {number} {frame}")
        return label

    def vertices(self, label: PersonLabel, gender: str, joints: np.ndarray, where: str) -> np.ndarray:
        """SMPL's vertices (6890, 3) metres in the world. SourceError where their joints aren't the file's."""
        body = body_of(str(self.option("bodies")), "SMPL", gender)
        vertices, found = body.posed(label.shape[None], label.pose[None], label.translation[None])
        apart = float(np.linalg.norm(found[0, :22] - joints[:22], axis=1).max())
        expect({"poses": apart}, where, "poses", (), high=0.03, unit="metres")
        return vertices[0]


def of_people(table: dict, path: Path, key: str, shape: tuple, sizes: dict) -> list[np.ndarray]:
    """What stands under a key for each person. Coefficients of shape may be more than ten."""
    values = entry(table, path, key)
    if not isinstance(values, list | tuple) or not values:
        raise differs(path, key, "a list of one or more people", type(values).__name__)
    own = {"unit": "radians", "low": -4 * np.pi, "high": 4 * np.pi} if key == "poses" else {}
    own |= {"unit": "metres", "low": -200, "high": 200} if key in ("jointPositions", "trans") else {}
    kind = "b" if key == "campose_valid" else "f"
    return [checked(v, path, f"{key}[{p}]", shape, kind, **own, sizes=sizes) for p, v in enumerate(values)]


def projected(points: np.ndarray, camera: np.ndarray, K: np.ndarray) -> np.ndarray:
    """World points (N, J, 3), cameras (N, 4, 4) -> pixels (N, J, 2); NaN behind the camera."""
    return seen_at(in_camera(points, camera), K)


def in_camera(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """World points (N, J, 3) -> camera axes."""
    return np.einsum("nij,nkj->nki", camera[:, :3, :3], points) + camera[:, None, :3, 3]


def check_sequence(path: Path, found: dict) -> None:
    """Raises a SourceError unless people are of a person's size, before the camera, and where OpenPose found them."""
    for number, valid in enumerate(found["valid"]):
        joints = found["joints"][number].reshape(-1, 24, 3)
        check_people(joints, path, f"jointPositions[{number}]")
        if not valid.any():
            continue
        some, camera = joints[valid], found["cam_poses"][valid]
        check_in_front(in_camera(some, camera), path, f"jointPositions[{number}]")
        spots = found["spots"][number][valid][:, :, SHARED[:, 1]]  # (N, 3, 10)
        where = np.where(spots[:, 2:] > SURE, spots[:, :2], np.nan).transpose(0, 2, 1)
        ours = projected(some, camera, found["K"])[:, SHARED[:, 0]]
        check_reprojection(ours, where, path, f"jointPositions[{number}] and poses2d[{number}]", APART)


if __name__ == "__main__":
    sys.exit(main(ThreeDPW))
