"""Chapter 13's levels, transformer, losses and runs: against independent code, and what they make of bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from torch import nn

from course_lib import study
from course_lib.chapters import cameras
from course_lib.chapters import mpt_pretraining as mpt
from course_lib.chapters.mpt_pretraining import CONFIGS, STUDIES, body_levels, coarse_levels
from course_lib.data.meshes import joint_matrix, sample_bodies, skin
from course_lib.recipe import Linear
from course_lib.studies import mpt as measured

pytestmark = pytest.mark.usefixtures("own_data")

SMOKE = CONFIGS["smoke"]


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def levels():
    return body_levels(SMOKE.levels)


def people(count=4, **options):
    return sample_bodies(count, 5, size=16, **options)


def batch_of(count=4, config=SMOKE, **options):
    view = mpt.virtual_cameras(4)[torch.arange(count) % 4]
    return mpt.seen_batch(config, people(count), view, torch.Generator().manual_seed(0), **options)


# ---------------------------------------------------------- levels
def test_levels_are_nested_and_down_sampling_picks(levels):
    assert [len(points) for points in levels.points] == list(SMOKE.levels)
    for matrix, fine, coarse in zip(levels.down, levels.points[:-1], levels.points[1:], strict=True):
        assert np.array_equal(matrix @ fine, coarse) and (matrix.sum(1) == 1).all()
    assert set(levels.index[2]) < set(levels.index[1]) < set(levels.index[0])
    meshes = levels.all(people().vertices)
    for mesh, index in zip(meshes, levels.index, strict=True):
        assert torch.equal(mesh, people().vertices[:, index])
    assert all(torch.equal(a, b) for a, b in zip(levels.all(meshes[0]), meshes, strict=True))


def test_coarse_triangles_join_neighbours_and_face_outwards():
    mesh = skin()
    made = coarse_levels(mesh.template.double().numpy(), mesh.faces.numpy(), (1723, 431, 108))
    for points, faces in zip(made.points[:2], made.faces[:2], strict=True):
        assert len(np.unique(np.sort(faces, 1), axis=0)) == len(faces) and faces.max() < len(points)
        a, b, c = points[faces].swapaxes(0, 1)
        volume = (np.cross(a, b) * c).sum() / 6
        fine = mesh.template.double().numpy()[mesh.faces.numpy()].swapaxes(0, 1)
        whole = (np.cross(fine[0], fine[1]) * fine[2]).sum() / 6
        assert 0.75 * whole < volume < 1.05 * whole  # turned inside out it would be negative
        _, part = connected_components(mpt.surface_graph(points, faces), directed=False)
        assert np.bincount(part).max() > 0.93 * len(points)


def test_farthest_points_are_those_of_the_definition():
    points = np.random.default_rng(0).normal(size=(60, 3))
    chosen = list(mpt.farthest_points(points, 12, [3, 7]))
    assert chosen[:2] == [3, 7] and len(set(chosen)) == 12
    for place in range(2, 12):
        distance = np.linalg.norm(points[:, None] - points[chosen[:place]][None], axis=-1).min(1)
        assert distance[chosen[place]] == pytest.approx(distance.max())


def test_interpolation_keeps_the_coarse_vertices_and_sums_to_one():
    mesh = skin()
    made = coarse_levels(mesh.template.double().numpy(), mesh.faces.numpy(), (431, 108, 54))
    for up, down in zip(made.up, made.down, strict=True):
        assert np.allclose(up.sum(1), 1) and up.min() >= 0
        assert abs((down @ up) - np.eye(len(down.toarray()))).max() < 1e-2


def test_the_fitted_up_sampling_is_better_on_other_people(levels):
    mesh = skin()
    plain = coarse_levels(
        mesh.template.double().numpy(), mesh.faces.numpy(), SMOKE.levels, np.flatnonzero(joint_matrix("lsp14").any(0))
    )
    held = [part.double().numpy() for part in levels.all(people(8).vertices)]
    for old, new, fine, coarse in zip(plain.up, levels.up, held[:-1], held[1:], strict=True):
        errors = [np.linalg.norm(up @ coarse - fine, axis=-1).mean() for up in (old.toarray(), new)]
        assert errors[1] < 0.9 * errors[0]


def test_joints_are_read_exactly_from_the_finest_level(levels):
    bodies = people()
    found = torch.from_numpy(levels.regressor) @ levels.all(bodies.vertices)[0]
    assert torch.allclose(found, bodies.joints["lsp14"], atol=1e-5)


def test_a_mesh_of_another_body_is_refused(levels):
    with pytest.raises(ValueError, match=r"vertices are \(2, 6890, 3\).*rebuild them"):
        levels.all(torch.zeros(2, 6890, 3))
    with pytest.raises(ValueError, match="rebuild them"):
        levels.all(torch.zeros(levels.size, 3))


@pytest.mark.parametrize("counts", [(50, 50, 20), (20, 50, 10), (0, 0, 10), (90, 50, 3), (10**6, 50, 10)])
def test_levels_that_do_not_fall_are_refused(counts):
    points = np.random.default_rng(0).normal(size=(100, 3))
    with pytest.raises(ValueError, match="give fewer and fewer, and at least 4"):
        coarse_levels(points, np.array([[0, 1, 2]]), counts)


# ---------------------------------------------------------- the transformer
def test_a_layer_is_berts():
    transformers = pytest.importorskip("transformers")
    from transformers.models.bert.modeling_bert import BertLayer

    config = transformers.BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64)
    config._attn_implementation = "eager"
    theirs, ours = BertLayer(config).eval(), mpt.PostNormBlock(32, 4, 64).eval()
    assert theirs.output.LayerNorm.eps == ours.norm2.eps
    attention = theirs.attention.self
    parts = (attention.query, attention.key, attention.value)
    state = {
        "attn.qkv.weight": torch.cat([part.weight for part in parts]),
        "attn.qkv.bias": torch.cat([part.bias for part in parts]),
    }
    pairs = {"attn.proj": theirs.attention.output.dense, "norm1": theirs.attention.output.LayerNorm}
    pairs |= {"mlp.fc1": theirs.intermediate.dense, "mlp.fc2": theirs.output.dense, "norm2": theirs.output.LayerNorm}
    for module in (*pairs.values(), *parts):
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    state |= {f"{name}.{kind}": getattr(module, kind) for name, module in pairs.items() for kind in ("weight", "bias")}
    state["attn.qkv.weight"] = torch.cat([part.weight for part in parts])
    state["attn.qkv.bias"] = torch.cat([part.bias for part in parts])
    ours.load_state_dict(state)
    tokens = torch.randn(2, 7, 32)
    with torch.no_grad():
        expected = theirs(tokens)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert torch.allclose(ours(tokens), expected, atol=1e-5)


def test_dead_weights_are_those_that_bert_builds():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=64, num_attention_heads=4, intermediate_size=256, num_hidden_layers=4)
    with torch.device("meta"):
        bert = transformers.BertModel(config)
    dead = [*bert.embeddings.parameters(), *bert.pooler.parameters()]
    assert sum(p.numel() for p in dead) == mpt.dead_parameters(64)
    layers = sum(p.numel() for p in bert.encoder.parameters())
    ways = mpt.stage_parameters(1, 64, 1, 256, layers=0, positions=0)
    assert mpt.stage_parameters(1, 64, 1, 256, layers=4, positions=0) - ways == layers


@pytest.mark.parametrize("name", ["smoke", "laptop", "mpt"])
def test_a_built_stage_has_as_many_weights_as_counted(name):
    config = CONFIGS[name]
    for inputs, width, outputs in config.chain:
        with torch.device("meta"):
            stage = mpt.Stage(inputs, width, outputs, config)
        counted = mpt.stage_parameters(inputs, width, outputs, round(config.ffn * width), config.depth)
        assert sum(p.numel() for p in stage.parameters()) == counted


def test_the_papers_tokens():
    assert CONFIGS["mpt"].chain == ((2051, 1024, 512), (512, 256, 128), (128, 64, 3))
    assert CONFIGS["mpt"].steps == 41_666 and CONFIGS["mpt"].lr == 2e-4 and CONFIGS["mpt"].heads == 4


def test_shapes_gradients_and_the_meta_device(levels):
    model = mpt.MeshTransformer(SMOKE, levels)
    batch = batch_of()
    answer = model(batch["maps"])
    assert answer["joints"].shape == answer["regressed"].shape == (4, 14, 3) and answer["camera"].shape == (4, 3)
    assert [tuple(mesh.shape) for mesh in answer["vertices"]] == [(4, count, 3) for count in SMOKE.levels]
    mpt.mesh_loss(model, batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.device("meta"):
        assert mpt.MeshTransformer(SMOKE, levels)(torch.empty(1, 17, 16, 16))["camera"].shape == (1, 3)


def test_the_template_stands_upright_before_the_camera(levels):
    template = mpt.MeshTransformer(SMOKE, levels).template
    head, ankles, hips, right, left = template[13], template[[0, 5]], template[mpt.HIPS], template[2], template[3]
    assert head[1] < hips[:, 1].mean() < ankles[:, 1].min()  # y points down
    assert left[0] > right[0]  # who faces the camera has the left side at its right
    assert hips.mean(0).abs().max() < 1e-6


def test_a_fresh_model_answers_near_the_template(levels):
    model = mpt.MeshTransformer(dataclasses.replace(SMOKE, widths=(64, 32, 32)), levels).eval()
    joints = model(batch_of()["maps"])["joints"][0]
    assert nn.functional.cosine_similarity(joints.flatten(), model.template[:14].flatten(), dim=0) > 0.5


def test_maps_without_any_joint_have_an_answer(levels):
    model = mpt.MeshTransformer(SMOKE, levels).eval()
    answer = model(torch.zeros(2, 17, 16, 16))
    assert answer["vertices"][0].isfinite().all() and answer["camera"].isfinite().all()


# ---------------------------------------------------------- losses, camera, learning rate
class Truth(nn.Module):
    """A model that knows, off by `shift` metres everywhere."""

    def __init__(self, batch, shift=0.0):
        super().__init__()
        scale, translation = cameras.fit_weak_perspective(batch["joints"], batch["spots"])
        meshes = [batch[name] + shift for name in ("vertices", "middle", "coarse")]
        camera = torch.cat([scale[:, None], translation], 1)
        joints = batch["joints"] + shift
        self.answer = {"joints": joints, "regressed": joints, "vertices": meshes, "camera": camera}

    def forward(self, maps):
        return self.answer


def test_the_loss_of_the_truth_is_the_weak_perspective_error():
    batch = batch_of()
    found = mpt.mesh_loss(Truth(batch), batch)
    assert found["joints"] == 0 and found["mesh"] == 0 and 0 < found["spots"] < 0.2
    assert found["loss"].item() == pytest.approx(100 * found["spots"].item(), rel=1e-5)


def test_joints_are_counted_from_the_hips_and_meshes_from_the_pelvis():
    batch = batch_of()
    found = mpt.mesh_loss(Truth(batch, shift=0.1), batch)
    assert found["joints"] < 1e-6 and found["mesh"].item() == pytest.approx(0.1, abs=1e-5)


def test_the_weights_are_metros():
    batch = batch_of()
    model = Truth(batch)
    model.answer["joints"] = batch["joints"] + torch.randn(4, 14, 3)
    found = mpt.mesh_loss(model, batch)
    plain = 1000 * found["joints"] + 100 * found["mesh"] + 100 * found["spots"]
    centred = model.answer["joints"] - model.answer["joints"][:, [2, 3]].mean(1, keepdim=True)
    true = batch["joints"] - batch["joints"][:, [2, 3]].mean(1, keepdim=True)
    assert found["loss"].item() == pytest.approx(plain.item(), rel=1e-6)
    assert found["joints"].item() == pytest.approx((centred - true).abs().mean().item(), rel=1e-5)


def test_the_fit_with_all_joints_is_chapter_ones():
    batch = batch_of()
    scale, translation = mpt.weak_perspective_fit(batch["joints"], batch["spots"], torch.ones(4, 14))
    theirs, shift = cameras.fit_weak_perspective(batch["joints"], batch["spots"])
    assert torch.allclose(scale, theirs, atol=1e-5) and torch.allclose(translation, shift, atol=1e-5)


def test_the_fit_has_a_gradient_and_zero_for_nobody():
    points, spots = torch.randn(3, 14, 3, requires_grad=True), torch.randn(3, 14, 2)
    weight = torch.ones(3, 14)
    weight[1], weight[2, 1:] = 0, 0
    scale, translation = mpt.weak_perspective_fit(points, spots, weight)
    assert scale[0] != 0 and not scale[1:].any() and not translation[1:].any()
    (gradient,) = torch.autograd.grad(scale.sum() + translation.sum(), points)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("steps", [1, 7, 10, 1000])
def test_the_learning_rate_is_the_recipes(steps):
    schedule = Linear(round(0.1 * steps))
    for step in range(steps):
        assert mpt.learning_rate(step, steps, 3e-4) == pytest.approx(3e-4 * schedule(step, steps))
    recipe = mpt.recipe(dataclasses.replace(SMOKE, steps=steps, lr=3e-4), None)
    assert recipe.lr(0) == pytest.approx(mpt.learning_rate(0, steps, 3e-4)) and recipe.optimizer.name == "adam"


# ---------------------------------------------------------- batches and runs
def test_a_batch_is_in_the_cameras_axes():
    bodies, view = people(4), mpt.virtual_cameras(4)
    batch = mpt.seen_batch(SMOKE, bodies, view, torch.Generator().manual_seed(0), mpt.PERFECT)
    assert torch.allclose(batch["joints"], bodies.joints["lsp14"] @ view.R.mT, atol=1e-5)
    back = batch["joints"] @ view.R
    assert torch.allclose(back, bodies.joints["lsp14"], atol=1e-5)
    assert (batch["spots"].abs() < 1).all()
    head, ankles = batch["spots"][:, 13, 1], batch["spots"][:, [0, 5], 1].amax(1)
    standing = bodies.joints["lsp14"][:, 13, 1] - bodies.joints["lsp14"][:, [0, 5], 1].amin(1) > 1.2
    assert standing.any() and (head < ankles)[standing].all()


def test_batches_repeat_and_differ():
    make = mpt.generate(SMOKE)
    first, again, other = (make(torch.Generator().manual_seed(seed), 4) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vertices"], other["vertices"])
    assert {name: tuple(x.shape) for name, x in first.items()} == {
        name: tuple(x.shape) for name, x in mpt.example(SMOKE, 4).items()
    }


def test_kept_meshes_are_those_that_were_made():
    config = dataclasses.replace(SMOKE, meshes=70, pool=16)
    kept = measured.kept_bodies(70, config.levels, config.heading, config.pool)
    assert len(kept) == 70 and kept.vertices.shape[1] == SMOKE.levels[0]
    regressor = torch.from_numpy(body_levels(SMOKE.levels).regressor)
    assert torch.allclose(regressor @ kept.vertices, kept.joints["lsp14"], atol=1e-5)
    batch = mpt.generate(config)(torch.Generator().manual_seed(0), 4)
    assert batch["vertices"].shape == (4, SMOKE.levels[0], 3)


def test_a_silhouette_holds_the_joints_and_nothing_outside():
    bodies, view, size = people(4), mpt.virtual_cameras(4), 64
    views = mpt.look(bodies.vertices, bodies.joints["coco17"], view, torch.Generator().manual_seed(0))
    placed = bodies.vertices + views.translation[:, None]
    masks = mpt.silhouettes(placed, skin().faces, views.camera, size)
    assert masks.shape == (4, 1, size, size) and set(masks.unique().tolist()) == {0.0, 1.0}
    at = ((mpt.to_crop(views.camera, placed) + 1) * size / 2).floor().long().clamp(0, size - 1)  # (B, V, 2)
    rows, columns = masks[:, 0].any(2), masks[:, 0].any(1)
    for person in range(4):
        x, y = at[person].unbind(-1)
        assert masks[person, 0, y, x].mean() > 0.8  # a vertex at the rim may fall into a pixel not covered
        edges = [axis.nonzero() for axis in (columns[person], rows[person])]
        for found, (low, high) in zip(edges, ((x.min(), x.max()), (y.min(), y.max())), strict=True):
            assert low - 1 <= found.min() <= low + 1 and high - 1 <= found.max() <= high + 1


def test_nobody_in_the_crop_is_an_empty_mask():
    view, mesh = mpt.virtual_cameras(1), skin()
    crop = mpt.crop(view, mesh.template[None])
    behind = mesh.template[None] + view.center[:, None] - 5 * view.R[:, 2][:, None]
    aside = mesh.template[None] + 30 * view.R[:, 0][:, None]
    for vertices in (behind, aside):
        assert not mpt.silhouettes(vertices, mesh.faces, crop, 16).any()


def test_one_view_means_one_camera(monkeypatch):
    seen = []
    original = mpt.seen_batch
    monkeypatch.setattr(
        mpt, "seen_batch", lambda c, b, view, *rest: seen.append(view.center) or original(c, b, view, *rest)
    )
    config = dataclasses.replace(SMOKE, views=1)
    for seed in range(3):
        mpt.training_batch(config, torch.Generator().manual_seed(seed), 4)
    assert torch.cat(seen).unique(dim=0).shape[0] == 1
    assert torch.allclose(torch.cat(seen)[0], mpt.virtual_cameras(1).center[0])


def test_the_mean_pose_is_beaten_by_the_truth_only_at_zero():
    batch = measured.held_out(SMOKE, 4)
    found = {"regressed": batch["joints"], "vertices": batch["vertices"]}
    assert all(value == pytest.approx(0, abs=1e-3) for value in measured.mesh_metrics(found, batch).values())
    mean = measured.mean_pose(SMOKE, batch)
    assert 60 < mean["pa_mpjpe"] < 250 and mean["mpjpe"] > mean["pa_mpjpe"]
    turned = batch["joints"] @ torch.linalg.qr(torch.randn(3, 3))[0]
    assert measured.joint_metrics(1.3 * turned, batch["joints"])["mpjpe"] > 50


@pytest.mark.parametrize("name", list(STUDIES))
def test_studies_run(name, tmp_path):
    paths = study.run_study(STUDIES[name], folder=tmp_path, say=lambda text: None)
    assert len(paths) == 2
    for path in paths:
        metrics = study.read_record(path)["metrics"]
        assert set(metrics) == {"mpjpe", "pa_mpjpe", "mpvpe", "mean_pa_mpjpe"}


def test_study_arms_differ_where_they_should():
    views = [mpt.arm_config(arm, 10) for arm in STUDIES["views"].arms.values()]
    assert [config.views for config in views] == [1, 2, 4, 8] and {config.heading for config in views} == {30.0}
    free = [mpt.arm_config(arm, 10) for arm in STUDIES["views_free"].arms.values()]
    assert {config.heading for config in free} == {None}
    masks = mpt.arm_config(STUDIES["masks"].arms["masks"], 10)
    assert masks.silhouette and masks.maps == 1
    maps = mpt.seen_batch(masks, people(2), mpt.virtual_cameras(2), torch.Generator().manual_seed(0))["maps"]
    assert maps.shape == (2, 1, 32, 32) and set(maps.unique().tolist()) == {0.0, 1.0}
