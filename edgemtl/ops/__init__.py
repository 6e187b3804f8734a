"""Operators that torch lacks, in plain torch, so that every exporter and runtime takes them."""

from edgemtl.ops.deform_conv2d import deform_conv2d, deform_sample

__all__ = ["deform_conv2d", "deform_sample"]
