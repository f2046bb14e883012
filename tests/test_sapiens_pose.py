"""Chapter 07: crops, heatmaps, skeletons, augmentation, the network, its recipe, and what goes wrong."""

import dataclasses
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import launch
from course_lib.chapters import sapiens_pose as pose
from course_lib.chapters import sapiens_pretraining as mae
from course_lib.chapters.sapiens_pose import CONFIGS, DeconvHead, PoseEstimator, keypoint_names
from course_lib.chapters.transformers import VisionTransformer, sincos_position_embedding
from course_lib.data.streams import TensorStream
from course_lib.metrics import BODY_SIGMAS, People, oks
from course_lib.recipe import Optimizer, parameter_groups

SMOKE = CONFIGS["smoke"]
BOX = torch.tensor([8.0, 4, 36, 44])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stick_figure(key: str = "one", size: int = 48, people: int = 1, count: int = 17):
    """A sample with random pixels and people whose keypoints are spread over their box."""
    rng = np.random.default_rng(0)
    points = (rng.random((count, 2)) * (28, 40) + (8, 4)).astype(np.float32)
    known = SimpleNamespace(points_2d=points, visible=np.full(count, 2, np.uint8))
    person = SimpleNamespace(box=BOX.numpy().copy(), keypoints={pose.FORMATS[count]: known})
    image = rng.random((3, size, size)).astype(np.float32)
    return SimpleNamespace(key=key, image=image, people=[person] * people, instances=None)


def person(count: int = 17) -> tuple[torch.Tensor, ...]:
    """A picture, a box, points and visibility."""
    sample = stick_figure(count=count)
    known = sample.people[0].keypoints[pose.FORMATS[count]]
    return (
        torch.from_numpy(sample.image),
        BOX.clone(),
        torch.from_numpy(known.points_2d),
        torch.from_numpy(known.visible),
    )


# ---------------------------------------------------------- crops
def test_warp_reads_the_very_pixels_where_crop_and_picture_agree():
    image = torch.rand(1, 3, 20, 16)
    box = torch.tensor([[0.0, 0, 16, 20]])
    crop, matrix = pose.crop_people(image, box, (20, 16), padding=1.0)
    torch.testing.assert_close(crop, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), atol=1e-5, rtol=0)


def test_a_spot_in_the_picture_is_found_where_the_matrix_says():
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    spot = torch.tensor([30.3, 22.8])
    image = torch.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 18).expand(1, 3, -1, -1)
    crop, matrix = pose.crop_people(image, torch.tensor([[15.0, 5, 45, 50]]), (64, 48), angle=0.4)
    expected = pose.move(spot.view(1, 1, 2), pose.inverse(matrix))[0, 0]
    found, _ = pose.decode_heatmaps(crop[:, :1], 6.0)
    torch.testing.assert_close(found[0, 0], expected, atol=0.1, rtol=0)


def test_eight_bit_pictures_come_out_in_0_to_1_and_outside_is_black():
    image = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    crop, _ = pose.crop_people(image, torch.tensor([[-30.0, 4, 20, 40]]), (64, 48))
    assert crop.dtype == torch.float32 and crop.max() == 1 and (crop[..., :4] == 0).all()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([40.0, 10, 60, 30], "the picture 32 x 32 pixels: give left < right"),
        ([-20.0, -20, 0, 0], "at least partly inside"),
        ([10.0, 10, 10, 30], "give left < right and top < bottom"),
        ([10.0, 30, 20, 10], "give left < right and top < bottom"),
        ([math.nan, 10, 20, 30], "box 1 is"),
    ],
)
def test_a_box_that_is_none_or_outside_the_picture_is_refused_in_words(box, words):
    boxes = torch.tensor([[4.0, 4, 20, 20], box])
    with pytest.raises(ValueError, match=words):
        pose.crop_people(torch.rand(1, 3, 32, 32), boxes, (32, 24))


def test_a_picture_with_nan_is_refused_in_words():
    image = torch.rand(1, 3, 32, 32)
    image[0, 1, 3, 3] = math.nan
    with pytest.raises(ValueError, match="a picture holds NaN or infinity"):
        pose.crop_people(image, torch.tensor([[4.0, 4, 20, 20]]), (32, 24))


