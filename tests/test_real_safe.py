"""Files that nobody vouches for: a malicious one of each kind is refused, real ones are read, cut ones named."""

import io
import os
import pickle
import pickletools
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import sparse

from course_lib.real import safe
from course_lib.real.checks import SourceError
from course_lib.real.safe import Limits, UnsafeFile


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, protocol):
    mark, path = tmp_path / "mark", tmp_path / "seq.pkl"
    path.write_bytes(pickle.dumps({"poses": np.zeros(3), "extra": Evil(mark)}, protocol))
    with pytest.raises(UnsafeFile, match=r"seq.pkl: it asks for (posix|nt).system"):
        safe.read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"c__builtin__\ngetattr\n(cnumpy\ndtype\nS'mro'\ntR.",
        b"cnumpy\nload\n(S'x.npy'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I4\ntS'b'\ntR.",
        b"cnumpy\nndarray\n((L100000000000L\ntS'u1'\ntR.",  # a hundred gigabytes
        b"ccopy_reg\n_reconstructor\n(cnumpy\ndtype\nc__builtin__\nobject\nNtR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(dS'__globals__'\n(dsb.",  # sets an attribute of a function
        b"Pother\n.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cbuiltins\nobject\n(tR.",
    ],
)  # fmt: skip
def test_pickles_that_are_more_than_data_are_refused(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(code)
    with pytest.raises(SourceError, match="x.pkl"):
        safe.read_pickle(tmp_path / "x.pkl")


def test_pickles_that_want_to_fill_the_memory_are_refused(tmp_path):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x02Nr\xff\xff\xff\xff.")  # place 4,294,967,295 of the memo: C's reader makes room for all
    assert safe.read_pickle(path) is None
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"few.")
    with pytest.raises(SourceError, match="bomb.pkl can't be read"):
        safe.read_pickle(path)
    lists = [0]
    for _ in range(40):
        lists = [lists] * 9  # 9^40 entries in forty lists
    path.write_bytes(pickle.dumps(lists))
    with pytest.raises(UnsafeFile, match="lists in lists that take over"):
        safe.read_pickle(path)
    for _ in range(40):
        lists = [lists]
    path.write_bytes(pickle.dumps(lists))
    with pytest.raises(UnsafeFile, match="over fifty deep"):
        safe.read_pickle(path)
    with pytest.raises(UnsafeFile, match="no more than 10"):
        safe.read_pickle(path, most=10)


@pytest.mark.parametrize("protocol", range(6))
def test_what_data_sets_pickle_is_read(tmp_path, protocol):
    table = {
        "poses": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3), np.float32))],
        "genders": ["m", "f"], "campose_valid": np.array([True, False]), "count": np.int64(7), "none": None,
        "names": np.array(["a", "bc"]), "objects": np.array([{"K": np.eye(3)}, None], object), "bytes": b"\xff\0",
        "regressor": sparse.csc_matrix(np.eye(3)), "rows": sparse.csr_matrix(np.eye(2)), "t": (1, 2.5),
    }  # fmt: skip
    path = tmp_path / "seq.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    found = safe.read_pickle(path)
    assert list(found) == list(table)
    np.testing.assert_array_equal(found["poses"][1], table["poses"][1])
    np.testing.assert_array_equal(found["regressor"], np.eye(3))
    np.testing.assert_array_equal(found["rows"], np.eye(2))
    np.testing.assert_array_equal(found["objects"][0]["K"], np.eye(3))
    assert (
        found["count"] == 7 and found["genders"] == ["m", "f"] and found["bytes"] == b"\xff\0" and found["t"][1] == 2.5
    )


def test_what_python_2_wrote_is_read(tmp_path):
    """Its text, array and number are bytes in the file, which latin1 gives back; 0x80 and more among them."""
    array = np.array([1.5, -2.0e300])
    kind = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    raw = repr(array.tobytes())[1:].encode()
    state = b"(I1\n(I2\nt" + kind + b"I00\nS" + raw + b"\ntb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state
    number = b"cnumpy.core.multiarray\nscalar\n(" + kind + b"S" + repr(array[1:].tobytes())[1:].encode() + b"\ntR"
    table = b"(dS'poses'\n" + made + b"sS'number'\n" + number + b"sS'gender'\nS'm'\ns."
    (tmp_path / "seq.pkl").write_bytes(table)
    found = safe.read_pickle(tmp_path / "seq.pkl")
    np.testing.assert_array_equal(found["poses"], array)
    assert found["number"] == array[1] and found["gender"] == "m"


def python2_pickle(name: bytes, module: bytes, state: dict) -> bytes:
    """An object as Python 2 wrote it with protocol 0: made by `_reconstructor`, then its values."""
    values = pickle.dumps(state, 0)[:-1]
    return b"ccopy_reg\n_reconstructor\n(c" + module + b"\n" + name + b"\nc__builtin__\nobject\nNtR" + values + b"b."


