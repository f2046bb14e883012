"""Who someone is: a body shape, a look (skin, eyes, hair) and an outfit, drawn from one seed; and how they are posed.

A `Person` is plain, frozen data. Change one with `dataclasses.replace(person, pose=..., translation=...)`.
Colours are RGB in [0, 1] as seen on a screen (gamma-coded).
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from course_lib.chapters.bodies import BodyModel
from course_lib.paths import OPEN_BODY, OPEN_BODY_PACK, body_file
from course_lib.threads import one_thread

Colour = tuple[float, float, float]
ACTION_COUNT = 52  # facial actions (ARKit's names, `expression_action_names` in the asset pack)
HAIR_STYLES = (
    *("bald", "shaved", "receding", "short", "crop", "side_part", "swept"),
    *("curly", "afro", "bob", "long", "bun", "ponytail"),
)


@dataclass(frozen=True)
class Glasses:
    """A pair of glasses. `size` scales the lenses; `dark` is how much light a lens takes away."""

    shape: str = "round"  # one of glasses.OUTLINES
    frame: Colour = (0.1, 0.1, 0.1)
    thick: float = 0.0016  # metres: radius of the rim
    tint: Colour = (0.3, 0.3, 0.3)
    dark: float = 0.06
    size: float = 1.0


@dataclass(frozen=True)
class Look:
    """What no garment covers. Amounts lie in [0, 1]; `female` and `age` (years) are what the body shape suggests."""

    female: float = 0.5
    age: float = 35.0
    skin: Colour = (0.78, 0.6, 0.5)
    blush: float = 0.5
    freckles: float = 0.0
    makeup: float = 0.0
    lips: Colour = (0.7, 0.42, 0.4)
    iris: Colour = (0.35, 0.25, 0.15)
    brows: float = 0.6
    brow_hair: Colour = (0.2, 0.13, 0.08)  # brows and beard; not dyed
    beard: float = 0.0  # 0 none, 0.4 stubble, 1 full
    nails: Colour | None = None
    hair_style: str = "short"
    hair: Colour = (0.2, 0.13, 0.08)
    hair_light: float = 0.3  # how much lighter single strands are
    hair_length: float = 0.5
    hair_volume: float = 0.5
    parting: float = 0.0  # -1 on the right, 0 in the middle, 1 on the left
    strands: int = 0  # on the head; 0 draws hair as a mesh
    glasses: Glasses | None = None


@dataclass(frozen=True)
class Garment:
    """One piece of clothing. Lengths are in limb units: sleeve 0 shoulder, 1 elbow, 2 wrist; hem -1 neck, 0 hip,
    1 knee, 2 ankle. `fit` goes from 0 (tight) to 1 (wide); outer garments have a higher `layer`."""

    kind: str  # shirt, jacket, trousers, skirt, sock, shoe, belt, cap, beanie
    part: str  # its class among parts.PART_NAMES; for socks and shoes without the side
    colour: Colour
    colour2: Colour = (1.0, 1.0, 1.0)
    pattern: str = "plain"
    scale: float = 0.05  # metres of one repeat of the pattern
    material: str = "cotton"  # cotton, wool, denim, leather, silk
    sleeve: float = 0.0
    hem: float = 0.0
    waist: float = -0.2
    neck: str = "crew"  # crew, v, scoop, turtle, collar
    fit: float = 0.3
    layer: int = 0
    tucked: bool = False  # into what is worn below, whose waist is this garment's
    details: tuple[str, ...] = ()  # buttons, pocket, placket, cuffs, stripe, logo, seam


@dataclass(frozen=True)
class Outfit:
    """Garments from the inside out; none at all is a mannequin."""

    garments: tuple[Garment, ...] = ()

    @property
    def mannequin(self) -> bool:
        """Whether nothing is worn: then the body is drawn as a smooth grey figure."""
        return not self.garments


@dataclass(frozen=True, eq=False)
class Person:
    """Someone: identity (betas, look, outfit), and the moment (pose, translation, expression)."""

    seed: int
    betas: np.ndarray  # (10,) shape coefficients
    expression: np.ndarray  # (52,) facial actions in [0, 1]
    pose: np.ndarray  # (55, 3) axis-angle radians
    translation: np.ndarray  # (3,) metres
    look: Look = field(default_factory=Look)
    outfit: Outfit = field(default_factory=Outfit)

    @property
    def identity(self) -> tuple:
        """What stays the same when someone moves: equal for the same person in other poses."""
        return self.betas.tobytes(), self.look, self.outfit


# ---------------------------------------------------------------- the body


@dataclass(frozen=True, eq=False)
class Body:
    """A body model and, for the open body, its asset pack (None for other files), with what posing people needs:
    shapes (K, 3V) and actions (52, 3V) a direction a row, their joints (K, 3J), correctives (3V, 486)
    and weights (V, 55) sparse."""

    model: BodyModel
    pack: dict[str, np.ndarray] | None
    actions: Tensor | None
    shapes: Tensor
    joint_shapes: Tensor
    rest_joints: Tensor
    correctives: sparse.csr_matrix
    weights: sparse.csr_matrix
    parents: tuple[int, ...]


def load_body(path: str | Path | None = None) -> Body:
    """Read the body file once per process: COURSE_BODY's, else the open body with its asset pack."""
    return _load_body(str(path or body_file()))


