"""The checks of chapter 03: rendering."""

import torch
from torch import Tensor

from course_lib.chapters import rendering
from course_lib.chapters.cameras import Camera
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_gradient,
    expect_not_close,
    expect_unchanged,
    wrong_answer,
)

LEFT, RIGHT, BELOW = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 2.0]), torch.tensor([2.0, 5.0])
TRIANGLE = torch.tensor([[2.0, 1.0], [9.0, 3.0], [4.0, 8.0]])
QUAD = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.5]])
QUAD_FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])  # counter-clockwise as seen from +z


def two_views() -> tuple[Tensor, rendering.Fragments]:
    """Two bodies of four vertices (2, 4, 3), seen from +z in 8 x 10 pixels with some background around."""
    vertices = torch.stack([QUAD, QUAD + torch.tensor([0.3, 0.1, 0.0])])
    camera = Camera.look_at(torch.tensor([[0.0, 0, 4]]), torch.zeros(1, 3), focal=10.0, size=(8, 10))
    return vertices, rendering.rasterize(vertices, QUAD_FACES, camera, (8, 10))


# ------------------------------------------------------------------------------------------------ 03.1 edge function
@check_for("03.1")
def edge_function(answer):
    area = answer(LEFT, RIGHT, BELOW)
    expect_not_close(
        area,
        -torch.tensor(12.0),
        "The sign is turned around: with a left, b right of it and p below the "
        "line (y points down), a -> b -> p is clockwise for the eye and the result positive",
    )
    expect_not_close(
        area,
        torch.tensor(4.0),
        "That is the dot product of the two arrows. The area is their cross product: x times y minus y times x",
    )
    expect_not_close(
        area, torch.tensor(6.0), "That is the triangle's area. Equation 03.1 is twice as much: leave the ½ out"
    )
    expect_close(area, torch.tensor(12.0), "the edge function of (1, 2), (5, 2) at (2, 5)")
    expect_close(answer(LEFT, RIGHT, torch.tensor([3.0, 2.0])), torch.tensor(0.0), "at a point on the line")
    points = torch.randn(4, 5, 2)
    a, b = torch.randn(2), torch.randn(2)
    expected = (b[0] - a[0]) * (points[..., 1] - a[1]) - (b[1] - a[1]) * (points[..., 0] - a[0])
    expect_close(answer(a, b, points), expected, "one line and (4, 5, 2) points (x and y are the *last* dimension)")


@wrong_answer("03.1", says="turned around")
def edge_the_other_way(a, b, p):
    return (p[..., 0] - a[..., 0]) * (b[..., 1] - a[..., 1]) - (p[..., 1] - a[..., 1]) * (b[..., 0] - a[..., 0])


@wrong_answer("03.1", says="dot product")
def edge_dot_product(a, b, p):
    return ((b - a) * (p - a)).sum(-1)


@wrong_answer("03.1", says="last")
def edge_of_the_first_dimension(a, b, p):
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


@wrong_answer("03.1", says="twice as much")
def edge_halved(a, b, p):
    return rendering.edge_function(a, b, p) / 2


# ------------------------------------------------------------------------------------------------ 03.2 pixel centres
@check_for("03.2")
def pixel_centres(answer):
    centres = answer((2, 3))
    expected = torch.tensor([[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]], [[0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]])
    expect_not_close(centres, expected - 0.5, "Those are the pixels' upper left corners. The centre is half a pixel on")
    expect_not_close(centres, expected.flip(-1), "x and y are swapped: x comes first, and it counts the columns")
    expect_close(centres, expected, "the centres of 2 rows of 3 pixels")


@wrong_answer("03.2", says="upper left corners")
def pixel_corners(size):
    return rendering.pixel_centres(size) - 0.5


@wrong_answer("03.2", says="swapped")
def centres_row_first(size):
    return rendering.pixel_centres(size).flip(-1)


@wrong_answer("03.2", says="another order|permute")
def centres_columns_first(size):
    return rendering.pixel_centres(size).transpose(0, 1)


