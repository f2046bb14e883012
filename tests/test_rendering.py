"""Chapter 03's rasteriser: against Embree, against a loop over pixels, and in the places where rasterisers break."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib.chapters import rendering
from course_lib.chapters.bodies import BodyModel
from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import interpolate, rasterize

SIZE = (40, 48)


pytestmark = pytest.mark.usefixtures("one_thread")


def pinhole(size=SIZE, focal: float = 40.0) -> Camera:
    """A camera at the origin that looks along +z: its space is the world."""
    K = torch.tensor([[[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]]])
    return Camera(K, torch.eye(3)[None], torch.zeros(1, 3))


def repeated(camera: Camera, count: int) -> Camera:
    return Camera(*(value.expand(count, *value.shape[1:]) for value in vars(camera).values()))


def at_pixels(pixels: Tensor, depth: Tensor | float, camera: Camera) -> Tensor:
    """Points (1, V, 3) that a camera at the origin sees at pixels (V, 2)."""
    depth = torch.as_tensor(depth, dtype=torch.float32).expand(len(pixels))
    return camera.unproject(pixels[None].float(), depth[None])


def random_soup(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random triangles, some partly outside the picture: vertices (1, 3 * count, 3), faces (count, 3)."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(3 * count, 2, generator=generator) * 70 - 10
    depth = 1 + 3 * torch.rand(3 * count, generator=generator)
    return at_pixels(pixels, depth, pinhole()), torch.arange(3 * count).view(-1, 3)


def by_pixel(vertices: Tensor, faces: Tensor, camera: Camera, size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Face, depth (H, W) in float64 from a ray per pixel and triangle, and where the answer is clear (H, W)."""
    corners = camera.to_camera(vertices)[0].double().numpy()[faces.numpy()]  # (F, 3, 3)
    opposite = np.stack([np.cross(corners[:, i - 2], corners[:, i - 1]) for i in range(3)], 1)  # (F, 3, 3)
    inverse = np.linalg.inv(camera.K[0].double().numpy())
    face, depth, clear = np.full(size, -1), np.full(size, np.inf), np.ones(size, bool)
    for row, column in np.ndindex(*size):
        area = opposite @ inverse @ [column + 0.5, row + 0.5, 1]  # (F, 3)
        weights = area / area.sum(1, keepdims=True)
        z = np.where(weights.min(1) > 0, (weights * corners[..., 2]).sum(1), np.inf)  # (F,)
        first, second = np.sort(z)[:2]
        clear[row, column] = abs(weights).min() > 1e-4 and (first == np.inf or second - first > 1e-4)
        if first < np.inf:
            face[row, column], depth[row, column] = z.argmin(), first
    return face, depth, clear


def coverage(vertices: Tensor, faces: Tensor, camera: Camera, size) -> Tensor:
    """How many faces claim each pixel (H, W), near and far ones alike."""
    points, K = camera.to_camera(vertices), camera.K
    triangles = rendering.visible_triangles(points, faces, K, size, rendering.NEAR)
    rows, corners = rendering.sort_by_row(triangles.points, triangles.corners, size[0])
    spans = rendering.triangle_spans(triangles.points, rows, corners, size[1])
    span, offset = rendering.expand(spans.count)
    pixel = spans.row[span] * size[1] + spans.column[span] + offset
    return torch.zeros(size[0] * size[1], dtype=torch.int64).index_add(0, pixel, torch.ones_like(pixel)).view(size)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ------------------------------------------------------------------------------------------------ what is right
@pytest.mark.parametrize("seed", range(3))
def test_random_triangles_against_a_loop_over_pixels(seed):
    vertices, faces = random_soup(12, seed)
    fragments = rasterize(vertices, faces, pinhole(), SIZE)
    face, depth, clear = by_pixel(vertices, faces, pinhole(), SIZE)
    assert clear.mean() > 0.95
    assert (fragments.face[0].numpy() == face)[clear].all()
    seen = clear & (face >= 0)
    np.testing.assert_allclose(fragments.depth[0].numpy()[seen], depth[seen], atol=1e-5)
    assert fragments.depth[fragments.face < 0].isposinf().all()
    assert (fragments.barycentric[fragments.face < 0] == 0).all()


