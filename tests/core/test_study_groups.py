"""Figures over groups against slow references: averaged per image, then per group; joined over runs; with intervals."""

import json
import shutil

import numpy as np
import pytest
from lamella.errors import ConfigError, RunError
from lamella.study.groups import GroupFigure, estimate_groups, group_figure, joined_groups, read_groups
from lamella.study.report import text_rows
from lamella.study.run import results
from lamella.study.study import read_study
from lamella.study.table import study_table

CLASSES = ["ground", "layer", "defect"]


def write(path, devices, seed=0, images=12):
    """Counts of images of some devices, four lots in each; returns them by device."""
    random = np.random.default_rng(seed)
    kept = {"classes": CLASSES, "names": [], "groups": {"device": [], "lot": []}, "confusion": []}
    found = {}
    for device in devices:
        for number in range(images):
            counts = random.integers(0, 30, (3, 3)) + np.diag(random.integers(20, 90, 3))
            if number % 3 == 0:
                counts[2] = counts[:, 2] = 0  # no defect here
            kept["names"].append(f"{device}-{number}")
            kept["groups"]["device"].append(device)
            kept["groups"]["lot"].append(f"{device} lot {number % 4}")
            kept["confusion"].append(counts.ravel().tolist())
            found.setdefault(device, []).append(counts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept))
    return found


def iou(counts, place):
    hit = counts[place, place]
    union = counts[place].sum() + counts[:, place].sum() - hit
    return hit / union if union else np.nan


def miou(counts):
    return np.nanmean([iou(counts, place) for place in range(3)])


def test_a_class_that_one_lot_alone_has_does_not_shift_the_interval(tmp_path):
    common, rare = np.diag([90, 80, 0]), np.array([[90, 0, 10], [0, 80, 0], [20, 0, 1]])
    kept = {"classes": CLASSES, "names": list("abc"), "groups": {"device": ["fin"] * 3, "lot": list("123")}}
    confusion = [counts.ravel().tolist() for counts in (rare, common, common)]
    (tmp_path / "test.json").write_text(json.dumps({**kept, "confusion": confusion}))
    asked = group_figure("mean of miou by device")
    found = estimate_groups([(read_groups(tmp_path / "test.json", asked, "lot"),)], asked.score())
    assert found.low <= found.mean <= found.high < found.mean + 0.1


@pytest.mark.parametrize("statistic", ["mean", "max", "min", "std"])
@pytest.mark.parametrize("each", ["", " per image"])
@pytest.mark.parametrize("name, one", [("miou", miou), ("iou:defect", lambda counts: iou(counts, 2))])
def test_a_statistic_is_taken_per_image_then_per_group_or_pooled(tmp_path, statistic, each, name, one):
    found = write(tmp_path / "test.json", "bac")
    asked = group_figure(f"{statistic} of {name}{each} by device")
    value = estimate_groups([(read_groups(tmp_path / "test.json", asked, "lot"),)], asked.score())
    if each:
        by_device = [np.nanmean([one(counts) for counts in images]) for images in found.values()]
    else:
        by_device = [one(sum(images)) for images in found.values()]
    assert value.mean == pytest.approx(getattr(np, statistic)(by_device)) and value.each == (value.mean,)
    assert value.low < value.high


def test_some_groups_alone(tmp_path):
    found = write(tmp_path / "test.json", "abc")
    asked = group_figure("mean of miou by device in c, a")
    groups = read_groups(tmp_path / "test.json", asked, None)
    assert list(groups.units) == ["a", "c"] and len(groups.units["a"]) == 12  # images, where no column is named
    assert groups.values() == pytest.approx([miou(sum(found["a"])), miou(sum(found["c"]))])


def test_one_seed_with_one_unit_in_each_group_has_no_interval(tmp_path):
    write(tmp_path / "test.json", "abc")
    asked = group_figure("mean of miou by device")
    groups = read_groups(tmp_path / "test.json", asked, "device")
    found = estimate_groups([(groups,)], asked.score())
    assert np.isfinite(found.mean) and np.isnan(found.low) and np.isnan(found.high)


def test_improved_is_the_share_of_groups_that_gained(tmp_path):
    write(tmp_path / "one.json", "abcd", seed=1)
    write(tmp_path / "two.json", "abcd", seed=2)
    asked = group_figure("improved of miou per image by device over zero")
    one, two = (read_groups(tmp_path / f"{name}.json", asked, "lot") for name in ("one", "two"))
    share = (one.values() > two.values()).mean()
    assert estimate_groups([(one, two)], asked.score()).mean == share
    assert estimate_groups([(two, one)], asked.score()).mean == 1 - share
    same = estimate_groups([(one, one)], lambda a, b: float(a.mean() - b.mean()))
    assert same.mean == same.low == same.high == 0  # both resampled alike


