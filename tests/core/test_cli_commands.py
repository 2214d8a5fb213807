"""The command line: what is light stays light, mistakes are one sentence, and every command does its work."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lamella import __version__
from lamella.cli.main import COMMANDS, main
from lamella.errors import LamellaError
from lamella.registry.hookspecs import KINDS
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry, current
from PIL import Image
from tiny_plugin import CLASSES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lamella(capsys):
    """Run the command line; gives (exit code, standard output, standard error)."""

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tiny(tiny_registry_file, tmp_path, monkeypatch):
    """A working directory in which the tiny plugin is enabled and nothing else."""
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    monkeypatch.chdir(tmp_path)
    return tmp_path


HEAVY = ("torch", "pydantic", "rich", "datasets", "kornia", "numpy", "accelerate")


LIGHT = [["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["plugins", "--strict"]]


@pytest.mark.parametrize("command", ["--help", "plugins"])
def test_a_reader_who_has_had_enough_is_no_error(command):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        run = [sys.executable, "-m", "lamella", command]
        done = subprocess.run(run, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom lamella.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(lamella, tiny, arguments):
    code, out, _ = lamella(*arguments)
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)


def test_commands_of_plugins_are_listed_with_their_plugin_and_run(lamella, tiny):
    assert "tiny-hello     say hello  [tiny_plugin]" in lamella("--help")[1]
    assert lamella("tiny-hello", "--name", "you") == (0, "hello you\n", "")
    assert "--name" in lamella("tiny-hello", "--help")[1]


def test_help_comes_even_with_a_broken_registry_file(lamella, tiny, monkeypatch):
    (tiny / "bad.toml").write_text("[plugins\n")
    monkeypatch.setenv("LAMELLA_REGISTRY", "bad.toml")
    code, out, err = lamella("--help")
    assert code == 0
    assert "train" in out
    assert "bad.toml" in err


def test_a_command_of_a_plugin_that_cannot_be_imported_is_one_sentence(lamella, tiny, monkeypatch):
    (tiny / "late_one.py").write_text(
        "from lamella import hookimpl\nLAMELLA_API = 1\n"
        "@hookimpl\ndef lamella_commands():\n    return {'late': ('comes late', 'late_one_parts:late')}\n"
    )
    (tiny / "late_one_parts.py").write_text("raise RuntimeError('no licence found')\n")
    (tiny / "registry.toml").write_text("[plugins]\nenable = []\nlocal = ['late_one']\npath = ['.']\n")
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny / "registry.toml"))
    said = "lamella: the command 'late' of plugin 'late_one' cannot be imported from 'late_one_parts:late': "
    try:
        assert lamella("late") == (2, "", f"{said}RuntimeError: no licence found\n")
    finally:
        sys.modules.pop("late_one", None)


def test_help_and_plugins_come_though_a_distribution_cannot_be_read(tmp_path):
    info = tmp_path / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\ndamaged\n")
    code = (
        f"import sys\nsys.path.append({str(tmp_path)!r})\nfrom lamella.cli.main import main\n"
        "main(['--help'])\nmain(['plugins'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "commands of plugins:" in done.stdout
    assert "entry points of damaged in" in done.stdout


def test_the_version_is_printed(lamella):
    assert lamella("--version") == (0, f"lamella {__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(lamella, name):
    code, out, _ = lamella(name, "--help")
    assert code == 0
    assert f"lamella {name}" in out
    assert len(out.splitlines()) >= 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["xyzzy"], "'lamella --help' lists them"),
        (["tiny-helo"], "did you mean 'tiny-hello'?"),
        (["train", "gone.toml"], "gone.toml: the experiment file cannot be read"),
        (["train", "tiny.toml", "--set", "fit.steeps=3"], "tiny.toml: unknown key 'steeps' in [fit]"),
        (["train", "tiny.toml", "--set", "fit.steps"], "must read KEY=VALUE"),
        (["train", "tiny.toml", "--resume"], "--resume takes a run folder"),
        (["train", ".", "--resume"], "this is no run folder"),
        (["evaluate", "gone"], "gone: this is no run folder"),
        (["predict", "gone", "x.png", "--out", "out"], "gone: this is no run folder"),
        (["show", "colour"], "there is no kind 'colour'; the kinds are backbone"),
        (["show", "colours", "red"], "modality, dataset, set"),
        (["show", "perturbatoin"], "there is no kind 'perturbatoin'; did you mean 'perturbation'?"),
        (["show", "loss", "tiny-los"], "did you mean 'tiny-loss'?"),
        (["show", "set", "nothing"], "no perturbation set 'nothing'"),
        (["init", "gone", "--modality", "tiny-grey", "--trainer", "tiny-plain", "--backbone", "tiny-conv"], "gone"),
        (["train", "tiny.toml", "--out", "tiny.toml/run"], "--out tiny.toml is a file; name a folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_with_2(lamella, tiny, tiny_file, arguments, said):
    code, out, err = lamella(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("lamella: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["init", "images"], ["predict", "run", "x.png"], ["gauge", "run", "x.png"]])
def test_pixels_of_no_size_are_refused(lamella, tiny, command):
    code, _, err = lamella(*command, "--pixel-nm", "0")
    assert code == 2 and "--pixel-nm" in err and "0.0001" in err


@pytest.mark.parametrize("arguments", [["train"], ["train", "--steps", "3"], ["plugins", "--jsn"], ["predict", "run"]])
def test_arguments_that_do_not_parse_leave_with_2_and_no_traceback(lamella, arguments):
    code, _, err = lamella(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert "Usage: lamella" in err


@pytest.mark.parametrize("place", [0, 2])
def test_with_traceback_the_error_itself_comes_out(tiny, place):
    arguments = ["train", "gone.toml"]
    arguments.insert(place, "--traceback")
    with pytest.raises(LamellaError, match=r"gone\.toml"):
        main(arguments)


def test_an_interrupt_leaves_with_130_and_one_line(lamella, monkeypatch):
    monkeypatch.setattr("lamella.cli.main._dispatch", lambda rest: (_ for _ in ()).throw(KeyboardInterrupt))
    assert lamella("train") == (130, "", "lamella: interrupted\n")


def test_the_command_is_installed_and_runs_as_a_module(tmp_path):
    for start in ([str(Path(sys.executable).with_name("lamella"))], [sys.executable, "-m", "lamella"]):
        done = subprocess.run([*start, "trian"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "lamella: there is no command 'trian'; did you mean 'train'?\n"


# plugins, show, doctor


def test_plugins_name_the_registry_file_and_what_each_offers(lamella, tiny, tiny_registry_file):
    code, out, _ = lamella("plugins")
    assert code == 0
    assert f"registry file: {tiny_registry_file}" in out
    assert "tiny_plugin    loaded" in out
    assert "    loss: tiny-loss" in out
    assert "tem            disabled  lamella-tem" in out


def test_plugins_as_json_hold_the_same(lamella, tiny, tiny_registry_file):
    facts = json.loads(lamella("plugins", "--json")[1])
    assert facts["registry"] == str(tiny_registry_file)
    mine = next(plugin for plugin in facts["plugins"] if plugin["name"] == "tiny_plugin")
    assert (mine["status"], mine["error"]) == ("loaded", None)
    assert mine["components"] == {
        "backbone": ["tiny-conv"], "loss": ["tiny-loss"], "trainer": ["tiny-plain"], "modality": ["tiny-grey"],
        "dataset": ["tiny-squares"],
    }  # fmt: skip
    assert "lamella_commands" in mine["hooks"]


def test_without_a_registry_file_every_installed_plugin_is_enabled(lamella, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = json.loads(lamella("plugins", "--json")[1])
    assert facts["registry"] is None
    assert {"synth", "tem", "sam", "sem"} <= {p["name"] for p in facts["plugins"] if p["status"] == "loaded"}


@pytest.fixture
def with_broken(tiny):
    """The tiny plugin beside one that cannot be imported, and one with a component that cannot."""
    (tiny / "broken_one.py").write_text("raise RuntimeError('no licence found')\n")
    (tiny / "lazy_one.py").write_text(
        "from lamella import hookimpl\nLAMELLA_API = 1\n"
        "@hookimpl\ndef lamella_losses():\n    return {'lazy': 'lazy_one_missing:loss'}\n"
    )
    path = tiny / "registry.toml"
    path.write_text("[plugins]\nenable = []\nlocal = ['tiny_plugin', 'broken_one', 'lazy_one']\npath = ['.']\n")
    return path


@pytest.fixture
def broken_in_force(with_broken, monkeypatch):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(with_broken))
    yield
    for name in ("broken_one", "lazy_one"):
        sys.modules.pop(name, None)


def test_a_broken_plugin_is_listed_with_its_error_and_takes_nothing_down(lamella, broken_in_force):
    code, out, _ = lamella("plugins")
    assert code == 0
    assert "RuntimeError: no licence found" in out
    assert "tiny_plugin    loaded" in out


def test_strict_makes_a_broken_plugin_fatal(lamella, broken_in_force):
    code, out, err = lamella("plugins", "--strict")
    assert (code, err) == (2, "lamella: plugin broken_one could not be loaded\n")
    assert "tiny_plugin" in out


def test_check_imports_what_plugins_promise(lamella, broken_in_force):
    code, out, err = lamella("plugins", "--check")
    assert code == 2
    assert "problem: loss lazy_one:lazy" in out
    assert "lazy_one_missing" in out
    assert err == "lamella: 1 component cannot be used, see above\n"


BROKEN_NET = """
from typing import Annotated
from lamella import FromData, Trainer, hookimpl
from torch import nn