@lru_cache(maxsize=2)
def _load_body(path: str) -> Body:
    model = BodyModel.from_npz(path)
    directions = model.shape_directions
    ready = {
        "shapes": directions.flatten(0, 1).T.contiguous(),
        "joint_shapes": torch.einsum("jv,vck->kjc", model.joint_regressor, directions).flatten(1),
        "rest_joints": model.joint_regressor @ model.template,
        "correctives": sparse_rows(model.pose_directions),
        "weights": sparse.csr_matrix(model.weights.numpy()),
        "parents": (0, *model.parents.tolist()[1:]),
    }
    if Path(path).resolve() != OPEN_BODY.resolve() or not OPEN_BODY_PACK.exists():
        return Body(model, None, None, **ready)
    with np.load(OPEN_BODY_PACK, allow_pickle=False) as archive:
        pack = {key: archive[key] for key in archive.files}
    actions = torch.from_numpy(pack.pop("expression_actions").astype(np.float32)).flatten(0, 1).T.contiguous()
    return Body(model, pack, actions, **ready)


def sparse_rows(directions: Tensor) -> sparse.csr_matrix:
    """Pose directions (V, 3, 486) as a sparse matrix (3V, 486): a joint corrects only its surroundings."""
    blocks = [sparse.csr_matrix(part.flatten(0, 1).numpy()) for part in directions.split(2000)]
    return sparse.vstack(blocks, format="csr")


@dataclass(frozen=True)
class PosedPeople:
    """People in the world: vertices (P, V, 3) of the body model, joints (P, 55, 3), and per joint the transform
    (P, 55, 4, 4) that carries rest points of that person to the world. `rest` (P, V, 3) is without pose correctives."""

    vertices: Tensor
    joints: Tensor
    transforms: Tensor
    rest: Tensor
    rest_joints: Tensor


