"""Values that are NaN, infinite or too large end in one message, never in fewer zeros than were asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from anomia.compress.allocation import outlier_ratio
from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Windows, make_batches
from anomia.compress.folder import compress_folder
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods import gradients
from anomia.compress.methods.magnitude import UNREACHED
from anomia.compress.methods.masks import lowest
from anomia.compress.methods.prunerzero import prunerzero_cut
from anomia.compress.methods.zeros import DEAD_TIES, TIES, check_zeros
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.pipeline import FAINT, SILENT
from anomia.compress.report import MatrixReport
from anomia.compress.shards import check_finite, check_weights, count_broken
from anomia.compress.spec import parse_arm
from anomia.compress.statistics import InputStatistic, SharedInput
from anomia.compress.steps import Pattern
from anomia.compress.walk import try_walk
from anomia.errors import CompressionError, RefusedError
from tests.compress.architectures import tiny
from tests.compress.conftest import make_test_windows, tiny_model
from tests.compress.test_folder import save_model, save_tokenizer, weights, write_text

Make = Callable[..., Any]


@pytest.fixture
def windows() -> Windows:
    """Eight windows in two languages."""
    made = make_test_windows([24] * 8)
    return replace(made, languages=("english", "russian") * 4)


@pytest.fixture
def make_model() -> Make:
    return lambda: tiny_model("llama")


def pruned(model: Any, arm: str, windows: Windows) -> Any:
    (step,) = parse_arm(arm).steps
    return compress(model, step, None if arm.startswith("magnitude") else windows)


@pytest.mark.parametrize(
    "arm", ["wanda:0.5", "wanda:2:4", "wanda:0.5,allocation=owl", "sparsegpt:0.5", "mwanda:0.5"]
)
def test_activations_that_are_too_large_are_refused(make_model: Make, windows: Windows, arm: str) -> None:
    """1e25 is a float32 whose square is not."""
    model = make_model()
    find_blocks(model).modules[1].input_layernorm.weight.data.fill_(1e25)
    with pytest.raises(CompressionError, match=r"NaN, infinite or too large.*--dtype bfloat16 or float32"):
        pruned(model, arm, windows)


DAMAGED = "has 1 of [0-9,]+ values that are NaN or infinite: the weights themselves are damaged"
ALL_METHODS = [
    *("magnitude:0.5", "wanda:0.5", "ria:2:4", "sparsegpt:0.5", "alps:0.5", "wandapp:0.5", "mwanda:0.5", "prunerzero:0.5", "fisher:0.5"),
    *("wanda:0.5,allocation=owl", "wanda:0.5+dsnot", "wanda:0.5+update", "gptq:4,group=8", "awq:4,group=8"),
    *("flap:0.2", "slicegpt:0.2", "shortgpt:0.34", "embeddings:q8_0"),
]  # fmt: skip


@pytest.mark.parametrize("arm", ALL_METHODS)
def test_a_damaged_weight_is_named_wherever_it_is(make_model: Make, windows: Windows, arm: str) -> None:
    """Not the matrix that it makes the inputs of NaN; a wider type wouldn't help."""
    for place in (
        "model.layers.1.mlp.up_proj",
        "model.layers.2.input_layernorm",
        "model.embed_tokens",
        "lm_head",
    ):
        for value in (float("nan"), float("inf")):
            model = make_model()
            model.get_parameter(f"{place}.weight").data.view(-1)[-1] = value
            with pytest.raises(RefusedError, match=rf"{place}\.weight {DAMAGED}"):
                compress(model, parse_arm(arm).steps[0], windows)


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "wanda:0.5", "gptq:4,group=8", "flap:0.2", "wanda:0.5,allocation=owl"]
)
@pytest.mark.parametrize("place", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_a_damaged_weight_in_files_is_named(arm: str, place: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    tensors = weights(tmp_path / "in")
    tensors[place].view(-1)[-1] = float("nan")
    save_file(tensors, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    with pytest.raises(RefusedError, match=f"{re.escape(place)} {DAMAGED}"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, options)
    assert not (tmp_path / "out").exists()


def test_weights_too_large_for_float16_ask_for_a_wider_type(make_model: Make, windows: Windows) -> None:
    model = make_model()
    find_blocks(model).modules[1].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(
        RefusedError, match=r"1\.mlp\.up_proj\.weight has 1 .*too large for float16; load them in a wider"
    ):
        pruned(model.half(), "wanda:0.5", windows)


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "wanda:0.25", "wanda:2:4", "sparsegpt:0.75", "sparsegpt:4:8", "mwanda:0.5"]
)
def test_every_matrix_has_the_zeros_that_were_asked_for(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    (step,) = parse_arm(arm).steps
    for matrix in report.matrices:
        wanted = step.target.sparsity if isinstance(step.target, Pattern) else step.target
        if "mwanda" not in arm:
            assert matrix.sparsity == pytest.approx(wanted, abs=0.02)


def test_too_few_zeros_are_an_error() -> None:
    for target in (0.5, Pattern(2, 4)):
        check_zeros(MatrixReport("m", (10, 100), 500), target, "block")
        with pytest.raises(
            CompressionError, match=r"block\.m has 480 zeros after pruning where 500 were asked for"
        ):
            check_zeros(MatrixReport("m", (10, 100), 480), target, "block")


def test_a_model_in_float16_that_overflows_ends_in_one_message(make_model: Make, windows: Windows) -> None:
    model = make_model().half()
    find_blocks(model).modules[0].mlp.up_proj.weight.data.fill_(6e4)
    find_blocks(model).modules[0].mlp.gate_proj.weight.data.fill_(6e4)
    assert not torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    with pytest.raises(CompressionError, match="wider type"):
        pruned(model, "wanda:0.5", windows)


def _blocks(model: Any) -> Any:
    return find_blocks(model).modules


def _notes(report: Any, part: str) -> set[str]:
    return {matrix.note for matrix in report.matrices if part in matrix.name}


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "wanda:0.5", "wanda:2:4", "sparsegpt:0.5", "ria:0.5", "mwanda:0.5"]
)
def test_what_was_asked_for_needs_no_note(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    assert {matrix.note for matrix in report.matrices} == {""}


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "sparsegpt:0.5", "wanda:2:4"])
def test_zeros_that_were_there_before_are_named(make_model: Make, windows: Windows, arm: str) -> None:
    model = make_model()
    for block in _blocks(model):
        weight = block.mlp.up_proj.weight.data
        weight[weight.abs() < weight.abs().flatten().kthvalue(int(weight.numel() * 0.8)).values] = 0
    report = pruned(model, arm, windows)
    (note,) = _notes(report, "up_proj")
    assert note.startswith("more zeros than asked for: weights were zero before")
    assert _notes(report, "q_proj") == {""}
    assert any(warning.startswith("3 matrices: more zeros") for warning in report.warnings)


