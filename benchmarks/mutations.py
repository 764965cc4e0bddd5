"""Is every spoilt params.yaml refused by name, or harmless? Hundreds of ways to spoil it, on its text and on its tree.

    python benchmarks/mutations.py [N]

Writes benchmarks/results/mutations.json: how many of each kind were refused or harmless, and examples of the sentences.
Ends with 1 where one was accepted wrongly, or refused without file, key or line, value and remedy.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutations import KINDS, mutate  # noqa: E402
from tests.refusals import verdict  # noqa: E402


def main(count: int) -> int:
    """Try so many mutations and write what came of them."""
    text = (ROOT / "params.yaml").read_text()
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    examples: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(count):
            mutation = mutate(text, seed)
            try:
                outcome, words = verdict(mutation, Path(folder))
            except AssertionError as fault:
                outcome, words = "wrong", str(fault)
                print(f"seed {seed}, {mutation.kind} ({mutation.what}): {fault}")
            outcomes[mutation.kind][outcome] += 1
            if outcome == "refused":
                examples.setdefault(mutation.kind, words)
        os.chdir(ROOT)
    total = sum(outcomes.values(), Counter())
    results = {
        "n": count,
        **total,
        "kinds": {kind: dict(each) for kind, each in outcomes.items()},
        "examples": examples,
    }
    (ROOT / "benchmarks/results/mutations.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    for kind, each in outcomes.items():
        print(f"{kind:<24}{each['refused']:>8} refused{each['harmless']:>6} harmless")
    print(f"{count} mutations: {dict(total)}")
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