def test_chumpy_is_read_without_chumpy(tmp_path):
    path = tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl"
    path.write_bytes(python2_pickle(b"Ch", b"chumpy.ch", {"x": np.arange(4.0), "_dirty_vars": []}))
    np.testing.assert_array_equal(safe.read_pickle(path), np.arange(4.0))
    inner = {"a": np.arange(6.0), "idxs": np.array([5, 0]), "preferred_shape": (2, 1)}
    path.write_bytes(python2_pickle(b"Select", b"chumpy.reordering", inner))
    np.testing.assert_array_equal(safe.read_pickle(path), [[5.0], [0.0]])
    path.write_bytes(python2_pickle(b"Ch", b"chumpy.ch", {"y": 1}))
    with pytest.raises(SourceError, match="can't be read"):
        safe.read_pickle(path)
    path.write_bytes(python2_pickle(b"add", b"chumpy.ch_ops", {"a": 1}))
    with pytest.raises(UnsafeFile, match="chumpy.ch_ops.add"):
        safe.read_pickle(path)


def test_a_sparse_matrix_whose_indices_lie_outside_is_said_to_be_damaged(tmp_path):
    matrix = sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 2**30
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(matrix))
    with pytest.raises(SourceError, match="can't be read"):
        safe.read_pickle(tmp_path / "x.pkl")
    matrix = sparse.csc_matrix((2**20, 2**20))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(matrix))
    with pytest.raises(UnsafeFile, match="a sparse matrix of"):
        safe.read_pickle(tmp_path / "x.pkl")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_data_or_an_error_in_words(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "any.pkl"
    path.write_bytes(content)
    for reader in (safe.read_pickle, safe.read_npy, safe.read_npz, safe.read_json, safe.read_image):
        try:
            reader(path)
        except SourceError as error:
            assert "any.pkl" in str(error)


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
tables = st.recursive(
    numbers, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner), max_leaves=12
)


@settings(max_examples=40, deadline=None)
@given(tables, st.integers(0, 5))
def test_a_pickle_of_data_comes_back(tmp_path_factory, table, protocol):
    path = tmp_path_factory.mktemp("pickle") / "x.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    assert safe.read_pickle(path) == table


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(st.sampled_from(["f4", "<i8", "?", ">f8", "U3"]), arrays.array_shapes(min_dims=0)), st.data())
def test_arrays_come_back_from_all_three_formats_and_a_cut_is_noticed(tmp_path_factory, array, data):
    folder = tmp_path_factory.mktemp("arrays")
    np.save(folder / "x.npy", array)
    np.savez_compressed(folder / "x.npz", a=array)
    (folder / "x.pkl").write_bytes(pickle.dumps({"a": array}))
    for found in (safe.read_npy(folder / "x.npy"), *(safe.read_npz(folder / "x.npz").values())):
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(safe.read_pickle(folder / "x.pkl")["a"], array)
    for name, reader in (("x.npy", safe.read_npy), ("x.npz", safe.read_npz), ("x.pkl", safe.read_pickle)):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        if (folder / name).stat().st_size < len(whole):
            with pytest.raises(SourceError, match=name):
                reader(folder / name)


# ---------------------------------------------------------------- numpy and torch


def test_npz_and_npy_with_evil_objects_are_refused(tmp_path):
    mark = tmp_path / "mark"
    evil = np.array([Evil(mark)], object)
    np.save(tmp_path / "annots.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "meta.npz", good=np.ones(3), evil=evil)
    with pytest.raises(UnsafeFile, match="annots.npy.*system"):
        safe.read_npy(tmp_path / "annots.npy")
    with pytest.raises(UnsafeFile, match="meta.npz: evil.*system"):
        safe.read_npz(tmp_path / "meta.npz")
    assert list(safe.read_npz(tmp_path / "meta.npz", keys=("good",))) == ["good"]
    assert not mark.exists()


def test_an_object_array_of_a_table_is_the_table(tmp_path):
    table = {"cams": {"K": [np.eye(3)]}, "ims": [{"ims": ["a.jpg"]}]}
    np.save(tmp_path / "annots.npy", np.array(table, object), allow_pickle=True)
    found = safe.read_npy(tmp_path / "annots.npy")
    assert found["ims"] == table["ims"] and found["cams"]["K"][0].shape == (3, 3)


def test_an_array_that_claims_to_be_larger_than_its_file_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    (tmp_path / "x.npy").write_bytes(stream.getvalue())
    with pytest.raises(UnsafeFile, match="x.npy"):
        safe.read_npy(tmp_path / "x.npy")


def test_torch_files_hold_tensors_alone(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pth")
    assert safe.read_torch(tmp_path / "good.pth")["w"].sum() == 2
    torch.save({"w": Evil(mark)}, tmp_path / "evil.pth")
    with pytest.raises(UnsafeFile, match="evil.pth"):
        safe.read_torch(tmp_path / "evil.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:300])
    with pytest.raises(SourceError, match="cut.pth can't be read"):
        safe.read_torch(tmp_path / "cut.pth")
    assert not mark.exists()


# ---------------------------------------------------------------- archives


def a_tar(path: Path, *members: tuple[str, dict]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, values in members:
            member = tarfile.TarInfo(name)
            member.size = 4 if values.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else 0
            for key, value in values.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(b"data"))
    return path


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("../outside.txt", {}, "leads out of the folder"),
        ("/etc/outside", {}, "leads out of the folder"),
        ("a/../../outside", {}, "leads out of the folder"),
        ("C:/outside", {}, "leads out of the folder"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "good.txt"}, "is a link"),
        ("device", {"type": tarfile.CHRTYPE}, "is a device"),
        ("pipe", {"type": tarfile.FIFOTYPE}, "is a device"),
    ],
)
def test_tar_members_that_data_do_not_need_are_refused(tmp_path, name, values, words):
    path = a_tar(tmp_path / "x.tar.gz", ("good.txt", {}), (name, values))
    with pytest.raises(UnsafeFile, match=words):
        safe.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside", "a/../../outside", "..\\outside", "link"])
