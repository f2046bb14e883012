"""Chapter 15's model: rays, texture, pose image, sequence, attention, heads; beside independent implementations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.chapters import rendering
from course_lib.chapters.cameras import Camera

TINY = humanram.Config(32, 24, 4, 3, 48, texture_size=8, texture_channels=2, features=16)
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
CORNERS = torch.tensor([[0.0, 0.8, 0.0], [-0.6, -0.5, 0.4], [0.6, -0.5, 0.4], [0.0, -0.5, -0.7]])


def views(batch: int, count: int, seed: int = 0) -> tuple[Tensor, rendering.Fragments, Tensor]:
    """Rays (B, S, 6, H, W), fragments and pictures of a tetrahedron before random cameras."""
    generator = torch.Generator().manual_seed(seed)
    eye = nn.functional.normalize(torch.randn(batch * count, 3, generator=generator), dim=-1) * 3
    camera = Camera.look_at(eye, torch.zeros(3), focal=40.0, size=(32, 32))
    rays = humanram.ray_map(camera, (32, 32)).unflatten(0, (batch, count))
    seen = rendering.rasterize(CORNERS.expand(batch * count, -1, -1), FACES, camera, 32)
    image = torch.rand(batch, count, 3, 32, 32, generator=generator)
    return rays, rendering.Fragments(*(part.unflatten(0, (batch, count)) for part in seen)), image


def make_batch(batch: int = 2, inputs: int = 2, targets: int = 3, seed: int = 0) -> dict[str, Tensor]:
    given, wanted = views(batch, inputs, seed), views(batch, targets, seed + 1)
    return {
        "image": given[2], "rays": given[0], "face": given[1].face, "barycentric": given[1].barycentric,
        "target_image": wanted[2], "target_rays": wanted[0], "target_face": wanted[1].face,
        "target_barycentric": wanted[1].barycentric,
    }  # fmt: skip


def make_model(config: humanram.Config = TINY, seed: int = 0) -> humanram.HumanRAM:
    torch.manual_seed(seed)
    return humanram.HumanRAM(config, CORNERS, FACES)


# ------------------------------------------------------------------------------------------------------------ rays
def test_a_rays_moment_is_zero_at_the_point_that_it_passes():
    camera = Camera.look_at(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.2, 0.9, 0.1]), focal=50.0, size=(9, 9))
    rays = humanram.ray_map(camera, (9, 9), torch.tensor([0.2, 0.9, 0.1]))
    assert rays[0, :3, 4, 4].norm() < 1e-5  # the middle pixel looks at the new origin
    assert rays[0, :3, 0, 0].norm() > 0.05


@pytest.mark.parametrize("spoil", [lambda K: K.index_fill(-1, torch.tensor(0), 0.0), lambda K: K * torch.nan])
def test_a_singular_camera_is_refused(spoil):
    camera = Camera.look_at(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(3), size=(8, 8))
    with pytest.raises(ValueError, match="camera 0 is singular"):
        humanram.ray_map(Camera(spoil(camera.K), camera.R, camera.t), (8, 8))


def test_a_unit_is_a_length():
    camera = Camera.look_at(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(3), size=(8, 8))
    with pytest.raises(ValueError, match="more than 0"):
        humanram.ray_map(camera, (8, 8), unit=0.0)


# --------------------------------------------------------------------------------------------------------- texture
def test_planes_are_what_scipy_interpolates():
    planes, points = torch.randn(3, 2, 6, 6), 1.6 * torch.rand(40, 3) - 0.8
    centres = (2 * np.arange(6) + 1) / 6 - 1
    expected = []
    for plane, (column, row) in zip(planes, ((0, 1), (0, 2), (1, 2)), strict=True):
        look = RegularGridInterpolator((centres, centres), plane.permute(1, 2, 0).numpy())
        expected.append(look(points[:, [row, column]].numpy()))
    expected = torch.from_numpy(np.concatenate(expected, 1)).float()
    assert torch.allclose(humanram.sample_planes(planes, points), expected, atol=1e-5)


def test_a_new_texture_is_normal_with_the_papers_spread():
    torch.manual_seed(0)
    planes = humanram.NeuralTexture(replace(TINY, texture_size=128, texture_channels=16)).planes
    assert planes.shape == (3, 16, 128, 128) and abs(planes.std() - 0.1) < 1e-3 and abs(planes.mean()) < 1e-3


def test_pose_image_is_the_rasterisers_interpolation_and_its_gradient():
    _, seen, _ = views(2, 2)
    features = torch.randn(4, 5, requires_grad=True)
    flat = rendering.Fragments(*(part.flatten(0, 1) for part in seen))
    expected = rendering.interpolate(flat, FACES, features).unflatten(0, (2, 2)).movedim(-1, -3)
    found = humanram.pose_image(features, FACES, seen.face, seen.barycentric)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((image * weights).sum(), features)[0] for image in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-4)


def test_a_view_without_the_person_is_zero_and_the_model_takes_it():
    batch = make_batch()
    batch["face"][:, 0] = -1
    batch["barycentric"][:, 0] = 0
    assert make_model()(batch).isfinite().all()
    assert not humanram.pose_image(torch.randn(4, 3), FACES, batch["face"][:, 0], batch["barycentric"][:, 0]).any()


def test_the_canonical_surface_fits_the_cube_and_its_faces():
    vertices, faces = humanram.canonical_surface()
    boxed = humanram.into_box(vertices)
    assert boxed.abs().max() == pytest.approx(1 / 1.1, abs=1e-5) and int(faces.max()) < len(vertices)
    feet = vertices[vertices[:, 1] < vertices[:, 1].min() + 0.05]
    assert feet[:, 0].max() - feet[:, 0].min() > 0.5  # it stands like a star


def test_faces_of_another_body_are_refused():
    with pytest.raises(ValueError, match="the surface has 3"):
        humanram.HumanRAM(TINY, CORNERS[:3], FACES)
    with pytest.raises(ValueError, match=r"vertices \(V, 3\)"):
        humanram.HumanRAM(TINY, CORNERS[None], FACES)


# ------------------------------------------------------------------------------------------------- block, attention
def spelled_out(block: humanram.Block, x: Tensor, keep: Tensor | None) -> Tensor:
    """A block in float64, by einsum and loops over heads, without a line of the course's."""
    w = {name: value.detach().double() for name, value in block.named_parameters()}

    def layer_norm(x, scale):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5) ** 0.5 * scale

    def rms(x, scale):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5) ** 0.5 * scale

    x = x.double()
    width, heads = x.shape[-1], block.attn.heads
    d = width // heads
    flat = torch.einsum("bnd,ed->bne", layer_norm(x, w["norm1.weight"]), w["attn.qkv.weight"])
    answers = []
    for head in range(heads):
        q, k, v = (flat[..., part * width + head * d : part * width + (head + 1) * d] for part in range(3))
        q, k = rms(q, w["attn.q_norm.weight"]), rms(k, w["attn.k_norm.weight"])
        scores = torch.einsum("bnd,bmd->bnm", q, k) / d**0.5
        scores = scores if keep is None else scores.where(keep[:, None], torch.tensor(-1e30).double())
        shares = torch.exp(scores - scores.amax(-1, keepdim=True))
        answers.append(torch.einsum("bnm,bmd->bnd", shares / shares.sum(-1, keepdim=True), v))
    x = x + torch.einsum("bne,de->bnd", torch.cat(answers, -1), w["attn.proj.weight"])
    hidden = torch.einsum("bnd,ed->bne", layer_norm(x, w["norm2.weight"]), w["fc1.weight"])
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return x + torch.einsum("bne,de->bnd", hidden, w["fc2.weight"])


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_what_einsums_say(masked):
    torch.manual_seed(0)
    block = humanram.Block(24, 3, 60)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.3)
    x, keep = torch.randn(3, 11, 24), torch.rand(3, 11) < 0.6
    keep[:, 0] = True
    keep = keep if masked else None
    assert (block(x, keep) - spelled_out(block, x, keep)).abs().max() < 1e-5


