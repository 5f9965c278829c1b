"""The command line: ``dvae data``, ``train``, ``evaluate``, ``forecast``, ``impute``, ``score``, ``generate``,
``enhance``, ``encode``, ``decode``, ``export``, ``benchmark``, ``report``, ``info``.
"""

from dvae_lib.cli import code, data, enhance, evaluate, experiments, export, generate, info, series, train
from dvae_lib.cli.app import app

__all__ = ["app", "main"]

app.add_typer(data.app, name="data")
# In the order in which the help lists them.
for command in (
    train.train,
    evaluate.evaluate,
    series.forecast,
    series.impute,
    series.score,
    generate.generate,
    enhance.enhance,
    code.encode,
    code.decode,
    export.export,
    experiments.benchmark,
    experiments.report,
    info.info,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app()
