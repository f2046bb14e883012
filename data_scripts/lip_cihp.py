"""LIP and CIHP: pictures with 20 classes of body parts and clothes.

The course's shards know Sapiens' 28 classes. Each of the 20 becomes one that chapter 08's `to_lip` turns back into it;
the eight that have no such class (hat, glove, dress, ...) become the nearest. With --classes 20 the shards keep LIP's
own numbers instead, for code that compares with them directly.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from course_lib.chapters.sapiens_dense import LIP
from course_lib.data.parts import PART_IDS
from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import SourceError, differs, shown
from course_lib.real.convert import main
from course_lib.real.labels import image_field, mask_box
from course_lib.real.safe import open_image, read_image, read_mask
from course_lib.real.source import Item, Source

TO_28 = {  # LIP's class -> ours
    "Background": "Background", "Hat": "Apparel", "Hair": "Hair", "Glove": "Apparel", "Sunglasses": "Apparel",
    "UpperClothes": "Upper_Clothing", "Dress": "Upper_Clothing", "Coat": "Upper_Clothing", "Socks": "Left_Sock",
    "Pants": "Lower_Clothing", "Jumpsuits": "Upper_Clothing", "Scarf": "Apparel", "Skirt": "Lower_Clothing",
    "Face": "Face_Neck", "Left-arm": "Left_Upper_Arm", "Right-arm": "Right_Upper_Arm", "Left-leg": "Left_Upper_Leg",
    "Right-leg": "Right_Upper_Leg", "Left-shoe": "Left_Shoe", "Right-shoe": "Right_Shoe",
}  # fmt: skip
TABLE = np.array([PART_IDS[TO_28[name]] for name in LIP], np.uint8)
PADDING = 255
# folders of pictures, classes, and people's numbers, by data set and split
LAYOUTS = {
    ("lip", "train"): ("images/train_images", "segmentations/train_segmentations", None),
    ("lip", "val"): ("images/val_images", "segmentations/val_segmentations", None),
    ("cihp", "train"): ("Training/Images", "Training/Category_ids", "Training/Human_ids"),
    ("cihp", "val"): ("Validation/Images", "Validation/Category_ids", "Validation/Human_ids"),
}


class LipCihp(Source):
    """A group is the folder of a split; an item is a picture."""

    name, title = "lip_cihp", "LIP (Look Into Person) and CIHP (Crowd Instance-level Human Parsing)"
    licence = "non-commercial research and education only"
    register = "http://sysu-hcp.net/lip/ (Google Drive)"
    download = (
        "LIP: TrainVal_images.zip, TrainVal_parsing_annotations.zip",
        "CIHP: instance-level_human_parsing.zip",
    )
    layout = """LIP:  images/{train,val}_images/NAME.jpg, segmentations/{train,val}_segmentations/NAME.png
    CIHP: {Training,Validation}/{Images/NAME.jpg, Category_ids/NAME.png, Human_ids/NAME.png}"""
    corrections = (
        f"{PADDING}, which pads, is background",
        "what has no class among Sapiens' 28 becomes the nearest; socks are left ones (LIP names no side)",
    )
    options = {
        "split": {"choices": ("train", "val"), "default": "val", "help": "LIP: 30,462 and 10,000 pictures"},
        "classes": {"type": int, "choices": (20, 28), "default": 28, "help": "the shards' numbers: LIP's, or Sapiens'"},
    }

    def groups(self) -> list[str]:
        split = self.option("split")
        found = [data for data, each in LAYOUTS if each == split and (self.root / LAYOUTS[data, each][0]).is_dir()]
        return self.some([f"{data}/{split}" for data in found])

    def items(self, group: str) -> Iterator[Item]:
        data, split = group.split("/")
        pictures, classes, people = LAYOUTS[data, split]
        held = {Path(path.name).stem for path in self.folder(classes).glob("*.png")}
        found = sorted(path for path in self.folder(pictures).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        if not found:
            raise SourceError(f"{shown(self.root / pictures)}: expected pictures NAME.jpg, found none")
        for picture in found:
            place = group, picture.name
            problem = self.problem(picture, classes, people) if picture.stem in held else ""
            if picture.stem not in held:
                problem = f"{classes}/{shown(picture.stem)}.png is not there"
            yield Item(f"{data}-{picture.stem}", place, problem)

    def folder(self, name: str) -> Path:
        """A folder under the root. SourceError where it is not there."""
        if not (self.root / name).is_dir():
            raise SourceError(
                f"{shown(self.root / name)}: expected a folder, found none: unpack the labels beside the pictures"
            )
        return self.root / name

    def problem(self, picture: Path, *folders: str | None) -> str:
        """What is wrong with the sizes of a picture's labels, "" for nothing."""
        try:
            with open_image(picture) as image:
                size = image.size
            for folder in filter(None, folders):
                path = self.root / folder / f"{picture.stem}.png"
                with open_image(path) as mask:
                    check_mask_file(mask.mode, mask.size, size, path)
        except SourceError as error:
            return str(error)
        return ""

    def read(self, item: Item) -> list[Sample]:
        group, name = item.place
        pictures, classes, people = LAYOUTS[tuple(group.split("/"))]
        image = read_image(self.root / pictures / name)
        size, label = image.shape[:2], f"{Path(name).stem}.png"
        found = read_mask(self.root / classes / label, size=size)
        parts = class_numbers(found, self.root / classes / label)
        owner = read_mask(self.root / people / label, size=size) if people else (parts > 0).astype(np.uint8)
        owner = packed(np.where(owner == PADDING, 0, owner))
        labels = [PersonLabel(box=mask_box(owner == number)) for number in range(1, int(owner.max(initial=0)) + 1)]
        shown_parts = TABLE[parts] if self.option("classes") == 28 else parts
        return [Sample(source=group, image=image_field(image), alpha=(parts > 0).astype(np.float32), parts=shown_parts,
                       instances=owner, people=labels)]  # fmt: skip


def check_mask_file(mode: str, found: tuple[int, int], size: tuple[int, int], path: Path) -> None:
    """SourceError for a label in colours, or of another size than its picture."""
    if mode not in ("L", "P", "1"):
        raise differs(
            path, "the label", "one channel of classes", f"a picture in {mode}", "a coloured drawing of them?"
        )
    if found != size:
        hint = "axes swapped, turned by 90 degrees?" if found == size[::-1] else ""
        raise differs(path, "the label", f"{size[0]} x {size[1]} pixels", f"{found[0]} x {found[1]}", hint)


def class_numbers(found: np.ndarray, path: Path) -> np.ndarray:
    """Classes (H, W) 0 to 19; what pads becomes 0. SourceError for other numbers."""
    values = np.where(found == PADDING, 0, found).astype(np.uint8)
    if values.max(initial=0) >= len(LIP):
        hint = "grey values, not class numbers?" if values.max() > 40 else "another data set's classes?"
        raise differs(path, "the label", f"classes 0 to {len(LIP) - 1}", f"up to {values.max()}", hint)
    return values


def packed(owner: np.ndarray) -> np.ndarray:
    """People's numbers without gaps, 1, 2, ..."""
    values = np.unique(owner[owner > 0])
    return (np.searchsorted(values, owner) + 1).astype(np.uint8) * (owner > 0)


if __name__ == "__main__":
    sys.exit(main(LipCihp))
