"""Samples: what fine-tuning sees, one for each call that the loop would make for a trajectory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One call: the model sees `context` and learns to write `completion`, the string that stops the call included.

    `ends` says that the text is over after the completion, where the tokenizer's end token follows. `trace` names
    the trace a sample comes from: samples of one trace share most of their contexts, which training makes use of.
    """

    context: str
    completion: str
    role: str
    trace: str
    ends: bool = False


def rft_sample(question: str, text: str, trace: str) -> Sample:
    """The original text of a trace as one sample, for the control model (paper, section 4: RFT)."""
    return Sample(question, text, "sequential", trace, ends=True)