def test_what_a_lot_that_was_not_drawn_adds_is_no_gain():
    """Of the resamples of two lots a quarter are the first alone, in which both rows are level."""
    improved = group_figure("improved of miou by device over zero").score()
    assert improved(np.array([0.5 + 1e-9]), np.array([0.5])) == 0.0
    assert improved(np.array([0.5 + 1e-4]), np.array([0.5])) == 1.0


def test_a_group_without_the_figure_has_not_failed_to_improve():
    improved, nan = group_figure("improved of iou:defect by device over zero").score(), float("nan")
    assert improved(np.array([1.0, nan, 0.2]), np.array([0.0, nan, 0.3])) == 0.5
    assert improved(np.array([1.0, 0.5]), np.array([0.0, nan])) == 1.0
    assert np.isnan(improved(np.array([nan]), np.array([0.0])))


def test_runs_of_other_groups_are_joined(tmp_path):
    asked = group_figure("mean of miou by device")
    write(tmp_path / "all.json", "ab")
    whole = read_groups(tmp_path / "all.json", asked, "lot")
    kept = json.loads((tmp_path / "all.json").read_text())
    parts = []
    for device in "ba":
        at = [i for i, name in enumerate(kept["groups"]["device"]) if name == device]
        part = {**kept, "names": [kept["names"][i] for i in at], "confusion": [kept["confusion"][i] for i in at]}
        part["groups"] = {name: [column[i] for i in at] for name, column in kept["groups"].items()}
        (tmp_path / "part.json").write_text(json.dumps(part))
        parts.append(read_groups(tmp_path / "part.json", asked, "lot"))
    joined = joined_groups(parts)
    assert list(joined.units) == list(whole.units) and joined.values() == pytest.approx(whole.values())
    assert estimate_groups([(joined,)], asked.score()) == estimate_groups([(whole,)], asked.score())
    assert joined_groups([whole, parts[0]]) is None
    with pytest.raises(ConfigError, match="not measured on the same"):
        estimate_groups([(whole, parts[0])], asked.score())


def test_joined_runs_may_have_their_classes_in_other_orders(tmp_path):
    asked = group_figure("mean of iou:defect by device")
    found = {**write(tmp_path / "a.json", "a"), **write(tmp_path / "b.json", "b", seed=1)}
    kept = json.loads((tmp_path / "b.json").read_text())
    turned = [np.reshape(counts, (3, 3))[::-1, ::-1].ravel().tolist() for counts in kept["confusion"]]
    (tmp_path / "b.json").write_text(json.dumps({**kept, "classes": CLASSES[::-1], "confusion": turned}))
    joined = joined_groups([read_groups(tmp_path / f"{name}.json", asked, "lot") for name in "ab"])
    assert joined.values() == pytest.approx([iou(sum(found[device]), 2) for device in "ab"])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Lots with a spread of their own: the mean over devices of a share that is 0.8 in every lot on average."""
    from lamella.study.groups import Groups

    covered = 0
    for trial in range(60):
        random = np.random.default_rng(trial)
        sums = {
            name: np.stack([np.array([20 * np.clip(random.normal(0.8, 0.05), 0, 1), 20]) for _ in range(8)])
            for name in "abcde"
        }
        units = {name: tuple(f"{name}{i}" for i in range(8)) for name in "abcde"}
        found = estimate_groups([(Groups({}, True, units, {}, sums),)], lambda own: float(own.mean()), seed=trial)
        covered += found.low <= 0.8 <= found.high
    assert 49 <= covered <= 60


@pytest.mark.parametrize(
    "text, said",
    [
        ("median of miou by device", "must read 'STATISTIC of FIGURE"),
        ("mean of miou", "must read"),
        ("improved of miou by device", "says what 'improved' compares with"),
        ("mean of miou by device over plain", "belongs to it alone"),
    ],
)
def test_what_is_no_figure_over_groups_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        group_figure(text)


def test_other_texts_are_other_figures_and_missing_columns_are_said(tmp_path):
    assert group_figure("iou:defect") is None and group_figure("results:miou_pooled") is None
    assert group_figure("iou:dark layer") is None and group_figure("iou:edge of fin by hand") is None
    assert group_figure("mean of iou:dark layer per image by device").figure == "iou:dark layer"
    write(tmp_path / "test.json", "ab")
    with pytest.raises(ConfigError, match=r"no such group column \(it has device, lot\)"):
        read_groups(tmp_path / "test.json", group_figure("mean of miou by wafer"), "lot")
    with pytest.raises(RunError, match="cannot be read"):
        read_groups(tmp_path / "none.json", group_figure("mean of miou by device"), "lot")
    for text in ("[", "[]", '{"classes": ["a"]}', '{"classes": 3, "names": [], "groups": {}, "confusion": []}'):
        (tmp_path / "cut.json").write_text(text)
        with pytest.raises(RunError, match=r"cut\.json: the counts of the test images cannot be read"):
            read_groups(tmp_path / "cut.json", group_figure("mean of miou by device"), "lot")
    with pytest.raises(ConfigError, match=r"groups = 'wafer': the test set 'test' has no such group column"):
        read_groups(tmp_path / "test.json", group_figure("mean of miou by device"), "wafer")
    images = read_groups(tmp_path / "test.json", group_figure("mean of miou by device"), "name")
    assert len(images.units["a"]) == 12
    none = read_groups(tmp_path / "test.json", GroupFigure("mean", "miou", True, "device", ("z",), None), "lot")
    with pytest.raises(ConfigError, match="none of the groups"):
        estimate_groups([(none,)], np.mean)


STUDY = """
title = "Devices"
base = "tiny.toml"
groups = "lot"
reference = "plain"

