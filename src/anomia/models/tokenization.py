"""Describes a tokenizer: its output for a fixed set of texts, and everything about it that changes token ids."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_MARKED = "Zürich, Ångström, naïve café, Việt Nam, Þórr, Čeština"
_KOREAN = "서울은 대한민국의 수도이다."

PROBE_TEXTS: Mapping[str, str] = {
    "english": "The Amazon River, discovered by Francisco de Orellana in 1542, doesn't end in Peru.",
    "finnish": "Helsinki on Suomen pääkaupunki; yöjuna lähtee kello 22.45.",
    "cyrillic": "Москва — столица России, её население больше 12 миллионов.",
    "greek": "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "arabic": "تقع القاهرة، عاصمة مصر، على نهر النيل؛ كَتَبَ ١٩٥٢.",
    "hebrew": "ירושלים היא עיר; בְּרֵאשִׁית (2,000).",
    "both directions": "The word \u202bسلام\u202c means ‘peace’ and שלום too.",
    "devanagari": "नई दिल्ली भारत की राजधानी है, १९४७ से।",
    "bengali": "ঢাকা বাংলাদেশের রাজধানী, ১৯৭১ সালে।",
    "telugu": "హైదరాబాదు తెలంగాణ రాష్ట్ర రాజధాని.",
    "thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย ๒๔๗๕",
    "chinese": "北京是中华人民共和国的首都,人口约2200万。",
    "japanese": "東京は日本の首都です。カタカナとｶﾀｶﾅ、ガとガ。",
    "korean": _KOREAN,
    "korean, decomposed": unicodedata.normalize("NFD", _KOREAN),
    "composed": unicodedata.normalize("NFC", _MARKED),
    "decomposed": unicodedata.normalize("NFD", _MARKED),
    "compatibility": "ﬁne ① Ⅷ ｆｕｌｌ ㎏ x² ½ … ™",
    "capitals": "CamelCase UPPER lower İstanbul ıssız STRASSE Straße ΣΊΣΥΦΟΣ",
    "digits": "1989 3.14159 1,234,567 0x7F 2024-05-31 00 007 $19.99 50% 1e-6 ١٢٣ ৪৫৬",
    "punctuation": "“Don’t”—she said… ‘no’?! (a/b) [c] {d} <e> f_g #h @i 50–60 «j» ¿k? l;m:n",
    "code": "def f(x):\n    if x['a'] != 1:\n\t\treturn {\"b\": [x]}  # done\n",
    "one word": "Paris",
    "leading space": " Paris",
    "leading spaces": "   Paris",
    "trailing space": "Paris ",
    "trailing spaces": "The answer is:   ",
    "double spaces": "one  two   three    four        five",
    "other spaces": "a\u00a0b\u2009c\u3000d\u200be\u00adf\ufeffg\u2060h",
    "newlines": "one\n\ntwo\n\n\nthree\r\nfour\n",
    "leading newline": "\nParis",
    "tabs": "\tone\ttwo\t\tthree",
    "emoji": "👩‍👩‍👧 🇫🇷 👍🏽 ☺️ ❤ 🫠 1️⃣",
    "rare characters": "𒀀 ꙮ \ue000 ﷽ \U000e0041 \u0300 \ufffd",
    "word marks": "▁Paris Ġroad Ċ ##ing </w> <0x0A>",
    "long word": "Donaudampfschifffahrtsgesellschaftskapitän" + "a" * 40,
    "prompt": "The town was founded in 1901 by Anna.\n\nQuestion: Who founded the town?\n\nAnswer in a few words:",
    "empty": "",
    "<s>": "Write <s> and </s> here.",
    "<bos>": "Write <bos> and <eos> here.",
    "<pad>": "Write <pad>, <unk>, <mask> and [UNK] [CLS] [SEP] [MASK] here.",
    "<|im_end|>": "Write <|im_start|>user and <|im_end|> here.",
    "<|endoftext|>": "Write <|endoftext|> or <|end_of_text|> here.",
    "<|eot_id|>": "Write <|begin_of_text|><|start_header_id|>user<|end_header_id|> and <|eot_id|> here.",
    "<end_of_turn>": "Write <start_of_turn>user and <end_of_turn> here.",
    "[INST]": "Write [INST] and [/INST] here.",
    "<think>": "Write <think>no</think> here.",
    "start token first": "<s>Paris",
}
"""Texts on which tokenizers with the same vocabulary are known to differ, by the feature that each tests."""

# Settings of a tokenizer with a `tokenizers` backend; the backend contains everything else.
_SETTINGS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "add_dummy_prefix", "legacy", "split_special_tokens",
    "clean_up_tokenization_spaces", "do_lower_case", "use_default_system_prompt", "fix_mistral_regex",
)  # fmt: skip
# Settings to leave out for a tokenizer without a backend: its origin, and what concerns only batches.
_ELSEWHERE = {
    "name_or_path", "is_local", "local_files_only", "backend", "model_max_length", "padding_side", "truncation_side",
    "max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "added_tokens_decoder", "chat_template",
    "processor_class", "tokenizer_class", "auto_map", "model_input_names", "special_tokens_map_file",
}  # fmt: skip
# Words of a vocabulary that are encoded to see whether a tokenizer works.
_WORDS = 100
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


@dataclass(frozen=True, slots=True)
class Tokenization:
    """A description of a tokenizer.

    kind: its class. size: number of tokens. vocabulary: token to id, empty if the tokenizer can't list it.
    parts: everything else that changes ids or texts, by name; hashes if long. random: a text can get different ids.
    start, end: ids added around every text; None if they vary between texts. bare, ids: the ids of `PROBE_TEXTS`
    without and with them; None for a text that can't be encoded. texts: the decoded bare ids. prompts, bare_prompts:
    the ids of additional texts with and without added tokens. special: special tokens by role.
    """

    kind: str
    size: int
    vocabulary: Mapping[str, int] = field(repr=False)
    parts: Mapping[str, str]
    random: bool
    start: tuple[int, ...] | None
    end: tuple[int, ...] | None
    bare: Mapping[str, tuple[int, ...] | None] = field(repr=False)
    ids: Mapping[str, tuple[int, ...] | None] = field(repr=False)
    texts: Mapping[str, str | None] = field(repr=False)
    prompts: Mapping[str, tuple[int, ...] | None] = field(repr=False)
    bare_prompts: Mapping[str, tuple[int, ...] | None] = field(repr=False)
    special: Mapping[str, str]


def token_ids(tokenizer: Any, text: str, *, special: bool = True) -> tuple[int, ...]:
    """The ids of a text, with the start and end tokens that the tokenizer adds unless `special` is False."""
    return tuple(int(number) for number in tokenizer(text, add_special_tokens=special).input_ids)


def tells_nothing(tokenizer: Any) -> str:
    """What a tokenizer gives for every text if that is at most one token, whatever the text; else "".

    Tried are `PROBE_TEXTS` and words of its own vocabulary, without special tokens.
    """
    words = " ".join(list(tokenizer.get_vocab())[:_WORDS])
    seen: set[int] = set()
    for text in (*PROBE_TEXTS.values(), words):
        seen.update(token_ids(tokenizer, text, special=False))
        if len(seen) > 1:
            return ""
    return "one and the same token" if seen else "no token"


def same_ids(base: Any, other: Any) -> bool:
    """Whether every token of base's vocabulary has the same id in the other tokenizer.

    Tokenizers that can't list their vocabulary are compared by everything else.
    """
    mine, theirs = vocabulary(base), vocabulary(other)
    if mine is None or theirs is None:
        return mine is theirs and parts(base) == parts(other) and probe_ids(base) == probe_ids(other)
    return all(theirs.get(token) == number for token, number in mine.items())


def vocabulary(tokenizer: Any) -> Mapping[str, int] | None:
    """Token to id, including added tokens; None if the tokenizer can't list them."""
    try:
        found: Mapping[str, int] = tokenizer.get_vocab()
    except (NotImplementedError, AttributeError, TypeError):
        return None
    return found


