"""An evaluation as one would come of a run, for whoever shows it."""

from corm_batch.evaluation.paired import paired_means, paired_shares
from corm_batch.evaluation.result import Candidate, Cost, Evaluation, Failure, Figure

CANDIDATES = {
    "short": (
        {"name": "corm", "window": 64, "tau": 1.0},
        Cost(kept_ratio=0.25, peak_ratio=0.312, full_peak_ratio=1.03),
    ),
    "snapkv <b>": ({"name": "snapkv", "recent": 32}, Cost(kept_ratio=0.5, peak_ratio=0.55, full_peak_ratio=1.03)),
}


def make_result(failed=0):
    """Two groups, two tasks, two policies; `failed` cases of one task have no answer under the first policy."""
    figures = []
    for group in ("facts 512", "facts 1024"):
        for task, cases in (("all", 14), ("pass_key", 7), ("magic_number", 7)):
            for score, paired in (("exact", paired_shares), ("nats", paired_means)):
                for label, (policy, cost) in CANDIDATES.items():
                    lost = cases // 7 if label == "short" else 0
                    full = [1.0] * cases
                    figures.append(
                        Figure(
                            model="models/m", suite="needles", group=group, task=task,
                            position="question after the document", score=score, share=score == "exact",
                            candidate=label, policy=policy, against=paired(full, [0.0] * lost + full[lost:]),
                            floor=paired(full, full), same_text=cases - lost, floor_same_text=cases,
                            failed=failed if task != "magic_number" else 0, cost=cost,
                        )
                    )  # fmt: skip
    failure = Failure(
        candidate="short", suite="needles", group="facts 512", task="pass_key", question="What is the pass key?",
        prompt_tokens=9000, reason="it does not fit",
    )  # fmt: skip
    return Evaluation(
        command="corm-batch eval job.yaml", date="2026-01-02T03:04:05+00:00", versions={"python": "3"}, device="a CPU",
        model={"name": "models/m", "hash": "h", "dtype": "float32"}, engine={},
        candidates=[Candidate(label=label, policy=policy) for label, (policy, _) in CANDIDATES.items()],
        suites={"needles": {"name": "needles"}}, lengths=[512, 1024], cases=7, seed="evaluation", figures=figures,
        failures=[failure] * failed,
    )  # fmt: skip
