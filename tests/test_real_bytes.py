"""Whatever byte of a source's file is wrong, its reader gives items or says which file is bad."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_real_goliath import BODY, goliath, write_goliath, write_table
from test_real_hi4d import CAMERAS, FIT, hi4d, write_hi4d
from test_real_synthhuman import NUMBERS, synthhuman, write_release_to
from test_real_thuman import FIT as SCAN_FIT
from test_real_thuman import a_body as a_scanned_body
from test_real_thuman import thuman, write_thuman
from test_real_zju import a_body, write_zju, zju

from course_lib.data.synthhuman import path_of
from course_lib.real.convert import examine
from course_lib.real.safe import UnsafeFile

NAMES = ("thuman fit", "thuman scan", "zju cameras", "zju fit", "hi4d cameras", "hi4d fit", "goliath", "synthhuman")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> dict[str, tuple]:
    """name -> source, group, file that gets a wrong byte."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "bodies").mkdir()
    np.savez(folder / "bodies" / "SMPL_NEUTRAL.npz", **a_body())
    np.savez(folder / "bodies" / "SMPLX_NEUTRAL.npz", **a_scanned_body())
    scans = thuman.THuman(write_thuman(folder / "thuman", folder / "bodies"))
    people = zju.ZJUMoCap(write_zju(folder / "zju", folder / "bodies"))
    pairs = hi4d.Hi4D(write_hi4d(folder / "hi4d"))
    captures = goliath.Goliath(write_goliath(folder / "goliath"), table=write_table(folder / "table.csv"))
    release = synthhuman.SynthHumanRelease(write_release_to(folder / "synthhuman"))
    scan, sequence, pair = "model/0003/0003.obj", "CoreView_377/annots.npy", "pair00/dance00/meta.npz"
    calibration = f"{BODY}/camera_calibration.json"
    return {
        "thuman fit": (scans, scan, SCAN_FIT),
        "thuman scan": (scans, scan, scan),
        "zju cameras": (people, sequence, sequence),
        "zju fit": (people, sequence, "CoreView_377/new_params/1.npy"),
        "hi4d cameras": (pairs, pair, CAMERAS),
        "hi4d fit": (pairs, pair, FIT),
        "goliath": (captures, ("full", "AXE977", calibration), calibration),
        "synthhuman": (release, ("full", NUMBERS), path_of("full", "normal", NUMBERS[0])),
    }


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_is_wrong_the_reader_gives_items_or_names_the_file(damaged, name, data):
    source, group, file = damaged[name]
    path = source.root / file
    whole = path.read_bytes()
    at = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(0, min(400, len(whole) - 1))))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        items, problem = examine(source, group)
        assert bool(items) != bool(problem)
        said = [problem, *(item.problem for item in items)]
        related = (path.name, "0003.obj", "smplx_param.pkl", "CoreView_377", "ims", "rgb_cameras.npz", "pair00")
        assert all(not words or any(word in words for word in related) for words in said), said
    except UnsafeFile as error:
        assert path.name in str(error)
    finally:
        path.write_bytes(whole)
