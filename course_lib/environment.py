"""Whether this machine can run the course: one line for each thing, with what mends it."""

import importlib
import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from course_lib.paths import ASSETS, OPEN_BODY, ROOT, body_file, data_dir

Row = tuple[bool, str, str, str]  # whether it is well, what, details, what mends it
MODULES = {"scikit-image": "skimage"}  # where the package's name is not the module's
INSTALL = "pip install -e .[test]"
GIBIBYTES_NEEDED = 5


def environment_report() -> list[Row]:
    """(ok, name, detail, mend) for Python, PyTorch, every dependency, the body, the data folder, the disk and ruff."""
    rows = [python_row(), torch_row(), *dependency_rows(), body_row(), data_row(), disk_row(), ruff_row()]
    return [(ok, name, detail, "" if ok else mend) for ok, name, detail, mend in rows]


def project() -> dict:
    """The `[project]` table of pyproject.toml, the one list of dependencies."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python_row() -> Row:
    from packaging.specifiers import SpecifierSet

    wanted = project()["requires-python"]
    ok = SpecifierSet(wanted).contains(platform.python_version())
    return ok, "python", f"{platform.python_version()} (needed: {wanted})", "make the .venv again with such a Python"


def torch_row() -> Row:
    """PyTorch and what it computes on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return False, "torch", f"cannot be imported: {error}", "pip install torch==2.13.0"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"CPU, {torch.get_num_threads()} threads"
    return True, "device", ", ".join([*devices, threads]), ""


def dependency_rows() -> Iterator[Row]:
    """Each dependency of pyproject.toml: there, new enough, importable."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, project()["dependencies"]):
        yield dependency_row(requirement.name, requirement.specifier)


def dependency_row(name: str, wanted) -> Row:
    """One package, really imported: a broken library shows only then."""
    try:
        version = importlib.metadata.version(name)
        importlib.import_module(MODULES.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return False, name, "not installed", INSTALL
    except Exception as error:  # a broken binary may raise anything
        return (
            False,
            name,
            f"cannot be imported: {type(error).__name__}: {error}",
            f"pip install --force-reinstall {name}",
        )
    return wanted.contains(version), name, f"{version} (needed: {wanted})", INSTALL


def body_row() -> Row:
    """The body file: there, and the open one unchanged, by the sha256 that stands beside it."""
    from course_lib.files import file_hash

    path = body_file()
    if not path.exists():
        mend = "git checkout course_lib/assets" if path == OPEN_BODY else "COURSE_BODY must name an SMPL-X .npz file"
        return False, "body", f"{shown(path)} is missing", mend
    if path != OPEN_BODY:
        return True, "body", f"{shown(path)} (from COURSE_BODY)", ""
    damaged = [file.name for file in sorted(ASSETS.glob("*.npz")) if file_hash(file) not in written_hashes()]
    words = (
        f"{', '.join(damaged)}: not the sha256 in {shown(ASSETS)}" if damaged else f"{shown(path)}, sha256 as written"
    )
    return not damaged, "body", words, "git checkout course_lib/assets"


def written_hashes() -> set[str]:
    """Every sha256 that a text file beside the assets holds."""
    files = [
        path for path in ASSETS.iterdir() if path.is_file() and path.suffix in ("", ".md", ".txt", ".json", ".sha256")
    ]
    return {digest for path in files for digest in re.findall(r"\b[0-9a-f]{64}\b", path.read_text(encoding="utf-8"))}


def data_row() -> Row:
    """Whether the data folder, or the nearest folder above it, can be written to."""
    folder = data_dir()
    place = existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            return True, "data folder", f"{shown(folder)} can be written", ""
    except OSError as error:
        return False, "data folder", f"{shown(folder)}: {error.strerror}", "set COURSE_DATA to a folder of yours"


def disk_row() -> Row:
    free = shutil.disk_usage(existing(data_dir())).free / 2**30
    return free >= GIBIBYTES_NEEDED, "disk", f"{free:.0f} GiB free", f"free {GIBIBYTES_NEEDED} GiB or set COURSE_DATA"


def ruff_row() -> Row:
    """The formatter's program, without which `course build` cannot write modules."""
    try:
        from ruff import find_ruff_bin

        return True, "ruff program", shown(Path(find_ruff_bin())), ""
    except (ImportError, FileNotFoundError):
        return False, "ruff program", "not found", "pip install --force-reinstall ruff"


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())


def shown(path: Path) -> str:
    """The path as seen from the repository or from the environment, where it is inside one."""
    for base in (ROOT, Path(sys.prefix)):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return str(path)
