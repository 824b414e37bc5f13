"""torch itself: nothing is exported. Modes of `compile` are its own."""

CATALOGUE = {
    "torch": {
        "needs": ["torch"],
        "extra": "",
        "devices": ["cpu", "cuda", "xpu", "mps"],
        "dtypes": ["fp32", "tf32", "bf16", "fp16"],
        "quantise": ["none"],
    }
}
