"""The 28 body-part classes of Sapiens (Khirodkar et al. 2024, its released order), with colours and mirror pairs."""

import numpy as np

PART_NAMES = (
    *("Background", "Apparel", "Face_Neck", "Hair", "Left_Foot", "Left_Hand", "Left_Lower_Arm", "Left_Lower_Leg"),
    *("Left_Shoe", "Left_Sock", "Left_Upper_Arm", "Left_Upper_Leg", "Lower_Clothing", "Right_Foot", "Right_Hand"),
    *("Right_Lower_Arm", "Right_Lower_Leg", "Right_Shoe", "Right_Sock", "Right_Upper_Arm", "Right_Upper_Leg", "Torso"),
    *("Upper_Clothing", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue"),
)
PART_IDS = {name: index for index, name in enumerate(PART_NAMES)}

# left limbs warm, right limbs cool, so that a swapped side is seen at once; clothes and head in between
PART_COLOURS = (
    np.array(
        [
            *(
                (0, 0, 0),
                (250, 235, 120),
                (235, 180, 150),
                (110, 65, 40),
                (225, 70, 40),
                (250, 120, 70),
                (240, 160, 60),
            ),
            *((200, 90, 60), (140, 30, 30), (190, 50, 90), (250, 190, 90), (230, 120, 110), (70, 90, 190)),
            *((30, 140, 200), (80, 190, 240), (60, 160, 160), (70, 120, 210), (20, 60, 110), (50, 90, 150)),
            *((110, 210, 200), (100, 150, 230), (170, 200, 110), (120, 180, 100), (230, 60, 120), (180, 30, 90)),
            *((225, 225, 215), (255, 255, 250), (240, 110, 140)),
        ],
        dtype=np.float32,
    )
    / 255
)  # (28, 3) RGB in [0, 1]


def mirrored(name: str) -> str:
    """The class that a mirror turns `name` into: Left_Hand <-> Right_Hand, Hair -> Hair."""
    if name.startswith("Left_"):
        return name.replace("Left_", "Right_", 1)
    return name.replace("Right_", "Left_", 1)


MIRROR = np.array(
    [PART_IDS[mirrored(name)] for name in PART_NAMES], dtype=np.uint8
)  # parts_flipped = MIRROR[parts][:, ::-1]

# which class bare skin has, from the joint that moves it most
SKIN_CLASSES = ("Face_Neck", "Torso") + tuple(
    f"{side}_{part}"
    for side in ("Left", "Right")
    for part in ("Upper_Arm", "Lower_Arm", "Hand", "Upper_Leg", "Lower_Leg", "Foot")
)
_JOINT_CLASS = {
    **dict.fromkeys(("pelvis", "spine1", "spine2", "spine3", "collar"), "Torso"),
    **dict.fromkeys(("neck", "head", "jaw", "eye_smplhf"), "Face_Neck"),
    **{"shoulder": "Upper_Arm", "elbow": "Lower_Arm", "wrist": "Hand", "hip": "Upper_Leg", "knee": "Lower_Leg"},
    **dict.fromkeys(("ankle", "foot"), "Foot"),
}


def joint_class(joint: str) -> str:
    """The class of the skin that a joint of SMPL-X moves: `left_elbow` -> `Left_Lower_Arm`; a finger -> the hand."""
    side, _, rest = joint.partition("_")
    if side not in ("left", "right"):
        return _JOINT_CLASS[joint]
    name = _JOINT_CLASS.get(rest, "Hand")
    return name if name in ("Torso", "Face_Neck") else f"{side.title()}_{name}"


def colourise(parts: np.ndarray) -> np.ndarray:
    """Class ids (..., H, W) -> colours (..., H, W, 3) in [0, 1]."""
    return PART_COLOURS[parts]