def test_attention_is_pytorchs_multihead_attention_where_nothing_is_normalised():
    torch.manual_seed(0)
    own = humanram.Attention(24, 3)
    own.q_norm = own.k_norm = nn.Identity()
    theirs = nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
    theirs.load_state_dict({"in_proj_weight": own.qkv.weight, "out_proj.weight": own.proj.weight})
    x, keep = torch.randn(2, 9, 24), torch.rand(2, 9) < 0.7
    expected, shares = theirs(x, x, x, key_padding_mask=~keep, average_attn_weights=False)
    assert torch.allclose(own(x, keep), expected, atol=1e-5)
    assert torch.allclose(own.shares(x, keep), shares, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="can't be cut into 5 heads"):
        humanram.Attention(24, 5)


# ------------------------------------------------------------------------------------------------------- the model
@pytest.mark.parametrize("head", humanram.HEADS)
@pytest.mark.parametrize("pose_image", [True, False])
def test_pictures_come_out_and_every_weight_learns(head, pose_image):
    model, batch = make_model(replace(TINY, head=head, pose_image=pose_image)), make_batch()
    found = model(batch)
    assert found.shape == (2, 3, 3, 32, 32) and 0 < found.min() and found.max() < 1
    (found - batch["target_image"]).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_an_answer_does_not_depend_on_what_else_is_asked():
    model, batch = make_model(), make_batch()
    alone = {name: v[1:, 2:] if name.startswith("target") else v[1:] for name, v in batch.items()}
    assert torch.allclose(model(alone)[0, 0], model(batch)[1, 2], atol=1e-5)


