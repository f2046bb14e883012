"""Files of MATLAB: version 5 and 7 by scipy, version 7.3 (HDF5) by h5py. Neither runs code."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from course_lib.real.checks import SourceError, differs, entry, shown
from course_lib.real.safe import BROKEN, GIB, UnsafeFile, opened, unreadable


def read_mat(path: str | Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the variables `keys` that a .mat file of version 5 or 7 holds. Cells are arrays of objects, structs
    arrays with named fields. SourceError where it can't be read."""
    with opened(path):
        pass
    try:
        return {name: v for name, v in loadmat(path, variable_names=list(keys)).items() if name in keys}
    except NotImplementedError as error:
        raise SourceError(f"{shown(path)} is of MATLAB's version 7.3, one of version 5 or 7 was expected") from error
    except (*BROKEN, MatReadError) as error:
        raise unreadable(path, error) from error


def reader(package: str) -> ModuleType:
    """A package that not everybody needs. SourceError, with what to run, where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise SourceError(
            f"such files take the package {package}: run `pip install -e '.[real]'` in the course's folder"
        ) from error


def cells(mapping: Mapping, where: str | Path, key: str) -> list[np.ndarray]:
    """The arrays of a cell array, one after another. SourceError where the key holds something else."""
    value = entry(mapping, where, key)
    if not isinstance(value, np.ndarray) or value.dtype != object:
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise differs(where, key, "a cell array", found)
    return [np.asarray(each) for each in value.ravel()]


def read_hdf5(path: str | Path, keys: Sequence[str], most: int = 4 * GIB) -> dict[str, np.ndarray]:
    """Those of the arrays `keys` that a .mat file of version 7.3 holds, axes as h5py gives them. SourceError where it
    can't be read, UnsafeFile for arrays that lie in other files or unpack to more than `most` bytes."""
    h5py = reader("h5py")
    with opened(path):
        pass
    try:
        with h5py.File(path, "r") as file:
            return {key: hdf5_array(file, key, path, most) for key in keys if key in file}
    except SourceError:
        raise
    except BROKEN as error:
        raise unreadable(path, error) from error


def hdf5_array(file, key: str, path: str | Path, most: int) -> np.ndarray:
    """One array of an open HDF5 file."""
    h5py = reader("h5py")
    found = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if found is None or not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise UnsafeFile(f"{shown(path)}: {key} is a link, or its numbers lie in another file: it is refused")
    if found.nbytes > most:
        raise UnsafeFile(f"{shown(path)}: {key} has {found.nbytes:,} bytes, over {most:,}: it is refused")
    return np.asarray(found)
