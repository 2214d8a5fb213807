"""Puts a public set, as it is downloaded, into the folders that its experiment file reads.

    python examples/public/arrange.py SET FOLDER [OUT]

SET is carinthia, miic, nffa, boiko, minitem, loops or superalloy; FOLDER is what was unpacked; OUT is ./SET unless
given. Every fifth image of a class (of an area, of a frame) goes into test/, the others into train/, where the
publisher has no split.
"""

import csv
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image


def split(number: int) -> str:
    return "train" if number % 5 else "test"


def put(image: Image.Image, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target)


def carinthia(folder: Path, out: Path) -> None:
    """data.zip: images/*.jpg and carinthia.csv with the columns image_path; file_name; label."""
    table = next(folder.rglob("carinthia.csv"))
    seen: dict[str, int] = {}
    for row in csv.DictReader(table.open(encoding="utf-8-sig"), delimiter=";"):
        number = seen[row["label"]] = seen.get(row["label"], -1) + 1
        target = out / split(number) / row["label"] / Path(row["image_path"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(table.parent / "images" / Path(row["image_path"]).name, target)


def miic(folder: Path, out: Path) -> None:
    """Anomaly_test.rar: normal_img, abnormal_img, and abnormal_mask as JPEG, whose greys become 0 or 255."""
    top = next(folder.rglob("abnormal_mask")).parent
    for name in ("normal_img", "abnormal_img"):
        shutil.copytree(top / name, out / name, dirs_exist_ok=True)
    for path in sorted((top / "abnormal_mask").glob("*.jpg")):
        put(black_and_white(Image.open(path).convert("L")), out / "masks" / f"{path.stem}.png")


def nffa(folder: Path, out: Path) -> None:
    """A folder of JPEG for each of ten classes; shrunk to one size, 256 × 192."""
    for kind in sorted({path.parent for path in folder.rglob("*.jpg")}):
        for number, path in enumerate(sorted(kind.glob("*.jpg"))):
            small = Image.open(path).convert("L").resize((256, 192), Image.Resampling.BOX)
            put(small, out / split(number) / kind.name / path.name)


def boiko(folder: Path, out: Path) -> None:
    """501-S1-A6-50k-ordered.tif …, 1280 × 1024 with 134 rows of caption: the middle squares, shrunk to 224 × 224."""
    places: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*k-*.tif")):
        _, sample, area, magnification, kind = path.stem.split("-")
        places.setdefault(f"{sample}-{area}-{kind}", {}).setdefault(magnification, path)
    whole = {place: views for place, views in places.items() if {"50k", "200k"} <= views.keys()}
    for number, (place, views) in enumerate(sorted(whole.items())):
        for view in ("200k", "50k"):
            square = Image.open(views[view]).convert("L").crop((195, 0, 1085, 890))
            put(square.resize((224, 224), Image.Resampling.BOX), out / split(number) / view / f"{place}.png")


def minitem(folder: Path, out: Path) -> None:
    """TrainTestVal.zip: SAMPLE/Train/GT/FRAME.tif and, registered to it, SAMPLE/Train/Low/FRAME/*.tif, 16 bit.

    They are cut to multiples of 16 pixels, in which whole images are judged.
    """
    for sharp in (path for path in sorted(folder.rglob("*.tif")) if path.parent.name == "GT"):
        part, name = sharp.parents[1].name.lower(), f"{sharp.parents[2].name}-{sharp.name}"
        for view, path in (("sharp", sharp), ("blurred", first(sharp.parents[1] / "Low" / sharp.stem))):
            image = Image.open(path)
            put(image.crop((0, 0, image.width // 16 * 16, image.height // 16 * 16)), out / part / view / name)


def loops(folder: Path, out: Path) -> None:
    """data/ds25s of github.com/ai-atoms/creme: fov200nm/imgs and masks1, 1.png to 16.png, and the frame test/*/3.png.

    The 16 crops are the upper quarter of the frame, enlarged four times, so they are put back to its scale. Only its
    other three quarters, in twelve tiles of 256 × 256, are a test.
    """
    for kind, target in (("imgs", "images"), ("masks1", "masks")):
        crops = {p.name: Image.open(p).convert("L").reduce(4) for p in (folder / "fov200nm" / kind).glob("*.png")}
        frame = Image.open(folder / "test" / kind / "3.png").convert("L")
        if target == "masks":
            crops, frame = {name: black_and_white(crop) for name, crop in crops.items()}, black_and_white(frame)
        for name, crop in crops.items():
            put(crop, out / "train" / target / name)
        for row, column in ((row, column) for row in range(256, 1024, 256) for column in range(0, 1024, 256)):
            tile = frame.crop((column, row, column + 256, row + 256))
            put(tile, out / "test" / target / f"{row}-{column}.png")


def black_and_white(mask: Image.Image) -> Image.Image:
    """A mask whose greys become 0 or 255."""
    return mask.point(lambda grey: 255 if grey > 127 else 0)


def superalloy(folder: Path, out: Path) -> None:
    """Super1 of github.com/nasa/pretrained-microscopy-models, 256 × 256: spots 3 to 7 to train on, 1 and 2 to test.

    A mask is its image with pure blue and pure red over it, and each square of four pixels keeps one of them.
    """
    for part, target in (("train", "train"), ("val", "test"), ("test", "test")):
        for path in sorted((folder / part).glob("*.*")):
            mask = next((folder / f"{part}_annot").glob(f"{path.stem}_mask.*"))
            small = Image.open(path).convert("L").reduce(2)
            put(small, out / target / "images" / f"{path.stem}.png")
            colours = Image.open(mask).convert("RGB").resize(small.size, Image.Resampling.NEAREST)
            put(colours, out / target / "masks" / f"{path.stem}.png")


def first(folder: Path) -> Path:
    found: Iterator[Path] = iter(sorted(folder.glob("*.tif")))
    return next(found)


SETS: dict[str, Callable[[Path, Path], None]] = {
    f.__name__: f for f in (carinthia, miic, nffa, boiko, minitem, loops, superalloy)
}

if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SETS:
        raise SystemExit(__doc__)
    SETS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else sys.argv[1]))
