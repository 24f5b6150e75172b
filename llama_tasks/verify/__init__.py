"""Proofs: the native model equals transformers' (`certificate`); batches do not change the mathematics (`recipe`)."""

from __future__ import annotations

from llama_tasks.verify.certificate import TOLERANCE, Certificate, Line, apart, gradients_apart, verify

__all__ = [
    "TOLERANCE",
    "Certificate",
    "Line",
    "apart",
    "gradients_apart",
    "verify",
]
