"""Files that were made to harm: what a reader must refuse before it believes what the file says about itself."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from course_lib.data import synthhuman
from course_lib.real import matlab, safe
from course_lib.real.checks import SourceError
from course_lib.real.safe import UnsafeFile
from course_lib.real.weights import load, read_weights
from course_lib.released import ReleasedError, read_state

OBJECT = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR"
NUMBER = b"cnumpy\ndtype\n(S'f8'\nI00\nI01\ntR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
SCALAR = b"cnumpy.core.multiarray\nscalar\n("
CHUMPY = b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR"
TUPLES = b"I0\n" + b"".join(b"p%d\n0(" % n + b"g%d\n" % n * 9 + b"t" for n in range(35))  # 9^35 numbers, written out


def state(order: bytes = b"<", size: int = -1, flags: int = 0, fields: bytes = b"NNN") -> bytes:
    """What a pickle says about a dtype after it was made."""
    return b"(I3\nS'%s'\n%sI%d\nI-1\nI%d\ntb" % (order, fields, size, flags)


PICKLES = {
    "an address for an object": SCALAR + OBJECT + state(b"|") + b"S'AAAAAAAA'\ntR.",
    "addresses in an array": EMPTY + b"(I1\n(I1\nt" + OBJECT + state(b"|") + b"I00\nS'AAAAAAAA'\ntb.",
    "a field beyond its number": (
        SCALAR + b"cnumpy\ndtype\n(S'V8'\nI00\nI01\ntR"
        + state(b"|", 8, 0, b"N(S'a'\nt(dS'a'\n(" + NUMBER + b"I800000\nts") + b"S'AAAAAAAA'\ntR."
    ),
    "half a letter": SCALAR + b"cnumpy\ndtype\n(S'U1'\nI00\nI01\ntR" + state(size=3, flags=8) + b"S'AAAAAAAA'\ntR.",
    "letters that don't exist": (
        EMPTY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'U1'\nI00\nI01\ntR" + state(size=4, flags=8) + b"I00\nS'AAAA'\ntb."
    ),
    "room for 300 million objects": EMPTY + b"(I1\n(I300000000\nt" + OBJECT + state(b"|", -1, 63) + b"I00\n(ltb.",
    "an array that is filled twice": EMPTY + (b"(I1\n(I1\nt" + NUMBER + b"I00\nS'AAAAAAAA'\ntb") * 2 + b".",
    "a function among the data": b"(dS'x'\ncnumpy\nndarray\ns.",
    "a key of 9^35 numbers": b"(d" + TUPLES + b"I1\ns.",
    "the same in a table at once": b"(" + TUPLES + b"I1\nd.",
    "members of a set": b"\x80\x04\x8f(" + TUPLES + b"\x90.",
    "an error that would be written out": b"cnumpy.core.multiarray\n_reconstruct\n(" + TUPLES + b"(I0\ntS'b'\ntR.",
    "text in 9^35 numbers": b"c_codecs\nencode\n(Vx\n" + TUPLES + b"tR.",
    "numbers that an array is made of later": b"(dS'poses'\n" + TUPLES + b"s.",
    "chumpy's numbers": CHUMPY + b"(dS'x'\n" + TUPLES + b"sb.",
    "entries of an array": EMPTY + b"I0\nI1\ns.",
    "a changed dtype": NUMBER + b"(dS'x'\nI1\nsb.",
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_lie_are_refused(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(PICKLES[name])
    with pytest.raises(UnsafeFile, match="x.pkl: "):
        safe.read_pickle(tmp_path / "x.pkl")


def test_many_matrices_that_are_almost_empty_are_refused(tmp_path):
    from scipy import sparse

    matrices = [sparse.csc_matrix((2**13, 2**13)) for _ in range(3)]  # half a gibibyte each, in a hundred bytes
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(matrices))
    room = safe.Plain()
    room.dense = safe.GIB - 2**20
    with pytest.raises(UnsafeFile, match="almost empty"):
        room.of(safe.Unpickler(io.BytesIO((tmp_path / "x.pkl").read_bytes()), encoding="latin1").load())


# ---------------------------------------------------------------- numpy's and torch's files


@pytest.mark.parametrize("shape", [(-1, 2), (2**40,), (2**33, 2**33)])
def test_shapes_that_a_file_does_not_hold_are_refused(tmp_path, shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    (tmp_path / "x.npy").write_bytes(stream.getvalue() + bytes(64))
    np.savez(tmp_path / "x.npz", a=1)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue() + bytes(64))
    for reader, path in ((safe.read_npy, tmp_path / "x.npy"), (safe.read_npz, tmp_path / "x.npz")):
        with pytest.raises(UnsafeFile, match=path.name):
            reader(path)


def test_text_in_an_npy_file_has_letters_that_exist(tmp_path):
    np.save(tmp_path / "x.npy", np.array([0x41414141], "u4").view("U1"))
    with pytest.raises(UnsafeFile, match="x.npy: text with letters"):
        safe.read_npy(tmp_path / "x.npy")


def test_a_torch_file_that_is_packed_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good:
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
            for name in good.namelist():
                bomb.writestr(name, good.read(name))
    for reader, error in ((safe.read_torch, UnsafeFile), (read_state, ReleasedError)):
        assert reader(tmp_path / "good.pth")["w"].shape == (10_000,)
        with pytest.raises(error, match=r"bomb.pth: .* is packed"):
            reader(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.sparse_coo_tensor(size=(10**6, 10**6), check_invariants=True),
        lambda: torch.empty(9, device="meta"),
    ],
    ids=["repeated", "sparse", "meta"],
)
def test_tensors_that_claim_more_than_the_file_are_refused(tmp_path, make):
    torch.save({"w": [make()]}, tmp_path / "x.pth")
    with pytest.raises(UnsafeFile, match="x.pth"):
        safe.read_torch(tmp_path / "x.pth")


def test_many_names_of_one_tensor_are_refused_and_a_few_are_not(tmp_path):
    one = torch.zeros(10_000)
    torch.save({str(n): one for n in range(4)}, tmp_path / "few.pth")
    torch.save({str(n): one for n in range(40)}, tmp_path / "many.pth")
    assert len(safe.read_torch(tmp_path / "few.pth")) == 4
    with pytest.raises(UnsafeFile, match="many.pth"):
        safe.read_torch(tmp_path / "many.pth")


def torch_file(path: Path, code: bytes) -> Path:
    """A file of torch's whose pickle is `code`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", code), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", content)
    return path


