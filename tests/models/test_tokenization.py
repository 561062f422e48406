"""The tokenizer's fingerprint covers everything that changes token ids, and is the same in every process."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from anomia.models.fingerprint import (
    fingerprint_tokenizer,
    fingerprint_tokenizer_1,
    is_same_tokenizer,
)
from anomia.models.tokenization import (
    PROBE_TEXTS,
    describe_tokenizer,
    is_random,
    parts,
    same_ids,
    token_ids,
)

PRINT = (
    "import sys, transformers\n"
    "from anomia.models.fingerprint import fingerprint_tokenizer\n"
    "for folder in sys.argv[1:]:\n"
    "    print(fingerprint_tokenizer(transformers.AutoTokenizer.from_pretrained(folder)))\n"
)


def wrapped(backend: tokenizers.Tokenizer, **options: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def changed(tokenizer: Any, **entries: Any) -> Any:
    """The same tokenizer with other entries in its backend's JSON; `a__b` is an entry b of the entry a."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for path, value in entries.items():
        *way, last = path.split("__")
        place = state
        for step in way:
            place = place[step]
        place[last] = value(place[last]) if callable(value) else value
    other = copy.deepcopy(tokenizer)
    other._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
    return other


def swap_merges(merges: list[Any]) -> list[Any]:
    return [merges[1], merges[0], *merges[2:]]


BACKEND_CHANGES = {
    "normalizer": {"normalizer": {"type": "NFC"}},
    "lower case": {"normalizer": {"type": "Lowercase"}},
    "pre-tokenizer": {"pre_tokenizer__add_prefix_space": True},
    "no regex": {"pre_tokenizer__use_regex": False},
    "merges": {"model__merges": swap_merges},
    "a merge fewer": {"model__merges": lambda merges: merges[:-1]},
    "ignore_merges": {"model__ignore_merges": True},
    "no start token": {"post_processor": None},
    "decoder": {"decoder": None},
    "stripping token": {
        "added_tokens": lambda tokens: [*tokens[:-1], {**tokens[-1], "lstrip": True}],
    },
    "not special": {
        "added_tokens": lambda tokens: [*tokens[:-1], {**tokens[-1], "special": False}],
    },
}


@pytest.mark.parametrize("change", BACKEND_CHANGES)
def test_every_part_of_the_backend_counts(tokenizer: Any, change: str) -> None:
    other = changed(tokenizer, **BACKEND_CHANGES[change])
    assert fingerprint_tokenizer(other) != fingerprint_tokenizer(tokenizer)
    # What version 1 saw: nothing of it, but for the vocabulary's.
    assert fingerprint_tokenizer_1(other) == fingerprint_tokenizer_1(tokenizer)


def test_a_call_with_padding_or_truncation_leaves_it_the_same(tokenizer: Any) -> None:
    mine = copy.deepcopy(tokenizer)
    mine.pad_token = "</s>"
    before = fingerprint_tokenizer(mine)
    mine(["a", "a longer text"], padding=True, truncation=True, max_length=5)
    assert mine.backend_tokenizer.padding is not None
    assert parts(mine) == parts(tokenizer)
    # And looking leaves it as it was.
    assert mine.backend_tokenizer.padding is not None
    assert mine.backend_tokenizer.truncation is not None
    assert fingerprint_tokenizer(mine) == before


@pytest.mark.parametrize("setting", ["split_special_tokens", "clean_up_tokenization_spaces"])
def test_settings_outside_the_backend_count(tokenizer: Any, setting: str) -> None:
    other = copy.deepcopy(tokenizer)
    setattr(other, setting, not getattr(other, setting))
    assert fingerprint_tokenizer(other) != fingerprint_tokenizer(tokenizer)


def test_template_and_special_tokens_count(tokenizer: Any) -> None:
    for name, value in (("chat_template", "{{ messages }}"), ("eos_token", "<s>"), ("pad_token", "</s>")):
        other = copy.deepcopy(tokenizer)
        setattr(other, name, value)
        assert fingerprint_tokenizer(other) != fingerprint_tokenizer(tokenizer), name


def test_fingerprints_of_older_runs_still_match(tokenizer: Any) -> None:
    now, old = fingerprint_tokenizer(tokenizer), fingerprint_tokenizer_1(tokenizer)
    assert now.startswith("2-")
    assert is_same_tokenizer(now, tokenizer)
    assert is_same_tokenizer(old, tokenizer)
    other = changed(tokenizer, post_processor=None)
    assert not is_same_tokenizer(now, other)
    assert is_same_tokenizer(old, other)
    assert not is_same_tokenizer("78dee3a777010b1a", tokenizer)


