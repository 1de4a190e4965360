"""Every error that holdtrue raises on purpose.

    HoldtrueError
    |-- PlanError (ValueError)        a plan, a division or a setting that cannot be
    |-- MappingError (ValueError)     virtual nodes without a worker, or with two
    |-- DataError (ValueError)        a data source that cannot be divided as the plan asks
    |-- UsageError (ValueError)       the user's loop or command breaks a rule of the API
    |   |-- NumericsError             something that cannot be bit-identical at this level
    |   `-- JoinRefusedError          a worker that came to a running job would do something else than the job does
    |-- CheckpointError               a checkpoint that is missing, damaged or of another plan
    |-- DivergenceError               replicas, or two runs, differ where they must not
    |-- NonFiniteError                a loss or gradient that is not a number, when that stops the run
    `-- GroupError                    the group of workers can not go on together
        |-- WorkerLostError           a worker died or was cut off
        |-- CallMismatchError         workers are at different calls of the script
        |-- WaitTimeoutError          a bounded wait ran out; the message names what was awaited
        |-- ExpelledError             this worker is no longer a member of its job
        `-- JobOverError              the job ended before this worker entered it

A user's mistake is a `ValueError` too and ends a command with exit status 2; the rest end it with 1.
"""


class HoldtrueError(Exception):
    """Root of every error that holdtrue raises on purpose."""


class PlanError(HoldtrueError, ValueError):
    """A plan, a division of the batch or a setting that cannot be."""


class MappingError(HoldtrueError, ValueError):
    """A mapping that leaves a virtual node without a worker or gives it two."""


class DataError(HoldtrueError, ValueError):
    """A data source that cannot be divided as the plan asks."""


class UsageError(HoldtrueError, ValueError):
    """The user's loop or command breaks a rule of the API."""


class NumericsError(UsageError):
    """Something in the model or the loop that cannot be bit-identical at this level of numerics."""


class JoinRefusedError(UsageError):
    """A worker that came to a running job would do something else than the job does: it ends, and the job goes on without it."""


class CheckpointError(HoldtrueError):
    """A checkpoint that is missing, damaged or belongs to another plan."""


class DivergenceError(HoldtrueError):
    """Replicas, or two runs, differ where they must not."""


class NonFiniteError(HoldtrueError):
    """A loss that is not a finite number, in a run that stops on one."""


class GroupError(HoldtrueError):
    """The group of workers can not go on together."""


class WorkerLostError(GroupError):
    """A worker died or was cut off."""


class CallMismatchError(GroupError):
    """Workers are at different calls of the script."""


class WaitTimeoutError(GroupError):
    """A bounded wait ran out; the message names what was awaited."""


class ExpelledError(GroupError):
    """This worker is no longer a member of its job: it ends, and writes nothing."""


class JobOverError(GroupError):
    """The job ended before this worker entered it."""
