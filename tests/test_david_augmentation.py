"""Chapter 09, augmentation: labels that stay true, noise that follows its law, random numbers that come back."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_david_files import SIZE, nobody, person
from torch import Tensor
from torch.nn.functional import avg_pool2d

from course_lib.chapters import david_data as david
from course_lib.chapters.david_data import Augmentation, augmented, packed, unpacked
from course_lib.chapters.sapiens_dense import mirrored
from course_lib.data.streams import TensorStream

STRONG = Augmentation(chance=1.0, grey=0.5, blur=0.05, gain=0.05, sigma=0.1, brightness=0.5, contrast=0.9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(sample) -> dict[str, Tensor]:
    return {name: values[None] for name, values in packed(sample).items()}


# ---------------------------------------------------------- the contract
def test_a_packed_sample_comes_back():
    sample = person()
    small = packed(sample)
    assert {name: (tuple(v.shape), v.dtype) for name, v in small.items()} == {
        "image": ((3, *SIZE), torch.uint8), "alpha": (SIZE, torch.uint8),
        "depth": (SIZE, torch.float32), "normals": ((3, *SIZE), torch.int8),
    }  # fmt: skip
    back = {name: values[0].numpy() for name, values in unpacked(batch_of(sample)).items()}
    known = np.isfinite(sample.depth)
    assert np.abs(back["image"] - sample.image).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(back["depth"], np.where(known, sample.depth, 0))
    assert (back["normals"] * sample.normals).sum(0)[known].min() > 0.9999 and (back["normals"][:, ~known] == 0).all()


@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG, Augmentation(on=False)])
@pytest.mark.parametrize("size", [SIZE, (64, 64), (7, 13), (1, 1), (5, 3)])
def test_what_comes_out_is_what_chapter_10_takes(augmentation, size):
    for seed in range(4):
        found = augmented(augmentation, size, batch_of(person()), seeded(seed))
        assert {name: tuple(v.shape) for name, v in found.items()} == {
            "image": (1, 3, *size), "alpha": (1, *size), "depth": (1, *size), "normals": (1, 3, *size)
        }  # fmt: skip
        assert all(v.dtype == torch.float32 and v.isfinite().all() for v in found.values())
        for name in ("image", "alpha"):
            assert found[name].min() >= 0 and found[name].max() <= 1
        length = found["normals"].norm(dim=1)
        assert (((length - 1).abs() < 1e-5) | (length == 0)).all()
        assert ((length > 0) == (found["depth"] > 0)).all()


def test_depth_and_normals_are_never_mixed():
    batch = batch_of(person())
    source = unpacked(batch)
    for seed in range(8):
        found = augmented(Augmentation(), (31, 23), batch, seeded(seed))
        assert torch.isin(found["depth"], torch.cat([source["depth"].flatten(), torch.zeros(1)])).all()
        pixels, known = found["normals"].flatten(2)[0].T, source["normals"].flatten(2)[0].T
        assert torch.cdist(pixels, torch.cat([known, torch.zeros(1, 3)])).amin(1).max() < 1e-4
    alpha = augmented(dataclasses.replace(Augmentation(), zoom=(1.2, 1.2)), SIZE, batch, seeded())["alpha"]
    assert not torch.isin(alpha, source["alpha"]).all()  # it is resampled smoothly


def test_picture_and_labels_move_together():
    """Each pixel carries its own column in all of them."""
    height, width = 40, 30
    column = np.broadcast_to(np.linspace(0.1, 0.9, width, dtype=np.float32), (height, width)).copy()
    sample = person(size=(height, width), image=np.stack([column] * 3), alpha=column, depth=1 + column)
    for seed in range(6):
        found = david.zoomed(Augmentation(), (32, 24), unpacked(batch_of(sample)), seeded(seed))
        inside = (found["depth"] > 0) & (found["alpha"] > 0.05)
        for values in (found["alpha"], found["image"][:, 1]):
            away = (values - (found["depth"] - 1)).abs()[inside]
            assert away.quantile(0.9) < 0.8 / width * 0.55 + 0.01  # half a pixel: nearest and bilinear differ by it


def test_off_is_off():
    batch = batch_of(person())
    found, plain = augmented(Augmentation(on=False), SIZE, batch, seeded()), unpacked(batch)
    for name in plain:
        assert torch.allclose(found[name], plain[name], atol=1e-5), name
    assert torch.equal(found["depth"], plain["depth"])


def test_random_numbers_come_from_the_generator_alone():
    batch, state = batch_of(person()), torch.get_rng_state()
    before = {name: values.clone() for name, values in batch.items()}
    first, second = (augmented(STRONG, SIZE, batch, seeded(3)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["image"], augmented(STRONG, SIZE, batch, seeded(4))["image"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_a_stream_goes_on_where_it_stopped():
    rows = [packed(person(seed)) for seed in range(5)]
    tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    batches = TensorStream(tensors, transform=david.transform(Augmentation(), SIZE)).batches(0, 2)
    all_of_them = [next(batches) for _ in range(4)]
    again = next(TensorStream(tensors, transform=david.transform(Augmentation(), SIZE)).batches(3, 2))
    assert all(torch.equal(again[name], all_of_them[3][name]) for name in again)


def test_nobody_and_one_pixel():
    found = augmented(STRONG, (9, 9), batch_of(nobody()), seeded())
    assert all((found[name] == 0).all() for name in ("alpha", "depth", "normals"))
    one = augmented(Augmentation(), (4, 4), batch_of(person(size=(1, 1))), seeded())
    assert one["image"].shape == (1, 3, 4, 4) and one["image"].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": None}, "sample 0000000 has no depth"),
        ({"alpha": np.zeros((3, 3), np.float32)}, r"image is \(24, 18\), but alpha is \(3, 3\)"),
        ({"alpha": np.full(SIZE, np.nan, np.float32)}, "alpha has NaN"),
        ({"depth": np.full(SIZE, np.nan, np.float32)}, "depth has NaN"),
    ],
)
def test_bad_samples_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        packed(dataclasses.replace(person(), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zoom": (0.0, 1.0)}, "smallest scale"),
        ({"zoom": (1.2, 0.8)}, "smallest scale"),
        ({"quality": (0, 95)}, "from 1 to 100"),
        ({"quality": (90, 30)}, "the lower one first"),
        ({"chance": 1.5}, "probabilities"),
        ({"grey": -0.1}, "probabilities"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**changes)


# ---------------------------------------------------------- geometry
def test_a_window_is_a_crop():
    picture = torch.rand(1, 3, 40, 60, generator=seeded())
    grid = david.window((40, 60), (20, 30), 2.0, 0.0, 0.0)  # zoom 2: half of it, in its own pixels
    assert torch.allclose(david.looked_up("image", picture, grid), picture[..., 10:30, 15:45], atol=1e-5)
    moved = david.window((40, 60), (20, 30), 2.0, 0.1, -0.2)  # by 3 columns to the right and 4 rows up
    assert torch.allclose(david.looked_up("image", picture, moved), picture[..., 6:26, 18:48], atol=1e-5)
    square = david.window((40, 60), (40, 40), 1.0, 0.0, 0.0)  # the largest square in the middle
    assert torch.allclose(david.looked_up("image", picture, square), picture[..., 10:50], atol=1e-5)


def test_beyond_the_edge_is_black_and_nobody():
    out = dataclasses.replace(Augmentation(), zoom=(0.5, 0.5), shift=0.0)
    found = david.zoomed(out, SIZE, unpacked(batch_of(person())), seeded())
    for values in found.values():
        assert (values[..., :5, :] == 0).all() and (values[..., :4] == 0).all()
    assert (found["image"][..., 8:-8, 6:-6] > 0).any()


def test_large_pictures_are_halved_before_they_are_read():
    """Stripes of one pixel become grey, not stripes of another width."""
    stripes = torch.arange(64).remainder(2).float().expand(1, 3, 64, 64)
    batch = {"image": stripes, "depth": 1 + stripes[:, 0], "alpha": stripes[:, 0]}
    found = david.zoomed(Augmentation(on=False), (16, 16), batch, seeded())
    assert torch.allclose(found["image"], torch.full_like(found["image"], 0.5))
    assert torch.isin(found["depth"], torch.tensor([1.0, 2.0])).all()
    odd = {"image": torch.rand(1, 3, 7, 9), "normals": torch.rand(1, 3, 7, 9), "alpha": torch.rand(1, 7, 9)}
    small = {name: david.halved(name, values) for name, values in odd.items()}
    assert small["image"].shape == small["normals"].shape == (1, 3, 3, 4) and small["alpha"].shape == (1, 3, 4)
    assert torch.equal(small["image"], avg_pool2d(odd["image"], 2))
    assert torch.equal(small["normals"], odd["normals"][..., :6:2, :8:2])


def ball(side: int = 64) -> Tensor:
    v, u = torch.meshgrid(*(2 * (torch.arange(side) + 0.5) / side - 1,) * 2, indexing="ij")
    inside = 0.8 - u.square() - v.square()
    normals = torch.stack([u, -v, inside.clamp(min=0).sqrt()])
    return (torch.nn.functional.normalize(normals, dim=0) * (inside > 0))[None]


@pytest.mark.parametrize("degrees", [0, 20, 90, 180, -75])
def test_a_ball_turned_is_the_same_ball(degrees):
    normals = ball()
    found = david.turned({"normals": normals}, degrees)["normals"]
    both = (found.norm(dim=1) > 0.5) & (normals.norm(dim=1) > 0.5)
    inner = both & (normals[:, 2] > 0.3)
    angle = (found * normals).sum(1)[inner].clamp(-1, 1).acos().rad2deg()
    assert angle.max() < 4 and both.sum() > 0.97 * (normals.norm(dim=1) > 0.5).sum()


def test_turning_is_counter_clockwise_in_pictures_that_are_not_square_too():
    picture = torch.zeros(1, 3, 21, 41)
    picture[..., 10, 25] = 1.0  # to the right of the middle, by 5
    turned = david.turned({"image": picture}, 90.0)["image"]
    assert turned[0, 0].argmax() == 5 * 41 + 20  # above it, by 5
    there = david.turned({"image": picture, "depth": picture[:, 0]}, 360.0)
    assert torch.allclose(there["image"], picture, atol=1e-4) and set(there) == {"image", "depth"}


def test_mirrored_twice_is_the_batch():
    batch = unpacked(batch_of(person()))
    twice = mirrored(mirrored(batch))
    assert all(torch.allclose(twice[name], batch[name]) for name in batch)
    normals = ball()
    assert torch.allclose(mirrored({"normals": normals})["normals"], normals, atol=1e-6)


# ---------------------------------------------------------- light
def test_noise_follows_its_law():
    levels = torch.linspace(0, 1, 11)
    image = levels.view(1, 1, 11, 1).expand(2, 3, 11, 5000)
    for gain, sigma in ((0.0, 0.03), (0.02, 0.0), (0.02, 0.03)):
        found = david.iso_noise(image, gain, sigma, seeded())
        slope, black = np.polyfit(levels, found.var((0, 1, 3)), 1)
        assert slope == pytest.approx(gain, rel=0.03, abs=1e-5) and black == pytest.approx(sigma**2, abs=5e-5)
        assert torch.allclose(found.mean((0, 1, 3)), levels, atol=4e-3)
    assert torch.equal(david.iso_noise(image, 0.0, 0.0, seeded()), image)


def test_blur_grows_with_the_picture():
    for side in (50, 200):
        point = torch.zeros(1, 3, side, side)
        point[..., side // 2, side // 2] = 1
        spread = david.blurred(point, 0.02)[0, 0].sum(0)
        places = torch.arange(side) - side // 2
        assert (spread * places.square()).sum().sqrt() == pytest.approx(0.02 * side, rel=0.03)
        assert spread.sum() == pytest.approx(1, abs=1e-4)
    assert torch.equal(david.blurred(point, 0.0), point)
    tiny = torch.rand(1, 3, 2, 3, generator=seeded())
    assert david.blurred(tiny, 0.5).shape == tiny.shape
    assert torch.allclose(david.blurred(torch.full((1, 3, 20, 20), 0.7), 0.1), torch.tensor(0.7))  # edges stay


def test_brightness_and_contrast_by_hand():
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert torch.allclose(david.exposed(image, 0.0, 1.0)[0, 0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]))
    assert torch.allclose(david.exposed(image, 0.0, -0.5)[0, 0, 0], torch.tensor([0.25, 0.375, 0.5, 0.75]))
    assert torch.allclose(david.exposed(image, 0.2, -0.5)[0, 0, 0], torch.tensor([0.35, 0.475, 0.6, 0.85]))
    assert torch.equal(david.exposed(image, 0.0, 0.0), image)


def test_colours():
    image = torch.rand(2, 3, 9, 7, generator=seeded())
    assert torch.allclose(david.tinted(image, 0.0, 0.0), image, atol=1e-5)
    assert torch.allclose(david.tinted(image, 1 / 3, 0.0), image.roll(1, dims=1), atol=1e-4)
    grey = david.tinted(image, 0.0, -1.0)
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-5) and torch.allclose(grey[:, 0], image.amax(1), atol=1e-5)
    luma = david.greyed(image)
    assert torch.equal(luma[:, 0], luma[:, 2])
    assert luma[0, 0, 0, 0] == pytest.approx(float(image[0, :, 0, 0] @ torch.tensor([0.299, 0.587, 0.114])), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (17, 9), (64, 48)])
def test_jpeg_spoils_more_at_a_lower_quality(size):
    image = torch.rand(2, 3, *size, generator=seeded())
    errors = [(david.compressed(image, quality) - image).abs().mean() for quality in (100, 50, 5)]
    assert david.compressed(image, 50).shape == image.shape
    assert size == (1, 1) or errors[0] < errors[1] < errors[2]


def test_each_change_has_its_chance():
    image = torch.full((1, 3, 16, 16), 0.5)
    generator, off = seeded(), dict.fromkeys(("blur", "gain", "sigma", "contrast", "hue", "saturation", "grey"), 0.0)
    bright = Augmentation(**off, quality=(100, 100), chance=0.3)
    changed = [david.photographed(bright, image, generator) for _ in range(300)]
    share = np.mean([float((one - image).abs().max()) > 0.01 for one in changed])
    assert abs(share - 0.3) < 3 * math.sqrt(0.3 * 0.7 / 300) + 0.02
    assert max(float((one - 0.5).abs().max()) for one in changed) <= 0.2 + 0.01
    assert torch.equal(david.photographed(Augmentation(on=False), image, generator), image)