LAMELLA_API = 1


class Net(nn.Module):
    def __init__(self, *, width: int = 8, channels: Annotated[int, FromData], classes: Annotated[int, FromData]):
        super().__init__()
        raise ValueError(f"no net of {channels} channels and {classes} classes")


class Learner(Trainer):
    def __init__(self, *, class_names: Annotated[list[str], FromData]):
        super().__init__()
        raise ValueError(f"learns no {class_names[0]}")


@hookimpl
def lamella_backbones():
    return {"broken-net": Net}


@hookimpl
def lamella_trainers():
    return {"broken-learner": Learner}
"""


def test_check_builds_networks_and_trainers_from_their_defaults(lamella, tiny, monkeypatch):
    (tiny / "broken_net.py").write_text(BROKEN_NET)
    (tiny / "registry.toml").write_text("[plugins]\nenable = []\nlocal = ['broken_net']\npath = ['.']\n")
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny / "registry.toml"))
    try:
        code, out, err = lamella("plugins", "--check")
    finally:
        sys.modules.pop("broken_net", None)
    assert (code, err) == (2, "lamella: 2 components cannot be used, see above\n")
    assert "problem: backbone broken_net:broken-net: ValueError: no net of 1 channels and 2 classes" in out
    assert "problem: trainer broken_net:broken-learner: ValueError: learns no one" in out


def test_the_plugins_of_this_checkout_pass_their_check(lamella, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, err = lamella("plugins", "--check", "--strict")
    assert (code, err) == (0, ""), out


def test_what_a_component_prints_is_not_in_the_json_of_a_check(lamella, tiny, monkeypatch):
    loud = BROKEN_NET.replace("raise ValueError(", "print(")
    (tiny / "loud_net.py").write_text(loud)
    (tiny / "registry.toml").write_text("[plugins]\nenable = []\nlocal = ['loud_net']\npath = ['.']\n")
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny / "registry.toml"))
    try:
        code, out, err = lamella("plugins", "--check", "--json")
    finally:
        sys.modules.pop("loud_net", None)
    assert (code, err) == (0, "no net of 1 channels and 2 classes\nlearns no one\n")
    assert json.loads(out)["problems"] == {}


def of_this_checkout(kind):
    registry = Registry.load(RegistryFile.read(ROOT / "registry.toml"))
    return [component.full_name for component in registry.components(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_component_can_be_shown(lamella, monkeypatch, kind):
    monkeypatch.chdir(ROOT)
    names = of_this_checkout(kind)
    assert names
    for name in names:
        code, out, err = lamella("show", kind, name)
        assert (code, err) == (0, "")
        assert out.startswith(f"{kind} {name}  (")
        for parameter in current().get(kind, name).parameters():
            assert f"  {parameter.name}: " in out
        code, out, err = lamella("show", kind, name, "--json")
        assert (code, err) == (0, "")
        schema = json.loads(out)
        assert schema["name"] == name
        assert set(schema["properties"]) == {p.name for p in current().get(kind, name).parameters()}
        assert (schema["type"], schema["additionalProperties"]) == ("object", False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_components_of_a_kind_are_listed(lamella, monkeypatch, kind):
    monkeypatch.chdir(ROOT)
    out = lamella("show", kind)[1]
    rows = json.loads(lamella("show", kind, "--json")[1])
    assert [f"{row['plugin']}:{row['name']}" for row in rows] == of_this_checkout(kind)
    assert all(row["name"] in out for row in rows)


def test_every_perturbation_set_can_be_shown_expanded(lamella, monkeypatch):
    monkeypatch.chdir(ROOT)
    sets = json.loads(lamella("show", "set")[1])
    assert {"weak", "tem-strong"} <= set(sets)
    for name, chain in sets.items():
        shown = json.loads(lamella("show", "set", name)[1])
        assert len(shown) == len(chain)
        assert all(":" in spec["name"] for spec in shown)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_doctor_says_device_versions_and_plugins(lamella, tiny, as_json):
    code, out, _ = lamella("doctor", *(["--json"] if as_json else []))
    assert code == 0
    if as_json:
        facts = json.loads(out)
        assert facts["plugins"]["tiny_plugin"] == "loaded"
        assert {"torch", "lamella", "python"} <= set(facts["versions"])
        assert facts["device"]
    assert "torch" in out
    assert "tiny_plugin" in out


# train, evaluate, predict, demo


@pytest.fixture
def trained(lamella, tiny, tiny_file):
    code, out, err = lamella("train", "tiny.toml", "--out", "run", "--set", "fit.steps=4", "--set", "seed=3")
    assert code == 0, err
    return tiny / "run", out, err


def test_train_prints_the_figures_and_where_the_report_is(trained):
    run, out, err = trained
    results = json.loads((run / "results.json").read_text())
    assert (results["steps"], results["seed"]) == (4, 3)
    assert f"{results['sets']['test']['miou_pooled']:.4f}" in out
    assert f"{results['sets']['test']['grey_level']['miou_pooled']:.4f}" in out
    assert "mIoU pooled" in out
    assert f"report: {Path('run') / 'report.html'}" in out
    assert "training: 4/4" in err


def test_train_takes_a_folder_of_its_own_every_time(trained, lamella):
    lamella("train", "tiny.toml", "--out", "run", "--set", "fit.steps=1")
    assert (trained[0].with_name("run-2") / "results.json").is_file()
    lamella("train", "tiny.toml", "--set", "fit.steps=1")
    assert Path("runs", "tiny", "results.json").is_file()


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(trained, lamella):
    before = json.loads((trained[0] / "results.json").read_text())
    code, _, err = lamella("train", trained[0], "--resume")
    assert code == 0, err
    assert json.loads((trained[0] / "results.json").read_text())["sets"] == before["sets"]


def test_a_run_folder_that_is_not_to_be_resumed_or_not_so_is_told_how(trained, lamella):
    spaced = trained[0].with_name("my run [1]")
    shutil.copytree(trained[0], spaced)
    code, out, err = lamella("train", spaced.name)
    assert (code, out) == (2, "")
    told, _, command = err.partition(" is a run folder; go on with: lamella ")
    assert told == "lamella: my run [1]"
    assert shlex.split(command) == ["train", "my run [1]", "--resume"]
    assert lamella(*shlex.split(command))[0] == 0
    refused = "lamella: --resume takes no "
    assert lamella("train", "run", "--resume", "--set", "fit.steps=9")[2].startswith(f"{refused}--set; change run/exp")
    assert lamella("train", "run", "--resume", "--out", "x")[2].startswith(f"{refused}--out;")


@pytest.mark.parametrize("inside", ["", "in", "in/it"])
def test_an_out_that_is_a_file_is_told(trained, lamella, inside):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save("picture.png")
    Path("a file").write_text("")
    for out, named in ((["--out", f"./a file/{inside}"], "--out "), ([f"--out=a file/{inside}"], "")):
        said = f"lamella: {named}a file is a file; name a folder\n"
        assert lamella("predict", "run", "picture.png", *out) == (2, "", said)


def test_commands_that_are_told_can_be_given(trained, lamella):
    spaced = trained[0].with_name("my other run")
    shutil.copytree(trained[0], spaced)
    _, _, err = lamella("predict", spaced.name, "x.png", "--out", "out", "--abstain")
    assert shlex.split(err.partition("is not calibrated: lamella ")[2]) == ["calibrate", spaced.name]
    out = lamella("calibrate", spaced.name, "--risk", "0.5")[1]
    assert shlex.split(out.partition("now: lamella ")[2])[:3] == ["predict", spaced.name, "IMAGES"]


def test_evaluate_gives_the_figures_of_the_training(trained, lamella):
    run, _, _ = trained
    expected = json.loads((run / "results.json").read_text())["sets"]["test"]
    code, out, err = lamella("evaluate", "run", "--json")
    assert code == 0, err
    measured = json.loads(out)["test"]
    assert measured["confusion"] == expected["confusion"]
    assert measured["miou_per_image"] == pytest.approx(expected["miou_per_image"])
    assert f"{expected['miou_pooled']:.4f}" in lamella("evaluate", "run")[1]


def test_evaluate_without_a_test_set_says_what_to_add(trained, lamella):
    file = trained[0] / "experiment.toml"
    text = file.read_text()
    head, _, tail = text.partition("[data.test]")
    file.write_text(head + tail[tail.index("[trainer]") :])
    code, out, err = lamella("evaluate", "run")
    assert (code, out) == (2, "")
    assert "[data.test]" in err


@pytest.mark.parametrize("command", [["evaluate", "run"], ["calibrate", "run", "--risk", "0.5"]])
def test_a_test_set_whose_classes_are_in_another_order_is_not_measured_on(trained, lamella, command):
    file = trained[0] / "experiment.toml"
    file.write_text(file.read_text().replace("[data.test]\n", '[data.test]\nclasses = ["square", "ground", "disc"]\n'))
    code, out, err = lamella(*command)
    assert (code, out) == (2, "")
    assert "[data.test] has the classes square, ground, disc, this run ground, square, disc; they have to be" in err


def test_predict_writes_label_maps_and_counts_what_it_did(trained, lamella, tmp_path):
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "b.png").write_text("no image")
    code, out, err = lamella("predict", "run", "new", "--out", "out")
    assert code == 0
    assert "1 predicted into out" in out
    assert [line.partition(":")[0] for line in (out + err).splitlines() if "b.png" in line] == ["not read"]  # once
    assert "1 could not be read; out/failed.json says why" in out
    assert np.asarray(Image.open("out/a.label.png")).shape == (20, 24)
    assert np.asarray(Image.open("out/a.label.png")).max() < len(CLASSES)
    outcome = json.loads(lamella("predict", "run", "new/a.png", "--out", "other", "--json")[1])
    assert outcome["done"] == ["a"]


def test_a_run_trains_in_a_process_of_its_own_with_plain_lines_in_the_log(tiny, tiny_file):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "lamella", "train", "tiny.toml", "--out", "run", "--set", "fit.steps=3"],
        capture_output=True, text=True, env=dict(os.environ), timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mIoU pooled" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert Path("run/report.html").is_file()
