"""Programs that serve a model which exists: prediction to disk on virtual nodes, export with proof.

python -m holdtrue.inference predict MODEL DATA --out FOLDER     what `holdtrue predict` starts as a job
python -m holdtrue.inference export MODEL DATA --to onnx,torch   what `holdtrue export` runs
"""

from ._compare import Agreement, compare_outputs, count_ulps
from ._data import load_data
from ._models import LoadedModel, load_model

__all__ = ["Agreement", "LoadedModel", "compare_outputs", "count_ulps", "load_data", "load_model"]
