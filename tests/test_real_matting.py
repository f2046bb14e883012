"""Portraits with mattes: the three data sets' layouts, composites by a seed, broken versions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_files import (
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    content,
    huge_png,
    picture,
    report,
    run,
    script,
    truncate,
)

from course_lib.data import shards

matting = script("matting")
SIZE = (30, 40)  # width, height


def an_alpha(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A soft disc, 0 to 255."""
    y, x = np.mgrid[: size[1], : size[0]]
    return np.clip(40 * (10 + seed - np.hypot(x - 15, y - 20)), 0, 255).astype(np.uint8)


def matte(path: Path, seed: int = 0, mode: str = "L") -> Path:
    """Writes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(an_alpha(seed)).convert(mode).save(path)
    return path


def write_p3m(root: Path) -> Path:
    """All three parts under real names."""
    names = ("p_015dd31e", "p_1a2d7bda", "p_fedcba98")
    for part, images in (("train", "blurred_image"), ("validation/P3M-500-P", "blurred_image"),
                         ("validation/P3M-500-NP", "original_image")):  # fmt: skip
        for seed, name in enumerate(names):
            picture(root / part / images / f"{name}.jpg", SIZE, seed)
            matte(root / part / "mask" / f"{name}.png", seed)
    return root


def write_ppm(root: Path, images: str = "val/fg", mattes: str = "val/alpha") -> Path:
    """Photographs of Flickr's names; the mattes are JPEGs of three channels."""
    for seed, name in enumerate(("6146816_a2ab8d6ed4_o", "10120287_a4a1d0a9a5_o")):
        picture(root / images / f"{name}.jpg", SIZE, seed)
        matte(root / mattes / f"{name}.jpg", seed, "RGB")
    return root


def write_photomatte(root: Path) -> Path:
    """People of one colour each, with alpha."""
    root.mkdir(parents=True)
    for seed, name in enumerate(("0051115Q_000001_0041", "0051115Q_000002_0362", "0052115Q_000009_0001")):
        person = np.full((SIZE[1], SIZE[0], 4), (200, 10 * seed, 50, 0), np.uint8)
        person[..., 3] = an_alpha(seed)
        Image.fromarray(person).save(root / f"{name}.png")
    return root


@pytest.fixture
def behind(tmp_path) -> Path:
    """Backgrounds of one grey each, wide and high."""
    for number in range(6):
        size = (80, 40) if number % 2 else (20, 70)
        (tmp_path / "behind").mkdir(exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), 30 * number, np.uint8)).save(tmp_path / f"behind/{number}.png")
    return tmp_path / "behind"


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(matting.Matting, tmp_path, capsys)


@pytest.mark.parametrize("name", ["p3m-train", "p3m-p", "p3m-np"])
def test_p3m_becomes_pictures_with_alpha(tmp_path, capsys, name):
    root = write_p3m(tmp_path / "root")
    said = assert_good(matting.Matting, root, tmp_path / "out", capsys, "--set", name)
    samples = list(shards.read(tmp_path / "out"))
    assert said["samples"] == 3 and samples[1].key == "p_1a2d7bda" and samples[1].source == f"matting/{name}"
    np.testing.assert_allclose(samples[1].alpha, an_alpha(1) / 255, atol=1e-6)
    assert samples[1].people[0].identity == f"{name}-p_1a2d7bda"


@pytest.mark.parametrize("folders", [("val/fg", "val/alpha"), ("image", "matte")])
def test_ppm_becomes_pictures_with_alpha(tmp_path, capsys, folders):
    root = write_ppm(tmp_path / "root", *folders)
    assert_good(matting.Matting, root, tmp_path / "out", capsys, "--set", "ppm")
    found = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    assert len(found) == 2
    np.testing.assert_allclose(found["10120287_a4a1d0a9a5_o"].alpha, an_alpha(1) / 255, atol=0.15)  # JPEG