# ---------------------------------------------------------- heatmaps
@pytest.mark.parametrize(("size", "sigma"), [((64, 48), 1.5), ((256, 192), 6.0), ((16, 12), 1.0)])
def test_points_survive_heatmaps_to_a_fraction_of_a_cell(size, sigma):
    margin = 2 + sigma  # nearer to the border the smoothing sees only part of the bell
    points = margin + torch.rand(2, 40, 2, generator=generator()) * (torch.tensor([size[1], size[0]]) - 2 * margin)
    found, score = pose.decode_heatmaps(pose.encode_heatmaps(points, size, sigma), sigma)
    assert (found - points).abs().max() < 0.05
    assert (score > 0.7).all() and (score <= 1).all()


def test_points_at_the_border_are_off_by_less_than_a_cell():
    points = torch.tensor([[[0.1, 0.2], [47.9, 63.7], [0.5, 30.2], [20.1, 0.05]]])
    found, _ = pose.decode_heatmaps(pose.encode_heatmaps(points, (64, 48), 1.5), 1.5)
    assert (found - points).abs().max() < 0.6


def test_to_encode_a_mirrored_point_is_to_mirror_the_heatmap():
    points = torch.rand(1, 9, 2, generator=generator()) * torch.tensor([48.0, 64])
    mirrored = torch.stack([48 - points[..., 0], points[..., 1]], -1)
    maps = pose.encode_heatmaps(points, (64, 48), 1.5)
    torch.testing.assert_close(pose.encode_heatmaps(mirrored, (64, 48), 1.5), maps.flip(-1))


def test_flat_and_empty_heatmaps_decode_to_something_finite_with_score_zero():
    points, scores = pose.decode_heatmaps(torch.zeros(2, 3, 16, 12), 1.0)
    assert points.isfinite().all() and (scores == 0).all()
    points, _ = pose.decode_heatmaps(-torch.rand(2, 3, 16, 12), 1.0)
    assert points.isfinite().all()


def test_heatmaps_with_nan_are_refused_in_words():
    with pytest.raises(ValueError, match="heatmaps hold NaN or infinity"):
        pose.decode_heatmaps(torch.full((1, 2, 8, 6), math.nan), 1.0)


# ---------------------------------------------------------- the network
SMALL = [name for name in CONFIGS if not name.startswith("pose")]


