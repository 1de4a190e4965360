"""Traces of jobs: the paper's, Gavel's, Philly's, our own, and made ones.

in:  a file (or its text), or the options of the generator
out: jobs, or an error that points at line and column
"""

from ._gavel import parse_gavel_trace, parse_throughputs
from ._generate import GeneratorOptions, generate_trace, parse_generator
from ._own import format_json_trace, parse_csv_trace, parse_json_trace
from ._paper import parse_paper_trace
from ._philly import parse_philly_trace
from ._read import FORMATS, Format, TraceOptions, adapt_jobs, read_trace

__all__ = [
    "FORMATS",
    "Format",
    "GeneratorOptions",
    "TraceOptions",
    "adapt_jobs",
    "format_json_trace",
    "generate_trace",
    "parse_csv_trace",
    "parse_gavel_trace",
    "parse_generator",
    "parse_json_trace",
    "parse_paper_trace",
    "parse_philly_trace",
    "parse_throughputs",
    "read_trace",
]