def describe_tokenizer(tokenizer: Any, prompts: Mapping[str, str] | None = None) -> Tokenization:
    """Describes a tokenizer for comparison. prompts: additional texts, by name."""
    bare = probe_ids(tokenizer, special=False)
    ids = probe_ids(tokenizer)
    known = vocabulary(tokenizer)
    around = {_around(bare[name], ids[name]) for name in PROBE_TEXTS if bare[name]}
    start, end = around.pop() if len(around) == 1 else (None, None)
    return Tokenization(
        kind=type(tokenizer).__name__,
        size=len(tokenizer) if known is None else len(known),
        vocabulary=known or {},
        parts=parts(tokenizer),
        random=is_random(tokenizer),
        start=start,
        end=end,
        bare=bare,
        ids=ids,
        texts={name: None if found is None else _decoded(tokenizer, found) for name, found in bare.items()},
        prompts={name: attempt(tokenizer, text) for name, text in (prompts or {}).items()},
        bare_prompts={
            name: attempt(tokenizer, text, special=False) for name, text in (prompts or {}).items()
        },
        special={role: str(token) for role, token in sorted(tokenizer.special_tokens_map.items())},
    )


def parts(tokenizer: Any) -> dict[str, str]:
    """Everything besides the vocabulary that changes ids or texts, as JSON or a hash, the same in every process."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    added = {int(number): repr(token) for number, token in tokenizer.added_tokens_decoder.items()}
    found = {"added tokens": _hash(json.dumps(added, sort_keys=True))}
    if backend is None:
        return found | _plain_parts(tokenizer)
    for name in _PARTS:
        part = getattr(backend, name)
        found[name] = "none" if part is None else _short(_canonical(part.__getstate__()))
    with _as_stored(backend):
        found["backend"] = _hash(backend.to_str())
    settings = {key: getattr(tokenizer, key, None) for key in _SETTINGS}
    settings["encode_special_tokens"] = bool(backend.encode_special_tokens)
    return found | {"settings": json.dumps(plain(settings, _named), sort_keys=True)}


def is_random(tokenizer: Any) -> bool:
    """Whether a text can get different ids each time: BPE with dropout, or a sampling SentencePiece model."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    sampling = (getattr(tokenizer, "sp_model_kwargs", None) or {}).get("enable_sampling", False)
    return bool(getattr(model, "dropout", None) or sampling) or probe_ids(tokenizer) != probe_ids(tokenizer)


