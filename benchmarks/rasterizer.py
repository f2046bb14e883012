"""The chapter's rasteriser beside Embree (trimesh + embreex) and OpenGL (moderngl on Mesa, in software), paired.

    python benchmarks/rasterizer.py [--threads 1 2 ...] [--sizes 128 256 512] [--rounds 7]

Every engine starts from posed vertices on the host and ends with the face id and depth of every pixel on the host, for
a batch of 8 bodies that have just moved: Embree's build and OpenGL's upload and read-back count, as ours do. Rounds
take turns, so that a busy machine slows all engines alike; the ratio is the median of the rounds' ratios. Engines
that are not installed are left out. Each thread count runs in a process of its own; one thread is the default, as in
`course data make`'s workers. More need a quiet machine: threads that wait for a busy core cost more than they bring.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from course_lib.chapters.bodies import BodyModel
from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import rasterize

BATCH = 8
PAIRS = [("ours", "embree"), ("ours", "opengl"), ("ours, culled", "opengl, culled")]
GOALS = {("embree", 256): 4.0, ("opengl", 128): 1.0, ("opengl", 512): 0.7}


def moving_bodies() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight bodies of random shape and pose, vertices (8, V, 3), and their faces (F, 3)."""
    body = BodyModel.from_npz()
    generator = torch.Generator().manual_seed(0)
    pose = 0.15 * torch.randn(BATCH, 55, 3, generator=generator)
    betas = torch.randn(BATCH, body.shape_directions.shape[2], generator=generator)
    with torch.no_grad():
        return body(betas=betas, pose=pose).vertices.contiguous(), body.faces


def standing_camera(vertices: torch.Tensor, size: int) -> Camera:
    """One camera in front of the bodies; the tallest fills 80 % of the picture's height."""
    low, high = vertices.amin((0, 1)), vertices.amax((0, 1))
    middle, height = (low + high) / 2, float(high[1] - low[1])
    eye = middle + middle.new_tensor([0.6, 0.2, 3.0])
    return Camera.look_at(eye[None], middle[None], focal=0.8 * size * 3.0 / height, size=(size, size))


# ------------------------------------------------------------------------------------------------------- the engines
def torch_engine(faces: torch.Tensor, camera: Camera, size: int, cull: bool) -> Callable:
    def draw(vertices):
        with torch.no_grad():
            fragments = rasterize(vertices, faces, camera, size, cull_backfaces=cull)
        return fragments.face.numpy(), fragments.depth.numpy()

    return draw


