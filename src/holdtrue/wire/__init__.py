"""What the processes of a job say to each other, version 1.

    launcher -> worker   WorkerEnvironment and settings, in environment variables
    worker -> launcher   reports, one JSON object a line, through a pipe
    launcher -> worker   a pipe that stays open as long as the launcher lives

No torch here, and nothing that was received is unpickled.
"""

from ._environment import WIRE_VERSION, WorkerEnvironment
from ._life import ORPHAN_WAIT_S, redirect_output, watch_life
from ._reports import (
    CheckpointReport,
    FailedReport,
    FinishedReport,
    JoinedReport,
    LogReport,
    MessageReport,
    Report,
    StartedReport,
    StepReport,
    decode_report,
    encode_report,
)
from ._sender import ReportSender
from ._settings import (
    CLI_VARIABLE,
    SETTING_VARIABLES,
    Setting,
    decode_cli_settings,
    encode_settings,
    parse_setting,
)
from ._text import escape_text

__all__ = [
    "CLI_VARIABLE",
    "ORPHAN_WAIT_S",
    "SETTING_VARIABLES",
    "WIRE_VERSION",
    "CheckpointReport",
    "FailedReport",
    "FinishedReport",
    "JoinedReport",
    "LogReport",
    "MessageReport",
    "Report",
    "ReportSender",
    "Setting",
    "StartedReport",
    "StepReport",
    "WorkerEnvironment",
    "decode_cli_settings",
    "decode_report",
    "encode_report",
    "encode_settings",
    "escape_text",
    "parse_setting",
    "redirect_output",
    "watch_life",
]
