from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomia.compress.catalogue import BITS, CATALOGUE, EMBEDDING_TYPES, YES_NO, MethodKind, methods
from anomia.compress.spec import parse_arm
from anomia.compress.steps import (
    WHOLE,
    Arm,
    Calibration,
    Checkpoint,
    Embeddings,
    Pattern,
    Prune,
    Quantize,
    Reshape,
    Update,
)
from anomia.errors import StudyError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("base", ()),
        ("magnitude:0.5", (Prune("magnitude", 0.5),)),
        ("wanda:2:4,calibration=balanced", (Prune("wanda", Pattern(2, 4), Calibration("balanced")),)),
        ("sparsegpt:4:8", (Prune("sparsegpt", Pattern(4, 8)),)),
        ("mwanda:0.5", (Prune("mwanda", 0.5),)),
        ("wanda:0.6,allocation=owl,samples=64", (Prune("wanda", 0.6, Calibration(samples=64), "owl"),)),
        ("int8", (Quantize("int8"),)),
        ("int4:group=128", (Quantize("int4", options=(("group", 128),)),)),
        ("int4,group=64", (Quantize("int4", options=(("group", 64),)),)),
        ("wanda:0.5+update", (Prune("wanda", 0.5, updates=(Update("update"),)),)),
        (
            "ria:2:4,permute=no+dsnot,cycles=9+update,solver=admm+gptq:4+embeddings:q6_k",
            (
                Prune(
                    "ria",
                    Pattern(2, 4),
                    options=(("permute", False),),
                    updates=(
                        Update("dsnot", options=(("cycles", 9),)),
                        Update("update", options=(("solver", "admm"),)),
                    ),
                ),
                Quantize("gptq", bits=4),
                Embeddings("q6_k"),
            ),
        ),
        (
            "gptq:3,group=64,symmetric=no,order=act,calibration=demo",
            (
                Quantize(
                    "gptq",
                    3,
                    Calibration("demo"),
                    options=(("group", 64), ("symmetric", False), ("order", "act")),
                ),
            ),
        ),
        (
            "shortgpt:0.25,samples=4+int8",
            (Reshape("shortgpt", 0.25, Calibration(samples=4)), Quantize("int8")),
        ),
        ("checkpoint:owner/model-GPTQ", (Checkpoint("owner/model-GPTQ"),)),
        ("checkpoint:C:/a%2Bb%2Cc%25", (Checkpoint("C:/a+b,c%"),)),
        ("wanda:0.5+int8", (Prune("wanda", 0.5), Quantize("int8"))),
        (
            "wanda:0.5,calibration=file:/x/y.jsonl",
            (Prune("wanda", 0.5, Calibration("file:/x/y.jsonl")),),
        ),
    ],
)
def test_reads(text: str, steps: tuple[object, ...]) -> None:
    arm = parse_arm(text)
    assert arm.steps == steps
    assert parse_arm(str(arm)) == arm


