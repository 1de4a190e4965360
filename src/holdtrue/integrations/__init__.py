"""Other libraries' trainers on virtual nodes; each is a package that needs its extra.

from holdtrue.integrations.transformers import Trainer      # pip install holdtrue[transformers]
"""

__all__: list[str] = []
