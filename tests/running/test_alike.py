"""Checkpoints are asked what base is asked; packaged arms are asked what their folder says; neither changes on resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress.spec import as_packaged, like_base, parse_arm
from anomia.compress.steps import Checkpoint
from anomia.errors import RunError
from anomia.matrix import Matrix, StudyCell
from anomia.measure.gate import DEFAULTS, check_run
from anomia.measure.packaging import packaging
from anomia.measure.results import read_results, results_json
from anomia.probe.ask import Ask, OptionSet
from anomia.probe.asked import prompt_hash
from anomia.records import SCHEMA, write_rows
from anomia.run_folder import RunFolder
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

Write = Callable[..., Path]
Make = Callable[[str], Path]


@pytest.fixture
def make(model_folder: Path, tmp_path: Path) -> Make:
    """A copy of base's folder."""

    def copied(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(model_folder, folder)
        return folder

    return copied


@pytest.fixture
def study(write_jsonl: Write, model_folder: Path) -> Callable[..., Study]:
    long = " It was told again and again, in many words." * 12
    data = f"jsonl:{write_jsonl([entry(n) | {'context': entry(n)['context'] + long} for n in range(12)])}"

    def made(*arms: str, **changes: Any) -> Study:
        return Study(**{
            "base": str(model_folder), "arms": arms, "data": data, "limit": 8, "batch_size": 4, "max_new_tokens": 6,
            "num_samples": 2, "oracle_limit": 4, "noise_items": 0, "dtype": "float32", **changes,
        })  # fmt: skip

    return made


def run(study: Study, out: Path, said: list[str] | None = None, **more: Any) -> pl.DataFrame:
    told = PlainProgress((lambda text: None) if said is None else said.append)
    run_matrix(Matrix((StudyCell("", study),), single=True), out, progress=told, **more)
    return RunFolder(out).records()


def refused(study: Study, out: Path, file: str, says: str) -> None:
    """A run is refused for a file that changed; and by what loading shows, where it hadn't noted its files."""
    with pytest.raises(
        RunError, match=rf"was measured with different files than .* has now \({file}.* changed"
    ):
        run(study, out)
    (out / "sources.json").unlink()
    with pytest.raises(RunError, match=says):
        run(study, out)


def without_start_token(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"post_processor": None}), encoding="utf-8"
    )
    return folder


def answers(records: pl.DataFrame, arm: str) -> pl.DataFrame:
    return records.filter(pl.col("arm") == arm).drop(
        "arm", "kl_from_base", "top1_agrees", "distribution_tokens", "distribution_log_probs", "tail_mass"
    )


def test_specifications() -> None:
    assert parse_arm("packaged:a%2Cb").steps == (Checkpoint("a,b", packaged=True),)
    assert parse_arm("packaged:a%2Cb+int8").name == "packaged:a%2Cb+int8"
    assert as_packaged(["checkpoint:a+int8", "packaged:b"]) == [
        "checkpoint:a+int8",
        "packaged:a+int8",
        "packaged:b",
    ]
    assert like_base("packaged:a+int8") == "checkpoint:a+int8"
    assert like_base("checkpoint:a") is None


def test_the_same_weights_without_a_start_token_are_base(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = without_start_token(make("arm"))
    records = run(study(f"checkpoint:{arm}", f"packaged:{arm}"), tmp_path / "run")
    base, alike, packaged = (
        answers(records, name) for name in ("base", f"checkpoint:{arm}", f"packaged:{arm}")
    )
    assert [name for name in base.columns if not alike[name].equals(base[name], null_equal=True)] == []
    assert (packaged["prompt_hash"] != base["prompt_hash"]).all()
    assert (packaged["prompt_tokens"] == base["prompt_tokens"] - 1).all()
    # The token ids mean the same, so what it says next can be compared.
    assert records.filter(pl.col("arm") == f"packaged:{arm}")["kl_from_base"].null_count() == 0
    results = read_results(tmp_path / "run")
    verdict = next(v for v in results.verdicts if v.arm == f"packaged:{arm}")
    assert (
        "Its losses are not due to the weights alone: it is asked and ended as its own folder says"
        in verdict.words.text
    )
    assert all("its own folder" not in v.words.text for v in results.verdicts if v.arm == f"checkpoint:{arm}")
    assert {row.weights for row in results.packaging} == {f"checkpoint:{arm}"}
    file = results_json(results)
    assert any(row["kind"] == "confounding" for row in file["differences"][f"packaged:{arm}"])


def test_answers_end_at_base_s_end_tokens(make: Make, study: Callable[..., Study], tmp_path: Path) -> None:
    """Base ends at every second token of the vocabulary; the checkpoint's own folder knows one end token."""
    base, arm = make("base"), make("arm")
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [*range(1, 600, 2)]}))
    records = run(study(f"checkpoint:{arm}", f"packaged:{arm}", base=str(base)), tmp_path / "run")
    tokens = {
        name: list(records.filter(pl.col("arm") == name)["open_tokens"])
        for name in ("base", f"checkpoint:{arm}", f"packaged:{arm}")
    }
    assert tokens[f"checkpoint:{arm}"] == tokens["base"]
    assert sum(tokens[f"packaged:{arm}"]) > sum(tokens["base"])


