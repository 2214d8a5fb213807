"""A study runs each cell once, whenever it is stopped, and pays what its rows say."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lamella.errors import ConfigError, LamellaError, RunError
from lamella.study import run as study_run
from lamella.study.check import check_data
from lamella.study.report import text_rows, write_study
from lamella.study.run import FailedRuns, result_of, results, run_study, total_flops
from lamella.study.study import merged, read_study
from lamella.study.table import study_table
from PIL import Image

STUDY = """
title = "Tiny"
base = "tiny.toml"
seeds = [3, 4]
seeded = ["seed", "data.labelled.subset_seed"]
groups = "lot"
set = { fit.clip = 1.0, fit.steps = 77 }
reference = "wide"
figures = { mIoU = "miou", Disc = "iou:disc", "of the results" = "results:miou_pooled" }

[columns.two]
labels = 2
set = { data.labelled.subset = 2 }
[columns.four]
labels = 4
set = { data.labelled.subset = 4 }

[rows.plain]
title = "Plain"
[rows.wide]
set = { trainer.backbone.width = 12 }
[rows.dear]
like = "plain"
cost_of = "wide"
columns = ["two"]

[sizes.small.fit]
steps = 4
log_every = 2
[sizes.large.fit]
steps = 400

[paper.plain]
two = { mIoU = 0.5 }
"""


@pytest.fixture
def read(tiny_file, tiny_registry):
    """Reads a study beside the tiny experiment."""

    def study(text=STUDY, size=None):
        path = tiny_file.with_name("study.toml")
        path.write_text(text)
        return read_study(path, size, registry=tiny_registry)

    return study


@pytest.fixture
def told():
    return []


def test_every_cell_once_seeds_outermost(read):
    cells = read().cells()
    assert len(cells) == len(set(cells)) == 2 * (2 * 2 + 1)
    assert [cell.seed for cell in cells] == [3] * 5 + [4] * 5
    assert {cell.row for cell in cells if cell.column == "four"} == {"plain", "wide"}


def test_a_cell_is_the_base_with_its_changes_and_seed(read):
    study = read(size="large")
    cell = next(c for c in study.cells() if (c.row, c.column, c.seed) == ("wide", "four", 4))
    experiment = study.experiment(cell, {})
    assert (experiment.seed, experiment.fit.steps, experiment.fit.log_every) == (4, 400, 5)
    assert experiment.fit.clip == 1.0
    assert experiment.file.data["labelled"].subset == 4
    assert experiment.file.data["labelled"].subset_seed == 4
    assert experiment.trainer.spec()["backbone"]["width"] == 12


def test_stopped_anywhere_it_ends_the_same(read, tmp_path, told):
    study = read()
    run_study(study, tmp_path / "whole", tell=told.append)
    run_study(study, tmp_path / "parts", limit=3, tell=told.append)
    assert len(results(study, tmp_path / "parts")) == 3
    last = tmp_path / "parts" / study.cells()[2].folder
    (last / "results.json").unlink()  # as if killed between the last step and its results
    run_study(study, tmp_path / "parts", tell=told.append)
    assert sum("run 4 of 10" in line for line in told) == 2
    tables = [study_table(study, results(study, tmp_path / name), tmp_path / name) for name in ("whole", "parts")]
    assert tables[0]["entries"] == tables[1]["entries"]
    assert tables[0]["done"] == tables[0]["planned"] == 10


def test_equal_cost_spends_what_the_other_row_spends(read, tmp_path):
    study = read()
    dear = next(cell for cell in study.cells() if cell.row == "dear")
    spent = {row: result_of(study, dear._replace(row=row), tmp_path) for row in ("dear", "wide", "plain")}
    assert spent["dear"]["steps"] > spent["plain"]["steps"] == 4
    step = spent["plain"]["flops"] / 4
    assert abs(spent["dear"]["flops"] - spent["wide"]["flops"]) <= step / 2


def test_equal_cost_leaves_out_the_start_that_both_rows_share(read, tiny_file, tmp_path):
    tiny_file.with_name("other.toml").write_text(tiny_file.read_text())
    shared = STUDY.replace("fit.steps = 77 }", 'fit.steps = 77, fit.best = "{start}" }')
    study = read(shared + '\n[before.start]\nbase = "other.toml"\nonce = true\n')
    dear = next(cell for cell in study.cells() if cell.row == "dear")
    spent = {row: result_of(study, dear._replace(row=row), tmp_path) for row in ("dear", "wide", "plain")}
    assert study.needs(dear) == ["start"] and (tmp_path / "before" / "start" / "results.json").is_file()
    assert abs(spent["dear"]["flops"] - spent["wide"]["flops"]) <= spent["plain"]["flops"] / 4 / 2


@pytest.mark.parametrize("uncounted", ["seed-3/two/plain", "before/start"])
def test_a_cost_that_was_not_counted_is_refused(read, tiny_file, tmp_path, uncounted):
    tiny_file.with_name("other.toml").write_text(tiny_file.read_text())
    begun = STUDY.replace("fit.steps = 77 }", 'fit.steps = 77, fit.best = "{start}" }')
    study = read(begun + '\n[before.start]\nbase = "other.toml"\nonce = true\n')
    cell = next(cell for cell in study.cells() if cell.row == "plain" and cell.folder == Path("seed-3/two/plain"))
    assert total_flops(study, cell, tmp_path) > 0
    path = tmp_path / uncounted / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flops": None}))
    what = r"\[before.start\]" if "before" in uncounted else "row 'plain'"
    with pytest.raises(ConfigError, match=f"{what} counted no floating-point operations"):
        total_flops(study, cell, tmp_path)


def test_what_leaves_nothing_to_spend_is_refused(read, tmp_path):
    dear = STUDY.replace('columns = ["two"]', 'columns = ["two"]\nset.fit.best = "{start}"')
    study = read(dear + "\n[before.start]\nset.fit.steps = 40\n")
    cell = next(cell for cell in study.cells() if cell.row == "dear")
    with pytest.raises(ConfigError, match=r"row 'dear' may spend what 'wide' costs, .* leaves no step of that"):
        result_of(study, cell, tmp_path)
    assert not (tmp_path / cell.folder).exists()


@pytest.mark.parametrize("change, times", [("", None), ("set.trainer.backbone.width = 16", "2.0")])
def test_a_row_that_changes_the_price_of_a_step_is_told(read, tmp_path, told, change, times):
    study = read(STUDY.replace('like = "plain"', f'like = "plain"\n{change}').replace("steps = 4\n", "steps = 9\n"))
    cell = next(cell for cell in study.cells() if cell.row == "dear")
    for _ in range(2):
        result_of(study, cell, tmp_path, tell=told.append)
    assert [line[:14] for line in told] == ([] if times is None else [f"dear spent {times}"])


def test_what_a_cost_is_taken_from_is_trained_first_and_counts_for_the_limit(read, tmp_path):
    first = STUDY.replace("[rows.plain]", '[rows.dear]\nlike = "plain"\ncost_of = "wide"\n[rows.plain]', 1)
    first = first.replace('[rows.dear]\nlike = "plain"\ncost_of = "wide"\ncolumns = ["two"]\n', "")
    study = read(first)
    assert [cell.row for cell in study.cells()[:3]] == ["wide", "plain", "dear"]
    assert [cell.row for cell in run_study(study, tmp_path, limit=1, tell=lambda line: None)] == ["wide"]


@pytest.mark.parametrize("left_out", ['columns = ["four"]', "seeds = 1"])
def test_a_cost_that_is_not_trained_is_refused(read, left_out):
    with pytest.raises(ConfigError, match="cost_of needs what the row 'wide' costs in the column 'two' with the seed"):
        read(STUDY.replace("[rows.wide]\n", f"[rows.wide]\n{left_out}\n"))


def test_a_run_killed_before_its_first_checkpoint_has_its_log_once(read, tmp_path, monkeypatch):
    from lamella.engine import fit

    study, real = read(STUDY.replace("steps = 4\n", "steps = 9\ncheckpoint_every = 9\n")), fit.update
    cell = study.cells()[0]

    def killed(session, batches, number):
        if number == 6:
            raise SystemError("killed")
        return real(session, batches, number)

    monkeypatch.setattr(fit, "update", killed)
    with pytest.raises(SystemError):
        result_of(study, cell, tmp_path)
    log = tmp_path / cell.folder / "log.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2, 4, 6]
    monkeypatch.setattr(fit, "update", real)
    result_of(study, cell, tmp_path)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2, 4, 6, 8, 9]


def test_flops_are_those_of_the_convolutions(read, tmp_path):
    study = read()
    cell = next(cell for cell in study.cells() if cell.row == "plain")
    found = result_of(study, cell, tmp_path)["flops"] / 4
    first, last = 2 * 5 * 5 * 8, 2 * 3 * 3 * 8 * 3  # multiply and add, per pixel
    forward = 4 * 32 * 32 * (first + last)
    backward = 4 * 32 * 32 * (first + 2 * last)  # the image itself needs no gradient
    assert found == forward + backward


def test_the_table_says_what_was_found(read, tmp_path):
    study = read()
    done = run_study(study, tmp_path, tell=lambda line: None)
    table = study_table(study, done, tmp_path)
    entries = {(e["row"], e["column"], e["figure"]): e for e in table["entries"]}
    plain = entries["plain", "two", "mIoU"]
    each = [done[c]["sets"]["test"]["miou_pooled"] for c in done if (c.row, c.column) == ("plain", "two")]
    assert plain["each"] == pytest.approx(each)
    assert plain["mean"] == pytest.approx(sum(each) / 2)
    assert plain["low"] <= plain["mean"] <= plain["high"]
    assert plain["paper"] == 0.5
    assert entries["plain", "two", "of the results"]["each"] == pytest.approx(each)
    wide = entries["wide", "two", "mIoU"]
    assert "difference" not in wide
    assert plain["difference"]["mean"] == pytest.approx(wide["mean"] - plain["mean"])
    page = write_study(study, table, tmp_path).read_text(encoding="utf-8")
    assert "Against the number of labels" in page and "[0.500]" in page and "wide minus each" in page
    assert json.loads((tmp_path / "table.json").read_text())["done"] == 10
    header, rows = text_rows(study, table, "test")
    assert len(header) == 7 and [row[0] for row in rows] == ["Plain", "wide", "dear"]
    assert "[0.500]" in rows[0][1]


def test_a_reference_may_have_its_classes_in_another_order(read, tmp_path):
    """Its label maps are the same ones, read by another table of classes."""
    study = read(STUDY.replace('"miou", Disc', '"miou:-ground", Disc'))
    done = run_study(study, tmp_path, limit=2, tell=lambda line: None)
    before = study_table(study, done, tmp_path)["entries"]
    path = tmp_path / "seed-3" / "two" / "wide" / "counts" / "test.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    turned = [np.reshape(counts, (3, 3))[::-1, ::-1].ravel().tolist() for counts in kept["confusion"]]
    path.write_text(json.dumps({**kept, "classes": kept["classes"][::-1], "confusion": turned}), encoding="utf-8")
    after = study_table(study, done, tmp_path)["entries"]
    for one, other in zip(before, after):
        assert other["mean"] == pytest.approx(one["mean"])
        for name in ("mean", "low", "high") if "difference" in one else ():
            assert other["difference"][name] == pytest.approx(one["difference"][name], nan_ok=True)


def test_dollar_signs_in_titles_are_drawn_as_they_are(read, tmp_path):
    """Between two of them matplotlib reads mathematics, and fails where it is none."""
    title = r"$\frac$"
    study = read(STUDY.replace("mIoU =", f"'{title}' =").replace('"Plain"', f"'{title}'"))
    figure = {"row": "plain", "set": "test", "figure": title, "mean": 0.5, "low": 0.4, "high": 0.6}
    entries = [{**figure, "column": column} for column in ("two", "four")]
    table = {"size": "", "seeds": [], "done": 0, "planned": 0, "entries": entries, "cost": []}
    assert "Against the number of labels" in write_study(study, table, tmp_path).read_text(encoding="utf-8")


def test_one_seed_without_groups_has_no_interval_and_resolves_nothing(read, tmp_path):
    alone = STUDY.replace("seeds = [3, 4]", "seeds = [3]").replace('groups = "lot"\n', "")
    study = read(alone)
    done = run_study(study, tmp_path, tell=lambda line: None)
    table = study_table(study, done, tmp_path)
    plain = next(e for e in table["entries"] if (e["row"], e["figure"]) == ("plain", "mIoU"))
    assert math.isnan(plain["low"]) and math.isnan(plain["difference"]["high"])
    assert "±" not in str(text_rows(study, table, "test"))
    page = write_study(study, table, tmp_path).read_text(encoding="utf-8")
    assert "nan" not in page.replace("image/png", "").split("Against the number")[0] and "resolved" not in page
    other = read(alone.replace("seeds = [3]", 'seeds = [3]\ngroups = "wafer"'))
    for asking in (lambda: study_table(other, done, tmp_path), lambda: run_study(other, tmp_path / "other")):
        with pytest.raises(ConfigError, match=r"'wafer': the test set 'test' has no such group column \(it has lot"):
            asking()


def test_a_changed_row_is_refused_a_new_one_is_not(read, tmp_path):
    run_study(read(), tmp_path, limit=1, tell=lambda line: None)
    run_study(read(STUDY + "\n[rows.new]\n"), tmp_path, limit=0, tell=lambda line: None)
    with pytest.raises(RunError, match="plain · two was begun with other settings"):
        run_study(read(STUDY.replace("steps = 4\n", "steps = 5\n")), tmp_path, limit=1)
    shutil.rmtree(tmp_path / "seed-3")
    run_study(read(STUDY.replace("steps = 4\n", "steps = 5\n")), tmp_path, limit=1, tell=lambda line: None)


def test_a_study_may_be_split_over_files_of_one_folder(read, tmp_path):
    """Of other names: what is refused is other settings of what was begun, not another file."""
    silently(read(), tmp_path, limit=1)
    part = replace(read(STUDY.replace("[rows.plain]", "[rows.more]\n[rows.plain]")), name="part")
    silently(part, tmp_path, limit=0)
    silently(read(), tmp_path, limit=0)
    other = replace(read(STUDY.replace("steps = 4\n", "steps = 5\n")), name="part")
    with pytest.raises(RunError, match="plain · two was begun with other settings"):
        silently(other, tmp_path, limit=0)


@pytest.mark.parametrize("also", ['"seed", ', ""])
def test_seeds_may_be_added_in_any_place(read, tmp_path, also):
    study = STUDY.replace('"seed", ', also)
    run_study(read(study), tmp_path, limit=1, tell=lambda line: None)
    for seeds in ("[2, 3, 4]", "[4]"):
        run_study(read(study.replace("[3, 4]", seeds)), tmp_path, limit=0, tell=lambda line: None)
        with pytest.raises(RunError, match="plain · two was begun with other settings"):
            run_study(read(study.replace("[3, 4]", seeds).replace("steps = 4\n", "steps = 5\n")), tmp_path, limit=0)


def test_a_changed_row_is_refused_whatever_it_is_called(read, tmp_path):
    named = STUDY.replace("[rows.plain]", '[rows."a [20]"]').replace('"plain"', '"a [20]"')
    named = named.replace("[paper.plain]", '[paper."a [20]"]')
    run_study(read(named), tmp_path, limit=1, tell=lambda line: None)
    with pytest.raises(RunError, match="· two was begun with other settings"):
        run_study(read(named.replace("steps = 4\n", "steps = 5\n")), tmp_path, limit=0)


def test_what_takes_the_seed_may_not_change_under_its_results(read, tmp_path):
    """Of the seed 0 nothing shows it: that is what a key has that takes no seed."""
    first, both = STUDY.replace("[3, 4]", "[0]"), STUDY.replace("[3, 4]", "[0, 1]")
    fewer = [text.replace(', "data.labelled.subset_seed"]', "]") for text in (first, both)]
    silently(read(fewer[0]), tmp_path, limit=1)
    silently(read(both), tmp_path, limit=0)  # the same for the seed 0, which alone was begun
    silently(read(fewer[1]), tmp_path)
    with pytest.raises(RunError, match="dear · two was begun with other settings;"):
        silently(read(both), tmp_path, limit=0)
    note = tmp_path / "study.json"
    older = json.loads(note.read_text(encoding="utf-8"))
    assert older.pop("seeded") == ["seed"]
    note.write_text(json.dumps(older), encoding="utf-8")
    silently(read(both), tmp_path, limit=0)  # a note of an earlier version does not say
    assert json.loads(note.read_text(encoding="utf-8"))["seeded"] == ["seed", "data.labelled.subset_seed"]


def test_a_study_begun_before_a_setting_was_known_goes_on(read, tmp_path):
    run_study(read(), tmp_path, limit=1, tell=lambda line: None)
    note = tmp_path / "study.json"
    known = json.loads(note.read_text(encoding="utf-8"))
    name = "plain · two"
    assert "stretch = false" in known["rows"][name]
    older = known["rows"][name].replace("stretch = false\n", "")
    note.write_text(json.dumps({**known, "rows": {**known["rows"], name: older}}), encoding="utf-8")
    run_study(read(), tmp_path, limit=0, tell=lambda line: None)
    for other in (older.replace("[modality]\n", "[modality]\nstretch = true\n"), older + "\n[forgotten]\n"):
        note.write_text(json.dumps({**known, "rows": {**known["rows"], name: other}}), encoding="utf-8")
        with pytest.raises(RunError, match="plain · two was begun with other settings"):
            run_study(read(), tmp_path, limit=0)


def test_a_damaged_file_is_named(read, tmp_path):
    study = read()
    silently(study, tmp_path, limit=1)
    for path, texts in {
        tmp_path / "study.json": ("{", "[]", '{"rows": 3}', '{"rows": {"plain · two": "x = ["}}', '{"starts": []}'),
        tmp_path / study.cells()[0].folder / "results.json": ("{", "[]", "{}"),
    }.items():
        whole = path.read_text(encoding="utf-8")
        for text in texts:
            path.write_text(text, encoding="utf-8")
            with pytest.raises(RunError, match=rf"{path.name}: this file is damaged \(.*\); remove it, and it is made"):
                silently(study, tmp_path, limit=0)
        path.write_text(whole, encoding="utf-8")
    silently(study, tmp_path, limit=0)


BEFORE = STUDY.replace('title = "Plain"', 'title = "{start} in a title is left alone"').replace(
    "set = { trainer.backbone.width = 12 }", 'set = { data.test.source = "{start}/images", data.test.images = "*" }'
)


STARTED = STUDY.replace("width = 12 }", 'width = 12, fit.best = "{start}" }').replace("seeds = [3, 4]", "seeds = [3]")


def silently(study, out, limit=None):
    return run_study(study, out, limit=limit, tell=lambda line: None)


def test_a_changed_training_before_is_refused_with_all_that_builds_on_it(read, tmp_path):
    start = "\n[before.start]\nset = { fit.steps = 2 }\n"
    changed = STARTED + start.replace("= 2", "= 3")
    silently(read(STARTED + start), tmp_path, limit=2)
    silently(read(STARTED + start.replace("set", "once = false\nset")), tmp_path, limit=0)
    with pytest.raises(RunError, match=r"\[before.start\] was begun with other settings;"):
        run_study(read(changed), tmp_path, limit=0)
    renamed = (STARTED + start).replace("{start}", "{first}").replace(".start]", ".first]")
    with pytest.raises(RunError, match=r"wide · two was begun with other settings;"):
        run_study(read(renamed), tmp_path, limit=0)
    shutil.rmtree(tmp_path / "seed-3" / "before")
    with pytest.raises(RunError, match=r"wide · two was begun with other settings of \[before.start\];"):
        run_study(read(changed), tmp_path, limit=0)
    shutil.rmtree(tmp_path / "seed-3" / "two" / "wide")
    silently(read(changed), tmp_path, limit=0)


@pytest.mark.parametrize("kept", ["once = true", "per_column = true"])
def test_where_a_training_before_is_kept_may_not_change_under_what_builds_on_it(read, tmp_path, kept):
    """Rows begun with a start of every seed would stand beside others that have one for all."""
    start = "\n[before.start]\nset = { fit.steps = 2 }\n"
    other = start.replace("set", f"{kept}\nset")
    silently(read(STARTED + start), tmp_path, limit=0)
    silently(read(STARTED + other), tmp_path, limit=0)  # nothing is begun yet
    silently(read(STARTED + start), tmp_path, limit=2)
    with pytest.raises(RunError, match=r"wide · two was begun with other settings;"):
        run_study(read(STARTED + other), tmp_path, limit=0)
    note = tmp_path / "study.json"
    older = json.loads(note.read_text(encoding="utf-8"))
    del older["starts"]
    note.write_text(json.dumps(older), encoding="utf-8")
    silently(read(STARTED + start), tmp_path, limit=0)


def test_a_row_is_shown_where_the_folders_that_it_was_built_on_are_tidied_up(read, tmp_path):
    study = read(STARTED + "\n[before.start]\nset = { fit.steps = 2 }\n", "small")
    done = silently(study, tmp_path, limit=2)
    shutil.rmtree(tmp_path / "seed-3" / "before")
    table = study_table(study, done, tmp_path)
    assert {entry["row"] for entry in table["entries"] if entry.get("each")} == {"plain", "wide"}
    assert [cost["row"] for cost in table["cost"]] == ["plain"]


def test_what_a_row_spends_may_not_change_under_it(read, tmp_path):
    more = "\n[rows.wider]\nset = { trainer.backbone.width = 16 }\n"
    silently(read(STUDY + more), tmp_path, limit=3)
    for old, new in (('cost_of = "wide"', 'cost_of = "wider"'), ('cost_of = "wide"\n', "")):
        with pytest.raises(RunError, match="dear · two was begun with other settings;"):
            run_study(read((STUDY + more).replace(old, new)), tmp_path, limit=0)
    shutil.rmtree(tmp_path / "seed-3" / "two" / "wide")
    with pytest.raises(RunError, match="dear · two was begun with other settings of wide · two;"):
        run_study(read((STUDY + more).replace("width = 12", "width = 10")), tmp_path, limit=0)


def test_a_study_that_was_moved_goes_on_and_one_with_an_older_note_too(read, tmp_path):
    study = read(STARTED + "\n[before.start]\nset = { fit.steps = 2 }\n")
    silently(study, tmp_path / "one", limit=2)
    shutil.move(tmp_path / "one", tmp_path / "two")
    silently(study, tmp_path / "two", limit=0)
    note = tmp_path / "two" / "study.json"
    rows = json.loads(note.read_text(encoding="utf-8"))["rows"]
    assert "{start}" in rows["wide · two"] and str(tmp_path / "two") not in rows["wide · two"]
    older = {name: text.replace("{start}", str(tmp_path / "two")) for name, text in rows.items() if name[0] != "["}
    note.write_text(json.dumps({"study": "study", "size": "small", "rows": older}), encoding="utf-8")
    silently(study, tmp_path / "two", limit=0)
    assert json.loads(note.read_text(encoding="utf-8"))["rows"] == rows


def test_what_comes_before_is_trained_once_a_seed(read, tmp_path, tiny_registry, monkeypatch):
    study = read(BEFORE + "\n[before.start]\nset = { fit.steps = 2 }\n")
    wide = next(cell for cell in study.cells() if cell.row == "wide")
    assert study.needs(wide) == ["start"] and study.needs(wide._replace(row="plain")) == []
    experiment = study.experiment(wide, {"start": tmp_path / "seed-3" / "before" / "start"})
    assert experiment.file.data["test"].source == f"{(tmp_path / 'seed-3/before/start').resolve()}/images"
    from lamella.study import run as study_run

    made = []
    monkeypatch.setattr(study_run, "fit", lambda experiment, run, resume: made.append((experiment, run)))
    with pytest.raises(FileNotFoundError):  # nothing was trained, so there are no results to read
        result_of(study, wide, tmp_path)
    assert [(e.fit.steps, run.relative_to(tmp_path).as_posix()) for e, run in made] == [(2, "seed-3/before/start")]


def test_what_comes_before_once_is_shared_by_every_row_and_seed(read, tiny_file, tmp_path, monkeypatch):
    tiny_file.with_name("other.toml").write_text(tiny_file.read_text())
    everywhere = STUDY.replace(
        "set = { fit.clip = 1.0, fit.steps = 77 }",
        'set = { fit.clip = 1.0, fit.steps = 77, data.test.source = "{start}/images", data.test.images = "*" }',
    )
    study = read(everywhere + '\n[before.start]\nbase = "other.toml"\nonce = true\n')
    assert all(study.needs(cell) == ["start"] for cell in study.cells())
    from lamella.study import run as study_run

    made = []
    monkeypatch.setattr(study_run, "trained", lambda experiment, run, tell: made.append((experiment, run)))
    for cell in study.cells()[::4]:
        if cell.row != "dear":
            result_of(study, cell, tmp_path)
    before = [(e.seed, run) for e, run in made if run.name == "start"]
    assert set(before) == {(3, tmp_path / "before" / "start")}  # the first seed, whichever asked
    first = made[0][0]
    assert first.fit.clip is None and first.fit.steps == 4  # the study's set is for its own base, its size for both


def test_what_is_trained_once_cannot_build_on_what_is_trained_for_every_seed(read):
    chain = '\n[before.start]\nonce = true\nset = { data.test.source = "{first}" }\n[before.first]\n'
    with pytest.raises(ConfigError, match=r"\[before.start\] is trained once and builds on \[before.first\]"):
        read(BEFORE + chain)
    assert read(BEFORE + chain + "once = true\n")


def test_what_comes_before_can_be_trained_for_each_column(read, tmp_path, monkeypatch):
    study = read(BEFORE + "\n[before.start]\nper_column = true\nset = { fit.steps = 2 }\n")
    from lamella.study import run as study_run

    made = []
    monkeypatch.setattr(study_run, "trained", lambda experiment, run, tell: made.append((experiment, run)))
    for cell in study.cells():
        if cell.row == "wide" and cell.seed == 3:
            result_of(study, cell, tmp_path)
    before = [(e.file.data["labelled"].subset, run) for e, run in made if run.name == "start"]
    assert before == [(n, tmp_path / "seed-3/before" / column / "start") for n, column in ((2, "two"), (4, "four"))]
    assert made[1][0].file.data["test"].source == f"{(tmp_path / 'seed-3/before/two/start').resolve()}/images"
    chain = BEFORE + '\n[before.start]\nset = { data.test.source = "{first}" }\n[before.first]\nper_column = true\n'
    with pytest.raises(ConfigError, match=r"\[before.start\] is one for all columns and builds on \[before.first\]"):
        read(chain)


def test_what_comes_before_builds_on_what_comes_before_it(read, tmp_path, monkeypatch):
    chain = '\n[before.start]\nset = { data.test.source = "{first}" }\n[before.first]\nset = { fit.steps = 2 }\n'
    study = read(BEFORE + chain)
    wide = next(cell for cell in study.cells() if cell.row == "wide")
    assert study.needs(wide) == ["first", "start"]
    from lamella.study import run as study_run

    made = []
    monkeypatch.setattr(study_run, "trained", lambda experiment, run, tell: made.append((experiment, run)))
    result_of(study, wide, tmp_path)
    assert [run.name for _, run in made] == ["first", "start", "wide"]
    assert made[1][0].file.data["test"].source == str((tmp_path / "seed-3/before/first").resolve())
    with pytest.raises(ConfigError, match=r"in a circle: start → first → start"):
        read(BEFORE + chain.replace("fit.steps = 2", 'data.test.source = "{start}"'))


def test_a_training_before_that_a_column_names_is_refused(read):
    start = "\n[before.start]\nset = { fit.steps = 2 }\n"
    column = STUDY.replace("[columns.four]\n", '[columns.four]\nset.data.test.source = "{start}"\n').replace(
        "set = { data.labelled.subset = 4 }\n", "")  # fmt: skip
    with pytest.raises(ConfigError, match=r"\{start\} stands in a column or a size, where the row 'plain'"):
        read(column + start)


def test_a_training_before_can_be_like_another_and_say_what_a_size_changes(read):
    more = """
