"""Files that are there whole or not at all."""

import numpy as np
import pytest
from lamella.engine.export import write_coco, write_table
from lamella.engine.whole import whole


def test_where_the_block_fails_the_file_stays_as_it_was_and_nothing_lies_beside(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole(path) as beside:
        beside.write_text("first")
    with pytest.raises(RuntimeError), whole(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_an_export_that_fails_on_the_way_leaves_nothing(tmp_path):
    def images():
        yield "a", "a.png", np.ones((4, 4), np.uint8)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_coco(tmp_path / "coco.json", images(), ["ground", "bar"])
    with pytest.raises(RuntimeError):
        write_table(tmp_path / "areas", {"image": str}, ({"image": name} for name, *_ in images()))
    assert list(tmp_path.iterdir()) == []
