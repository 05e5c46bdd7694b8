from __future__ import annotations

from pathlib import Path

import pytest

from clusterheal.errors import InvalidInput
from clusterheal.settings import Settings, load_settings


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clusterheal.toml"
    file.write_text('[engine]\nmode = "suggest"\nport = 1\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("CLUSTERHEAL_ENGINE__PORT", "2")
    monkeypatch.setenv("CLUSTERHEAL_ENGINE__MODE", "approve")
    engine = load_settings(file, {"engine": {"mode": "auto", "port": None}}).engine
    assert (engine.mode, engine.port, engine.host) == ("auto", 2, "0.0.0.0")
    assert engine.confidence_floor == 0.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\nprot = 1\n", "engine.prot"),
        ('[engine]\nmode = "yolo"\n', "engine.mode"),
        ("[engine\n", "not TOML"),
        ("[nothing]\nx = 1\n", "nothing"),
    ],
)
def test_bad_settings_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "clusterheal.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_settings(file)


def test_missing_settings_file_is_an_error_not_the_defaults(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        load_settings(tmp_path / "absent.toml")


def test_every_setting_says_its_unit_or_reason() -> None:
    silent = [
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        if section != "log"
        for name, leaf in type(field.default).model_fields.items()
        if not leaf.description
    ]
    assert silent == []


def test_the_engine_only_observes_unless_told_otherwise() -> None:
    assert load_settings().engine.mode == "observe"
