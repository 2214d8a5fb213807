"""A few tiny files in the place of each public set, laid out as its users or its card describe the download."""

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

CHANCE = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return CHANCE.integers(0, 255, (height, width), np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def carinthia(folder: Path) -> None:
    rows = [(str(1 + number % 6), f"{number:04d}.jpg") for number in range(18)]
    for _, name in rows:
        save(folder / "data" / "images" / name, picture(32, 32))
    with (folder / "data" / "carinthia.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["image_path", "file_name", "label"])
        writer.writerows([f"data/images/{name}", name, label] for label, name in rows)


def carinthia_s(folder: Path) -> None:
    for number in range(8):
        save(folder / "images" / f"{number}.jpg", picture(32, 32))
        save(folder / "masks" / f"{number}.png", (picture(32, 32) > 200).astype(np.uint8) * 255)


def miic(folder: Path) -> None:
    for number in range(6):
        save(folder / "Anomaly_test" / "abnormal_img" / f"{number}.jpg", picture(64, 64))
        save(folder / "Anomaly_test" / "normal_img" / f"n{number}.jpg", picture(64, 64))
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 24:48] = 255
        save(folder / "Anomaly_test" / "abnormal_mask" / f"{number}_mask.jpg", mask)


def nffa(folder: Path) -> None:
    for kind in ("Biological", "Fibres", "Tips"):
        for number in range(6):
            save(folder / kind / f"L0_{number}.jpg", picture(96, 128))


def boiko(folder: Path) -> None:
    for number, area in enumerate(("A6", "A7", "A8", "A9", "A10", "A11")):
        for place, magnification in enumerate(("50k", "100k", "200k")):
            kind = "ordered" if number % 2 else "disordered"
            path = folder / f"{500 + 3 * number + place}-S1-{area}-{magnification}-{kind}.tif"
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, picture(1024, 1280))
    tifffile.imwrite(folder / "900-S1-A6-50k-disordered.tif", picture(1024, 1280))  # taken twice
    tifffile.imwrite(folder / "901-S1-A20-50k-ordered.tif", picture(1024, 1280))  # without the other


def minitem(folder: Path) -> None:
    for sample in ("Kidney", "Grid"):
        for part in ("Train", "Test"):
            for frame in ("frame01", "frame02"):
                top, size = folder / "TrainTestVal" / sample / part, (40 + int(frame[-1]), 60)
                for path in (top / "GT" / f"{frame}.tif", *(top / "Low" / frame / f"lq{i}.tif" for i in range(3))):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(path, CHANCE.integers(0, 4000, size, np.uint16))


def masked(name: str, values: int) -> Callable[[], dict[str, list[Image.Image]]]:
    """Rows of a Hub set with an image and a mask, in columns as the experiment file calls them."""
    return lambda: {
        "image": [Image.fromarray(picture(32, 32)) for _ in range(2)],
        name: [Image.fromarray((picture(32, 32) % values).astype(np.uint8)) for _ in range(2)],
    }


HUB = {"annotation": masked("annotation", 6), "mask": masked("mask", 40)}
FOLDERS = {f.__name__: f for f in (carinthia, carinthia_s, miic, nffa, boiko, minitem)}


def webdataset(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            held = io.BytesIO()
            Image.fromarray(picture(32, 32)).save(held, "PNG")
            member = tarfile.TarInfo(f"{number:05d}.png")
            member.size = held.tell()
            held.seek(0)
            archive.addfile(member, held)
