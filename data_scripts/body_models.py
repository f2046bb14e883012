"""SMPL, SMPL+H and SMPL-X body files -> .npz without pickles. `python data_scripts/body_models.py --root R --out O`

SMPLX_NEUTRAL.npz and its like can be named by COURSE_BODY; `course_lib.real.bodies` poses all three families.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from course_lib.real.bodies import FAMILIES
from course_lib.real.checks import checked, differs, expect
from course_lib.real.convert import main
from course_lib.real.safe import read_npz, read_pickle
from course_lib.real.source import Item, Record, Source

FILES = (  # the names of the downloads, in lower case: (m|f|n) of a gender
    r"basicmodel_(m|f|neutral)_lbs_10_207_0_v1\.[01]\.0\.pkl",
    r"(?:smpl|smplh|smplx)_(male|female|neutral)\.(?:pkl|npz)",
    r"(male|female|neutral)/model\.(?:npz|pkl)",
)
GENDERS = {"m": "MALE", "f": "FEMALE", "n": "NEUTRAL"}
EXTRAS = {  # what SMPL+H and SMPL-X have beside: name -> shape
    **dict.fromkeys(("hands_componentsl", "hands_componentsr"), (45, 45)),
    **dict.fromkeys(("hands_meanl", "hands_meanr"), (45,)),
    **{"lmk_faces_idx": (51,), "lmk_bary_coords": (51, 3)},
    **{"dynamic_lmk_faces_idx": (79, 17), "dynamic_lmk_bary_coords": (79, 17, 3)},
}
INDICES = ("f", "kintree_table", "lmk_faces_idx", "dynamic_lmk_faces_idx")


class BodyModels(Source):
    """The three families' files, as they were unpacked."""

    name, title = "body_models", "SMPL, SMPL+H and SMPL-X body models (Max Planck Institute for Intelligent Systems)"
    licence = "non-commercial scientific research only, no redistribution (each family has its own licence text)"
    register = "smpl.is.tue.mpg.de, mano.is.tue.mpg.de (SMPL+H), smpl-x.is.tue.mpg.de"
    download = (
        "SMPL for Python, version 1.1.0 (10 shape components, three genders)",
        "Extended SMPL+H model for AMASS (smplh.tar.xz)",
        "SMPL-X v1.1 (models_smplx_v1_1.zip)",
    )
    layout = """
        .../basicmodel_{m,f,neutral}_lbs_10_207_0_v1.1.0.pkl   SMPL, or SMPL_{MALE,FEMALE,NEUTRAL}.pkl
        .../{male,female,neutral}/model.npz                    SMPL+H, or SMPLH_{MALE,FEMALE}.pkl
        .../SMPLX_{MALE,FEMALE,NEUTRAL}.npz                    SMPL-X (of a .pkl beside it the .npz is taken)
        any of them, in any folder under the root
    """
    corrections = (
        "SMPL's pickles name classes of chumpy and scipy: their numbers are taken, nothing of the pickles is run",
        "the root's parent, 4294967295 in the files, becomes -1",
    )
    tables, own_names = True, True
    vertices: ClassVar[dict[str, int]] = {"SMPL": 6890, "SMPLH": 6890, "SMPLX": 10475}

    def groups(self) -> list[str]:
        """The files whose names are those of the downloads; a pickle beside an .npz of its name is left out."""
        paths = [p for p in self.root.rglob("*") if p.suffix in (".pkl", ".npz") and p.is_file() and gender_in(p)]
        taken = [p for p in paths if p.suffix == ".npz" or p.with_suffix(".npz") not in paths]
        return self.some(sorted(str(path.relative_to(self.root)) for path in taken))

    def items(self, group: str) -> Iterator[Item]:
        """One: SMPL_MALE and so on."""
        table, family = self.arrays(group)
        yield Item(f"{family}_{gender_in(self.root / group)}", (group,))

    def read(self, item: Item) -> list[Record]:
        """The arrays of a file."""
        return [self.arrays(item.place[0])[0]]

    def arrays(self, group: str) -> tuple[Record, str]:
        """Its arrays, all checked, in the order of SMPL-X's file; and the family."""
        path = self.root / group
        table = read_npz(path, (*NEEDED, *EXTRAS)) if path.suffix == ".npz" else read_pickle(path)
        tree = expect(table, path, "kintree_table", (2, "J"), "i")
        family = FAMILIES.get(tree.shape[1])
        if family is None:
            raise differs(path, "kintree_table", "24, 52 or 55 joints", str(tree.shape[1]))
        sizes = {"J": tree.shape[1], "V": self.vertices[family]}
        shapes = NEEDED | {"posedirs": ("V", 3, 9 * (sizes["J"] - 1))} | {k: EXTRAS[k] for k in EXTRAS if k in table}
        found = {k: expect(table, path, k, shape, KIND[k], sizes=sizes) for k, shape in shapes.items()}
        check_body(path, found, tree)
        found["kintree_table"] = np.where(tree == 2**32 - 1, -1, tree.astype(np.int64))
        return {k: a.astype(np.int64 if KIND[k] == "i" else np.float32) for k, a in found.items()}, family


NEEDED = {
    **{"v_template": ("V", 3), "f": ("F", 3), "shapedirs": ("V", 3, "C"), "posedirs": ("V", 3, "P")},
    **{"J_regressor": ("J", "V"), "weights": ("V", "J"), "kintree_table": (2, "J")},
}
KIND = {name: "i" if name in INDICES else "f" for name in (*NEEDED, *EXTRAS)}


def gender_in(path: Path) -> str:
    """MALE, FEMALE or NEUTRAL, from a file's name and folder; "" where it is no name of the downloads."""
    for pattern in FILES:
        if found := re.search(rf"(?:^|/){pattern}$", path.as_posix(), re.IGNORECASE):
            return GENDERS[found[1][0].lower()]
    return ""


def check_body(path: Path, found: Record, tree: np.ndarray) -> None:
    """Units, axes, indices and weights. SourceError."""
    template, weights = found["v_template"], found["weights"]
    extent = np.ptp(template, axis=0)
    checked(extent.max(), path, "v_template's extent", (), low=1.2, high=2.4, unit="metres")
    if extent[2] != extent.min():
        raise differs(path, "v_template", "a body that is thinnest along z (y up, facing z)", str(extent.round(2)))
    expect(found, path, "f", kind="i", low=0, high=len(template) - 1)
    for name in ("shapedirs", "posedirs"):
        expect(found, path, name, low=-10, high=10)
    expect(found, path, "weights", low=-1e-6, high=1 + 1e-3)
    if (wrong := float(np.abs(weights.sum(1) - 1).max())) > 1e-3:
        raise differs(path, "weights", "weights that sum to 1 at every vertex", f"an error of {wrong:.3g}")
    parents = tree[0, 1:]
    if (parents < 0).any() or (parents >= np.arange(1, tree.shape[1])).any():
        raise differs(path, "kintree_table", "each joint's parent before the joint", str(tree[0].tolist()))
    joints = found["J_regressor"] @ template
    if (joints < template.min(0) - 0.05).any() or (joints > template.max(0) + 0.05).any():
        raise differs(path, "J_regressor", "joints inside of the body", "some outside")


if __name__ == "__main__":
    sys.exit(main(BodyModels))
