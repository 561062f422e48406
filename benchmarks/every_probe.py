"""Compare all probes on the token tree with the first four probes by plain calls, on the demo's questions.

    OMP_NUM_THREADS=1 python benchmarks/every_probe.py --items 16

The plain engine asks the probes of a simple study (open, cued, choice, rank); the tree asks all probes of the same
items. Both run in one process on one thread and are measured in processor time, so other work on the machine hardly
matters.
"""

from __future__ import annotations

import argparse
import time

import torch

FOUR = ("open", "cued", "choice", "rank")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", help="a model folder or hub id; the demo's model if none is given")
    parser.add_argument("--items", type=int, default=16, help="divided among the demo's languages")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)

    from anomia.demo import demo_model
    from anomia.items.build import build_items
    from anomia.items.readers import read_questions
    from anomia.models.load import load_model
    from anomia.probe import reference, tree
    from anomia.probe.ask import Decoding
    from anomia.probe.encode import PromptEncoding, encode_item
    from anomia.probes import STUDY_PROBES

    loaded = load_model(options.model or str(demo_model()), dtype=options.dtype)
    decoding = Decoding(loaded.eos_token_ids)
    sets = build_items(read_questions("demo"), dataset="demo", limit=None, seed=42)
    turns = [(found, index) for index in range(options.items) for found in sets.values()]
    turns = [(found, index) for found, index in turns if index < len(found.items)][: options.items]

    def asks(probes: tuple[str, ...]) -> list:
        encoded = [
            encode_item(
                found.items[index],
                loaded.tokenizer,
                PromptEncoding(),
                probes,
                exemplar=found.exemplar,
                oracle=True,
            )
            for found, index in turns
        ]
        return [one.ask for one in sorted(encoded, key=lambda one: one.prompt_tokens)]

    print(f"{len(turns)} questions of {len(sets)} languages, {options.dtype}, one thread, processor time\n")
    print("| engine | probes | seconds | an item |")
    print("|---|---|---|---|")
    for engine, probes in ((reference, FOUR), (tree, tuple(STUDY_PROBES)), (tree, FOUR)):
        asked = asks(probes)
        list(
            engine.answer(
                loaded.model, asked[:1], Decoding(loaded.eos_token_ids, max_new_tokens=2), batch_size=1
            )
        )
        begun = time.process_time()
        list(engine.answer(loaded.model, asked, decoding, batch_size=16))
        seconds = time.process_time() - begun
        name = engine.__name__.rpartition(".")[2]
        print(f"| {name} | {len(probes)} | {seconds:.1f} | {seconds / len(turns):.2f} |", flush=True)


if __name__ == "__main__":
    main()