[before.first]
base = "tiny.toml"
set = { fit.steps = 2, fit.clip = 2.0 }
sizes.large = { fit.steps = 9, fit.log_every = 3 }
[before.start]
like = "first"
set = { fit.clip = 5.0 }
"""
    for size, steps, clip, every in (("small", 2, 2.0, 2), ("large", 2, 2.0, 3)):
        study = read(BEFORE + more, size)
        wide = next(cell for cell in study.cells() if cell.row == "wide")
        first = study.experiment_before("first", wide, {}).fit
        assert (first.steps, first.clip, first.log_every) == (steps, clip, every)
        start = study.experiment_before("start", wide, {}).fit
        assert (start.steps, start.clip, start.log_every) == (steps, 5.0, every)


def test_a_size_leaves_roles_alone_that_a_training_before_does_without(read, tiny_file):
    text = tiny_file.read_text()
    without = text[: text.index("[data.test]")] + text[text.index("[trainer]") :]
    tiny_file.with_name("other.toml").write_text(without)
    sized = BEFORE.replace("[sizes.small.fit]", "[sizes.small.data.test.source]\ncount = 3\n[sizes.small.fit]")
    study = read(sized + '\n[before.start]\nbase = "other.toml"\n')
    wide = next(cell for cell in study.cells() if cell.row == "wide")
    assert set(study.experiment_before("start", wide, {}).file.data) == {"labelled"}


def test_a_size_leaves_roles_alone_that_the_study_itself_does_without(read):
    sized = STUDY.replace("[sizes.small.fit]", "[sizes.small.data.unlabelled.source]\ncount = 3\n[sizes.small.fit]")
    given = 'set.data.unlabelled.source = { name = "tiny" }\n'
    study = read(sized.replace('[rows.plain]\n', "[rows.plain]\n" + given))
    has = {cell.row: study.experiment(cell, {}).file.data.get("unlabelled") for cell in study.cells()}
    assert has["wide"] is None
    assert has["plain"] is not None and has["plain"].source == {"name": "tiny", "count": 3}


@pytest.mark.parametrize(
    "change, said",
    [
        ((('like = "first"'), 'like = "start"'), "in a circle: start → start"),
        (('like = "first"', 'like = "frist"'), r"\[before.start\] like names the training 'frist'"),
        (("[before.first]", "[before.first]\nsizes.huge = {}"), r"has the size 'huge', which the study has not"),
    ],
)
def test_a_mistake_before_is_one_sentence(read, change, said):
    with pytest.raises(ConfigError, match=said):
        read((BEFORE + '\n[before.first]\n[before.start]\nlike = "first"\n').replace(*change))


@pytest.mark.parametrize(
    "change, said",
    [
        (('reference = "wide"', 'reference = "wdie"'), "reference names the row 'wdie'"),
        (('like = "plain"', ""), "cost_of needs like"),
        (('columns = ["two"]', 'columns = ["tow"]'), "names the column 'tow'"),
        (('like = "plain"', 'like = "dear"'), "in a circle"),
        (("[rows.wide]", '[rows.wide]\nlike = "plain"\ncost_of = "dear"'), "circle: wide → dear → wide"),
        (("seeds = [3, 4]", "sedes = [3, 4]"), "unknown key 'sedes'"),
        (("seeds = [3, 4]", "seeds = [3, 4, 3]"), r"seeds names one twice \(3, 4, 3\)"),
        (('seeded = ["seed", "data.labelled.subset_seed"]', "seeded = []"), r"seeded = \[\] beside several seeds"),
        (("labels = 4", "labels = inf"), "columns.four.labels = inf: input should be a finite number"),
        (("labels = 4", "labels = nan"), "columns.four.labels = nan: input should be"),
        (("labels = 4", "labels = 0"), "columns.four.labels = 0: input should be greater than 0"),
        (("seeds = [3, 4]", "seeds = [3, -1]"), r"seeds.1 = -1: input should be greater than or equal to 0"),
        (('groups = "lot"', 'sets = ["test", "test"]'), r"sets names one twice \(test, test\)"),
        (('"results:miou_pooled"', '"results:"'), "figure 'results:' names nothing of the results"),
        (("trainer.backbone.width = 12", "trainer.backbone.wdith = 12"), "did you mean 'width'"),
        (("[paper.plain]", "[paper.plian]"), "paper names the row 'plian'"),
        (('base = "tiny.toml"', 'base = "none.toml"'), "cannot be read"),
        (('groups = "lot"', 'sets = ["tets"]'), r"sets names the test set 'tets', which is not there \(test\)"),
        (('groups = "lot"', 'pictures = "tets"'), r"pictures names the test set 'tets', which is not there \(test\)"),
        (('"miou", Disc', '"mIoU", Disc'), "figure 'mIoU' is none of miou"),
        (('"miou", Disc', '"improved of miou by lot over plian", Disc'), "figure 'mIoU' names the row 'plian'"),
        (("two = { mIoU", "tow = { mIoU"), r"\[paper.plain\] names the column 'tow', which is not there \(two, four\)"),
        (("mIoU = 0.5", "miou = 0.5"), r"names the figure 'miou', which is not there \(mIoU, Disc, of the results\)"),
        (("data.labelled.subset_seed", "data.labeled.subset_seed"), "seeded names 'data.labeled.subset_seed', "),
        (
            ("[sizes.small.fit]", "[sizes.small.data.labeled]\nsubset = 2\n[sizes.small.fit]"),
            r"\[sizes.small\] names 'data.labeled', which none .* has \(they have the roles labelled, test\)",
        ),
        (("[rows.plain]", '[rows."../plain"]\n[rows.plain]'), "'../plain' is no name for a row"),
        (("[rows.plain]", '[rows.""]\n[rows.plain]'), "'' is no name for a row"),
        (("[columns.two]", '[columns.".."]\n[columns.two]'), "'..' is no name for a row, column or training before"),
        (("[columns.two]", '[before."a\\\\b"]\n[columns.two]'), r"'a\\\\b' is no name for a row, column or training"),
        (("[rows.plain]", '[rows."a\\u0000"]\n[rows.plain]'), r"'a\\x00' is no name for a row"),
        (("[rows.plain]", '[rows."a\\nb"]\n[rows.plain]'), r"'a\\nb' is no name for a row"),
        (("[rows.plain]", f"[rows.{'a' * 300}]\n[rows.plain]"), "'a{20}'… is no name .* no more than 200 bytes"),
        (("[columns.two]", "[columns.before]\n[columns.two]"), "no column can be called 'before'"),
        (("[columns.two]", '[columns.all]\n[columns.""]\n[columns.two]'), "nor 'all' beside one without a name"),
    ],
)
def test_a_mistake_is_one_sentence(read, change, said):
    with pytest.raises(LamellaError, match=said):
        read(STUDY.replace(*change))


@pytest.mark.parametrize(
    "change, said",
    [
        (("fit.clip = 1.0, fit.steps = 77", "fit = 3"), "row 'plain': fit = 3 is a value, not a table"),
        (("fit.clip = 1.0, fit.steps = 77", "data = 1"), "row 'plain': data = 1 is a value, not a table"),
        (("trainer.backbone.width = 12", "fit = 3"), "row 'wide': fit = 3 is a value"),
        (("trainer.backbone.width = 12", "data.test = 3"), r"row 'wide': data\.test = 3 is a value"),
        (("trainer.backbone.width = 12", "data = [{ a = 1 }]"), r"row 'wide': data = \[{'a': 1}\] is a value"),
        (("data.labelled.subset = 2", "fit = 3"), "row 'plain': fit = 3 is a value"),
        (("[sizes.small.fit]", "[sizes.small]\ndata = 1\n[sizes.small.fit]"), "row 'plain': data = 1 is a value"),
        (('set = { trainer.backbone.width = 12 }', 'set.fit.best = "{start}"\n[before.start]\nset.fit = 3'),
         r"\[before.start\]: fit = 3 is a value"),
        (('base = "tiny.toml"', 'base = "three.toml"'), "row 'plain': fit = 3 is a value"),
    ],
)  # fmt: skip
def test_a_value_where_a_table_belongs_is_one_sentence(read, tiny_file, change, said):
    tiny_file.with_name("three.toml").write_text("fit = 3\n" + tiny_file.read_text().partition("[fit]")[0])
    with pytest.raises(ConfigError, match=said):
        read(STUDY.replace(*change))


def test_a_run_that_fails_is_named_and_the_others_go_on(read, tmp_path, told, monkeypatch):
    worse = STUDY.replace("fit.clip = 1.0, ", "").replace("width = 12 }", "width = 12, fit.optimizer.lr = 1e38 }")
    study = read(worse, "small")
    said = r"^run 2 of \d+: wide · two · seed 3: the losses.* \(4 trainings failed.*; the others went on"
    with pytest.raises(FailedRuns, match=said):
        run_study(study, tmp_path, tell=told.append)
    assert sum("dear" in line and "left out" in line for line in told) == 2  # what it may spend was not measured
    assert [cell for cell in study.cells() if cell.row == "plain"] == list(results(study, tmp_path))
    monkeypatch.setattr(study_run, "together", lambda: True)
    with pytest.raises(FailedRuns, match=r"^run 2 of \d+: wide · two · seed 3: the losses .* these images$"):
        run_study(study, tmp_path, tell=lambda line: None)


def test_a_run_that_fails_does_not_count_for_the_limit(read, tmp_path):
    worse = STUDY.replace("fit.clip = 1.0, ", "").replace('"Plain"', '"Plain"\nset.fit.optimizer.lr = 1e38')
    with pytest.raises(FailedRuns, match=r"^run 1 of \d+: plain · two · seed 3: .*; the others went on"):
        silently(read(worse, "small"), tmp_path, limit=1)
    assert [cell.row for cell in results(read(worse, "small"), tmp_path)] == ["wide"]


def test_a_row_that_does_not_fit_the_gpu_is_named_and_the_others_go_on(read, tmp_path, told, monkeypatch):
    honest = study_run.fit

    def full(experiment, run, resume):
        if experiment.trainer.spec()["backbone"]["width"] == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")
        return honest(experiment, run, resume=resume)

    monkeypatch.setattr(study_run, "fit", full)
    with pytest.raises(FailedRuns, match=r"^run 2 of \d+: wide · two · seed 3: CUDA out .* GiB\. \(4 trainings failed"):
        run_study(read(size="small"), tmp_path, tell=told.append)
    assert {cell.row for cell in results(read(size="small"), tmp_path)} == {"plain"}


def test_what_builds_on_a_training_that_fails_is_left_out_and_that_is_not_tried_again(read, tmp_path, told):
    worse = STARTED.replace("fit.clip = 1.0, ", "") + "\n[before.start]\nset = { fit.optimizer.lr = 1e38 }\n"
    with pytest.raises(FailedRuns, match=r"^run 2 of 5: wide · two .*images; the others went on"):
        run_study(read(worse, "small"), tmp_path, tell=told.append)
    left_out = [line.partition(": left out")[0] for line in told if "left out" in line]
    assert left_out == ["run 3 of 5: dear · two · seed 3", "run 5 of 5: wide · four · seed 3"]


@pytest.mark.parametrize("change, where", [("{start}", "the row 'wide'"), ("{first}", r"\[before.start\]")])
def test_a_misspelt_training_before_is_refused(read, change, where):
    chain = '\n[before.start]\nset.data.test.source = "{first}"\n[before.first]\n'
    right = STARTED + chain + "set.data.test.group = '(?P<lot>\\d{4})'\n"
    assert read(right)
    with pytest.raises(ConfigError, match=rf"\{{strat\}} in {where} is no training before the rows \(start, first\)"):
        read(right.replace(f'{change}"', '{strat}"'))


def test_a_study_without_rows_is_one_sentence(read):
    with pytest.raises(ConfigError, match=r"rows = \{\}: dictionary should have at least 1 item"):
        read('title = "None"\nbase = "tiny.toml"\nfigures = { mIoU = "miou" }\n[rows]\n')


def test_a_study_without_columns_is_one_sentence(read):
    with pytest.raises(ConfigError, match=r"columns = \{\}: dictionary should have at least 1 item"):
        read(STUDY[: STUDY.index("[columns.two]")] + "[columns]\n[rows.plain]\n[rows.wide]\n")


@pytest.mark.parametrize(
    "change, said",
    [
        ("iou:dsic", "there is no class 'dsic'; the classes are ground, square, disc"),
        ("mean of iou:dsic by lot", "there is no class 'dsic'"),
        ("mean of miou by wafer", r"figure by 'wafer': the test set 'test' has no such group column \(it has lot\)"),
        ("iou:dark layer", "there is no class 'dark layer'"),
        ("mean of miou by lot in A, D", r"by 'lot' in 'D': the test set 'test' has no such group \(it has A, B\)"),
    ],
)
def test_a_figure_that_the_test_set_cannot_give_is_refused_before_anything_is_trained(read, tmp_path, change, said):
    study = read(STUDY.replace('"iou:disc"', f'"{change}"'))
    with pytest.raises(ConfigError, match=said):
        run_study(study, tmp_path, tell=lambda line: None)
    assert not list(tmp_path.glob("seed-*/*/*/run.json"))


def test_every_set_that_is_reported_is_looked_at_before_anything_is_trained(read, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / kind / "1.png")
    names = ["ground", "square", "disc"]
    other = f'{{ source = "{tmp_path}", images = "images/*", labels = "labels/*", classes = {names} }}'
    text = STUDY.replace('groups = "lot"', 'groups = "lot"\nsets = ["test", "test-b"]')
    text = text.replace("fit.steps = 77 }", f"fit.steps = 77, data.test-b = {other} }}")
    with pytest.raises(ConfigError, match="groups = 'lot': the test set 'test-b' has no such group column"):
        silently(read(text), tmp_path / "out")
    assert not list(tmp_path.glob("out/seed-*/*/*/run.json"))


APART = """
title = "Apart"
base = "tiny.toml"
seeds = [3, 4]
groups = "lot"
reference = "a"
set.fit.steps = 1
figures = { mIoU = "miou", By = "mean of miou by lot", "of the results" = "results:miou_pooled" }
[rows.a]
[rows.b]
set.data.test.source.count = 1
"""


def test_a_row_on_other_groups_than_the_reference_is_told_and_has_no_difference(read, tmp_path, told):
    study = read(APART)
    done = run_study(study, tmp_path, tell=told.append)
    said = "row 'b' is tested on other groups in 'test' than row 'a': their difference stays out of the table"
    assert [line for line in told if "groups" in line] == [said]
    for entry in study_table(study, done, tmp_path)["entries"]:
        assert math.isfinite(entry["low"]) and "difference" not in entry


def test_a_row_on_other_groups_with_each_seed_is_told_and_has_no_interval(read, tmp_path, told):
    study = read(APART.replace("groups =", 'seeded = ["seed", "data.test.source.seed"]\ngroups =').replace(
        'groups = "lot"', 'groups = "name"').replace("set.data.test.source.count = 1", ""))  # fmt: skip
    done = run_study(study, tmp_path, tell=told.append)
    said = "is tested on other groups in 'test' with each seed: its figures have no interval"
    assert [line for line in told if "groups" in line] == [f"row 'a' {said}", f"row 'b' {said}"]
    entries = study_table(study, done, tmp_path)["entries"]
    assert [len(entry["each"]) for entry in entries] == [2] * 6
    assert all(math.isfinite(entry["mean"]) and math.isnan(entry["low"]) for entry in entries)
    by_row = [[entry["mean"] for entry in entries if entry["row"] == row] for row in "ab"]
    apart = [entry["difference"] for entry in entries if entry["row"] == "b"]
    assert [entry["mean"] for entry in apart] == pytest.approx([a - b for a, b in zip(*by_row)])
    assert all(math.isnan(entry["low"]) for entry in apart)


def test_figures_of_the_results_alone_need_no_group_column(read, tmp_path):
    only = APART.replace('mIoU = "miou", By = "mean of miou by lot", ', "").replace('"lot"', '"wafer"')
    study = read(only)
    entries = study_table(study, silently(study, tmp_path), tmp_path)["entries"]
    assert [len(entry["each"]) for entry in entries] == [2, 2] and all(math.isfinite(e["low"]) for e in entries)


def test_every_row_s_test_set_is_looked_at_before_anything_is_trained(read, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / kind / "1.png")
    names = ["ground", "square", "disc"]
    other = f'set.data.test = {{ source = "{tmp_path}", images = "images/*", labels = "labels/*", classes = {names} }}'
    with pytest.raises(ConfigError, match="groups = 'lot': the test set 'test' has no such group column"):
        silently(read(APART.replace("set.data.test.source.count = 1", other)), tmp_path / "out")
    some = other.replace(" }", ", group = '(?P<lot>1)?' }")
    for kind in ("images", "labels"):
        shutil.copy(tmp_path / kind / "1.png", tmp_path / kind / "0.png")
    with pytest.raises(ConfigError, match="groups = 'lot': 1 of 2 images of the test set 'test' have no 'lot'; give"):
        silently(read(APART.replace("set.data.test.source.count = 1", some)), tmp_path / "out")
    by = APART.replace('groups = "lot"', "").replace("set.data.test.source.count = 1", some)
    with pytest.raises(ConfigError, match="by 'lot': 1 of 2 images of the test set 'test' have no 'lot'"):
        silently(read(by), tmp_path / "out")
    check_data(read(by.replace("by lot", "by lot in 1")))  # the others are not asked for
    assert not list(tmp_path.glob("out/seed-*/*/*/run.json"))


def test_a_row_whose_test_set_is_not_there_fails_alone(read, tmp_path):
    study = read(APART.replace("set.data.test.source.count = 1", 'set.data.test.source = "nowhere"'))
    with pytest.raises(FailedRuns, match=r"^run 2 of 4: b · seed 3: .*nowhere.*; the others went on"):
        silently(study, tmp_path)
    assert [cell.row for cell in results(study, tmp_path)] == ["a", "a"]


def test_groups_that_a_figure_names_may_each_be_in_another_column(read, tmp_path):
    text = STUDY.replace('"iou:disc"', '"mean of miou by lot in A, B"')
    text = text.replace("set = { data.labelled.subset = 2 }", "set.data.test.source.count = 1")  # of the lot A
    silently(read(text), tmp_path / "out", limit=1)
    with pytest.raises(ConfigError, match=r"in 'D': the test set 'test' has no such group \(it has A, B\)"):
        silently(read(text.replace("A, B", "A, D")), tmp_path / "other")


def test_a_figure_that_no_result_has_is_told(read, tmp_path, told):
    study = read(STUDY.replace('"results:miou_pooled"', '"results:miou_poooled"'))
    done = run_study(study, tmp_path, limit=1, tell=told.append)
    doubt = "figure 'results:miou_poooled' is not in this run's results; if no run has it, there is no table"
    assert doubt in told  # after the first run, not after the last
    with pytest.raises(ConfigError, match=r"figure 'results:miou_poooled' is in no results; they have .*miou_p"):
        study_table(study, done, tmp_path)
    next(iter(done.values()))["sets"]["test"]["miou_poooled"] = None  # it is there, and there was nothing to take it of
    assert study_table(study, done, tmp_path)["entries"][2]["figure"] == "of the results"


def test_a_file_of_counts_is_read_once_for_a_table(read, tmp_path, monkeypatch):
    study, opened, real = read(STUDY.replace("[3, 4]", "[3]")), [], Path.read_text
    done = silently(study, tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda path, **given: opened.append(path) or real(path, **given))
    study_table(study, done, tmp_path)
    counts = [path for path in opened if path.parent.name == "counts"]
    assert len(counts) == len(set(counts)) == 5


def test_a_table_of_the_results_is_no_figure(read, tmp_path):
    study = read(STUDY.replace('"results:miou_pooled"', '"results:iou"'))
    done = run_study(study, tmp_path, limit=1, tell=lambda line: None)
    with pytest.raises(ConfigError, match="figure 'results:iou' is no number in the results of 'test'"):
        study_table(study, done, tmp_path)


def test_an_unknown_size_is_refused(read):
    with pytest.raises(ConfigError, match="no size 'huge'; it has small, large"):
        read(size="huge")


def test_merging_leaves_both_as_they_were():
    one, other = {"a": {"b": 1}, "list": [1, 2]}, {"a": {"c": 2}, "list": [3]}
    assert merged(one, other) == {"a": {"b": 1, "c": 2}, "list": [3]}
    assert one == {"a": {"b": 1}, "list": [1, 2]} and other == {"a": {"c": 2}, "list": [3]}