def test_photomatte_is_put_on_backgrounds_by_a_seed(tmp_path, behind, capsys):
    root = write_photomatte(tmp_path / "root")
    options = ("--set", "photomatte", "--backgrounds", str(behind))
    assert_good(matting.Matting, root, tmp_path / "out", capsys, *options)
    samples = list(shards.read(tmp_path / "out"))
    for number, sample in enumerate(samples):
        alpha = an_alpha(number) / 255
        np.testing.assert_allclose(sample.alpha, alpha, atol=1e-6)
        grey = 255 * sample.image[0, 0, 0]
        assert round(grey) % 30 == 0 and (sample.image[:, 0, 0] == sample.image[0, 0, 0]).all()
        expected = alpha * 10 * number + (1 - alpha) * grey
        np.testing.assert_allclose(255 * sample.image[1], expected, atol=1)
    assert run(matting.Matting, root, tmp_path / "same", *options) == 0
    assert content(tmp_path / "same") == content(tmp_path / "out")
    assert run(matting.Matting, root, tmp_path / "other", *options, "--seed", "1", "--per-person", "4") == 0
    many = list(shards.read(tmp_path / "other"))
    assert len(many) == 12 and many[0].key == "0051115Q_000001_0041-0"
    assert len({float(sample.image[0, 0, 0]) for sample in many}) > 2
    assert len({sample.people[0].identity for sample in many}) == 3


def test_photomatte_needs_backgrounds(tmp_path, capsys):
    root = write_photomatte(tmp_path / "root")
    words = ("--backgrounds", "pictures without people")
    assert_refused(matting.Matting, root, tmp_path / "out", capsys, words, "--set", "photomatte")


def test_a_background_fills_the_picture_and_keeps_its_shape():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255
    found = matting.filled(wide, (20, 30))
    assert found.shape == (20, 30, 3) and found[:, :12].max() < 60 and found[:, 18:].min() > 195


def wrong_mode(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def of_size(width: int, height: int):
    return lambda path: Image.fromarray(np.zeros((height, width), np.uint8)).save(path)


P3M_MATTE = "validation/P3M-500-NP/mask/p_1a2d7bda.png"
BROKEN = {
    "truncated": (truncate, ("p_1a2d7bda.png", "can't be read")),
    "missing": (Path.unlink, ("p_1a2d7bda.png", "the matte of a picture")),
    "empty": (lambda path: path.write_bytes(b""), ("p_1a2d7bda.png", "an empty file")),
    "0 to 1 for 0 to 255": (
        lambda path: Image.fromarray(an_alpha() // 255).save(path),
        ("alpha", "0 to 1 for 0 to 255?"),
    ),
    "swapped axes": (of_size(*SIZE[::-1]), ("p_1a2d7bda.png", "turned by 90 degrees")),
    "another size": (of_size(31, 40), ("p_1a2d7bda.png", "30 x 40 pixels", "31 x 40")),
    "colours": (wrong_mode, ("channels", "grey values")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_mattes_are_refused(tmp_path, capsys, name):
    root = write_p3m(tmp_path / "root")
    change, words = BROKEN[name]
    change(root / P3M_MATTE)
    assert_refused(matting.Matting, root, tmp_path / "out", capsys, words)
    assert_set_aside(matting.Matting, root, tmp_path / "out", capsys, words)
    assert report(tmp_path / "out")["samples"] == 2


def test_broken_people_of_photomatte_are_refused(tmp_path, behind, capsys):
    root = write_photomatte(tmp_path / "root")
    options = ("--set", "photomatte", "--backgrounds", str(behind))
    truncate(root / "0051115Q_000002_0362.png")
    words = ("0051115Q_000002_0362.png", "can't be read")
    assert_set_aside(matting.Matting, root, tmp_path / "out", capsys, words, *options)
    picture(root / "0051115Q_000002_0362.png", SIZE)
    assert_refused(matting.Matting, root, tmp_path / "no", capsys, ("RGBA: the matte is the fourth",), *options)


def test_a_picture_of_gigapixels_ends_the_run(tmp_path, capsys):
    root = write_p3m(tmp_path / "root")
    (root / P3M_MATTE).write_bytes(huge_png())
    assert run(matting.Matting, root, tmp_path / "out", "--tolerate", "1") == 1
    assert "refused" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_that_are_not_utf8_are_no_trouble(tmp_path, capsys):
    root = write_p3m(tmp_path / "root")
    folder = root / "validation/P3M-500-NP"
    for place, ending in (("original_image", ".jpg"), ("mask", ".png")):
        path = folder / place / f"p_015dd31e{ending}"
        path.rename(path.with_name(f"p_\udcff\udcfe{ending}"))
    assert_good(matting.Matting, root, tmp_path / "out", capsys)
    assert len(list(shards.read(tmp_path / "out"))) == 3
