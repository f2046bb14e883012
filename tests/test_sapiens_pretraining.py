"""Chapter 06: the masked autoencoder against Hugging Face's, Table 2's sums, the detector, and bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from course_lib.chapters import sapiens_pretraining as chapter
from course_lib.chapters.sapiens_pretraining import (
    CONFIGS,
    DETECTORS,
    Found,
    MaskedAutoencoder,
    PersonDetector,
    calibrate,
    crop_window,
    cropped,
    detect,
    detection_targets,
    detector_loss,
    detector_recipe,
    masked_loss,
    normalize,
    normalize_patches,
    padded_boxes,
    patchify,
    prepare,
    pretraining_loss,
    random_masking,
    read_centres,
    real_boxes,
    recipe,
    unpatchify,
)
from course_lib.chapters.scaling import Encoder, table_macs
from course_lib.data.schema import PersonLabel, Sample
from course_lib.data.streams import TensorStream
from course_lib.launch.trace import trace
from course_lib.train import TrainingError, fit

SMOKE, SMALL = CONFIGS["smoke"], DETECTORS["smoke"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---------------------------------------------------------- Hugging Face's ViTMAE, our weights in it
def hugging_face(config, attention: str = "eager") -> nn.Module:
    """Hugging Face's ViTMAEForPreTraining of the same sizes."""
    hf = pytest.importorskip("transformers")
    return hf.ViTMAEForPreTraining(
        hf.ViTMAEConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio),
            decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=int(config.decoder_width * config.mlp_ratio),
            image_size=config.size,
            patch_size=config.patch,
            mask_ratio=config.mask_ratio,
            norm_pix_loss=True,
            layer_norm_eps=1e-6,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation=attention,
        )
    ).eval()


def in_their_names(weights: dict[str, Tensor]):
    """Our names -> those of transformers' ViTMAEForPreTraining; `qkv` becomes three layers."""
    names = {
        "encoder.norm": "vit.layernorm",
        "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "encoder.cls_token": "vit.embeddings.cls_token",
        "encoder.pos_embed": "vit.embeddings.position_embeddings",
        "encoder.blocks": "vit.layers",
        "decoder_blocks": "decoder.decoder_layers",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
    }
    for name, value in weights.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name.startswith(("decoder_", "mask_token")):
            name = f"decoder.{name}"
        if "attn.qkv" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                yield name.replace("attn.qkv", f"attention.{part}_proj"), rows
        else:
            yield name, value


def twins(config=SMOKE, attention: str = "eager") -> tuple[MaskedAutoencoder, nn.Module]:
    """Ours with every number random, biases and norms too, and Hugging Face's with the same."""
    ours, theirs = MaskedAutoencoder(config), hugging_face(config, attention)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(dict(in_their_names(ours.state_dict())))
    return ours, theirs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_prediction_mask_and_loss_equal_hugging_faces(attention, ratio):
    config = dataclasses.replace(SMOKE, size=48, mask_ratio=ratio, depth=3, decoder_depth=2)
    ours, theirs = twins(config, attention)
    images, noise = torch.rand(3, 3, 48, 48), torch.rand(3, 36)
    with torch.no_grad():
        found, mask = ours(normalize(images), noise)
        expected = theirs(normalize(images), noise=noise)
        loss = pretraining_loss(ours, {"image": images, "noise": noise})
    assert torch.equal(mask, expected.mask)
    torch.testing.assert_close(found, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=0)


