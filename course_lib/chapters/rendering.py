"""Rendering: made by `course build` from solutions/03_rendering.py. Edit there, never here."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor
from torch.nn.functional import normalize

from course_lib.chapters.cameras import Camera

NEAR = 0.01  # metres: nothing nearer to the camera than this is drawn
LARGEST_SIZE = 32_767  # pixels: rows and columns are packed into 16 bits each
NOTHING = torch.iinfo(torch.int64).max  # the key of a pixel that no face covers


# Chapter 03, section "1 One triangle", exercise 03.1
def edge_function(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Twice the area of the triangle a, b, p, each (..., 2); positive where it turns clockwise on the screen (y down).

    Pineda 1988, "A parallel algorithm for polygon rasterization".
    """
    (ax, ay), (bx, by), (px, py) = a.unbind(-1), b.unbind(-1), p.unbind(-1)
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


# Chapter 03, section "1 One triangle", exercise 03.2
def pixel_centres(size: tuple[int, int]) -> Tensor:
    """size (H, W) -> the (x, y) of every pixel's centre (H, W, 2), float32."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


# Chapter 03, section "2 Where on the triangle?", exercise 03.3
def barycentric_coordinates(triangle: Tensor, points: Tensor) -> Tensor:
    """triangle (3, 2), points (..., 2) -> the weights (..., 3) of its corners, which sum to 1."""
    a, b, c = triangle
    areas = torch.stack([edge_function(b, c, points), edge_function(c, a, points), edge_function(a, b, points)], -1)
    return areas / areas.sum(-1, keepdim=True)


# Chapter 03, section "3 The camera bends the weights", exercise 03.4
def perspective_correct(weights: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Screen weights (..., 3) and the corners' depths (3,) -> the weights in space (..., 3), the depth there (...)."""
    w = weights / depths  # (..., 3)
    total = w.sum(-1, keepdim=True)  # 1 / z
    return w / total, 1 / total.squeeze(-1)


# Chapter 03, section "4 Many triangles: who is in front?", exercise 03.5
def keep_nearest(
    depth_buffer: Tensor, face_buffer: Tensor, inside: Tensor, depth: Tensor, face: int
) -> tuple[Tensor, Tensor]:
    """Draw one face: where it is `inside` (H, W) and its `depth` (H, W) is nearer, depth and face id replace the old.

    Returns the new depth_buffer (H, W) and face_buffer (H, W) and leaves the old ones as they are. Catmull 1974.
    """
    closer = inside & (depth < depth_buffer)
    return torch.where(closer, depth, depth_buffer), torch.where(closer, face, face_buffer)


# Chapter 03, section "Step 2: the list", exercise 03.6
def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """counts (N,) -> for each of the sum(counts) pieces the item it belongs to, and its place in that item (from 0)."""
    item = torch.repeat_interleave(counts)  # (M,)
    first = counts.cumsum(0) - counts  # (N,)
    return item, torch.arange(len(item), device=counts.device) - first.index_select(0, item)


# Chapter 03, section "Step 3: depth and owner in one number", exercise 03.7
def pack(depth: Tensor, face: Tensor) -> Tensor:
    """Depth (float32, > 0) and face id (int64) -> one int64 that sorts by depth first. Bits in, bits out."""
    return (depth.view(torch.int32).long() << 32) | face


# Chapter 03, section "Step 1: the rows of a triangle"
def first_centre(position: Tensor, limit: int) -> Tensor:
    """The index of the first pixel centre at or after a coordinate (...,), kept within [0, limit], int32."""
    return (position - 0.5).ceil().clamp(0, limit).to(torch.int32)


