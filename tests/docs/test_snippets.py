"""Every code block of every page works: pages are read from top to bottom, each in an empty folder."""

import ast
import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import lamella.testing
import pytest
from lamella.cli.main import COMMANDS
from lamella.engine.experiment import read_experiment
from lamella.registry.hookspecs import KINDS
from lamella.registry.registry import current

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name != "results.md")  # its commands take hours


def _module(path: Path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


snippets = _module(HERE / "snippets.py")
generate = _module(DOCS / "generate.py")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # a reader's warnings are no errors
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_works(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    session = snippets.Session(page, lambda: tuple(capsys.readouterr()))
    try:
        for block in snippets.blocks(page):
            try:
                session.run(block)
            except BaseException as error:
                error.add_note(f"in {page.name}, line {block.line}")
                raise
    finally:
        snippets.forget(tmp_path)
        current.__globals__["_loaded"].cache_clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_copied_alone_knows_lamella(page):
    for block in snippets.blocks(page):
        if block.language == "python":
            nodes = list(ast.walk(ast.parse(block.text)))
            used = any(isinstance(node, ast.Name) and node.id == "lamella" for node in nodes)
            known = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
            assert not used or "lamella" in known, f"{page.name}, line {block.line}: import lamella"


def changed_examples():
    """(example file, its settings) of each `lamella train FILE --set …` on a page or in the head of an example."""
    root = DOCS.parent
    for page in [*sorted(DOCS.rglob("*.md")), *sorted((root / "examples").rglob("*.toml"))]:
        for command in re.findall(r"lamella train (?:\\\n|[^`\n])+", page.read_text(encoding="utf-8")):
            words = shlex.split(re.sub(r"\\\n#?", " ", command), comments=True)
            settings = [after for word, after in pairwise(words) if word == "--set"]
            if settings and (root / words[2]).is_file():
                yield pytest.param(root / words[2], settings, id=f"{page.stem}: {settings[0]}")


@pytest.mark.parametrize(("example", "settings"), list(changed_examples()))
def test_settings_that_are_shown_are_those_of_the_example(example, settings):
    assert read_experiment(example, settings).file.trainer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_generated_tables_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert generate.filled(text) == text, "run: python docs/generate.py"


def test_every_hook_kind_contract_and_command_has_its_place():
    pages = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
    for kind, hook in KINDS.items():
        page = {"modality": "modalities", "loss": "losses"}.get(kind, f"{kind}s")
        assert f"<!-- generated: components {kind} -->" in pages[page]
        assert hook in pages["plugins"]
    for hook in ("lamella_sets", "lamella_commands"):
        assert re.search(rf"def {hook}\(", pages["plugins"])
    for hook in KINDS.values():
        assert re.search(rf"def {hook}\(", pages["plugins"])
    for contract in lamella.testing.__all__:
        assert contract in pages["testing"]
    for command in COMMANDS:
        assert f"lamella {command}" in pages["index"]


def test_a_block_that_does_not_work_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = snippets.Session(Path("page.md"), lambda: tuple(capsys.readouterr()))
    wrong = [
        ("python", "import lamella\nlamella.build('loss', 'no-such-loss')"),
        ("toml", "[fit]\nstep = 3"),
        ("toml", "[data.test]\nsource = { name = 'synth-tem', counts = 3 }"),
        ("toml", "[plugins]\nenabled = []"),
        ("toml", "[alias]\n'loss:mine' = 'no-such-loss'"),
        ("console", "$ lamella trian experiment.toml  # minutes"),
        ("console", "$ lamella train --step 3  # minutes"),
        ("console", "$ lamella show loss\nno-such-loss  tem"),
        ("console", "$ lamella show loss no-such-loss"),
        ("console", "$ python missing.py"),
        ("bash", "rm -rf /"),
    ]
    for language, text in wrong:
        with pytest.raises((Exception, SystemExit)):
            session.run(snippets.Block(language, text, 1))