def test_gradients_equal_hugging_faces():
    ours, theirs = twins()
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 16)
    pretraining_loss(ours, {"image": images, "noise": noise}).backward()
    theirs(normalize(images), noise=noise).loss.backward()
    ours_by_name = dict(in_their_names({n: p.grad for n, p in ours.named_parameters() if p.requires_grad}))
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert trained.keys() == ours_by_name.keys()
    for name, parameter in trained.items():
        torch.testing.assert_close(ours_by_name[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_patches_and_masking_equal_hugging_faces():
    theirs = hugging_face(SMOKE)
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 16)
    torch.testing.assert_close(patchify(images, 8), theirs.patchify(images), atol=0, rtol=0)
    sequence = torch.randn(2, 16, 5)
    kept, mask, restore = theirs.vit.embeddings.random_masking(sequence, noise)
    keep, our_mask, our_restore = random_masking(noise, 0.75)
    assert torch.equal(mask, our_mask) and torch.equal(restore, our_restore)
    assert torch.equal(sequence.gather(1, keep[..., None].expand(-1, -1, 5)), kept)


# ---------------------------------------------------------- properties
@pytest.mark.parametrize("shape, patch", [((2, 3, 16, 24), 8), ((1, 1, 6, 3), 3), ((2, 5, 4, 4), 1)])
def test_unpatchify_inverts_patchify(shape, patch):
    images = torch.rand(shape)
    assert torch.equal(unpatchify(patchify(images, patch), patch, (shape[2] // patch, shape[3] // patch)), images)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.95])
def test_what_is_kept_comes_back_to_its_place(ratio):
    values, noise = torch.randn(3, 64, 2), torch.rand(3, 64)
    keep, mask, restore = random_masking(noise, ratio)
    visible = values.gather(1, keep[..., None].expand(-1, -1, 2))
    filled = torch.cat([visible, torch.full((3, 64 - keep.shape[1], 2), torch.inf)], 1)
    back = filled.gather(1, restore[..., None].expand(-1, -1, 2))
    assert (mask.sum(1) == 64 - int(64 * (1 - ratio))).all()
    assert torch.equal(back[mask == 0], values[mask == 0]) and back[mask == 1].isinf().all()


def test_the_encoder_never_sees_a_masked_patch():
    model, noise = MaskedAutoencoder(SMOKE).eval(), torch.rand(1, 16)
    images = torch.rand(1, 3, 32, 32)
    _, mask, _ = random_masking(noise, SMOKE.mask_ratio)
    hidden = unpatchify(mask[..., None].expand(-1, -1, 192), 8, (4, 4))
    with torch.no_grad():
        before, after = model(images, noise)[0], model(images + 10 * hidden, noise)[0]
        visible = model(images + 10 * (1 - hidden), noise)[0]
    assert torch.equal(before, after) and not torch.allclose(before, visible)


def test_only_masked_patches_count():
    prediction, target, mask = torch.randn(2, 6, 4), torch.randn(2, 6, 4), torch.tensor([[1.0, 0, 0, 1, 0, 1]] * 2)
    loss = masked_loss(prediction, target, mask)
    assert torch.equal(loss, masked_loss(prediction + 5 * (1 - mask[..., None]), target, mask))
    assert loss != masked_loss(prediction + 5 * mask[..., None], target, mask)


def test_a_loss_of_one_is_the_mean_of_each_patch():
    target = normalize_patches(torch.rand(4, 16, 192))
    loss = masked_loss(torch.zeros_like(target), target, torch.ones(4, 16))
    assert loss.item() == pytest.approx(191 / 192, abs=1e-3)


# ---------------------------------------------------------- Table 2
@pytest.mark.parametrize(
    "name, parameters, printed, macs",
    [
        ("sapiens-0.3b", 335_532_288, "0.336", "1.242"),
        ("sapiens-0.6b", 664_278_528, "0.664", "2.583"),
        ("sapiens-1b", 1_169_238_784, "1.169", "4.647"),
        ("sapiens-2b", 2_162_608_768, "2.163", "8.709"),
    ],
)
def test_table_2_to_its_last_digit(name, parameters, printed, macs):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = MaskedAutoencoder(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert chapter.autoencoder_parameters(config.width, config.depth) == parameters
    assert f"{parameters / 1e9:.3f}" == printed == f"{config.paper.parameters / 1e9:.3f}"
    counted = table_macs(Encoder(config.width, config.depth, config.heads, 4097))
    assert f"{counted / 1e12:.3f}" == macs == f"{config.paper.flops / 1e12:.3f}"


def test_both_readings_of_the_tokens():
    every, visible = CONFIGS["sapiens-2b"], CONFIGS["sapiens-2b-visible"]
    assert every.steps * every.batch_size * 4096 == pytest.approx(1.2e12, rel=1e-4)
    assert visible.steps * visible.batch_size * 1024 == pytest.approx(1.2e12, rel=1e-4)
    assert every.paper.samples * 4 == visible.paper.samples


def test_encoder_state_fills_an_encoder():
    model = MaskedAutoencoder(SMOKE)
    other = MaskedAutoencoder(SMOKE).encoder
    other.load_state_dict(chapter.encoder_state(model))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.encoder.parameters(), strict=True))


# ---------------------------------------------------------- data and training
def sample(boxes=((2.0, 3.0, 20.0, 30.0),), size: int = 32, seed: int = 0) -> Sample:
    """A picture of noise with people in it."""
    image = np.random.default_rng(seed).random((3, size, size), dtype=np.float32)
    people = [PersonLabel(box=np.array(box, np.float32)) for box in boxes]
    return Sample(key=f"noise-{seed}", image=image, people=people)


def test_prepare_depends_on_the_random_numbers_alone():
    make = prepare(SMOKE)
    one, same = (make(sample(), np.random.default_rng(1)) for _ in range(2))
    other = make(sample(), np.random.default_rng(2))
    assert one["image"].shape == (3, 32, 32) and one["noise"].shape == (16,)
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)
    assert one["image"].min() >= 0 and one["image"].max() <= 1


def test_prepare_makes_any_picture_square():
    tall = sample()
    tall.image = np.random.default_rng(0).random((3, 100, 60), dtype=np.float32)
    assert prepare(SMOKE)(tall, np.random.default_rng(0))["image"].shape == (3, 32, 32)
    assert prepare(SMOKE)(tall)["image"].shape == (3, 32, 32)


def test_crop_windows_have_the_area_and_the_shape_meant():
    for seed in range(200):
        top, left, height, width = crop_window(100, 140, np.random.default_rng(seed))
        assert 0 <= top <= 100 - height and 0 <= left <= 140 - width
        assert 0.19 < height * width / 14_000 <= 1 and 0.72 < width / height < 1.38
    assert (
        crop_window(10, 100, np.random.default_rng(0))[2:] in {(10, 10)}
        or crop_window(10, 100, np.random.default_rng(0))[2] <= 10
    )


@pytest.mark.parametrize("made", [recipe(SMOKE, None), detector_recipe(SMALL, None)], ids=["mae", "detector"])
def test_recipes_run_without_data_and_every_weight_learns(made):
    traced = trace(made, 2, keep_gradients=False)
    assert traced.training > traced.forward > 0
    model = made.model()
    loss = made.loss(model, made.example(2))
    (loss["loss"] if isinstance(loss, dict) else loss).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


def test_the_loss_falls():
    pictures = {"image": torch.rand(4, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)}
    config = dataclasses.replace(SMOKE, steps=40, lr=3e-3, precision="fp32")
    stream = TensorStream(pictures, transform=chapter.transform(config))
    run = fit(recipe(config, stream), progress=False)
    assert np.mean(run.losses[-5:]) < 0.9 * np.mean(run.losses[:5])


# ---------------------------------------------------------- the detector
def test_targets_are_read_back_as_the_boxes():
    boxes = torch.tensor([[10.0, 6.0, 50.0, 90.0], [70.0, 20.0, 120.0, 60.0], [60.0, 100.0, 72.0, 120.0]])
    targets = detection_targets(boxes, 128)
    found, value = read_centres(targets["heat"][0], targets["shape"])
    found = 4 * found[value == 1]
    assert len(found) == 3
    torch.testing.assert_close(found[found[:, 0].argsort()], boxes[boxes[:, 0].argsort()], atol=1e-3, rtol=0)


def test_a_picture_without_people_has_empty_targets_and_a_finite_loss():
    targets = detection_targets(torch.zeros(0, 4), 32)
    assert not targets["heat"].any() and not targets["near"].any() and torch.isfinite(targets["shape"]).all()
    batch = {name: values[None] for name, values in targets.items()} | {"image": torch.rand(1, 3, 32, 32)}
    losses = detector_loss(PersonDetector(SMALL).eval(), batch)
    assert all(torch.isfinite(value) for value in losses.values()) and losses["shapes"] == 0
    assert padded_boxes(sample(boxes=())).shape == (8, 4) and len(real_boxes(padded_boxes(sample(boxes=())))) == 0


def test_cropped_boxes():
    boxes = torch.tensor([[10.0, 10.0, 30.0, 50.0], [0.0, 0.0, 12.0, 12.0]])
    found = cropped(boxes, (10, 10, 40, 40), 80)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 40.0, 80.0]]))  # of the second a 36th is left


