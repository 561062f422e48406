"""Find differences in how another harness ran base and a compressed model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anomia.interop.filters import counterpart
from anomia.interop.samples import SampleFile
from anomia.interop.settings import MODEL_PATHS, Settings, settings_of
from anomia.models.difference import KINDS, Difference, Severity, shown

# Settings that change no answer: the path of the weights, devices and batch sizes.
_HARMLESS = re.compile(
    "|".join(MODEL_PATHS)
    + r"|revision|subfolder|model_(sha|revision|num_parameters|size)|\w*batch_sizes?|device\w*|gpus"
    r"|use_cache|cache_dir|download_dir|parallelize|model_parallel|max_(memory_per_gpu|cpu_memory|retries|num_seqs)"
    r"|(tensor|data|pipeline)_parallel_size|gpu_memory_utili[sz]ation|swap_space|offload_folder|num_concurrent|timeout"
    r"|base_url|trust_remote_code|low_cpu_mem_usage|tokenizer_pad_token|enforce_eager"
)
# Settings that are compression itself, or matter little because answers are greedy and questions are joined.
_NOTED: Mapping[str, str] = {
    r"(model_|torch_)?dtype": "another precision rounds differently, which can flip close answers",
    r"load_in_\dbit|bnb_\w+|quantization\w*|\w*gptq\w*|\w*awq\w*|gguf_file|kv_cache_dtype": "it is compression",
    r"peft|delta|(peft|delta)_sha|lora\w*": "it changes the weights",
    r"limit|max_samples": "questions that one of the two was not asked are excluded",
    r"(random_|numpy_|torch_)?seed": "it changes sampled answers only",
    r"\w+_version|lighteval_sha": "another version may ask, cut or compute differently",
    r"attn_implementation": "attention is computed in another order, which can flip close answers",
}
_CONFOUNDING: Mapping[str, str] = {
    r"add_bos_token|add_special_tokens|tokenizer_bos_token|prefix_token_id": "prompts begin with different tokens",
    r"tokenizer_eos_token|eot_token_id": "answers end at other places",
    r"tokenizer\w*|use_fast_tokenizer|pairwise_tokenization": "prompts become different tokens",
    r"max_length|max_model_len\w*|truncation|truncate_prompt": "long prompts are cut at a different place",
    r"\w*chat_template\w*|system_\w+|fewshot_\w+|n-shot|num_fewshot\w*|enable_thinking": "different prompts are asked",
    r"gen_kwargs|generation_kwargs|repeats": "answers are generated differently",
    r"filter_list|metric_list|task version": "answers are asked for or graded differently",
    r"backend": "another program tokenizes and computes",
}
_OTHERWISE = "it may change prompts, tokens or what is computed"
_DEFAULTS = {"dtype": "auto"}


def run_differences(
    tool: str, base: Sequence[SampleFile], arm: Sequence[SampleFile]
) -> tuple[Difference, ...] | None:
    """Differences in how the harness ran two models, most serious first; None without results files."""
    pairs = [
        (mine, its)
        for file in arm
        if (other := counterpart(base, file)) is not None
        and (mine := settings_of(tool, other)) is not None
        and (its := settings_of(tool, file)) is not None
    ]
    if not pairs:
        return None
    found = dict.fromkeys(difference for pair in pairs for difference in _between(*pair))
    return tuple(sorted(found, key=lambda difference: -KINDS.index(difference.kind)))


def _between(base: Settings, other: Settings) -> list[Difference]:
    mine, its = _arguments(base, base), _arguments(other, base)
    names = [*mine, *(name for name in its if name not in mine)]
    rows = [(name, mine.get(name), its.get(name)) for name in names]
    # A setting that only one of two versions writes says nothing.
    rows += [(name, base.others[name], other.others[name]) for name in base.others if name in other.others]
    return [difference(name, one, another) for name, one, another in rows if one != another]


def _arguments(settings: Settings, base: Settings) -> dict[str, str | None]:
    """The arguments, without defaults and without a tokenizer that is the model's own or base's."""
    own = [
        each.arguments[name] for each in (settings, base) for name in MODEL_PATHS if name in each.arguments
    ]
    return {
        name: value
        for name, value in settings.arguments.items()
        if _DEFAULTS.get(name) != value and not (name == "tokenizer" and value in own)
    }


def difference(name: str, base: str | None, other: str | None) -> Difference:
    """A setting that differs, with what it changes."""
    kind, why = _meaning(name)
    return Difference(name, kind, *_cells(base, other), why)


def _meaning(name: str) -> tuple[Severity, str]:
    if re.fullmatch(_HARMLESS, name):
        return "harmless", "it changes no answer"
    noted = next((why for pattern, why in _NOTED.items() if re.fullmatch(pattern, name)), None)
    if noted is not None:
        return "noted", noted
    why = next((why for pattern, why in _CONFOUNDING.items() if re.fullmatch(pattern, name)), _OTHERWISE)
    return "confounding", why


def _cells(base: str | None, other: str | None) -> tuple[str, str]:
    """Both values as table cells; values with a long common prefix are shown from where they differ."""
    cells = shown(base), shown(other)
    if cells[0] != cells[1] or base is None or other is None:
        return cells
    at = next(
        (n for n, (one, two) in enumerate(zip(base, other, strict=False)) if one != two),
        min(len(base), len(other)),
    )
    start = max(at - 10, 0)
    return shown(f"…{base[start:]}"), shown(f"…{other[start:]}")