# ---------------------------------------------------------------------------------------------- 03.3 barycentrics
@check_for("03.3")
def barycentric_coordinates(answer):
    at_corners = answer(TRIANGLE, TRIANGLE)
    expect_not_close(
        at_corners,
        torch.eye(3).roll(1, 1),
        "At corner a the weight of b (or c) is 1. The weight of a corner "
        "is the area opposite to it: a's is the edge function of b and c",
    )
    expect_not_close(
        at_corners,
        torch.eye(3).roll(2, 1),
        "At corner a the weight of c is 1. The weight of a corner is "
        "the area opposite to it: a's is the edge function of b and c",
    )
    expect_close(
        at_corners.sum(-1), torch.ones(3), "the sum of the weights at each point (divide by the sum of its areas)"
    )
    expect_close(at_corners, torch.eye(3), "the weights at the corners themselves")
    points = torch.rand(6, 4, 2) * 10
    weights = answer(TRIANGLE, points)
    areas = rendering.barycentric_coordinates(TRIANGLE, points)
    expect_not_close(
        weights,
        areas / areas.abs().sum(-1, keepdim=True),
        "Outside the triangle the weights do not sum to 1: one is negative there. Divide by the sum of the areas as it "
        "is, not of their absolute values",
    )
    expect_close(weights, rendering.barycentric_coordinates(TRIANGLE, points), "the weights at 6 x 4 points")
    expect_close(
        answer(TRIANGLE.flip(0), points),
        weights.flip(-1),
        "a triangle seen from behind (divide by the sum of the areas as it is, sign and all)",
        atol=1e-4,
    )


@wrong_answer("03.3", says="sum of the weights")
def barycentric_unnormalised(triangle, points):
    a, b, c = triangle
    edge = rendering.edge_function
    return torch.stack([edge(b, c, points), edge(c, a, points), edge(a, b, points)], -1)


@wrong_answer("03.3", says="absolute values")
def barycentric_of_absolute_areas(triangle, points):
    weights = rendering.barycentric_coordinates(triangle, points)
    return weights / weights.abs().sum(-1, keepdim=True)


@wrong_answer("03.3", says="opposite")
def barycentric_adjacent_edge(triangle, points):
    return rendering.barycentric_coordinates(triangle, points).roll(1, -1)


@wrong_answer("03.3", says="seen from behind")
def barycentric_absolute(triangle, points):
    weights = rendering.barycentric_coordinates(triangle, points)
    front = rendering.edge_function(*triangle) > 0
    return weights if front else -weights


# ------------------------------------------------------------------------------------------ 03.4 perspective-correct
@check_for("03.4")
def perspective_correct(answer):
    weights, depths = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), torch.tensor([1.0, 3.0, 2.0])
    w = weights / depths
    expected = w / w.sum(-1, keepdim=True), 1 / w.sum(-1)
    result = answer(weights, depths)
    found, depth = result if isinstance(result, tuple) and len(result) == 2 else (None, None)
    expect_not_close(
        found,
        weights,
        "Those are the screen's weights, unchanged. Halfway on the screen is not halfway in "
        "space: divide each by its corner's depth (equation 03.3)",
    )
    times = weights * depths
    expect_not_close(
        found,
        times / times.sum(-1, keepdim=True),
        "The weights were multiplied by depth. The farther corner must get less: divide",
    )
    expect_not_close(found, w, "The weights do not sum to 1 any more: divide by their sum, which is 1/z")
    expect_not_close(depth, w.sum(-1), "The second answer is 1/z. Depth is one over it")
    expect_not_close(
        depth,
        (weights * depths).sum(-1),
        "The depth is interpolated with the screen's weights. Not z, but 1/z is linear on the screen",
    )
    expect_close(result, expected, "the weights and the depth at two pixels")
    same = answer(weights, torch.full((3,), 2.0))
    expect_close(same, (weights, torch.full((2,), 2.0)), "three corners equally far away (nothing should change)")


@wrong_answer("03.4", says="screen's weights, unchanged")
def screen_space(weights, depths):
    return weights, 1 / (weights / depths).sum(-1)


@wrong_answer("03.4", says="multiplied by depth")
def times_depth(weights, depths):
    w = weights * depths
    return w / w.sum(-1, keepdim=True), 1 / (weights / depths).sum(-1)


@wrong_answer("03.4", says="do not sum to 1")
def not_renormalised(weights, depths):
    return weights / depths, 1 / (weights / depths).sum(-1)


@wrong_answer("03.4", says="1/z is linear")
def linear_depth(weights, depths):
    return rendering.perspective_correct(weights, depths)[0], (weights * depths).sum(-1)


