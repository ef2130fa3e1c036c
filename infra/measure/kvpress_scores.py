"""What kvpress and the policies here make of the same questions, at the same share of entries kept.

    python -m infra.measure.kvpress_scores --kvpress PYTHON
    python -m infra.measure.kvpress_scores --kvpress PYTHON --job jobs/released/job.yaml --cases 2 --kept 0.5

PYTHON is the interpreter of an environment with kvpress 0.5.5 and the transformers it wants (below 5.3; `pip install
kvpress==0.5.5 pyarrow tokenizers`), which `infra.measure.kvpress_answers` runs in; prompts and answers go there and
back as JSON. The questions are numbers planted in held-out books, laid out by the chat template, question last; greedy,
float32, a CPU. A head keeps a share of the prompt, question included; only the prompt is compressed there, while here
the answer's entries count towards the budget too. Each method's settings are those of `kvpress_positions`, so that what
is left apart are arithmetic, answers and what policies/README.md names.

Writes infra/measure/results/kvpress_scores.json, in which results of other models stay. What has been answered lies in
--work and is not answered again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.ensemble import Ensemble, Need
from corm_batch.engine.loader import LoadedModel, load_model
from corm_batch.engine.request import Completion, Request, SamplingParams
from corm_batch.evaluation.asking import Asked
from corm_batch.evaluation.paired import paired_shares, share_bounds
from corm_batch.policies.base import KVPolicy
from corm_batch.text.tokenize import PromptTokenizer
from infra.measure.held_out import JOBS, NEEDLES, ROOT, AskedModel
from infra.measure.kvpress_policies import kvzip, policies
from infra.measure.record import begin_record, write_record, write_whole

OUTPUT = ROOT / "infra/measure/results/kvpress_scores.json"
TASKS = ("place_number", "magic_number")
LENGTHS = (700, 850, 1000)
"""Tokens with 96 of question and answer."""
MAX_NEW_TOKENS = 48
CHUNK = 256
"""Of Compactor and of KVzip, on both sides; kvpress fills Compactor's last part up with zeros."""
CACHE_BYTES = 2 << 30
"""Of all policies' caches here, beside each other."""
_BY_PROMPT = "StreamingLLM"
"""Has no budget but a window, another one for every prompt."""


def draw(model: AskedModel, cases: int, lengths: Sequence[int]) -> list[Asked]:
    """`cases` questions of each task and length."""
    drawn = model.cases({**NEEDLES, "tasks": list(TASKS)}, lengths, cases)
    return [replace(one, case=replace(one.case, max_new_tokens=MAX_NEW_TOKENS)) for one in drawn]


def questions(model: str, asked: Iterable[Asked], kept: Sequence[float], ends: Iterable[int]) -> dict[str, Any]:
    """What `kvpress_answers` reads."""
    return {
        "model": model,
        "kept": list(kept),
        "ends": sorted(ends),
        "max_new_tokens": MAX_NEW_TOKENS,
        "chunk": CHUNK,
        "prompts": {one.key: list(one.prompt) for one in asked},
    }


def ask_here(
    model: LoadedModel,
    asked: Sequence[Asked],
    shares: Sequence[float],
    repeating: Mapping[str, Any],
    found: dict[str, Any],
) -> Iterator[str]:
    """Put answers of every policy into `found`, by policy, share and case; tell each case that is done.

    Cases that are there are left alone. `repeating`: with what tokens kvpress' KVzip has a prompt repeated.
    """
    config = EngineConfig.parse({"max_sequences": len(asked)})
    specs: dict[tuple[str, str], Mapping[str, Any]] = {("full", "1.0"): {"name": "full"}}
    specs |= {(name, str(kept)): spec for kept in shares for name, spec in policies(kept, 0, CHUNK).items()}
    specs |= {("KVzip", str(kept)): kvzip(kept, CHUNK, repeating) for kept in shares}
    for name, kept in specs:
        found.setdefault(name, {}).setdefault(kept, {})
    missing = [one for one in asked if any(one.key not in found[name][kept] for name, kept in specs)]
    if not missing:
        return
    sampling = SamplingParams(max_new_tokens=missing[0].case.max_new_tokens)
    requests = {one.key: Request(one.key, one.prompt, sampling) for one in missing}
    needs = {
        " ".join(label): Need(KVPolicy.from_spec(spec), model, config)
        for label, spec in specs.items()
        if label[0] != _BY_PROMPT
    }
    longest = max(len(one.prompt) for one in missing) + sampling.max_new_tokens
    for answers in Ensemble(needs, CACHE_BYTES, longest).run(requests.values()):
        key = next(iter(answers.values())).id
        done = {**answers, **{f"{_BY_PROMPT} {kept}": _by_prompt(model, requests[key], kept) for kept in shares}}
        for label, completion in done.items():
            if completion.error is not None:
                raise SystemExit(f"{label}: {completion.error}")
            name, _, kept = label.rpartition(" ")
            found[name][kept][key] = {"tokens": list(completion.token_ids), "kept": completion.memory.kept_ratio}
        yield key


