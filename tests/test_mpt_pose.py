"""Chapter 14's pose networks and the mesh regressor: sizes, shapes, losses, bad input."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import nn

from course_lib import metrics
from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters import mpt_pretraining as pretraining
from course_lib.chapters.mpt_finetuning import PoseConfig, PoseNet, SimpleBaseline, pose_loss
from course_lib.study import resolved

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = mpt.POSE_CONFIGS["smoke"]
W32 = PoseConfig(224, stem=64, width=32, stride=4, bottlenecks=4, modules=(1, 4, 3), blocks=4, tags=True)


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (W32, 28_645_331),  # chapter 13's count by hand
        (replace(W32, width=48), 63_827_139),
        (PoseConfig(224, "resnet", width=64, layers=(3, 4, 23, 3), head=256), 52_991_825),
    ],
)
def test_the_papers_networks_have_the_authors_sizes(config, expected):
    with torch.device("meta"):
        network = mpt.pose_network(config)
    assert weights(network) == expected
    maps = network(torch.zeros(1, 3, 224, 224, device="meta"))
    assert maps.shape == (1, 17, config.maps, config.maps)


def test_resnet_101_has_torchvisions_shape():
    """Without the classifier, ResNet-101 has 42,500,160 weights (torchvision prints 44,549,160 with it)."""
    with torch.device("meta"):
        network = SimpleBaseline(PoseConfig(224, "resnet", width=64, layers=(3, 4, 23, 3), head=256))
    assert weights(network.resnet) == 44_549_160 - (2048 * 1000 + 1000)


@pytest.mark.parametrize("kind", ["hrnet", "resnet"])
def test_maps_have_the_size_that_is_said_and_begin_small(kind):
    config = replace(TINY, kind=kind, size=64)
    torch.manual_seed(0)
    maps = mpt.pose_network(config)(torch.rand(2, 3, 64, 64))
    assert maps.shape == (2, 17, config.maps, config.maps)
    assert maps.abs().max() < 0.1  # or the first hundreds of steps go into making them small


def test_the_exchange_is_the_sum_of_all_paths():
    torch.manual_seed(1)
    exchange, branches = mpt.Exchange((4, 8)).eval(), [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    up, down = exchange.paths[0][1], exchange.paths[1][0]
    fine = branches[0] + up[0](branches[1]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    coarse = branches[1] + down(branches[0])
    for found, expected in zip(exchange(branches), (fine.relu(), coarse.relu()), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_loss_ignores_what_does_not_count_and_falls():
    torch.manual_seed(0)
    network, batch = PoseNet(TINY), mpt.pose_example(TINY, 4)
    batch["points"] = batch["points"] * 1.6 - 0.8
    batch["seen"] = torch.ones(4, 17)
    batch["seen"][:, 3] = 0
    network.eval()
    before = pose_loss(network, batch)
    batch["points"][:, 3] += 0.3
    assert torch.equal(before, pose_loss(network, batch))
    batch["points"][:, 4] += 0.3
    assert not torch.equal(before, pose_loss(network, batch))
    network.train()
    optimizer, losses = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(40):
        loss = pose_loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_joints_that_nobody_has_leave_a_finite_loss_and_share():
    batch = mpt.pose_example(TINY, 2) | {"seen": torch.zeros(2, 17)}
    assert pose_loss(PoseNet(TINY), batch) == 0
    nobody = mpt.share_found(batch["points"], batch["points"] + 1, batch["seen"], torch.ones(2))
    assert torch.equal(nobody, torch.zeros(17))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(2, 1, 64, 64), "3"),
        (torch.rand(3, 64, 64), "images"),
        (torch.rand(2, 3, 72, 64), "divides"),
    ],
)
@pytest.mark.parametrize("kind", ["hrnet", "resnet"])
def test_bad_pictures_are_named(kind, images, said):
    with pytest.raises(ValueError, match=said):
        mpt.pose_network(replace(TINY, kind=kind))(images)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="hrnet or resnet"):
        mpt.pose_network(replace(TINY, kind="vit"))


def test_everybody_is_in_the_maps():
    points = torch.tensor([[[-0.5, -0.5]], [[0.5, 0.5]], [[torch.nan, torch.nan]]])[None]  # one picture, 3 rows, K = 1
    maps = mpt.everyones_heatmaps(points, 8, 1.0)[0, 0]
    alone = [pretraining.synthesize_heatmaps(points[:, m], 8, 1.0)[0, 0] for m in range(2)]
    assert torch.equal(maps, torch.maximum(*alone))
    assert not mpt.everyones_heatmaps(torch.full((1, 2, 1, 2), torch.nan), 8, 1.0).any()


def test_pa_error_is_the_librarys_and_scipys():
    torch.manual_seed(2)
    found, true = torch.randn(5, 14, 3), torch.randn(5, 14, 3)
    torch.testing.assert_close(mpt.pa_error(found, true), metrics.pa_mpjpe(found, true).float(), atol=1e-2, rtol=1e-5)
    a, b = ((x[0] - x[0].mean(0)).double().numpy() for x in (found, true))
    R, scale = orthogonal_procrustes(a, b)
    moved = a @ R * scale / (a**2).sum()
    own = mpt.pa_error(found[:1], true[:1]).item()
    mirror = torch.linalg.det(torch.from_numpy(R)) < 0  # SciPy allows a mirror image
    assert mirror or abs(own - 1000 * ((moved - b) ** 2).sum(1).__pow__(0.5).mean()) < 0.1


# ------------------------------------------------------------------------------------------------- the regressor
@pytest.fixture(scope="module")
def regressor():
    torch.manual_seed(0)
    mesh = pretraining.CONFIGS["smoke"]
    parts = SimpleNamespace(pose=TINY, mesh=mesh)
    return mpt.MeshRegressor(parts, pretraining.body_levels(mesh.levels)).eval()


def test_the_regressor_is_both_networks(regressor):
    images = torch.rand(2, 3, TINY.size, TINY.size)
    found, maps = regressor(images), regressor.pose(images)
    torch.testing.assert_close(found["maps"], maps)
    torch.testing.assert_close(found["joints"], regressor.mesh(maps)["joints"])
    assert [tuple(mesh.shape) for mesh in found["vertices"]] == [(2, 216, 3), (2, 54, 3), (2, 24, 3)]


def test_gradients_reach_the_picture_through_the_maps(regressor):
    images = torch.rand(1, 3, TINY.size, TINY.size, requires_grad=True)
    regressor(images)["joints"].sum().backward()
    assert images.grad.abs().sum() > 0


def test_maps_of_another_size_are_resized(regressor):
    found = regressor(torch.rand(1, 3, 2 * TINY.size, 2 * TINY.size))
    assert found["maps"].shape[-1] == regressor.size


def test_maps_that_show_nothing_give_a_finite_mesh(regressor):
    found = regressor.mesh(torch.zeros(1, 17, regressor.size, regressor.size))
    assert found["vertices"][0].isfinite().all() and found["camera"].isfinite().all()


def test_other_numbers_of_maps_are_named():
    mesh = pretraining.CONFIGS["smoke"]
    with pytest.raises(ValueError, match="17 maps, the transformer reads 1"):
        mpt.MeshRegressor(SimpleNamespace(pose=TINY, mesh=replace(mesh, maps=1)), pretraining.body_levels(mesh.levels))


# ------------------------------------------------------------------------------------------------- runs
def test_what_is_declared_exists():
    assert callable(resolved(mpt.POSE_SHIPPED.run)) and callable(resolved(mpt.WHOLE.run))


def test_the_mean_pose_does_not_shrink_and_fits_itself():
    from course_lib.studies.mpt_pose import aligned

    torch.manual_seed(0)
    one = torch.randn(1, 14, 3)
    turns = pretraining.axis_angle_to_matrix(torch.randn(6, 3))
    same = aligned(one @ turns.mT)
    torch.testing.assert_close(same, same[:1].expand_as(same), atol=1e-4, rtol=1e-4)
    assert same.norm(dim=-1).mean() > 0.9 * (one - one.mean(1, keepdim=True)).norm(dim=-1).mean()