def test_another_vocabulary_is_asked_its_own_ids_and_that_is_said(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = make("arm")
    file = arm / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    names = list(state["model"]["vocab"])
    one, other = names[-1], names[-2]
    vocabulary = state["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(state), encoding="utf-8")
    records = run(study(f"checkpoint:{arm}"), tmp_path / "run")
    assert records.filter(pl.col("arm") != "base")["kl_from_base"].null_count() == 8
    (notes,) = read_results(tmp_path / "run").notes.values()
    assert any("a different tokenizer from base" in note for note in notes)
    assert any("each model's own tokenizer" in note for note in notes)
    texts = {verdict.words.text for verdict in read_results(tmp_path / "run").verdicts}
    assert all(
        "Its losses are not due to the weights alone: it has a different tokenizer" in text for text in texts
    )


def test_fewer_positions_are_said(make: Make, study: Callable[..., Study], tmp_path: Path) -> None:
    arm = make("arm")
    config = json.loads((arm / "config.json").read_text())
    (arm / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    run(study(f"checkpoint:{arm}"), tmp_path / "run")
    (notes,) = read_results(tmp_path / "run").notes.values()
    assert any("it takes 300 positions and base 4,096" in note for note in notes)


def test_more_positions_change_nothing(make: Make, study: Callable[..., Study], tmp_path: Path) -> None:
    base, arm = make("base"), make("arm")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 330}))
    records = run(study(f"checkpoint:{arm}", base=str(base)), tmp_path / "run")
    assert records.filter(pl.col("arm") == "base")["truncated"].all()
    assert answers(records, f"checkpoint:{arm}").equals(answers(records, "base"), null_equal=True)