def test_addresses_in_the_notes_of_weights_are_never_followed(tmp_path):
    """torch lets numpy's arrays through where we ask it to, and numpy believes what they say: neither is asked."""
    code = b"\x80\x02}X\x01\x00\x00\x00m" + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    code += b"C\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
    code += b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C\x08AAAAAAAAtbs."
    with pytest.raises(ReleasedError, match="x.pth"):
        read_state(torch_file(tmp_path / "x.pth", code))
    notes = {"meta": {"acc": np.float64(0.7), "curve": np.arange(3.0)}, "state_dict": {"w": torch.ones(2)}}
    torch.save(notes, tmp_path / "good.pth")
    assert list(read_state(tmp_path / "good.pth")) == ["w"]


@pytest.mark.parametrize("attack", ["a long header", "beyond the end", "one over the other", "no table"])
def test_safetensors_that_lie_are_refused(tmp_path, attack):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, path)
    header = {
        "beyond the end": '{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}',
        "one over the other": '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        '"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        "no table": "[" * 5000,
    }.get(attack, "").encode()
    claimed = 2**62 if attack == "a long header" else len(header)
    path.write_bytes(struct.pack("<Q", claimed) + header + bytes(16))
    for reader in (read_state, read_weights, load):
        with pytest.raises(ReleasedError, match="x.safetensors"):
            reader(path)


def test_onnx_files_that_name_other_files_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    outside = onnx.TensorProto(name="w", data_type=1, dims=[2, 2], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=str(secret))
    values = [onnx.helper.make_tensor_value_info(name, 1, [2, 2]) for name in "xy"]
    product = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    constant = onnx.helper.make_node("Constant", [], ["w"], value=outside)
    for nodes, weights in (([product], [outside]), ([constant, product], [])):
        graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], weights)
        (tmp_path / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        with pytest.raises(ReleasedError, match="in (other|another) file.* not opened"):
            read_weights(tmp_path / "x.onnx")


# ---------------------------------------------------------------- archives


def tar_with(header: bytes, content: bytes = b"") -> bytes:
    """A packed tar of one header and what follows."""
    return gzip.compress(header + content + bytes(1024))


def a_header(name: str, size: int, kind: bytes, pax: dict | None = None) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, pax or {}
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar_with(a_header("x", 2**33, tarfile.XHDTYPE)), "a name or note of 8,589,934,592 bytes"),
        (tar_with(a_header("x", 2**33, tarfile.GNUTYPE_LONGNAME)), "a name or note of"),
        (tar_with(a_header("x", 2**33, tarfile.XGLTYPE)), "a name or note of"),
        (tar_with(a_header("x", -1024, tarfile.REGTYPE)), "-1024 bytes"),  # tarfile would go round in circles
        (tar_with(a_header("x", 0, tarfile.REGTYPE, {"size": "-1536"})), "-1536 bytes"),
        (tar_with(a_header("x", 0, tarfile.GNUTYPE_SPARSE)), "holes"),
        (tar_with(a_header("x", 0, tarfile.REGTYPE, {"GNU.sparse.map": "0,1", "GNU.sparse.size": "999"})), "holes"),
        (tar_with(a_header("x", 0, tarfile.REGTYPE, {"path": "../outside"})), "leads out"),
        (tar_with(a_header("x", 0, b"1", {"linkpath": "/etc/passwd"})), "is a link"),
        (tar_with(a_header("x", 2**45, tarfile.REGTYPE)), "bomb"),
    ],
    ids=["pax", "long name", "global", "negative", "negative in pax", "sparse", "pax sparse", "path", "link", "bomb"],
)  # fmt: skip
def test_tars_that_lie_are_refused(tmp_path, content, words):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(UnsafeFile, match=words):
        safe.extract(tmp_path / "x.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside").exists()