def test_barycentrics_are_of_the_point_that_the_pixel_sees():
    vertices, faces = random_soup(12, seed=3)
    fragments = rasterize(vertices, faces, pinhole(), SIZE)
    seen = fragments.face[0] >= 0
    points = interpolate(fragments, faces, vertices)[0][seen]  # (P, 3)
    row, column = seen.nonzero(as_tuple=True)
    pixels = pinhole().project(points[None])[0]
    torch.testing.assert_close(pixels, torch.stack([column, row], 1) + 0.5, atol=2e-4, rtol=0)
    torch.testing.assert_close(points[:, 2], fragments.depth[0][seen])
    torch.testing.assert_close(fragments.barycentric[0][seen].sum(1), torch.ones(len(points)))


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_each_pixel_of_a_closed_patch_is_claimed_once(step):
    """Corners on pixel centres and borders, where ties are certain: no hole and no double on any shared edge."""
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    inside = np.round(rng.uniform(0, 40, (150, 2)) / step) * step
    pixels = np.unique(np.concatenate([inside, [[0, 0], [40, 0], [0, 40], [40, 40]]]), axis=0)
    faces = torch.tensor(Delaunay(pixels).simplices, dtype=torch.int64)
    camera = Camera(torch.eye(3)[None], torch.eye(3)[None], torch.zeros(1, 3))  # pixels are x / z, y / z: exact
    vertices = torch.cat([torch.tensor(pixels), torch.ones(len(pixels), 1)], 1)[None].float()
    assert (coverage(vertices, faces, camera, (40, 40)) == 1).all()
    shifted = vertices + torch.tensor([0.1234567, 0.7654321, 0])  # no ties, edges that do not end on the grid
    assert (coverage(shifted, faces, camera, (40, 40))[1:, 1:] == 1).all()


def test_equal_depth_goes_to_the_lower_face_id():
    vertices = at_pixels(torch.tensor([[0.0, 0], [40, 0], [0, 40]]), 2.0, pinhole())
    faces = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 1, 2]])
    assert set(rasterize(vertices, faces, pinhole(), SIZE).face.unique().tolist()) == {-1, 0}


def test_order_of_depth_survives_the_last_bit():
    """The z-buffer compares float32 exactly: the nearer of two faces one unit in the last place apart."""
    near = torch.tensor(2.0).nextafter(torch.tensor(1.0))
    depth = torch.stack([torch.tensor(2.0), near, torch.tensor(1e-3), torch.tensor(3e7)])
    keys = rendering.pack(depth, torch.tensor([0, 7, 3, 9]))
    assert keys.argsort().tolist() == depth.argsort().tolist()
    assert (keys & 0xFFFFFFFF).tolist() == [0, 7, 3, 9]


def test_batch_equals_one_by_one_and_one_camera_serves_all():
    soups = [random_soup(20, seed) for seed in range(3)]
    vertices, faces = torch.cat([v for v, _ in soups]), soups[0][1]
    batch = rasterize(vertices, faces, pinhole(), SIZE)
    for index in range(3):
        single = rasterize(vertices[index : index + 1], faces, pinhole(), SIZE)
        assert same((values[index : index + 1] for values in batch), single)
    three = repeated(pinhole(), 3)
    assert same(
        rasterize(vertices[:1], faces, three, SIZE), rasterize(vertices[:1].expand(3, -1, -1), faces, three, SIZE)
    )


@pytest.mark.parametrize("at_once", [1, 50, 1000])
def test_tiling_changes_nothing(at_once):
    vertices, faces = random_soup(30, seed=5)
    assert same(
        rasterize(vertices, faces, pinhole(), SIZE, at_once=at_once), rasterize(vertices, faces, pinhole(), SIZE)
    )


def test_threads_change_nothing():
    vertices, faces = random_soup(200, seed=6)
    single = rasterize(vertices, faces, pinhole((200, 200), 200.0), 200)
    torch.set_num_threads(2)
    double = rasterize(vertices, faces, pinhole((200, 200), 200.0), 200)
    torch.set_num_threads(1)
    assert same(single, double)


# ------------------------------------------------------------------------------------------------ where it breaks
def test_behind_the_camera_and_outside_the_picture_nothing_is_drawn():
    camera = pinhole()
    for depth in (-2.0, 0.0, 0.005):
        corners = torch.tensor([[[-1.0, -1, depth], [1, -1, depth], [0, 1, depth]]])
        assert (rasterize(corners, torch.tensor([[0, 1, 2]]), camera, SIZE).face == -1).all()
    square = torch.tensor([[0.0, 0], [30, 0], [0, 30]])
    for away in ([-100.0, 0], [100, 0], [0, -100], [0, 100], [1e7, 1e7]):
        vertices = at_pixels(square + torch.tensor(away), 2.0, camera)
        assert (rasterize(vertices, torch.tensor([[0, 1, 2]]), camera, SIZE).face == -1).all()