[figures]
Avg = "mean of miou per image by device"
Min = "min of miou per image by device"
Improved = "improved of miou by device over plain"

[columns.all]
[columns.a]
set.data.test.source.seed = 5
[columns.b]
set.data.test.source.seed = 6

[rows.plain]
columns = ["all"]
[rows.each]
columns = ["a", "b"]
[rows.theirs]
columns = []

[paper.theirs]
all = { Avg = 0.76 }
"""


@pytest.fixture
def read(tiny_file, tiny_registry):
    """Reads a study beside the tiny experiment."""

    def study(text=STUDY):
        path = tiny_file.with_name("devices.toml")
        path.write_text(text)
        return read_study(path, registry=tiny_registry)

    return study


@pytest.fixture
def out(tmp_path):
    """Where the study is run."""
    return tmp_path / "out"


@pytest.fixture
def done(out):
    """Writes a finished run of a row and column with counts of some devices."""

    def run(row, column, devices, seed):
        folder = out / "seed-0" / column / row
        found = write(folder / "counts" / "test.json", devices, seed)
        (folder / "results.json").write_text(json.dumps({"sets": {"test": {}}, "steps": 1, "flops": 1, "seconds": 1}))
        return found

    return run


def test_a_row_of_one_training_for_each_device_stands_beside_one_for_all(read, out, done):
    study = read()
    whole = done("plain", "all", "ab", 1)
    one = done("each", "a", "a", 2)
    entries = study_table(study, results(study, out), out)["entries"]
    assert {entry["row"] for entry in entries} == {"plain", "theirs"}  # half of a row is no row
    other = done("each", "b", "b", 3)
    table = study_table(study, results(study, out), out)
    entries = {(e["row"], e["column"], e["figure"]): e for e in table["entries"]}
    each = [np.mean([miou(counts) for counts in images]) for images in (one["a"], other["b"])]
    plain = [np.mean([miou(counts) for counts in whole[device]]) for device in "ab"]
    assert entries["each", "all", "Avg"]["mean"] == pytest.approx(np.mean(each))
    assert entries["each", "all", "Min"]["mean"] == pytest.approx(min(each))
    assert entries["each", "all", "Avg"]["difference"]["mean"] == pytest.approx(np.mean(plain) - np.mean(each))
    pooled = [miou(sum(one["a"])) > miou(sum(whole["a"])), miou(sum(other["b"])) > miou(sum(whole["b"]))]
    assert entries["each", "all", "Improved"]["mean"] == np.mean(pooled)
    assert ("plain", "all", "Improved") not in entries
    header, rows = text_rows(study, table, "test")
    assert header == ["method", "all Avg", "all Min", "all Improved"]
    assert rows[2][:2] == ["theirs", "– [0.760]"]


def test_a_row_of_some_columns_is_not_paired_with_the_groups_of_all(read, out, done):
    study = read(STUDY.replace('columns = ["all"]', 'columns = ["a", "b"]').replace(
        'columns = ["a", "b"]\n[rows.theirs]', 'columns = ["a"]\n[rows.theirs]'
    ))  # fmt: skip
    for row, columns in (("plain", "ab"), ("each", "a")):
        for column in columns:
            done(row, column, column, 2)
    table = study_table(study, results(study, out), out)
    found = {(e["row"], e["column"], e["figure"]): e for e in table["entries"]}
    assert found["plain", "all", "Avg"]["mean"] > 0 and found["each", "a", "Avg"]["mean"] > 0
    assert "difference" not in found["each", "a", "Avg"] and ("each", "a", "Improved") not in found


def test_figures_by_group_are_there_before_all_columns_are_done(read, out, done):
    """One test set for both columns has nothing to be joined; of sets of their own that is known when all are there."""
    same = STUDY.replace("set.data.test.source.seed = 5\n", "").replace("set.data.test.source.seed = 6\n", "")
    one = done("each", "a", "ab", 2)
    for text, columns in ((STUDY, []), (same, ["a"])):
        study = read(text)
        entries = study_table(study, results(study, out), out)["entries"]
        assert [e["column"] for e in entries if (e["row"], e["figure"]) == ("each", "Avg")] == columns
    (value,) = [e["mean"] for e in entries if (e["row"], e["figure"]) == ("each", "Avg")]
    assert value == pytest.approx(np.mean([np.mean([miou(counts) for counts in one[device]]) for device in "ab"]))


def test_a_column_without_the_test_set_does_not_keep_the_others_back(read, out, done):
    study = read(STUDY.replace('columns = ["a", "b"]', 'columns = ["all", "a", "b"]'))
    for column, device in (("a", "a"), ("b", "b")):
        done("each", column, device, 2)
    done("each", "all", "a", 2)
    (out / "seed-0" / "all" / "each" / "results.json").write_text(
        json.dumps({"sets": {}, "steps": 1, "flops": 1, "seconds": 1})
    )
    entries = study_table(study, results(study, out), out)["entries"]
    assert [e["column"] for e in entries if (e["row"], e["figure"]) == ("each", "Avg")] == ["all"]


def test_a_group_that_is_nowhere_is_not_left_out_of_a_figure(read, out, done):
    study = read(STUDY.replace("miou by device over", "miou by device in a, b over").replace(
        "min of miou per image by device", "min of miou per image by device in a, c"
    ))
    done("plain", "all", "ab", 1)
    with pytest.raises(ConfigError, match=r"by 'device' in 'c': the test set 'test' has no such group \(it has a, b\)"):
        study_table(study, results(study, out), out)
    study = read(STUDY.replace("min of miou per image by device", "min of miou per image by device in a, b"))
    for column in "ab":
        entries = study_table(study, results(study, out), out)["entries"]
        assert [e["row"] for e in entries if e["figure"] == "Min"] == ["plain"]  # the other device is not done yet
        done("each", column, column, 2)
    entries = study_table(study, results(study, out), out)["entries"]
    assert [e["row"] for e in entries if e["figure"] == "Min"] == ["plain", "each"]


SOME = """
title = "Devices"
base = "tiny.toml"
groups = "lot"
seeds = [0, 1]
figures = { Avg = "mean of miou by device", B = "mean of miou by device in b" }
[columns.a]
[columns.aa]
[columns.b]
set.data.test.source.seed = 6
[rows.plain]
"""


def test_a_column_without_the_groups_that_a_figure_names_has_no_such_figure(read, out, done):
    study = read(SOME)
    done("plain", "a", "a", 1)
    entries = study_table(study, results(study, out), out)["entries"]
    assert [(e["column"], e["figure"]) for e in entries] == [("a", "Avg")]
    done("plain", "aa", "a", 2)
    done("plain", "b", "ab", 3)
    entries = study_table(study, results(study, out), out)["entries"]
    assert [(e["column"], e["figure"]) for e in entries] == [("a", "Avg"), ("aa", "Avg"), ("b", "Avg"), ("b", "B")]


def test_a_seed_of_some_columns_is_not_joined_with_seeds_of_all(read, out, done):
    study = read(SOME.replace("[columns.aa]\n", "").replace("[columns.b]", "[columns.b]\nseeds = 1").replace(
        "[columns.a]\n", "[columns.a]\nset.data.test.source.seed = 5\n").replace(", B =", ", b ="))  # fmt: skip
    done("plain", "a", "a", 1)
    done("plain", "b", "b", 2)
    joined = study_table(study, results(study, out), out)["entries"]
    (out / "seed-1" / "a").mkdir(parents=True)
    shutil.copytree(out / "seed-0" / "a" / "plain", out / "seed-1" / "a" / "plain")
    assert study_table(study, results(study, out), out)["entries"] == joined
