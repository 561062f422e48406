"""A tiny random model with a real tokenizer, and a small data set, for tests of the whole way."""

from __future__ import annotations

import os

# The hub's client reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hypothesis import HealthCheck, settings

from anomia.items.readers import read_questions

# On a busy machine, time says nothing about a test. A change is tested with the same inputs everywhere; new ones are
# looked for by `make test-all` and `make fuzz`.
settings.register_profile(
    "anomia",
    deadline=None,
    derandomize="ANOMIA_EXPLORE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("anomia")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<nothink>{% endif %}<answer>"
)


@pytest.fixture(autouse=True, scope="session")
def _no_figure_files() -> Iterator[None]:
    """The report at the end of a run without its figures as files, which take seconds; they have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomia.cli.report.FORMATS", ())
        yield


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not beside this checkout (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE trained on the shipped questions: 600 tokens, a BOS, no leading-space rule of its own."""
    texts = [
        q.context + q.question for qs in read_questions("demo", ["english", "russian"]).values() for q in qs
    ]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@pytest.fixture(scope="session")
def make_model(tokenizer: Any) -> Callable[..., Any]:
    """Makes a random float32 Llama of the tokenizer's vocabulary; changes go into its config."""

    def make(seed: int = 0, **changes: Any) -> Any:
        config = transformers.LlamaConfig(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 4096,
                "bos_token_id": 0,
                "eos_token_id": 1,
                **changes,
            }
        )
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.2)
        return model

    return make


@pytest.fixture(scope="session")
def model_folder(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model as an ordinary folder."""
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def damaged_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer that can't be read, which only loading it shows."""
    folder = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(model_folder, folder)
    (folder / "tokenizer.json").write_bytes(b"nothing")
    return folder


def entry(number: int, language: str = "english", **changes: Any) -> dict[str, Any]:
    """One line of a JSON-lines data set."""
    return {
        "id": f"{language}-{number}",
        "language": language,
        "context": f"In {1900 + number} the town of Place{number} was founded by Person{number} and {number} others.",
        "question": f"Who founded Place{number}?",
        "answers": [f"Person{number}"],
        **changes,
    }


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes entries as a JSON-lines file."""

    def write(entries: list[dict[str, Any]], name: str = "questions.jsonl") -> Path:
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in entries), encoding="utf-8"
        )
        return path

    return write
