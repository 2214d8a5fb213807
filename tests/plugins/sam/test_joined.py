"""The dataset ``joined``: the same pixels, in classes that all parts share."""

import numpy as np
import pytest
from lamella import build
from lamella.errors import ConfigError
from lamella.testing import dataset_contract
from lamella_sam.joined import joined

OF = {"name": "synth-tem", "count": 2, "size": 32}
PRESETS = ["nand-3d-a", "dram-plan-a"]


def make():
    return joined(of=OF, over="preset", values=PRESETS)


test_contract = dataset_contract(make)


@pytest.mark.parametrize(
    "classes", [None, ["defect", "core", "high-k", "electrode", "plate", "poly", "nitride", "oxide", "metal"]]
)
def test_labels_keep_their_names(classes):
    found = joined(of=OF, over="preset", values=PRESETS, classes=classes)
    names = found.features["classes"].feature.names
    assert names == (classes or ["metal", "oxide", "nitride", "poly", "defect", "plate", "electrode", "high-k", "core"])
    parts = [row for preset in PRESETS for row in build("dataset", "synth-tem", count=2, size=32, preset=preset)]
    own = [build("dataset", "synth-tem", count=2, size=32, preset=p).features["classes"].feature.names for p in PRESETS]
    assert len(found) == 4
    for number, (row, part) in enumerate(zip(found, parts)):
        theirs = np.array(own[number // 2])[np.asarray(part["label"])]
        assert (np.array(names)[np.asarray(row["label"])] == theirs).all()
        assert sorted(names[i] for i in row["classes"]) == sorted(set(theirs.ravel()))
        assert row["image"] == part["image"] and row["name"] == part["name"] and row["device"] == part["device"]


def test_mistakes_are_said():
    with pytest.raises(ConfigError, match="has the class 'nitride', which classes leaves out"):
        joined(of=OF, over="preset", values=PRESETS, classes=["metal", "oxide", "poly", "defect"])
    with pytest.raises(ConfigError, match="must have a name, and no 'preset'"):
        joined(of={**OF, "preset": "gaa-a"}, over="preset", values=PRESETS)
    with pytest.raises(ConfigError, match="no label map with named classes"):
        joined(of={"name": "synth-sem", "count": 1, "size": 32}, over="seed", values=[0])
