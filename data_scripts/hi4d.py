"""Hi4D: two people in close contact -> shards. `python data_scripts/hi4d.py --root R --out O --split test`

Sapiens and DAViD evaluate depth and normals on pairs 28, 32 and 37, camera 4 (1,195 pictures): --split test draws both
from the scans.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from course_lib.chapters.cameras import Camera
from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.bodies import from_family, gender_of
from course_lib.real.checks import (
    check_in_front,
    check_intrinsics,
    check_people,
    check_rotation,
    checked,
    differs,
    entry,
    expect,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, clipped, image_field, mask_box, points_field
from course_lib.real.lens import to_course, undistorted
from course_lib.real.overlay import project
from course_lib.real.safe import problem_with, read_image, read_mask, read_npz
from course_lib.real.scans import Scan, checked_scan, picture_of, read_obj
from course_lib.real.source import Item, Source, numbers_in

TEST_PAIRS, TEST_CAMERA = ("pair28", "pair32", "pair37"), 4
INTRINSICS = ("intirnsics", "intrinsics")  # the release's own spelling comes first
OVERLAP = 0.5  # of the scan's silhouette and the mask, at least: both over either
TALL = (0.4, 4.0)  # metres: two people's extent
SHAPES = {  # of smpl/000NNN.npz: key -> shape, range, unit
    "betas": ((2, 10), 30.0, ""),
    "body_pose": ((2, 69), 4 * np.pi, "radians"),
    "global_orient": ((2, 3), 4 * np.pi, "radians"),
    "transl": ((2, 3), 20.0, "metres"),
    "joints_3d": ((2, 24, 3), 20.0, "metres"),
    "verts": ((2, "V", 3), 20.0, "metres"),
}


class Hi4D(Source):
    """Pairs of people, seen by eight cameras, with masks, scans and SMPL fits."""

    name, title = "hi4d", "Hi4D: 4D Instance Segmentation of Close Human Interaction"
    licence = "non-commercial scientific research only, no redistribution"
    register = "yifeiyin04.github.io/Hi4D (a form)"
    download = ("pair00.tar.gz ... pair37.tar.gz; for --split test pair28, pair32 and pair37",)
    layout = """
        pairNN/ACTION/meta.npz, cameras/rgb_cameras.npz
                      images/{4,16,28,40,52,64,76,88}/000NNN.jpg
                      seg/img_seg_mask/CAMERA/{0,1,all}/000NNN.png
                      smpl/000NNN.npz
                      frames/mesh-f00NNN.obj      for --split test or --geometry
    """
    pattern = "pair*/*/meta.npz"
    corrections = (
        "the cameras' matrices stand under 'intirnsics' in the release: both spellings are read",
        "pictures and masks are undistorted; K's pixel centres are OpenCV's (at integers): half a pixel is added",
        "each person's mask is drawn over the other's where both claim a pixel: the second one's wins",
    )
    options = {
        "split": {"choices": ("all", "test"), "default": "all", "help": "test: pairs 28, 32, 37, camera 4 (all)"},
        "cameras": {"default": "all", "help": "ids of cameras such as 4,28 (all)"},
        "every": {"type": int, "default": 1, "help": "every so many frames (1)"},
        "geometry": {"action": "store_true", "default": False, "help": "depth and normals, drawn from the scans"},
    }

    def groups(self) -> list[str]:
        """The sequences of the split."""
        found = super().groups()
        return self.some([g for g in found if self.option("split") == "all" or g.split("/")[0] in TEST_PAIRS])

    def geometry(self) -> bool:
        """Whether depth and normals are drawn."""
        return self.option("geometry") or self.option("split") == "test"

    def items(self, group: str) -> Iterator[Item]:
        """A frame as one camera sees it."""
        table, folder = self.sequence(group), (self.root / group).parent
        pair, action = folder.parent.name, folder.name
        for frame in range(table["start"], table["end"] + 1, max(1, self.option("every"))):
            wrong = self.wrong_frame(folder, frame)
            for camera in self.cameras(group, table["ids"]):
                problem = wrong or missing(folder, frame, camera)
                yield Item(f"{pair}-{action}-{frame:06d}-{camera:02d}", (group, frame, camera), problem)

    def cameras(self, group: str, ids: list[int]) -> list[int]:
        """The ids of the cameras that are wanted. SourceError for one that isn't there."""
        wanted = str(TEST_CAMERA) if self.option("split") == "test" else self.option("cameras")
        if wanted == "all":
            return ids
        found = numbers_in(wanted)
        if not set(found) <= set(ids):
            raise differs(self.root / group, "ids", f"the cameras {wanted}", str(ids))
        return found

    def sequence(self, group: str) -> dict:
        """scene, its number among all that are there; start, end, genders, ids; K (C, 3, 3), R, t, D of the cameras.
        SourceError."""
        path = self.root / group
        table = read_npz(path)
        found = {name: number(table, path, name) for name in ("start", "end")}
        if not 0 <= found["start"] <= found["end"]:
            raise differs(path, "start, end", "a first and a last frame", str(found))
        found["genders"] = [gender_of(g, path, "genders") for g in expect(table, path, "genders", (2,), "U")]
        every = sorted(path.parent for path in self.root.glob(self.pattern))
        found["scene"] = every.index(path.parent)
        path = path.parent / "cameras" / "rgb_cameras.npz"
        table = read_npz(path)
        key = next((name for name in INTRINSICS if name in table), INTRINSICS[0])
        sizes: dict[str, int] = {}
        found["ids"] = [int(n) for n in expect(table, path, "ids", ("C",), "i", sizes=sizes)]
        found["K"] = expect(table, path, key, ("C", 3, 3), sizes=sizes)
        check_intrinsics(found["K"], path, key)
        camera = expect(table, path, "extrinsics", ("C", 3, 4), sizes=sizes)
        check_rotation(camera[:, :, :3], path, "extrinsics")
        far = np.linalg.norm(camera[:, :, 3], axis=1)
        checked(far, path, "extrinsics' distances", low=0.3, high=20, unit="metres")
        found |= {"R": camera[:, :, :3], "t": camera[:, :, 3]}
        return found | {"D": expect(table, path, "dist_coeffs", ("C", 5), low=-20, high=20, sizes=sizes)}

    def wrong_frame(self, folder: Path, frame: int) -> str:
        """What is wrong with a frame's fit or scan, "" for nothing."""
        wrong = problem_with(read_fit, folder / "smpl" / f"{frame:06d}.npz")
        return wrong or (problem_with(self.scan, folder, frame) if self.geometry() else "")

    def scan(self, folder: Path, frame: int) -> Scan:
        """Both people's scan, metres in the world."""
        path = folder / "frames" / f"mesh-f{frame:05d}.obj"
        return checked_scan(read_obj(path), path, TALL)

    def read(self, item: Item) -> list[Sample]:
        """A picture with its two people."""
        group, frame, camera = item.place
        table, folder = self.once(group, self.sequence), (self.root / group).parent
        at = table["ids"].index(camera)
        K, distortion = table["K"][at], table["D"][at]
        pixels = read_image(folder / image_name(frame, camera))
        size = pixels.shape[:2]
        check_intrinsics(K, folder / "cameras/rgb_cameras.npz", f"camera {camera}", size)
        K = to_course(K)
        sample = Sample(scene=table["scene"], view=camera, frame=frame)
        sample.image, sample.K = image_field(undistorted(pixels, K, distortion)), K.astype(np.float32)
        sample.R, sample.t = table["R"][at].astype(np.float32), table["t"][at].astype(np.float32)
        masks = [read_mask(folder / mask_name(frame, camera, who), size=size) > 0 for who in ("0", "1")]
        sample.instances = undistorted(np.where(masks[1], 2, masks[0]).astype(np.uint8), K, distortion)
        sample.alpha = (sample.instances > 0).astype(np.float32)
        path = folder / "smpl" / f"{frame:06d}.npz"
        fit = read_fit(path)
        check_in_front(fit["joints_3d"] @ sample.R.T + sample.t, path, "joints_3d")
        sample.people = [self.person(fit, who, sample, table, group) for who in (0, 1)]
        if self.geometry():
            self.draw(sample, folder, frame)
        return [sample]

    def person(self, fit: dict, who: int, sample: Sample, table: dict, group: str) -> PersonLabel:
        """One of the two."""
        size, joints = sample.image.shape[1:], fit["joints_3d"][who].astype(np.float32)
        full, mask = box_around(project(fit["verts"][who], sample)), sample.instances == who + 1
        box = mask_box(mask) if mask.any() else clipped(full, size)
        identity = f"{group.split('/')[0]}-{who}-{table['genders'][who]}"
        label = PersonLabel(identity, box=box, full_box=full)
        label.keypoints = {"smpl24": points_field(project(joints, sample), size, joints)}
        pose = np.concatenate([fit["global_orient"][who], fit["body_pose"][who]]).reshape(1, 24, 3)
        label.pose, label.shape = from_family(pose)[0], fit["betas"][who].astype(np.float32)
        label.translation, label.vertices = (fit[name][who].astype(np.float32) for name in ("transl", "verts"))
        return label

    def draw(self, sample: Sample, folder: Path, frame: int) -> None:
        """Depth and normals of the scan. SourceError where its silhouette isn't the mask."""
        one = (torch.from_numpy(getattr(sample, name))[None] for name in ("K", "R", "t"))
        found = picture_of(self.scan(folder, frame), None, Camera(*one), sample.image.shape[1:])
        ours, theirs = found["alpha"] >= 0.5, sample.instances > 0
        overlap = float((ours & theirs).sum() / max(1, (ours | theirs).sum()))
        if overlap < OVERLAP:
            path, hint = folder / "frames" / f"mesh-f{frame:05d}.obj", "do scan and camera belong together?"
            raise differs(path, "its silhouette", f"an overlap of {OVERLAP:.0%} with the mask", f"{overlap:.0%}", hint)
        sample.depth, sample.normals = found["depth"], found["normals"]