def _by_prompt(model: LoadedModel, request: Request, kept: float) -> Completion:
    """The answer with a window of as many entries as a budget would leave."""
    spec = policies(kept, len(request.token_ids), CHUNK)[_BY_PROMPT]
    engine = EngineCore(model, KVPolicy.from_spec(spec), EngineConfig.parse({"kv_memory": "128MiB"}))
    (done,) = engine.run([request])
    return done


def compare(asked: Sequence[Asked], tokenizer: PromptTokenizer, here: Any, there: Any) -> dict[str, Any]:
    """Right answers of both, paired, from what they answered to the same prompts."""

    def right(one: Asked, answers: Any) -> float:
        text = tokenizer.decode(answers[one.key]["tokens"]).strip()
        return one.suite.score(one.case, text)["said"]

    scores = [[right(one, answers) for one in asked] for answers in (there, here)]
    paired = paired_shares(*scores)
    low, high = share_bounds(int(sum(scores[1])), len(asked))
    return {
        "kvpress": paired.here,
        "here": paired.there,
        "here_95": [low, high],
        "difference": paired.difference,
        "difference_95": [paired.low, paired.high],
        "lost": paired.lost,
        "won": paired.won,
        "same_answer": fmean(here[one.key]["tokens"] == there[one.key]["tokens"] for one in asked),
        "kept_kvpress": fmean(there[one.key]["kept"] for one in asked),
        "kept_here": fmean(here[one.key]["kept"] for one in asked),
    }


def measure(options: argparse.Namespace, about: AskedModel) -> dict[str, Any]:
    """Everything about one model."""
    tokenizer, folder = about.tokenizer, about.folder
    ends = tokenizer.end_token_ids
    model = load_model(folder, torch.float32, torch.device("cpu"), end_token_ids=ends)
    asked = draw(about, options.cases, options.lengths)
    work = options.work / about.name
    work.mkdir(parents=True, exist_ok=True)
    files = [work / f"{what}.json" for what in ("questions", "kvpress", "here")]
    write_whole(questions(folder, asked, options.kept, model.eos_token_ids), files[0])
    subprocess.run([options.kvpress, "-m", "infra.measure.kvpress_answers", *files[:2]], check=True, cwd=ROOT)
    here = json.loads(files[2].read_text()) if files[2].exists() else {}
    there = json.loads(files[1].read_text())
    for _ in ask_here(model, asked, options.kept, there["kvzip_asked"], here):
        write_whole(here, files[2])
    full = compare(asked, tokenizer, here["full"]["1.0"], there["full"]["1.0"])
    methods = {
        method: {
            str(kept): compare(asked, tokenizer, here[method][str(kept)], there[method][str(kept)])
            for kept in options.kept
        }
        for method in (*policies(0.5, 0, CHUNK), "KVzip")
    }
    return {
        "model": about.name,
        "cases": len(asked),
        "tasks": list(TASKS),
        "prompt_tokens": [min(len(one.prompt) for one in asked), max(len(one.prompt) for one in asked)],
        "versions": there["versions"],
        "full": full,
        "methods": methods,
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The table of policies/README.md: right answers of kvpress and of the policy here, %, and their difference."""
    kept = list(results[0]["methods"]["SnapKV"])
    cells = [(one, share) for one in results for share in kept]
    lines = [" | ".join(["| kvpress", *(f"{one['model']}, {float(share):.0%}" for one, share in cells)]) + " |"]
    lines.append("|---" * (len(cells) + 1) + "|")
    for method in results[0]["methods"]:
        told = [_told(one["methods"][method][share]) for one, share in cells]
        lines.append(f"| {method} | {' | '.join(told)} |")
    return "\n".join(lines)


def _told(cell: Mapping[str, Any]) -> str:
    low, high = cell["difference_95"]
    return f"{100 * cell['kvpress']:.0f} : {100 * cell['here']:.0f} ({100 * low:+.0f}..{100 * high:+.0f})"


def main() -> None:
    """Measure each model, write the record after each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvpress", required=True, metavar="PYTHON", help="interpreter that has kvpress")
    parser.add_argument("--job", action="append", help="whose model is asked; may be given again")
    parser.add_argument("--cases", type=int, default=3, help="of each task and length")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--kept", type=float, nargs="+", default=[0.5, 0.25], help="shares of the prompt's entries")
    parser.add_argument("--work", type=Path, default=ROOT / "out/kvpress_scores", help="folder of what was answered")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    results = json.loads(options.output.read_text())["results"] if options.output.exists() else []
    for job in options.job or JOBS:
        record = begin_record("kvpress_scores")
        found = measure(options, AskedModel(job))
        results = [one for one in results if one["model"] != found["model"]] + [found]
        write_record({**record, "results": results}, options.output)
    print(table(results))


if __name__ == "__main__":
    main()