def surely(heat: float) -> PersonDetector:
    """A detector that sees the same everywhere: `heat` as a logit, boxes of two cells."""
    model = PersonDetector(SMALL).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([heat, 0.7, 0.7, 0, 0]))
    return model


def test_detect_finds_nobody_where_nobody_is():
    found = detect(surely(-9.0), torch.rand(2, 3, 32, 32))
    assert len(found) == 2 and all(one.boxes.shape == (0, 4) and one.scores.shape == (0,) for one in found)


@pytest.mark.parametrize("shape", [(32, 32), (50, 30), (70, 200)])
def test_detected_boxes_are_inside_and_of_the_picture(shape):
    (found,) = detect(surely(3.0), torch.rand(1, 3, *shape), least=0.5)
    assert len(found.boxes) and (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= shape[1]).all() and (found.boxes[:, 3] <= shape[0]).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_a_person_is_found_once_where_two_boxes_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    assert chapter.without_doubles(boxes).tolist() == [0, 2]
    right = chapter.hits(Found(boxes, torch.tensor([0.9, 0.8, 0.7])), torch.tensor([[0.0, 0, 10, 10]]))
    assert right.tolist() == [True, False, False]
    assert chapter.hits(Found(boxes, torch.ones(3)), torch.zeros(0, 4)).tolist() == [False] * 3


