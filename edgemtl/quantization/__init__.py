"""From float weights to int8: where quantizers stand, calibration, fine-tuning, and the proofs about them."""
