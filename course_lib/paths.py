"""Where things are. Every path is found from the repository's root; environment variables move what may be moved."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = ROOT / "solutions"
NOTEBOOKS = ROOT / "notebooks"
CHAPTERS = ROOT / "course_lib" / "chapters"
ASSETS = ROOT / "course_lib" / "assets"
RESULTS = ROOT / "results"
CHECKPOINTS = ROOT / "checkpoints"
BUILD = ROOT / "build"
OPEN_BODY = ASSETS / "SMPLX_OPEN.npz"
OPEN_BODY_PACK = ASSETS / "SMPLX_OPEN_pack.npz"


def body_file() -> Path:
    """The body to load: the file named by COURSE_BODY (SMPL-X's own layout), else the open body in the repository."""
    return Path(os.environ.get("COURSE_BODY", OPEN_BODY))


def data_dir() -> Path:
    """Where `course data make` writes: the folder named by COURSE_DATA, else `data/` in the repository."""
    return Path(os.environ.get("COURSE_DATA", ROOT / "data"))
