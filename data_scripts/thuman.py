"""THuman2.0 and THuman2.1: scans, drawn from a ring of cameras -> shards. `python data_scripts/thuman.py`

HumanRAM trains on 2.1 and puts its pictures on white; DAViD's THuman pictures are 1,578 of 526 scans: three of each.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.bodies import GENDERS, FamilyBody, body_of
from course_lib.real.checks import checked, differs, entry, expect
from course_lib.real.convert import main
from course_lib.real.labels import box_around, mask_box, points_field
from course_lib.real.overlay import project
from course_lib.real.safe import read_npz, read_pickle
from course_lib.real.scans import (
    Scan,
    camera_fields,
    checked_scan,
    picture_of,
    read_obj,
    read_texture,
    ring,
    textures_of,
    with_person,
)
from course_lib.real.source import Item, Source

FIRST_RELEASE = 526  # scans of THuman2.0; 2.1 goes on from there
TALL = (0.8, 2.6)  # metres: a scan's largest extent
AWAY = 0.06  # metres: the median from the fitted body to the scan; clothes are in between
APART = 0.03  # metres: the most that a posed body may differ from the mesh beside its parameters
PARTS = {  # of a pose in SMPL-X's order: key -> rows; hands follow
    **{"global_orient": slice(0, 1), "body_pose": slice(1, 22), "jaw_pose": slice(22, 23)},
    **{"leye_pose": slice(23, 24), "reye_pose": slice(24, 25)},
}
HANDS = {"left_hand_pose": slice(25, 40), "right_hand_pose": slice(40, 55)}


class THuman(Source):
    """People scanned with 128 cameras, and SMPL-X fitted to them."""

    name, title = "thuman", "THuman2.0 / THuman2.1: 526 / about 2,445 textured scans with SMPL-X fits"
    licence = "non-commercial research only, no redistribution; the agreement is signed by hand"
    register = "github.com/ytrock/THuman2.0-Dataset (a signed form, then a password)"
    download = (
        "the scans (THuman2.0_Release or THuman2.1_Release)",
        "their SMPL-X fits, of 14 May 2024 or later: earlier ones are misaligned",
    )
    layout = """
        0000/0000.obj, material0.mtl, material0.jpeg       or model/0000/..., THuman2.1_Release/0000/...
        ANY/0000/smplx_param.pkl, mesh_smplx.obj           the fits: a folder beside, or in the scan's own
    """
    pattern = "[0-9][0-9][0-9][0-9]/[0-9][0-9][0-9][0-9].obj"
    corrections = (
        "a fit's body is scaled first and moved then; its pose, shape and vertices are written, and a translation only "
        "where the scale is 1, since the schema has none",
        "hands of 12 numbers are PCA: with --bodies they become 45 and get the hands' mean; else no pose is written",
        "the translation is called translation or transl",
    )
    options = {
        "release": {"choices": ("2.0", "2.1"), "default": "2.1", "help": "2.0: the first 526 alone (2.1)"},
        "views": {"type": int, "default": 3, "help": "pictures of each scan, from a level ring (3)"},
        "pixels": {"type": int, "default": 512, "help": "the pictures' sides (512)"},
        "background": {"type": float, "default": 1.0, "help": "grey behind the person, 0 to 1 (1: white)"},
        "bodies": {"type": Path, "default": None, "help": "what body_models.py wrote (SMPL-X): adds poses and joints"},
        "gender": {"choices": GENDERS, "default": "neutral", "help": "of the body that was fitted (neutral)"},
        "without_fits": {"action": "store_true", "default": False, "help": "scans alone"},
    }
    per_shard = 40

    def groups(self) -> list[str]:
        """The scans."""
        found = [*self.root.glob(self.pattern), *self.root.glob(f"*/{self.pattern}")]
        scans = [p for p in found if p.stem == p.parent.name and p.is_file()]
        if self.option("release") == "2.0":
            scans = [p for p in scans if int(p.stem) < FIRST_RELEASE]
        return self.some(sorted(str(path.relative_to(self.root)) for path in scans))

    def items(self, group: str) -> Iterator[Item]:
        """A scan with all its views."""
        self.scan(group)
        problem = "" if textures_of(self.root / group) else f"{group}: expected material0.jpeg beside it, found none"
        yield Item(Path(group).stem, (group,), problem)

    def scan(self, group: str) -> tuple[Scan, dict]:
        """The mesh and its fit, both checked against each other."""
        path = self.root / group
        scan = checked_scan(read_obj(path), path, TALL)
        if scan.uv is None:
            raise differs(path, "f", "faces with places in the texture (vt)", "none")
        fit = {} if self.option("without_fits") else self.fit(path)
        if "vertices" in fit:
            away = float(np.median(cKDTree(scan.vertices).query(fit["vertices"])[0]))
            checked(away, fit["path"], "metres from the fit to the scan", (), high=AWAY)
        return scan, fit

    def fit(self, scan: Path) -> dict:
        """What is known of the body: pose (55, 3), shape, and where they can be had vertices and joints."""
        found = [*scan.parent.glob("smplx_param.pkl"), *self.root.glob(f"*/{scan.stem}/smplx_param.pkl")]
        if not found:
            hint = "--without-fits takes scans alone"
            raise differs(scan, "smplx_param.pkl", "a fit in the scan's folder or one beside", "none", hint)
        path = found[0]
        fit = read_fit(path)
        mesh = path.with_name("mesh_smplx.obj")
        given = checked_scan(read_obj(mesh), mesh, TALL).vertices if mesh.is_file() else None
        if self.option("bodies"):
            body = body_of(str(self.option("bodies")), "SMPLX", self.option("gender"))
            hands = hands_of(Path(self.option("bodies")) / f"SMPLX_{self.option('gender').upper()}.npz")
            fit |= posed(body, fit, hands)
            check_same(path, fit["vertices"], given)
        elif given is not None:
            fit["vertices"] = given
        return fit

    def read(self, item: Item) -> list[Sample]:
        """A scan as every camera of the ring sees it."""
        (group,) = item.place
        scan, fit = self.scan(group)
        texture, size = read_texture(self.root / group), self.option("pixels")
        cameras = ring(scan.vertices, self.option("views"), size)
        number, people = int(Path(group).stem), []
        for view, camera in enumerate(cameras):
            fields = picture_of(scan, texture, camera, (size, size), self.option("background"))
            sample = with_person(Sample(scene=number, view=view, **fields, **camera_fields(camera)))
            box, full = mask_box(sample.instances > 0), box_around(project(scan.vertices, sample))
            sample.people = [with_fit(PersonLabel(f"thuman-{number:04d}", box=box, full_box=full), fit, sample)]
            people.append(sample)
        return people


def read_fit(path: Path) -> dict:
    """smplx_param.pkl, checked: pose (55, 3) radians or None with hands of PCA, hands, betas, expression, scale, and
    translation (3,) metres."""
    table = read_pickle(path)
    pose = np.zeros((55, 3))
    for key, rows in PARTS.items():
        pose[rows] = flat(table, path, key, len(pose[rows]) * 3, high=4 * np.pi, unit="radians").reshape(-1, 3)
    hands = {key: flat(table, path, key, 0, high=30) for key in HANDS}
    if len({len(values) for values in hands.values()}) != 1 or len(hands["left_hand_pose"]) not in range(1, 46):
        raise differs(path, "left_hand_pose", "12 or 45 numbers for both hands", str([len(v) for v in hands.values()]))
    key = "transl" if "transl" in table else "translation"
    fit = {
        "path": path,
        "pose": pose,
        "hands": hands,
        "scale": float(flat(table, path, "scale", 1, low=0.1, high=5)[0]),
    }
    fit |= {name: flat(table, path, name, 0, high=30) for name in ("betas", "expression")}
    fit["translation"] = flat(table, path, key, 3, high=5, unit="metres")
    return fit


def flat(
    table, path: Path, key: str, size: int, low: float | None = None, high: float = 1, unit: str = ""
) -> np.ndarray:
    """What stands under a key, whatever its shape, as (size,); size 0 takes any. Range: -high to high, or from low."""
    value = checked(entry(table, path, key), path, key, low=-high if low is None else low, high=high, unit=unit)
    if value.ndim > 1 and value.shape[0] != 1 or size and value.size != size or not value.size:
        hint = "axes swapped?" if value.size == (size or value.size) else ""
        raise differs(path, key, f"(1, {size or 'N'}) numbers", str(value.shape), hint)
    return value.ravel().astype(np.float64)


def hands_of(path: Path) -> dict[str, np.ndarray]:
    """components (45, 45) and mean (45,) of both hands, from a body file of SMPL-X."""
    table, found = read_npz(path), {}
    for key, side in zip(HANDS, "lr", strict=True):
        found[key] = expect(table, path, f"hands_components{side}", (45, 45))
        found[f"{key} mean"] = expect(table, path, f"hands_mean{side}", (45,))
    return found


def posed(body: FamilyBody, fit: dict, hands: dict[str, np.ndarray]) -> dict:
    """pose (55, 3) with whole hands; vertices and joints metres: SMPL-X's, scaled, then moved."""
    pose = fit["pose"].copy()
    for key, rows in HANDS.items():
        given = fit["hands"][key]
        whole = given if len(given) == 45 else given @ hands[key][: len(given)]
        pose[rows] = (whole + hands[f"{key} mean"]).reshape(15, 3)
    count = body.shape_directions.shape[-1]
    betas = np.zeros(count)
    for values, first in ((fit["betas"], 0), (fit["expression"], 300 if count == 400 else count // 2)):
        some = min(len(values), count - first)
        betas[first : first + some] = values[:some]
    vertices, joints = body.posed(betas[None], pose[None].astype(np.float32))
    move = fit["translation"].astype(np.float32)
    scaled = {"vertices": vertices[0] * np.float32(fit["scale"]), "joints": joints[0] * np.float32(fit["scale"])}
    return {"pose": pose} | {name: points + move for name, points in scaled.items()}


def check_same(path: Path, vertices: np.ndarray, given: np.ndarray | None) -> None:
    """Raises a SourceError where a posed body isn't the mesh that lies beside its parameters."""
    if given is None:
        return
    if given.shape != vertices.shape:
        raise differs(
            path.with_name("mesh_smplx.obj"), "v", f"{len(vertices)} vertices as --bodies has", str(len(given))
        )
    apart = float(np.linalg.norm(vertices - given, axis=1).max())
    if apart > APART:
        hint = "the right --gender? Fits of before May 2024?"
        raise differs(path, "the posed body", f"mesh_smplx.obj within {APART} metres", f"{apart:.3f} metres", hint)


def with_fit(label: PersonLabel, fit: dict, sample: Sample) -> PersonLabel:
    """A label with what is known of the body. Pose: only with whole hands, that is with --bodies."""
    if not fit:
        return label
    label.shape, label.expression = (fit[name].astype(np.float32) for name in ("betas", "expression"))
    if fit["scale"] == 1:
        label.translation = fit["translation"].astype(np.float32)
    if "vertices" in fit:
        label.vertices = fit["vertices"].astype(np.float32)
    if "joints" in fit:
        label.pose = fit["pose"].astype(np.float32)
        spots = project(fit["joints"], sample)
        label.keypoints = {"smplx55": points_field(spots, sample.image.shape[1:], fit["joints"])}
    return label


if __name__ == "__main__":
    sys.exit(main(THuman))