# ------------------------------------------------------------------------------------------------ 03.5 depth test
@check_for("03.5")
def keep_nearest(answer):
    depth_buffer, face_buffer = torch.tensor([[1.0, 3.0, torch.inf, torch.inf]]), torch.tensor([[4, 5, -1, -1]])
    inside, depth = torch.tensor([[True, True, True, False]]), torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    before = depth_buffer.clone()
    result = answer(depth_buffer, face_buffer, inside, depth, 9)
    expect_unchanged(depth_buffer, before, "the depth buffer that came in")
    expected = torch.tensor([[1.0, 2.0, 2.0, torch.inf]]), torch.tensor([[4, 9, 9, -1]])
    if isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Tensor) for part in result):
        farthest = torch.tensor([[2.0, 3.0, torch.inf, torch.inf]])
        expect_not_close(result[0], farthest, "The farther one won. Smaller depth is nearer: keep that")
        everywhere = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
        expect_not_close(result[0], everywhere, "The face was drawn where it is not: look at `inside`")
        painted = torch.tensor([[2.0, 2.0, 2.0, torch.inf]])
        expect_not_close(result[0], painted, "The last face drawn won, even behind another: compare the depths")
    expect_close(result, expected, "depth and face after drawing one face")
    tie = answer(depth, torch.full((1, 4), 4), inside, depth, 9)
    expect_equal(
        tie[1].tolist(), [[4] * 4], "the faces where both are equally far away (the first one stays: <, not <=)"
    )


@wrong_answer("03.5", says="farther one won")
def keep_farthest(depth_buffer, face_buffer, inside, depth, face):
    closer = inside & (depth > depth_buffer)
    return torch.where(closer, depth, depth_buffer), torch.where(closer, face, face_buffer)


@wrong_answer("03.5", says="where it is not")
def ignore_inside(depth_buffer, face_buffer, inside, depth, face):
    closer = depth < depth_buffer
    return torch.where(closer, depth, depth_buffer), torch.where(closer, face, face_buffer)


@wrong_answer("03.5", says="last face drawn")
def painter(depth_buffer, face_buffer, inside, depth, face):
    return torch.where(inside, depth, depth_buffer), torch.where(inside, face, face_buffer)


@wrong_answer("03.5", says="first one stays")
def last_of_equals(depth_buffer, face_buffer, inside, depth, face):
    closer = inside & (depth <= depth_buffer)
    return torch.where(closer, depth, depth_buffer), torch.where(closer, face, face_buffer)


@wrong_answer("03.5", says="changed in place")
def in_place(depth_buffer, face_buffer, inside, depth, face):
    closer = inside & (depth < depth_buffer)
    depth_buffer[closer] = depth[closer]
    return depth_buffer, torch.where(closer, face, face_buffer)


# ------------------------------------------------------------------------------------------------------ 03.6 expand
@check_for("03.6")
def expand(answer):
    expected = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 1, 0, 1, 2])
    result = answer(torch.tensor([2, 0, 3]))
    if isinstance(result, tuple) and len(result) == 2:
        expect_not_close(
            result[1],
            torch.arange(5),
            "The offset counts on through all items: subtract the number of the item's first piece",
        )
        expect_not_close(
            result[1],
            torch.tensor([-2, -1, -3, -2, -1]),
            "The offsets are negative: cumsum is where an item ends, its beginning is `counts` earlier",
        )
    expect_close(result, expected, "counts [2, 0, 3]")
    expect_close(answer(torch.tensor([0, 0])), (expected[0][:0], expected[0][:0]), "counts [0, 0]")
    counts = torch.randint(0, 6, (300,))
    item, offset = answer(counts)
    expect_equal(torch.bincount(item, minlength=300), counts, "how often each of 300 items comes up")
    expect_close((item, offset), rendering.expand(counts), "300 random counts")


@wrong_answer("03.6", says="counts on through all")
def offset_goes_on(counts):
    item = torch.repeat_interleave(counts)
    return item, torch.arange(len(item))


@wrong_answer("03.6", says="negative")
def offset_from_the_end(counts):
    item = torch.repeat_interleave(counts)
    return item, torch.arange(len(item)) - counts.cumsum(0)[item]


# -------------------------------------------------------------------------------------------------------- 03.7 pack
@check_for("03.7")
def pack(answer):
    depth, face = torch.tensor([2.5, 2.0, 2.0, 1e-3]), torch.tensor([1, 900_000, 3, 70_000])
    key = answer(depth, face)
    expect_close(key.shape, torch.Size([4]), "the shape of the keys")
    expect(
        key.dtype == torch.int64,
        f"the keys are {key.dtype}: they must be int64. Widen the bits first (.long()), then shift",
    )
    expect(
        not torch.equal(key, face),
        "Only the face is left: an int32 has no room for its bits 32 places up. Widen them first (.long()), then shift",
    )
    order = key.argsort().tolist()
    expect(
        order != [0, 2, 3, 1], "The keys sort by face first: depth's bits belong into the upper half (shift them by 32)"
    )
    farther = torch.tensor([2.0]).nextafter(torch.tensor([3.0]))
    pair = answer(torch.cat([farther, torch.tensor([2.0])]), torch.tensor([1, 2]))
    expect(
        pair[1] < pair[0],
        "Two depths that differ in their last bit have lost their order: do not round. Take the "
        "float's own bits with depth.view(torch.int32)",
    )
    expect_equal(order, [3, 2, 1, 0], "the order of four keys (depth first, then face)")
    far = answer(torch.tensor([1e4, 1e8]), torch.tensor([0, 1]))
    expect(0 < far[0] < far[1], "Depths of 10 km and more do not fit: use the float's bits, not multiples of it")
    expect_equal(key & 0xFFFFFFFF, face, "the face, read back from the lower half")
    expect_close(key, rendering.pack(depth, face), "the keys")