def test_a_calibrated_score_is_the_share_of_people(monkeypatch):
    logits = torch.linspace(-4, 4, 400)
    truth = torch.rand(400) < (0.5 * logits - 1).sigmoid()  # what the score should have said
    box = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    found = [Found(box, logit.sigmoid()[None]) for logit in logits]
    monkeypatch.setattr(chapter, "detect", lambda *arguments, **options: found)
    boxes = torch.where(truth[:, None, None], box, torch.zeros(4)).expand(400, 8, 4).clone()
    boxes[:, 1:] = 0
    model = PersonDetector(SMALL)
    calibrate(model, torch.zeros(400, 3, 32, 32), boxes)
    torch.testing.assert_close(model.calibration, torch.tensor([0.5, -1.0]), atol=0.25, rtol=0)


@pytest.mark.parametrize("size", [32, 72])
def test_the_fault_finder_answers_for_each_fault(size):
    model = chapter.FaultFinder(4).eval()
    with torch.no_grad():
        found = model(torch.rand(3, 3, size, size))
    assert found.shape == (3, len(chapter.FAULTS)) and torch.isfinite(found).all()


def test_nobody_is_nobody_large_and_certain():
    assert chapter.large_and_certain(Found(torch.zeros(0, 4), torch.zeros(0)), 128).tolist() == []


# ---------------------------------------------------------- bad input
@pytest.mark.parametrize("ratio", [1.0, 0.99, 0.0, -0.5, 2.0, float("nan")])
def test_a_ratio_that_leaves_no_patch_is_refused(ratio):
    with pytest.raises(ValueError, match="of 16 patches visible, or masks none: use a ratio from 0.0625 to 0.938"):
        random_masking(torch.rand(2, 16), ratio)
    with pytest.raises(ValueError, match="use a ratio"):
        MaskedAutoencoder(SMOKE)(torch.rand(1, 3, 32, 32), torch.rand(1, 16), ratio)


def test_nothing_masked_gives_no_nan():
    loss = masked_loss(torch.randn(1, 4, 3, requires_grad=True), torch.randn(1, 4, 3), torch.zeros(1, 4))
    assert loss == 0


def test_a_patch_of_one_colour_gives_no_nan():
    assert torch.isfinite(normalize_patches(torch.full((1, 4, 192), 0.3))).all()


def test_a_sample_with_nan_pixels_is_named():
    bad = sample()
    bad.image[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="sample noise-0 has pixels that are NaN"):
        prepare(SMOKE)(bad, np.random.default_rng(0))


def test_nan_pixels_in_a_tensor_stop_the_run_by_name():
    pictures = torch.rand(4, 3, 32, 32)
    pictures[:, 0, 5, 5] = torch.nan
    with pytest.raises(TrainingError, match="batch 0"):
        fit(recipe(SMOKE, TensorStream({"image": pictures}, transform=chapter.transform(SMOKE))), progress=False)


def test_detect_refuses_nan_and_single_pictures():
    images = torch.rand(2, 3, 32, 32)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="picture 1 has pixels that are NaN"):
        detect(surely(0.0), images)
    with pytest.raises(ValueError, match=r"add a batch dimension with image\[None\]"):
        detect(surely(0.0), images[0])


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="can't be cut into patches of 8"):
        MaskedAutoencoder(SMOKE)(torch.rand(1, 3, 36, 32), torch.rand(1, 16))