def number(table: dict, path: Path, key: str) -> int:
    """A whole number, stored as one or as an array of one."""
    value = checked(entry(table, path, key), path, key, kind="i")
    if value.size != 1:
        raise differs(path, key, "one number", str(value.shape))
    return int(value.ravel()[0])


def read_fit(path: Path) -> dict[str, np.ndarray]:
    """The two people's SMPL, checked. SourceError."""
    table, sizes = read_npz(path, tuple(SHAPES)), {}
    fit = {
        key: expect(table, path, key, shape, low=-high, high=high, unit=unit, sizes=sizes)
        for key, (shape, high, unit) in SHAPES.items()
    }
    check_people(fit["joints_3d"], path, "joints_3d")
    low, high = fit["verts"].min(1) - 0.1, fit["verts"].max(1) + 0.1
    if not ((fit["joints_3d"] > low[:, None]) & (fit["joints_3d"] < high[:, None])).all():
        raise differs(path, "joints_3d", "joints inside of verts", "some outside", "axes swapped?")
    return fit


def image_name(frame: int, camera: int) -> str:
    """Where a picture lies."""
    return f"images/{camera}/{frame:06d}.jpg"


def mask_name(frame: int, camera: int, who: str) -> str:
    """Where a person's mask lies."""
    return f"seg/img_seg_mask/{camera}/{who}/{frame:06d}.png"


def missing(folder: Path, frame: int, camera: int) -> str:
    """Which of a picture's files isn't there, "" for none."""
    names = [image_name(frame, camera), *(mask_name(frame, camera, who) for who in ("0", "1"))]
    lacking = [name for name in names if not (folder / name).is_file()]
    where = f"{folder.parent.name}/{folder.name}"
    return f"{where}: expected {lacking[0]}, found no such file" if lacking else ""


if __name__ == "__main__":
    sys.exit(main(Hi4D))
