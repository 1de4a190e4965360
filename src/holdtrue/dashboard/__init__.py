"""A web page of jobs, runs and a shared cluster: mappings, losses, throughput, resizes, who has which devices.

Works offline; asks nobody but this process.

in:  the user's jobs (`launch`), their run directories (`record`), their controllers (`elastic.ControlClient`), the
     cluster's scheduler (`scheduler.ClusterClient`)
out: one page, and JSON that it draws: small whatever the length of a run, and live by server-sent events

No torch. `serve_dashboard` loads the web framework; importing this package does not.
"""

from ._curves import Curve, downsample
from ._facts import Facts, Observatory
from ._start import serve_dashboard
from ._steplog import StepLog

__all__ = ["Curve", "Facts", "Observatory", "StepLog", "downsample", "serve_dashboard"]