def test_an_archive_writes_through_no_link_that_is_there(tmp_path):
    """A link in the target, that somebody else made: what lies behind it is not written to."""
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "folder").symlink_to(tmp_path / "elsewhere")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("folder/a.txt", "data")
    with pytest.raises(UnsafeFile, match="leads out of the folder"):
        safe.extract(tmp_path / "x.zip", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_zip_whose_members_lie_in_each_other_is_refused(tmp_path):
    """The quoted kind of bomb: each member's bytes are the next one's header and bytes."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("b", bytes(100))
    whole = inner.getvalue()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", whole)
        again = zipfile.ZipInfo("b")
        again.header_offset, again.CRC = 31, zlib.crc32(bytes(100))
        again.compress_size = again.file_size = 100
        archive.filelist.append(again)
    with pytest.raises(UnsafeFile, match="shares bytes"):
        safe.open_zip(tmp_path / "x.zip")


# ---------------------------------------------------------------- MATLAB's and EXR's files


def lying_mat(packed: bool, claimed: int, form: int) -> bytes:
    """A file of MATLAB's whose matrix x says that it has so many entries, and has none."""
    parts = struct.pack("<4I", 6, 8, form, 0) + struct.pack("<2I2i", 5, 8, 1, claimed)
    parts += struct.pack("<2H4s", 1, 1, b"x") + struct.pack("<2I", 16 if form == 4 else 9, 0)
    matrix = struct.pack("<2I", 14, len(parts)) + parts
    if packed:
        small = zlib.compress(matrix)
        matrix = struct.pack("<2I", 15, len(small)) + small
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + matrix


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("claimed", "form"), [(2**30, 4), (2**30, 6), (2**30, 1), (-5, 6), (1, 17), (2**31 - 1, 2)])
def test_matrices_that_claim_more_than_they_hold_are_refused(tmp_path, packed, claimed, form):
    (tmp_path / "x.mat").write_bytes(lying_mat(packed, claimed, form))
    with pytest.raises(UnsafeFile, match="x.mat: a matrix"):
        matlab.read_mat(tmp_path / "x.mat", ("x",))


