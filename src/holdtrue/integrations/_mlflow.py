"""MLflow takes nothing back: what a killed run logged beyond its newest checkpoint is there, and is not logged again."""

from collections import Counter
from typing import Any, final


@final
class Unlogged:
    """Which of the metrics that a resumed run logs its MLflow run does not have yet.

    The same numbers are logged again in the same order, so those that are there are passed over one by one: a name
    that is logged twice in a step (Lightning's `epoch`) is there twice afterwards too.

    Args:
        client: An MlflowClient.
        run_id: The run that goes on.
        step: The first step that is logged again. What was logged before it is not asked about.

    Blocks:
        For one question, and one more for the history of each metric of the run, which is as long as the run.
    """

    def __init__(self, client: Any, run_id: str, step: int) -> None:  # Any: MLflow is no dependency
        names = client.get_run(run_id).data.metrics
        self._there = Counter(
            (name, metric.step)
            for name in names
            for metric in client.get_metric_history(run_id, name)
            if metric.step >= step
        )

    def takes(self, name: str, step: int) -> bool:
        """Whether this is new; called once for each metric that is logged."""
        if self._there[name, step] == 0:
            return True
        self._there[name, step] -= 1
        return False