def test_canonical_text_is_the_default_name() -> None:
    assert parse_arm("wanda:0.50 + int8") == Arm("wanda:0.5+int8", (Prune("wanda", 0.5), Quantize("int8")))
    assert parse_arm("wanda:0.5", name="ours").name == "ours"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("wander:0.5", "did you mean 'wanda'"),
        ("wanda", "needs a sparsity"),
        ("wanda:0", "between 0 and 1"),
        ("wanda:1.0", "between 0 and 1"),
        ("wanda:nan", "between 0 and 1"),
        ("wanda:half", "neither a sparsity"),
        ("wanda:4:2", "not a pattern"),
        ("wanda:0:4", "not a pattern"),
        ("wanda:0.5,calibraton=c4", "did you mean 'calibration'"),
        ("wanda:0.5,calibration", "has no value"),
        ("wanda:0.5,samples=0", "positive whole number"),
        ("wanda:0.5,samples=1,samples=2", "given twice"),
        ("wanda:0.5,allocation=owls", "did you mean 'owl'"),
        ("wanda:2:4,allocation=owl", "its own sparsity"),
        ("magnitude:0.5,calibration=c4", "no calibration text"),
        ("int8+wanda:0.5", "can't follow"),
        ("wanda:0.5+checkpoint:x", "only come first"),
        ("wanda:0.5+", "no method"),
        ("checkpoint:", "checkpoint:MODEL"),
        ("nf4:group=64", "is an option, and this method takes none"),
        ("gptq", "write gptq:BITS"),
        ("gptq:5", "2, 3, 4, 8 bits"),
        ("gptq:4,symmetric=maybe", "unknown symmetric 'maybe'"),
        ("awq:4,order=act", "unknown option 'order'"),
        ("int4,symmetric=no", "unknown option 'symmetric'"),
        ("update", "a pruning step right before it, as in wanda:0.5\\+update"),
        ("int8+update", "a pruning step right before it"),
        ("wanda:0.5+update,solver=exact", "unknown solver 'exact'"),
        ("wanda:0.5+gptq:4+int8", "can't follow"),
        ("embeddings:q6_k+gptq:4", "can't follow"),
        ("embeddings:q7", "embeddings:TYPE"),
        ("wanda:0.5+slicegpt:0.25", "drop whole parts first"),
        ("checkpoint:x+magnitude:0.1+shortgpt:0.25", "drop whole parts first"),
        ("magnitude:2:4+alps:0.3", "would undo magnitude:2:4"),
        ("shortgpt:2", "share must lie between 0 and 1"),
        ("shortgpt", "no share"),
        ("ria:0.5,permute=no", "permute is for patterns"),
        ("wanda:2:4,permute=no", "unknown option 'permute'"),
    ],
)
def test_faults_name_the_remedy(text: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        parse_arm(text)


targets = st.one_of(
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.tuples(st.integers(1, 31), st.integers(1, 32)).map(lambda p: Pattern(p[0], p[0] + p[1])),
)
counts = st.none() | st.integers(1, 10**6)
words = st.text(min_size=1).filter(lambda s: s == s.strip())
calibrations = st.builds(Calibration, st.none() | words, counts, counts, counts)


def options_of(name: str) -> st.SearchStrategy[tuple[tuple[str, object], ...]]:
    """Some of a method's own options, in the catalogue's order."""
    values = {
        option.name: st.none()
        | (
            st.integers(1, 10**6)
            if option.choices is None
            else st.booleans()
            if option.choices == YES_NO
            else st.sampled_from(option.choices)
        )
        for option in CATALOGUE[name].options
    }
    return st.fixed_dictionaries(values).map(
        lambda given: tuple((key, given[key]) for key in values if given[key] is not None)
    )


def steps_of(*kinds: MethodKind) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name in methods(*kinds) if CATALOGUE[name].calibrated])


updates = steps_of(MethodKind.UPDATE).flatmap(
    lambda name: st.builds(Update, st.just(name), options=options_of(name))
)
prunes = st.tuples(steps_of(MethodKind.PRUNE), targets).flatmap(
    lambda chosen: st.builds(
        Prune,
        st.just(chosen[0]),
        st.just(chosen[1]),
        calibrations,
        st.none() | st.just("uniform"),
        # What changes all blocks at once comes last.
        st.lists(updates, max_size=2)
        .filter(
            lambda found: (
                len(found) < 2
                or (
                    found[1].method != "regrow" and (found[0].method not in WHOLE or found[1].method in WHOLE)
                )
            )
        )
        .map(tuple),
        options=options_of(chosen[0])
        if isinstance(chosen[1], Pattern)
        else options_without_patterns(chosen[0]),
    )
)


def options_without_patterns(name: str) -> st.SearchStrategy[tuple[tuple[str, object], ...]]:
    only = {option.name for option in CATALOGUE[name].options if option.pattern_only}
    return options_of(name).map(lambda given: tuple(pair for pair in given if pair[0] not in only))


reshapes = st.builds(
    Reshape,
    st.sampled_from(methods(MethodKind.RESHAPE)),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    calibrations,
)
quantizes = st.sampled_from(methods(MethodKind.ROUND)).flatmap(
    lambda name: st.builds(Quantize, st.just(name), options=options_of(name))
) | st.sampled_from(methods(MethodKind.QUANTIZE)).flatmap(
    lambda name: st.builds(
        Quantize, st.just(name), st.sampled_from(BITS), calibrations, options=options_of(name)
    )
)
checkpoints = st.builds(Checkpoint, words)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    first=st.none() | checkpoints,
    shaped=st.lists(reshapes, max_size=2),
    middle=st.lists(prunes, max_size=2).filter(lambda steps: [step.method for step in steps[1:]] != ["alps"]),
    last=st.none() | quantizes,
    tables=st.none() | st.builds(Embeddings, st.sampled_from(EMBEDDING_TYPES)),
)
def test_writing_and_reading_agree(
    first: Checkpoint | None,
    shaped: list[Reshape],
    middle: list[Prune],
    last: Quantize | None,
    tables: Embeddings | None,
) -> None:
    steps = tuple(step for step in (first, *shaped, *middle, last, tables) if step is not None)
    arm = parse_arm(str(Arm("", steps)))
    assert arm.steps == steps
    assert parse_arm(str(arm)) == arm