@wrong_answer("03.7", says="last bit")
def micrometres(depth, face):
    return ((depth * 1e6).long() << 32) | face


@wrong_answer("03.7", says="do not round")
def whole_metres(depth, face):
    return (depth.long() << 32) | face


@wrong_answer("03.7", says="face first")
def face_above(depth, face):
    return (face << 32) | depth.view(torch.int32).long()


@wrong_answer("03.7", says="no room")
def shifted_as_int32(depth, face):
    return (depth.view(torch.int32) << 32).long() | face


@wrong_answer("03.7", says="int64")
def shifted_too_early(depth, face):
    return (depth.view(torch.int32) << 32) | face.int()


# -------------------------------------------------------------------------------------------------- 03.8 interpolate
@check_for("03.8")
def interpolate(answer):
    vertices, fragments = two_views()
    expected = rendering.interpolate(fragments, QUAD_FACES, vertices)
    found = answer(fragments, QUAD_FACES, vertices)
    seen = fragments.face >= 0
    if isinstance(found, Tensor) and found.shape == expected.shape:
        expect(
            not found[~seen].any(), "The background is not 0: face -1 is no face (and as an index it is the last one)"
        )
        if torch.allclose(found[0], expected[0], atol=1e-4):
            expect(
                torch.allclose(found[1], expected[1], atol=1e-4),
                "The first body is right, the second is not: it has "
                "vertices of its own. In the list of all vertices they begin at row V",
            )
        flat = vertices[0][QUAD_FACES[fragments.face[0], 0]]
        expect(
            not torch.allclose(found[0][seen[0]], flat[seen[0]]),
            "Each face has one value: weigh the three corners with fragments.barycentric",
        )
    expect_close(found, expected, "the places of two bodies (B, V, 3)", atol=1e-4)
    shared = torch.randn(4, 5)
    expect_close(
        answer(fragments, QUAD_FACES, shared),
        rendering.interpolate(fragments, QUAD_FACES, shared),
        "attributes that both bodies share (V, 5)",
        atol=1e-4,
    )
    shared.requires_grad_()
    expect_gradient(answer(fragments, QUAD_FACES, shared), shared, "the gradient to the attributes")


@wrong_answer("03.8", says="second is not")
def first_body_only(fragments, faces, attributes):
    first = attributes if attributes.ndim == 2 else attributes[0]
    return rendering.interpolate(fragments, faces, first)


@wrong_answer("03.8", says="background is not 0")
def background_filled(fragments, faces, attributes):
    picture = rendering.interpolate(fragments, faces, attributes)
    last = attributes.expand(len(picture), *attributes.shape[-2:])[:, None, None, -1]
    return torch.where(fragments.face[..., None] >= 0, picture, last)


@wrong_answer("03.8", says="one value")
def flat_colour(fragments, faces, attributes):
    flat = torch.zeros_like(fragments.barycentric)
    flat[..., 0] = (fragments.face >= 0).float()
    return rendering.interpolate(fragments._replace(barycentric=flat), faces, attributes)


@wrong_answer("03.8", says="no gradient")
def detached(fragments, faces, attributes):
    return rendering.interpolate(fragments, faces, attributes.detach())


