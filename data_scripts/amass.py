"""AMASS's motions -> a table of poses for MPT's meshes. `python data_scripts/amass.py --root R --out O`

MPT samples 2 million meshes sparsely from AMASS (supplement F); how, it doesn't say. Here the motions are laid end to
end, and one pose is taken every so many seconds, as many as make `--meshes`, but never more than 30 a second.
`course_lib.real.bodies.meshes` poses the rows.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from course_lib.real.bodies import Z_TO_Y_UP, body_of, from_family, gender_of, turned
from course_lib.real.checks import checked, differs, expect, shown
from course_lib.real.convert import main
from course_lib.real.safe import read_npz
from course_lib.real.source import Item, Record, Source

FASTEST = 30.0  # poses a second
TURN = 4 * np.pi  # radians: no axis-angle is larger
ROOM = 50.0  # metres
PARTS = {"root_orient": slice(0, 3), "pose_body": slice(3, 66), "pose_jaw": slice(66, 69)}
PARTS |= {"pose_eye": slice(69, 75), "pose_hand": slice(75, 165)}
KEYS = ("poses", "trans", "betas", "gender", "mocap_framerate", "mocap_frame_rate", *PARTS)


class Amass(Source):
    """Both releases: SMPL+H (`*_poses.npz`) and SMPL-X (`*_stageii.npz`)."""

    name, title = "amass", "AMASS: Archive of Motion Capture as Surface Shapes"
    licence = "non-commercial scientific research only; each sub-dataset has its own licence beside"
    register = "amass.is.tue.mpg.de"
    download = ("every sub-dataset as 'SMPL+H G' (what MPT's SMPL meshes need), or as 'SMPL-X N' or 'SMPL-X G'",)
    layout = """
        Subset/Subject/motion_poses.npz     SMPL+H
        Subset/Subject/motion_stageii.npz   SMPL-X
    """
    corrections = (
        "z is up in AMASS: bodies and translations are turned so that y is up",
        "a file's shape.npz and *_stagei.npz are no motions: they are left out",
        "gender may be bytes, 'male' or b'male'; the frame rate is called mocap_framerate or mocap_frame_rate",
        "a translation turns about the rest body's pelvis, which only the body file knows: none without --bodies",
    )
    tables, per_shard = True, 100
    options = {
        "meshes": {"type": int, "default": 2_000_000, "help": "how many poses, over all motions (2000000: MPT's)"},
        "bodies": {"type": Path, "default": None, "help": "what body_models.py wrote: for translations"},
    }

    def groups(self) -> list[str]:
        """All motions, as Subset/Subject/motion."""
        paths = (p for p in self.root.rglob("*.npz") if p.name.endswith(("_poses.npz", "_stageii.npz")))
        return self.some(sorted(str(path.relative_to(self.root)) for path in paths))

    def items(self, group: str) -> Iterator[Item]:
        """One: the whole motion."""
        table = self.motion(group)
        key = group.removesuffix(".npz")
        if len(table["poses"]) < 2:
            yield Item(key, (), f"{group}: expected a motion, found {len(table['poses'])} frames")
            return
        check_upright(self.root / group, table["poses"])
        if self.option("bodies"):
            body_of(str(self.option("bodies")), table["family"], table["gender"])
        yield Item(key, (group, len(table["poses"]) / table["rate"]))

    def motion(self, group: str) -> dict:
        """poses (N, J, 3) radians, trans (N, 3) metres, betas, gender, rate and family of a file, checked."""
        path, sizes = self.root / group, {}
        table = read_npz(path, KEYS)
        family, width, rate = (
            ("SMPLX", 165, "mocap_frame_rate") if is_smplx(table) else ("SMPLH", 156, "mocap_framerate")
        )
        poses = expect(table, path, "poses", ("N", width), low=-TURN, high=TURN, unit="radians", sizes=sizes)
        trans = expect(table, path, "trans", ("N", 3), low=-ROOM, high=ROOM, unit="metres", sizes=sizes)
        betas = expect(table, path, "betas", ("B",), low=-20, high=20)
        gender = gender_of(expect(table, path, "gender", kind="U"), path)
        frames = float(expect(table, path, rate, (), low=10, high=1000, unit="frames a second"))
        if family == "SMPLX":
            check_parts(path, table, poses)
        short = np.zeros(16)
        short[: len(betas)] = betas[:16]
        found = {"poses": poses.reshape(len(poses), -1, 3), "trans": trans, "betas": short}
        return found | {"gender": gender, "rate": frames, "family": family}

    def chosen(self, items: list[Item]) -> list[Item]:
        """Adds to each motion the seconds at which a pose is taken: the first, and how far apart."""
        length = np.array([item.place[1] for item in items])
        apart = max(float(length.sum()) / self.option("meshes"), 1 / FASTEST)
        begins = np.cumsum(length) - length
        first = np.ceil(begins / apart) * apart - begins  # of the next multiple of `apart`, counted from the motion
        return [item._replace(place=(*item.place, float(f), apart)) for item, f in zip(items, first, strict=True)]

    def read(self, item: Item) -> list[Record]:
        """The rows of a motion; none where no pose falls into it."""
        group, length, first, apart = item.place
        table = self.motion(group)
        times = np.arange(first, length - 1e-9, apart)
        if not len(times):
            return []
        frames = np.minimum((times * table["rate"]).astype(int), len(table["poses"]) - 1)
        pose, count = from_family(table["poses"][frames]), len(frames)
        pose[:, 0] = turned(pose[:, 0], Z_TO_Y_UP)
        betas = np.repeat(table["betas"][None], count, 0).astype(np.float32)
        record = {"pose": pose, "betas": betas, "time": times.astype(np.float32)}
        texts = {"gender": table["gender"], "family": table["family"], "subject": shown(Path(group).parent)}
        record |= {name: np.full(count, text) for name, text in (texts | {"motion": shown(group)}).items()}
        return [record | self.translation(table, betas, frames)]

    def translation(self, table: dict, betas: np.ndarray, frames: np.ndarray) -> Record:
        """Where the pelvis is, y up, less where it is at rest; nothing without --bodies."""
        if not self.option("bodies"):
            return {}
        body = body_of(str(self.option("bodies")), table["family"], table["gender"])
        pelvis = body.rest_pelvis(betas[:1])
        return {"translation": ((table["trans"][frames] + pelvis) @ Z_TO_Y_UP.T - pelvis).astype(np.float32)}


def is_smplx(table: dict) -> bool:
    """By the name of its frame rate, and where it has none by what else is in it."""
    return "mocap_frame_rate" in table or ("mocap_framerate" not in table and "pose_body" in table)


def check_parts(path: Path, table: dict, poses: np.ndarray) -> None:
    """Raises a SourceError unless `poses` is root, body, jaw, eyes, hands, as the parts say."""
    for name, columns in PARTS.items():
        if name in table:
            part = checked(table[name], path, name, (len(poses), columns.stop - columns.start))
            if np.abs(part - poses[:, columns]).max(initial=0) > 1e-4:
                raise differs(
                    path, "poses", f"{name} in columns {columns.start} to {columns.stop - 1}", "other numbers"
                )


def check_upright(path: Path, poses: np.ndarray) -> None:
    """Raises a SourceError for people who stand along y all the time: then y is up, and axes were swapped.

    A body's own y axis points to its head. Lying along y for a whole motion would look the same; nobody does."""
    up = Rotation.from_rotvec(poses[:, 0]).apply([0, 1, 0]).mean(0)
    if abs(up[1]) > 0.9:
        found = f"up along {'+' if up[1] > 0 else '-'}y"
        raise differs(path, "poses", "z up", found, "axes swapped: was the motion turned already?")


if __name__ == "__main__":
    sys.exit(main(Amass))