def test_the_order_of_the_input_views_does_not_matter():
    model, batch = make_model(), make_batch()
    turned = {name: v if name.startswith("target") else v.flip(1) for name, v in batch.items()}
    assert torch.allclose(model(turned), model(batch), atol=1e-5)


def test_a_missing_view_is_as_if_it_were_not_there_whatever_it_holds():
    model, batch = make_model(), make_batch()
    one = {name: v if name.startswith("target") else v[:, :1] for name, v in batch.items()}
    missing = {name: v.clone() for name, v in batch.items()} | {"seen": torch.tensor([[True, False]] * 2)}
    missing["image"][:, 1] = torch.nan
    assert torch.allclose(model(missing), model(one), atol=1e-5)
    same, other = ((model(views) - model(one)).abs().max() for views in (missing, batch))
    assert other > 3 * same + 1e-6, "the second view changes nothing"


def test_no_view_at_all_is_defined():
    batch = make_batch() | {"seen": torch.zeros(2, 2, dtype=torch.bool)}
    assert make_model()(batch).isfinite().all()


def test_pictures_that_patches_do_not_fit_are_refused():
    batch = {name: v[..., :30, :] if "barycentric" not in name else v for name, v in make_batch().items()}
    with pytest.raises(ValueError, match="can't be cut into patches of 8"):
        make_model()(batch)


def test_a_head_without_a_name_is_refused():
    with pytest.raises(ValueError, match="no head is called 'mlp'"):
        replace(TINY, head="mlp")


def test_shares_are_those_of_the_targets_tokens_and_sum_to_one():
    shares = make_model().shares(make_batch(), layer=1)
    assert shares.shape == (2, 3, 3, 16, 48)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 3, 3, 16), atol=1e-5)


def test_layers_begin_smaller_the_deeper_they_are():
    model = make_model(replace(TINY, width=96, hidden=384, heads=4))
    spread = [block.fc1.weight.std().item() for block in model.blocks]
    assert spread == pytest.approx([0.02 / (2 * (i + 1)) ** 0.5 for i in range(4)], rel=0.05)
    assert model.embed_input.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_papers_size_is_what_its_numbers_make():
    with torch.device("meta"):
        model = humanram.HumanRAM(humanram.Config(256, 768, 12, 16, 3072), CORNERS, FACES)
    linear = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert linear == 12 * (4 * 768**2 + 2 * 768 * 3072) == 84_934_656
    assert model.embed_input.weight.shape == (768, 3648) and model.embed_target.weight.shape == (768, 3456)
    assert model.texture.planes.numel() == 786_432 and model.points.is_meta and model.hooks == (3, 6, 9, 12)
    assert not model.state_dict().keys() & {"points", "faces"}


def test_it_runs_on_tensors_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    model, batch = make_model(), make_batch()
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(value) for name, value in batch.items()}
        twin = torch.func.functional_call
        state = {name: mode.from_tensor(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
        assert twin(model, state, (fake,)).shape == (2, 3, 3, 32, 32)
