"""Study files: every fault at once, flags over the file, and a resolved study that runs again as it is."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import StudyError
from anomia.study import Study, read_study, write_study


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("arms: magnitude:0.5", "arms is a list, as in arms: [wanda:0.5]; got 'magnitude:0.5'"),
        ("arms: []", "arms is empty; give at least one, as in arms: [wanda:0.5]"),
        ("languages: english", "languages is a list, as in languages: [english, swahili]; got 'english'"),
        (
            "languages: [no]",
            "languages.0 is a text; got False (YAML takes no, yes, on and off for true or false",
        ),
        ("stop: '.'", "stop is a list"),
        ("prompts: open", "prompts is a mapping, as in prompts: {open:"),
        ("batch_size: -4", "batch_size is auto or a whole number from 1; got -4"),
        ("batch_size: many", "batch_size is auto or a whole number from 1; got 'many'"),
        ("limit: x", "limit is a whole number; got 'x'"),
        ("limit: 0", "limit must be at least 1; got 0"),
        ("top_p: 2", "top_p must be at most 1.0; got 2"),
        ("chat: 7", "chat is true or false; got 7"),
        ("dtype: int3", "dtype is one of 'auto', 'float32', 'bfloat16' or 'float16'; got 'int3'"),
        ("data: nothing", "data: unknown data set"),
    ],
)
def test_faults_are_in_the_words_of_the_file(tmp_path: Path, settings: str, says: str) -> None:
    file = tmp_path / "study.yaml"
    given = "base: model\n" + ("" if settings.startswith("arms") else "arms: [wanda:0.5]\n") + settings
    file.write_text(given)
    with pytest.raises(StudyError) as caught:
        read_study(file, {})
    head, *faults = str(caught.value).splitlines()
    assert head.endswith("has 1 fault:"), caught.value
    assert faults[0].startswith(f"  - {says}"), faults
    for words in ("tuple", "constrained", "Input should", "data: data:"):
        assert words not in faults[0]


def test_all_faults_come_in_one_message_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "base: x\narms: [wandaa:0.5]\nlanguges: [a]\nlimit: 0\nprobes: [opne]\ndevice: gpu\nbatch_size: many\n"
    )
    with pytest.raises(StudyError) as caught:
        read_study(file, {})
    message = str(caught.value)
    for fault in (
        "did you mean 'wanda'",
        "did you mean 'languages'",
        "limit must be at least 1",
        "did you mean 'open'",
        "batch_size",
    ):
        assert fault in message, message
    assert str(file) in message


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("base: x\narms: [wanda:0.5]\nlimit: 10\nlanguages: [sw, English]\n")
    study = read_study(file, {"limit": 20})
    assert study.limit == 20
    assert study.languages == ("swahili", "english")


def test_a_resolved_study_reads_back_as_itself(tmp_path: Path) -> None:
    study = read_study(
        None, {"base": "x", "arms": ["wanda:0.5", "magnitude:0.3"], "languages": ["sw"], "chat": True}
    )
    write_study(study, tmp_path / "study.yaml", {"torch": "2"})
    assert read_study(tmp_path / "study.yaml", {}) == study
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["provenance"] == {"torch": "2"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"arms": ["wanda:0.5"]}, "'base' is missing"),
        ({"base": "x", "arms": []}, "arms"),
        ({"base": "x", "arms": ["wanda:1.5"]}, "sparsity must lie between 0 and 1"),
        ({"base": "x", "arms": ["wanda:0.5", "wanda:0.50"]}, "given twice"),
        ({"base": "x", "arms": ["base"]}, "measured in every study"),
        ({"base": "x", "arms": ["wanda:0.5"], "device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_faults(values: dict[str, object], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        read_study(None, values)


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "is not YAML"), ("- a", "holds no settings"), ("", "no settings")]
)
def test_files_that_hold_no_study(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(StudyError, match=says):
        read_study(tmp_path / "s.yaml", {})
    with pytest.raises(StudyError, match="does not exist"):
        read_study(tmp_path / "none.yaml", {})


def test_open_and_choice_are_always_asked() -> None:
    assert Study(base="x", arms=("wanda:0.5",), probes=("rank",)).probes == ("open", "choice", "rank")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(st.dictionaries(st.sampled_from([*Study.model_fields, "x"]), SCALARS | st.lists(SCALARS, max_size=3)))
def test_any_values_give_a_study_or_a_study_error(values: dict[str, object]) -> None:
    with contextlib.suppress(StudyError):
        assert read_study(None, values).base == values["base"]


def test_options_of_base_s_output_are_refused_for_data_without_them() -> None:
    with pytest.raises(
        StudyError, match=r"math has no options made from base's own output.*summaries.*translation"
    ):
        read_study(
            None, {"base": "m", "arms": ["int8"], "data": "math", "probes": ["open", "choice", "choice_own"]}
        )
    asked = read_study(None, {"base": "m", "arms": ["int8"], "data": "summaries"}).probes
    assert "choice_own" in asked