def probe_ids(tokenizer: Any, *, special: bool = True) -> dict[str, tuple[int, ...] | None]:
    """The ids of `PROBE_TEXTS`; None for a text that the tokenizer can't encode."""
    return {name: attempt(tokenizer, text, special=special) for name, text in PROBE_TEXTS.items()}


def attempt(tokenizer: Any, text: str, *, special: bool = True) -> tuple[int, ...] | None:
    """The ids of a text; None if it can't be encoded, as with unknown words and no unknown token."""
    try:
        return token_ids(tokenizer, text, special=special)
    except BaseException as error:
        if not _is_fault(error):
            raise
        return None


def _decoded(tokenizer: Any, ids: tuple[int, ...]) -> str | None:
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))
    except BaseException as error:
        if not _is_fault(error):
            raise
        return None


def _is_fault(error: BaseException) -> bool:
    """Whether an error is a tokenizer's fault: any `Exception`, or a Rust panic, which isn't an `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _around(
    bare: tuple[int, ...] | None, whole: tuple[int, ...] | None
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """The ids before and after the bare ids in the whole ones; None if they can't be found."""
    if bare is None or whole is None:
        return None, None
    for first in range(len(whole) - len(bare) + 1):
        if whole[first : first + len(bare)] == bare:
            return whole[:first], whole[first + len(bare) :]
    return None, None


def _plain_parts(tokenizer: Any) -> dict[str, str]:
    """The parts of a tokenizer without a `tokenizers` backend: class, settings, SentencePiece model, merges."""
    settings = {key: value for key, value in tokenizer.init_kwargs.items() if key not in _ELSEWHERE}
    settings |= {key: getattr(tokenizer, key) for key in _SETTINGS if hasattr(tokenizer, key)}
    files = [key for key in settings if key.endswith("_file")]
    found = {
        "class": type(tokenizer).__name__,
        "settings": json.dumps(
            plain({key: value for key, value in settings.items() if key not in files}, _named), sort_keys=True
        ),
    }
    with suppress(AttributeError):
        found["backend"] = hashlib.sha256(tokenizer.sp_model.serialized_model_proto()).hexdigest()[:16]
    ranks = getattr(tokenizer, "bpe_ranks", None)
    if isinstance(ranks, Mapping):
        found["merges"] = _hash(json.dumps([list(pair) for pair in sorted(ranks, key=ranks.__getitem__)]))
    return found


@contextmanager
def _as_stored(backend: Any) -> Any:
    """Removes padding and truncation, which the last call may have set, from the backend inside the block."""
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def _canonical(state: bytes) -> str:
    return json.dumps(json.loads(state), sort_keys=True, ensure_ascii=False)


def _short(text: str) -> str:
    """The text itself if it is short, else its hash."""
    return text if len(text) <= 400 else f"sha256 {_hash(text)}"


def plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """Converts a value to JSON types, sets in a fixed order. other: converts what JSON has no type for."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part, other) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, other) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(str(plain(part, other)) for part in value)
    return other(value)


def _named(value: Any) -> str:
    """A value that JSON has no type for, without anything that prints a memory address."""
    return str(value) if type(value).__name__ == "AddedToken" else type(value).__name__


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
