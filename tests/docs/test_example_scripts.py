"""The scripts of examples/: each can be imported, and its options are those that the pages and it itself name."""

import argparse
import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from PIL import Image

HOME = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (HOME / "examples").rglob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
TEXTS = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md")), *SCRIPTS]
COMMAND = re.compile(r"(`)?python (examples/[\w/]+\.py)((?(1)[^`]*|(?:\\\n|[^\n#])*))")
PARSING = {path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")}
COMMANDS = [
    pytest.param(script, options, id=f"{text.stem}: {Path(script).stem} {number}")
    for text in TEXTS
    for number, (_, script, options) in enumerate(COMMAND.findall(text.read_text(encoding="utf-8")))
    if HOME / script in PARSING or not (HOME / script).is_file()
]


class Parsed(Exception):
    """The options were understood."""


def _loaded(path: Path):
    spec = spec_from_file_location(f"script_{path.stem}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_imported_and_says_how_it_is_called(path):
    assert f"python {path.relative_to(HOME)}" in _loaded(path).__doc__


@pytest.mark.parametrize("script, options", COMMANDS)
def test_a_command_that_is_written_down_has_options_that_exist(script, options, monkeypatch):
    module, parse = _loaded(HOME / script), argparse.ArgumentParser.parse_args

    def understood(parser):
        parse(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)
    words = re.sub(r"[\[\]]", "", options).replace("\\\n", " ")
    monkeypatch.setattr(sys, "argv", [script, *shlex.split(words)])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("factor", [2, 3])
def test_shrunk_images_and_masks_stay_of_one_size(tmp_path, factor):
    script = _loaded(HOME / "examples" / "ebc1_leave_one_specimen_out.py")
    for part in ("train", "train_annot"):
        (tmp_path / "whole" / part).mkdir(parents=True)
        Image.new("L", (32, 20)).save(tmp_path / "whole" / part / "s1_1.png")
    out = script.shrunk(tmp_path / "whole", factor, tmp_path / "small")
    for path in (out / "train" / "s1_1.png", out / "train_annot" / "s1_1.png"):
        with Image.open(path) as small:
            assert small.size == (32 // factor, 20 // factor)
