"""The graders of tasks on outputs that models give."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from anomia.errors import DataError, StudyError
from anomia.grade import Grading
from anomia.items import read_questions
from anomia.items.item import Question
from anomia.items.sandbox import refuse_unsafe
from anomia.items.sets import SETS
from anomia.items.sets.abstention import abstains
from anomia.items.sets.instructions import CHECKS, follows, follows_loosely, language_of
from anomia.items.sets.math import final_number, numbers, wrong_answers
from anomia.items.sets.tools import calls_in


def rows(tmp_path: Path, *entries: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))
    return path


def one(task: str, path: Path) -> Question:
    ((question,),) = read_questions(f"{task}:{path}").values()
    return question


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("Each pays 48/2=<<48/2=24>>24. She sold 48+24=<<48+24=72>>72 clips.\n#### 72", "72"),
        ("So the answer is **1,234.50** dollars, not 7.", "1234.5"),
        ("The answer is 5.\n\nQuestion: 3 + 4?\nAnswer: The answer is 7.", "5"),
        ("\\boxed{-3}", "-3"),
        ("It takes 4 hours, then 6 more", "6"),
        ("10-4", "4"),
        ("জবাব ৪২", "42"),
        ("\uff14\uff12", "42"),
        (".5 of it", "0.5"),
        ("3,4", "4"),
        ("7.", "7"),
        ("v1.2", None),
        ("no number", None),
        ("The answer is unclear. I would say 9", "9"),
    ],
)
def test_the_final_number(output: str, number: str | None) -> None:
    assert final_number(output) == (None if number is None else Decimal(number))


def test_a_number_may_be_as_long_as_an_output() -> None:
    assert len(numbers("9" * 10_000)) == 1


def test_math_reads_the_hub_s_rows_and_other_models_answers(tmp_path: Path) -> None:
    asked = {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}
    question = one("math", rows(tmp_path, asked))
    assert question.answers == ("4",)
    assert len(wrong_answers(question)) == 3
    given = {**asked, "distractors": ["It is 5.", "#### 6", "4", "so 22"]}
    assert one("math", rows(tmp_path, given)).distractors == ("5", "6", "22")
    with pytest.raises(DataError, match=r"line 1.*no number"):
        one("math", rows(tmp_path, {**asked, "answer": "four"}))


def test_an_echo_of_the_options_is_not_an_answer() -> None:
    grading = Grading(task=SETS["math"].task)
    question = Question("1", "english", "", "?", ("58",))
    options = ("600", "180", "60", "58")
    assert grading.shown("\n- 600\n- 180\n- 60\n- 58", question, options) == (0, 1, 2, 3)
    assert grading.shown("600 - 542 is 58", question, options) == (3,)
    assert grading.shown("1180", question, options) == ()


TOOL = {
    "id": "simple_0",
    "question": [[{"role": "user", "content": "Area of a triangle with base 10 and height 5, in metres?"}]],
    "function": [
        {
            "name": "area",
            "description": "area of a triangle",
            "parameters": {
                "type": "dict",
                "properties": {
                    "base": {"type": "integer"},
                    "height": {"type": "float"},
                    "unit": {"type": "string"},
                },
                "required": ["base", "height"],
            },
        }
    ],
}
TRUTH = [{"area": {"base": [10], "height": [5], "unit": ["metres", "m", ""]}}]


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ('{"name": "area", "arguments": {"base": 10, "height": 5}}', (1, 1, 1, 1)),
        (
            '```json\n[{"name": "area", "arguments": {"base": 10, "height": 5.0, "unit": "M"}}]\n```',
            (1, 1, 1, 1),
        ),
        ('[area(base=10, height=5, unit="metres")]', (1, 1, 1, 1)),
        ('{"area": {"base": 10, "height": 5}} and more', (1, 1, 1, 1)),
        ('{"function": {"name": "area", "arguments": "{\\"base\\": 10, \\"height\\": 5}"}}', (1, 1, 1, 1)),
        ('{"name": "area", "arguments": {"base": "10", "height": 5}}', (1, 1, 0, 0)),
        ('{"name": "area", "arguments": {"base": 10, "height": 6}}', (1, 1, 1, 0)),
        ('{"name": "area", "arguments": {"base": 10}}', (1, 1, 0, 0)),
        ('{"name": "area", "arguments": {"base": 10, "height": 5, "colour": "red"}}', (1, 1, 0, 0)),
        ('{"name": "area", "arguments": {"base": true, "height": 5}}', (1, 1, 0, 0)),
        ('{"name": "perimeter", "arguments": {"base": 10, "height": 5}}', (1, 0, 0, 0)),
        ('{"name": "area", "arguments": {"base": 10, "height": 5}', (0, 0, 0, 0)),
        ("area(10, 5)", (0, 0, 0, 0)),
        ("__import__('os').system('true')", (0, 0, 0, 0)),
        ("The area is 25.", (0, 0, 0, 0)),
        ('{"name": "area", "description": "d", "parameters": {"type": "object"}}', (0, 0, 0, 0)),
    ],
)
def test_calls_are_graded_in_steps(output: str, parts: tuple[int, ...], tmp_path: Path) -> None:
    question = one("tools", rows(tmp_path, {**TOOL, "ground_truth": TRUTH}))
    task = SETS["tools"].task
    assert task is not None
    graded = task.grade(output, question)
    assert graded.parts == parts
    assert graded.score == sum(parts) / 4
    assert graded.correct == (sum(parts) == 4)


def test_bfcl_s_answers_are_found_beside_its_questions_and_xlam_s_forms_are_read(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    rows(tmp_path / "possible_answer", {"id": "simple_0", "ground_truth": TRUTH}, name="BFCL.json")
    question = one("tools", rows(tmp_path, TOOL, name="BFCL.json"))
    assert json.loads(question.gold) == {"name": "area", "arguments": {"base": 10, "height": 5}}
    xlam = {
        "query": "Area, 10 by 5?",
        "tools": json.dumps(
            [
                {
                    "name": "area",
                    "parameters": {
                        "base": {"type": "int"},
                        "height": {"type": "int, optional", "default": 1},
                    },
                }
            ]
        ),
        "answers": json.dumps([{"name": "area", "arguments": {"base": 10, "height": 5}}]),
    }
    other = one("tools", rows(tmp_path, xlam))
    assert json.loads(other.gold) == json.loads(question.gold)
    with pytest.raises(DataError, match="'volume', which the row does not define"):
        one("tools", rows(tmp_path, {**TOOL, "ground_truth": [{"volume": {"a": [1]}}]}))


def test_calls_in_any_order_are_the_same() -> None:
    question = next(q for q in read_questions("tools")["english"] if q.gold.startswith("["))
    task = SETS["tools"].task
    assert task is not None
    calls = calls_in(question.gold)
    assert calls
    swapped = json.dumps(
        [{"name": name, "arguments": dict(arguments)} for name, arguments in reversed(calls)]
    )
    assert task.grade(swapped, question).correct
    assert not task.grade(json.dumps(json.loads(swapped)[:1]), question).correct


@pytest.mark.parametrize(
    ("output", "silent"),
    [
        ("unanswerable", True),
        (" The passage doesn’t say.", True),
        ("It is not mentioned in the text.", True),
        ("I don't know.", True),
        ("This cannot be determined from the context", True),
        ("unknown\nunknown", True),
        ("There is not enough information.", True),
        ("Johan Lund", False),
        ("In 1871\nThe passage does not say more.", False),
        ("an unknown artist", False),
        ("She said not to worry", False),
        ("He was never given the prize, but Marie", True),  # a known error, towards abstaining
        ("", False),
    ],
)
def test_abstaining(output: str, silent: bool) -> None:
    assert abstains(output) == silent


def test_squad_2_files_and_rows_are_read(tmp_path: Path) -> None:
    nested = {
        "version": "v2.0",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": "The tower was built in 1889 in Paris by Ann Lee.",
                        "qas": [
                            {
                                "id": "a",
                                "question": "When was it built?",
                                "is_impossible": False,
                                "answers": [{"text": "1889", "answer_start": 23}],
                            },
                            {
                                "id": "b",
                                "question": "When was it painted?",
                                "is_impossible": True,
                                "answers": [],
                                "plausible_answers": [{"text": "1889", "answer_start": 23}],
                            },
                        ],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "dev-v2.0.json"
    for text in (json.dumps(nested), json.dumps(nested, indent=2)):
        path.write_text(text)
        (found,) = read_questions(f"abstention:{path}").values()
        assert [(q.id, q.answers, q.passage_distractors) for q in found] == [
            ("a", ("1889",), ()),
            ("b", ("unanswerable",), ("1889",)),
        ]
    hub = {
        "id": "b",
        "title": "T",
        "context": "x",
        "question": "y?",
        "answers": {"text": [], "answer_start": []},
    }
    assert one("abstention", rows(tmp_path, hub)).gold == "unanswerable"
    task = SETS["abstention"].task
    assert task is not None
    answerable, unanswerable = found
    assert task.grade("It was 1889", answerable).parts == (None, 1)
    assert not task.grade("unanswerable", answerable).correct
    assert task.grade("unanswerable", unanswerable).parts == (1, None)
    assert not task.grade("1889", unanswerable).correct


def test_every_kind_of_ifeval_is_in_the_sample() -> None:
    asked = {kind for q in read_questions("instructions")["english"] for kind, _ in json.loads(q.target)}
    assert asked == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize(
    ("kind", "of", "text", "followed"),
    [
        ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "The train is late", True),
        ("keywords:existence", {"keywords": ["rain"]}, "The train is late", True),
        ("keywords:existence", {"keywords": ["c++"]}, "I like C++", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "**bold** text\n* a", True),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "**a** and *b*", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\n***\nb", False),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"}, "a\n\n\"So, it is.", True),
        ("combination:two_responses", {}, "same ****** same", False),
        ("startend:end_checker", {"end_phrase": "The end."}, 'It was. "THE END."', True),
        ("startend:quotation", {}, '"', False),
        ("detectable_format:json_format", {}, "```json\n[1]\n```", True),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\np. s. y", True),
        ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 3}, "Dr. Lee left. She ran! Why", True),
        ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "It cost 3.50 euros. Good.", True),
        ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "READ IT now", True),
        ("change_case:english_lowercase", {}, "das ist nicht der weg", False),
        ("language:response_language", {"language": "hi"}, "यह एक किताब है", True),
        ("language:response_language", {"language": "mr"}, "यह एक किताब है और उस में", False),
        ("punctuation:no_comma", {}, " ", False),
    ],
)  # fmt: skip
def test_instructions(kind: str, of: dict[str, Any], text: str, followed: bool) -> None:
    assert follows(text, kind, of) == followed


def test_the_loose_check_forgives_a_first_line_and_stars() -> None:
    assert not follows("Sure:\nhello there", "change_case:english_lowercase", {})
    assert follows_loosely("Sure:\nhello there", "change_case:english_lowercase", {})
    assert follows_loosely('*"quoted"*', "startend:quotation", {})


def test_languages_of_the_shipped_questions_are_told() -> None:
    codes = {"arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "korean": "ko", "russian": "ru", "swahili": "sw", "telugu": "te"}  # fmt: skip
    for language, found in read_questions("demo").items():
        told = [language_of(question.context) for question in found]
        assert told.count(codes[language]) >= 0.97 * len(told), (language, random.Random(0).sample(told, 5))


def test_ifeval_rows_get_a_composed_response(tmp_path: Path) -> None:
    row = {
        "key": 1000,
        "prompt": "Write a summary without commas and highlight 3 parts.",
        "instruction_id_list": [
            "punctuation:no_comma",
            "detectable_format:number_highlighted_sections",
            "length_constraints:number_words",
        ],
        "kwargs": [
            {"num_highlights": None},
            {"num_highlights": 3, "relation": None},
            {"relation": "at least", "num_words": 300},
        ],
    }
    question = one("instructions", rows(tmp_path, row))
    assert question.id == "1000"
    task, wrong = SETS["instructions"].task, SETS["instructions"].wrong
    assert task is not None
    assert wrong is not None
    assert task.grade(question.gold, question).correct
    assert len(wrong(question)) == 3
    graded = task.grade("*one* *two* *three*, more", question)
    assert graded.score == pytest.approx(1 / 3)
    assert not graded.correct
    for changed, message in (
        ({"instruction_id_list": ["punctuation:no_commas"] * 3}, "did you mean 'punctuation:no_comma'"),
        ({"kwargs": [{}]}, "lists of the same length"),
        ({"kwargs": [{}, {}, {"relation": "at least", "num_words": 5}]}, "needs 'num_highlights'"),
        ({"response": "a, b"}, "does not follow punctuation:no_comma"),
    ):
        with pytest.raises(DataError, match=message):
            one("instructions", rows(tmp_path, {**row, **changed}))


def test_chrf_is_sacrebleu_s(tmp_path: Path) -> None:
    from sacrebleu.metrics import CHRF

    task = SETS["translation"].task
    assert task is not None
    pair = {"source": "Der Hund biss den Mann.", "reference": "The dog bit the guy.", "target_language": "en"}
    question = one("translation", rows(tmp_path, pair))
    assert task.grade("???", question).score == 0
    assert task.grade("The dog bit the guy.\n\nNext text", question).score == 1
    said = "The dog bit the man."
    official = CHRF(word_order=2).sentence_score(said, ["The dog bit the guy."]).score
    assert task.grade(said, question).score == pytest.approx(official / 100)
    assert task.grade(said, question).correct is None
    # An output in the language of the source shares letters with the reference, and is no translation.
    pair = {
        "source": "The castle is the oldest building of the valley.",
        "reference": "Le château est le plus ancien bâtiment de la vallée.",
        "target_language": "fr",
    }
    question = one("translation", rows(tmp_path, pair))
    for said, part in (
        ("Ce château est le bâtiment le plus ancien.", 1.0),
        ("The castle is the oldest building of the valley.", 0.0),
        (question.gold, 1.0),
        ("12 %", None),
        ("", None),
    ):
        assert task.grade(said, question).parts == (part,), said


def test_an_answer_may_begin_after_empty_lines() -> None:
    """Stop strings must not cut off what a base model writes after a blank line."""
    for name in ("translation", "summaries"):
        task, settings = SETS[name].task, SETS[name].settings
        assert task is not None
        question = next(q for found in read_questions(name).values() for q in found)
        grading = Grading(stop=tuple(settings.get("stop", ())), task=task)
        graded = grading.graded(grading.cut(f"\n\n{question.gold}\n\nAnother text."), question)
        assert graded is not None
        assert graded.score == 1


def test_translations_are_read_in_every_form(tmp_path: Path) -> None:
    forms = (
        {"translation": {"en": "a dog", "de": "ein Hund"}},
        {"sentence_eng_Latn": "a dog", "sentence_deu_Latn": "ein Hund"},
        {"source": "a dog", "reference": "ein Hund", "target_language": "de"},
        {"src": "a dog", "references": ["ein Hund", "ein Hund!"], "tgt_lang": "de"},
    )
    for form in forms:
        question = one("translation", rows(tmp_path, form))
        assert (question.context, question.gold) == ("a dog", "ein Hund")
        assert question.language in ("german", "deu_latn")
    with pytest.raises(DataError, match="it needs two, by language code"):
        one("translation", rows(tmp_path, {"translation": {"en": "a dog", "de": ""}}))


def test_rouge_is_that_of_rouge_score_s_example() -> None:
    """The example of rouge-score's page: ROUGE-1 0.75 and 0.67, ROUGE-L 0.625 and 0.56."""
    task = SETS["summaries"].task
    assert task is not None
    question = Question(
        "1",
        "english",
        "The quick fox.",
        "?",
        ("The quick brown fox jumps over the lazy dog",),
        target='"english"',
    )
    graded = task.grade("The quick brown dog jumps on the log.", question)
    assert graded.score == pytest.approx(2 * 0.625 * (5 / 9) / (0.625 + 5 / 9))
    assert graded.parts[0] == pytest.approx(2 * 0.75 * (6 / 9) / (0.75 + 6 / 9))
    other = Question("1", "hindi", "", "?", ("यह एक किताब है",), target='"hindi"')
    assert task.grade("यह एक किताब है", other).score == 1


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("    return sum(numbers)", True),
        ("return sum(numbers)", True),
        ("  total = 0\n  for n in numbers:\n    total += n\n  return total", False),
        ("    return sum(numbers)\n\ndef main():\n    broken(", True),
        ("Here it is:\n```python\ndef total(numbers):\n    return sum(numbers)\n```\nDone.", True),
        ("```\n    return sum(numbers)\n```", True),
        ("def total(numbers):\n    return sum(numbers)\n\nprint(total([1]))\nx = (", True),
        ("    return len(numbers)", False),
        ("    return sum(numbers", False),
        ("    import sys\n    sys.exit(0)", False),
        ("I would add the numbers.", False),
        ("", False),
    ],
)
def test_programs_are_found_in_outputs_and_tested(output: str, right: bool, tmp_path: Path) -> None:
    try:
        refuse_unsafe()
    except StudyError as error:
        pytest.skip(str(error))
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ The sum.\n    """\n',
        "canonical_solution": "    return sum(numbers)\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([5]) == 5\n",
        "entry_point": "total",
    }
    task = SETS["code"].task
    assert task is not None
    assert task.grade(output, one("code", rows(tmp_path, row))).correct is right


def test_mbpp_rows_are_read(tmp_path: Path) -> None:
    row = {
        "task_id": 2,
        "text": "Write a function.",
        "code": "def f(x):\r\n    return x",
        "test_list": ["assert f(1) == 1"],
        "test_setup_code": "",
    }
    question = one("code", rows(tmp_path, row))
    assert question.id == "2"
    assert question.gold == "def f(x):\n    return x"
    assert "assert f(1) == 1" in question.question
    assert one("code", rows(tmp_path, {**row, "text": None, "prompt": "Write a function."})) == question