def floor(height: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two huge triangles under the camera, from far behind it to far in front."""
    corners = [[-50.0, height, -30], [50, height, -30], [50, height, 60], [-50, height, 60]]
    return torch.tensor([corners]), torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_a_floor_that_passes_under_the_camera_is_clipped_not_mirrored():
    vertices, faces = floor()
    fragments = rasterize(vertices, faces, pinhole(), SIZE)
    row = torch.arange(SIZE[0])[:, None] + 0.5
    expected = (40.0 / (row - SIZE[0] / 2)).expand(SIZE)  # a floor 1 m below: z = f / (y - c_y)
    below = (expected > 0) & (expected < 60)
    assert torch.equal(fragments.face[0] >= 0, below)
    torch.testing.assert_close(fragments.depth[0][below], expected[below], atol=0, rtol=2e-5)
    height = interpolate(fragments, faces, vertices)[0][below][:, 1]
    torch.testing.assert_close(height, torch.ones_like(height), atol=1e-4, rtol=0)
    assert (coverage(vertices, faces, pinhole(), SIZE) <= 1).all(), "the cut pieces overlap"


def test_a_face_close_to_a_straddling_one_shares_its_edge_without_holes():
    vertices, faces = floor()
    split = torch.tensor([[-50.0, 1, 10], [50, 1, 10]])  # the same floor, cut in two strips at z = 10
    vertices = torch.cat([vertices[0], split])[None]
    strips = torch.tensor([[0, 1, 5], [0, 5, 4], [4, 5, 2], [4, 2, 3]])
    covered = rasterize(vertices, strips, pinhole(), SIZE).face[0] >= 0
    assert torch.equal(covered, rasterize(vertices, faces, pinhole(), SIZE).face[0] >= 0)


def test_degenerate_faces_are_not_drawn_and_give_no_nan():
    pixels = torch.tensor([[5.0, 5], [25, 25], [45, 45], [5, 30.5], [40, 30.5], [20, 30.5]])
    vertices = at_pixels(pixels, 2.0, pinhole()).requires_grad_()
    faces = torch.tensor([[0, 0, 0], [0, 1, 1], [3, 4, 5], [0, 1, 3]])  # a point, two lines, one real face
    fragments = rasterize(vertices, faces, pinhole(), SIZE)
    assert set(fragments.face.unique().tolist()) == {-1, 3}
    fragments.depth[fragments.face >= 0].sum().backward()
    assert vertices.grad.isfinite().all()


def test_no_faces_is_an_empty_picture():
    fragments = rasterize(torch.zeros(2, 4, 3), torch.zeros(0, 3, dtype=torch.int64), pinhole(), SIZE)
    assert fragments.face.shape == (2, *SIZE) and (fragments.face == -1).all()
    assert interpolate(fragments, torch.zeros(0, 3, dtype=torch.int64), torch.ones(4, 5)).eq(0).all()


def test_culling_keeps_faces_that_run_counter_clockwise_as_seen():
    vertices = at_pixels(
        torch.tensor([[5.0, 35], [40, 35], [20, 5]]), 2.0, pinhole()
    )  # counter-clockwise on the screen
    for faces, drawn in (([[0, 1, 2]], True), ([[0, 2, 1]], False)):
        culled = rasterize(vertices, torch.tensor(faces), pinhole(), SIZE, cull_backfaces=True)
        assert bool((culled.face >= 0).any()) == drawn
        assert (rasterize(vertices, torch.tensor(faces), pinhole(), SIZE).face >= 0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": torch.zeros(4, 3)}, r"\(B, V, 3\).*vertices\[None\]"),
        ({"vertices": torch.zeros(1, 4, 3).double()}, r"vertices\.float\(\)"),
        ({"vertices": torch.full((1, 4, 3), torch.nan)}, r"NaN or infinity, first at .*\[0, 0\]"),
        ({"faces": torch.tensor([[0, 1, 4]])}, "faces name vertices 0 to 4, there are 4"),
        ({"faces": torch.tensor([[-1, 1, 2]])}, "faces name vertices -1"),
        ({"faces": torch.tensor([[0.0, 1, 2]])}, "faces must be integers"),
        ({"faces": torch.tensor([[[0, 1, 2]]])}, "one mesh per call"),
        ({"size": (0, 10)}, "between 1 and"),
        ({"size": 100_000}, "between 1 and"),
        ({"vertices": torch.zeros(2, 4, 3), "camera": repeated(pinhole(), 3)}, "2 bodies and 3 cameras"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(change, message):
    good = {"vertices": torch.zeros(1, 4, 3), "faces": torch.tensor([[0, 1, 2]]), "camera": pinhole(), "size": 8}
    with pytest.raises(ValueError, match=message):
        rasterize(**(good | change))


# ------------------------------------------------------------------------------------------------------ gradients
def test_gradients_of_barycentrics_and_depth_against_finite_differences():
    vertices, faces = random_soup(4, seed=8)
    face = rasterize(vertices, faces, pinhole(), SIZE).face
    image, row, column = (face >= 0).nonzero(as_tuple=True)
    some = slice(None, None, 37)
    seen = (image[some], row[some], column[some], face[image, row, column][some])
    points, K = vertices.double().requires_grad_(), pinhole().K.double().requires_grad_()

    def answer(points, K):
        return rendering.pixel_barycentrics(points, faces, K, seen)

    assert torch.autograd.gradcheck(answer, (points, K), atol=1e-5)


def test_gradients_reach_vertices_camera_and_attributes_through_the_pictures():
    vertices, faces = random_soup(6, seed=9)
    vertices.requires_grad_()
    camera = pinhole()
    fragments = rasterize(vertices, faces, camera, SIZE)
    attributes = torch.rand(vertices.shape[1], 2, requires_grad=True)
    picture = interpolate(fragments, faces, attributes)
    by_attribute, by_vertex = torch.autograd.grad(picture.square().sum(), (attributes, vertices), retain_graph=True)
    assert by_attribute.abs().sum() > 0 and by_vertex.abs().sum() > 0
    seen = fragments.face >= 0
    (gradient,) = torch.autograd.grad(fragments.depth[seen].sum(), vertices)
    step = torch.tensor([0.0, 0.0, 1e-2])
    with torch.no_grad():
        moved = [rasterize(vertices + sign * step, faces, camera, SIZE) for sign in (1, -1)]
    still = (moved[0].face == fragments.face) & (moved[1].face == fragments.face) & seen
    (gradient,) = torch.autograd.grad(rasterize(vertices, faces, camera, SIZE).depth[still].sum(), vertices)
    numeric = (moved[0].depth - moved[1].depth)[still].sum() / 0.02
    assert gradient[..., 2].sum().item() == pytest.approx(numeric.item(), rel=1e-2)


# ------------------------------------------------------------------------------------------------- normals and light
def test_vertex_normals_of_a_sphere_point_outwards():
    trimesh = pytest.importorskip("trimesh")
    sphere = trimesh.creation.icosphere(subdivisions=3)
    vertices = torch.tensor(sphere.vertices, dtype=torch.float32)[None]
    normals = rendering.vertex_normals(vertices, torch.tensor(sphere.faces))
    torch.testing.assert_close(normals, vertices, atol=0.02, rtol=0)
    lonely = rendering.vertex_normals(torch.cat([vertices, torch.ones(1, 1, 3)], 1), torch.tensor(sphere.faces))
    assert (lonely[0, -1] == 0).all(), "a vertex without a face has the normal 0, not NaN"


def test_camera_normals_have_y_up_and_z_toward_the_viewer():
    camera = Camera.look_at(eye=torch.tensor([[0.0, 0, 3]]), target=torch.zeros(1, 3), focal=50.0, size=SIZE)
    world = torch.eye(3)[None]  # right, up and toward the camera
    torch.testing.assert_close(rendering.camera_normals(world, camera), torch.eye(3)[None], atol=1e-6, rtol=0)
    picture = world.view(1, 1, 3, 3)
    assert rendering.camera_normals(picture, camera).shape == picture.shape


def test_shade_is_dark_behind_bright_before_and_within_bounds():
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 1, 0]])
    light, albedo = torch.tensor([0.0, 0, 1]), torch.ones(3, 3)
    colour = rendering.shade(albedo, normals, light, light_colour=0.5, sky=0.2, ground=0.0)
    torch.testing.assert_close(colour[:, 0], torch.tensor([0.6, 0.1, 0.2]))
    glossy = rendering.shade(albedo, normals, light, gloss=9.0, toward_viewer=light)
    assert glossy.min() >= 0 and glossy.max() <= 1
    shadow = rendering.shade(albedo, normals, light, light_colour=0.5, sky=0.2, ground=0.0, lit=torch.zeros(3, 1))
    torch.testing.assert_close(shadow[:, 0], torch.tensor([0.1, 0.1, 0.2]))


# -------------------------------------------------------------------------------------------------- a whole body
def test_just_outside_the_shadow_map_a_place_is_lit():
    light = pinhole((4, 4), focal=4.0)
    places = torch.tensor([[[[-2.2, 0.0, 4.0], [0.0, 0.0, 4.0]]]])  # at column -0.2 and in the middle
    lit = rendering.sunlit(places, light, torch.full((1, 4, 4), 2.0))
    assert lit.flatten().tolist() == [1, 0]


@pytest.fixture(scope="module")
def person() -> tuple[Tensor, Tensor]:
    body = BodyModel.from_npz()
    pose = 0.2 * torch.randn(1, 55, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return body(pose=pose).vertices, body.faces


@pytest.mark.parametrize("size", [128, 256])
def test_a_body_against_embree(person, size):
    pytest.importorskip("embreex")
    trimesh = pytest.importorskip("trimesh")
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    vertices, faces = person
    camera = Camera.look_at(
        torch.tensor([[0.5, 0, 3.2]]), torch.tensor([[0.0, -0.3, 0]]), focal=1.3 * size, size=(size, size)
    )
    fragments = rasterize(vertices, faces, camera, size)
    row, column = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    rays = torch.stack([column, row, torch.ones_like(row)], -1).view(-1, 3).double() @ camera.K[0].double().inverse().T
    back = torch.linalg.inv(camera.R[0].double()).T  # a float32 rotation's transpose is not quite its inverse
    rays, eye = (rays @ back).numpy(), -(camera.t.double() @ back).numpy()
    mesh = trimesh.Trimesh(vertices[0].numpy(), faces.numpy(), process=False)
    engine = RayMeshIntersector(mesh, scale_to_box=False)
    face = engine.intersects_first(np.repeat(eye, len(rays), 0), rays).reshape(size, size)
    assert (face >= 0).mean() > 0.05
    assert (fragments.face[0].numpy() == face).mean() >= 0.9999
    both = (fragments.face[0].numpy() == face) & (face >= 0)
    corners = vertices[0].double().numpy()[faces.numpy()[face[both]]]  # (P, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    depth = ((corners[:, 0] - eye) * normal).sum(1) / (rays[both.ravel()] * normal).sum(1)
    forward = camera.R[0, 2].double().numpy()
    reach = (corners - eye[0]) @ forward  # (P, 3): a pixel on a face's very edge stays within the face
    depth = depth.clip(reach.min(1), reach.max(1))
    assert np.abs(fragments.depth[0].numpy()[both] - depth).max() < 1e-5


def test_culling_changes_no_picture_of_a_closed_body(person):
    vertices, faces = person
    camera = Camera.look_at(torch.tensor([[0.0, 0, 3]]), torch.zeros(1, 3), focal=200.0, size=(160, 160))
    whole, culled = (rasterize(vertices, faces, camera, 160, cull_backfaces=cull) for cull in (False, True))
    assert (whole.face != culled.face).float().mean() < 1e-3


MEMORY = """
import sys, torch
from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import rasterize
torch.set_num_threads(1)
def peak():  # MB; not getrusage, whose peak begins with that of the parent process
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
vertices, faces, head = torch.load(sys.argv[1])
near = Camera.look_at(head + torch.tensor([[0.0, 0.05, 0.35]]), head, focal=1500.0, size=(1024, 1024))
rasterize(vertices, faces, near, 32)
before = peak()
covered = (rasterize(vertices, faces, near, 1024).face >= 0).float().mean()
close_up = peak() - before
corners = torch.tensor([[-9.0, -9, 1], [9, -9, 1], [0, 9, 1]]).repeat(24, 1) + torch.arange(72)[:, None] * 1e-3
front = Camera(near.K, torch.eye(3)[None], torch.zeros(1, 3))
rasterize(corners[None], torch.arange(72).view(-1, 3), front, 1024)
print(float(covered), close_up, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_a_close_up_and_stacked_full_screen_faces_stay_below_one_gigabyte(tmp_path):
    body = BodyModel.from_npz()
    with torch.no_grad():
        torch.save((body().vertices, body.faces, body().joints[:, 15]), tmp_path / "body.pt")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "body.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    covered, close_up, stacked = map(float, result.stdout.split())
    assert covered > 0.3, "the camera does not look at the face"
    assert close_up < 1000 and stacked < 1000, f"{close_up:.0f} MB for a close-up, {stacked:.0f} MB for stacked faces"
