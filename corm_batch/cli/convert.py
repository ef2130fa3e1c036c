"""`corm-batch convert`: another model made of a job's, whose cache is smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corm_batch.cli.console import error_console, output_console, print_json
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath
from corm_batch.cli.policy_option import read_labelled
from corm_batch.errors import SpecError

if TYPE_CHECKING:
    from corm_batch.spec import JobSpec
    from corm_batch.weights.base import Weights
    from corm_batch.weights.conversion import Texts

WeightsOption = Annotated[
    str,
    typer.Option("--weights", metavar="YAML", help="What becomes of its weights, as '{name: kv_heads, ...}'."),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help="The new model's folder, local; must not be there.")]


def convert(
    spec: SpecPath,
    weights: WeightsOption,
    license_: Annotated[str, typer.Option("--license", metavar="TEXT", help="Of the job's documents, for the record.")],
    output: Output,
    overrides: Overrides = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Make another model of a job's model, as read from texts of the job's documents, whose cache is smaller.

    What comes out is an ordinary model: name its folder as model.name. `corm-batch policies` lists what there is and
    what each needs beside the texts. Exit codes: 0 the folder is written, 2 the spec or an argument is wrong.
    """
    from corm_batch.pipeline.model import model_path
    from corm_batch.spec import JobSpec
    from corm_batch.weights.base import Weights
    from corm_batch.weights.conversion import check
    from corm_batch.weights.conversion import convert as convert_model

    job = JobSpec.load(spec, overrides or ())
    _, fields = read_labelled("--weights", weights)
    change, path = Weights.from_spec(fields), model_path(job.model)
    check(change, path, output, job.model.revision)
    texts = _texts(job, change, license_)

    import torch

    from corm_batch.engine.loader import find_device

    device = torch.device(find_device(job.model.device))
    error_console().print(f"reading {len(texts.token_ids)} texts of {texts.source}", soft_wrap=True)
    record = convert_model(change, path, texts, output, device, job.model.revision)
    if as_json:
        print_json(record | {"folder": str(output)})
        return
    told = record["texts"]
    output_console().print(
        f"{output}: {change.name}, from {told['texts']} texts of {told['tokens']:,} tokens; needs {change.needs}",
        soft_wrap=True,
    )


def _texts(job: JobSpec, weights: Weights, license_: str) -> Texts:
    """The beginnings of the job's first documents, as its prompts have them.

    Raises:
        SpecError: there is none.
    """
    from corm_batch.evaluation.run import job_texts
    from corm_batch.pipeline.model import load_tokenizer, model_path
    from corm_batch.tasks.base import Prompt
    from corm_batch.weights.conversion import Texts

    tokenizer = load_tokenizer(job.model, model_path(job.model))
    whole = [text for text in job_texts(job) if text.strip()][: weights.num_texts]
    if not whole:
        raise SpecError("source: no document with a text to find the new weights on")
    most = 16 * weights.num_tokens  # characters: no tokenizer's tokens are as long on average
    token_ids = [tokenizer.encode(Prompt(text[:most], ""))[: weights.num_tokens] for text in whole]
    return Texts(token_ids, job.source.place, license_)
