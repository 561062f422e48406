"""Languages in the names of tasks: those of known families, and no ends that only look like a code."""

from __future__ import annotations

import pytest

from anomia.interop.task_language import language_in


@pytest.mark.parametrize(
    ("task", "language"),
    [
        ("anomia_open_thai", "thai"),
        ("xnli_ru", "russian"),
        ("xquad_sw", "swahili"),
        ("belebele_swh_Latn", "swahili"),
        ("belebele_asm_Beng", "asm_beng"),
        ("global_mmlu_ar", "arabic"),
        ("mgsm_direct_te", "telugu"),
        ("truthfulqa-multi_gen_eu", "basque"),
        ("arc_ru", "russian"),
        ("hellaswag_it", "italian"),
        ("longbench_multifieldqa_zh", "chinese"),
        ("mlqa_hi_hi", "hindi"),
        ("mlqa_tha", "thai"),
        ("lighteval|xnli_rus_mcf|0", "russian"),
        ("mlmm_arc_swa_cf:challenge|0", "swahili"),
        ("belebele_arb_Arab_hybrid|5", "arabic"),
    ],
)
def test_names_that_tell(task: str, language: str) -> None:
    assert language_in(task) == language


@pytest.mark.parametrize(
    "task",
    [
        "agieval_lsat_ar", "arc_no", "boolq_it", "uncheatable_eval_arxiv_cs", "hellaswag", "ru", "", "|0",
        "exams_test_ar", "matreshka_yes_no", "wmt16-en-de", "mlqa_ar_de", "pawsome_it", "towns_est", "towns|0",
    ],
)  # fmt: skip
def test_names_that_tell_nothing(task: str) -> None:
    assert language_in(task) is None