# ------------------------------------------------------------------------------------------------ 03.9 vertex normals
@check_for("03.9")
def vertex_normals(answer):
    vertices = torch.cat([QUAD, torch.ones(1, 3)])[None]  # the fifth vertex has no face
    expected = rendering.vertex_normals(vertices, QUAD_FACES)
    found = answer(vertices, QUAD_FACES)
    expect_not_close(
        found,
        -expected,
        "The normals point inwards. The corners run counter-clockwise as seen from outside: (b - a) x (c - a)",
    )
    if isinstance(found, Tensor) and found.shape == expected.shape:
        length = found[0, :4].norm(dim=-1)
        expect(
            (length - 1).abs().max() < 1e-3,
            f"The normals have lengths from {length.min():.3g} to {length.max():.3g}: divide each by its length",
        )
    tent = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]]])
    tent_faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    by_area = rendering.vertex_normals(tent, tent_faces)
    alike = by_area.clone()
    alike[0, [0, 2]] = torch.tensor([0.5, 0, 0.5]).sqrt()
    expect_not_close(
        answer(tent, tent_faces),
        alike,
        "Large and small faces count alike. Do not normalise the cross "
        "products before adding them: their length is what makes large faces count more",
        atol=1e-3,
    )
    expect_not_close(
        found,
        normals_of_one_face(vertices, QUAD_FACES),
        "Where faces share a vertex only one of them was counted: `normals[:, corner] += ...` writes each vertex once. "
        "index_add adds them all",
    )
    expect_close(found, expected, "the normals of a bent square, and 0 for a vertex without faces")
    expect_close(answer(tent, tent_faces), by_area, "two faces of different size")


@wrong_answer("03.9", says="inwards")
def normals_inwards(vertices, faces):
    return -rendering.vertex_normals(vertices, faces)


@wrong_answer("03.9", says="index_add")
def normals_of_one_face(vertices, faces):
    a, b, c = (vertices[:, corner] for corner in faces.T)
    normals = torch.zeros_like(vertices)
    for corner in faces.T:
        normals[:, corner] += torch.linalg.cross(b - a, c - a)
    return torch.nn.functional.normalize(normals, dim=-1)


@wrong_answer("03.9", says="lengths")
def normals_of_any_length(vertices, faces):
    a, b, c = (vertices[:, corner] for corner in faces.T)
    normal = torch.linalg.cross(b - a, c - a)
    return sum(torch.zeros_like(vertices).index_add(1, corner, normal) for corner in faces.T)


@wrong_answer("03.9", says="count alike")
def normals_of_equal_faces(vertices, faces):
    a, b, c = (vertices[:, corner] for corner in faces.T)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    total = sum(torch.zeros_like(vertices).index_add(1, corner, normal) for corner in faces.T)
    return torch.nn.functional.normalize(total, dim=-1)


# ----------------------------------------------------------------------------------------------- 03.10 camera normals
@check_for("03.10")
def camera_normals(answer):
    camera = Camera.look_at(torch.tensor([[3.0, 1, 2], [0, 0, -4]]), torch.zeros(2, 3), focal=50.0, size=(8, 8))
    normals = torch.nn.functional.normalize(torch.randn(2, 6, 3), dim=-1)
    expected = rendering.camera_normals(normals, camera)
    found = answer(normals, camera)
    rotated = torch.einsum("bij,bnj->bni", camera.R, normals)
    expect_not_close(
        found,
        rotated,
        "Those are OpenCV's axes (y down, z forward). The labels have y up and z toward the "
        "viewer: flip the signs of y and z",
    )
    expect_not_close(found, rotated * torch.tensor([1.0, 1, -1]), "z is right, y still points down: flip its sign, too")
    expect_not_close(found, rotated * torch.tensor([1.0, -1, 1]), "y is right, z still points away from the viewer")
    back = torch.einsum("bji,bnj->bni", camera.R, normals) * torch.tensor([1.0, -1, -1])
    expect_not_close(found, back, "The rotation goes from camera to world. From world to camera it is R n, not Rᵀ n")
    moved = (rotated + camera.t[:, None]) * torch.tensor([1.0, -1, -1])
    expect_not_close(found, moved, "t was added. A normal is a direction, it has no place: rotate only")
    expect_close(found, expected, "the normals of two bodies (2, 6, 3)")
    picture = normals.view(2, 2, 3, 3)
    expect_close(answer(picture, camera), expected.view(2, 2, 3, 3), "normals as pictures (2, 2, 3, 3)")


@wrong_answer("03.10", says="OpenCV's axes")
def normals_not_flipped(normals, camera):
    return torch.einsum("bij,b...j->b...i", camera.R, normals)


@wrong_answer("03.10", says="not Rᵀ n")
def normals_transposed(normals, camera):
    return torch.einsum("bji,b...j->b...i", camera.R, normals) * torch.tensor([1.0, -1, -1])


@wrong_answer("03.10", says="direction")
def normals_translated(normals, camera):
    shape = (len(normals), *[1] * (normals.ndim - 2), 3)
    seen = torch.einsum("bij,b...j->b...i", camera.R, normals) + camera.t.view(shape)
    return seen * torch.tensor([1.0, -1, -1])