def test_weights_too_small_for_float16_are_named(make_model: Make, windows: Windows) -> None:
    model = make_model()
    _blocks(model)[1].mlp.down_proj.weight.data *= 1e-9
    report = pruned(model.half(), "wanda:0.5", windows)
    assert [m.name for m in report.matrices if "as they are loaded (float16)" in m.note] == [
        "model.layers.1.mlp.down_proj"
    ]
    assert max(m.sparsity for m in report.matrices) == 1


@pytest.mark.parametrize(
    ("arm", "noted"), [("sparsegpt:0.3", True), ("wanda:0.3", False), ("sparsegpt:0.5", False)]
)
def test_dead_inputs_that_lose_more_than_was_asked_for_are_named(
    make_model: Make, windows: Windows, arm: str, noted: bool
) -> None:
    """Six of 16 inputs: SparseGPT removes all their weights, 37.5 %."""
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data[:6] = 0
    report = pruned(model, arm, windows)
    (matrix,) = (m for m in report.matrices if m.name == "model.layers.1.self_attn.q_proj")
    assert matrix.dead_columns == 6
    assert ("inputs that no calibration token excited" in matrix.note) == noted
    assert (matrix.sparsity > 0.32) == (noted or "0.5" in arm)


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "gptq:4,group=8", "mwanda:0.5"])
@pytest.mark.parametrize("scale", [1e-24, 0.0])
def test_inputs_whose_squares_are_zero_are_not_scored(
    make_model: Make, windows: Windows, arm: str, scale: float
) -> None:
    """Every score would be the same: the first columns would go, whatever the weights."""
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data *= scale
    report = pruned(model, arm, windows)
    note = FAINT if scale else SILENT
    named = [m.name for m in report.matrices if m.note == note]
    assert named == [f"model.layers.1.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    assert f"4 matrices: {note}" in report.warnings
    assert not any(m.note for m in report.matrices if m.name not in named)
    weight = _blocks(model)[1].self_attn.q_proj.weight
    if "gptq" not in arm:
        assert not torch.equal((weight == 0).float().mean(dim=0), (weight == 0).float().mean(dim=0).round())


@pytest.mark.parametrize(
    ("arm", "save_as"),
    [
        *(
            (arm, "dense")
            for arm in ("magnitude:0.5", "int8", "wanda:0.5", "gptq:4,group=8", "shortgpt:0.34")
        ),
        ("gptq:8,group=8", "compressed-tensors"),
        ("awq:8,group=8", "gptq"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_that_overflow_after_finite_states_are_refused(
    arm: str, save_as: Any, tied: bool, tmp_path: Path
) -> None:
    """The last norm's weights fit float16 and its states too; the head's products don't."""
    model = save_model("llama", tmp_path / "in", tie_word_embeddings=tied)
    model.model.norm.weight.data *= 4e4
    model.save_pretrained(tmp_path / "in")
    text = TextOptions(source=write_text(tmp_path / "text.txt"))
    steps = parse_arm(arm).steps
    with pytest.raises(RefusedError, match="its logits are NaN or infinite"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            steps,
            FolderOptions(text=text, dtype="float16", save_as=save_as),
        )
    assert not (tmp_path / "out").exists()
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        steps,
        FolderOptions(text=text, dtype="bfloat16", save_as=save_as),
    )
    assert report.streamed
    assert not any("wasn't run" in warning for warning in report.compression.warnings)


@pytest.mark.parametrize("arm", ["int8", "gptq:4,group=8", "wanda:0.5"])
def test_weights_that_float16_makes_zero_are_told(arm: str, tmp_path: Path) -> None:
    """Errors are those of the weights as they are loaded, and show nothing."""
    model = save_model("llama", tmp_path / "in")
    model.model.layers[1].self_attn.v_proj.weight.data *= 1e-7
    model.save_pretrained(tmp_path / "in")
    text = TextOptions(source=write_text(tmp_path / "text.txt"))
    for dtype, told in (("float16", True), ("bfloat16", False)):
        options = FolderOptions(text=text, dtype=dtype)
        report = compress_folder(str(tmp_path / "in"), tmp_path / dtype, parse_arm(arm).steps, options)
        assert report.streamed
        found = [
            warning for warning in report.compression.warnings if "float16 makes more than 1 %" in warning
        ]
        assert len(found) == told
        assert all("1 tensor zero (model.layers.1.self_attn.v_proj.weight: " in warning for warning in found)


@pytest.mark.parametrize("kind", ["gemma3n_text", "cpmant", "xlnet"])
def test_the_last_check_takes_states_in_any_order(kind: str, tmp_path: Path) -> None:
    """Gemma 3n has several streams of states, CPM-Ant tokens of its own, and XLNet the tokens before the texts."""
    tiny(kind).save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm("magnitude:0.5").steps)
    assert report.streamed
    assert not any("wasn't run" in warning for warning in report.compression.warnings)


def test_a_gradient_of_zero_is_told_apart(make_model: Make, windows: Windows) -> None:
    """Inputs that are zero, outputs that nothing reads, and gradients too small for their squares in float32."""
    model = make_model()
    first, second, third = _blocks(model)
    first.input_layernorm.weight.data[:] = 0
    second.self_attn.o_proj.weight.data[:] = 0
    third.mlp.down_proj.weight.data *= 1e-30
    report = pruned(model, "prunerzero:0.5", windows)
    notes = {m.name.removeprefix("model.layers."): m.note for m in report.matrices if "gradient" in m.note}
    assert notes == {
        **{f"0.self_attn.{name}_proj": gradients.SILENT for name in "qkvo"},
        **{f"1.self_attn.{name}_proj": gradients.ZERO for name in "qkv"},
        **{f"2.mlp.{name}_proj": gradients.ZERO for name in ("gate", "up")},
    }


def test_an_expert_without_tokens_has_no_gradient() -> None:
    model = tiny_model("mixtral")
    for block in _blocks(model):
        block.mlp.gate.weight.data[3] = 0
        block.mlp.gate.weight.data[:3] = block.mlp.gate.weight.data[:1]
    report = pruned(model, "prunerzero:0.5", make_test_windows([24]))
    unreached = {m.name.split("[")[1] for m in report.matrices if m.note.startswith(UNREACHED)}
    assert unreached
    assert not any(
        note.startswith((gradients.SILENT, gradients.ZERO)) for note in (m.note for m in report.matrices)
    )


@pytest.mark.parametrize("arm", ["wanda:0.05", "magnitude:0.001", "sparsegpt:0.001", "ria:0.001"])
def test_a_sparsity_below_one_weight_is_named(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    nothing = [matrix for matrix in report.matrices if not matrix.zeros]
    assert nothing
    assert all(matrix.note.startswith("nothing was pruned") for matrix in nothing)
    assert all(not matrix.note for matrix in report.matrices if matrix.zeros)


@pytest.mark.parametrize("arm", ["shortgpt:0.34", "flap:0.2", "slicegpt:0.2"])
def test_reshaping_names_states_that_are_no_numbers(make_model: Make, windows: Windows, arm: str) -> None:
    """Not "blocks depend on more than their inputs": NaN differs from NaN."""
    model = make_model()
    _blocks(model)[1].mlp.down_proj.weight.data *= 3e38
    with pytest.raises(
        CompressionError, match=r"leave model\.layers\.1 are NaN or infinite in .*float32 is too narrow"
    ):
        pruned(model, arm, windows)
    model = make_model()
    _blocks(model)[0].mlp.down_proj.weight.data[3, 2] = float("nan")
    with pytest.raises(
        CompressionError, match=r"layers\.0\.mlp\.down_proj\.weight has 1 of 384 values that are NaN"
    ):
        pruned(model, arm, windows)


def test_states_that_are_no_numbers_are_no_fault_of_the_walk(make_model: Make, windows: Windows) -> None:
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data[:] = float("inf")
    tried = try_walk(model, find_blocks(model), make_batches(windows)[0])
    assert (tried.fault, tried.padded) == ("", True)


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "shortgpt:0.34", "prunerzero:0.5"])
def test_text_that_the_model_has_no_place_for_is_named(make_model: Make, arm: str) -> None:
    with pytest.raises(
        CompressionError, match=r"the id 1\d\d on the calibration text, .* embeddings for 96 tokens"
    ):
        pruned(make_model(), arm, make_test_windows([24] * 4, vocabulary=200))
    gpt2 = tiny_model("gpt2")
    message = r"has 150 tokens, and GPT2LMHeadModel has 128 positions.*--calibration-tokens 128"
    with pytest.raises(CompressionError, match=message):
        pruned(gpt2, arm, make_test_windows([24, 150]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_large_tensor_is_checked_in_pieces(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """`isfinite` of a whole embedding took more memory than any method."""
    values = torch.zeros(3, 1 << 21)
    values[0, 0] = values[2, -1] = float("nan")
    sizes, plain = [], torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda part: sizes.append(part.numel()) or plain(part))
    with pytest.raises(RefusedError, match=r"embed has 2 of 6,291,456 values"):
        check_finite({"embed": values.to(dtype)})
    assert max(sizes) == 1 << 22


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_broken_values_are_counted_in_any_layout(dtype: torch.dtype) -> None:
    """Also where finite values have no finite sum, and in transposed views of several experts."""
    values = torch.full((3, 40, 50), torch.finfo(dtype).max, dtype=dtype)
    assert count_broken(values) == count_broken(values.mT) == 0
    values[1, 2, 3], values[2, 0, 0] = float("inf"), float("-inf")
    assert count_broken(values) == count_broken(values.mT) == count_broken(values.transpose(0, 2)) == 2
    assert count_broken(values[0]) == count_broken(values[0].T) == 0
    assert count_broken(values[1].T) == 1


TINY = 2.0**-100


@pytest.mark.parametrize(
    "arm",
    [
        *("wanda:0.5", "wanda:2:4", "mwanda:2:4", "ria:0.5", "wandapp:0.5"),
        *("sparsegpt:0.5", "sparsegpt:2:4", "alps:0.5", "alps:2:4", "gptq:4,group=8", "gptq:2,group=8"),
        *("wanda:0.5+update", "wanda:0.5+update,solver=admm", "awq:4,group=8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("size", "inputs"), [(TINY, 2.0**-50), (2.0**40, 2.0**20), (2.0**-115, 1.0)])
def test_scales_of_weights_and_inputs_change_nothing(
    make_model: Make, windows: Windows, arm: str, size: float, inputs: float
) -> None:
    """Products of squares have no bits left in float32: all scores would be equal, and the error of the output zero."""
    if "awq" in arm and inputs != 1:
        pytest.skip("scales for inputs are roots of their sizes, which are rounded")
    if "wandapp" in arm and size > 1:
        pytest.skip("gradients of torch's attention for CPUs are NaN at scores of this size")
    names = ("q_proj", "k_proj", "v_proj") if "awq" in arm else ("q_proj", "k_proj")
    found = []
    for weights_by, inputs_by in ((1.0, 1.0), (size, inputs)):
        model = make_model()
        block = _blocks(model)[1]
        block.input_layernorm.weight.data *= inputs_by
        for name in names:
            block.self_attn.get_submodule(name).weight.data *= weights_by
        # The same residual stream in both.
        block.self_attn.o_proj.weight.data.zero_()
        report = pruned(model, arm, windows)
        (matrix,) = (m for m in report.matrices if m.name == "model.layers.1.self_attn.q_proj")
        found.append((block.self_attn.q_proj.weight / weights_by, matrix))
    assert torch.equal(found[0][0] == 0, found[1][0] == 0)
    # 2**-115 is so near to the least normal number that parts of a sum lose a bit, on some processors.
    nearness = 1e-6 if size < TINY else 0.0
    torch.testing.assert_close(found[0][0], found[1][0], rtol=nearness, atol=nearness)
    one, two = found[0][1], found[1][1]
    if one.error and two.error:  # sums differ in their last digits between processors
        assert two.error == pytest.approx(one.error, rel=1e-6)
        two = two._replace(error=one.error)
    assert one == two


def test_a_threshold_that_no_row_exceeds_is_named(make_model: Make, windows: Windows) -> None:
    """DSnoT's is a number, not a share of the output."""
    model = make_model()
    _blocks(model)[1].mlp.up_proj.weight.data *= TINY
    report = pruned(model, "wanda:0.5+dsnot", windows)
    (note,) = _notes(report, "1.mlp.up_proj")
    assert note.startswith("dsnot swapped nothing")
    assert not any("swapped nothing" in note for note in _notes(report, "2.mlp"))


def test_a_metric_with_squares_does_not_underflow() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(8, 16, generator=generator), torch.rand(8, 16, generator=generator)
    masks = [prunerzero_cut(weight * scale, gradient, 0.5).mask for scale in (1.0, TINY)]
    assert torch.equal(*masks)


def test_outliers_of_small_weights_are_found() -> None:
    weight = torch.rand(8, 16, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 100
    statistic = InputStatistic(torch.full((16,), 2.0**-100), tokens=4)
    ratios = [
        outlier_ratio([SharedInput((WeightMatrix("m", weight * scale),), statistic)]) for scale in (1.0, TINY)
    ]
    assert ratios[0] == ratios[1] > 0


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "ria:0.5", "magnitude:2:4"])
def test_a_cut_that_order_decides_is_named(make_model: Make, windows: Windows, arm: str) -> None:
    """Weights of one size, as in ternary models; inputs are equal too."""
    model = make_model()
    block = _blocks(model)[1]
    block.mlp.up_proj.weight.data.sign_()
    assert {matrix.note for matrix in pruned(make_model(), arm, windows).matrices} == {""}
    report = pruned(model, arm, windows)
    tied = {m.name for m in report.matrices if m.note == TIES}
    assert tied == (set() if arm == "wanda:0.5" or arm == "ria:0.5" else {"model.layers.1.mlp.up_proj"})
    assert any(f"1 matrix: {TIES}" in warning for warning in report.warnings) == bool(tied)


@pytest.mark.parametrize(
    "arm", ["wanda:0.5", "wanda:2:4", "ria:0.5", "mwanda:0.5", "wandapp:0.5", "prunerzero:0.5"]
)
@pytest.mark.parametrize(("dead", "noted"), [(2, False), (15, True)])
def test_a_cut_among_dead_inputs_is_named(
    make_model: Make, windows: Windows, arm: str, dead: int, noted: bool
) -> None:
    """With 15 of 16 inputs dead, half of every row has the score zero whichever weights are chosen."""
    model = make_model()
    _blocks(model)[1].post_attention_layernorm.weight.data[:dead] = 0
    report = pruned(model, arm, windows)
    assert _notes(report, "1.mlp.up_proj") == ({DEAD_TIES} if noted else {""})
    assert not any(DEAD_TIES in matrix.note for matrix in report.matrices if "1.mlp" not in matrix.name)


def test_dead_inputs_without_weights_are_no_ties() -> None:
    """A model pruned before: its zeros are gone whichever of them are chosen."""
    scores, weight = torch.zeros(2, 4), torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert lowest(scores, 2, weight).at_zero == 0
    assert lowest(scores, 3, weight).at_zero == 1
    assert lowest(scores, 2, torch.ones(2, 4)).at_zero == 4


def test_weights_that_are_zero_are_no_ties() -> None:
    assert lowest(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 2).by_order == 0
    assert lowest(torch.tensor([[1.0, 1.0, 1.0, 0.5]]), 2).by_order == 1
    assert lowest(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), 2).by_order == 0


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5"])
def test_a_block_that_is_in_the_list_twice_is_refused(make_model: Make, windows: Windows, arm: str) -> None:
    """It counted as shared with itself, and stayed dense without a word."""
    model = make_model()
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(CompressionError, match="the same block"):
        pruned(model, arm, windows)


def test_a_negative_id_is_named(make_model: Make) -> None:
    windows = make_test_windows([24] * 4)
    ids = tuple((-1, *row[1:]) for row in windows.token_ids)
    with pytest.raises(CompressionError, match="the id -1 on the calibration text"):
        pruned(make_model(), "wanda:0.5", replace(windows, token_ids=ids))


def test_a_bias_is_not_taken_for_a_mask() -> None:
    """GPT-2's `attn.bias` may hold −∞; its `attn.c_attn.bias` ends in the same letters."""
    mask = {
        "h.0.attn.bias": torch.full((1, 1, 4, 4), -torch.inf),
        "h.0.attn.masked_bias": torch.tensor(-torch.inf),
    }
    check_weights(mask)
    for name in ("h.0.attn.c_attn.bias", "h.0.attn.bias"):
        with pytest.raises(RefusedError, match=f"{name} has 1 of 4 values"):
            check_weights(mask | {name: torch.tensor([0.0, torch.nan, 1.0, 2.0])})


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "gptq:4,group=8"])
def test_an_error_tells_how_far_the_model_in_memory_is_changed(
    make_model: Make, windows: Windows, arm: str
) -> None:
    model = make_model()
    find_blocks(model).modules[1].input_layernorm.weight.data.fill_(1e25)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CompressionError) as caught:
        pruned(model, arm, windows)
    assert caught.value.__notes__ == [
        "the model in memory may be changed in its first 2 blocks; load it again"
    ]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {name[: len("model.layers.0")] for name in changed} <= {"model.layers.0", "model.layers.1"}


def test_an_error_of_token_tables_tells_that_they_may_be_changed(make_model: Make, windows: Windows) -> None:
    model = make_model()
    model.model.embed_tokens.weight.data[-1] = 1e30
    with pytest.raises(CompressionError, match="too large for the half-precision scales") as caught:
        pruned(model, "embeddings:q8_0", windows)
    assert caught.value.__notes__ == ["the model in memory may be changed in its token tables; load it again"]


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ("magnitude:5:9", ""),
        ("gptq:4,group=7", ""),
        ("wanda:0.5", "model.layers.2.mlp.down_proj.weight"),
        ("embeddings:q8_0", "lm_head.weight"),
        ("flap:0.2", "model.norm.weight"),
    ],
)
def test_what_is_refused_before_the_work_changes_nothing(
    make_model: Make, windows: Windows, arm: str, name: str
) -> None:
    model = make_model()
    if name:
        model.get_parameter(name).data.view(-1)[0] = torch.nan
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CompressionError) as caught:
        pruned(model, arm, windows)
    assert not hasattr(caught.value, "__notes__")
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[key].nan_to_num(7)), key