def test_zip_members_outside_and_links_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.txt", "data")
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFLNK | 0o777 if name == "link" else stat.S_IFREG | 0o644) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UnsafeFile, match="x.zip"):
        safe.extract(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside.txt").exists()


def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(4_000_000))
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 4_000_000
        archive.addfile(member, io.BytesIO(bytes(4_000_000)))
    for name in ("x.zip", "x.tar.gz"):
        for limits in (Limits(ratio=200, small=1_000_000), Limits(total=1_000_000)):
            with pytest.raises(UnsafeFile, match=rf"{name}.*bomb"):
                safe.extract(tmp_path / name, tmp_path / "out", limits)
        assert not (tmp_path / "out").exists()
        assert safe.extract(tmp_path / name, tmp_path / name[-2:])[0].stat().st_size == 4_000_000
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(30):
            archive.writestr(str(number), "")
    with pytest.raises(UnsafeFile, match="30 files|21 files"):
        safe.extract(tmp_path / "many.zip", tmp_path / "out", Limits(files=20))


def test_zip_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "one")
        archive.writestr("b", "two")
        archive.filelist[1].header_offset = archive.filelist[0].header_offset
    with pytest.raises(UnsafeFile, match="shares bytes"):
        safe.open_zip(path)


def test_good_archives_are_unpacked_and_nothing_is_overwritten(tmp_path):
    path = a_tar(tmp_path / "x.tar.gz", ("folder/good.txt", {}), ("folder/more", {"type": tarfile.DIRTYPE}))
    assert safe.extract(path, tmp_path / "out") == [tmp_path / "out" / "folder" / "good.txt"]
    assert (tmp_path / "out" / "folder" / "good.txt").read_bytes() == b"data"
    with pytest.raises(SourceError, match="File exists"):
        safe.extract(path, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="x.tar.gz can't be read"):
        safe.extract(path, tmp_path / "again")


# ---------------------------------------------------------------- pictures, JSON


def a_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    chunks = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_picture_that_is_too_large_is_refused_before_its_pixels_are_read(tmp_path, side):
    (tmp_path / "x.png").write_bytes(a_png(side, side))
    with pytest.raises(UnsafeFile, match="x.png.*pixels"):
        safe.read_image(tmp_path / "x.png")


def test_pictures_are_read_as_they_are_and_cut_ones_are_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(safe.read_image(tmp_path / "x.png", size=(6, 9)), pixels)
    np.testing.assert_array_equal(safe.read_image((tmp_path / "x.png").read_bytes()), pixels)
    with pytest.raises(SourceError, match="expected 6 x 9 pixels, found 9 x 6 .turned by 90 degrees"):
        safe.read_image(tmp_path / "x.png", size=(9, 6))
    palette = Image.fromarray(pixels[..., 0] // 64, "P")
    palette.putpalette([200, 100, 50] * 256)
    palette.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(safe.read_mask(tmp_path / "mask.png"), pixels[..., 0] // 64)
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:90])
    with pytest.raises(SourceError, match="x.png can't be read"):
        safe.read_image(tmp_path / "x.png")
    (tmp_path / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # Ghostscript would run it
    with pytest.raises(SourceError, match="x.eps can't be read"):
        safe.read_image(tmp_path / "x.eps")


def test_json_is_read_or_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1]}')
    assert safe.read_json(tmp_path / "x.json") == {"a": [1]}
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(SourceError, match="x.json can't be read"):
        safe.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b"")
    with pytest.raises(SourceError, match="an empty file"):
        safe.read_json(tmp_path / "x.json")
    with pytest.raises(SourceError, match="nowhere.json can't be opened"):
        safe.read_json(tmp_path / "nowhere.json")


def test_the_readers_own_pickles_name_what_we_admit():
    """numpy and scipy of today pickle by names that the table has, so that a new release can't lock us out unseen."""
    for value in (np.ones(2), np.float32(1), sparse.csr_matrix(np.eye(2)), sparse.coo_matrix(np.eye(2))):
        for protocol in range(6):
            code = pickle.dumps(value, protocol)
            assert np.size(safe.unpickled(io.BytesIO(code), "x")) >= 1, pickletools.dis(code)