def pixel_rays(camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The camera's centre and the directions (H * W, 3) through the pixel centres, one metre deep."""
    centre = torch.arange(size, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3) @ torch.linalg.inv(camera.K[0].double()).T
    back = torch.linalg.inv(camera.R[0].double()).T  # a float32 rotation's transpose is not quite its inverse
    return -(camera.t.double() @ back).numpy(), (rays @ back).numpy()


def exact_depth(corners: np.ndarray, eye: np.ndarray, rays: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Depth in float64 at which rays (P, 3) meet the planes of triangles (P, 3, 3), kept within each triangle's reach.

    (A face seen from its edge is hit, by anyone's rounding, a hair outside of it, where its plane is far away.)
    """
    a, b, c = np.moveaxis(corners, 1, 0)
    normal = np.cross(b - a, c - a)
    reach = (corners - eye) @ forward  # (P, 3)
    return (((a - eye) * normal).sum(1) / (rays * normal).sum(1)).clip(reach.min(1), reach.max(1))


def embree_engine(faces: torch.Tensor, camera: Camera, size: int) -> Callable:
    import trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    eye, rays = pixel_rays(camera, size)
    origins, faces = np.repeat(eye, len(rays), 0), faces.numpy()

    def draw(vertices):
        found = []
        for mesh in vertices.numpy():
            scene = RayMeshIntersector(trimesh.Trimesh(mesh, faces, process=False), scale_to_box=False)
            found.append(scene.intersects_first(origins, rays))
        return np.stack(found).reshape(-1, size, size), None

    return draw


VERTEX_SHADER = """#version 330
uniform mat4 projection;
in vec3 position;
out float depth;
void main() { gl_Position = projection * vec4(position, 1.0); depth = gl_Position.w; }"""
FRAGMENT_SHADER = """#version 330
in float depth;
layout(location=0) out int face;
layout(location=1) out float z;
void main() { face = gl_PrimitiveID; z = depth; }"""


def opengl_projection(camera: Camera, size: int, near: float = 0.1, far: float = 10.0) -> np.ndarray:
    """World -> clip space (4, 4) with w = the camera's z; row 0 of the picture that is read back is the top row."""
    K, view = camera.K[0].double().numpy(), np.eye(4)
    view[:3, :3], view[:3, 3] = camera.R[0].numpy(), camera.t[0].numpy()
    clip = np.zeros((4, 4))
    clip[0, :3] = 2 * K[0] / size - K[2]
    clip[1, :3] = 2 * K[1] / size - K[2]
    clip[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    clip[3, 2] = 1
    return clip @ view


def opengl_engine(faces: torch.Tensor, camera: Camera, size: int, cull: bool) -> Callable:
    import moderngl

    context = moderngl.create_standalone_context(backend="egl")
    program = context.program(vertex_shader=VERTEX_SHADER, fragment_shader=FRAGMENT_SHADER)
    program["projection"].write(opengl_projection(camera, size).T.astype("f4").tobytes())
    colours = [context.texture((size, size), 1, dtype="i4"), context.texture((size, size), 1, dtype="f4")]
    target = context.framebuffer(colours, context.depth_renderbuffer((size, size)))
    buffers = {}

    def draw(vertices):
        if not buffers:
            buffers["v"] = context.buffer(reserve=vertices[0].numel() * 4, dynamic=True)
            index = context.buffer(faces.int().numpy().tobytes())
            buffers["array"] = context.vertex_array(program, [(buffers["v"], "3f", "position")], index)
        found, depths = [], []
        target.use()
        context.enable_only(moderngl.DEPTH_TEST | (moderngl.CULL_FACE if cull else 0))
        context.front_face = "cw"  # rows are stored from the top, which mirrors the picture
        for mesh in vertices:
            target.clear()
            buffers["v"].write(mesh.numpy())
            buffers["array"].render()
            depths.append(np.frombuffer(target.read(components=1, attachment=1, dtype="f4"), np.float32))
            found.append(np.frombuffer(target.read(components=1, attachment=0, dtype="i4"), np.int32))
        depth = np.stack(depths).reshape(-1, size, size)
        return np.where(depth > 0, np.stack(found).reshape(-1, size, size), -1), depth

    return draw


# ---------------------------------------------------------------------------------------------------- the comparison
def engines(faces: torch.Tensor, camera: Camera, size: int) -> dict[str, Callable]:
    """Name -> engine, of those that are installed and start here."""
    found = {"ours": torch_engine(faces, camera, size, False), "ours, culled": torch_engine(faces, camera, size, True)}
    peers = {
        "embree": lambda: embree_engine(faces, camera, size),
        "opengl": lambda: opengl_engine(faces, camera, size, False),
        "opengl, culled": lambda: opengl_engine(faces, camera, size, True),
    }
    for name, make in peers.items():
        try:
            found[name] = make()
        except Exception as error:  # a peer that is missing or has no display is no failure of ours
            print(f"{name}: left out ({type(error).__name__}: {error})")
    return found


def measure(draws: dict[str, Callable], vertices: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per picture of each engine in each round; the engines take turns."""
    times = {name: [] for name in draws}
    for round_number in range(rounds + 1):
        moved = vertices + 0.001 * round_number
        for name, draw in draws.items():
            start = time.perf_counter()
            draw(moved)
            times[name].append((time.perf_counter() - start) * 1e3 / BATCH)
    return {name: values[1:] for name, values in times.items()}  # the first round warms up


def agreement(
    draws: dict[str, Callable], vertices: torch.Tensor, faces: torch.Tensor, camera: Camera, size: int
) -> str:
    """How far ours agrees with Embree: the share of equal face ids, and the largest error of our depth there."""
    (face, depth), (other, _) = draws["ours"](vertices), draws["embree"](vertices)
    eye, rays = pixel_rays(camera, size)
    same, seen = face == other, (face >= 0) | (other >= 0)
    image, row, column = np.nonzero(same & seen)
    corners = vertices.numpy().astype(np.float64)[image[:, None], faces.numpy()[face[image, row, column]]]
    expected = exact_depth(corners, eye, rays[row * size + column], camera.R[0, 2].double().numpy())
    worst = np.abs(depth[image, row, column] - expected).max()
    return (
        f"same face on {same.mean():.4%} of pixels ({same[seen].mean():.4%} of the bodies'), depth within {worst:.1e} m"
    )


def report(size: int, rounds: int) -> None:
    vertices, faces = moving_bodies()
    camera = standing_camera(vertices, size)
    draws = engines(faces, camera, size)
    times = measure(draws, vertices, rounds)
    columns = "   ".join(f"{name} {median(values):6.2f}" for name, values in times.items())
    print(f"{size:4d} px, {torch.get_num_threads()} thread(s), {len(faces)} faces, ms a picture:   {columns}")
    for ours, peer in PAIRS:
        if peer in times:
            ratio = median(theirs / mine for theirs, mine in zip(times[peer], times[ours], strict=True))
            goal = GOALS.get((peer, size))
            print(f"        {ours} is {ratio:5.2f}x {peer}" + (f"   (goal {goal}x)" if goal else ""))
    if "embree" in draws:
        print("        " + agreement(draws, vertices, faces, camera, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if len(options.threads) == 1:
        torch.set_num_threads(options.threads[0])
        for size in options.sizes:
            report(size, options.rounds)
        return
    for threads in options.threads:
        variables = {"OMP_NUM_THREADS": str(threads), "LP_NUM_THREADS": str(threads)}
        arguments = ["--threads", threads, "--sizes", *options.sizes, "--rounds", options.rounds]
        subprocess.run([sys.executable, __file__, *map(str, arguments)], env=os.environ | variables, check=True)


if __name__ == "__main__":
    main()
