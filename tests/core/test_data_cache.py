"""The decoded copy of a set: the same samples, and never those of another set."""

import errno
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from lamella.data.cache import cached
from lamella.data.samples import Row, SampleTable
from lamella.data.sources import SourceConfig, open_source
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(3):
        write(tmp_path, number)
    return tmp_path


def write(folder, number, seed=0):
    pixels = np.random.default_rng([seed, number]).integers(0, 65535, (7 + number, 5, 3), np.uint16)
    Image.fromarray((pixels // 257).astype(np.uint8)).save(folder / "images" / f"{number}.png")
    Image.fromarray((pixels[..., 0] % 2).astype(np.uint8)).save(folder / "masks" / f"{number}.png")


def opened(folder, registry, **more):
    table = {"images": "images/*.png", "labels": "masks/*.png", "classes": ["a", "b"], **more}
    return open_source(SourceConfig(source=".", **table), registry, "here", folder=folder)


def same(one, other):
    assert (one.image.dtype, one.label.dtype) == (other.image.dtype, other.label.dtype)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_equal(one.pixel_nm, other.pixel_nm)
    return (one.name, one.key, one.visit, one.meta) == (other.name, other.key, other.visit, other.meta)


def test_the_copy_holds_the_same_samples(folder, tiny_registry, tmp_path):
    table = opened(folder, tiny_registry)
    copy = cached(table, folder=tmp_path / "cache")
    assert [same(copy.read(i, 2), table.read(i, 2)) for i in range(3)] == [True] * 3
    assert (copy.classes, copy.origin, copy.labelled) == (table.classes, table.origin, True)


def test_a_registered_dataset_is_copied_with_its_objects_and_pixel_size(tiny_registry, tmp_path):
    table = open_source(SourceConfig(source="tiny-squares"), tiny_registry, "here", folder=Path())
    copy = cached(table, folder=tmp_path)
    assert all(same(copy.read(i), table.read(i)) for i in range(8))


@pytest.mark.parametrize("ids", [(-1, 3), (0, 65535), (0, 65536), (-(2**40), 2**40)])
def test_instance_ids_of_any_size_stay_as_they_are(tmp_path, ids):
    class Told:
        decoded = False

        def arrays(self):
            return np.zeros((1, 2), np.uint8), None, np.array([ids], np.int64), (math.nan, math.nan), {}, ()

    table = SampleTable([Row("one", 1, {}, (math.nan, math.nan), Told(), False)], None, "here")
    assert cached(table, folder=tmp_path).read(0).instance.tolist() == [list(ids)]


def test_a_second_opening_decodes_nothing(folder, tiny_registry, tmp_path, monkeypatch):
    cached(opened(folder, tiny_registry), folder=tmp_path / "cache")
    expected = opened(folder, tiny_registry).read(1)
    monkeypatch.setattr("lamella.data.reading.read_micrograph", lambda path, frame: pytest.fail(f"{path} was decoded"))
    assert same(cached(opened(folder, tiny_registry), folder=tmp_path / "cache").read(1), expected)


@pytest.mark.parametrize("change", ["image", "classes", "pixel size"])
def test_whatever_a_sample_depends_on_makes_another_copy(folder, tiny_registry, tmp_path, change):
    cached(opened(folder, tiny_registry), folder=tmp_path / "cache")
    if change == "image":
        write(folder, 1, seed=9)
    more = {"classes": {"classes": ["b", "a"]}, "pixel size": {"pixel_nm": 3.0}}.get(change, {})
    table = opened(folder, tiny_registry, **more)
    assert same(cached(table, folder=tmp_path / "cache").read(1), table.read(1))
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 2


def test_a_set_that_is_too_large_is_read_as_it_is_and_said(folder, tiny_registry, tmp_path):
    table, said = opened(folder, tiny_registry), []
    assert cached(table, folder=tmp_path / "cache", limit=10, tell=said.append) is table
    assert "limit" in said[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_half_written_copy_is_never_read(folder, tiny_registry, tmp_path, monkeypatch):
    table = opened(folder, tiny_registry)
    damaged = folder / "images" / "2.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:50])
    with pytest.raises(Exception, match=r"2\.png"):
        cached(table, folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    damaged.write_bytes(whole)
    assert same(cached(table, folder=tmp_path / "cache").read(2), table.read(2))


def test_views_of_the_copy_cannot_be_written_to(folder, tiny_registry, tmp_path):
    sample = cached(opened(folder, tiny_registry), folder=tmp_path / "cache").read(0)
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0, 0] = 0


def test_on_a_full_disk_the_set_is_read_without_a_copy(folder, tiny_registry, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lamella.data.cache.os.fsync", full)
    said = []
    table = opened(folder, tiny_registry)
    assert cached(table, folder=tmp_path / "cache", tell=said.append) is table
    assert "No space left" in said[0] and list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the writers")
def test_several_processes_may_write_the_same_copy(folder, tiny_registry, tmp_path):
    table = opened(folder, tiny_registry)
    children = []
    for _ in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process that has threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                copy = cached(table, folder=tmp_path / "cache")
                status = 0 if all(same(copy.read(i), table.read(i)) for i in range(3)) else 2
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".bin", ".json"]


def test_a_copy_whose_pixels_are_gone_is_made_again(folder, tiny_registry, tmp_path):
    table = opened(folder, tiny_registry)
    cached(table, folder=tmp_path / "cache")
    next((tmp_path / "cache").glob("*.bin")).unlink()
    assert same(cached(table, folder=tmp_path / "cache").read(0), table.read(0))