def test_a_mat_file_in_a_cell_lies_as_well(tmp_path):
    stream = io.BytesIO()
    cell = np.empty(2, object)
    cell[:] = [np.array(["one", "text"], object), np.eye(3)]
    savemat(stream, {"x": cell})
    (tmp_path / "x.mat").write_bytes(stream.getvalue())
    assert matlab.read_mat(tmp_path / "x.mat", ("x",))["x"].shape == (1, 2)
    shape, lying = (struct.pack("<2I2i", 5, 8, 3, side) for side in (3, 2**29))
    lie = stream.getvalue().replace(shape, lying)
    assert lie != stream.getvalue()
    (tmp_path / "x.mat").write_bytes(lie)
    with pytest.raises(UnsafeFile, match=r"x.mat: a matrix says that it has 1,610,612,736 entries"):
        matlab.read_mat(tmp_path / "x.mat", ("x",))


def test_a_mat_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "GIB", 2**16)
    savemat(tmp_path / "x.mat", {"x": np.zeros(2**16)}, do_compression=True)
    with pytest.raises(UnsafeFile, match=r"x.mat: it unpacks to over"):
        matlab.read_mat(tmp_path / "x.mat", ("x",))


def exr(entries: list[tuple[bytes, bytes, bytes]], version: int = 2) -> bytes:
    """The beginning of an EXR file."""
    lines = [name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value for name, kind, value in entries]
    return synthhuman.EXR + struct.pack("<I", version) + b"".join(lines) + b"\0"


ONE = b"Y\0" + struct.pack("<4i", 2, 0, 1, 1)
SMALL, LARGE = (struct.pack("<4i", 0, 0, side, side) for side in (7, 2**20))
WINDOW = (b"dataWindow", b"box2i", SMALL)


@pytest.mark.parametrize(
    "entries",
    [
        [(b"channels", b"chlist", ONE), (b"dataWindow", b"box2i", LARGE)],
        [(b"comments", b"string", b"dataWindow\0box2i\0\x10\0\0\0" + SMALL), (b"channels", b"chlist", ONE),
         (b"dataWindow", b"box2i", LARGE)],
        [WINDOW, (b"channels", b"chlist", ONE), (b"dataWindow", b"box2i", LARGE)],
        [WINDOW, (b"channels", b"chlist", b"".join(b"%d" % n + ONE for n in range(99)))],
        [(b"channels", b"chlist", ONE)],
        [(b"x", b"string", b"x" * 5000), WINDOW],
    ],
    ids=["large", "another in a comment", "two", "many channels", "none", "far behind"],
)  # fmt: skip
def test_exr_headers_that_lie_are_refused_before_room_is_made(tmp_path, entries):
    (tmp_path / "depth_0000000.exr").write_bytes(exr(entries))
    with pytest.raises(synthhuman.ReleaseError, match=r"depth_0000000.*dataWindow"):
        synthhuman.read_exr(tmp_path / "depth_0000000.exr")


def test_exr_files_of_several_parts_are_refused(tmp_path):
    (tmp_path / "x.exr").write_bytes(exr([WINDOW, (b"channels", b"chlist", ONE)], 2 | 0x1000))
    with pytest.raises(synthhuman.ReleaseError, match=r"one picture"):
        synthhuman.read_exr(tmp_path / "x.exr")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe beside the pictures would block for ever, a device never end."""
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path in tmp_path.iterdir():
        for reader in (safe.read_image, safe.read_pickle, safe.read_npz, safe.read_json):
            with pytest.raises(SourceError, match=path.name):
                reader(path)
