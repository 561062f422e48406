"""Questions with options and a study's own wording, through a whole run of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import anomia


def test_options_prompts_stop_strings_and_grader_reach_the_records(
    model_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "set.jsonl"
    rows = [
        {
            "question": f"Which number is number {n}?",
            "options": [f"number {n}", *(f"other {n} {k}" for k in range(1 + n % 4))],
            "answer": 0,
        }
        for n in range(10)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "base": str(model_folder), "arms": ["magnitude:0.5"], "data": f"mc:{file}", "limit": 8, "num_beams": 2,
        "num_samples": 2, "max_new_tokens": 12, "progress": False,
    }  # fmt: skip
    plain = anomia.run(**settings, out=tmp_path / "plain")
    own = anomia.run(
        **settings,
        out=tmp_path / "own",
        prompts={"open": "Q: {question}\nA:", "zero_shot": "Q: {question} A:"},
        stop=["e"],
        grader="exact_match",
    )
    for run in (plain, own):
        base = run.records.filter(arm="base").sort("index")
        offered = [1 + 1 + int(row["question"].split()[-1][:-1]) % 4 for row in base.iter_rows(named=True)]
        assert base["choice_scores"].list.len().to_list() == offered
        assert set(offered) == {2, 3, 4, 5}
        assert base["choice_passage_scores"].null_count() == 8
        assert base["cued_text"].null_count() == 0
        json.dumps(json.loads((run.path / "results.json").read_text()), allow_nan=False)
    first, second = (run.records.filter(arm="base").sort("index") for run in (plain, own))
    assert (first["prompt_tokens"] > second["prompt_tokens"]).all()
    assert any("e" in text for text in first["open_text"])
    for column in ("open_text", "cued_text", "one_shot_text"):
        assert not any("e" in text for text in second[column])
    for column in ("beam_texts", "sample_texts"):
        assert not any("e" in text for texts in second[column] for text in texts)
    # The forms that were not given keep their wording, and so their outputs up to the stop string.
    assert [text.partition("e")[0] for text in first["cued_text"]] == second["cued_text"].to_list()
    assert second["open_correct"].to_list() == second["open_em"].to_list()