def word_piece() -> Any:
    vocabulary = {
        token: n for n, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "paris", "##s", "a", "##a", "in"])
    }
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return wrapped(backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def unigram() -> Any:
    pieces = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        ("▁", -2.0),
        ("▁Paris", -3.0),
        ("a", -4.0),
        ("aa", -4.5),
    ]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    return wrapped(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def words() -> Any:
    """Words without an unknown token: most texts can't be encoded."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"Paris": 0, "in": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return wrapped(backend)


def in_python() -> Any:
    """No backend at all: bytes, in Python."""
    return transformers.ByT5Tokenizer()


KINDS: dict[str, Callable[[], Any]] = {
    "word_piece": word_piece,
    "unigram": unigram,
    "words": words,
    "in_python": in_python,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_has_one(kind: str) -> None:
    found = fingerprint_tokenizer(KINDS[kind]())
    assert found == fingerprint_tokenizer(KINDS[kind]())
    assert describe_tokenizer(KINDS[kind]()).ids == describe_tokenizer(KINDS[kind]()).ids


def test_a_text_that_cannot_be_encoded_is_no_fault() -> None:
    described = describe_tokenizer(words())
    assert described.bare["one word"] == (0,)
    assert described.bare["thai"] is None


def test_unigram_scores_count() -> None:
    def lower(pieces: list[Any]) -> list[Any]:
        return [*pieces[:-1], [pieces[-1][0], -99.0]]

    mine = unigram()
    other = changed(mine, model__vocab=lower)
    assert same_ids(mine, other)
    assert fingerprint_tokenizer(other) != fingerprint_tokenizer(mine)


def test_settings_of_tokenizers_in_python_count() -> None:
    assert fingerprint_tokenizer(transformers.ByT5Tokenizer(extra_ids=50)) != fingerprint_tokenizer(
        in_python()
    )
    assert "name_or_path" not in parts(in_python())["settings"]


class SentencePieceLike:
    """What a SentencePiece model shows of itself."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialized_model_proto(self) -> bytes:
        return self.content


def test_a_sentencepiece_model_and_its_legacy_setting_count() -> None:
    found = set()
    for content, legacy in ((b"one", True), (b"two", True), (b"one", False)):
        tokenizer = in_python()
        tokenizer.sp_model, tokenizer.legacy = SentencePieceLike(content), legacy
        found.add(fingerprint_tokenizer(tokenizer))
    assert len(found) == 3


def test_a_tokenizer_that_draws_lots_has_a_steady_fingerprint(tokenizer: Any) -> None:
    other = changed(tokenizer, model__dropout=0.3)
    assert is_random(other)
    assert not is_random(tokenizer)
    assert fingerprint_tokenizer(other) == fingerprint_tokenizer(other)
    assert fingerprint_tokenizer(other) != fingerprint_tokenizer(tokenizer)


def test_the_same_in_every_process_and_folder(tokenizer: Any, tmp_path: Path) -> None:
    made = {"bpe": tokenizer, "word_piece": word_piece(), "unigram": unigram(), "in_python": in_python()}
    for name, each in made.items():
        each.save_pretrained(tmp_path / name)
        each.save_pretrained(tmp_path / "elsewhere" / name)
    folders = [str(tmp_path / where / name) for name in made for where in ("", "elsewhere")]

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PRINT, *folders], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    first = run()
    assert len(first) == len(folders)
    assert first[0::2] == first[1::2]
    assert len(set(first)) == len(made)
    assert run() == first


def test_the_probe_texts_are_what_they_are_named() -> None:
    assert PROBE_TEXTS["decomposed"] != PROBE_TEXTS["composed"]
    assert PROBE_TEXTS["leading space"][0] == " "
    assert PROBE_TEXTS["trailing space"][-1] == " "
    assert "\u05e9" in PROBE_TEXTS["both directions"]
    # In the order of a file, for fingerprints hash them in it.
    assert len(PROBE_TEXTS) > 40


def test_same_ids_means_every_token_of_base(tokenizer: Any) -> None:
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<new>"])
    assert same_ids(tokenizer, more)
    assert not same_ids(more, tokenizer)
    moved = changed(
        tokenizer, model__vocab=lambda v: {t: {300: 301, 301: 300}.get(n, n) for t, n in v.items()}
    )
    assert not same_ids(tokenizer, moved)


def test_same_ids_without_a_vocabulary() -> None:
    class Silent(transformers.ByT5Tokenizer):
        def get_vocab(self) -> Any:
            raise NotImplementedError

    tokenizer = in_python()
    tokenizer.get_vocab = Silent.get_vocab.__get__(tokenizer)
    assert same_ids(tokenizer, tokenizer)
    assert not same_ids(tokenizer, in_python())


def test_token_ids_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    assert token_ids(tokenizer, "Paris") == tuple(tokenizer("Paris").input_ids)
    assert token_ids(tokenizer, "Paris", special=False) == token_ids(tokenizer, "Paris")[1:]
    assert describe_tokenizer(tokenizer).start == (0,)
    assert describe_tokenizer(tokenizer).end == ()