# Chapter 03, section "Step 1: the rows of a triangle"
def sort_by_row(points: Tensor, corners: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """points (3, P) as x, y, 1/z; corners (3, N) into them -> rows, corners (3, N) of top, middle and bottom corner."""
    row = first_centre(points[1], height).long()
    key = (row << 32) | torch.arange(len(row), device=row.device)
    a, b, c = (key.index_select(0, corner) for corner in corners)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    top, rest = torch.minimum(low, c), torch.maximum(low, c)
    key = torch.stack([top, torch.minimum(rest, high), torch.maximum(rest, high)])  # (3, N)
    return key >> 32, key & 0xFFFFFFFF


# Chapter 03, section "Step 1: the rows of a triangle"
def edge_line(a: Tensor, b: Tensor) -> Tensor:
    """Edges from a down to b, (3, N) each -> (5, N): x, y, 1/z at the upper end, then x and 1/z gained per row."""
    return torch.cat([a, (b - a)[::2] / (b - a)[1]])


# Chapter 03, section "Step 1: the rows of a triangle"
def crossings(lines: Tensor, line: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The x and 1/z (M,) at which lines (5, N)[:, line] pass the heights y (M,)."""
    x0, y0, w0, x_step, w_step = lines.index_select(1, line)
    return x0 + (y - y0) * x_step, w0 + (y - y0) * w_step


# Chapter 03, section "Step 1: the rows of a triangle"
class Spans(NamedTuple):
    """Runs of pixels in one row of one triangle each, all (M,)."""

    triangle: Tensor
    row: Tensor
    column: Tensor  # the first column
    count: Tensor  # how many columns
    w: Tensor  # 1/z at the first column
    w_step: Tensor  # 1/z gained per column


# Chapter 03, section "Step 1: the rows of a triangle"
def triangle_spans(points: Tensor, rows: Tensor, corners: Tensor, width: int) -> Spans:
    """points (3, P); rows, corners (3, N) from `sort_by_row` -> the pixel centres inside each triangle, row by row."""
    top, middle, bottom = (points.index_select(1, corner) for corner in corners)  # (3, N) each
    half, offset = expand(rows.diff(dim=0).T.flatten())  # of each triangle the upper half, then the lower
    triangle, row = half >> 1, rows[:2].T.flatten().index_select(0, half) + offset
    long = edge_line(top, bottom)  # (5, N)
    short = torch.stack([edge_line(top, middle), edge_line(middle, bottom)], 2).flatten(1)  # (5, 2N)
    x0, w0 = crossings(long, triangle, row + 0.5)
    x1, w1 = crossings(short, half, row + 0.5)
    column = first_centre(torch.minimum(x0, x1), width)
    count = first_centre(torch.maximum(x0, x1), width) - column
    w_step = (w1 - w0) / (x1 - x0)
    spans = Spans(triangle, row, column, count, w0 + (column + 0.5 - x0) * w_step, w_step)
    some = count.nonzero().squeeze(1)
    return Spans(*(values.index_select(0, some) for values in spans))


# Chapter 03, section "Together: fragments into the z-buffer"
def draw_spans(keys: Tensor, spans: Spans, image: Tensor, face: Tensor) -> None:
    """Keep the smallest key at each pixel. keys (B, H, W) is changed in place; image and face (M,) of each span."""
    _, height, width = keys.shape
    start = (image * height + spans.row) * width + spans.column
    span, offset = expand(spans.count)
    w = spans.w.index_select(0, span) + offset * spans.w_step.index_select(0, span)
    key = pack(1 / w.clamp(min=1e-9), face.index_select(0, span))
    keys.view(-1).scatter_reduce_(0, start.index_select(0, span) + offset, key, "amin")


# Chapter 03, section "Most triangles cover nothing"
def to_screen(points: Tensor, K: Tensor, near: float) -> tuple[Tensor, Tensor, Tensor]:
    """Camera-space points (..., 3) and K (..., 3, 3) -> pixel x, pixel y, 1/z, each (...)."""
    x, y, z = points.unbind(-1)
    w = 1 / z.clamp(min=near)
    screen_x = (K[..., 0, 0] * x + K[..., 0, 1] * y) * w + K[..., 0, 2]
    return screen_x, K[..., 1, 1] * y * w + K[..., 1, 2], w


# Chapter 03, section "Most triangles cover nothing"
def may_cover(x: Tensor, y: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel x, y (B, V) -> (B, F): False where a face surely covers no pixel centre of the image."""
    code = (first_centre(y, size[0]) << 16) | first_centre(x, size[1])  # (B, V): row and column in one int32
    a, b, c = (code.index_select(1, corner) for corner in faces.T)  # (B, F) each
    differs = (a ^ b) | (a ^ c)
    return (differs > 0xFFFF) & ((differs & 0xFFFF) > 0)


# Chapter 03, section "6 Too near"
def cross_near(p: Tensor, q: Tensor, near: float) -> Tensor:
    """Where the segments between p and q (N, 3) pass the plane z = near. The same point from either end."""
    swap = p[:, 2:] > q[:, 2:]
    behind, front = torch.where(swap, q, p), torch.where(swap, p, q)
    point = behind + (near - behind[:, 2:]) / (front - behind)[:, 2:] * (front - behind)
    return torch.cat([point[:, :2], torch.full_like(point[:, 2:], near)], 1)


# Chapter 03, section "6 Too near"
def clip_near(corners: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """Triangles (N, 3, 3) that straddle z = near -> their parts beyond it (M, 3, 3), and the triangle of each (M,)."""
    beyond = corners[..., 2] > near  # (N, 3)
    two = beyond.sum(1) == 2
    alone = (beyond ^ two[:, None]).int().argmax(1)  # the corner that is alone on its side comes first
    order = (alone[:, None] + torch.arange(3, device=alone.device)) % 3
    a, b, c = corners.gather(1, order[..., None].expand(-1, -1, 3)).unbind(1)
    ab, ac = cross_near(a, b, near), cross_near(a, c, near)
    quad = [torch.stack([ab, b, c], 1)[two], torch.stack([ab, c, ac], 1)[two]]
    source = torch.arange(len(corners), device=alone.device)
    return torch.cat([torch.stack([a, ab, ac], 1)[~two], *quad]), torch.cat([source[~two], source[two], source[two]])


# Chapter 03, section "6 Too near"
class Triangles(NamedTuple):
    """Triangles on the screen: points (3, P) as x, y, 1/z; corners (3, N) into them; image and face (N,) they show."""

    points: Tensor
    corners: Tensor
    image: Tensor
    face: Tensor


# Chapter 03, section "6 Too near"
def straddling_triangles(points: Tensor, faces: Tensor, K: Tensor, hidden: Tensor, near: float) -> Triangles:
    """The parts beyond z = near of the faces that have one or two of three corners `hidden` (B, F) behind it."""
    image, face = ((hidden == 1) | (hidden == 2)).nonzero(as_tuple=True)
    pieces, source = clip_near(points[image[:, None], faces[face]], near)  # (M, 3, 3)
    image, face = image[source], face[source]
    screen = torch.stack(to_screen(pieces, K[image, None], near)).flatten(1)  # (3, 3M)
    return Triangles(screen, torch.arange(screen.shape[1], device=screen.device).view(-1, 3).T, image, face)


# Chapter 03, section "6 Too near"
def visible_triangles(points: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float) -> Triangles:
    """Camera-space points (B, V, 3), faces (F, 3), K (B, 3, 3) -> the triangles that may cover a pixel centre."""
    x, y, w = to_screen(points, K[:, None], near)  # (B, V) each
    candidate = may_cover(x, y, faces, size)  # (B, F)
    behind = points[..., 2] <= near
    if behind.any():
        hidden = sum(behind.index_select(1, corner).int() for corner in faces.T)
        candidate &= hidden == 0
    image, face = candidate.nonzero(as_tuple=True)
    corners = faces.index_select(0, face).T + image * points.shape[1]  # (3, N)
    whole = Triangles(torch.stack([x, y, w]).flatten(1), corners, image, face)
    if not behind.any():
        return whole
    cut = straddling_triangles(points, faces, K, hidden, near)
    cut = cut._replace(corners=cut.corners + whole.points.shape[1])
    return Triangles(*(torch.cat(pair, -1) for pair in zip(whole, cut, strict=True)))


# Chapter 03, section "6 Too near"
def facing_camera(triangles: Triangles) -> Triangles:
    """Those whose corners run counter-clockwise as seen (clockwise in terms of x and y: y points down)."""
    x, y = triangles.points[:2]
    (ax, bx, cx), (ay, by, cy) = ([v.index_select(0, corner) for corner in triangles.corners] for v in (x, y))
    front = ((bx - ax) * (cy - ay) < (cx - ax) * (by - ay)).nonzero().squeeze(1)
    corners, image, face = (values.index_select(-1, front) for values in triangles[1:])
    return Triangles(triangles.points, corners, image, face)


# Chapter 03, section "7 How much memory?"
def chunks(counts: Tensor, most: int) -> Iterator[slice]:
    """Slices of consecutive items whose counts (N,) add up to at most `most` (or that hold a single item)."""
    total = counts.cumsum(0)
    start, done = 0, 0
    while start < len(counts):
        stop = max(start + 1, int(torch.searchsorted(total, done + most, right=True)))
        yield slice(start, stop)
        start, done = stop, int(total[stop - 1])


# Chapter 03, section "7 How much memory?"
def nearest_faces(triangles: Triangles, batch: int, size: tuple[int, int], at_once: int) -> Tensor:
    """Keys (B, H, W): depth and id of the nearest face at each pixel, or NOTHING. `at_once`: rows, pixels in flight."""
    points, corners, image, face = triangles
    keys = torch.full((batch, *size), NOTHING, device=points.device)
    rows, corners = sort_by_row(points, corners, size[0])  # (3, N) each
    for some in chunks(rows[2] - rows[0], at_once):
        spans = triangle_spans(points, rows[:, some], corners[:, some], size[1])
        for part in chunks(spans.count, at_once):
            piece = Spans(*(values[part] for values in spans))
            triangle = piece.triangle + some.start
            draw_spans(keys, piece, image.index_select(0, triangle), face.index_select(0, triangle))
    return keys


# Chapter 03, section "8 Seven digits"
def pixel_barycentrics(points: Tensor, faces: Tensor, K: Tensor, seen: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics (3, P) and depth (P,) of what pixels see. Differentiable.

    points (B, V, 3) in camera space, faces (F, 3), K (B, 3, 3), seen: image, row, column and face (P,) of each pixel.
    Homogeneous rasterisation after Olano and Greer 1997, measured from each pixel's ray.
    """
    image, row, column, face = seen
    fx, skew, u, fy, v = (K[:, i, j].index_select(0, image) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    ray_y = (row + 0.5 - v) / fy
    ray_x = (column + 0.5 - u - skew * ray_y) / fx
    index = faces.index_select(0, face).T + image * points.shape[1]  # (3, P)
    corners = points.flatten(0, 1).T.contiguous().index_select(1, index.flatten())  # (3, 3P)
    x, y, z = corners.unflatten(1, (3, -1))  # (3, P) each
    ax, bx, cx = x - z * ray_x  # from the ray to the corners, each at its own depth
    ay, by, cy = y - z * ray_y
    area = torch.stack([bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay])  # (3, P)
    area = (area * area.sum(0).sign()).clamp(min=0) + 1e-30  # a face seen from its edge gets 1/3, not 0/0
    barycentric = area / area.sum(0)
    return barycentric, (barycentric * z).sum(0)


# Chapter 03, section "9 The rasteriser, whole"
class Fragments(NamedTuple):
    """What the rasteriser found at each pixel centre.

    face (B, H, W) int64, -1 where there is none; barycentric (B, H, W, 3), perspective-correct, 0 where there is no
    face; depth (B, H, W) in metres along the camera's z, +inf where there is no face.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor


# Chapter 03, section "9 The rasteriser, whole"
def check_input(vertices: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int]) -> None:
    """Raise ValueError, with what to do about it, for meshes and sizes that cannot be drawn."""
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise ValueError(f"vertices must be (B, V, 3), got {tuple(vertices.shape)}: add a batch with vertices[None]")
    if vertices.dtype != torch.float32:
        raise ValueError(f"vertices must be float32, got {vertices.dtype}: call vertices.float()")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"faces must be integers (F, 3), got {tuple(faces.shape)} {faces.dtype}: one mesh per call")
    if faces.numel() and not (0 <= int(faces.min()) and int(faces.max()) < vertices.shape[1]):
        raise ValueError(f"faces name vertices {int(faces.min())} to {int(faces.max())}, there are {vertices.shape[1]}")
    if not vertices.isfinite().all():
        bad = (~vertices.isfinite()).any(2).nonzero()[0].tolist()
        raise ValueError(f"vertices hold NaN or infinity, first at (body, vertex) {bad}: mend the mesh or the pose")
    if len(camera.K) != len(vertices) and 1 not in (len(camera.K), len(vertices)):
        raise ValueError(
            f"there are {len(vertices)} bodies and {len(camera.K)} cameras: give as many, or one of either"
        )
    if not all(0 < side <= LARGEST_SIZE for side in size):
        raise ValueError(f"size must be (height, width) between 1 and {LARGEST_SIZE} pixels, got {size}")


# Chapter 03, section "9 The rasteriser, whole"
def unpack(keys: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Keys (B, H, W) -> face ids in their place, -1 at NOTHING; of each pixel that sees a face, all (P,), its place in
    the flat list of all pixels, and its image, row, column and face.
    """
    _, height, width = keys.shape
    image, row, column = (keys != NOTHING).nonzero(as_tuple=True)
    face = keys.bitwise_left_shift_(32).bitwise_right_shift_(32)  # the low half of the key; NOTHING becomes -1
    pixel = (image * height + row) * width + column
    return face, pixel, (image, row, column, face.view(-1).index_select(0, pixel))


# Chapter 03, section "9 The rasteriser, whole"
def rasterize(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    size: tuple[int, int] | int,
    cull_backfaces: bool = False,
    near: float = NEAR,
    at_once: int = 2**18,
) -> Fragments:
    """Which face each pixel centre sees, where on the face, and how far away.

    vertices (B, V, 3) in world metres, faces (F, 3), a camera per body (or one of either for all), size (H, W) or the
    side of a square. A pixel belongs to the nearest face that covers its centre; at equal depth to the lower face id;
    on a shared edge to one face only. `cull_backfaces` drops faces whose corners run clockwise as seen: faster, and no
    picture of a closed body changes. Faces are clipped at z = `near`. `at_once` bounds the memory: fragments in flight.
    Gradients flow from barycentric and depth to vertices and camera. Raises ValueError for input that cannot be drawn.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    check_input(vertices, faces, camera, size)
    faces = faces.long()
    points = camera.to_camera(vertices)  # (B, V, 3)
    K = camera.K.expand(len(points), 3, 3)
    with torch.no_grad():
        triangles = visible_triangles(points.detach(), faces, K.detach(), size, near)
        triangles = facing_camera(triangles) if cull_backfaces else triangles
        face, pixel, seen = unpack(nearest_faces(triangles, len(points), size, at_once))
    barycentric, depth = points.new_zeros(*face.shape, 3), points.new_full(face.shape, torch.inf)
    for part in zip(pixel.split(at_once), *(values.split(at_once) for values in seen), strict=True):
        weights, z = pixel_barycentrics(points, faces, K, part[1:])
        barycentric.view(-1, 3).index_copy_(0, part[0], weights.T)
        depth.view(-1).index_copy_(0, part[0], z)
    return Fragments(face, barycentric, depth)


# Chapter 03, section "10 From corners to pixels", exercise 03.8
def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Attributes of vertices (V, C) or (B, V, C) -> pictures (B, H, W, C), 0 where there is no face. Differentiable."""
    batch, height, width = fragments.face.shape
    attributes = attributes.expand(batch, *attributes.shape[-2:])  # (B, V, C)
    vertex_count, channels = attributes.shape[1:]
    pixel = (fragments.face.flatten() >= 0).nonzero().squeeze(1)  # (P,)
    corners = faces[fragments.face.flatten()[pixel]]  # (P, 3)
    corners = corners + (pixel // (height * width) * vertex_count)[:, None]
    values = attributes.reshape(-1, channels).index_select(0, corners.flatten()).view(-1, 3, channels)  # (P, 3, C)
    weights = fragments.barycentric.reshape(-1, 3).index_select(0, pixel)  # (P, 3)
    result = (weights[..., None] * values).sum(1)  # (P, C)
    picture = result.new_zeros(batch * height * width, channels)
    return picture.index_copy(0, pixel, result).view(batch, height, width, channels)


# Chapter 03, section "11 Which way does it face?", exercise 03.9
def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """vertices (B, V, 3), faces (F, 3) -> unit normals (B, V, 3), faces weighted by area; 0 where there is no face."""
    a, b, c = (vertices.index_select(1, corner) for corner in faces.T)  # (B, F, 3) each
    face_normal = torch.linalg.cross(b - a, c - a)  # (B, F, 3), twice the area long
    normals = torch.zeros_like(vertices)
    for corner in faces.T:
        normals = normals.index_add(1, corner, face_normal)
    return normalize(normals, dim=-1, eps=1e-20)


# Chapter 03, section "11 Which way does it face?", exercise 03.10
def camera_normals(normals: Tensor, camera: Camera) -> Tensor:
    """World normals (B, ..., 3) -> the labels' convention: camera space with x right, y up, z toward the viewer."""
    seen = torch.einsum("bij,b...j->b...i", camera.R.expand(len(normals), 3, 3), normals)
    return seen * seen.new_tensor([1.0, -1.0, -1.0])


# Chapter 03, section "12 Light"
def shade(
    albedo: Tensor,
    normals: Tensor,
    toward_light: Tensor,
    light_colour: Tensor | float = 0.8,
    sky: Tensor | float = 0.35,
    ground: Tensor | float = 0.15,
    toward_viewer: Tensor | None = None,
    gloss: float = 0.0,
    shininess: float = 30.0,
    lit: Tensor | float = 1.0,
) -> Tensor:
    """Lambert's sun, sky above and ground below, and Blinn's highlight. Returns colours like albedo (..., 3) in [0, 1].

    normals (..., 3) unit or 0 in the world (y up), toward_light and toward_viewer (..., 3) unit vectors; colours are
    (3,) or numbers; `lit` (..., 1) is 0 in the sun's shadow. `gloss` > 0 needs `toward_viewer`.
    """
    sun = (normals * toward_light).sum(-1, keepdim=True).clamp(min=0) * lit  # (..., 1)
    above = 0.5 + 0.5 * normals[..., 1:2]  # (..., 1): n . up with up = y
    colour = albedo * (light_colour * sun + sky * above + ground * (1 - above))
    if gloss:
        halfway = normalize(toward_light + toward_viewer, dim=-1)
        highlight = (normals * halfway).sum(-1, keepdim=True).clamp(min=0) ** shininess
        colour = colour + gloss * light_colour * highlight * (sun > 0)
    return colour.clamp(0, 1)


# Chapter 03, section "Shadows (a bonus)"
def sunlit(places: Tensor, light: Camera, light_depth: Tensor, margin: float = 0.015) -> Tensor:
    """World places (B, H, W, 3) -> (B, H, W, 1): 1 where `light`, with its depth (B, h, w), sees them; else 0."""
    points = places.flatten(1, 2)  # (B, H * W, 3)
    column, row = light.project(points).floor().long().unbind(-1)
    batch, height, width = light_depth.shape
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    nearest = light_depth.flatten(1).expand(len(points), -1).gather(1, index)  # (B, H * W)
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    lit = outside | (light.to_camera(points)[..., 2] < nearest + margin)
    return lit.to(places).view(*places.shape[:3], 1)


# Chapter 03, section "Stairs at the outline"
def downsample(picture: Tensor, factor: int) -> Tensor:
    """(B, H * factor, W * factor, C) -> (B, H, W, C), the mean of factor x factor samples of each pixel."""
    return reduce(picture, "b (h i) (w j) c -> b h w c", "mean", i=factor, j=factor)


# course build sealed the text above: 3483b61271709269