def stack(vectors: list[np.ndarray], width: int) -> Tensor:
    """Vectors as one float tensor (P, width), each cut or filled with zeros."""
    rows = np.zeros((len(vectors), width), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[: len(vector)] = vector[:width]
    return torch.from_numpy(rows)


def rest_people(people: list[Person], body: Body) -> tuple[Tensor, Tensor]:
    """Shapes without pose: vertices (P, V, 3) with the facial expression, joints (P, 55, 3)."""
    betas = stack([p.betas for p in people], len(body.shapes))
    shaped = body.model.template + (betas @ body.shapes).unflatten(1, (-1, 3))
    joints = body.rest_joints + (betas @ body.joint_shapes).unflatten(1, (-1, 3))
    if body.actions is not None:
        expression = stack([p.expression for p in people], ACTION_COUNT)
        active = expression.any(0).nonzero()[:, 0]  # mostly a few of the 52
        shaped += (expression[:, active] @ body.actions.index_select(0, active)).unflatten(1, (-1, 3))
    return shaped, joints


@one_thread()
@torch.no_grad()
def pose_people(people: list[Person], body: Body | None = None) -> PosedPeople:
    """Put people into the world: shape, expression, pose correctives, skinning (chapter 02's equations)."""
    if not people:
        raise ValueError("pose_people needs at least one person")
    body = body or load_body()
    rest, rest_joints = rest_people(people, body)
    poses = np.stack([p.pose for p in people])
    rotations = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().astype(np.float32).reshape(-1, 55, 3, 3)
    joints, turns = chain(rotations, rest_joints.numpy(), body.parents)
    shift = np.stack([np.asarray(p.translation, np.float32) for p in people])[:, None]
    transforms = np.zeros((len(people), 55, 4, 4), np.float32)
    transforms[..., :3, :3], transforms[..., 3, 3] = turns, 1
    transforms[..., :3, 3] = joints + shift - (turns @ rest_joints.numpy()[..., None])[..., 0]
    transforms, corrected = torch.from_numpy(transforms), rest + pose_correctives(body, rotations)
    vertices = [move(p, blend_transforms(body.weights, t)) for p, t in zip(corrected, transforms, strict=True)]
    return PosedPeople(torch.stack(vertices), torch.from_numpy(joints + shift), transforms, rest, rest_joints)


def chain(rotations: np.ndarray, rest: np.ndarray, parents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Chapter 02's forward kinematics, all joints of one generation at once: rotations (..., 55, 3, 3) against the
    parent and joints at rest (..., 55, 3) -> joints (..., 55, 3), whose root stays where it was, and world rotations
    (..., 55, 3, 3)."""
    joints, turns = rest.copy(), rotations.copy()
    bones = (rest - rest[..., parents, :])[..., None]
    for child, parent in generations(parents):
        turn = turns[..., parent, :, :]
        joints[..., child, :] = joints[..., parent, :] + (turn @ bones[..., child, :, :])[..., 0]
        turns[..., child, :, :] = turn @ turns[..., child, :, :]
    return joints, turns


@lru_cache(maxsize=4)
def generations(parents: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Joints and their parents: the root's children, then theirs, and so on."""
    depth = [0]
    for parent in parents[1:]:
        depth.append(depth[parent] + 1)
    children = [np.flatnonzero(np.array(depth) == step) for step in range(1, max(depth) + 1)]
    return [(child, np.array(parents)[child]) for child in children]


def blend_transforms(weights: sparse.csr_matrix, transforms: Tensor) -> Tensor:
    """Linear blend skinning's means of joint transforms (55, 4, 4) by sparse weights (N, 55): (N, 3, 4)."""
    return torch.from_numpy(weights @ transforms[:, :3].flatten(1).numpy()).view(-1, 3, 4)


def move(points: Tensor, blended: Tensor) -> Tensor:
    """Points (N, 3) carried along by one transform (N, 3, 4) each."""
    moved = blended[..., 3].clone()
    for axis in range(3):
        moved.addcmul_(blended[..., axis], points[:, axis : axis + 1])
    return moved


def pose_correctives(body: Body, rotations: np.ndarray) -> Tensor:
    """SMPL-X's pose blend shapes (its Eq. 3) for rotations (P, 55, 3, 3): (P, V, 3)."""
    features = (rotations[:, 1:] - np.eye(3, dtype=np.float32)).reshape(len(rotations), -1)
    moved = [body.correctives @ feature for feature in features]  # (3V, 486) @ (486,)
    return torch.from_numpy(np.stack(moved)).unflatten(1, (-1, 3))


# ---------------------------------------------------------------- drawing people


SPLITS = ("train", "val", "test")


def identity_rng(split: str, number: int) -> np.random.Generator:
    """What person `number` of one of SPLITS is drawn from. Splits share nobody: the split is part of the seed."""
    return np.random.default_rng([0xB0D1E5, SPLITS.index(split), number])


def sample_person(rng: np.random.Generator, clothed: bool = True) -> Person:
    """Draw an adult: same state of `rng`, same person, always. `clothed=False` gives a mannequin (a grey figure)."""
    seed = int(rng.integers(2**31))
    own = np.random.default_rng(seed)
    betas = (0.9 * own.normal(size=10)).clip(-1.9, 1.9).astype(np.float32)
    look = sample_look(own, *phenotype(betas))
    outfit = sample_outfit(own, look) if clothed else Outfit()
    return Person(
        seed, betas, np.zeros(ACTION_COUNT, np.float32), relaxed_pose(), np.zeros(3, np.float32), look, outfit
    )


def relaxed_pose() -> np.ndarray:
    """Standing, arms lowered to the sides: (55, 3) axis-angle."""
    pose = np.zeros((55, 3), np.float32)
    pose[[16, 17], 2] = -1.15, 1.15  # shoulders
    pose[[13, 14], 2] = -0.1, 0.1  # collars
    pose[[18, 19], 1] = -0.25, 0.25  # elbows
    return pose


def phenotype(betas: np.ndarray) -> tuple[float, float]:
    """What a shape suggests: (female in [0, 1], age in years). Unknown for bodies without a pack: (0.5, 35)."""
    pack = load_body().pack
    if pack is None or "phenotype_matrix" not in pack:
        return 0.5, 35.0
    values = pack["phenotype_matrix"] @ betas[:10] + pack["phenotype_bias"]
    named = dict(zip(pack["phenotype_names"].tolist(), values.tolist(), strict=True))
    return float(np.clip(named["gender"], 0, 1)), float(np.clip(named["age"], 19, 85))


def choose(rng: np.random.Generator, table: dict[str, float]) -> str:
    """One key, drawn in proportion to its value."""
    weights = np.array(list(table.values()), float)
    return str(rng.choice(list(table), p=weights / weights.sum()))


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 0.04) -> Colour:
    """A colour near another one."""
    grey, tint = rng.normal(0, amount), rng.normal(0, amount / 2, 3)
    return tuple(float(v) for v in np.clip(np.asarray(colour) * (1 + grey) + tint * 0.6, 0.01, 0.98))


# skin from light to dark, each with the lips that go with it
_SKINS = [
    ((0.87, 0.74, 0.67), (0.77, 0.51, 0.48)),
    ((0.85, 0.70, 0.61), (0.75, 0.48, 0.45)),
    ((0.81, 0.65, 0.54), (0.70, 0.45, 0.42)),
    ((0.77, 0.59, 0.48), (0.65, 0.42, 0.38)),
    ((0.67, 0.50, 0.39), (0.57, 0.36, 0.33)),
    ((0.56, 0.405, 0.31), (0.48, 0.30, 0.28)),
    ((0.45, 0.315, 0.245), (0.40, 0.25, 0.24)),
    ((0.35, 0.24, 0.19), (0.33, 0.20, 0.195)),
]
_HAIRS = {
    "black": (0.055, 0.045, 0.042),
    "dark": (0.13, 0.085, 0.06),
    "brown": (0.27, 0.165, 0.10),
    "chestnut": (0.36, 0.20, 0.12),
    "blond": (0.66, 0.50, 0.31),
    "sand": (0.52, 0.40, 0.27),
    "red": (0.50, 0.22, 0.10),
    "grey": (0.52, 0.51, 0.50),
    "white": (0.80, 0.79, 0.77),
}
_DYES = [(0.75, 0.25, 0.45), (0.2, 0.45, 0.6), (0.45, 0.3, 0.62), (0.25, 0.5, 0.35), (0.75, 0.7, 0.66)]
_IRISES = {
    "brown": (0.30, 0.17, 0.08),
    "dark": (0.17, 0.10, 0.06),
    "hazel": (0.42, 0.31, 0.15),
    "green": (0.32, 0.42, 0.25),
    "blue": (0.33, 0.48, 0.64),
    "grey": (0.45, 0.50, 0.53),
}


def blend(table: list, position: float, column: int) -> Colour:
    """Interpolate a column of a list of colour tuples at a fractional row."""
    low = int(min(position, len(table) - 1.001))
    a, b = (np.asarray(table[i][column]) for i in (low, low + 1))
    return tuple(float(v) for v in a + (position - low) * (b - a))


def sample_look(rng: np.random.Generator, female: float, age: float) -> Look:
    """Skin, eyes and hair that go with each other and with what the body shape suggests."""
    tone = rng.uniform(0, len(_SKINS) - 1)
    is_female = rng.random() < np.clip((female - 0.5) * 2.4 + 0.5, 0.03, 0.97)
    style = sample_hair_style(rng, is_female, age, tone)
    makeup = float(rng.random() < 0.45) * rng.uniform(0.3, 1) if is_female else 0.0
    natural = sample_hair_colour(rng, age, tone)
    hair = sample_dye(rng, natural, 0.08 if is_female else 0.03)
    return Look(
        female=1.0 if is_female else 0.0,
        age=age,
        skin=jitter(rng, blend(_SKINS, tone, 0), 0.03),
        blush=float(rng.uniform(0.3, 1.0)),
        freckles=float(rng.uniform(0.3, 1.0)) if tone < 3 and rng.random() < 0.25 else 0.0,
        makeup=makeup,
        lips=sample_lips(rng, blend(_SKINS, tone, 1), makeup),
        iris=jitter(rng, _IRISES[choose(rng, iris_table(tone))], 0.08),
        brows=float(rng.uniform(0.35, 0.7) if is_female else rng.uniform(0.5, 1.0)),
        beard=0.0 if is_female else float(rng.choice([0.0, 0.15, 0.4, 0.7, 1.0], p=[0.3, 0.2, 0.2, 0.12, 0.18])),
        nails=jitter(rng, (0.75, 0.15, 0.25), 0.2) if makeup > 0.55 else None,
        hair_style=style,
        hair=hair,
        brow_hair=natural,
        hair_light=float(rng.uniform(0.15, 0.5)),
        hair_length=float(rng.uniform(0, 1)),
        hair_volume=float(rng.uniform(0.2, 1)),
        parting=float(rng.choice([-0.6, 0.0, 0.6])),
    )


def sample_lips(rng: np.random.Generator, natural: Colour, makeup: float) -> Colour:
    """Natural lips, or lipstick over them."""
    if makeup <= 0.6:
        return natural
    stick = [(0.72, 0.12, 0.18), (0.78, 0.3, 0.35), (0.5, 0.12, 0.2)][rng.integers(3)]
    return tuple(float(0.45 * a + 0.55 * b) for a, b in zip(natural, stick, strict=True))


def sample_dye(rng: np.random.Generator, natural: Colour, chance: float) -> Colour:
    """The natural colour of hair, or with some chance a dye."""
    return jitter(rng, _DYES[rng.integers(len(_DYES))], 0.06) if rng.random() < chance else natural


def iris_table(tone: float) -> dict[str, float]:
    """How likely each eye colour is for a skin tone (0 light .. 7 dark)."""
    light = max(0.0, 1 - tone / 3.5)
    return {
        "brown": 1.0,
        "dark": 0.2 + tone / 4,
        "hazel": 0.9 * light,
        "green": 0.5 * light,
        "blue": light,
        "grey": 0.4 * light,
    }


def sample_hair_style(rng: np.random.Generator, is_female: bool, age: float, tone: float) -> str:
    """A haircut. Curls are likelier with dark skin, bald and receding heads with age."""
    curls = 0.12 + 0.12 * max(0.0, tone - 3)
    if is_female:
        table = {"long": 1.2, "bob": 0.9, "ponytail": 0.8, "bun": 0.7, "side_part": 0.35, "short": 0.2, "shaved": 0.06}
        return choose(rng, table | {"curly": 2 * curls, "afro": curls * (tone > 3.5)})
    table = {"short": 1.0, "crop": 0.8, "side_part": 0.8, "swept": 0.7, "shaved": 0.5, "long": 0.12, "bun": 0.1}
    old = max(0.0, age - 35) / 30
    return choose(
        rng, table | {"curly": 2 * curls, "afro": curls * (tone > 3.5), "receding": 0.15 + old, "bald": 0.15 + old / 2}
    )


def sample_hair_colour(rng: np.random.Generator, age: float, tone: float) -> Colour:
    """Natural colours by skin tone, grey with age."""
    light = max(0.0, 1 - tone / 3)
    table = {"black": 0.4 + tone / 3, "dark": 1.0, "brown": 0.9, "chestnut": 0.5 * light, "blond": light}
    table |= {
        "sand": 0.6 * light,
        "red": 0.3 * light,
        "grey": max(0.0, age - 45) / 15,
        "white": max(0.0, age - 62) / 12,
    }
    return jitter(rng, _HAIRS[choose(rng, table)], 0.05)


# ---------------------------------------------------------------- drawing outfits

_NEUTRALS = [
    *((0.93, 0.92, 0.90), (0.13, 0.13, 0.14), (0.45, 0.46, 0.48), (0.14, 0.18, 0.30), (0.74, 0.68, 0.57)),
    *((0.29, 0.32, 0.24), (0.36, 0.25, 0.19), (0.25, 0.30, 0.36), (0.86, 0.82, 0.74), (0.62, 0.63, 0.65)),
]
_ACCENTS = [
    *((0.70, 0.16, 0.16), (0.16, 0.36, 0.62), (0.13, 0.43, 0.33), (0.88, 0.66, 0.20), (0.83, 0.45, 0.42)),
    *((0.47, 0.18, 0.30), (0.45, 0.62, 0.72), (0.55, 0.42, 0.60), (0.85, 0.47, 0.22), (0.58, 0.68, 0.52)),
    *((0.90, 0.75, 0.74), (0.12, 0.45, 0.50)),
]
_DENIMS = [(0.16, 0.21, 0.33), (0.24, 0.33, 0.48), (0.38, 0.48, 0.62), (0.12, 0.12, 0.14), (0.55, 0.62, 0.70)]


def sample_colour(rng: np.random.Generator, accent: float = 0.55) -> Colour:
    """A colour that clothes have: an accent with this probability, else a neutral."""
    palette = _ACCENTS if rng.random() < accent else _NEUTRALS
    return jitter(rng, palette[rng.integers(len(palette))], 0.07)


def sample_print(rng: np.random.Generator, table: dict[str, float]) -> dict:
    """Colours and pattern of a garment, the second colour clearly unlike the first."""
    colour = sample_colour(rng)
    second = sample_colour(rng)
    if abs(np.mean(colour) - np.mean(second)) < 0.18:
        second = (0.92, 0.91, 0.89) if np.mean(colour) < 0.5 else (0.15, 0.16, 0.2)
    pattern = choose(rng, table)
    bounds = {"stripes": (0.025, 0.08), "pinstripes": (0.012, 0.03), "checks": (0.04, 0.12), "dots": (0.025, 0.06)}
    scale = rng.uniform(*bounds.get(pattern, (0.06, 0.14)))
    return {"colour": colour, "colour2": second, "pattern": pattern, "scale": float(scale)}


_PRINTS = {
    "plain": 5,
    "stripes": 1.6,
    "checks": 0.9,
    "dots": 0.5,
    "heather": 1.4,
    "gradient": 0.4,
    "block": 0.8,
    "logo": 1.0,
}


def sample_outfit(rng: np.random.Generator, look: Look) -> Outfit:
    """Clothes from the inside out: socks, lower body, upper body, belt, jacket, shoes, hat."""
    women = look.female > 0.5
    lower = sample_lower(rng, women)
    upper = sample_upper(rng, women, lower)
    feet = sample_feet(rng)
    garments = [g for g in feet if g.kind == "sock"] + [lower, *upper] + [g for g in feet if g.kind == "shoe"]
    if lower.kind == "trousers" and (upper[0].tucked or upper[0].hem < -0.02) and rng.random() < 0.75:
        leather = jitter(rng, [(0.2, 0.12, 0.08), (0.08, 0.08, 0.08), (0.4, 0.24, 0.13)][rng.integers(3)], 0.05)
        belt = Garment("belt", "Apparel", leather, (0.75, 0.7, 0.55), material="leather", waist=lower.waist, layer=4)
        garments.insert(garments.index(lower) + 1, belt)
    if rng.random() < 0.17 and look.hair_style not in ("afro", "bun", "curly"):
        garments.append(sample_hat(rng))
    return Outfit(tuple(garments))


# fit, material, pattern, details of what covers the legs
_LOWERS = {
    "jeans": ((0.2, 0.7), "denim", "denim", ("seam", "pockets")),
    "chinos": ((0.35, 0.75), "cotton", "plain", ("pockets",)),
    "joggers": ((0.4, 0.75), "wool", "heather", ("stripe", "cuffs")),
    "shorts": ((0.4, 1.0), "cotton", "plain", ("pockets",)),
    "camo": ((0.5, 0.9), "cotton", "camo", ("pockets",)),
    "suit": ((0.35, 0.6), "cotton", "pinstripes", ("pockets",)),
    "leggings": ((0.0, 0.05), "silk", "plain", ()),
    "wide": ((0.9, 1.0), "cotton", "plain", ("pockets",)),
}
_SECONDS = {"camo": (0.20, 0.22, 0.15), "pinstripes": (0.7, 0.7, 0.72)}


def sample_lower(rng: np.random.Generator, women: bool) -> Garment:
    """Jeans, trousers, shorts; for women also leggings and skirts."""
    table = {"jeans": 1.0, "chinos": 0.8, "joggers": 0.45, "shorts": 0.55, "camo": 0.12, "suit": 0.35}
    kind = choose(rng, table | ({"skirt": 0.75, "leggings": 0.35, "wide": 0.4} if women else {}))
    waist = float(rng.uniform(-0.26, -0.16))
    if kind == "skirt":
        return sample_skirt(rng, waist)
    fit, material, pattern, details = _LOWERS[kind]
    plain = sample_colour(rng, 0.4 if kind in ("shorts", "wide", "leggings") else 0.0)
    colour = jitter(rng, _DENIMS[rng.integers(len(_DENIMS))], 0.06) if kind == "jeans" else plain
    long = float(rng.choice([1.9, 2.0, 1.78], p=[0.5, 0.35, 0.15]))
    return Garment(
        "trousers", "Lower_Clothing", colour, _SECONDS.get(pattern, (0.9, 0.9, 0.88)), pattern,
        scale={"camo": 0.11, "pinstripes": 0.022}.get(pattern, 0.05), material=material, details=details, layer=2,
        hem=float(rng.uniform(0.5, 1.05)) if kind == "shorts" else long, waist=waist, fit=float(rng.uniform(*fit)),
    )  # fmt: skip


def sample_skirt(rng: np.random.Generator, waist: float) -> Garment:
    """From above the knee to the calf, straight or flared."""
    prints = sample_print(rng, {"plain": 4, "checks": 1, "dots": 0.8, "stripes": 0.6, "gradient": 0.5})
    hem, fit = float(rng.choice([0.72, 0.95, 1.25, 1.6]) + rng.normal(0, 0.06)), float(rng.uniform(0.0, 1))
    return Garment("skirt", "Lower_Clothing", hem=hem, fit=fit, waist=waist, layer=2, **prints)


# sleeve, fit, material, details and necks of tops
_TOPS = {
    "tee": ((0.45, 0.85), (0.2, 0.85), "cotton", ("cuffs",), ("crew", "crew", "v")),
    "long": ((1.5, 1.97), (0.2, 0.8), "cotton", ("cuffs",), ("crew", "crew", "turtle")),
    "jumper": ((1.85, 1.97), (0.5, 1.0), "wool", ("cuffs", "ribs"), ("crew", "crew", "turtle", "v")),
    "shirt": ((1.85, 1.97), (0.25, 0.85), "cotton", ("buttons", "cuffs"), ("collar",)),
    "polo": ((0.5, 0.8), (0.3, 0.8), "cotton", ("placket",), ("collar",)),
    "tank": ((-0.12, -0.1), (0.1, 0.4), "cotton", ("cuffs",), ("scoop",)),
    "crop": ((0.3, 0.7), (0.2, 0.6), "cotton", ("cuffs",), ("crew", "scoop")),
    "blouse": ((0.6, 1.97), (0.3, 0.9), "silk", ("cuffs",), ("v", "scoop")),
}


def sample_upper(rng: np.random.Generator, women: bool, lower: Garment) -> list[Garment]:
    """One top, sometimes with an open jacket over it."""
    table = {"tee": 1.5, "long": 0.8, "jumper": 0.8, "shirt": 0.8, "polo": 0.35, "tank": 0.25}
    kind = choose(rng, table | ({"crop": 0.35, "blouse": 0.5, "tank": 0.5} if women else {}))
    sleeve, fit, material, details, necks = _TOPS[kind]
    tucked = kind in ("shirt", "blouse", "tee", "long") and rng.random() < 0.22
    tucked = kind != "crop" if lower.kind == "skirt" else tucked  # a skirt stands out from the hips
    hem = rng.uniform(-0.42, -0.3) if kind == "crop" else rng.uniform(0.0, 0.22)
    top = Garment(
        "shirt", "Upper_Clothing", **sample_print(rng, _PRINTS), material=material, sleeve=float(rng.uniform(*sleeve)),
        hem=float(hem), neck=str(rng.choice(necks)), fit=float(rng.uniform(*fit)), layer=1 if tucked else 3,
        tucked=tucked, waist=lower.waist, details=details,
    )  # fmt: skip
    jacket = rng.random() < 0.2 and kind not in ("jumper", "crop")
    return [top, sample_jacket(rng, top, short=lower.kind == "skirt")] if jacket else [top]


def sample_jacket(rng: np.random.Generator, top: Garment, short: bool) -> Garment:
    """An open jacket or cardigan, wider than what is under it and longer, or `short`, to the waist."""
    prints = sample_print(rng, {"plain": 3, "heather": 1, "checks": 0.5, "denim": 0.8})
    if prints["pattern"] == "denim":
        prints["colour"] = jitter(rng, _DENIMS[rng.integers(3)], 0.05)
    hem = top.waist - 0.01 if short else max(top.hem, 0.0) + float(rng.choice([0.06, 0.12, 0.5]))
    fit = max(float(rng.uniform(0.55, 1)), top.fit + 0.15)
    return Garment(
        "jacket", "Upper_Clothing", sleeve=1.97, hem=hem, neck="crew", fit=fit,
        material=str(rng.choice(["wool", "cotton", "leather"])), layer=5, details=("cuffs", "lapel"), **prints,
    )  # fmt: skip


def sample_feet(rng: np.random.Generator) -> list[Garment]:
    """Shoes with or without socks, socks alone, or bare feet."""
    kind = choose(rng, {"trainers": 1.2, "leather": 0.6, "boots": 0.4, "pumps": 0.25, "socks": 0.3, "bare": 0.3})
    if kind == "bare":
        return []
    sock_colour = sample_colour(rng, 0.3)
    pattern = choose(rng, {"plain": 3, "stripes": 1})
    height = float(rng.choice([1.93, 1.8, 1.55, 1.2], p=[0.3, 0.4, 0.2, 0.1]))
    sock = Garment(
        "sock", "Sock", sock_colour, (0.9, 0.9, 0.9), pattern, 0.03, hem=height, layer=0, details=("cuffs", "ribs")
    )
    if kind == "socks":
        return [sock]
    colour = {"leather": [(0.1, 0.09, 0.09), (0.35, 0.2, 0.12)], "boots": [(0.12, 0.1, 0.1), (0.45, 0.32, 0.2)]}.get(
        kind
    )
    colour = jitter(rng, colour[rng.integers(2)], 0.05) if colour else sample_colour(rng, 0.4)
    sole = {"trainers": (0.92, 0.91, 0.88), "boots": (0.2, 0.16, 0.13)}.get(kind, (0.12, 0.1, 0.09))
    height = {"boots": 1.72, "pumps": 2.06}.get(kind, 1.985)
    shoe = Garment(
        "shoe", "Shoe", colour, sole, pattern="laces" if kind in ("trainers", "boots") else "plain",
        material="cotton" if kind == "trainers" else "leather", hem=height, layer=1, details=(kind,),
    )  # fmt: skip
    return [sock, shoe] if kind != "pumps" and rng.random() < 0.75 else [shoe]


def sample_hat(rng: np.random.Generator) -> Garment:
    """A baseball cap or a knitted beanie."""
    kind = str(rng.choice(["cap", "beanie"]))
    material = "wool" if kind == "beanie" else "cotton"
    return Garment(kind, "Apparel", sample_colour(rng, 0.6), sample_colour(rng, 0.3), material=material, layer=6)