@pytest.mark.parametrize("name", [*SMALL, "pose-308-0.3b", "pose-17-2b"])
def test_each_configuration_builds_on_the_meta_device_and_its_loss_runs_there(name):
    config = CONFIGS[name]
    plan = pose.recipe(config, None)
    with torch.device("meta"):
        model = plan.model()
    batch = {key: value.to("meta") for key, value in plan.example(1).items()}
    maps = model(batch["image"])
    height, width = (4 * side // config.patch for side in config.size)
    assert maps.shape == (1, config.keypoints, height, width)
    assert plan.loss(model, batch).shape == ()


@pytest.mark.parametrize(("size", "millions"), [("0.3b", 23.44), ("0.6b", 26.58), ("1b", 29.73), ("2b", 34.45)])
def test_the_head_has_as_many_weights_as_the_authors(size, millions):
    config = CONFIGS[f"pose-308-{size}"]
    with torch.device("meta"):
        head = DeconvHead(config.width, config.deconvs, config.convs, 308)
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 2) == millions
    names = {"deconvs.0.weight", "deconvs.1.weight", "last.weight", "last.bias"}
    assert set(head.state_dict()) == names | {f"convs.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}


def test_the_head_equals_pytorch_modules():
    head = DeconvHead(12, (8,), (6,), 3)
    layers = [
        head.deconvs[0],
        nn.InstanceNorm2d(8),
        nn.SiLU(),
        head.convs[0],
        nn.InstanceNorm2d(6),
        nn.SiLU(),
        head.last,
    ]
    x = torch.randn(2, 12, 4, 3)
    torch.testing.assert_close(head(x), nn.Sequential(*layers)(x))


def test_the_head_drops_whole_channels_in_training_only():
    head, x = DeconvHead(12, (8,), (6,), 3, dropout=0.5), torch.randn(2, 12, 4, 3)
    assert not torch.allclose(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_shifted_patches_are_a_padded_convolution():
    encoder, images = pose.task_encoder(SMOKE), torch.rand(2, 3, *SMOKE.size)
    encoder.blocks, encoder.norm = nn.ModuleList(), nn.Identity()
    nn.init.zeros_(encoder.pos_embed)
    proj = encoder.patch_embed.proj
    padded = nn.functional.conv2d(images, proj.weight, proj.bias, stride=SMOKE.patch, padding=2)
    torch.testing.assert_close(pose.feature_map(encoder, images, shift=2), padded, atol=1e-5, rtol=1e-5)
    plain = nn.functional.conv2d(images, proj.weight, proj.bias, stride=SMOKE.patch)
    torch.testing.assert_close(pose.feature_map(encoder, images), plain, atol=1e-5, rtol=1e-5)


def test_feature_map_lays_tokens_out_row_by_row_and_leaves_a_cls_token_out():
    encoder = VisionTransformer((16, 24), 8, 12, 1, 2, cls=True)
    images = torch.rand(2, 3, 16, 24)
    maps, tokens = pose.feature_map(encoder, images), encoder(images)
    assert maps.shape == (2, 12, 2, 3)
    torch.testing.assert_close(maps[:, :, 1, 2], tokens[:, 1 + 5])


def test_a_task_encoder_starts_from_the_waves_and_learns_its_places():
    encoder = pose.task_encoder(SMOKE)
    assert encoder.cls_token is None and encoder.pos_embed.requires_grad
    torch.testing.assert_close(encoder.pos_embed[0], sincos_position_embedding((4, 3), SMOKE.width))


# ---------------------------------------------------------- from pretraining
def teacher() -> mae.MaskedAutoencoder:
    """A masked autoencoder with the smoke configuration's sizes."""
    return mae.MaskedAutoencoder(mae.CONFIGS["smoke"])


def test_an_autoencoders_encoder_is_loaded_and_says_the_same_on_a_square():
    model, state = teacher(), mae.encoder_state(teacher())
    model.encoder.load_state_dict(state)
    square = dataclasses.replace(SMOKE, size=(32, 32))
    encoder = pose.task_encoder(square)
    pose.load_pretrained(encoder, state, (4, 4))
    images = torch.rand(2, 3, 32, 32)
    tokens = model.encoder.embed(images)[:, 1:]  # without the cls token
    torch.testing.assert_close(encoder(images), model.encoder.encode(tokens), atol=1e-5, rtol=1e-5)


def test_the_recipe_begins_with_pretrained_weights_every_time():
    state = mae.encoder_state(teacher())
    model = pose.recipe(SMOKE, None, state).model()
    torch.testing.assert_close(model.encoder.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
    assert model.encoder.pos_embed.shape == (1, 12, SMOKE.width)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("norm.weight"), "norm.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(3)), "extra is unknown"),
        (lambda state: state.update({"norm.bias": torch.zeros(5)}), r"norm.bias is \(5,\), not \(32,\)"),
        (lambda state: state.update(pos_embed=torch.zeros(1, 12, 32)), "12 positions are not those of 4 x 4 patches"),
        (lambda state: state.pop("pos_embed"), "0 positions are not those of 4 x 4 patches"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(change, words):
    state, encoder = dict(mae.encoder_state(teacher())), pose.task_encoder(SMOKE)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=words):
        pose.load_pretrained(encoder, state, (4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


# ---------------------------------------------------------- skeletons
@pytest.mark.parametrize("count", pose.FORMATS)
def test_a_mirror_twice_is_nothing_and_left_becomes_right(count):
    swap, names = pose.MIRROR[count], keypoint_names(count)
    assert [swap[i] for i in swap] == list(range(count))
    for name, other in zip(names, (names[i] for i in swap), strict=True):
        assert ("left" in name) == ("right" in other)


@pytest.mark.parametrize("count", pose.FORMATS)
def test_the_mirror_is_that_of_a_symmetric_body(count):
    from course_lib.data.keypoints import available, keypoints
    from course_lib.data.person import load_body

    points = keypoints(load_body().model.template[None], pose.FORMATS[count])[0]
    off = (points[pose.MIRROR[count]] - points * torch.tensor([-1.0, 1, 1])).norm(dim=1)
    assert off[torch.from_numpy(available(pose.FORMATS[count]))].max() < 0.001  # metres


def test_the_common_keypoints_are_114_pairs_that_lie_together():
    from course_lib.data.keypoints import keypoints
    from course_lib.data.person import load_body

    pairs = torch.tensor(list(pose.COMMON.items()))
    assert len(pairs) == 114 == len(set(pairs[:, 1].tolist()))
    places = {n: keypoints(load_body().model.template[None], pose.FORMATS[n])[0] for n in (133, 308)}
    assert (places[133][pairs[:, 0]] - places[308][pairs[:, 1]]).norm(dim=1).max() < 0.003  # metres
    both = {number: pose.MIRROR[133][number] for number in pairs[:, 0].tolist()}
    partners = pose.COMMON
    assert all(partners[both[a]] == pose.MIRROR[308][b] for a, b in partners.items())


def test_an_unknown_number_of_keypoints_is_refused_in_words():
    with pytest.raises(ValueError, match="no skeleton has 21 keypoints: use 17, 133, 308"):
        keypoint_names(21)


# ---------------------------------------------------------- training data
def test_a_person_without_augmentation_is_where_the_crop_puts_them():
    image, box, points, visible = person()
    made = pose.person_batch(SMOKE, image, box, points, visible)
    crop, matrix = pose.crop_people(image[None], box[None], SMOKE.size)
    torch.testing.assert_close(made["image"], crop[0])
    torch.testing.assert_close(pose.move(made["points"][None], matrix)[0], points, atol=1e-3, rtol=0)
    assert (made["weight"] == 1).all()


def coloured_person():
    """Somebody to be augmented in full, in a picture whose colours are its coordinates: red is x, green is y."""
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    image = torch.stack([x / 48, y / 48, torch.ones_like(x)])
    return dataclasses.replace(SMOKE, size=(128, 96), strength=1.0), image, *person()[1:]


@pytest.mark.parametrize("seed", range(12))
def test_augmented_points_stay_on_their_pixels(seed):
    """Wherever the crop shows something, its colour names its place."""
    config, image, box, points, visible = coloured_person()
    plain = generator(seed)
    matrix = pose.jittered_frame(config, box, plain)
    crop = pose.cut_out(image[None], matrix, config.size)
    inside = pose.move(points[None], pose.inverse(matrix))
    crop, inside, _ = pose.mirrored(crop, inside[0], visible > 0) if seed % 2 else (crop, inside[0], None)
    if seed % 2:
        points = points[pose.MIRROR[17]]
    for spot, place in zip(inside, points, strict=True):
        column, row = (int(v) for v in spot.floor())
        if 2 <= column < 94 and 2 <= row < 126:
            colour = crop[0, :2, row, column]
            assert (48 * colour - place).abs().max() < 1.5, "the pixel is from another place of the picture"


def test_half_a_body_is_the_box_of_its_points():
    _, box, points, visible = person()
    halves = {tuple(pose.half_body(box, points, visible > 0, generator(seed)).tolist()) for seed in range(20)}
    lower = torch.tensor(["hip" in name or "knee" in name or "ankle" in name for name in pose.keypoint_names(17)])
    assert len(halves) == 2
    for half in map(torch.tensor, halves):
        inside = ((points >= half[:2]) & (points <= half[2:])).all(1)
        assert inside[lower].all() or inside[~lower].all()
    assert torch.equal(pose.half_body(box, points, torch.zeros(17).bool(), generator()), box)  # nothing is annotated


def test_a_spoiled_crop_has_one_black_hole_and_stays_within_0_and_1():
    crop = torch.rand(1, 3, 128, 96) * 0.5 + 0.4
    for seed in range(10):
        made = pose.spoiled(pose.recoloured(crop, generator(seed)), generator(seed))
        hole = (made == 0).all(1)[0]
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        sides = (len(rows), len(columns))
        assert 0 <= made.min() and made.max() <= 1 and hole.sum() == math.prod(sides), "the hole is a rectangle"
        assert 0.19 * 128 < sides[0] < 0.41 * 128 and 0.19 * 96 < sides[1] < 0.41 * 96


@pytest.mark.parametrize("seed", range(8))
def test_a_whole_augmentation_keeps_points_on_their_colours(seed):
    """As above, for `person_batch` in one piece; the light is left as it is."""
    config, image, box, points, visible = coloured_person()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pose, "recoloured", lambda crop, generator: crop)
        made = pose.person_batch(config, image, box, points, visible, generator(seed))
    seen = made["weight"] > 0
    column, row = made["points"][seen].long().unbind(1)
    red, green, blue = made["image"][:, row, column]
    there = blue > 0.99  # neither in the hole nor beyond the picture
    places = 48 * torch.stack([red, green], 1)[there]
    off = [(places - true[seen][there]).abs().max() for true in (points, points[pose.MIRROR[17]])]
    assert there.any() and min(off) < 2, "mirrored or not, one of the two fits everywhere"


def test_the_same_generator_makes_the_same_sample_and_another_one_another():
    parts = person()
    first, again, other = (pose.person_batch(SMOKE, *parts, generator(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"])


def test_what_is_unknown_hidden_or_outside_counts_as_it_should():
    image, box, points, visible = person()
    points, visible = points.clone(), visible.clone()
    visible[0], visible[1] = 0, 1  # not annotated; hidden
    points[2] = math.nan  # annotated, it says, but nowhere
    points[3] = torch.tensor([-90.0, 10])  # far outside the crop
    points[5] = torch.tensor([math.inf, -math.inf])
    made = pose.person_batch(SMOKE, image, box, points, visible)
    assert made["weight"][:6].tolist() == [0, 1, 0, 0, 1, 0]
    assert made["points"].isfinite().all()
    for seed in range(20):
        made = pose.person_batch(dataclasses.replace(SMOKE, strength=1.0), image, box, points, visible, generator(seed))
        target = pose.encode_heatmaps(made["points"][None] / 4, (8, 6), 1.0)
        assert pose.heatmap_loss(0 * target, target, made["weight"][None]).isfinite()


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_somebody_with_all_keypoints_invisible_gives_zero_loss_and_zero_gradient(seed):
    image, box, points, visible = person()
    made = pose.person_batch(
        SMOKE, image, box, points * math.nan, visible * 0, None if seed is None else generator(seed)
    )
    model = PoseEstimator(SMOKE)
    loss = pose.pose_loss(SMOKE.sigma, model, {name: value[None] for name, value in made.items()})
    loss.backward()
    assert loss == 0 and all(p.grad.abs().max() == 0 for p in model.parameters() if p.grad is not None)


def test_prepare_takes_one_of_the_people_and_a_picture_without_any_teaches_nothing():
    prepare = pose.prepare(SMOKE)
    made = prepare(stick_figure(people=3), np.random.default_rng(0))
    assert made["image"].shape == (3, *SMOKE.size) and made["weight"].sum() > 0
    for rng in (None, np.random.default_rng(0)):
        empty = pose.prepared(SMOKE, stick_figure(people=0), rng)
        assert made.keys() == empty.keys() and all(made[k].shape == empty[k].shape for k in made)
        assert (empty["weight"] == 0).all() and empty["image"].isfinite().all()


def test_people_too_small_or_hardly_annotated_are_left_out():
    sample = stick_figure()
    assert pose.useful_people(dataclasses.replace(SMOKE, smallest=40), sample) == [0]
    assert pose.useful_people(dataclasses.replace(SMOKE, smallest=41), sample) == []
    assert pose.useful_people(dataclasses.replace(SMOKE, least=18), sample) == []
    sample.people[0].box[:] = 0  # nothing of the person is in the picture
    assert pose.useful_people(SMOKE, sample) == []


def test_a_sample_with_nan_pixels_is_named():
    spoilt = stick_figure("seven")
    spoilt.image[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="sample seven has pixels that are NaN"):
        pose.people_tensors(SMOKE, [stick_figure(), spoilt])


def test_pictures_of_any_number_type_are_cut_out():
    image, box, _, _ = person()
    expected, _ = pose.crop_people(image[None], box[None], (32, 24))
    torch.testing.assert_close(pose.crop_people(image[None].double(), box[None], (32, 24))[0], expected)


def test_missing_keypoints_are_named_with_what_to_do():
    with pytest.raises(ValueError, match="sample one has no keypoints 'sapiens308': make the data with --formats"):
        pose.prepared(dataclasses.replace(SMOKE, keypoints=308), stick_figure())
    with pytest.raises(ValueError, match="2 pictures, and nobody large enough in them"):
        pose.people_tensors(dataclasses.replace(SMOKE, smallest=99), [stick_figure(), stick_figure()])


@pytest.mark.parametrize("count", pose.FORMATS)
def test_a_stream_of_people_trains_every_skeleton(count):
    config = dataclasses.replace(SMOKE, keypoints=count, batch_size=2)
    images, labels = pose.people_tensors(config, [stick_figure("a", count=count), stick_figure("b", count=count)])
    stream = TensorStream(labels, seed=0, transform=pose.transform(config, images))
    batch = next(stream.batches(0, 2))
    model = PoseEstimator(config)
    loss = pose.pose_loss(config.sigma, model, batch)
    loss.backward()
    assert loss > 0 and all(p.grad.isfinite().all() for p in model.parameters())
    halves = [next(stream.batches(0, 2, rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half["image"] for half in halves]), batch["image"])


# ---------------------------------------------------------- learning
def test_one_person_is_learned_by_heart_and_found_again():
    config = dataclasses.replace(SMOKE, lr=3e-3, layer_decay=1.0)
    image, box, points, visible = person()
    points = points[:1].expand(17, -1) * 0 + torch.linspace(12, 32, 17)[:, None]  # on a diagonal
    batch = {k: v[None] for k, v in pose.person_batch(config, image, box, points, visible).items()}
    torch.manual_seed(0)
    plan = pose.recipe(config, None)
    model = plan.model()
    optimizer, losses = plan.optimizer.build(model), []
    for _ in range(150):
        loss = plan.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    found = pose.predict(model.eval(), image[None], box[None], flip=False)
    off = (found.points[0] - points).norm(dim=1)
    assert off.median() < 1.0, "pixels of the picture"


def test_predictions_are_batched_alike_and_nobody_gives_nothing():
    model = PoseEstimator(SMOKE).eval()
    images, boxes = torch.rand(5, 3, 48, 48), BOX.expand(5, 4)
    together, apart = (pose.predict(model, images, boxes, batch=size) for size in (64, 2))
    torch.testing.assert_close(together.points, apart.points, atol=1e-2, rtol=0)
    nobody = pose.predict(model, images[:0], boxes[:0])
    assert nobody.points.shape == (0, 17, 2) and nobody.scores.shape == (0, 17)


def test_layer_decay_agrees_with_the_courses_groups():
    model = PoseEstimator(SMOKE)
    groups = parameter_groups(model, Optimizer(lr=5e-4, layer_decay=0.85))
    course = {name: group["lr"] for group in groups for name in group["names"]}
    mine = pose.learning_rates(list(course), SMOKE.depth, 5e-4, 0.85)
    assert all(math.isclose(mine[name], rate) for name, rate in course.items())


def test_both_schedules_and_no_third():
    steps = pose.Steps(warmup=10)
    assert [round(steps(at, 2100), 6) for at in (0, 9, 1699, 1700, 1999, 2000)] == [0.1, 1, 1, 0.1, 0.1, 0.01]
    assert pose.recipe(SMOKE, None).schedule(SMOKE.steps, SMOKE.steps) == 0
    with pytest.raises(ValueError, match="schedule 'cosine' is unknown: use linear or steps"):
        pose.recipe(dataclasses.replace(SMOKE, schedule="cosine"), None)


def test_the_papers_recipe_is_the_papers():
    plan = pose.recipe(CONFIGS["pose-308-1b"], None)
    optimizer = plan.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay, optimizer.layer_decay) == (
        5e-4, (0.9, 0.999), 0.1, 0.85)  # fmt: skip
    assert plan.clip == 1.0 and CONFIGS["pose-308-1b"].size == (1024, 768)


def test_configurations_can_be_pickled_and_launched():
    assert pickle.loads(pickle.dumps(CONFIGS["pose-17-2b"])) == CONFIGS["pose-17-2b"]
    for name in ("pose-17-0.3b", "pose-133-0.6b", "pose-308-2b"):
        assert "sapiens_pose" in launch.job("sapiens_pose", name, nodes=8).script()
    assert {one.name for one in pose.SHIPPED.values()} == {f"sapiens_pose-{count}" for count in pose.FORMATS}


# ---------------------------------------------------------- measuring
def test_similarity_equals_the_courses_oks():
    target, prediction = torch.rand(17, 2) * 80, torch.rand(17, 2) * 80
    visible = torch.rand(17, generator=generator()) < 0.7
    people = People(target[None], visible[None], torch.tensor([2500.0]), torch.tensor([[0.0, 0, 80, 80]]))
    expected = oks(prediction[None], people, BODY_SIGMAS)[0, 0]
    assert math.isclose(
        pose.keypoint_similarity(prediction, target, visible, 2500.0, BODY_SIGMAS), expected, rel_tol=1e-4
    )


def test_table_3_gives_the_gains_that_it_gives():
    gains = [pose.gain(pose.TABLE_3, f"Sapiens-{size}", "Whole-body") for size in ("0.3B", "0.6B", "1B", "2B")]
    assert [round(ap, 1) for ap, _ in gains] == [0.3, 3.1, 6.3, 8.0]
    assert [round(ar, 1) for _, ar in gains] == [0.2, 1.7, 4.6, 6.4]
