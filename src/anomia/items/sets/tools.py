"""Function calls: BFCL's rows (`question`, `function`, `ground_truth`) and xLAM's (`query`, `tools`, `answers`).

Graded in steps: the output parses as calls, calls the right functions, with arguments that their JSON schemas allow,
and with the right ones. Wrong options are the right call with another function, another value, a value of another type,
or an argument missing.
"""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError, MissingExtraError
from anomia.grade import Posed, Task, TaskGrade, normalize
from anomia.items.data_set import DataSet
from anomia.items.item import Question
from anomia.items.task_rows import SUFFIXES, TaskRow, draw_for, first_wrong, packed, task_reader
from anomia.text_files import json_rows, read_bytes, unpacked

# BFCL writes Python's types.
_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
}
# As an accepted value, it says that the argument may be missing.
_OPTIONAL = ""
_FENCE = re.compile(r"```[a-z_]*\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_STARTS = 20
_OTHER_WORDS = ("Lisbon", "Nairobi", "green", "Tuesday", "Marta", "jazz", "winter", "delta")


class ToolCall(NamedTuple):
    """One call. arguments: values by name."""

    name: str
    arguments: Mapping[str, Any]


def calls_in(output: str) -> list[ToolCall] | None:
    """The calls that an output begins with or has in a code block; None if it has none that parse.

    Read are JSON (`{"name": …, "arguments": …}`, OpenAI's `{"function": …}`, `{"f": {…}}`, lists of them) and Python's
    syntax with keywords, which is parsed and never run.

    >>> calls_in('[add(a=1, b=2)]'), calls_in('{"add": {"a": 1}}')
    ([ToolCall(name='add', arguments={'a': 1, 'b': 2})], [ToolCall(name='add', arguments={'a': 1})])
    """
    for text in (*_FENCE.findall(output), output):
        found = _json_calls(text) or _python_calls(text)
        if found:
            return found
    return None


def _json_calls(text: str) -> list[ToolCall] | None:
    decoder = json.JSONDecoder(strict=False)
    starts = (match.start() for match in re.finditer(r"[{\[]", text))
    for start in itertools.islice(starts, _STARTS):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        listed = value if isinstance(value, list) else [value]
        found = [_json_call(each) for each in listed]
        if found and None not in found:
            return [call for call in found if call is not None]
    return None


def _json_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    if "description" in value:
        return None  # a function's definition again, which small models copy
    name = value.get("name", value.get("function"))
    arguments = value.get("arguments", value.get("parameters", value.get("args")))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if isinstance(name, str) and isinstance(arguments, dict):
        return ToolCall(name, arguments)
    if len(value) == 1:
        ((name, arguments),) = value.items()
        if isinstance(arguments, dict):
            return ToolCall(name, arguments)
    return None


def _python_calls(text: str) -> list[ToolCall] | None:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if len(line) > 10_000 or "(" not in line:
        return None
    try:
        body = ast.parse(line, mode="eval").body
        nodes = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
        return [_python_call(node) for node in nodes]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or any(each.arg is None for each in node.keywords):
        raise ValueError("not a call with keywords")
    return ToolCall(
        ast.unparse(node.func), {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    )


def grade(output: str, question: Posed) -> TaskGrade:
    """The share of the four steps that an output reaches; right if it reaches all."""
    wanted = _wanted(question)
    given = calls_in(output) or []
    names = sorted(call.name for call in given) == sorted(name for name, _ in wanted.calls)
    steps = [
        bool(given),
        bool(given) and names,
        bool(given) and names and all(_is_allowed(call, wanted.functions) for call in given),
        bool(given) and names and _all_right(given, wanted.calls),
    ]
    parts = tuple(float(step) for step in steps)
    return TaskGrade(sum(parts) / len(parts), all(steps), parts)


TASK = Task(
    grade=grade, parts=("parses", "right function", "valid arguments", "right arguments"), comparable=True
)


class _Wanted(NamedTuple):
    """calls: the accepted values of each argument, by call. functions: their definitions by name."""

    calls: Sequence[tuple[str, Mapping[str, Sequence[Any]]]]
    functions: Mapping[str, Any]


def _wanted(question: Posed) -> _Wanted:
    if question.target:
        target = json.loads(question.target)
        return _Wanted([(name, accepted) for name, accepted in target["calls"]], target["functions"])
    calls = calls_in(question.answers[0]) or []
    return _Wanted(
        [(call.name, {key: [value] for key, value in call.arguments.items()}) for call in calls], {}
    )


def _all_right(given: Sequence[ToolCall], wanted: Sequence[tuple[str, Mapping[str, Sequence[Any]]]]) -> bool:
    """Whether the calls can be matched with those wanted, in any order."""
    if len(given) > 6:  # too many to try every order; long answers keep the order asked for
        return all(_is_right(call, *each) for call, each in zip(given, wanted, strict=True))
    return any(
        all(_is_right(call, *each) for call, each in zip(given, order, strict=True))
        for order in itertools.permutations(wanted)
    )


def _is_right(call: ToolCall, name: str, accepted: Mapping[str, Sequence[Any]]) -> bool:
    needed = {key for key, values in accepted.items() if _OPTIONAL not in values}
    if call.name != name or not needed <= call.arguments.keys() <= accepted.keys():
        return False
    return all(any(_equals(value, each) for each in accepted[key]) for key, value in call.arguments.items())


def _equals(given: Any, wanted: Any) -> bool:
    """Texts are equal once normalized, numbers by value; a number is not a text, and true is not 1."""
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return given == wanted
    if isinstance(given, str) and isinstance(wanted, str):
        return given == wanted or normalize(given) == normalize(wanted) != ""
    if isinstance(given, list | tuple) and isinstance(wanted, list | tuple):
        return len(given) == len(wanted) and all(map(_equals, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):
        # BFCL lists the accepted values inside objects, too.
        return given.keys() == wanted.keys() and all(
            _equals(given[key], value)
            or (isinstance(value, list) and any(_equals(given[key], each) for each in value))
            for key, value in wanted.items()
        )
    return given is None and wanted is None


def _is_allowed(call: ToolCall, functions: Mapping[str, Any]) -> bool:
    """Whether a function's JSON schema allows the arguments; without a definition, anything is allowed."""
    if call.name not in functions:
        return True
    return bool(_validator(packed(functions[call.name])).is_valid(dict(call.arguments)))


@lru_cache(maxsize=1 << 10)
def _validator(schema: str) -> Any:
    try:
        import jsonschema
    except ImportError:
        raise MissingExtraError("jsonschema", "tasks") from None
    return jsonschema.Draft202012Validator(json.loads(schema))


def wrong_calls(question: Question) -> tuple[str, ...]:
    """Three wrong calls, each of another kind where possible."""
    return first_wrong(_candidates(question), question, TASK)


def _candidates(question: Question) -> Iterator[str]:
    calls = calls_in(question.gold)
    assert calls  # the reader has made gold
    draw = draw_for(question, "tools")
    functions = json.loads(question.target)["functions"]
    kinds = [_other_function, _other_value, _other_type, _missing]
    draw.shuffle(kinds)
    for kind in (*kinds, _other_value, _other_value):
        place = draw.randrange(len(calls))
        changed = kind(calls[place], functions, draw)
        if changed is not None:
            yield _written([*calls[:place], changed, *calls[place + 1 :]])


def _other_function(call: ToolCall, functions: Mapping[str, Any], draw: random.Random) -> ToolCall:
    others = sorted(functions.keys() - {call.name})
    return call._replace(name=draw.choice(others) if others else f"{call.name}_list")


def _other_value(call: ToolCall, functions: Mapping[str, Any], draw: random.Random) -> ToolCall | None:
    if not call.arguments:
        return None
    key = draw.choice(sorted(call.arguments))
    schema = functions.get(call.name, {}).get("properties", {}).get(key, {})
    return _with(call, key, _changed(call.arguments[key], schema, draw))


def _other_type(call: ToolCall, functions: Mapping[str, Any], draw: random.Random) -> ToolCall | None:
    if not call.arguments:
        return None
    key = draw.choice(sorted(call.arguments))
    value = call.arguments[key]
    return _with(
        call, key, [value] if isinstance(value, str | dict) else json.dumps(value, ensure_ascii=False)
    )


def _missing(call: ToolCall, functions: Mapping[str, Any], draw: random.Random) -> ToolCall | None:
    required = functions.get(call.name, {}).get("required", [])
    keys = [key for key in call.arguments if key in required] or list(call.arguments)
    if not keys:
        return None
    dropped = draw.choice(sorted(keys))
    return call._replace(arguments={key: value for key, value in call.arguments.items() if key != dropped})


def _with(call: ToolCall, key: str, value: Any) -> ToolCall:
    return call._replace(arguments={**call.arguments, key: value})


def _changed(value: Any, schema: Mapping[str, Any], draw: random.Random) -> Any:
    """Another value of the same type."""
    others = [each for each in schema.get("enum", []) if each != value]
    if others:
        return draw.choice(others)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + draw.choice([1, 2, 10])
    if isinstance(value, list) and value:
        return [*value[:-1], _changed(value[-1], {}, draw)]
    if isinstance(value, dict) and value:
        key = draw.choice(sorted(value))
        return {**value, key: _changed(value[key], {}, draw)}
    if isinstance(value, str) and (digit := re.search(r"\d", value)):
        return f"{value[: digit.start()]}{(int(digit.group()) + 1) % 10}{value[digit.end() :]}"
    return draw.choice([word for word in _OTHER_WORDS if word != value])


def _written(calls: Sequence[ToolCall]) -> str:
    listed = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    return json.dumps(listed[0] if len(listed) == 1 else listed, ensure_ascii=False)


def _read(row: TaskRow) -> Question:
    functions = unpacked(_given(row, "function", "functions", "tools"), f"{row.place}: 'function'")
    functions = functions if isinstance(functions, list) else [functions]
    definitions = [_definition(each, row.place) for each in functions]
    truth = unpacked(_truth(row), f"{row.place}: 'ground_truth'")
    calls = [_accepted(each, row.place) for each in (truth if isinstance(truth, list) else [truth])]
    if not calls:
        raise DataError(f"data: {row.place}: 'ground_truth' has no call; leave such rows out")
    named = {definition["name"]: definition.get("parameters", {}) for definition in definitions}
    for name, _ in calls:
        if name not in named:
            raise DataError(
                f"data: {row.place}: 'ground_truth' calls {name!r}, which the row does not define"
            )
    gold = _written(
        [
            ToolCall(
                name, {key: _first(values[0]) for key, values in accepted.items() if _OPTIONAL not in values}
            )
            for name, accepted in calls
        ]
    )
    return Question(
        id=row.id,
        language=row.own_language,
        context="\n".join(json.dumps(each, ensure_ascii=False) for each in definitions),
        question=_request(_given(row, "question", "query"), row.place),
        answers=(gold,),
        target=packed({"calls": calls, "functions": named}),
    )


def _given(row: TaskRow, *names: str) -> Any:
    for name in names:
        if row.fields.get(name) not in (None, "", []):
            return row.fields[name]
    raise DataError(f"data: {row.place} has no {' or '.join(map(repr, names))}")


def _truth(row: TaskRow) -> Any:
    """The right calls. BFCL has them in a file of the same name in the folder `possible_answer`."""
    if any(row.fields.get(name) for name in ("ground_truth", "answers")):
        return _given(row, "ground_truth", "answers")
    if row.file is not None and (beside := row.file.parent / "possible_answer" / row.file.name).is_file():
        known = _possible_answers(beside)
        if row.id in known:
            return known[row.id]
    return _given(row, "ground_truth", "answers")


@lru_cache(maxsize=4)
def _possible_answers(file: Path) -> Mapping[str, Any]:
    rows = (row.value for row in json_rows(read_bytes(file), str(file)))
    return {str(row["id"]): row.get("ground_truth") for row in rows if isinstance(row, dict) and "id" in row}


def _request(value: Any, place: str) -> str:
    """The request: a text, or the user's turns of a conversation."""
    if isinstance(value, str):
        return value.strip()
    turns = value if isinstance(value, list) else []
    while turns and isinstance(turns[0], list):
        turns = [turn for part in turns if isinstance(part, list) for turn in part]
    given = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    texts = [text.strip() for text in given if isinstance(text, str)]
    if not texts:
        raise DataError(f"data: {place}: 'question' is neither a text nor a conversation with a user's turn")
    return "\n".join(texts)


def _definition(value: Any, place: str) -> dict[str, Any]:
    """A function's definition with its parameters as JSON schema."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise DataError(f"data: {place}: a function has no name; give name, description and parameters")
    parameters = value.get("parameters") or {}
    if (
        parameters
        and "properties" not in parameters
        and all(isinstance(each, dict) for each in parameters.values())
    ):
        # xLAM lists the parameters alone.
        required = [key for key, each in parameters.items() if "default" not in each]
        parameters = {"type": "object", "properties": parameters, "required": required}
    schema = _schema(parameters)
    if isinstance(schema, dict) and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return {
        key: each
        for key, each in {**value, "parameters": schema}.items()
        if key in ("name", "description", "parameters")
    }


def _schema(value: Any) -> Any:
    """A schema with the names of types that JSON schema has."""
    if isinstance(value, list):
        return [_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: _schema(each) for key, each in value.items()}
    kind = found.get("type")
    if isinstance(kind, str):
        # xLAM writes `str, optional`.
        kind = _TYPES.get(base := kind.partition(",")[0].strip().lower(), base)
        if kind in ("string", "number", "integer", "boolean", "array", "object", "null"):
            found["type"] = kind
        else:
            del found["type"]
    if isinstance(found.get("required"), bool):
        del found["required"]
    return found


def _accepted(value: Any, place: str) -> tuple[str, dict[str, list[Any]]]:
    """A right call as its name and the accepted values by argument."""
    if (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("arguments"), dict)
    ):
        return value["name"], {key: [each] for key, each in value["arguments"].items()}
    if isinstance(value, dict) and len(value) == 1:
        ((name, arguments),) = value.items()
        if isinstance(arguments, dict) and all(
            isinstance(each, list) and each for each in arguments.values()
        ):
            return name, dict(arguments)
    raise DataError(
        f"data: {place}: 'ground_truth' holds {str(value)[:60]!r}; write a call as "
        '{"name": …, "arguments": {…}} or as {"NAME": {"ARGUMENT": [accepted values]}}'
    )


def _first(value: Any) -> Any:
    """A value with the first of the accepted ones inside objects."""
    if isinstance(value, dict):
        return {
            key: _first(each[0]) if isinstance(each, list) and each else each for key, each in value.items()
        }
    return value


_ASK = 'Answer the request with a call like {"name": "FUNCTION", "arguments": {"PARAMETER": "VALUE"}}.'
SET = DataSet(
    name="tools",
    title="function calls (BFCL, xLAM)",
    read=task_reader("tools", _read),
    path="optional",
    endings=SUFFIXES,
    holds="requests and functions",
    task=TASK,
    wrong=wrong_calls,
    settings={
        "prompts": {
            "open": f"Functions:\n{{context}}\n\n{_ASK}\n\nRequest: {{question}}\nCall:",
            "cued": f"Functions:\n{{context}}\n\n{_ASK}\n\nRequest: {{question}}\nCandidates:\n{{options}}\nCall:",
            "no_question": f"Functions:\n{{context}}\n\n{_ASK}\n\nCall:",
            "zero_shot": "Functions:\n{context}\nRequest: {question}\nCall:",
        },
        "probes": ["open", "cued", "choice", "choice_no_question"],
        "max_new_tokens": 96,
        "prompt_tokens": 2048,
        "stop": ["\nRequest:", "\nFunctions:"],
    },
    options="brought",
    licence="CC0 1.0",
)  # fmt: skip
