"""COCO's people, or COCO-WholeBody's: pictures with 17 or 133 keypoints, boxes and masks; or those without people."""

import json
import sys
from collections.abc import Iterator

from course_lib.data.schema import Sample
from course_lib.real import coco
from course_lib.real.checks import SourceError
from course_lib.real.convert import main
from course_lib.real.labels import image_field
from course_lib.real.safe import read_image
from course_lib.real.source import Item, Source


class Coco(Source):
    """One group, the file of annotations of a split; an item is a picture."""

    name, title = "coco", "COCO 2017 keypoints, COCO-WholeBody v1.0"
    licence = "annotations CC-BY 4.0, pictures under their Flickr licences; WholeBody's annotations non-commercial"
    register = "nowhere: cocodataset.org; WholeBody: github.com/jin-s13/COCO-WholeBody (a form)"
    download = (
        "val2017.zip, train2017.zip, annotations_trainval2017.zip",
        "for --wholebody coco_wholebody_val_v1.0.json, coco_wholebody_train_v1.0.json, into annotations/",
    )
    layout = """val2017/000000000139.jpg, train2017/...
    annotations/person_keypoints_val2017.json, person_keypoints_train2017.json
    annotations/coco_wholebody_val_v1.0.json, coco_wholebody_train_v1.0.json"""
    corrections = (
        "crowds are in the mask of people, but no person",
        "hands, feet and faces that are marked as not valid have no keypoints",
    )
    options = {
        "split": {"choices": ("val", "train"), "default": "val", "help": "val (5,000 pictures) or train (118,287)"},
        "wholebody": {"action": "store_true", "default": False, "help": "133 keypoints from COCO-WholeBody's file"},
        "without_people": {
            "action": "store_true",
            "default": False,
            "help": "only the pictures that nobody is in: backgrounds",
        },
    }

    @property
    def pattern(self) -> str:
        """The file of annotations, under the root."""
        split = self.option("split")
        own = f"coco_wholebody_{split}_v1.0.json" if self.option("wholebody") else f"person_keypoints_{split}2017.json"
        return f"annotations/{own}"

    def items(self, group: str) -> Iterator[Item]:
        pictures, people = coco.read_people(self.root / group, self.option("wholebody"))
        folder = self.folder()
        held = {path.name for path in (self.root / folder).iterdir()}
        for number, picture in sorted(pictures.items()):
            if (number in people) == self.option("without_people"):
                continue
            place = (
                folder,
                picture["file_name"],
                picture["height"],
                picture["width"],
                json.dumps(people.get(number, [])),
            )
            missing = picture["file_name"] not in held
            yield Item(f"{number:012d}", place, f"{folder}/{picture['file_name']} is not there" if missing else "")

    def folder(self) -> str:
        """Where the split's pictures are."""
        names = f"{self.option('split')}2017", f"images/{self.option('split')}2017"
        found = next((name for name in names if (self.root / name).is_dir()), None)
        if found is None:
            raise SourceError(f"{self.root}: neither {names[0]}/ nor {names[1]}/ is there: unpack the pictures")
        return found

    def read(self, item: Item) -> list[Sample]:
        folder, name, height, width, text = item.place
        people, size = json.loads(text), (height, width)
        image = image_field(read_image(self.root / folder / name, size=size))
        owner, alpha = coco.instances(people, size, f"{self.option('split')}2017/{name}")
        alone = [each for each in people if not each["iscrowd"]]
        labels = [coco.person_label(each, size, self.option("wholebody")) for each in alone]
        source = f"coco/{self.option('split')}"
        return [Sample(scene=int(item.key), source=source, image=image, alpha=alpha, instances=owner, people=labels)]


if __name__ == "__main__":
    sys.exit(main(Coco))
