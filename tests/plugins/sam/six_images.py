"""Six images to annotate: what the tests of the data engine share."""

import numpy as np
from lamella.cli.main import main
from lamella_sam.annotate.folder import AnnotationFolder
from PIL import Image

CLASSES = ["ground", "bar", "dot"]


def truth(number):
    label = np.zeros((48, 64), np.uint8)
    label[8:20, 4 + number : 50] = 1
    label[30:42, 20:32] = 2
    return label


def picture(number, dtype=np.uint8):
    noise = np.random.default_rng(number).integers(0, 12, (48, 64))
    return ((truth(number) * 90 + noise) * (257 if dtype == np.uint16 else 1)).astype(dtype)


def six_images(path):
    """A folder of six images, one of them a 16-bit TIFF."""
    import tifffile

    given = path / "given"
    given.mkdir()
    for number in range(5):
        Image.fromarray(picture(number)).save(given / f"im{number}.png")
    tifffile.imwrite(given / "im5.tif", picture(5, np.uint16))
    return AnnotationFolder.create(path / "work", [given], CLASSES)


def accept_two(folder):
    for number in range(2):
        folder.write_mask(f"im{number}", truth(number))
        folder.accept(f"im{number}", by="test")


def experiment_tables(folder, **trainer):
    return {
        "modality": {"name": "tem", "intensity": "image"},
        "data": {"labelled": folder.source(folder.of("accepted"))},
        "trainer": {
            "name": "sesami", "backbone": {"name": "sam-nano", "weights": "none"}, "prompts": 2, "corrections": 0,
            **trainer,
        },
        "fit": {"steps": 2, "batch_size": 2, "log_every": 1},
    }  # fmt: skip


def command(*words):
    try:
        main(["annotate", *map(str, words)])
    except SystemExit as end:
        return end.code or 0
    return 0