def test_a_tokenizer_that_changes_under_a_run_is_refused(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    """Base is done; its folder then changes, and the arms that are left would be asked other tokens than base was."""
    base = make("base")
    run(study("magnitude:0.1", base=str(base)), tmp_path / "run")
    for file in (tmp_path / "run" / "records").glob("magnitude*"):
        file.unlink()
    without_start_token(base)
    asked = study("magnitude:0.1", base=str(base))
    refused(
        asked, tmp_path / "run", "tokenizer", r"was started with a different base model .*tokenizer differs"
    )


def test_an_arm_is_held_to_the_token_ids_that_base_was_asked(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    """Whatever changed them: here it is as if another version of a library had."""
    run(study("magnitude:0.1"), tmp_path / "run")
    for file in (tmp_path / "run" / "records").glob("magnitude*"):
        file.unlink()
    for file in (tmp_path / "run" / "records").glob("base*.parquet"):
        rows = pl.read_parquet(file).with_columns(prompt_hash=pl.lit("another"))
        write_rows(rows.to_dicts(), file)
    with pytest.raises(
        RunError, match=r"magnitude:0\.1 would be given different token ids than base was, in 4 of 4"
    ):
        run(study("magnitude:0.1"), tmp_path / "run")


def test_a_packaged_arm_whose_folder_changes_is_refused(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = make("arm")
    asked = study(f"packaged:{arm}")
    run(asked, tmp_path / "run")
    records = sorted((tmp_path / "run" / "records").glob("packaged*.parquet"))
    records[-1].unlink()
    without_start_token(arm)
    refused(asked, tmp_path / "run", "tokenizer", "was given different token ids than it would be now")


def test_base_is_not_reused_where_its_prompts_would_be_others(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    run(study("magnitude:0.1"), tmp_path / "first")
    for file in (tmp_path / "first" / "records").glob("base*.parquet"):
        rows = pl.read_parquet(file).with_columns(prompt_hash=pl.lit("another"))
        rows.write_parquet(file)
        file.with_name(f"{file.name}.sha256").unlink()
    said: list[str] = []
    again = run(study("magnitude:0.1"), tmp_path / "again", said, reuse=[tmp_path / "first"])
    assert any("would be given different token ids now" in text for text in said)
    assert "another" not in set(again["prompt_hash"])


def test_the_date_of_a_chat_template_is_that_of_the_begin(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    base = make("base")
    (base / "chat_template.jinja").write_text(
        "{{ bos_token }}{{ strftime_now('%d %B %Y') }}{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}<answer>"
    )
    asked = study("magnitude:0.1", base=str(base), chat=True)
    first = run(asked, tmp_path / "run")
    file = tmp_path / "run" / "study.yaml"
    text = file.read_text(encoding="utf-8")
    today = next(line for line in text.splitlines() if "today:" in line)
    file.write_text(text.replace(today, "  today: '2020-02-02'"), encoding="utf-8")
    for name in ("base", "magnitude"):
        sorted((tmp_path / "run" / "records").glob(f"{name}*.parquet"))[-1].unlink()
    # What is left would be asked with another date than what is done.
    with pytest.raises(RunError, match="was given different token ids than it would be now"):
        run(asked, tmp_path / "run")
    file.write_text(text, encoding="utf-8")
    again = run(asked, tmp_path / "run")
    assert again.sort("arm", "item_id").equals(first.sort("arm", "item_id"), null_equal=True)


def test_what_packaging_costs_is_told_from_what_the_weights_cost() -> None:
    """Base answers 12; the weights lose 3; packaging loses 8 more, and makes up for one that the weights lost."""
    right = {"base": {*range(12)}, "checkpoint:x": {*range(3, 12)}, "packaged:x": {0, 3, 4}}
    rows = [
        dict.fromkeys(SCHEMA)
        | {
            "arm": arm, "dataset": "d", "language": "english", "item_id": str(n), "index": n, "passage_id": str(n),
            "question": f"question {n}", "gold": "gold", "finite": True, "open_correct": n in those,
        }
        for arm, those in right.items()
        for n in range(14)
    ]  # fmt: skip
    records = pl.DataFrame(rows, schema=SCHEMA)
    (row,) = [row for row in packaging(records) if (row.probe, row.scope) == ("open", "pooled")]
    assert (row.lost, row.by_packaging, row.by_weights, row.made_up) == (9, 7, 2, 1)


def test_every_token_id_counts_in_a_hash() -> None:
    asks = [
        Ask("a", greedy={"open": (1, 2, 3)}),
        Ask("a", greedy={"open": (1, 2, 4)}),
        Ask("a", greedy={"cued": (1, 2, 3)}),
        Ask("a", options={"choice": OptionSet(1, ((1, 2), (1, 3)))}),
        Ask("a", options={"choice": OptionSet(0, ((1, 2), (1, 3)))}),
        Ask("a", options={"choice": OptionSet(1, ((1, 3), (1, 2)))}),
        Ask("a", beams={"beams": (1, 2, 3)}),
        Ask("a", beams={"hunted": (1, 2, 3)}),
        Ask("a", samples={"samples": (1, 2, 3)}),
    ]
    assert len({prompt_hash(ask) for ask in asks}) == len(asks)
    # As in runs of earlier versions, which may be resumed.
    sought = Ask("a", greedy={"open": (1, 2, 3)}, beams={"beams": (1, 2, 3)}, samples={"samples": (4, 5)})
    assert [prompt_hash(asks[0]), prompt_hash(sought)] == ["cc791eaa6b6c2c53", "574cf31cfc03030a"]
    assert prompt_hash(Ask("b", greedy={"open": (1, 2, 3)}, reference_tokens=(7,))) == prompt_hash(asks[0])


def test_what_loading_says_of_base_is_kept(make: Make, study: Callable[..., Study], tmp_path: Path) -> None:
    base = make("base")
    shutil.copy(base / "model.safetensors", base / "model_backup.safetensors")
    said: list[str] = []
    run(study("magnitude:0.1", base=str(base)), tmp_path / "run", said)
    (note,) = read_results(tmp_path / "run").notes["base"]
    assert "model_backup.safetensors" in note
    assert f"base: {note}" in said


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_settings_that_base_can_not_give_stand_in_verdict_and_gate(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = make("arm")
    change(arm, "config.json", rms_norm_eps=0.5)
    said: list[str] = []
    run(study(f"checkpoint:{arm}"), tmp_path / "run", said)
    results = read_results(tmp_path / "run")
    sentence = "Its losses are not due to the weights alone: its config.json: rms_norm_eps differ from base's"
    assert all(sentence in verdict.words.text for verdict in results.verdicts)
    assert any("can't be taken from base" in text for text in said)
    assert not any("it is asked base's token ids" in text for text in said)
    cautions = check_run(results, DEFAULTS).cautions
    assert any(sentence in caution.text for caution in cautions)


def test_an_id_beyond_the_embeddings_changes_nothing(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    """As Gemma 3 has one, of images: the checkpoint is still asked base's token ids."""
    base, arm = make("base"), make("arm")
    for folder in (base, arm):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
        assert len(tokenizer) == 601
        tokenizer.save_pretrained(folder)
    without_start_token(arm)
    records = run(study(f"checkpoint:{arm}", base=str(base)), tmp_path / "run")
    assert (
        answers(records, f"checkpoint:{arm}")["prompt_hash"] == answers(records, "base")["prompt_hash"]
    ).all()
    assert records.filter(pl.col("arm") != "base")["kl_from_base"].null_count() == 0


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        ("config.json", {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}, "configuration"),
        ("generation_config.json", {"eos_token_id": [1, 7]}, "end tokens"),
    ],
)  # fmt: skip
def test_a_base_that_changes_is_refused_also_where_it_is_done(
    make: Make, study: Callable[..., Study], tmp_path: Path, file: str, values: dict[str, Any], what: str
) -> None:
    base = make("base")
    asked = study("magnitude:0.1", base=str(base))
    run(asked, tmp_path / "run")
    sorted((tmp_path / "run" / "records").glob("magnitude*.parquet"))[-1].unlink()
    change(base, file, **values)
    refused(
        asked,
        tmp_path / "run",
        file,
        f"was started with a different base model than .* is now \\({what} differs",
    )
    said: list[str] = []
    run(asked, tmp_path / "again", said, reuse=[tmp_path / "run"])
    assert any("base is not reused from" in text and f"different {what}" in text for text in said)


def test_a_checkpoint_that_changes_is_refused(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = make("arm")
    asked = study(f"checkpoint:{arm}")
    run(asked, tmp_path / "run")
    sorted((tmp_path / "run" / "records").glob("checkpoint*.parquet"))[-1].unlink()
    change(arm, "config.json", rms_norm_eps=0.5)
    refused(
        asked,
        tmp_path / "run",
        "config.json",
        r"was started with a different model than there is now \(configuration differ",
    )


def test_generation_settings_that_are_not_applied_are_said(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    arm = make("arm")
    change(arm, "generation_config.json", repetition_penalty=5.0)
    run(study(f"packaged:{arm}"), tmp_path / "run")
    notes = read_results(tmp_path / "run").notes[f"packaged:{arm}"]
    assert any("also sets repetition_penalty=5.0, which is not applied" in note for note in notes)


def damaged(folder: Path) -> None:
    """Half of one matrix, in columns that evenly spaced values of it never see."""
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.1.mlp.down_proj.weight"][:, 1::2] = 0
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("pending", [True, False])
def test_base_is_held_to_its_files_while_checkpoints_are_asked(
    make: Make, study: Callable[..., Study], tmp_path: Path, pending: bool
) -> None:
    base, arm = make("base"), make("arm")
    asked = study(f"checkpoint:{arm}", base=str(base))
    run(asked, tmp_path / "run")
    if pending:
        sorted((tmp_path / "run" / "records").glob("checkpoint*.parquet"))[-1].unlink()
    damaged(base)
    with pytest.raises(
        RunError, match=r"base was measured with different files.*\(model\.safetensors changed\)"
    ):
        run(asked, tmp_path / "run")


def test_a_finished_arm_is_held_to_its_files(make: Make, study: Callable[..., Study], tmp_path: Path) -> None:
    arm = make("arm")
    asked = study(f"checkpoint:{arm}")
    run(asked, tmp_path / "run")
    run(asked, tmp_path / "run")
    # The same content at another time is the same.
    os.utime(arm / "model.safetensors", (1, 1))
    run(asked, tmp_path / "run")
    damaged(arm)
    with pytest.raises(RunError, match=r"checkpoint:.* was measured with different files"):
        run(asked, tmp_path / "run")
    # What isn't there any more can't have changed: the run can still be shown.
    shutil.rmtree(arm)
    run(asked, tmp_path / "run")


def test_code_of_a_repository_is_a_part_of_base(
    make: Make, study: Callable[..., Study], tmp_path: Path
) -> None:
    base = make("base")
    (base / "modeling_x.py").write_text("SCALE = 1\n")
    asked = study("magnitude:0.1", base=str(base)).model_copy(update={"trust_remote_code": True})
    run(asked, tmp_path / "run")
    (base / "modeling_x.py").write_text("SCALE = -1\n")
    with pytest.raises(RunError, match=r"\(modeling_x\.py changed\)"):
        run(asked, tmp_path / "run")
    said: list[str] = []
    run(asked, tmp_path / "again", said, reuse=[tmp_path / "run"])
    assert any("base is not reused from" in text and "different code of the model" in text for text in said)
