"""Every file of settings that cannot be read says so in one sentence, and which file it is."""

import pytest
from lamella.errors import ConfigError
from lamella.registry.tomlfile import read_toml


def test_tables_are_read(tmp_path):
    (tmp_path / "a.toml").write_text("[fit]\nsteps = 3", encoding="utf-8")
    assert read_toml(tmp_path / "a.toml", "experiment file") == {"fit": {"steps": 3}}


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.toml: not a TOML file: "):
        read_toml(tmp_path / "a.toml", "experiment file")


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: the study file cannot be read: "):
            read_toml(path, "study file")
