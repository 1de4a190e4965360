"""Three trainings with published digests, so that a new kind of hardware can be checked in a minute.

    holdtrue verify --reference      runs them for `STEPS` steps and compares every step with `digests/NAME.json`

    cnn           convolutions, batch norm, dropout; SGD with momentum, cosine schedule
    lstm          embedding, two layers of LSTM with dropout; Adam, clipping
    transformer   causal attention with dropout, layer norm, GELU; AdamW, warm-up, clipping

Data and initial weights are made of counter-based random numbers: nothing is read. No torch is imported here; the
modules `_cnn`, `_lstm` and `_transformer` are scripts, run as `python -m holdtrue.reference._cnn`.
"""

from ._published import REFERENCES, STEPS, Reference, published

__all__ = ["REFERENCES", "STEPS", "Reference", "published"]
