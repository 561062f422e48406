"""Compare Anomia's engine with other ways to answer the probes of a set of items.

    python benchmarks/probes.py --model FOLDER --data squad:dev/english.json

Each contender runs in its own process, one after the other, on the same model, items and probes: choice (four
options), one greedy answer, five beams and ten nucleus samples of 32 tokens per item.

- tree: Anomia's token tree.
- transformers: batched `generate` calls, and options as full sequences, keeping only the required logits; as a
  competent user would write it.
- lm_eval: lm-evaluation-harness through local tasks; only choice and the greedy answer.
- vllm: greedy, n = 10 and beam search, options by `prompt_logprobs`.

The last two need their own environments (`--lm-eval-python`, `--vllm-python`); without one, the report says that the
contender was left out. The floor is the number of operations that the probes need, divided by this machine's matrix
multiplication rate, measured in the same run. Operations (products with weights, and attention without sliding
windows) are counted from what the tree computes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import prune

HERE = Path(__file__).resolve().parent
NEW_TOKENS, BEAMS, SAMPLES, TOP_P = 32, 5, 10, 0.9
RATE_SHAPES = ((256, 640, 2048), (512, 2048, 2048), (1024, 4096, 4096), (256, 640, 65536))


def main() -> None:
    options = arguments()
    if options.only:
        return contend(options)
    if not options.model and not options.gpu:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    if options.gpu and not torch.cuda.is_available():
        return print("no GPU here: nothing measured")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(options, work)
        rate = matmul_rate(options)
        results = {name: run(name, options, work) for name in options.contenders.split(",")}
    report(results, rate, options)
    return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", help="a model folder or hub id; the demo's model if none is given")
    parser.add_argument("--data", default="demo", help="as anomia run takes it; the first language is asked")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--contenders", default="tree,transformers,lm_eval,vllm")
    parser.add_argument(
        "--lm-eval-python", help="the interpreter of an environment with lm-evaluation-harness"
    )
    parser.add_argument("--vllm-python", help="the interpreter of an environment with vLLM")
    parser.add_argument("--gpu", action="store_true", help="random weights of Qwen3-8B's shape, on CUDA")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace, work: Path) -> None:
    """Write the prompts: pickled asks for our own processes, JSON for other environments."""
    if options.gpu:
        asks = random_asks(options.items)
        texts: list[dict] = []
        # vLLM makes random weights from a folder with only a configuration.
        qwen3_8b(options).save_pretrained(work / "model")
    else:
        asks, texts = real_asks(options)
    (work / "asks.pickle").write_bytes(pickle.dumps(asks))
    plain = [
        {
            "prompt": list(ask.greedy["open"]),
            "options": [list(sequence) for sequence in ask.options["choice"].sequences],
            "start": ask.options["choice"].start,
        }
        for ask in asks
    ]
    (work / "asks.json").write_text(json.dumps({"tokens": plain, "texts": texts, "random": options.gpu}))


def real_asks(options: argparse.Namespace) -> tuple[list, list[dict]]:
    import transformers

    from anomia.items.build import build_items
    from anomia.items.readers import read_questions
    from anomia.probe.encode import PromptEncoding, encode_item

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    questions = read_questions(options.data)
    language = sorted(questions)[0]
    sets = build_items({language: questions[language]}, dataset=options.data, limit=options.items, seed=42)
    [found] = sets.values()
    probes = ("open", "choice", "beams", "samples")
    encoded = [
        encode_item(item, tokenizer, PromptEncoding(), probes, exemplar=None, oracle=True)
        for item in found.items
    ]
    texts = [
        {"prompt": one.prompt, "options": list(item.options["standard"]), "gold": item.question.gold}
        for one, item in zip(encoded, found.items, strict=True)
    ]
    return [one.ask for one in encoded], texts


def random_asks(count: int) -> list:
    """Asks of random tokens with realistic lengths, for random weights."""
    from anomia.probe.ask import Ask, OptionSet

    generator = torch.Generator().manual_seed(0)
    asks = []
    for number in range(count):
        size = int(torch.randint(150, 480, (), generator=generator))
        prompt = tuple(torch.randint(1000, 100_000, (size,), generator=generator).tolist())
        answers = torch.randint(1000, 100_000, (4, 4), generator=generator).tolist()
        choices = OptionSet(size, tuple(prompt + tuple(answer) for answer in answers))
        asks.append(
            Ask(
                str(number),
                greedy={"open": prompt},
                options={"choice": choices},
                beams=prompt,
                samples=prompt,
            )
        )
    return asks


def run(name: str, options: argparse.Namespace, work: Path) -> dict | str:
    """Run a contender; return its measurements, or the reason why there are none."""
    if name in ("tree", "transformers"):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--work", str(work)]
        command += ["--model", options.model] if options.model else []
    else:
        interpreter = getattr(options, f"{name}_python")
        if not interpreter:
            return f"left out: no --{name.replace('_', '-')}-python"
        if options.gpu and name == "lm_eval":
            return "left out: has no tokenizer to work with"
        model = str(work / "model") if options.gpu else options.model
        command = [interpreter, str(HERE / f"peer_{name}.py"), model, options.dtype, str(work)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["without a word"]
        # The error is often followed by warnings at shutdown.
        return "failed: " + next((line for line in reversed(lines) if "Error" in line), lines[-1])[:300]
    # Child processes of a peer may print after its result.
    return json.loads(next(line for line in reversed(finished.stdout.splitlines()) if line.startswith("{")))


def contend(options: argparse.Namespace) -> None:
    """Run one of our own contenders in this process; print its measurements as JSON."""
    model = load(options)
    asks = pickle.loads((options.work / "asks.pickle").read_bytes())
    loaded = peak_memory(options)
    answer = with_tree if options.only == "tree" else with_transformers
    answer(model, asks[:1], options)  # warm-up
    begun, busy = time.perf_counter(), time.process_time()
    figures = answer(model, asks, options)
    figures["seconds"] = time.perf_counter() - begun
    figures["processor_seconds"] = time.process_time() - busy
    figures["peak_bytes"] = peak_memory(options)
    figures["loaded_bytes"] = loaded
    print(json.dumps(figures))


def qwen3_8b(options: argparse.Namespace):
    """The configuration of Qwen3-8B."""
    import transformers

    return transformers.Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        rope_theta=1e6,
        tie_word_embeddings=False,
        dtype=options.dtype,
    )


def load(options: argparse.Namespace):
    import transformers

    if options.gpu:
        torch.set_default_dtype(getattr(torch, options.dtype))
        with torch.device("cuda"):
            model = transformers.AutoModelForCausalLM.from_config(qwen3_8b(options))
        torch.set_default_dtype(torch.float32)
        return model.eval()
    dtype = getattr(torch, options.dtype)
    return transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()


def peak_memory(options: argparse.Namespace) -> float:
    if options.gpu:
        return torch.cuda.max_memory_allocated()
    return prune.peak_memory()


def eos_ids(model) -> tuple[int, ...]:
    eos = model.generation_config.eos_token_id
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)


def with_tree(model, asks, options: argparse.Namespace) -> dict:
    from anomia.probe import tree
    from anomia.probe.ask import Decoding
    from anomia.probe.head import Head

    counted = {"decoder_tokens": 0, "head_rows": 0, "seen_tokens": 0}
    decode, logits = Head.decode, Head.logits

    def counting_decode(self, **inputs):
        counted["decoder_tokens"] += inputs["input_ids"].numel()
        counted["seen_tokens"] += int(inputs["position_ids"].sum()) + inputs["input_ids"].numel()
        return decode(self, **inputs)

    def counting_logits(self, states, **given):
        counted["head_rows"] += len(states)
        return logits(self, states, **given)

    Head.decode, Head.logits = counting_decode, counting_logits
    try:
        decoding = Decoding(
            eos_token_ids=eos_ids(model),
            max_new_tokens=NEW_TOKENS,
            num_beams=BEAMS,
            num_samples=SAMPLES,
            top_p=TOP_P,
        )
        replies = list(tree.answer(model, asks, decoding, batch_size=options.batch))
    finally:
        Head.decode, Head.logits = decode, logits
    head = model.get_output_embeddings().weight
    layers = sum(p.numel() for p in model.base_model.parameters() if p.ndim == 2 and p.shape != head.shape)
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * head_size
    operations = 2 * (
        counted["decoder_tokens"] * layers
        + counted["head_rows"] * head.numel()
        + counted["seen_tokens"] * attention
    )
    return {**counted, "operations": operations, "new_tokens": new_tokens(replies)}


def new_tokens(replies) -> int:
    return sum(
        len(tokens)
        for reply in replies
        for tokens in (
            *reply.greedy.values(),
            *(beam.tokens for beam in reply.beams),
            *(sample for samples in reply.samples.values() for sample in samples),
        )
    )


@torch.inference_mode()
def with_transformers(model, asks, options: argparse.Namespace) -> dict:
    """Answer with batched calls; items of similar length share a batch, to reduce padding."""
    ends = list(eos_ids(model)) or None
    shared = {"max_new_tokens": NEW_TOKENS, "eos_token_id": ends, "pad_token_id": 0, "top_k": None}
    made = 0
    ordered = sorted((ask.greedy["open"] for ask in asks), key=len)
    ways = (
        (options.batch, {"do_sample": False}),
        (max(1, options.batch // 4), {"do_sample": False, "num_beams": BEAMS, "num_return_sequences": BEAMS}),
        (
            max(1, options.batch // 4),
            {"do_sample": True, "top_p": TOP_P, "temperature": 1.0, "num_return_sequences": SAMPLES},
        ),
    )
    for size, way in ways:
        for first in range(0, len(ordered), size):
            ids, mask = padded(ordered[first : first + size], model.device)
            output = model.generate(ids, attention_mask=mask, **shared, **way)
            made += int((output[:, ids.shape[1] :] != 0).sum())
    sequences = sorted(
        ((s, ask.options["choice"].start) for ask in asks for s in ask.options["choice"].sequences),
        key=lambda pair: len(pair[0]),
    )
    for first in range(0, len(sequences), options.batch):
        part = sequences[first : first + options.batch]
        ids, mask = padded([s for s, _ in part], model.device)
        # The longest option of the batch, and one position before it; logits are [batch, keep - 1, vocabulary].
        keep = max(len(s) - start for s, start in part) + 1
        logits = model(ids, attention_mask=mask, logits_to_keep=keep).logits[:, :-1].float()
        logits.log_softmax(-1).gather(2, ids[:, -keep + 1 :, None]).sum().item()
    return {"new_tokens": made}


def padded(sequences, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded token ids and their attention mask, both [batch, tokens]."""
    length = max(map(len, sequences))
    ids = torch.tensor([[0] * (length - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in sequences], device=device)
    return ids, mask


def matmul_rate(options: argparse.Namespace) -> float:
    """The best operations per second over shapes like the model's, in its dtype."""
    device = "cuda" if options.gpu else "cpu"
    best = 0.0
    for rows, inner, columns in RATE_SHAPES:
        left = torch.randn(rows, inner, device=device).to(getattr(torch, options.dtype))
        right = torch.randn(columns, inner, device=device).to(getattr(torch, options.dtype)).t()
        out = left @ right
        for _ in range(8):
            begun = time.perf_counter()
            for _ in range(4):
                torch.mm(left, right, out=out)
            if options.gpu:
                torch.cuda.synchronize()
            best = max(best, 4 * 2 * rows * inner * columns / (time.perf_counter() - begun))
    return best


def report(results: dict[str, dict | str], rate: float, options: argparse.Namespace) -> None:
    tree = results.get("tree")
    floor = tree["operations"] / rate if isinstance(tree, dict) else None
    shape = "Qwen3-8B's shape" if options.gpu else options.model
    print(f"{options.items} items, {options.dtype}, {os.cpu_count()} cores, {shape}\n")
    print(
        "| contender | seconds | processor seconds | new tokens a second | times the tree | peak memory, GB |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in results.items():
        if isinstance(found, str):
            print(f"| {name} | {found} | | | | |")
            continue
        times = f"{found['seconds'] / tree['seconds']:.1f}" if isinstance(tree, dict) else ""
        a_second = f"{found['new_tokens'] / found['seconds']:.0f}" if found.get("new_tokens") else ""
        busy = f"{found['processor_seconds']:.1f}" if found.get("processor_seconds") else ""
        memory = f"{found['peak_bytes'] / 1e9:.2f}" if found.get("peak_bytes") else ""
        print(f"| {name} | {found['seconds']:.1f} | {busy} | {a_second} | {times} | {memory} |")
    if floor is not None and isinstance(tree, dict):
        print(f"| floor | {floor:.1f} | | | {floor / tree['seconds']:.2f} | |")
        print(f"\n{tree['operations'] / 1e12:.2f}e12 operations at {rate / 1e9:.0f}e9 a second")
    if options.json:
        options.json.write_text(
            json.dumps({"results": results, "matmul_rate": rate, "floor": floor}, indent=1)
        )


if __name__ == "__main__":
    main()
